"""Whether one model is better than another on the same videos, or whether that may be chance.

    actionrec evaluate --model runs/a/last.safetensors --dataset demo --save-logits a.safetensors
    actionrec evaluate --model runs/b/last.safetensors --dataset demo --save-logits b.safetensors
    actionrec compare a.safetensors b.safetensors
    actionrec compare --a a1.safetensors a2.safetensors --b b1.safetensors b2.safetensors

The files are what `actionrec evaluate --save-logits` wrote. With several, which differ by the seed
of the training, A and B stand for the means of their files. Two tests at the level of 5 %:

    bootstrap   of the difference in Top-1: whole videos are drawn with replacement, the same for A
                and B, because the clips of a video are alike; and so are the files of each, so that
                the interval also covers the luck of training (from few files it is too narrow).
                Outside chance if the 95 % interval leaves out 0.
    McNemar     of the video-level Top-1 of each pair of files: among the videos that only one of
                them has right, each should have half (McNemar, Psychometrika 1947). Exact below 25
                such videos, otherwise chi-square with continuity correction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actionrec.errors import ActionrecError
from actionrec.evaluation.scoring import INTERVAL, ClipLogits, resampled_sums

LEVEL = 0.05
FEWEST_FOR_CHI_SQUARE = 25


@dataclass(frozen=True)
class Difference:
    """Top-1 in [0, 1] of A and B, means over their files, and how far B is ahead.

    `interval` is [low, high] of 95 % confidence, by paired bootstrap.
    """

    a: float
    b: float
    difference: float
    interval: list[float]
    outside_chance: bool


@dataclass(frozen=True)
class McNemar:
    """Videos that only A, or only B, has right, and the probability, in [0, 1], of shares at
    least as uneven by chance. `test` is "exact" or "chi-square"."""

    only_a: int
    only_b: int
    p: float
    test: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; `mcnemar` has one entry a pair of files."""

    clip_top1: Difference
    video_top1: Difference
    mcnemar: list[McNemar]
    videos: int
    verdict: str


@dataclass(frozen=True, eq=False)
class Hits:
    """What one file has right: clips (videos,), as numbers, and videos (videos,), as 0 or 1."""

    clips: np.ndarray
    videos: np.ndarray

    @classmethod
    def of(cls, scored: ClipLogits) -> "Hits":
        return cls(
            clips=np.bincount(scored.video_of_clip, weights=scored.clip_ranks == 0),
            videos=(scored.video_ranks == 0).astype(float),
        )


def compare(a: Sequence[ClipLogits], b: Sequence[ClipLogits]) -> Comparison:
    """How far the models of `b` are ahead of those of `a`, which differ by the seed only.

    All have the same videos, in the same order (see `require_comparable`).
    """
    hits_a, hits_b = [Hits.of(each) for each in a], [Hits.of(each) for each in b]
    clips = a[0].counts
    clip_top1 = difference([hits.clips for hits in hits_a], [hits.clips for hits in hits_b], clips)
    video_top1 = difference(
        [hits.videos for hits in hits_a], [hits.videos for hits in hits_b], np.ones_like(clips)
    )
    tests = [mcnemar(one.videos, two.videos) for one, two in zip(hits_a, hits_b, strict=True)]
    return Comparison(
        clip_top1, video_top1, tests, len(clips), verdict(clip_top1, video_top1, tests)
    )


def difference(
    hits_a: Sequence[np.ndarray], hits_b: Sequence[np.ndarray], cases: np.ndarray
) -> Difference:
    """Top-1 of A and B from the right ones of the `cases` (videos,), an array a file."""
    columns = np.stack([cases, *hits_a, *hits_b], axis=1)
    n, *sums = columns.sum(axis=0)
    a, b = np.mean(sums[: len(hits_a)]) / n, np.mean(sums[len(hits_a) :]) / n

    drawn = resampled_sums(columns)
    shares = drawn[:, 1:] / drawn[:, :1]
    generator = np.random.default_rng(1)
    drawn_a = mean_of_drawn(shares[:, : len(hits_a)], generator)
    drawn_b = mean_of_drawn(shares[:, len(hits_a) :], generator)
    low, high = np.percentile(drawn_b - drawn_a, INTERVAL).tolist()
    return Difference(float(a), float(b), float(b - a), [low, high], low > 0 or high < 0)


