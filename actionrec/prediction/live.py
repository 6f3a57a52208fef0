"""Name the action in a camera or stream while it runs: `actionrec predict --source camera:0`.

    actionrec predict --source rtsp://192.168.1.20/stream1
    ffmpeg -f v4l2 -i /dev/video0 -f mpegts - | actionrec predict --source -

A thread decodes without a pause and keeps the newest frames alone. The network takes the newest
clip as soon as it is free, so a slow one says less often what happens, and never says it late.
A stream that breaks off is opened again; no clip spans the gap.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import av
import numpy as np

from actionrec.errors import ActionrecError
from actionrec.models.inference import InferenceModel
from actionrec.prediction.videos import LabelScore, best
from actionrec.video.clips import ClipReader
from actionrec.video.reader import scale
from actionrec.video.transforms import channels_first

logger = logging.getLogger(__name__)

PIPE = "-"
CAMERA = "camera:"
# How FFmpeg calls the cameras of a system, and camera 0 there.
CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
# Seconds without a sign of life after which a stream has broken off.
PATIENCE = 10.0
# Seconds between two attempts to open it again: doubled from the first to the last.
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 30.0
# Seconds between two frames that no clip spans.
LONGEST_GAP = 2.0
# Seconds that what comes may lag behind what came quickest; beyond, it is thrown away.
MOST_LAG = 1.0
# Seconds of lag that are forgotten in a second: the clock of a camera is not ours.
CLOCK_DRIFT = 2e-4


@dataclass(frozen=True, slots=True)
class LivePrediction:
    """The best classes of the clip that was the newest.

    Attributes:
        source: what was watched.
        time: when the clip's last frame came, in UTC, as in ISO 8601.
        start: when its first frame was taken, in seconds since the source began.
        end: when its last frame was.
        delay: seconds from the last frame's coming to the scores.
        top: best first.
    """

    source: str
    time: str
    start: float
    end: float
    delay: float
    top: list[LabelScore]


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as the network sees it.

    Attributes:
        pixels: uint8 RGB (H, W, 3).
        time: when it was taken, by the stream's clock, in seconds since the source began.
        came: when it came, in seconds of `time.monotonic`.
    """

    pixels: np.ndarray
    time: float
    came: float


def watch(model: InferenceModel, source: str, hop: float | None = None) -> Iterator[LivePrediction]:
    """Score the newest clip of a source again and again; ends with a pipe, otherwise never.

    Args:
        model: It says how many of the best classes are told.
        source: camera:0, a URL that FFmpeg opens (rtsp, rtmp, http, tcp, udp, srt), or - for
            standard input.
        hop: Least seconds from one clip to the next; by default half a clip.

    Raises:
        ActionrecError: the source can't be opened, or a pipe ends before it has given a clip.
    """
    newest = NewestFrames(source, model.clips)
    threading.Thread(target=newest.read, name=f"reading {source}", daemon=True).start()
    while (clip := newest.wait(hop)) is not None:
        pixels = channels_first(np.stack([frame.pixels for frame in clip]))[None]
        scores = model.scores(pixels)[0]
        delay = time.monotonic() - clip[-1].came
        came = datetime.fromtimestamp(time.time() - delay, UTC)
        yield LivePrediction(
            source=source,
            time=came.isoformat(timespec="milliseconds"),
            start=round(clip[0].time, 3),
            end=round(clip[-1].time, 3),
            delay=round(delay, 3),
            top=best(scores, model.labels, model.topk),
        )


