"""Which action begins and ends when in a long video: `actionrec timeline match.mp4`.

A window, one clip long, slides over the video in steps of one hop. The video is decoded once, in
order, and only the windows that are being read and scored are in memory. A step is as long as a
hop and gets the mean score of the windows that contain its middle; the last window ends with the
video. Steps in a row with the same best class are a segment. Where a video may have several labels,
steps in a row with a label above its threshold are one, and segments of two labels may overlap.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch

from actionrec.errors import UsageError, VideoError
from actionrec.models.inference import BATCH_SIZE, InferenceModel
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
from actionrec.video.clips import read_ahead
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling, FrameGrid, nearest
from actionrec.video.transforms import channels_first, stack_clips

MIN_SCORE = 0.2
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
    path: str | Path,
    hop: float | None = None,
    min_score: float | None = None,
) -> Timeline:
    """The classes of a video through time, with a progress bar on stderr.

    Ctrl-C, SIGTERM and damage in the middle of the file end it early; the timeline up to there is
    returned, and its `incomplete` gives the reason.

    Args:
        model: Its `topk` is the number of classes that are kept of each window.
        path: Video file.
        hop: Seconds from one window to the next; by default half a window. A hop longer than a
            window is quicker and skips the frames between windows: a step whose middle no window
            contains gets the scores of the window that it begins with.
        min_score: Labels that score less in a step have no segment there; by default that of
            `default_min_score`.

    Raises:
        VideoError: the video can't be read at all.
    """
    if min_score is None:
        min_score = default_min_score(model)
    video = VideoReader(path)
    sliding = SlidingWindows(model.config.sampling, video, hop)
    clock = video.clock()
    clips: list[ClipPrediction] = []
    total = np.zeros(len(model.labels))
    incomplete = None

    def seconds(frame: int) -> float:
        return round(clock(frame), 3)

    def windows() -> Iterator[tuple[int, int, np.ndarray]]:
        nonlocal total, incomplete
        batches = track(
            score_windows(model, video, sliding),
            Path(path).name,
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
        steps = [
            Step(
                seconds(start), seconds(end), best(row, model.labels, STEP_TOPK), given(model, row)
            )
            for start, end, row in step_scores(windows(), sliding.steps)
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
        segments=merge(steps, min_score),
        duration=duration,
        scored_until=steps[-1].end,
        incomplete=incomplete,
        steps=steps,
    )


def default_min_score(model: InferenceModel) -> float:
    """The least score of a segment: 0.2, or 0 where each label has a threshold of its own."""
    return 0.0 if model.decision.multi_label else MIN_SCORE


class SlidingWindows:
    """The windows that slide over a video, as lists of its frames, and the steps that they score.

    A hop in seconds, or a sampling at a target rate, is measured by the time stamps.

    Attributes:
        steps: the first frame of each step, and at the end the number of frames.

    Raises:
        UsageError: the hop is not above 0.
    """

    def __init__(self, sampling: ClipSampling, video: VideoReader, hop: float | None) -> None:
        if hop is not None and not 0 < hop < float("inf"):
            raise UsageError(f"A hop of {hop} seconds is not possible; it must be above 0.")
        self.grid = grid = FrameGrid(sampling, video)
        if hop is None:
            self.starts = list(grid.apart(max(1, grid.sampling.span // 2)))
        elif grid.rate is None:
            self.starts = frames_apart(video, hop)
        else:
            self.starts = list(grid.apart(max(1, round(hop * grid.rate))))
        self.steps = [*sorted(set(grid.frames(self.starts))), len(video)]

    def __len__(self) -> int:
        last = max(self.grid.positions - self.grid.sampling.span, 0)
        return bisect_left(self.starts, last) + 1

    def __iter__(self) -> Iterator[list[int]]:
        for clip in self.grid.sampling.sliding(self.grid.positions, self.starts):
            yield self.grid.frames(clip)


def frames_apart(video: VideoReader, hop: float) -> list[int]:
    """Frames, from the first one on, each the one nearest to `hop` seconds after the one before."""
    frames, times, following = [], video.times, 0
    while following < len(video):
        frames.append(following)
        following = max(following + 1, int(nearest(times, times[following] + hop)))
    return frames


def score_windows(
    model: InferenceModel, video: VideoReader, sliding: SlidingWindows
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
