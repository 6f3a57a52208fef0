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

from actionrec.errors import VideoError

# The fastest preset that looks good; it also keeps the fewest frames in memory.
H264 = {"preset": "veryfast", "crf": "20"}
# Of times in seconds that come from no file: MPEG's.
TIME_BASE = Fraction(1, 90_000)
# FFmpeg's names of the containers, by suffix.
CONTAINERS = {
    ".avi": "avi",
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".3gp": "3gp",
}


class VideoWriter:
    """Encodes pictures one after the other into a file, which is whole when the block ends.

    Args:
        path: The file; its suffix is a key of `CONTAINERS`.
        size: (height, width) of the video in pixels; both even for H.264. Pictures of another
            size are scaled.
        rate: Frames a second; without times of their own, pictures are that far apart.
        codec: FFmpeg's name of the encoder.
        options: Options of the encoder.
        time_base: Unit of the times that `write` is given, in seconds.
        aspect_ratio: Width by height of a pixel, if it is no square.
        sound: A file opened by PyAV whose sound `copy_sound` copies.

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
        time_base: Fraction | None = None,
        aspect_ratio: Fraction | None = None,
        sound: av.container.InputContainer | None = None,
    ) -> None:
        container = CONTAINERS[Path(path).suffix.lower()]
        # For browsers, which begin to play when they have the index.
        web = container == "mp4" and codec == "libx264"
        with ffmpeg_errors_as_os_errors():
            self.container = av.open(
                str(path), "w", format=container, options={"movflags": "+faststart"} if web else {}
            )
        if not isinstance(rate, Fraction):
            rate = Fraction(rate).limit_denominator(100_000)
        self.stream = self.container.add_stream(codec, rate=rate, options=dict(options))
        self.stream.height, self.stream.width = size
        self.stream.pix_fmt = "yuv420p"
        context = self.stream.codec_context
        if time_base is not None:
            context.time_base = time_base
        if aspect_ratio is not None:
            context.sample_aspect_ratio = aspect_ratio
        if (container, codec) == ("avi", "mpeg4"):
            context.codec_tag = "XVID"  # the tag that players know
        self.time_base = time_base
        self.written = 0
        self._reformatter = VideoReformatter()
        self._sound: Iterator[tuple[float, av.Packet]] = iter(())
        self._waiting: tuple[float, av.Packet] | None = None
        if sound is not None:
            copies = {
                stream.index: self.container.add_stream_from_template(stream)
                for stream in sound.streams.audio
            }
            self._sound = sound_packets(sound, copies)

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

    def copy_sound(self, until: float = float("inf")) -> None:
        """Copy the sound, as it is, up to `until`, in seconds from the beginning of the file.

        Raises:
            VideoError: the sound can't be read.
            OSError: the file can't be written.
        """
        while self._waiting or (following := next(self._sound, None)):
            seconds, packet = self._waiting = self._waiting or following
            if seconds > until:
                return
            with ffmpeg_errors_as_os_errors():
                self.container.mux(packet)
            self._waiting = None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *error: object) -> None:
        with ffmpeg_errors_as_os_errors():
            if error[0] is None:
                self.container.mux(self.stream.encode(None))
            self.container.close()


def sound_packets(
    source: av.container.InputContainer, copies: Mapping[int, av.AudioStream]
) -> Iterator[tuple[float, av.Packet]]:
    """The sound of `source` as packets for its copies, and the seconds at which each is heard.

    Args:
        source: An open file.
        copies: The stream to write to, by the index of the stream to read.

    Raises:
        VideoError: the sound can't be read.
    """
    begin = Fraction(source.start_time or 0, av.time_base)
    try:
        for packet in source.demux(source.streams.audio) if copies else ():
            # AVI has times of decoding alone, which for sound are the times of playing. The empty
            # packet that ends a stream has neither.
            time = packet.dts if packet.pts is None else packet.pts
            if packet.size and time is not None:
                time -= round(begin / packet.time_base)
                packet.pts = packet.dts = time
                packet.stream = copies[packet.stream.index]
                yield float(time * packet.time_base), packet
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{source.name} has sound that could not be read ({error.strerror}); it is damaged: "
            "copy or download it again."
        ) from error


@contextmanager
def ffmpeg_errors_as_os_errors() -> Iterator[None]:
    """Turn FFmpeg's errors into OSErrors: while a file is written, they are those of the disk."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
