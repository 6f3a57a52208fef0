"""Which action begins and ends when in a long video: `actionrec timeline match.mp4`.

A window, one clip long, slides over the video in steps of one hop. The video is decoded once, in
order, and only the windows that are being read and scored are in memory. A step is as long as a
hop and gets the mean score of the windows that contain its middle; the last window ends with the
video. Scores may be smoothed over time. Steps in a row with the same best class are a segment;
short ones may be left out, and gaps bridged (`TimelineSettings`). Where a video may have several
labels, steps in a row with a label above its threshold are one, and segments of two labels may
overlap.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
import torch

from actionrec.errors import VideoError
from actionrec.models.inference import BATCH_SIZE, InferenceModel
from actionrec.prediction.timeline_settings import DEFAULTS, TimelineSettings
from actionrec.prediction.videos import (
    ClipPrediction,
    LabelScore,
    Prediction,
    best,
    given,
    verdict,
)
from actionrec.progress import track
from actionrec.signals import stop_requests
from actionrec.video.address import VideoPath, video_path
from actionrec.video.reader import VideoReader, read_ahead
from actionrec.video.transforms import channels_first, stack_clips
from actionrec.video.windows import SlidingWindows

STEP_TOPK = 3  # classes kept of each step, for `--render` to draw
INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Step:
    """The best classes from `start` to `end`, in seconds, by the mean score of the windows, and the
    labels that are given; by default the best one."""

    start: float
    end: float
    top: list[LabelScore]
    labels: list[LabelScore] | None = None

    def shown(self, min_score: float) -> dict[str, float]:
        """The labels that are given and score at least `min_score`, with their scores."""
        labels = self.top[:1] if self.labels is None else self.labels
        return {entry.label: entry.score for entry in labels if entry.score >= min_score}


@dataclass(frozen=True, slots=True)
class Segment:
    """A class that is given from `start` to `end`, in seconds, and its mean score there."""

    label: str
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Timeline(Prediction):
    """The classes of a video through time.

    Attributes:
        top: the best classes of the whole video, by the mean score of its windows.
        clips: the windows.
        segments: the actions, in order; parts where no class scores enough have none.
        duration: length of the video in seconds.
        scored_until: seconds up to which the video was scored; `duration` if complete.
        incomplete: the reason why the timeline is incomplete; None if it is complete.
        steps: the scores through time, from which the segments follow.
    """

    segments: list[Segment]
    duration: float
    scored_until: float
    incomplete: str | None
    steps: list[Step]


def score_timeline(
    model: InferenceModel,
    path: str | VideoPath,
    settings: TimelineSettings | None = None,
) -> Timeline:
    """The classes of a video through time, with a progress bar on stderr.

    Ctrl-C, SIGTERM and damage in the middle of the file end it early; the timeline up to there is
    returned, and its `incomplete` gives the reason.

    Args:
        model: Its `topk` is the number of classes that are kept of each window.
        path: Video file.
        settings: By default `default_settings`. A hop longer than a window is quicker and skips the
            frames between windows: a step whose middle no window contains gets the scores of the
            window that it begins with.

    Raises:
        VideoError: the video can't be read at all.
    """
    settings = settings or default_settings(model)
    video = VideoReader(path)
    sliding = SlidingWindows(model.config.sampling, video, settings.hop)
    seconds = rounded_clock(video)
    clips: list[ClipPrediction] = []
    total = np.zeros(len(model.labels))
    incomplete = None

    def windows() -> Iterator[tuple[int, int, np.ndarray]]:
        nonlocal total, incomplete
        batches = track(
            score_windows(model, video, sliding),
            video_path(path).name,
            total=-(-len(sliding) // BATCH_SIZE),
            transient=True,
        )
        try:
            for frames, scores in batches:
                for (start, end), row in zip(frames, scores, strict=True):
                    total += row
                    top = best(row, model.labels, model.topk)
                    clips.append(ClipPrediction(seconds(start), seconds(end), top))
                    yield start, end, row
                if stop_requested():
                    incomplete = INTERRUPTED
                    return
        except VideoError as error:
            if not clips:
                raise
            incomplete = str(error)

    with stop_requests() as stop_requested:
        scored = step_scores(windows(), sliding.steps)
        timed = ((seconds(start), seconds(end), row) for start, end, row in scored)
        steps = [
            Step(start, end, best(row, model.labels, STEP_TOPK), given(model, row))
            for start, end, row in smoothed(timed, settings.smoothing)
        ]
    duration = seconds(len(video))
    if steps[-1].end >= duration and incomplete == INTERRUPTED:
        incomplete = None
    return Timeline(
        video=str(path),
        model=model.name,
        top=best(total / len(clips), model.labels, model.topk),
        **verdict(model, total / len(clips)),
        clips=clips,
        segments=find_segments(steps, settings, model.decision.multi_label),
        duration=duration,
        scored_until=steps[-1].end,
        incomplete=incomplete,
        steps=steps,
    )


def default_settings(model: InferenceModel) -> TimelineSettings:
    """How a timeline is made where nothing was tuned; each label of several has a threshold of its
    own, which is all that it must score."""
    return replace(DEFAULTS, min_score=0.0) if model.decision.multi_label else DEFAULTS


def rounded_clock(video: VideoReader) -> Callable[[int], float]:
    """A function from a frame's index to when it is shown, in seconds, rounded to milliseconds."""
    clock = video.clock()
    return lambda frame: round(clock(frame), 3)


