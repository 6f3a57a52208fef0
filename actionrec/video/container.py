"""Open a video file, and tell whether it is whole."""

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import av
from av.stream import Disposition

from actionrec.errors import VideoError
from actionrec.video.address import Address, VideoPath

if TYPE_CHECKING:
    from actionrec.video.remote import RemoteFile

# What FFmpeg can also open: pictures, and texts that name other files or are drawn as letters.
NOT_VIDEO = ("_pipe", "image2", "concat", "hls", "dash", "tty", "lavfi")
# Frames without a container. FFmpeg finds them in an archive too, or where a container's header is
# damaged; how many there should be, nobody knows.
BARE_FRAMES = {"m4v", "h264", "hevc", "vvc", "obu", "mjpeg"}
# PyAV below 19 raises UnicodeDecodeError at a title, say, that isn't UTF-8, unless told otherwise;
# later it never does, and has no such argument.
OPTIONS = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
# The whole sensor of a 12K camera. FFmpeg and the scaling need up to 20 bytes for each pixel.
LARGEST = 12288, 8192
MOST_PIXELS = LARGEST[0] * LARGEST[1]


@contextmanager
def opened(path: VideoPath) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file and its first video stream; FFmpeg's errors become VideoErrors."""
    try:
        with _file(path) as file, av.open(file, **OPTIONS) as container:
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
            limit_size(path, stream)
            stream.codec_context.thread_type = "NONE"
            yield container, stream
    # PyAV's, where a stream comes up in the middle of a file that its beginning does not announce.
    except IndexError as error:
        raise VideoError(
            f"{path} is damaged: in its middle a stream begins that it does not announce; copy or "
            "download it again."
        ) from error
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


@contextmanager
def _file(path: VideoPath) -> Iterator["str | RemoteFile"]:
    """What PyAV opens: a name of a file, or a remote file, whose errors FFmpeg may have taken for
    the end of it."""
    if not isinstance(path, Address):
        if path.is_dir():
            raise VideoError(f"{path} is a folder, and this needs a video file; make one of it.")
        # A relative path with a colon, such as 12:30.mp4, would be taken for a URL.
        yield str(path.absolute())
        return
    with path.open() as file:
        try:
            yield file
        except Exception:
            if file.error is not None:
                raise file.error from None
            raise
        if file.error is not None:
            raise file.error


def limit_size(source: str | VideoPath, stream: av.VideoStream) -> None:
    """Refuse frames that are too large before memory is taken for one, also those that grow later.

    Raises:
        VideoError: the stream announces such frames.
    """
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    if stream.width * stream.height > MOST_PIXELS:
        raise VideoError(
            f"{source} has frames of {stream.width}x{stream.height} pixels, more than 12K "
            f"({LARGEST[0]}x{LARGEST[1]}), the most that is read; it is damaged, or must be scaled "
            "down."
        )


def is_whole(path: VideoPath, container: str) -> bool:
    """Whether the sizes that a file states of its parts add up to the size of the file.

    False also where the container states none: then nothing is known.
    """
    check = {"avi": _avi_is_whole, "matroska,webm": _matroska_is_whole, "flv": _flv_is_whole}
    if container not in check:
        return False
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        try:
            return check[container](file, size)
        except (struct.error, IndexError, OSError):
            return False


def _avi_is_whole(file: BinaryIO, size: int) -> bool:
    """AVI is a row of RIFF chunks, each with its size (OpenDML has several)."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF" or length == 0:
            break
        position += 8 + length + length % 2
    return 0 < position <= size + 1


def _matroska_is_whole(file: BinaryIO, size: int) -> bool:
    """A Segment, whose size is stated unless it was streamed, follows the EBML header."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(12)
        name_length = 9 - head[0].bit_length()
        length_length = 9 - head[name_length].bit_length()
        body = head[name_length : name_length + length_length]
        length = int.from_bytes(body, "big") & ((1 << (7 * length_length)) - 1)
        if length == (1 << (7 * length_length)) - 1:
            return False
        position += name_length + length_length + length
    return position == size


def _flv_is_whole(file: BinaryIO, size: int) -> bool:
    """Every tag is followed by its size, the last one too."""
    file.seek(size - 4)
    [length] = struct.unpack(">I", file.read(4))
    file.seek(size - 4 - length + 1)
    return length > 11 and int.from_bytes(file.read(3), "big") + 11 == length