def mean_of_drawn(shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means (resamples,) of the files of each row of `shares` (resamples, files), drawn with
    replacement."""
    draws = generator.integers(shares.shape[1], size=shares.shape)
    return np.take_along_axis(shares, draws, axis=1).mean(axis=1)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> McNemar:
    """McNemar's test, two-sided, of which videos (videos,) A and B have right."""
    only_a = int(((right_a > 0) & (right_b == 0)).sum())
    only_b = int(((right_b > 0) & (right_a == 0)).sum())
    return McNemar(only_a, only_b, *mcnemar_p(only_a, only_b))


def mcnemar_p(only_a: int, only_b: int) -> tuple[float, str]:
    """The two-sided probability in [0, 1] of counts at least as uneven, and the test's name."""
    n = only_a + only_b
    if n < FEWEST_FOR_CHI_SQUARE:
        tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
        return min(1.0, 2 * tail), "exact"
    chi_square = max(abs(only_a - only_b) - 1, 0) ** 2 / n
    # The upper tail of chi-square with one degree of freedom.
    return math.erfc(math.sqrt(chi_square / 2)), "chi-square"


def verdict(clip: Difference, video: Difference, tests: Sequence[McNemar]) -> str:
    """One sentence: who is ahead, and whether that is outside chance at 5 %."""
    low, high = (100 * end for end in clip.interval)
    is_chance = "is outside chance at 5 %" if clip.outside_chance else "may be chance"
    beyond = sum(test.p < LEVEL for test in tests)
    if len(tests) == 1:
        is_chance_too = "is outside chance" if beyond else "may be chance"
        is_chance_too += f" (McNemar, p = {tests[0].p:.2g})"
    else:
        is_chance_too = f"is outside chance in {beyond} of {len(tests)} pairs (McNemar)"
    return (
        f"B is {standing(clip)} in clip-level Top-1 (95 % interval of B - A: {low:+.2f} to "
        f"{high:+.2f}), which {is_chance}, and {standing(video)} in video-level Top-1, which "
        f"{is_chance_too}."
    )


def standing(found: Difference) -> str:
    """Where B stands, in points of percent."""
    points = 100 * found.difference
    if points == 0:
        return "level with A"
    return f"{abs(points):.2f} points {'ahead of' if points > 0 else 'behind'} A"


def require_comparable(first: Path, a: ClipLogits, other: Path, b: ClipLogits) -> None:
    """Refuse logits of other videos, classes, clips or protocols; only the model may differ.

    Raises:
        ActionrecError: says in what they differ.
    """
    remedy = "evaluate both models on the same videos with the same flags."
    for key in a.protocol | b.protocol:
        if key != "model" and a.protocol.get(key) != b.protocol.get(key):
            raise ActionrecError(
                f"{first} and {other} can't be compared, because {key} is {a.protocol.get(key)} "
                f"in the first and {b.protocol.get(key)} in the second; {remedy}"
            )
    if a.labels != b.labels:
        raise ActionrecError(f"{first} and {other} have other classes; {remedy}")
    if a.videos != b.videos:
        alone = sorted(set(a.videos) ^ set(b.videos)) or ["none; their order differs"]
        raise ActionrecError(
            f"{first} and {other} have other videos (in one of them only: {alone[0]}); {remedy}"
        )
    if not (np.array_equal(a.truths, b.truths) and np.array_equal(a.counts, b.counts)):
        raise ActionrecError(
            f"{first} and {other} have other labels, or other numbers of clips, for the same "
            f"videos; {remedy}"
        )


def load_comparable(paths: Sequence[Path]) -> list[ClipLogits]:
    """The logits in all files, which must be comparable to those in the first.

    Raises:
        ActionrecError: a file holds no logits, or they are of something else.
    """
    loaded = [ClipLogits.load(path) for path in paths]
    for path, scored in zip(paths[1:], loaded[1:], strict=True):
        require_comparable(paths[0], loaded[0], path, scored)
    return loaded
