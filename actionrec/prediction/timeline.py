"""Which action begins and ends when in a long video: `actionrec timeline match.mp4`.

A window, one clip long, slides over the video in steps of one hop. The video is decoded once, in
order, and only the windows that are being read and scored are in memory. A step is as long as a
hop and gets the mean softmax score of the windows that contain its middle; the last window ends
with the video. Steps in a row with the same best class are a segment.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch

from actionrec.errors import UsageError, VideoError
from actionrec.models.inference import BATCH_SIZE, InferenceModel
from actionrec.prediction.videos import ClipPrediction, LabelScore, Prediction, best
from actionrec.progress import track
from actionrec.signals import stop_requests
from actionrec.video.clips import read_ahead
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import channels_first, stack_clips

STEP_TOPK = 3  # classes kept of each step, for `--render` to draw
INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Step:
    """The best classes from `start` to `end`, in seconds, by the mean score of the windows."""

    start: float
    end: float
    top: list[LabelScore]


@dataclass(frozen=True, slots=True)
class Segment:
    """A class that scores best from `start` to `end`, in seconds, and its mean score there."""

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
    min_score: float = 0.0,
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
        min_score: Steps whose best class scores less belong to no segment.

    Raises:
        VideoError: the video can't be read at all.
    """
    video = VideoReader(path)
    sampling = model.config.sampling.at(video.fps)
    hop_frames = frames_of_hop(hop, sampling, video.fps)
    clock = video.clock()
    clips: list[ClipPrediction] = []
    total = np.zeros(len(model.labels))
    incomplete = None

    def seconds(frame: int) -> float:
        return round(clock(frame), 3)

    def windows() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal total, incomplete
        batches = track(
            score_windows(model, video, sampling, hop_frames),
            Path(path).name,
            total=-(-count_windows(len(video), sampling.span, hop_frames) // BATCH_SIZE),
            transient=True,
        )
        try:
            for starts, scores in batches:
                for start, row in zip(starts, scores, strict=True):
                    total += row
                    end = min(start + sampling.span, len(video))
                    top = best(row, model.labels, model.topk)
                    clips.append(ClipPrediction(seconds(start), seconds(end), top))
                    yield start, row
                if stop_requested():
                    incomplete = INTERRUPTED
                    return
        except VideoError as error:
            if not clips:
                raise
            incomplete = str(error)

    with stop_requests() as stop_requested:
        steps = [
            Step(seconds(start), seconds(end), best(row, model.labels, STEP_TOPK))
            for start, end, row in step_scores(windows(), sampling.span, hop_frames, len(video))
        ]
    duration = seconds(len(video))
    if steps[-1].end >= duration and incomplete == INTERRUPTED:
        incomplete = None
    return Timeline(
        video=str(path),
        model=model.name,
        top=best(total / len(clips), model.labels, model.topk),
        clips=clips,
        segments=list(merge(steps, min_score)),
        duration=duration,
        scored_until=steps[-1].end,
        incomplete=incomplete,
        steps=steps,
    )


def frames_of_hop(hop: float | None, sampling: ClipSampling, fps: float) -> int:
    """Frames from one window to the next, for a hop in seconds; by default half a window.

    Raises:
        UsageError: the hop is not above 0.
    """
    if hop is None:
        return max(1, sampling.span // 2)
    if not 0 < hop < float("inf"):
        raise UsageError(f"A hop of {hop} seconds is not possible; it must be above 0.")
    return max(1, round(hop * fps))


def count_windows(frames: int, span: int, hop: int) -> int:
    """The number of clips that `ClipSampling.sliding` gives."""
    return -(-max(frames - span, 0) // hop) + 1


def score_windows(
    model: InferenceModel, video: VideoReader, sampling: ClipSampling, hop: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """The first frames of some windows and their softmax scores (windows, classes), in order."""
    preprocessing = model.config.preprocessing
    size, square = (preprocessing.crop,) * 2, preprocessing.square(video.size)
    pixels = video.stream(sampling.sliding(len(video), hop), size, square)
    windows = zip((clip[0] for clip in sampling.sliding(len(video), hop)), pixels, strict=True)

    def batches() -> Iterator[tuple[list[int], torch.Tensor]]:
        while batch := list(islice(windows, BATCH_SIZE)):
            yield [start for start, _ in batch], stack_clips([channels_first(w) for _, w in batch])

    for starts, clips in read_ahead(batches()):
        yield starts, model.scores(clips)


def step_scores(
    windows: Iterable[tuple[int, np.ndarray]], span: int, hop: int, frames: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Each step's first frame, the frame after its last one, and its scores (classes,): the mean
    of the windows that contain its middle or, if there is none, the window that it begins with.

    A step comes as soon as no later window can contain its middle. Where the windows end before
    the video does, the steps end as well.

    Args:
        windows: First frame and scores (classes,) of each window, in order.
        span: Frames of a window.
        hop: Frames of a step.
        frames: Frames of the video.
    """
    recent: deque[tuple[int, np.ndarray]] = deque()
    begin = 0

    def middle(until: int) -> float:
        return (begin + min(begin + hop, until)) / 2

    def step(until: int) -> tuple[int, int, np.ndarray]:
        centre = middle(until)
        while len(recent) > 1 and recent[0][0] + span <= centre:
            recent.popleft()
        containing = [row for start, row in recent if start <= centre]
        return begin, min(begin + hop, until), np.mean(containing, axis=0)

    for start, row in windows:
        while middle(frames) < start:
            yield step(frames)
            begin += hop
        recent.append((start, row))
    until = min(recent[-1][0] + span, frames)
    while begin < until:
        yield step(until)
        begin += hop


def merge(steps: Iterable[Step], min_score: float) -> Iterator[Segment]:
    """Segments of steps in a row with the same best class; a step below `min_score` ends one."""

    def label(step: Step) -> str | None:
        return step.top[0].label if step.top[0].score >= min_score else None

    for name, run in groupby(steps, label):
        if name is not None:
            same = list(run)
            scores = [step.top[0].score for step in same]
            mean = np.average(scores, weights=[max(step.end - step.start, 1e-9) for step in same])
            yield Segment(name, same[0].start, same[-1].end, round(float(mean), 6))
