"""Name the action in a camera or stream while it runs: `actionrec watch camera:0`.

    actionrec watch rtsp://192.168.1.20/stream1
    ffmpeg -f v4l2 -i /dev/video0 -f mpegts - | actionrec watch -

A thread decodes without a pause and keeps only the newest frames. The network scores the newest
clip as soon as it is free, so a slow network scores less often but never late. A stream that
breaks off is opened again; no clip spans the gap.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import av
import numpy as np

from actionrec.errors import ActionrecError
from actionrec.models.inference import InferenceModel
from actionrec.prediction.videos import LabelScore, best, given
from actionrec.video.clips import ClipReader
from actionrec.video.container import limit_size
from actionrec.video.reader import scale
from actionrec.video.sampling import nearest
from actionrec.video.transforms import channels_first

logger = logging.getLogger(__name__)

PIPE = "-"
CAMERA = "camera:"
# FFmpeg's name of the cameras of a system, and of one of them.
CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
# Seconds without data after which a stream counts as broken off.
PATIENCE = 10.0
# Seconds between attempts to open a stream again: doubled from the first to the last.
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 30.0
# Seconds between two frames that no clip spans.
LONGEST_GAP = 2.0
# Seconds of lag from which frames are dropped.
MOST_LAG = 1.0
# Seconds of lag that are forgotten in a second, because a camera's clock drifts from ours.
CLOCK_DRIFT = 2e-4


@dataclass(frozen=True, slots=True)
class LivePrediction:
    """The best classes of the newest clip.

    Attributes:
        source: the camera, URL or -.
        time: arrival of the clip's last frame, UTC in ISO 8601.
        start: time of its first frame, in seconds since the source began.
        end: time of its last frame, in the same seconds.
        delay: seconds from the arrival of the last frame to the scores.
        top: the classes, best first.
        labels, none_of_these: as of a `Prediction`.
    """

    source: str
    time: str
    start: float
    end: float
    delay: float
    top: list[LabelScore]
    labels: list[LabelScore]
    none_of_these: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as the network sees it.

    Attributes:
        pixels: uint8 RGB (H, W, 3).
        time: time of the recording by the stream's clock, in seconds since the source began.
        came: time of arrival, in seconds of `time.monotonic`.
    """

    pixels: np.ndarray
    time: float
    came: float


def watch(model: InferenceModel, source: str, hop: float | None = None) -> Iterator[LivePrediction]:
    """Score the newest clip of a source again and again; only a pipe ends.

    Args:
        model: Its `topk` is the number of classes in each prediction.
        source: camera:0, a URL that FFmpeg opens (rtsp, rtmp, http, tcp, udp, srt), or - for
            standard input.
        hop: Least seconds from one clip to the next; by default half a clip.

    Raises:
        ActionrecError: the source can't be opened, or a pipe ends before it has given a clip.
    """
    newest = NewestFrames(source, model.clips)
    threading.Thread(target=newest.read, name=f"reading {source}", daemon=True).start()
    try:
        while (clip := newest.wait(hop)) is not None:
            pixels = channels_first(np.stack([frame.pixels for frame in clip]))[None]
            scores = model.scores(pixels)[0]
            labels = given(model, scores)
            delay = time.monotonic() - clip[-1].came
            came = datetime.fromtimestamp(time.time() - delay, UTC)
            yield LivePrediction(
                source=source,
                time=came.isoformat(timespec="milliseconds"),
                start=round(clip[0].time, 3),
                end=round(clip[-1].time, 3),
                delay=round(delay, 3),
                top=best(scores, model.labels, model.topk),
                labels=labels,
                none_of_these=not labels,
            )
    finally:
        newest.closed.set()


