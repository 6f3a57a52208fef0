"""Write pictures as a video file.

with VideoWriter("out.mp4", size=(240, 320), rate=25) as writer:
    for picture in pictures:  # uint8 RGB (240, 320, 3)
        writer.write(picture)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

# H.264 that browsers play: the fastest preset that looks good, and the index in front.
H264 = {"preset": "veryfast", "crf": "20"}
FAST_START = {"movflags": "+faststart"}
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi", ".m4v": "mp4"}


class VideoWriter:
    """Encodes pictures one after the other into a file, which is whole when the block ends.

    Args:
        path: The file; its suffix says the container, unless `container` does.
        size: (height, width) of the pictures in pixels; both even, for 4:2:0.
        rate: Frames a second; without times of their own, pictures are that far apart.
        codec: FFmpeg's name of the encoder.
        options: Of the encoder.
        container: FFmpeg's name of the container.
        time_base: Unit of the time stamps, in seconds; by default a frame, or 1/90,000 s where
            `write` is given times.

    Raises:
        OSError: the file can't be written.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        rate: float | Fraction,
        codec: str = "libx264",
        options: Mapping[str, str] = H264,
        container: str | None = None,
        time_base: Fraction | None = None,
    ) -> None:
        container = container or CONTAINERS[Path(path).suffix.lower()]
        with ffmpeg_errors_as_os_errors():
            self.container = av.open(
                str(path), "w", format=container, options=FAST_START if container == "mp4" else {}
            )
        self.stream = self.container.add_stream(
            codec, rate=Fraction(rate).limit_denominator(100_000), options=dict(options)
        )
        self.stream.height, self.stream.width = size
        self.stream.pix_fmt = "yuv420p"
        if time_base is not None:
            self.stream.codec_context.time_base = time_base
        self.time_base = time_base
        self.written = 0
        self._reformatter = VideoReformatter()

    def write(self, picture: np.ndarray, seconds: float | None = None) -> None:
        """Append a picture, uint8 RGB (height, width, 3), shown from `seconds` on, which needs a
        `time_base`; by default right after the one before."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        height, width = self.stream.height, self.stream.width
        # One thread: swscale's own threads cost more than they save.
        frame = self._reformatter.reformat(frame, width, height, "yuv420p", threads=1)
        if seconds is None:
            frame.pts = self.written
        else:
            frame.pts, frame.time_base = round(seconds / float(self.time_base)), self.time_base
        with ffmpeg_errors_as_os_errors():
            self.container.mux(self.stream.encode(frame))
        self.written += 1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *error: object) -> None:
        with ffmpeg_errors_as_os_errors():
            if error[0] is None:
                self.container.mux(self.stream.encode(None))
            self.container.close()


@contextmanager
def ffmpeg_errors_as_os_errors() -> Iterator[None]:
    """While something is written, FFmpeg's errors are those of the disk."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
