"""Timelines of whole videos against their annotated segments, and the settings that suit a model.

    actionrec evaluate --timeline --model runs/mine --dataset csv --root data.csv

Every window that any of the tried hops needs is scored once. Hop, smoothing and lowest score are
chosen together on the training videos, then the shortest length and the gap to bridge, by the mean
of two figures: the mean average precision, which a low score costs little, and the share of frames
with the right label, which false segments cost much. The default settings stay unless the gain is
clear: 3.5 times its standard error, by a jackknife over parts of the training videos, because it is
that of the best of many settings.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product

import numpy as np

from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.errors import ActionrecError, Failure, VideoError
from actionrec.evaluation.accuracy import Evaluation, EvaluationOfSeveralLabels
from actionrec.evaluation.detection import (
    THRESHOLDS,
    Detection,
    TimelineEvaluation,
    TimelineFigures,
    average_precisions,
    frame_hits,
)
from actionrec.evaluation.scoring import relative_names
from actionrec.models.inference import BATCH_SIZE, InferenceModel
from actionrec.prediction.timeline import (
    STEP_TOPK,
    SlidingWindows,
    Step,
    default_settings,
    find_segments,
    rounded_clock,
    score_windows,
    smoothed,
    step_scores,
)
from actionrec.prediction.timeline_settings import TimelineSettings
from actionrec.prediction.videos import best, given
from actionrec.progress import track
from actionrec.video.reader import VideoReader
from actionrec.video.segments import frames_of

logger = logging.getLogger("actionrec")

# In lengths of a clip.
# Windows that overlap: with those side by side, the best hop is the one whose steps happen to begin
# with the training segments. The default comes first, because the first of equals is chosen.
HOPS = (0.5, 0.25)
SMOOTHINGS = (0.0, 1.0, 2.0, 4.0)
LENGTHS = GAPS = (0.0, 0.5, 1.0, 2.0)
# Of the steps' best scores: what is high depends on the number of classes and on the training.
QUANTILES = tuple(step / 20 for step in range(1, 20))
# Into so many parts the training videos are divided, or into more where there are more of them.
PARTS = 10
# Standard errors: the best of some 170 settings gains as much by luck once in twenty (Bonferroni).
CLEAR = 3.5


@dataclass(frozen=True)
class EvaluationInTime(Evaluation):
    """The accuracies on segments, and how well these are found in whole videos."""

    timeline: TimelineEvaluation


@dataclass(frozen=True)
class EvaluationOfSeveralLabelsInTime(EvaluationOfSeveralLabels, EvaluationInTime):
    """The same where a segment may have several labels."""


def in_time(
    evaluation: Evaluation, timeline: TimelineEvaluation, failures: Sequence[Failure]
) -> EvaluationInTime:
    """The evaluation with that of timelines, of which `failures` could not be scored."""
    several = isinstance(evaluation, EvaluationOfSeveralLabels)
    kind = EvaluationOfSeveralLabelsInTime if several else EvaluationInTime
    known = {failure.video for failure in evaluation.skipped}
    more = [failure for failure in failures if failure.video not in known]
    protocol = evaluation.protocol | {"timeline": True}
    skipped = [*evaluation.skipped, *more]
    values = vars(evaluation) | {"protocol": protocol, "skipped": skipped}
    return kind(**values, timeline=timeline)


@dataclass
class WindowScores:
    """The scores of a video's windows, for several hops, and its true segments."""

    name: str
    video: VideoReader
    truths: list[Detection]
    windows: dict[float | None, SlidingWindows]
    rows: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)

    def steps(self, hop: float | None, smoothing: float, model: InferenceModel) -> list[Step]:
        """The steps of the timeline with these settings."""
        sliding, seconds = self.windows[hop], rounded_clock(self.video)
        windows = ((clip[0], clip[-1] + 1, self.rows[tuple(clip)]) for clip in sliding)
        scored = step_scores(windows, sliding.steps)
        timed = ((seconds(start), seconds(end), row) for start, end, row in scored)
        return [
            Step(start, end, best(row, model.labels, STEP_TOPK), given(model, row))
            for start, end, row in smoothed(timed, smoothing)
        ]


