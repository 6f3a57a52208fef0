"""Computes what the page shows: one video after the other, each result told when it is known.

Labels and timeline are those of `actionrec predict --timeline`, the heat map is that of
`actionrec explain` for the clip where the best label scores highest.
"""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import av
import numpy as np
import torch

from actionrec.errors import ActionrecError, VideoError
from actionrec.explanation.heat_maps import Explanation, explain_video
from actionrec.explanation.pictures import overlay
from actionrec.models.inference import InferenceModel
from actionrec.prediction.rendering import ENCODER_OPTIONS, frame_size
from actionrec.prediction.timeline import Timeline, count_windows, frames_of_hop, score_timeline
from actionrec.recognizer import Recognizer
from actionrec.text import clock_time
from actionrec.video.container import opened
from actionrec.video.reader import VideoReader

logger = logging.getLogger(__name__)

TOP = 5  # labels shown
MIN_SCORE = 0.2  # as in `actionrec predict --timeline`
# Suffixes and codecs that every browser plays.
PLAYABLE = {(".mp4", "h264"), (".webm", "vp8"), (".webm", "vp9")}


@dataclass(frozen=True)
class Progress:
    """What is being done, and which share of it is done; None if nobody knows."""

    words: str
    share: float | None


@dataclass(frozen=True)
class Playable:
    """The video in a form that browsers play; None as long as there is none."""

    video: Path | None


@dataclass(frozen=True)
class Scored:
    """The timeline of the video."""

    timeline: Timeline


@dataclass(frozen=True)
class Explained:
    """The heat map of a clip, over the clip as a video."""

    explanation: Explanation
    video: Path


Result = Progress | Playable | Scored | Explained


class Stop(Exception):
    """Nobody waits for the result any more."""


class Service:
    """Recognises one video after the other, in a thread of its own."""

    def __init__(self, recognizer: Recognizer, max_seconds: float, folder: Path) -> None:
        self.recognizer = recognizer
        self.max_seconds, self.folder = max_seconds, folder
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.closed = threading.Event()

    def close(self) -> None:
        """Give up what is being computed, and return when nothing is."""
        self.closed.set()
        self.thread.shutdown(cancel_futures=True)

    def results(self, video: Path) -> Iterator[Result]:
        """What `recognise` tells of a video, as it comes; if the iterator is closed, the rest is
        not computed.

        The files of the results are deleted with the iterator.
        """
        told: SimpleQueue[Result] = SimpleQueue()
        unwanted = threading.Event()

        def tell(result: Result) -> None:
            if unwanted.is_set() or self.closed.is_set():
                raise Stop
            told.put(result)

        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            done = self.thread.submit(self.recognise, video, Path(folder), tell)
            try:
                while not (done.done() and told.empty()):
                    try:
                        result = told.get(timeout=0.1)
                    except Empty:
                        continue
                    if not isinstance(result, Progress) or told.empty():
                        yield result
                done.result()
            finally:
                unwanted.set()
                done.exception()

    def recognise(self, path: Path, folder: Path, tell: Callable[[Result], None]) -> None:
        """Score and explain a video; `tell` gets each result, whose files lie in `folder`.

        Raises:
            ActionrecError: the video can't be read or is too long.
        """
        video = VideoReader(path)
        if video.duration > self.max_seconds:
            raise ActionrecError(
                f"{path} lasts {clock_time(video.duration)}, longer than the "
                f"{clock_time(self.max_seconds)} that this page takes; cut it, or start "
                "`actionrec app` with more --max-seconds."
            )
        playable = plays_in_browsers(path)
        tell(Playable(path if playable else None))
        counting = CountingModel(self.recognizer, video, tell)
        timeline = score_timeline(counting, path, min_score=MIN_SCORE)
        tell(Scored(timeline))
        if not playable:
            convert(video, folder / "video.mp4", tell)
            tell(Playable(folder / "video.mp4"))
        tell(Progress(f"Looking for what speaks for “{timeline.top[0].label}”", None))
        explanation = explain_best_clip(self.recognizer, video, timeline)
        write_overlay(explanation, folder / "explanation.mp4")
        tell(Explained(explanation, folder / "explanation.mp4"))


