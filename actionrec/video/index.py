"""The frame index of a video file: how many frames it has and how to get at them.

    python -c "from actionrec.video.index import index_of; print(index_of('video.mp4').frames)"

Files like UCF-101's are scanned packet by packet, which takes milliseconds; others are decoded once
from the start. The result is kept in the user's cache under the file's path, size, time of change
and a checksum of samples, so that 13,320 files are scanned once.
"""

import json
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cache, cached_property, lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType

from actionrec.errors import ActionrecError, VideoError
from actionrec.files import cache_folder
from actionrec.text import json_text
from actionrec.video.address import FRAMES, Address, VideoPath, frame_folder_of, video_path
from actionrec.video.container import is_whole, opened
from actionrec.video.pictures import frame_rate, frames_in, is_frame_folder, size_of
from actionrec.video.proof import decode_once, prove_parts, prove_shortcut
from actionrec.video.sources import NO_FILE

logger = logging.getLogger(__name__)

Access = Literal["count", "skip", "time", "keys", "pictures"]

# Raise it with every change of what a scan finds, so that files are scanned anew.
VERSION = 6
# A file that was changed a moment ago may be changed again without a new size or time.
SETTLED = 2.0  # seconds
CACHE = "frame_indices.sqlite"
UNUSABLE = (
    *(sqlite3.Error, OSError, ActionrecError),
    *(ValueError, TypeError, KeyError, zlib.error),
)
SAMPLE = 4096  # bytes

# A header may count a few frames more than were written; a file that was cut lacks far more.
ANNOUNCED_SHARE = 0.98
# Containers whose header states a duration but no number of frames.
TIMED_CONTAINERS = {"matroska,webm", "flv", "asf"}
# Containers whose time stamps tell the frames apart and whose key frames can be sought.
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
SEEKABLE = {MOV, "matroska,webm"}
# Codecs whose decoders give nothing before a key frame.
BEGIN_AT_KEY_FRAMES = {"av1", "vp9"}
# Frames times pixels of a file whose shortcut is proven by decoding all of it: some seconds.
MOST_PROVEN_PIXELS = 2 * 10**8
# Parts of a longer one are proven if it has this many key frames; else they were nearly all of it.
FEWEST_KEYS = 10
# MPEG-4: what begins a picture, and how long a packet can be that only says "as before". Of two
# pictures packed into one packet, the second has its place held by such a packet.
PICTURE_START = b"\x00\x00\x01\xb6"
NOT_CODED_SIZE = 8  # bytes


