"""The frame index of a video file: how many frames it has and how to get at them.

    python -c "from actionrec.video.index import index_of; print(index_of('video.mp4').frames)"

A file is scanned packet by packet, which takes milliseconds, and the result is kept in the user's
cache under the file's path, size and time of change, so that 13,320 files are scanned once.
"""

import errno
import json
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

import av
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition

from actionrec.errors import VideoError
from actionrec.files import cache_folder

logger = logging.getLogger(__name__)

# Raise it with every change of what a scan finds, so that files are scanned anew.
VERSION = 2
# A file that was changed a moment ago may be changed again without a new size or time.
SETTLED = 2.0  # seconds

# A header may count a few frames more than were written; a file that was cut lacks far more.
ANNOUNCED_SHARE = 0.98
# Containers whose header states a duration but no number of frames.
TIMED_CONTAINERS = {"matroska,webm", "flv", "asf"}
# Here a packet may hold no frame to be shown: VP8 has hidden reference frames, and a recorded
# transport stream may begin with frames whose references were sent before.
UNCOUNTABLE = {"vp8", "mpegts"}
# Containers whose time stamps tell the frames apart and whose key frames can be sought.
SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# MPEG-4: what begins a picture, and how long a packet can be that only says "as before". Of two
# pictures packed into one packet, the second has its place held by such a packet.
PICTURE_START = b"\x00\x00\x01\xb6"
NOT_CODED_SIZE = 8  # bytes
# What FFmpeg can also open: pictures, and texts that name other files or are drawn as letters.
NOT_VIDEO = ("_pipe", "image2", "concat", "hls", "dash", "tty", "lavfi")
# Frames without a container. FFmpeg finds them in an archive too, or where a container's header is
# damaged; how many there should be, nobody knows.
BARE_FRAMES = {"m4v", "h264", "hevc", "vvc", "obu", "mjpeg"}
# More than any camera has, and as many as a damaged header may ask memory for.
MOST_PIXELS = 1 << 27
# PyAV below 19 raises UnicodeDecodeError at a title, say, that isn't UTF-8, unless told otherwise;
# later it never does, and has no such argument.
OPTIONS = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclass(frozen=True)
class Orientation:
    """The turn of a decoded frame for display: first rows and columns change places, then the order
    of rows or columns is reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video file and how to get at them.

    `frames` is their number, `fps` their average rate, `size` the (height, width) of the first
    one as it is shown, `orientation` how to get there from the decoded picture.

    `access` says how frames are found: "count", by decoding from the start and counting; "skip",
    the same, but frames that no other one refers to needn't be decoded on the way; "time", by
    their time stamps, beginning at a key frame. For "time", `pts` holds the time stamp of every
    frame, and `keys` that of every key frame and the time to seek it by, in units of the stream's
    time base, in order.
    """

    frames: int
    fps: float
    size: tuple[int, int]
    orientation: Orientation
    access: Literal["count", "skip", "time"]
    pts: tuple[int, ...] = ()
    keys: tuple[tuple[int, int], ...] = ()

    def to_bytes(self) -> bytes:
        """The index as compressed JSON; time stamps as differences, which compress best."""
        values = asdict(self) | {
            "pts": [after - before for before, after in zip((0, *self.pts), self.pts, strict=False)]
        }
        return zlib.compress(json.dumps(values).encode())

    @classmethod
    def from_bytes(cls, data: bytes) -> "FrameIndex":
        """The index that `to_bytes` wrote."""
        values = json.loads(zlib.decompress(data))
        return cls(
            **values
            | {
                "size": tuple(values["size"]),
                "orientation": Orientation(**values["orientation"]),
                "pts": tuple(accumulate(values["pts"])),
                "keys": tuple(tuple(key) for key in values["keys"]),
            }
        )


def index_of(path: str | Path) -> FrameIndex:
    """The index of a video file, from the cache if the file was scanned before.

    Raises:
        VideoError: the file is missing, is no video, has no frames, or was cut off.
    """
    path = Path(path)
    try:
        found = path.stat()
    except (OSError, ValueError):
        found = None
    if found is None or not path.is_file():
        raise VideoError(f"{path} is not a file; check the path.")
    if found.st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); copy or download it again.")
    key = (str(path.absolute()), found.st_size, found.st_mtime_ns, VERSION)
    index = _recall(key)
    if index is None:
        index = scan(path)
        if time.time() - found.st_mtime > SETTLED:
            _remember(key, index)
    return index