class CountingModel:
    """What `score_timeline` needs of a model, which tells how many clips it has scored."""

    def __init__(
        self, model: InferenceModel, video: VideoReader, tell: Callable[[Result], None]
    ) -> None:
        self.model, self.tell = model, tell
        sampling = model.config.sampling.at(video.fps)
        hop = frames_of_hop(None, sampling, video.fps)
        self.scored, self.clips = 0, count_windows(len(video), sampling.span, hop)
        self._tell()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def scores(self, clips: torch.Tensor) -> np.ndarray:
        """As of `InferenceModel`."""
        scores = self.model.scores(clips)
        self.scored += len(clips)
        self._tell()
        return scores

    def _tell(self) -> None:
        words = f"Clip {min(self.scored + 1, self.clips)} of {self.clips}"
        self.tell(Progress(words, self.scored / self.clips))


def explain_best_clip(
    recognizer: Recognizer, video: VideoReader, timeline: Timeline
) -> Explanation:
    """Explain the best label of the video in the clip of the timeline where it scores highest."""
    label = timeline.top[0].label
    scores = [
        next((entry.score for entry in clip.top if entry.label == label), 0.0)
        for clip in timeline.clips
    ]
    sampling = recognizer.config.sampling.at(video.fps)
    hop = frames_of_hop(None, sampling, video.fps)
    starts = [clip[0] for clip in sampling.sliding(len(video), hop)]
    start = starts[int(np.argmax(scores))] / video.fps
    return explain_video(recognizer, video.path, label=label, start=start)


def plays_in_browsers(path: Path) -> bool:
    """Whether every browser plays a video file as it is."""
    with opened(path) as (_, stream):
        codec = stream.codec_context
        return (path.suffix.lower(), codec.name) in PLAYABLE and codec.pix_fmt == "yuv420p"


def convert(video: VideoReader, path: Path, tell: Callable[[Result], None]) -> None:
    """Write the pictures of a video, upright and at their times, as an MP4 that browsers play.

    Damage in the middle of the file ends it early.
    """
    crop, size = frame_size(video.size)
    clock = video.clock()
    pictures = video.stream(([index] for index in range(len(video))), size, crop)

    def timed() -> Iterator[tuple[float, np.ndarray]]:
        try:
            for index, [picture] in enumerate(pictures):
                if index % 25 == 0:
                    words = "Converting the video into one that browsers play"
                    tell(Progress(words, index / len(video)))
                yield clock(index), picture
        except VideoError as error:
            logger.info("%s", error)

    write_mp4(path, size, video.fps, timed())


def write_overlay(explanation: Explanation, path: Path) -> None:
    """Write the clip of an explanation, at its rate, with the heat map over it and, for an
    affinity, a ring around the point at its time."""
    from PIL import Image, ImageDraw

    height, width = (side // 2 * 2 for side in explanation.frames.shape[1:3])
    point, factor = explanation.point, explanation.frames.shape[1] / explanation.size[0]

    def pictures() -> Iterator[tuple[float, np.ndarray]]:
        for index in range(len(explanation.frames)):
            image = Image.fromarray(overlay(explanation, explanation.maps[0], index))
            if point is not None and index in point.frames:
                place = (point.x + 0.5) * factor, (point.y + 0.5) * factor
                ImageDraw.Draw(image).circle(place, height // 24, outline="white", width=3)
            yield index / explanation.fps, np.asarray(image)[:height, :width]

    write_mp4(path, (height, width), explanation.fps, pictures())


def write_mp4(
    path: Path,
    size: tuple[int, int],
    fps: float,
    pictures: Iterable[tuple[float, np.ndarray]],
) -> None:
    """Write pictures, uint8 RGB of `size` (height, width), at their seconds as H.264."""
    unit = Fraction(1, 90_000)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        rate = Fraction(fps).limit_denominator(100_000)
        stream = file.add_stream("libx264", rate=rate, options=ENCODER_OPTIONS)
        stream.height, stream.width = size
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", unit
        for seconds, picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(seconds / float(unit)), unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
