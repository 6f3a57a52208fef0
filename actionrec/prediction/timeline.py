"""What happens when in a long video: `actionrec predict match.mp4 --timeline`.

A window, one clip long, slides over the video in steps of one hop. The video is decoded once, in
order, and no more of it is in memory than the windows that are being read and scored. A step is as
long as a hop and gets the mean softmax score of the windows that contain its middle; the last
window ends with the video. Steps in a row with the same best class are a segment.
"""

import csv
import io
import json
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from actionrec.errors import ActionrecError, UsageError, VideoError
from actionrec.files import replacing
from actionrec.models.inference import BATCH_SIZE, InferenceModel
from actionrec.prediction.videos import (
    ClipPrediction,
    LabelScore,
    Prediction,
    best,
    read_ahead,
)
from actionrec.text import hours
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import channels_first, stack_clips

logger = logging.getLogger(__name__)

# Classes of a step that are kept, for `--render` to draw.
SHOWN = 3
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
        segments: what happens, in order; where nothing scores enough, there is none.
        duration: seconds that the video lasts.
        scored_until: seconds up to which it was scored; `duration`, unless it is incomplete.
        incomplete: why it is; None if it is complete.
        steps: what the segments follow from.
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

    Ctrl-C, SIGTERM and damage in the middle of the file end it early; what was scored until then
    is returned, and `incomplete` says why.

    Args:
        model: It says how many of the best classes are kept of each window.
        path: Video file.
        hop: Seconds from one window to the next; by default half a window. With more than a whole
            one it is quicker, and frames between windows are not seen: a step whose middle no
            window contains gets the scores of the one it begins with.
        min_score: Steps whose best class scores less belong to no segment.

    Raises:
        VideoError: the video can't be read at all.
    """
    video = VideoReader(path)
    sampling = model.config.sampling.at(video.fps)
    labels = model.config.labels
    hop_frames = frames_of_hop(hop, sampling, video.fps)
    clock = video.clock()
    clips: list[ClipPrediction] = []
    total = np.zeros(len(labels))
    incomplete = None

    def windows() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal total, incomplete
        batches = -(-count_windows(len(video), sampling.span, hop_frames) // BATCH_SIZE)
        batch_scores = track(
            score_windows(model, video, sampling, hop_frames),
            Path(path).name,
            total=batches,
            console=Console(stderr=True),
            transient=True,
        )
        try:
            for starts, scores in batch_scores:
                for start, row in zip(starts, scores, strict=True):
                    total += row
                    end = clock(min(start + sampling.span, len(video)))
                    top = best(row, labels, model.topk)
                    clips.append(ClipPrediction(round(clock(start), 3), round(end, 3), top))
                    yield start, row
                if stop_wish():
                    incomplete = INTERRUPTED
                    return
        except VideoError as error:
            if not clips:
                raise
            incomplete = str(error)

    with stop_on_request() as stop_wish:
        steps = [
            Step(round(clock(start), 3), round(clock(end), 3), best(scores, labels, SHOWN))
            for start, end, scores in step_scores(windows(), sampling.span, hop_frames, len(video))
        ]
    if steps[-1].end >= round(clock(len(video)), 3) and incomplete == INTERRUPTED:
        incomplete = None
    return Timeline(
        video=str(path),
        model=model.name,
        top=best(total / len(clips), labels, model.topk),
        clips=clips,
        segments=list(merge(steps, min_score)),
        duration=round(clock(len(video)), 3),
        scored_until=steps[-1].end,
        incomplete=incomplete,
        steps=steps,
    )


def frames_of_hop(hop: float | None, sampling: ClipSampling, fps: float) -> int:
    """Frames of a video of `fps` from one window to the next; half a window for None.

    Raises:
        UsageError: the hop is not above 0.
    """
    if hop is None:
        return max(1, sampling.span // 2)
    if not 0 < hop < float("inf"):
        raise UsageError(f"A hop of {hop} seconds is not possible; it must be above 0.")
    return max(1, round(hop * fps))


def count_windows(frames: int, span: int, hop: int) -> int:
    """How many clips `ClipSampling.sliding` gives."""
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
    of the windows that contain its middle or, where none does, of the one that it begins with.

    A step comes as soon as no later window can contain its middle. If the windows end before the
    video of `frames` frames does, so do the steps.

    Args:
        windows: First frame and scores (classes,) of each window of `span` frames, in order.
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
    """Segments of steps in a row with the same best class; those below `min_score` part them."""
    run: list[Step] = []

    def segment() -> Segment:
        scores = [step.top[0].score for step in run]
        mean = np.average(scores, weights=[max(step.end - step.start, 1e-9) for step in run])
        return Segment(run[0].top[0].label, run[0].start, run[-1].end, round(float(mean), 6))

    for step in steps:
        says = step.top[0].score >= min_score
        if run and not (says and step.top[0].label == run[0].top[0].label):
            yield segment()
            run = []
        if says:
            run.append(step)
    if run:
        yield segment()


@contextmanager
def stop_on_request() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C or SIGTERM asked to stop; the second one stops at once.

    In a thread other than the main one nothing can be asked.
    """
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, _: object) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)
        logger.info("Stopping; Ctrl-C again stops at once.")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Writing