# The cache


def _recall(key: tuple[str, int, int, int]) -> FrameIndex | None:
    """The index kept under path, size, time of change and version, if there is one."""
    query = "SELECT data FROM indices WHERE path=? AND size=? AND mtime_ns=? AND version=?"
    try:
        row = _database(os.getpid(), cache_folder()).execute(query, key).fetchone()
        return FrameIndex.from_bytes(row[0]) if row else None
    # A broken cache stops nobody: the file itself can be scanned.
    except (sqlite3.Error, OSError, ValueError, TypeError, KeyError, zlib.error) as error:
        logger.debug("The cache of frame indices can't be read: %s", error)
        return None


def _remember(key: tuple[str, int, int, int], index: FrameIndex) -> None:
    try:
        with _database(os.getpid(), cache_folder()) as database:
            database.execute(
                "INSERT OR REPLACE INTO indices VALUES (?, ?, ?, ?, ?)", (*key, index.to_bytes())
            )
    except (sqlite3.Error, OSError, UnicodeError) as error:
        logger.debug("The cache of frame indices can't be written: %s", error)


@cache
def _database(process: int, folder: Path) -> sqlite3.Connection:
    """The connection of this process: a connection of SQLite must not be used after a fork."""
    folder.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(folder / "frame_indices.sqlite", timeout=5, check_same_thread=False)
    # Readers and a writer don't wait for each other, and no write waits for the disk.
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=OFF")
    database.execute(
        "CREATE TABLE IF NOT EXISTS indices "
        "(path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, version INTEGER, data BLOB)"
    )
    return database


# Scanning


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file and its first video stream; FFmpeg's errors become VideoErrors."""
    try:
        # A relative path with a colon, such as 12:30.mp4, would be taken for a URL.
        with av.open(str(path.absolute()), **OPTIONS) as container:
            if container.format.name.endswith(NOT_VIDEO):
                raise VideoError(
                    f"{path} is not a video: FFmpeg takes it for {container.format.long_name}."
                )
            kind, suffix = container.format, path.suffix[1:].lower()
            if kind.name in BARE_FRAMES and suffix not in kind.extensions:
                raise VideoError(
                    f"{path} is damaged or is not a video: it holds frames ({kind.long_name}) "
                    "without the container around them; copy or download it again."
                )
            # The cover picture of a song is a video stream too.
            streams = [
                stream
                for stream in container.streams.video
                if not stream.disposition & Disposition.attached_pic
            ]
            if not streams:
                only = "only other media" if container.streams else "nor any other: it is damaged"
                raise VideoError(f"{path} has no video stream, {only}.")
            stream = streams[0]
            if stream.codec_context is None:
                raise VideoError(
                    f"{path} is damaged or has a codec that FFmpeg can't decode; encode "
                    "it again, for example as H.264."
                )
            stream.codec_context.thread_type = "NONE"
            yield container, stream
    # A demuxer can also run out of memory, or say so, on flipped bits.
    except (av.error.FFmpegError, MemoryError) as error:
        # FFmpeg's "Operation not permitted" is about a file's contents.
        if getattr(error, "errno", None) == errno.EACCES:
            raise VideoError(f"{path} may not be read; change its permissions.") from error
        reason = getattr(error, "strerror", None) or "out of memory"
        raise VideoError(
            f"{path} could not be read as a video ({reason}); it is damaged, "
            "incomplete or in a format that FFmpeg does not know."
        ) from error