class NewestFrames:
    """The newest frames of a source, which `read` keeps reading in one thread and from which
    `wait` takes clips in another.

    Attributes:
        began: when the source's first frame came, in seconds of `time.monotonic`; None before.
    """

    def __init__(self, source: str, clips: ClipReader) -> None:
        self.source = source
        self.name = "Standard input" if source == PIPE else source
        self.sampling = clips.sampling
        self.preprocessing = clips.preprocessing
        self.began: float | None = None
        self.offset = 0.0  # seconds from the stream's clock to the time since the source began
        self.changed = threading.Condition()
        self.frames: deque[Frame] = deque()
        self.error: Exception | None = None
        self.ended = False
        self.scored = -np.inf  # the time of the last frame of the clip before

    def wait(self, hop: float | None = None) -> list[Frame] | None:
        """The newest clip, as soon as it ends `hop` seconds (None: half a clip) after the one
        before; None when there will be no more.

        Raises:
            ActionrecError: the source can't be opened, or ended before it gave a clip.
        """
        with self.changed:
            while (clip := self._clip(hop)) is None:
                if self.error is not None:
                    raise self.error
                if self.ended and self.scored < 0:
                    raise ActionrecError(
                        f"{self.name} ended after less than a clip of {self.sampling.length} "
                        "frames; a source must go on for seconds."
                    )
                if self.ended:
                    return None
                self.changed.wait()
            self.scored = clip[-1].time
            return clip

    def _clip(self, hop: float | None) -> list[Frame] | None:
        steps = len(self.frames) - 1
        if steps < 1:
            return None
        # Measured: in the dark many a camera takes half as many frames as it announces.
        rate = steps / (self.frames[-1].time - self.frames[0].time)
        sampling = self.sampling.at(rate)
        least = sampling.span / rate / 2 if hop is None else hop
        if sampling.span > len(self.frames) or self.frames[-1].time - self.scored < least:
            return None
        return [
            self.frames[index]
            for index in sampling.clip(len(self.frames) - sampling.span, len(self.frames))
        ]

    def read(self) -> None:
        """Read until a pipe ends; open anything else again whenever it breaks off."""
        pause = SHORTEST_WAIT
        try:
            while True:
                try:
                    for frame, came in decode(self.source):
                        pause = SHORTEST_WAIT
                        self.add(frame, came)
                    reason = "it ended"
                except av.FFmpegError as error:
                    reason = reason_of(error)
                if self.began is None:
                    raise ActionrecError(
                        f"{self.name} gives no video ({reason}); check that it does elsewhere, "
                        "and that nothing else uses it."
                    )
                if self.source == PIPE:
                    return
                with self.changed:
                    self.frames.clear()
                logger.warning(
                    "%s broke off (%s); it is opened again in %.0f s.", self.source, reason, pause
                )
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_WAIT)
        except Exception as error:
            self.error = error
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify()

    def add(self, frame: av.VideoFrame, came: float) -> None:
        """Take up the frame after those there are, whose packet came at `came`, in seconds of
        `time.monotonic`; let those go that no clip needs any more."""
        size = (frame.height, frame.width)
        top, left, height, width = self.preprocessing.square(size)
        picture = frame.to_ndarray(format="rgb24")[None, top : top + height, left : left + width]
        pixels = scale(picture, (self.preprocessing.crop,) * 2)[0]
        taken = came if frame.time is None else frame.time
        with self.changed:
            if self.began is None:
                self.began = came
            before = self.frames[-1].time if self.frames else -np.inf
            if not 0 < taken + self.offset - before < LONGEST_GAP:
                self.frames.clear()
                self.offset = came - self.began - taken
            self.frames.append(Frame(pixels, taken + self.offset, came))
            while self._enough_without_the_first():
                self.frames.popleft()
            self.changed.notify()

    def _enough_without_the_first(self) -> bool:
        if self.sampling.fps is None:
            return len(self.frames) > self.sampling.span
        if len(self.frames) < 3:
            return False
        seconds = (self.sampling.length - 1) * self.sampling.stride / self.sampling.fps
        return self.frames[-1].time - self.frames[1].time >= seconds


def decode(source: str) -> Iterator[tuple[av.VideoFrame, float]]:
    """The frames of a source and when their packets came, in seconds of `time.monotonic`.

    What comes faster than it can be decoded is thrown away up to a key frame, so that the frames
    are never much older than what the source has to give.

    Raises:
        av.FFmpegError: the source can't be opened, or breaks off.
    """
    with open_source(source) as container:
        [stream, *_] = container.streams.video or [None]
        if stream is None:
            raise ActionrecError(f"{source} has no pictures; choose a source of video.")
        backlog = Backlog()
        behind = told = False
        for packet in container.demux(stream):
            came = time.monotonic()
            if packet.dts is not None:
                lag = backlog.lag(float(packet.dts * packet.time_base), came)
                behind = behind or lag > MOST_LAG
                if behind and not told:
                    told = True
                    logger.warning(
                        "%s comes faster than it is decoded; parts are left out.", source
                    )
                if behind and not (packet.is_keyframe and lag < MOST_LAG / 2):
                    continue
                if behind:
                    behind = False
                    stream.codec_context.flush_buffers()
            # A packet that is damaged, or that refers to what came before we did.
            with suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    if not frame.is_corrupt:
                        yield frame, came


class Backlog:
    """How far what comes lags behind.

    What waits between the source and us was taken earlier than what comes without having waited:
    the least difference of the two clocks is that of no lag.
    """

    def __init__(self) -> None:
        self.least = np.inf
        self.before = (-np.inf, -np.inf)

    def lag(self, taken: float, came: float) -> float:
        """Seconds of lag of what was `taken` and `came` then, each in seconds of its clock."""
        taken_before, came_before = self.before
        self.before = (taken, came)
        if not 0 < taken - taken_before < LONGEST_GAP:
            self.least = np.inf  # another clock, or the same one set anew
        forgotten = CLOCK_DRIFT * (came - came_before)
        self.least = min(self.least + forgotten, came - taken)
        return came - taken - self.least


@contextmanager
def open_source(source: str) -> Iterator[av.container.InputContainer]:
    """A camera, a stream or standard input, opened.

    Raises:
        ActionrecError: cameras can't be used on this system.
        av.FFmpegError: it can't be opened.
    """
    file_format, address, timeout = None, source, PATIENCE
    if source == PIPE:
        # Whatever writes into a pipe may pause.
        address, timeout = "pipe:0", None
    elif source.startswith(CAMERA):
        if sys.platform not in CAMERAS:
            raise ActionrecError(f"{source}: cameras can't be opened on {sys.platform}.")
        file_format, pattern = CAMERAS[sys.platform]
        address = pattern.format(source.removeprefix(CAMERA))
    # RTSP over UDP loses packets without telling.
    options = {"rtsp_flags": "prefer_tcp"} if source.startswith("rtsp") else {}
    with av.open(address, format=file_format, options=options, timeout=timeout) as container:
        yield container


def reason_of(error: av.FFmpegError) -> str:
    """Why a source broke off, in words."""
    if isinstance(error, av.error.ExitError):
        return f"nothing came for {PATIENCE:.0f} s"
    return error.strerror or str(error)
