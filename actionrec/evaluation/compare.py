"""Whether one model is better than another on the same videos, or the difference may be chance.

    actionrec evaluate --model runs/a/last.safetensors --dataset demo --save-logits a.safetensors
    actionrec evaluate --model runs/b/last.safetensors --dataset demo --save-logits b.safetensors
    actionrec compare a.safetensors b.safetensors
    actionrec compare --a a1.safetensors a2.safetensors --b b1.safetensors b2.safetensors

Each side may have several files, one a training seed; A and B are then the means of their files.
Both tests are at the level of 5 %:

    bootstrap   of the difference in Top-1. Whole videos are resampled, the same for A and B, since
                the clips of a video are alike; the files of each side are resampled too, since the
                seed of a training moves its accuracy. The difference is outside chance if the 95 %
                interval leaves out 0.
    McNemar     of the video-level Top-1 of each pair of files: of the videos that only one of the
                two classifies correctly, each should have half (McNemar, Psychometrika 1947).
                Exact below 25 such videos, otherwise chi-square with continuity correction.

With one file a side both tests are about these two models: whether other videos of the same kind
would put them in the other order. They say nothing of two ways to train, because the luck of the
seeds is in no interval. With few files it is there in part. How often the bootstrap of the
clip-level Top-1 sees a difference between two sides of the same kind, in 400 simulations each of
300 videos of 4 clips, where the Top-1 of runs has a mean of 79 % and a standard deviation of 2.4
points:

    files a side     1      2      3      5     10
    false alarms   38 %   14 %    7 %    4 %    3 %
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actionrec.errors import ActionrecError
from actionrec.evaluation.accuracy import INTERVAL, resampled_sums
from actionrec.evaluation.logits import ClipLogits

LEVEL = 0.05
FEWEST_FOR_CHI_SQUARE = 25
ENOUGH_RUNS = 5


@dataclass(frozen=True)
class Difference:
    """Top-1 in [0, 1] of A and of B, B - A, and the interval [low, high] of 95 % confidence."""

    a: float
    b: float
    difference: float
    interval: list[float]
    outside_chance: bool


@dataclass(frozen=True)
class McNemar:
    """The numbers of videos that only A, or only B, classifies correctly, and the two-sided
    p-value. `test` is "exact" or "chi-square"."""

    only_a: int
    only_b: int
    p: float
    test: str


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`; `mcnemar` has one entry a pair of files, and `limits` is what so few
    files can't show, "" if there are enough."""

    clip_top1: Difference
    video_top1: Difference
    mcnemar: list[McNemar]
    videos: int
    verdict: str
    limits: str


def compare(a: Sequence[ClipLogits], b: Sequence[ClipLogits]) -> Comparison:
    """Compare the models of `a` with as many of `b`, on the same videos (see `load_comparable`)."""
    # The numbers (videos,) of correctly classified clips and videos, for each file.
    clips_a, clips_b = (
        [np.bincount(each.video_of_clip, weights=each.clip_ranks == 0) for each in side]
        for side in (a, b)
    )
    videos_a, videos_b = ([logits.video_ranks == 0 for logits in side] for side in (a, b))
    clip_top1 = difference(clips_a, clips_b, a[0].counts)
    video_top1 = difference(videos_a, videos_b, np.ones_like(a[0].counts))
    tests = [
        mcnemar(int((in_a & ~in_b).sum()), int((in_b & ~in_a).sum()))
        for in_a, in_b in zip(videos_a, videos_b, strict=True)
    ]
    sentence = verdict(clip_top1, video_top1, tests)
    return Comparison(clip_top1, video_top1, tests, len(a[0].counts), sentence, limits(len(a)))


def difference(
    correct_a: Sequence[np.ndarray], correct_b: Sequence[np.ndarray], cases: np.ndarray
) -> Difference:
    """Top-1 of A and B from the number of cases (videos,) and, for each file, of correct ones."""
    columns = np.stack([cases, *correct_a, *correct_b], axis=1)
    n, *sums = columns.sum(axis=0)
    a, b = np.mean(sums[: len(correct_a)]) / n, np.mean(sums[len(correct_a) :]) / n

    sums = resampled_sums(columns)
    top1 = sums[:, 1:] / sums[:, :1]
    generator = np.random.default_rng(1)
    top1_a = mean_of_resampled_files(top1[:, : len(correct_a)], generator)
    top1_b = mean_of_resampled_files(top1[:, len(correct_a) :], generator)
    low, high = np.percentile(top1_b - top1_a, INTERVAL).tolist()
    return Difference(float(a), float(b), float(b - a), [low, high], low > 0 or high < 0)