def scan(path: Path) -> FrameIndex:
    """Count the packets that hold a frame to be shown, and decode the first frame.

    That count was exact on every healthy file that we measured; `stream.frames` was not. In
    formats whose packets can't tell, all frames are decoded and counted.

    Raises:
        VideoError: the file is no video, has no frames, or was cut off.
    """
    with opened(path) as (container, stream):
        codec, kind = stream.codec_context.name, container.format.name
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        decodes = bool({codec, kind} & UNCOUNTABLE)
        timed = kind in TIMED_CONTAINERS
        mpeg4_avi = (kind, codec) == ("avi", "mpeg4")
        listed = [entry.timestamp for entry in stream.index_entries] if kind == "avi" else []
        first = None
        packets = decoded = empty = not_coded = pictures = 0
        end = 0.0
        shown: list[int | None] = []
        keys: list[tuple[int | None, int | None]] = []
        # The sound may last longer than the picture, so all streams say how far the file goes.
        for packet in container.demux():
            if timed and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            if packet.is_corrupt:
                raise VideoError(
                    f"{path} has only a part of frame {packets}; it was cut off or is "
                    "damaged: copy or download it again."
                )
            # FFmpeg ends with a packet of its own that flushes the decoder.
            if packet.dts is not None or packet.size > 0:
                packets += 1
                empty += packet.size == 0
                if packet.is_keyframe:
                    # Matroska's index is by the time a frame is shown, MP4's by that of decoding.
                    keys.append((packet.pts, packet.pts if timed else packet.dts))
                if packet.size > 0 and not packet.is_discard:
                    shown.append(packet.pts)
                if mpeg4_avi and packet.size <= NOT_CODED_SIZE:
                    not_coded += 1
                elif mpeg4_avi:
                    pictures += bytes(packet).count(PICTURE_START)
            if first is None or decodes:
                frames = packet.decode()
                first = first or next(iter(frames), None)
                decoded += len(frames)
                if first is not None and first.width * first.height > MOST_PIXELS:
                    raise VideoError(
                        f"{path} has frames of {first.width}x{first.height} pixels, which no "
                        "camera gives; it is damaged: copy or download it again."
                    )
        # A chunk of length 0 says "as before": the header counts it, and FFmpeg passes over it.
        whole = 1 < packets == len(listed) and (
            listed[-1] * packets / (packets - 1) >= ANNOUNCED_SHARE * stream.frames
        )
        if packets < ANNOUNCED_SHARE * stream.frames and not whole:
            raise VideoError(
                f"{path} was cut off: it announces {stream.frames} frames and holds "
                f"{packets}; copy or download it again."
            )
        announced = (container.duration or 0) / av.time_base
        # A muxer need not write how long the last frame is shown.
        if timed and end + 1 / fps < ANNOUNCED_SHARE * announced:
            raise VideoError(
                f"{path} was cut off: it announces {announced:.1f} s and ends after "
                f"{end:.1f} s; copy or download it again."
            )

    frames = decoded if decodes else len(shown)
    access: Literal["count", "skip", "time"] = "count"
    packed_pairs = pictures - (packets - not_coded)
    if mpeg4_avi and 0 <= packed_pairs < not_coded:
        # The encoder left out frames in which nothing moved; they are not shown again.
        frames = pictures
    elif mpeg4_avi and not empty and packed_pairs in (not_coded, not_coded + 1):
        # The last pair may be cut short by the end of the file.
        access = "skip"
    stamps = sorted({pts for pts in shown if pts is not None})
    complete = len(stamps) == frames and None not in {value for key in keys for value in key}
    if kind in SEEKABLE and complete and keys and not empty:
        access = "time"
    if first is None or frames == 0:
        raise VideoError(f"{path} has no frame that can be decoded.")
    orientation = _orientation(first)
    size = (first.height, first.width)
    return FrameIndex(
        frames=frames,
        fps=fps,
        size=size[::-1] if orientation.transpose else size,
        orientation=orientation,
        access=access,
        pts=tuple(stamps) if access == "time" else (),
        keys=tuple(sorted(keys)) if access == "time" else (),
    )


def _orientation(frame: av.VideoFrame) -> Orientation:
    """How the display matrix of a phone's video, if there is one, turns and mirrors the frame.

    The matrix (a b u, c d v, x y w) of 16.16 fixed-point numbers takes column p and row q of the
    picture to column a p + c q and row b p + d q of the screen.
    """
    side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if side_data is None:
        return Orientation()
    a, b, _, c, d, *_ = memoryview(side_data).cast("B").cast("i")
    if abs(a) >= abs(b):
        return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)