@dataclass(frozen=True)
class Orientation:
    """The turn of a decoded frame for display: first rows and columns change places, then the order
    of rows or columns is reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False


# By the angle, counterclockwise, that the picture is to be turned by.
TURNED = {
    90: Orientation(True, flip_rows=True),
    180: Orientation(False, True, True),
    270: Orientation(True, flip_columns=True),
}


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video file and how to get at them.

    `frames` is their number, `fps` their average rate, `size` the (height, width) of the first
    one as it is shown, `orientation` how to get there from the decoded picture.

    `access` says how frames are found: "count", by decoding from the start and counting; "skip",
    the same, but frames that no other one refers to needn't be decoded on the way; "time", by
    their time stamps, beginning at a key frame, which a decode of the whole file has proven to be
    exact; "keys", likewise but proven in parts, with checks on the way; "pictures", in files of
    their own.

    `pts` holds the time stamp of every frame in order, where stamps are in the order of the frames;
    else it is empty. `keys` holds that of every key frame and the time to seek it by. Both are in
    units of `time_base` seconds; `begin` is the stamp of the file's beginning. `damage` says what
    is wrong with a file that can be read all the same; `reports_damage` whether the decoder's word
    on single frames is to be believed.
    """

    frames: int
    fps: float
    size: tuple[int, int]
    orientation: Orientation
    access: Access
    pts: tuple[int, ...] = ()
    keys: tuple[tuple[int, int], ...] = ()
    time_base: float = 0.0
    begin: int = 0
    damage: str = ""
    reports_damage: bool = True

    @cached_property
    def is_regular(self) -> bool:
        """Whether the time stamps are evenly spaced, up to rounding to the container's unit."""
        steps = {after - before for before, after in pairwise(self.pts)}
        return not steps or max(steps) - min(steps) <= max(1, min(steps) // 20)

    def to_bytes(self) -> bytes:
        """The index as compressed JSON; time stamps as differences, which compress best."""
        values = asdict(self) | {
            "pts": [after - before for before, after in zip((0, *self.pts), self.pts, strict=False)]
        }
        return zlib.compress(json_text(values).encode())

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


def index_of(path: str | VideoPath) -> FrameIndex:
    """The index of a video file, from the cache if the file was scanned before, or of a folder of
    frames.

    Raises:
        VideoError: the file is missing, is no video, has no frames, or was cut off.
    """
    path = video_path(path)
    if isinstance(path, Address):
        if path.scheme == FRAMES:
            folder, rate = frame_folder_of(path)
            if not is_frame_folder(folder):
                raise VideoError(f"{folder} is not a folder of frames; check the path.")
            return index_of_pictures(folder, rate)
        path = path.pinned()
    if isinstance(path, Path) and is_frame_folder(path):
        return index_of_pictures(path, frame_rate())
    try:
        found = path.stat()
    except (OSError, ValueError):
        found = None
    if found is None or not path.is_file():
        raise VideoError(NO_FILE.format(path))
    if found.st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); copy or download it again.")
    key = (str(path.absolute()), found.st_size, found.st_mtime_ns, VERSION)
    content = _fingerprint(path, found.st_size) if isinstance(path, Path) else 0
    try:
        index = _recall_recent(cache_folder(), key, content)
    # Without a home folder there is no cache.
    except (LookupError, ActionrecError):
        index = scan(path)
        if time.time() - found.st_mtime > SETTLED:
            _remember(key, content, index)
    if index.damage:
        warn_of_damage(path, index.damage)
    return index


def index_of_pictures(folder: Path, rate: float) -> FrameIndex:
    """The index of a folder of frames, `rate` of them a second.

    Raises:
        VideoError: a frame is missing, or the first one can't be read.
    """
    pictures = frames_in(folder)
    return FrameIndex(
        frames=len(pictures),
        fps=rate,
        size=size_of(pictures[0]),
        orientation=Orientation(),
        access="pictures",
        reports_damage=False,
    )


