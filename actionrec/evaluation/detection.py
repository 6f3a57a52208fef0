"""How well actions are found in time: mean average precision at temporal IoU, and the labels of
frames.

    actionrec evaluate --timeline --model runs/mine --dataset csv --root data.csv

Average precision is that of ActivityNet's detection task (Caba Heilbron et al., CVPR 2015): the
detections of a class in all videos, by falling score, are each matched with the segment of their
video that overlaps most and is not taken yet; a temporal IoU at or above the threshold is a hit.
Precision is made monotone and summed over recall. The mean is over the classes with segments.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from actionrec.prediction.timeline_settings import DEFAULTS, TimelineSettings
from actionrec.video.segments import ROUNDING

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Detection:
    """A segment of a video with its label, times in seconds; `score` of those that were found."""

    video: str
    label: str
    start: float
    end: float
    score: float = 1.0


@dataclass(frozen=True)
class TimelineFigures:
    """How well actions are found in time.

    Where a segment may have several labels, a frame is right if it has all of its labels and no
    others.

    Attributes:
        mean_ap: Mean average precision in [0, 1] at each temporal IoU, such as "0.5".
        mean: Its mean over the thresholds.
        per_class: The mean over the thresholds of each class.
        frame_accuracy: Share of all frames with the right label, none where none is annotated.
        annotated_frame_accuracy: The same of the frames inside of annotated segments.
        frames: The number of frames.
        segments: The number of annotated segments, and of those that were found.
    """

    mean_ap: dict[str, float]
    mean: float
    per_class: dict[str, float]
    frame_accuracy: float
    annotated_frame_accuracy: float
    frames: int
    segments: dict[str, int]


@dataclass(frozen=True)
class TimelineEvaluation(TimelineFigures):
    """The figures on the validation videos with `settings`, which were chosen on `tuned_on`, "" if
    they were not chosen now; and those with the defaults, for comparison.
    """

    settings: TimelineSettings = DEFAULTS
    tuned_on: str = ""
    with_defaults: TimelineFigures | None = None


def average_precisions(
    truths: Iterable[Detection],
    found: Iterable[Detection],
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, np.ndarray]:
    """The average precision (thresholds,) of each class that has true segments, by label."""
    true_of, found_of = (_by_label(each) for each in (truths, found))
    return {
        label: average_precision(true_of[label], found_of[label], thresholds)
        for label in sorted(true_of)
    }


def average_precision(
    truths: Sequence[Detection], found: Sequence[Detection], thresholds: Sequence[float]
) -> np.ndarray:
    """The average precision (thresholds,) of the detections of one class."""
    in_order = sorted(found, key=lambda each: -each.score)
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, truth in enumerate(truths):
        numbers[truth.video].append(number)
    times = np.array([(truth.start, truth.end) for truth in truths])
    hits = np.zeros((len(thresholds), len(in_order)), bool)
    taken = np.zeros((len(thresholds), len(truths)), bool)
    for position, each in enumerate(in_order):
        here = np.array(numbers.get(each.video, []), int)
        if not len(here):
            continue
        overlaps = temporal_iou((each.start, each.end), times[here])
        best_first = np.argsort(-overlaps, kind="stable")
        for row, threshold in enumerate(thresholds):
            for index in best_first[overlaps[best_first] >= threshold]:
                if not taken[row, here[index]]:
                    taken[row, here[index]] = hits[row, position] = True
                    break
    return np.array([_area(row, len(truths)) for row in hits])


def temporal_iou(segment: tuple[float, float], others: np.ndarray) -> np.ndarray:
    """The intersection over union (n,) of a segment with `others` (n, 2), starts and ends."""
    start, end = segment
    shared = np.minimum(end, others[:, 1]) - np.maximum(start, others[:, 0])
    shared = np.maximum(shared, 0)
    union = (end - start) + (others[:, 1] - others[:, 0]) - shared
    return shared / np.maximum(union, 1e-12)


def _area(hits: np.ndarray, truths: int) -> float:
    """The area below monotone precision over recall, for detections by falling score."""
    if not len(hits):
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    return float(monotone[hits].sum() / truths)


def frame_hits(
    times: np.ndarray,
    truths: Collection[Detection],
    found: Collection[Detection],
    multi_label: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Of the frames of one video, shown at `times` (frames,): whether each has the right label,
    and whether it has one. Where true segments overlap, either label is right, or with several
    labels a frame, all of them together; where there is none, no label is."""
    annotated, labelled, right = np.zeros((3, len(times)), bool)
    if multi_label:
        differs = np.zeros(len(times), bool)
        true_of, found_of = (_by_label(each) for each in (truths, found))
        for label in true_of.keys() | found_of.keys():
            true, shown = np.zeros((2, len(times)), bool)
            for mask, segments in ((true, true_of[label]), (shown, found_of[label])):
                for each in segments:
                    mask[_frames_of(times, each)] = True
            annotated |= true
            differs |= true != shown
        return ~differs, annotated
    by_label: dict[str, list[slice]] = defaultdict(list)
    for each in truths:
        shown = _frames_of(times, each)
        annotated[shown] = True
        by_label[each.label].append(shown)
    for each in found:
        shown = _frames_of(times, each)
        labelled[shown] = True
        for true in by_label.get(each.label, []):
            right[max(shown.start, true.start) : min(shown.stop, true.stop)] = True
    return right | ~annotated & ~labelled, annotated


def _frames_of(times: np.ndarray, segment: Detection) -> slice:
    # Times rounded to milliseconds mean the frame beside them.
    edges = np.array([segment.start, segment.end]) - ROUNDING
    first, stop = np.searchsorted(times, edges)
    return slice(int(first), int(stop))


def _by_label(detections: Iterable[Detection]) -> dict[str, list[Detection]]:
    by_label: dict[str, list[Detection]] = defaultdict(list)
    for each in detections:
        by_label[each.label].append(each)
    return by_label
