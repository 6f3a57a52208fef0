"""Evidence that a shortcut to the frames of a file gives the frames of a decode from the start.

    python -c "from actionrec.video.index import scan; print(scan('video.mp4').access)"

Time stamps and key frames are what a file says of itself, and files err: an AVI copied into MP4 has
stamps that are not in display order, and an edit list can begin where no decoder can. A file is
decoded once from its start; then from every key frame again. Only if stamps and pictures agree are
they believed, and the finding is kept with the file's index.
"""

import math
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np

from actionrec.errors import VideoError
from actionrec.video.address import VideoPath
from actionrec.video.container import opened

# Pictures without the deblocking filter show a missing reference all the same, and cost less.
FAST = {"skip_loop_filter": "all"}
STRICT = {"err_detect": "explode"}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded frame: its time stamp, a checksum of its picture, and whether the decoder knows of
    damage in it."""

    pts: int | None
    checksum: int
    is_corrupt: bool


def decode_once(path: VideoPath, strict: bool = False) -> list[Decoded]:
    """All frames of a file, decoded from its start.

    Raises:
        VideoError: the file can't be read, or is `strict` and the decoder finds an error in it.
    """
    with opened(path) as (container, stream):
        stream.codec_context.options |= FAST | STRICT if strict else FAST
        return [_decoded(frame) for frame in container.decode(stream)]


def prove_shortcut(
    path: VideoPath, frames: Sequence[Decoded], keys: Sequence[tuple[int, int]]
) -> bool:
    """Whether decoding from each key frame on gives the frames of the decode from the start.

    Args:
        path: The file.
        frames: All of its frames, with stamps that increase.
        keys: The stamp of each key frame and the time to seek it by, in order.
    """
    stamps = [frame.pts for frame in frames]
    starts = [*(bisect_left(stamps, begin) for begin, _ in keys), len(frames)]
    runs = list(zip(starts, starts[1:], keys, strict=False))[1:]
    try:
        return all(_gives(path, seek, frames[start:end]) for start, end, (_, seek) in runs)
    # The file can be read from its start, as `frames` shows.
    except VideoError:
        return False


def prove_parts(path: VideoPath, stamps: Sequence[int], keys: Sequence[tuple[int, int]]) -> bool:
    """As `prove_shortcut`, for parts of a long file: its beginning, middle and end.

    Args:
        path: The file.
        stamps: The stamps of its packets, in order.
        keys: The stamp of each of its key frames and the time to seek it by, in order.
    """
    parts = (0, len(keys) // 2 - 1, len(keys) - 2)
    try:
        return all(_part_is_exact(path, stamps, keys, part) for part in parts)
    except VideoError:
        return False


def _part_is_exact(
    path: VideoPath, stamps: Sequence[int], keys: Sequence[tuple[int, int]], part: int
) -> bool:
    """Whether the two groups of frames from key frame number `part` on have all their stamps, the
    first of them at the beginning of the file, and the second may be begun at."""
    (begin, seek), (middle, seek_middle) = keys[part], keys[part + 1]
    end = keys[part + 2][0] if part + 2 < len(keys) else float("inf")
    frames = []
    for frame in _decode_from(path, seek if part else None):
        if frame.pts is None or frame.pts >= end:
            break
        frames.append(frame)
    first = middle if part else min(begin, stamps[0])
    frames = [frame for frame in frames if frame.pts >= first]
    announced = list(stamps[bisect_left(stamps, first) : bisect_left(stamps, end)])
    second = [frame for frame in frames if frame.pts >= middle]
    return [frame.pts for frame in frames] == announced and _gives(path, seek_middle, second)


def _gives(path: VideoPath, seek: int, frames: Sequence[Decoded]) -> bool:
    """Whether a new decoder that begins at the key frame `seek` gives these frames."""
    expected = deque(frames)
    for frame in _decode_from(path, seek) if expected else ():
        if frame.pts is None or frame.pts < expected[0].pts:
            continue
        following = expected.popleft()
        if (frame.pts, frame.checksum) != (following.pts, following.checksum):
            return False
        if not expected:
            return True
    return not expected


def _decode_from(path: VideoPath, seek: int | None) -> Iterator[Decoded]:
    """The frames of a new decoder from a key frame on, or from the start.

    Opened anew: some decoders keep pictures beyond a seek.
    """
    with opened(path) as (container, stream):
        stream.codec_context.options |= FAST
        if seek is not None:
            container.seek(seek, stream=stream, backward=True)
        for picture in container.decode(stream):
            yield _decoded(picture)


def _decoded(frame: av.VideoFrame) -> Decoded:
    checksum, components = 0, frame.format.components
    for number, plane in enumerate(frame.planes):
        bits = [each.bits for each in components if each.plane == number]
        size = sum((each + 7) // 8 for each in bits)
        if len(frame.planes) == 1:
            size = frame.format.padded_bits_per_pixel / 8
        rows = np.frombuffer(plane, np.uint8)[: plane.height * plane.line_size]
        # Beyond the width lies memory that nobody has set.
        used = rows.reshape(plane.height, plane.line_size)[:, : math.ceil(plane.width * size)]
        checksum = zlib.crc32(np.ascontiguousarray(used), checksum)
    return Decoded(frame.pts, checksum, frame.is_corrupt)