def _fingerprint(path: Path, size: int) -> int:
    """A checksum of the file's beginning, middle and end: a copy of other content can have the
    same size and time of change."""
    checksum = 0
    try:
        with path.open("rb") as file:
            for place in (0, size // 2, max(0, size - SAMPLE)):
                file.seek(place)
                checksum = zlib.crc32(file.read(SAMPLE), checksum)
    except OSError as error:
        raise VideoError(f"{path} may not be read ({error.strerror}).") from error
    return checksum


@cache
def warn_of_damage(path: VideoPath, damage: str) -> None:
    """Tell once in the life of this process that a file is read although it is damaged."""
    logger.warning("%s is read although it is damaged: %s.", path, damage)


# The cache


@lru_cache(maxsize=4)
def _recall_recent(folder: Path, key: tuple[str, int, int, int], content: int) -> FrameIndex:
    """The index as `_recall` finds it in the cache of a folder, the last few of them at once: of an
    hour of video it takes as long to parse as a clip takes to decode, and many segments may be read
    from one file. A LookupError where there is none."""
    index = _recall(key, content)
    if index is None:
        raise LookupError
    return index


def _recall(key: tuple[str, int, int, int], content: int) -> FrameIndex | None:
    """The index kept under path, size, time of change, version and content, if there is one."""
    query = (
        "SELECT data FROM frame_indices "
        "WHERE path=? AND size=? AND mtime_ns=? AND version=? AND content=?"
    )
    try:
        row = _database(os.getpid(), cache_folder()).execute(query, (*key, content)).fetchone()
        return FrameIndex.from_bytes(row[0]) if row else None
    # A broken cache stops nobody: the file itself can be scanned.
    except UNUSABLE as error:
        logger.debug("The cache of frame indices can't be read: %s", error)
        _delete_damaged(error)
        return None


def _remember(key: tuple[str, int, int, int], content: int, index: FrameIndex) -> None:
    try:
        with _database(os.getpid(), cache_folder()) as database:
            database.execute(
                "INSERT OR REPLACE INTO frame_indices VALUES (?, ?, ?, ?, ?, ?)",
                (*key, content, index.to_bytes()),
            )
    except UNUSABLE as error:
        logger.debug("The cache of frame indices can't be written: %s", error)


def _delete_damaged(error: Exception) -> None:
    """Delete the cache if it is no database or a damaged one, so that the next file begins anew."""
    # Its subclasses tell of other troubles: locked, not writable, a full disk.
    if type(error) is sqlite3.DatabaseError:
        _database.cache_clear()
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                (cache_folder() / f"{CACHE}{suffix}").unlink()


@cache
def _database(process: int, folder: Path) -> sqlite3.Connection:
    """The connection of this process: a connection of SQLite must not be used after a fork."""
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever writes is done in a millisecond; what holds the file longer is not waited for.
    database = sqlite3.connect(folder / CACHE, timeout=0.02, check_same_thread=False)
    # Readers and a writer don't wait for each other, and no write waits for the disk.
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=OFF")
    database.execute(
        "CREATE TABLE IF NOT EXISTS frame_indices (path TEXT PRIMARY KEY, size INTEGER, "
        "mtime_ns INTEGER, version INTEGER, content INTEGER, data BLOB)"
    )
    return database


# Scanning


@dataclass
class _Survey:
    """The packets of a file's video stream, in the order in which they lie there."""

    codec: str
    container: str
    announced: int
    seconds: float
    rate: Fraction | None
    time_base: Fraction
    begin: int
    chunks: list[int]
    packets: int = 0
    empty: int = 0
    not_coded: int = 0
    pictures: int = 0
    corrupt: int = 0
    cuts: int = 0
    ends_corrupt: bool = False
    end: float = 0.0
    pixels: int = 0
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    keys: list[tuple[int | None, int | None]] = field(default_factory=list)
    first: av.VideoFrame | None = None

    @property
    def is_mpeg4_avi(self) -> bool:
        return (self.container, self.codec) == ("avi", "mpeg4")


def scan(path: VideoPath) -> FrameIndex:
    """Find the frames of a file, and a way to read them that is exact.

    MPEG-4 in AVI, the format of UCF-101, is counted packet by packet, which takes milliseconds.
    Every other file is decoded once from its start: that tells the number of frames and their
    order. Time stamps and key frames become a shortcut only if they pass `prove_shortcut`.
    Of files that are too long for that only parts must pass, and they are read from their key
    frames with checks (see `VideoReader`).

    Raises:
        VideoError: the file is no video, has no frames, or was cut off.
    """
    survey = _survey(path)
    _require_whole(path, survey)
    found = _mpeg4_avi(survey) if survey.is_mpeg4_avi else None
    stamps = sorted({pts for pts in survey.pts if pts is not None})
    complete = len(stamps) == len(survey.pts) > 0 and None not in {
        v for k in survey.keys for v in k
    }
    timed = survey.container in SEEKABLE and complete and survey.keys and not survey.empty
    access: Access = "count"
    # Of H.264 the decoder's flag only says that decoding began between two clean places.
    reports_damage = survey.codec != "h264"
    damage = "parts of it are missing or damaged" if survey.corrupt else ""
    if found is not None:
        frames, access = found
        stamps = []
    elif (
        timed
        and survey.pixels > MOST_PROVEN_PIXELS
        and len(survey.keys) >= FEWEST_KEYS
        and not (damage or survey.cuts)
        and prove_parts(path, stamps, sorted(survey.keys))
    ):
        frames, access = len(stamps), "keys"
    else:
        # What a decoder makes of an error depends on the frames before it.
        try:
            decoded, sound = decode_once(path, strict=True), True
        except VideoError:
            decoded, sound = decode_once(path), False
        frames = len(decoded)
        shown = [frame.pts for frame in decoded]
        in_order = None not in shown and all(a < b for a, b in pairwise(shown))
        if timed and sound and not damage and in_order and shown == stamps:
            access = "time" if prove_shortcut(path, decoded, sorted(survey.keys)) else "count"
        stamps = shown if in_order else []
        if reports_damage and any(frame.is_corrupt for frame in decoded):
            damage = "the decoder had to make up parts of it"
    if survey.first is None or frames == 0:
        raise VideoError(f"{path} has no frame that can be decoded.")
    orientation = _orientation(survey.first)
    size = (survey.first.height, survey.first.width)
    return FrameIndex(
        frames=frames,
        fps=_frame_rate(survey, stamps),
        size=size[::-1] if orientation.transpose else size,
        orientation=orientation,
        access=access,
        pts=tuple(stamps),
        keys=tuple(sorted(survey.keys)) if access in ("time", "keys") else (),
        time_base=float(survey.time_base),
        begin=survey.begin,
        damage=damage,
        reports_damage=reports_damage,
    )


def _survey(path: VideoPath) -> _Survey:
    """Read all packets of a file, and decode its first frame."""
    with opened(path) as (container, stream):
        kind = container.format.name
        start = container.start_time
        announced = stream.frames
        # An edit list leaves frames out; FFmpeg lists those that stay.
        if kind == MOV and (listed := len(stream.index_entries)):
            announced = min(announced, listed)
        survey = _Survey(
            codec=stream.codec_context.name,
            container=kind,
            announced=announced,
            seconds=(container.duration or 0) / av.time_base,
            rate=stream.average_rate or stream.guessed_rate,
            time_base=stream.time_base,
            begin=round(Fraction(start, av.time_base) / stream.time_base) if start else 0,
            chunks=[entry.timestamp for entry in stream.index_entries] if kind == "avi" else [],
        )
        timed = kind in TIMED_CONTAINERS
        # The sound may last longer than the picture, so all streams say how far a file goes.
        for packet in container.demux() if timed else container.demux(stream):
            if timed and packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                survey.end = max(survey.end, end)
            if packet.stream.index == stream.index:
                _count(survey, packet, timed)
                if survey.first is None:
                    survey.first = _first_frame(path, packet, survey)
                    if survey.first is not None:
                        survey.pixels = survey.first.width * survey.first.height
        survey.pixels *= survey.packets
    return survey


def _first_frame(path: VideoPath, packet: av.Packet, survey: _Survey) -> av.VideoFrame | None:
    try:
        return next(iter(packet.decode()), None)
    except av.error.InvalidDataError as error:
        # Other decoders than these say so of damage, and begin between key frames all the same.
        codec = packet.stream.codec_context.codec.canonical_name
        if survey.keys or codec not in BEGIN_AT_KEY_FRAMES:
            raise
        raise VideoError(
            f"{path} begins between two key frames, so its first frames can't be decoded; encode "
            "it again, or cut it at a key frame."
        ) from error


def _count(survey: _Survey, packet: av.Packet, timed: bool) -> None:
    # FFmpeg ends with a packet of its own that flushes the decoder.
    if packet.dts is None and packet.size == 0:
        return
    survey.packets += 1
    survey.corrupt += packet.is_corrupt
    survey.ends_corrupt = packet.is_corrupt
    survey.empty += packet.size == 0
    # What an edit list leaves out at the beginning is no cut.
    survey.cuts += packet.is_discard and bool(survey.pts)
    if packet.is_keyframe:
        # Matroska's index is by the time a frame is shown, MP4's by that of decoding.
        survey.keys.append((packet.pts, packet.pts if timed else packet.dts))
    if packet.size > 0 and not packet.is_discard:
        survey.pts.append(packet.pts)
        survey.dts.append(packet.dts)
    if survey.is_mpeg4_avi:
        if packet.size <= NOT_CODED_SIZE:
            survey.not_coded += 1
        else:
            survey.pictures += bytes(packet).count(PICTURE_START)


def _require_whole(path: VideoPath, survey: _Survey) -> None:
    """Compare what a file's header announces with what the file holds.

    Raises:
        VideoError: the file was cut off. A header that announces too much in a file that is whole
            by the sizes of its parts is only wrong.
    """
    packets = survey.packets
    # A recording of a transport stream may end anywhere.
    if survey.ends_corrupt and survey.container != "mpegts":
        raise VideoError(
            f"{path} has only a part of frame {packets - 1}; it was cut off or is damaged: copy or "
            "download it again."
        )
    # What an AVI lists and does not hold is lost in its middle.
    if is_whole(path, survey.container) and len(survey.chunks) <= packets:
        return
    # A chunk of length 0 says "as before": the header counts it, and FFmpeg passes over it.
    listed = 1 < packets == len(survey.chunks) and (
        survey.chunks[-1] * packets / (packets - 1) >= ANNOUNCED_SHARE * survey.announced
    )
    if packets < ANNOUNCED_SHARE * survey.announced and not listed:
        raise VideoError(
            f"{path} was cut off: it announces {survey.announced} frames and holds {packets}; "
            "copy or download it again."
        )
    # A muxer need not write how long the last frame is shown.
    last = float(1 / survey.rate) if survey.rate else 0.04
    timed = survey.container in TIMED_CONTAINERS
    if timed and survey.end + last < ANNOUNCED_SHARE * survey.seconds:
        raise VideoError(
            f"{path} was cut off: it announces {survey.seconds:.1f} s and ends after "
            f"{survey.end:.1f} s; copy or download it again."
        )


def _mpeg4_avi(survey: _Survey) -> tuple[int, Access] | None:
    """Frames and access of MPEG-4 in AVI, as far as packets tell; None where they don't."""
    # A chunk that was lost or left empty: frames that refer to it may not come out.
    if None in survey.dts or any(after != before + 1 for before, after in pairwise(survey.dts)):
        return None
    pairs = survey.pictures - (survey.packets - survey.not_coded)
    if survey.not_coded == 0 and pairs == 0 and not survey.empty:
        return len(survey.pts), "skip"
    # Two pictures in one packet, and later a packet that only says "as before" in the second's
    # place; the last pair may be cut short by the end of the file.
    if not survey.empty and 0 < pairs and pairs in (survey.not_coded, survey.not_coded + 1):
        return len(survey.pts), "skip"
    return None


def _frame_rate(survey: _Survey, stamps: Sequence[int]) -> float:
    """Frames a second: as the header states it, unless a time stamp is half a frame off."""
    times = np.array(stamps or sorted({dts for dts in survey.dts if dts is not None}), float)
    stated = float(survey.rate) if survey.rate else 0.0
    if len(times) < 2 or times[-1] == times[0]:
        return stated or 25.0
    seconds = (times - times[0]) * float(survey.time_base)
    if stated and np.abs(seconds - np.arange(len(times)) / stated).max() < 0.5 / stated:
        return stated
    return float((len(times) - 1) / seconds[-1])


def _orientation(frame: av.VideoFrame) -> Orientation:
    """How the display matrix of a phone's video, if there is one, turns and mirrors the frame.

    The matrix (a b u, c d v, x y w) of 16.16 fixed-point numbers takes column p and row q of the
    picture to column a p + c q and row b p + d q of the screen.
    """
    try:
        side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    # The frame carries side data that PyAV has no name for (two views, say). It still tells the
    # angle, counterclockwise.
    except ValueError:
        return TURNED.get(round(frame.rotation / 90) * 90 % 360, Orientation())
    if side_data is None:
        return Orientation()
    a, b, _, c, d, *_ = memoryview(side_data).cast("B").cast("i")
    if abs(a) >= abs(b):
        return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)