def score_windows(
    model: InferenceModel, video: VideoReader, sliding: Iterable[list[int]]
) -> Iterator[tuple[list[tuple[int, int]], np.ndarray]]:
    """The first frame of some windows and the one after their last, and their scores
    (windows, classes), in order."""
    preprocessing = model.config.preprocessing
    size, square = (preprocessing.crop,) * 2, preprocessing.square(video.size)
    windows = zip(sliding, video.stream(iter(sliding), size, square), strict=True)

    def batches() -> Iterator[tuple[list[tuple[int, int]], torch.Tensor]]:
        while batch := list(islice(windows, BATCH_SIZE)):
            frames = [(clip[0], clip[-1] + 1) for clip, _ in batch]
            yield frames, stack_clips([channels_first(pixels) for _, pixels in batch])

    for frames, clips in read_ahead(batches()):
        yield frames, model.scores(clips)


def step_scores(
    windows: Iterable[tuple[int, int, np.ndarray]], steps: Sequence[int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Each step's first frame, the frame after its last one, and its scores (classes,): the mean
    of the windows that contain its middle or, if there is none, the window that it begins with.

    A step comes as soon as no later window can contain its middle. Where the windows end before
    the video does, the steps end as well.

    Args:
        windows: First frame, frame after the last one, and scores (classes,) of each window, in
            order.
        steps: The first frame of each step, and at the end the number of frames.
    """
    recent: deque[tuple[int, int, np.ndarray]] = deque()
    waiting = deque(pairwise(steps))

    def step(until: int) -> tuple[int, int, np.ndarray]:
        begin, end = waiting.popleft()
        middle = (begin + min(end, until)) / 2
        while len(recent) > 1 and recent[0][1] <= middle:
            recent.popleft()
        containing = [row for start, _, row in recent if start <= middle]
        return begin, min(end, until), np.mean(containing, axis=0)

    for start, end, row in windows:
        while waiting and sum(waiting[0]) / 2 < start:
            yield step(steps[-1])
        recent.append((start, end, row))
    until = recent[-1][1]
    while waiting and waiting[0][0] < until:
        yield step(until)


# Start and end in seconds, and scores (classes,).
TimedScores = tuple[float, float, np.ndarray]


def smoothed(steps: Iterable[TimedScores], seconds: float) -> Iterator[TimedScores]:
    """The steps, in order, with the mean scores of those whose middle is at most half of `seconds`
    from theirs, weighted by how long these last; each comes as soon as they are known."""
    if seconds == 0:
        yield from steps
        return
    near: deque[TimedScores] = deque()
    waiting: deque[TimedScores] = deque()

    def middle(step: TimedScores) -> float:
        return (step[0] + step[1]) / 2

    def mean() -> TimedScores:
        step = waiting.popleft()
        begin, end = middle(step) - seconds / 2, middle(step) + seconds / 2
        while middle(near[0]) < begin - 1e-6:
            near.popleft()
        inside = [each for each in near if middle(each) <= end + 1e-6]
        lengths = [max(each[1] - each[0], 1e-9) for each in inside]
        row = np.average([each[2] for each in inside], axis=0, weights=lengths)
        return step[0], step[1], row

    for step in steps:
        while waiting and middle(waiting[0]) + seconds / 2 + 1e-6 < middle(step):
            yield mean()
        near.append(step)
        waiting.append(step)
    while waiting:
        yield mean()


def find_segments(
    steps: Iterable[Step], settings: TimelineSettings, multi_label: bool = False
) -> list[Segment]:
    """The segments of steps: gaps are bridged before short segments are left out, and again where
    these were between two parts of another. With several labels a video, each has its own."""
    found = merge(steps, settings.min_score)
    labels = {each.label for each in found} if multi_label else {None}
    chosen = []
    for label in labels:
        own = bridged([each for each in found if label in (None, each.label)], settings.bridge)
        shortest = settings.min_length - 1e-6
        long_enough = [each for each in own if each.end - each.start >= shortest]
        chosen += bridged(long_enough, settings.bridge)
    return sorted(chosen, key=lambda segment: (segment.start, -segment.score, segment.label))


def bridged(segments: Iterable[Segment], gap: float) -> list[Segment]:
    """The segments, neighbours with the same label and at most `gap` seconds between them as one,
    whose score is the mean of its parts, weighted by how long they last."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if last and last.label == segment.label and segment.start - last.end <= gap + 1e-6:
            lengths = [max(each.end - each.start, 1e-9) for each in (last, segment)]
            score = np.average([last.score, segment.score], weights=lengths)
            joined[-1] = replace(last, end=segment.end, score=round(float(score), 6))
        else:
            joined.append(segment)
    return joined


def merge(steps: Iterable[Step], min_score: float) -> list[Segment]:
    """Segments of steps in a row that show the same label, by their start; a step where it scores
    below `min_score` ends one."""
    segments: list[Segment] = []
    runs: dict[str, list[tuple[Step, float]]] = {}

    def end(label: str) -> None:
        run = runs.pop(label)
        weights = [max(step.end - step.start, 1e-9) for step, _ in run]
        mean = float(np.average([score for _, score in run], weights=weights))
        segments.append(Segment(label, run[0][0].start, run[-1][0].end, round(mean, 6)))

    for step in steps:
        shown = step.shown(min_score)
        for label in runs.keys() - shown.keys():
            end(label)
        for label, score in shown.items():
            runs.setdefault(label, []).append((step, score))
    for label in list(runs):
        end(label)
    return sorted(segments, key=lambda segment: (segment.start, -segment.score, segment.label))