class NewestFrames:
    """The newest frames of a source: one thread runs `read`, another takes clips with `wait`.

    Attributes:
        began: arrival of the source's first frame, in seconds of `time.monotonic`; None before.
        frames: as many as the next clip needs, two at least.
        closed: set when no more clips are wanted; `read` then ends with the next packet.
    """

    def __init__(self, source: str, clips: ClipReader) -> None:
        self.source = source
        self.name = "Standard input" if source == PIPE else source
        self.preprocessing = clips.preprocessing
        self.sampling = sampling = clips.sampling
        if sampling.fps is None:
            self.frames: deque[Frame] = deque(maxlen=max(2, sampling.span))
            self.seconds = np.inf
        else:
            self.frames = deque()
            self.seconds = (sampling.length - 1) * sampling.stride / sampling.fps
        self.began: float | None = None
        self.latest = 0.0  # time of the newest frame
        self.offset = 0.0  # seconds from the stream's clock to the time since the source began
        self.closed = threading.Event()
        self.changed = threading.Condition()
        self.error: Exception | None = None
        self.ended = False
        self.scored = -np.inf  # time of the last frame of the clip before

    def wait(self, hop: float | None = None) -> list[Frame] | None:
        """The newest clip, as soon as it ends `hop` seconds (None: half a clip) after the one
        before; None at the end of the source.

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
        # Measured, because many cameras take half of the announced frames in the dark.
        rate = steps / (self.frames[-1].time - self.frames[0].time)
        sampling = self.sampling.at(rate)
        least = sampling.span / rate / 2 if hop is None else hop
        if sampling.span > len(self.frames) or self.frames[-1].time - self.scored < least:
            return None
        if self.sampling.fps is None:
            chosen = sampling.clip(len(self.frames) - sampling.span, len(self.frames))
        else:
            times = np.array([frame.time for frame in self.frames])
            moments = np.linspace(times[-1] - self.seconds, times[-1], sampling.length)
            chosen = nearest(times, moments)
        return [self.frames[index] for index in chosen]

    def read(self) -> None:
        """Read a pipe to its end; open any other source again whenever it breaks off."""
        pause = SHORTEST_WAIT
        try:
            while True:
                reason = "it ended"
                try:
                    for frame, came in decode(self.source, self.closed):
                        pause = SHORTEST_WAIT
                        self.add(frame, came)
                except av.error.ExitError:
                    reason = f"nothing came for {PATIENCE:.0f} s"
                except av.FFmpegError as error:
                    reason = error.strerror or str(error)
                if self.began is None and not self.closed.is_set():
                    raise ActionrecError(
                        f"{self.name} gives no video ({reason}); check that it does elsewhere, "
                        "and that no other program uses it."
                    )
                if self.source == PIPE or self.closed.is_set():
                    return
                with self.changed:
                    self.frames.clear()
                logger.warning(
                    "%s broke off (%s); it is opened again in %.0f s.", self.source, reason, pause
                )
                if self.closed.wait(pause):
                    return
                pause = min(2 * pause, LONGEST_WAIT)
        except Exception as error:
            self.error = error
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify()

    def add(self, frame: av.VideoFrame, came: float) -> None:
        """Append a frame, whose packet came at `came`, in seconds of `time.monotonic`, and drop
        the frames that no clip needs any more."""
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
                # Time never goes back: a source may have been ahead of the clock on the wall.
                self.offset = max(came - self.began, self.latest) - taken
            self.latest = taken + self.offset
            self.frames.append(Frame(pixels, self.latest, came))
            while len(self.frames) > 2 and (
                self.frames[-1].time - self.frames[1].time >= self.seconds
            ):
                self.frames.popleft()
            self.changed.notify()


def decode(
    source: str, closed: threading.Event | None = None
) -> Iterator[tuple[av.VideoFrame, float]]:
    """The frames of a source and the arrival of their packets, in seconds of `time.monotonic`.

    When packets come faster than they can be decoded, all up to a key frame are dropped, so that
    the frames are never much older than the newest packet. Ends with the source or once `closed`.

    Raises:
        ActionrecError: the source has no video, or too large frames.
        av.FFmpegError: the source can't be opened, or breaks off.
    """
    with open_source(source) as container:
        [stream, *_] = container.streams.video or [None]
        if stream is None or stream.codec_context is None:
            raise ActionrecError(f"{source} has no pictures; choose a source of video.")
        limit_size(source, stream)
        backlog = Backlog()
        behind_since, warned = np.inf, False
        packets = container.demux(stream)
        while True:
            asked = time.monotonic()
            packet = next(packets, None)
            if packet is None or (closed is not None and closed.is_set()):
                return
            came = time.monotonic()
            if packet.dts is not None:
                lag = backlog.lag(float(packet.dts * packet.time_base), came, came - asked)
                if lag > MOST_LAG:
                    behind_since = min(behind_since, came)
                    if not warned:
                        warned = True
                        logger.warning(
                            "%s comes faster than it is decoded; parts are left out.", source
                        )
                if behind_since < np.inf:
                    # There are streams without another key frame.
                    begins = packet.is_keyframe or came > behind_since + LONGEST_WAIT
                    if lag > MOST_LAG / 2 or not begins:
                        continue
                    behind_since = np.inf
                    stream.codec_context.flush_buffers()
            # A packet may be damaged, or refer to frames from before we tuned in.
            with suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    if not frame.is_corrupt:
                        yield frame, came


class Backlog:
    """Measures how far the packets of a source lag behind.

    A packet that waited between the source and us was recorded earlier than one that did not: the
    smallest difference of the two clocks is the one without lag. A packet that we waited for has
    none, whatever the clocks say: its source is slow, paused, or states a wrong rate.
    """

    def __init__(self) -> None:
        self.least = np.inf
        self.before = (-np.inf, -np.inf)

    def lag(self, taken: float, came: float, waited: float) -> float:
        """Seconds of lag of a packet that was `taken` and `came`, each in seconds of its clock,
        after we had `waited` for it."""
        taken_before, came_before = self.before
        self.before = (taken, came)
        step = taken - taken_before
        # Another clock, one that was set anew, or nothing in store.
        if not 0 < step < LONGEST_GAP or waited > step / 2:
            self.least = np.inf
        forgotten = CLOCK_DRIFT * (came - came_before)
        self.least = min(self.least + forgotten, came - taken)
        return came - taken - self.least


def open_source(source: str) -> av.container.InputContainer:
    """Open a camera, a stream or standard input.

    Raises:
        ActionrecError: cameras can't be opened on this system.
        av.FFmpegError: the source can't be opened.
    """
    file_format, address, timeout = None, source, PATIENCE
    if source == PIPE:
        # The program that writes into a pipe may pause.
        address, timeout = "pipe:0", None
    elif source.startswith(CAMERA):
        if sys.platform not in CAMERAS:
            raise ActionrecError(f"{source}: cameras can't be opened on {sys.platform}.")
        file_format, pattern = CAMERAS[sys.platform]
        address = pattern.format(source.removeprefix(CAMERA))
    # RTSP over UDP loses packets silently.
    options = {"rtsp_flags": "prefer_tcp"} if source.startswith("rtsp") else {}
    return av.open(address, format=file_format, options=options, timeout=timeout)