def write_timeline(timeline: Timeline, path: Path) -> None:
    """Write JSON, CSV, WebVTT or SRT, by the suffix of `path`; the file appears when it is whole.

    Raises:
        ActionrecError: the file can't be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(WRITERS[path.suffix.lower()](timeline))


def require_outputs(paths: Sequence[Path]) -> None:
    """Refuse files that can't become a timeline, before anything is computed.

    Raises:
        UsageError: a suffix says no format.
        ActionrecError: there is such a file already.
    """
    for path in paths:
        if path.suffix.lower() not in WRITERS:
            raise UsageError(f"--output {path} must end in {', '.join(WRITERS)}, its format.")
        require_free(path)


def require_free(path: Path) -> None:
    """Raise ActionrecError if there is a file already."""
    if path.exists():
        raise ActionrecError(f"{path} is there already; delete it or choose another name.")


def json_list(timeline: Timeline) -> Iterator[str]:
    """A JSON list of the one object, in pieces."""
    yield "["
    yield from json_object(timeline)
    yield "]\n"


def json_object(timeline: Timeline) -> Iterator[str]:
    """The timeline but for its steps as a JSON object, in pieces: as a whole, with the windows of
    hours, it would take more memory than everything else."""
    separator = "{"
    for name in (field.name for field in fields(Timeline) if field.name != "steps"):
        value = getattr(timeline, name)
        yield f"{separator}{json.dumps(name)}: "
        separator = ",\n"
        if isinstance(value, list):
            comma = "["
            for item in value:
                yield comma + json.dumps(asdict(item))
                comma = ", "
            yield "]" if value else "[]"
        else:
            yield json.dumps(value)
    yield "}"


CSV_HEAD = ["video", "start", "end", "label", "score", "error"]


def csv_rows(timeline: Timeline) -> Iterator[list[str | float]]:
    """A row for each segment; a last one with the reason if the timeline is incomplete."""
    for segment in timeline.segments:
        yield [timeline.video, segment.start, segment.end, segment.label, segment.score, ""]
    if timeline.incomplete is not None:
        yield [timeline.video, timeline.scored_until, "", "", "", timeline.incomplete]


def csv_lines(timeline: Timeline) -> Iterator[str]:
    """Head and rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    writer.writerows(csv_rows(timeline))
    yield text.getvalue()


def webvtt(timeline: Timeline) -> Iterator[str]:
    """WebVTT subtitles (W3C), a cue for each segment, for browsers."""
    yield "WEBVTT\n"
    for segment in timeline.segments:
        text = _caption(segment)
        for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, escape)
        start, end = hours(segment.start), hours(segment.end)
        yield f"\n{start} --> {end}\n{text}\n"


def subrip(timeline: Timeline) -> Iterator[str]:
    """SubRip subtitles, an entry for each segment, for players."""
    for number, segment in enumerate(timeline.segments, start=1):
        start, end = hours(segment.start, ","), hours(segment.end, ",")
        yield f"{number}\n{start} --> {end}\n{_caption(segment)}\n\n"


WRITERS: dict[str, Callable[[Timeline], Iterator[str]]] = {
    ".json": json_list,
    ".csv": csv_lines,
    ".vtt": webvtt,
    ".srt": subrip,
}


def _caption(segment: Segment) -> str:
    # A line end would begin another cue.
    return f"{' '.join(segment.label.split())} ({segment.score:.0%})"