def mean_of_resampled_files(top1: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means (resamples,) over files drawn with replacement from each row of (resamples, files)."""
    draws = generator.integers(top1.shape[1], size=top1.shape)
    return np.take_along_axis(top1, draws, axis=1).mean(axis=1)


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """McNemar's test, two-sided, from the numbers of videos that one side alone has right."""
    from scipy.stats import binomtest, chi2

    n = only_a + only_b
    if n < FEWEST_FOR_CHI_SQUARE:
        p = float(binomtest(only_a, n).pvalue) if n else 1.0
        return McNemar(only_a, only_b, p, "exact")
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / n
    return McNemar(only_a, only_b, float(chi2.sf(statistic, df=1)), "chi-square")


def verdict(clip: Difference, video: Difference, tests: Sequence[McNemar]) -> str:
    """One sentence: which side is ahead, and whether that is outside chance at 5 %.

    With one file a side it speaks of the two models, otherwise of the runs.
    """
    low, high = (100 * end for end in clip.interval)
    clip_chance = "is outside chance at 5 %" if clip.outside_chance else "may be chance"
    significant = sum(test.p < LEVEL for test in tests)
    if len(tests) == 1:
        video_chance = "is outside chance" if significant else "may be chance"
        video_chance += f" (McNemar, p = {tests[0].p:.2g})"
    else:
        video_chance = f"is outside chance in {significant} of {len(tests)} pairs (McNemar)"
    return (
        f"{'Of these two models' if len(tests) == 1 else f'On the mean of {len(tests)} runs'}, "
        f"B is {standing(clip)} in clip-level Top-1 (95 % interval of B - A: {low:+.2f} to "
        f"{high:+.2f}), which {clip_chance}, and {standing(video)} in video-level Top-1, which "
        f"{video_chance}."
    )


def limits(runs: int) -> str:
    """What this number of runs a side can't show, in a sentence; "" if there are enough."""
    if runs >= ENOUGH_RUNS:
        return ""
    reason = (
        "One run a side says nothing of two ways to train: the luck of the seeds is in no interval"
        if runs == 1
        else f"{runs} runs a side show little of the luck of seeds: intervals may be too narrow"
    )
    return f"{reason}; train {ENOUGH_RUNS} seeds or more of each, and name them with --a and --b."


def standing(top1: Difference) -> str:
    """The position of B relative to A, in points of percent."""
    points = 100 * top1.difference
    if points == 0:
        return "level with A"
    return f"{abs(points):.2f} points {'ahead of' if points > 0 else 'behind'} A"


def load_comparable(paths: Sequence[Path]) -> list[ClipLogits]:
    """Load files of logits of the same videos, classes, clips and protocol.

    Raises:
        ActionrecError: a file holds no logits, or differs from the first in more than the model.
    """
    loaded = [ClipLogits.load(path) for path in paths]
    for path, logits in zip(paths, loaded, strict=True):
        if logits.multi_label:
            raise ActionrecError(
                f"{path} has several labels a video, and Top-1 is compared of one; compare the "
                "mAP that `actionrec evaluate` prints."
            )
    for path, logits in zip(paths[1:], loaded[1:], strict=True):
        reason = reason_against(loaded[0], logits)
        if reason:
            raise ActionrecError(
                f"{paths[0]} and {path} can't be compared: {reason}; evaluate both models on the "
                "same videos with the same flags."
            )
    return loaded


def reason_against(a: ClipLogits, b: ClipLogits) -> str | None:
    """Why two files of logits can't be compared, None if they can."""
    for key in a.protocol | b.protocol:
        ours, theirs = a.protocol.get(key), b.protocol.get(key)
        if key != "model" and ours != theirs:
            return f"{key} is {ours} in the first and {theirs} in the second"
    if a.labels != b.labels:
        return "their classes differ"
    if a.videos != b.videos:
        alone = sorted(set(a.videos) ^ set(b.videos)) or ["none; their order differs"]
        return f"their videos differ (only in one of them: {alone[0]})"
    if a.segments != b.segments:
        return "they have other segments of the same videos"
    if not (np.array_equal(a.truths, b.truths) and np.array_equal(a.counts, b.counts)):
        return "the same videos have other labels or other numbers of clips"
    return None
