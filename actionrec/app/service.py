"""Computes the results that the page shows, for one video after the other.

Labels and timeline are those of `actionrec timeline`; the heat map is that of `actionrec explain`
for the clip where the best label scores highest.
"""

import copy
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import torch

from actionrec.errors import ActionrecError, VideoError
from actionrec.explanation.heat_maps import Explanation
from actionrec.explanation.pictures import write_overlay
from actionrec.prediction.rendering import frame_size
from actionrec.prediction.timeline import Timeline, default_settings, score_timeline
from actionrec.recognizer import Recognizer
from actionrec.text import clock_time
from actionrec.video.container import opened
from actionrec.video.reader import VideoReader
from actionrec.video.windows import SlidingWindows
from actionrec.video.writer import TIME_BASE, VideoWriter

logger = logging.getLogger(__name__)

TOP = 5  # labels shown
MAX_PIXELS = 7680 * 4320  # of a frame: decoding takes up to 13 bytes for each
# Suffixes and codecs that every browser plays.
PLAYABLE = {(".mp4", "h264"), (".webm", "vp8"), (".webm", "vp9")}


@dataclass(frozen=True)
class Progress:
    """The step that is being computed, and the share of it that is done; None if unknown."""

    words: str
    share: float | None


@dataclass(frozen=True)
class Playable:
    """The video in a form that browsers play; None until there is one."""

    video: Path | None


@dataclass(frozen=True)
class Explained:
    """The heat map of a clip, and a video of it over the clip."""

    explanation: Explanation
    video: Path


Result = Progress | Playable | Timeline | Explained
Report = Callable[[Result], None]


class Cancelled(Exception):
    """Nobody waits for the results any more."""


class Service:
    """Recognises one video after the other, in a thread of its own."""

    def __init__(self, recognizer: Recognizer, max_seconds: float, folder: Path) -> None:
        self.recognizer = recognizer
        self.max_seconds, self.folder = max_seconds, folder
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.closed = threading.Event()

    def close(self) -> None:
        """Cancel the computation, and return when it has ended."""
        self.closed.set()
        self.thread.shutdown(cancel_futures=True)

    def results(self, video: Path) -> Iterator[Result]:
        """The results of `recognise`, as they come; closing the iterator cancels the rest.

        The files of the results are deleted with the iterator.
        """
        queue: SimpleQueue[Result] = SimpleQueue()
        unwanted = threading.Event()

        def report(result: Result) -> None:
            if unwanted.is_set() or self.closed.is_set():
                raise Cancelled
            queue.put(result)

        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            done = self.thread.submit(self.recognise, video, Path(folder), report)
            try:
                while not (done.done() and queue.empty()):
                    try:
                        result = queue.get(timeout=0.1)
                    except Empty:
                        continue
                    if not isinstance(result, Progress) or queue.empty():
                        yield result
                done.result()
            finally:
                unwanted.set()
                done.exception()

    def recognise(self, path: Path, folder: Path, report: Report) -> None:
        """Score and explain a video; `report` gets each result, whose files lie in `folder`.

        An exported file explains nothing.

        Raises:
            ActionrecError: the video can't be read, or is too large or too long.
        """
        video = checked_video(path, self.max_seconds)
        playable = plays_in_browsers(path)
        report(Playable(path if playable else None))
        clips = len(windows_of(self.recognizer, video))
        reporting = with_progress(self.recognizer, clips, report)
        timeline = score_timeline(reporting, path, default_settings(reporting))
        report(timeline)
        if not playable:
            convert(video, folder / "video.mp4", report)
            report(Playable(folder / "video.mp4"))
        if self.recognizer.is_exported:
            return
        report(Progress(f"Looking for the reasons for “{timeline.top[0].label}”", None))
        explanation = explain_best_clip(self.recognizer, video, timeline)
        write_overlay(explanation, folder / "explanation.mp4")
        report(Explained(explanation, folder / "explanation.mp4"))


def checked_video(path: Path, max_seconds: float) -> VideoReader:
    """Open a video of a user.

    Raises:
        ActionrecError: it can't be read, or is too large or too long.
    """
    # Before any frame is decoded.
    with opened(path) as (_, stream):
        if stream.width * stream.height > MAX_PIXELS:
            raise ActionrecError(
                f"{path} has frames of {stream.width}x{stream.height} pixels, more than 8K "
                "(7680x4320), which this page takes at most; scale it down."
            )
    video = VideoReader(path)
    if video.duration > max_seconds:
        raise ActionrecError(
            f"{path} lasts {clock_time(video.duration)}, longer than the "
            f"{clock_time(max_seconds)} that this page takes; cut it, or start "
            "`actionrec app` with more --max-seconds."
        )
    return video


def with_progress(recognizer: Recognizer, clips: int, report: Report) -> Recognizer:
    """The same recognizer, but `scores` reports how many of the `clips` it has scored."""
    scored = 0

    def scores(pixels: torch.Tensor) -> np.ndarray:
        nonlocal scored
        result = recognizer.scores(pixels)
        scored += len(pixels)
        report(Progress(f"Clip {min(scored + 1, clips)} of {clips}", scored / clips))
        return result

    report(Progress(f"Clip 1 of {clips}", 0.0))
    reporting = copy.copy(recognizer)
    reporting.scores = scores
    return reporting


def windows_of(recognizer: Recognizer, video: VideoReader) -> SlidingWindows:
    """The clips of the timeline."""
    return SlidingWindows(recognizer.config.sampling, video, hop=None)


def explain_best_clip(
    recognizer: Recognizer, video: VideoReader, timeline: Timeline
) -> Explanation:
    """Explain the best label of the video in the clip of the timeline where it scores highest."""
    label = timeline.top[0].label
    tops = [{entry.label: entry.score for entry in clip.top} for clip in timeline.clips]
    best = int(np.argmax([top.get(label, 0.0) for top in tops]))
    window = next(islice(windows_of(recognizer, video), best, None))
    start = video.clock()(window[0])
    return recognizer.explain(video.path, label=label, start=start)


def plays_in_browsers(path: Path) -> bool:
    """Whether every browser plays a video file as it is."""
    with opened(path) as (_, stream):
        codec = stream.codec_context
        return (path.suffix.lower(), codec.name) in PLAYABLE and codec.pix_fmt == "yuv420p"


def convert(video: VideoReader, path: Path, report: Report) -> None:
    """Write the pictures of a video, upright and at their times, as an MP4 that browsers play.

    Damage in the middle of the file ends it early.
    """
    crop, size = frame_size(video.size)
    clock = video.clock()
    pictures = video.stream(([index] for index in range(len(video))), size, crop)
    with VideoWriter(path, size, video.fps, time_base=TIME_BASE) as writer:
        try:
            for index, [picture] in enumerate(pictures):
                if index % 25 == 0:
                    words = "Converting the video into one that browsers play"
                    report(Progress(words, index / len(video)))
                writer.write(picture, clock(index))
        except VideoError as error:
            logger.info("%s", error)