@dataclass(frozen=True)
class Part:
    """A part of a video, from `start` to before `end` in seconds, that divides no segment."""

    video: str
    start: float
    end: float

    def has(self, each: Detection) -> bool:
        """Whether the middle of a segment is in it."""
        return each.video == self.video and self.start <= (each.start + each.end) / 2 < self.end


def parts_of(scored: Sequence[WindowScores]) -> list[Part]:
    """The parts of the videos that have segments: whole ones, or where they are few, several of
    each with about the same number of segments."""
    parts = []
    for each in scored:
        begins, until = [], -1.0
        for truth in sorted(each.truths, key=lambda truth: truth.start):
            if truth.start >= until:
                begins.append(truth.start)
            until = max(until, truth.end)
        if not begins:
            continue
        number = min(len(begins), -(-PARTS // len(scored)))
        firsts = [begins[len(begins) * part // number] for part in range(1, number)]
        edges = [-float("inf"), *firsts, float("inf")]
        parts += [Part(each.name, *edge) for edge in pairwise(edges)]
    return parts


def score_files(
    model: InferenceModel,
    videos: Sequence[LabelledVideo],
    labels: Sequence[str],
    hops: Iterable[float | None],
    title: str,
) -> tuple[list[WindowScores], list[Failure]]:
    """The scores of all windows of the files of `videos`, and the files that can't be read.

    Args:
        model: The network.
        videos: Segments, or whole videos.
        labels: The names of their labels.
        hops: Of the timelines that are to be made.
        title: Words before the progress bar.
    """
    files: dict[str, list[LabelledVideo]] = {}
    for video in videos:
        files.setdefault(str(video.path), []).append(video)
    scored, failures = [], []
    for name, its in files.items():
        try:
            reader = VideoReader(its[0].path)
            truths, is_there = [], False
            for each in its:
                try:
                    start, end = _times(reader, each)
                except VideoError as error:
                    failures.append(Failure(str(each.source), str(error)))
                    continue
                is_there = True
                truths += [Detection(name, labels[own], start, end) for own in each.all_labels]
            if not is_there:
                continue
            windows = {hop: SlidingWindows(model.config.sampling, reader, hop) for hop in hops}
            scores = WindowScores(name, reader, truths, windows)
            union = {tuple(clip) for sliding in windows.values() for clip in sliding}
            clips = [list(clip) for clip in sorted(union)]
            batches = score_windows(model, reader, clips)
            total = -(-len(clips) // BATCH_SIZE)
            rows = [row for _, batch in track(batches, title, total) for row in batch]
            scores.rows = dict(zip(map(tuple, clips), rows, strict=True))
            scored.append(scores)
        except VideoError as error:
            failures.append(Failure(name, str(error)))
    return scored, failures


def _times(reader: VideoReader, video: LabelledVideo) -> tuple[float, float]:
    """Start and end of a segment or of a whole video.

    Raises:
        VideoError: the segment is not in its video.
    """
    if video.segment is None:
        return float(reader.times[0]), float(reader.times[-1])
    frames_of(reader, video.source)
    start, end = video.segment
    return start, min(end, float(reader.times[-1]))


def require_labels(scored: Sequence[WindowScores], side: str) -> None:
    """Raise ActionrecError if no segment of a side has a label, of those that may have several."""
    if not any(each.truths for each in scored):
        raise ActionrecError(
            f"No segment of the {side} videos has a label, so there is nothing to find in time; "
            "fill some in."
        )


def figures(
    scored: Sequence[WindowScores], model: InferenceModel, settings: TimelineSettings
) -> TimelineFigures:
    """How well actions are found in videos with these settings."""
    found = {each.name: detections(each, model, settings) for each in scored}
    return _figures(scored, found, model.decision.multi_label)


def detections(
    scores: WindowScores, model: InferenceModel, settings: TimelineSettings
) -> list[Detection]:
    """The segments of a video's timeline."""
    steps = scores.steps(settings.hop, settings.smoothing, model)
    return _found(scores, steps, settings, model.decision.multi_label)


def _found(
    scores: WindowScores, steps: Sequence[Step], settings: TimelineSettings, multi_label: bool
) -> list[Detection]:
    return [
        Detection(scores.name, each.label, each.start, each.end, each.score)
        for each in find_segments(steps, settings, multi_label)
    ]


def _figures(
    scored: Sequence[WindowScores],
    found: dict[str, list[Detection]],
    multi_label: bool,
    without: Part | None = None,
) -> TimelineFigures:
    truths = [truth for each in scored for truth in each.truths]
    everything = [segment for each in found.values() for segment in each]
    if without:
        truths, everything = (
            [each for each in side if not without.has(each)] for side in (truths, everything)
        )
    precisions = average_precisions(truths, everything)
    table = np.array(list(precisions.values()))
    frames = []
    for each in scored:
        times = each.video.times[:-1]
        if without and without.video == each.name:
            times = times[(times < without.start) | (times >= without.end)]
        frames.append(frame_hits(times, each.truths, found[each.name], multi_label))
    right, annotated = (np.concatenate(each) for each in zip(*frames, strict=True))
    return TimelineFigures(
        mean_ap={
            f"{threshold:g}": round(float(column.mean()), 6)
            for threshold, column in zip(THRESHOLDS, table.T, strict=True)
        },
        mean=round(float(table.mean()), 6),
        per_class={label: round(float(each.mean()), 6) for label, each in precisions.items()},
        frame_accuracy=round(float(right.mean()), 6),
        # A segment can't be without a frame, but the files' videos may.
        annotated_frame_accuracy=round(float(right[annotated].mean()) if annotated.any() else 0, 6),
        frames=len(right),
        segments={"annotated": len(truths), "found": len(everything)},
    )


def tune(scored: Sequence[WindowScores], model: InferenceModel, clip: float) -> TimelineSettings:
    """The settings with the highest mean of mean average precision and frame accuracy, of equals
    the first; the defaults if the gain over them is not clear.

    Args:
        scored: Training videos, scored with `hops_of(clip)`.
        model: That of the scores. Where it has several labels a video, the lowest score is the
            threshold of each, and not chosen.
        clip: Seconds that a clip lasts.
    """
    several = model.decision.multi_label
    best_settings, highest, best_steps = default_settings(model), -1.0, []
    for hop, smoothing in track(
        list(product(hops_of(clip), SMOOTHINGS)), "tuning the timeline", transient=True
    ):
        smoothing = round(smoothing * clip, 3)
        steps = [each.steps(hop, smoothing, model) for each in scored]
        best_scores = [step.top[0].score for each in steps for step in each]
        limits = [] if several else np.quantile(best_scores, QUANTILES).round(3).tolist()
        for min_score in dict.fromkeys([0.0, *limits]):
            settings = TimelineSettings(hop, smoothing, min_score)
            if (value := _value(scored, steps, settings, several)) > highest:
                best_settings, highest, best_steps = settings, value, steps
    chosen = best_settings
    for length, gap in product(LENGTHS, GAPS):
        seconds = {"min_length": round(length * clip, 3), "bridge": round(gap * clip, 3)}
        settings = replace(chosen, **seconds)
        if (value := _value(scored, best_steps, settings, several)) > highest:
            best_settings, highest = settings, value
    gain, error = gain_over_defaults(scored, model, best_settings, hops_of(clip)[0])
    if gain > CLEAR * error:
        return best_settings
    logger.info(
        "The default settings of the timeline stay: the best ones on the training videos gain "
        "%.1f +- %.1f points there, which is not clear; more of them may help.",
        *(100 * gain, 100 * error),
    )
    return default_settings(model)


def gain_over_defaults(
    scored: Sequence[WindowScores], model: InferenceModel, settings: TimelineSettings, hop: float
) -> tuple[float, float]:
    """By how much settings are better than the defaults, and the standard error of that by the
    jackknife (Efron & Tibshirani 1993, chapter 11), infinite where the videos have one part only.

    Args:
        hop: In place of that of the defaults, for which the windows are not scored.
    """
    several = model.decision.multi_label
    sides = []
    for each in (settings, replace(default_settings(model), hop=hop)):
        steps = [video.steps(each.hop, each.smoothing, model) for video in scored]
        sides.append(_all_found(scored, steps, each, several))

    def gain(without: Part | None = None) -> float:
        better, plain = (_mean_of(_figures(scored, found, several, without)) for found in sides)
        return better - plain

    # Without its only segment, nothing is left to find.
    parts = parts_of(scored)
    if len(parts) < 2:
        return gain(), float("inf")
    left = np.array([gain(part) for part in parts])
    variance = (len(parts) - 1) / len(parts) * ((left - left.mean()) ** 2).sum()
    return gain(), float(np.sqrt(variance))


def hops_of(clip: float) -> list[float]:
    """The hops that are tried, in seconds, for a clip that lasts so long."""
    return [round(hop * clip, 3) for hop in HOPS]


def _value(
    scored: Sequence[WindowScores],
    steps: Sequence[list[Step]],
    settings: TimelineSettings,
    several: bool,
) -> float:
    return _mean_of(_figures(scored, _all_found(scored, steps, settings, several), several))


def _all_found(
    scored: Sequence[WindowScores],
    steps: Sequence[list[Step]],
    settings: TimelineSettings,
    several: bool,
) -> dict[str, list[Detection]]:
    return {
        each.name: _found(each, its, settings, several)
        for each, its in zip(scored, steps, strict=True)
    }


def _mean_of(result: TimelineFigures) -> float:
    return (result.mean + result.frame_accuracy) / 2


def clip_seconds(model: InferenceModel, videos: Sequence[LabelledVideo]) -> float:
    """The seconds that a clip of the model lasts in the first of the videos that can be read.

    Raises:
        ActionrecError: none can be read.
    """
    reason = ""
    for video in videos:
        try:
            fps = VideoReader(video.path).fps
            return model.config.sampling.at(fps).span / fps
        except VideoError as error:
            reason = reason or str(error)
    raise ActionrecError(f"Not one video of the timelines can be read: {reason}")


def evaluate_timelines(
    model: InferenceModel, dataset: VideoDataset, stored: TimelineSettings | None = None
) -> tuple[TimelineEvaluation, list[Detection], list[Failure]]:
    """Choose settings on the training videos of a data set and measure them on its validation
    videos.

    Returns the figures, the segments that were found, under the names of `relative_names`, and the
    files and segments that can't be read.

    Args:
        model: The network.
        dataset: Without training videos, the settings are the stored ones.
        stored: Settings that were chosen before; None for the defaults.

    Raises:
        ActionrecError: no file of a side can be read.
    """
    defaults = default_settings(model)
    settings, tuned_on, failures = stored or defaults, "", []
    if dataset.train:
        clip = clip_seconds(model, dataset.train)
        title, hops = "scoring to tune", hops_of(clip)
        scored, failures = score_files(model, dataset.train, dataset.labels, hops, title)
        if not scored:
            raise ActionrecError(f"No training video can be scored: {failures[0].error}")
        require_labels(scored, "training")
        settings = tune(scored, model, clip)
        segments = sum(len(each.truths) for each in scored)
        tuned_on = f"{segments} training segments of {len(scored)} videos"
    hops = list(dict.fromkeys([settings.hop, defaults.hop]))
    scored, failed = score_files(model, dataset.val, dataset.labels, hops, "scoring timelines")
    if not scored:
        raise ActionrecError(f"No validation video can be scored: {failed[0].error}")
    require_labels(scored, "validation")
    names = relative_names(dataset.val, dataset)
    short = {str(each.path): name for each, name in zip(dataset.val, names, strict=True)}
    found = [
        replace(each, video=short[each.video])
        for video in scored
        for each in detections(video, model, settings)
    ]
    measured, plain = (figures(scored, model, each) for each in (settings, defaults))
    evaluation = TimelineEvaluation(
        **vars(measured), settings=settings, tuned_on=tuned_on, with_defaults=plain
    )
    return evaluation, found, failures + failed
