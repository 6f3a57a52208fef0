"""Exact frames of a video file, or an error; never other frames, never fewer.

    python -c "from actionrec.video.reader import VideoReader; \
               print(VideoReader('video.mp4').read([0, 10, 20]).shape)"

Frames are decoded from the start of the file and counted. Timestamps aren't trusted: AVI files
of the kind that UCF-101 is made of have none that are right, and seeking in them is off by up to
five frames.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from actionrec.errors import ActionrecError

# A header may count a few frames more than were written; a file that was cut lacks far more.
ANNOUNCED_SHARE = 0.98
# Containers whose header states a duration but no number of frames.
TIMED_CONTAINERS = {"matroska,webm", "flv"}
# Here a packet may hold no frame to be shown: VP8 has hidden reference frames, and a recorded
# transport stream may begin with frames whose references were sent before.
UNCOUNTABLE = {"vp8", "mpegts"}
# PyAV below 19 raises UnicodeDecodeError at a title, say, that isn't UTF-8, unless told otherwise;
# later it never does, and has no such argument.
OPTIONS = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


class VideoError(ActionrecError):
    """A video file could not be read as a whole."""


class VideoReader:
    """A video file whose frames are read by their index in display order.

    Attributes:
        path: the file.
        fps: frames a second, as the file states them (25.0 where it states none).
        size: (height, width) of a frame as it is shown, rotation applied.

    Raises:
        VideoError: the file is missing, is no video, has no frames, or was cut off.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise VideoError(f"{self.path} is not a file; check the path.")
        if self.path.stat().st_size == 0:
            raise VideoError(f"{self.path} is empty (0 bytes); copy or download it again.")
        with self._open() as (container, stream):
            self.fps = float(stream.average_rate or stream.guessed_rate or 25)
            self._scan(container, stream)

    def __len__(self) -> int:
        """The number of frames."""
        return self._length

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last one's end."""
        return len(self) / self.fps

    def read(self, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
        """The frames at `indices`, which may repeat but not decrease: uint8 RGB (T, H, W, 3).

        With `short_side` they are scaled (bilinear) so that the shorter side has that length.

        Raises:
            IndexError: an index is negative or not below `len`.
            VideoError: fewer frames could be decoded than the file announces.
        """
        return next(self.clips([indices], short_side))

    def clips(
        self, clips: Iterable[Sequence[int]], short_side: int | None = None
    ) -> Iterator[np.ndarray]:
        """Several clips as by `read`, all in one pass over the file.

        The clips may overlap; they must be in the order of their last frames.
        """
        pending = [[int(index) for index in clip] for clip in clips]
        for clip in pending:
            if clip[0] < 0 or clip[-1] >= len(self) or clip != sorted(clip):
                raise IndexError(f"Frames {clip} of {self.path}, which has {len(self)}.")
        frames: dict[int, np.ndarray] = {}
        decoded = self._decode(sorted({i for clip in pending for i in clip}), short_side)
        for position, clip in enumerate(pending):
            while clip[-1] not in frames:
                index, frame = next(decoded)
                frames[index] = frame
            yield np.stack([frames[index] for index in clip])
            oldest = min((later[0] for later in pending[position + 1 :]), default=len(self))
            frames = {index: frame for index, frame in frames.items() if index >= oldest}

    def _decode(
        self, wanted: list[int], short_side: int | None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Decode from the start and yield (index, RGB frame) for each of the `wanted`."""
        height, width = self.size
        if short_side is not None:
            scale = short_side / min(height, width)
            height, width = round(height * scale), round(width * scale)
        if self._quarter_turns % 2:
            height, width = width, height
        reformatter = VideoReformatter()
        with self._open() as (container, stream):
            index = position = 0
            for index, frame in enumerate(container.decode(stream)):
                if index != wanted[position]:
                    continue
                # One thread: swscale's own threads cost more than they save at this size.
                frame = reformatter.reformat(frame, width, height, "rgb24", threads=1)
                yield index, np.rot90(frame.to_ndarray(), self._quarter_turns)
                position += 1
                if position == len(wanted):
                    return
        raise VideoError(
            f"{self.path} gave only {index + 1} of its {len(self)} frames; "
            "it is damaged: copy, download or encode it again."
        )

    def _scan(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        """Count the packets that hold a frame to be shown, and look at the first frame.

        The count was exact on every healthy file that we measured; `stream.frames` was not. Where
        packets can't tell, the frames are decoded and counted.
        """
        decodes = bool({stream.codec_context.name, container.format.name} & UNCOUNTABLE)
        timed = container.format.name in TIMED_CONTAINERS
        first = None
        packets = shown = 0
        end = 0.0
        # The sound may last longer than the picture, so all streams say how far the file goes.
        for packet in container.demux():
            if timed and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            if packet.is_corrupt:
                raise VideoError(
                    f"{self.path} has only a part of frame {packets}; it was cut off or is "
                    "damaged: copy or download it again."
                )
            # FFmpeg ends with a packet of its own that flushes the decoder.
            if packet.dts is not None or packet.size > 0:
                packets += 1
                shown += packet.size > 0 and not packet.is_discard and not decodes
            if first is None or decodes:
                frames = packet.decode()
                first = first or next(iter(frames), None)
                shown += len(frames) if decodes else 0
        if packets < ANNOUNCED_SHARE * stream.frames:
            raise VideoError(
                f"{self.path} was cut off: it announces {stream.frames} frames and holds "
                f"{packets}; copy or download it again."
            )
        announced = (container.duration or 0) / av.time_base
        # A muxer need not write how long the last frame is shown.
        if timed and end + 1 / self.fps < ANNOUNCED_SHARE * announced:
            raise VideoError(
                f"{self.path} was cut off: it announces {announced:.1f} s and ends after "
                f"{end:.1f} s; copy or download it again."
            )
        if first is None or shown == 0:
            raise VideoError(f"{self.path} has no frame that can be decoded.")
        self._length = shown
        self._quarter_turns = round(first.rotation / 90) % 4
        self.size = (first.height, first.width)
        if self._quarter_turns % 2:
            self.size = (first.width, first.height)

    @contextmanager
    def _open(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        """Open the file and its first video stream; FFmpeg's errors become VideoErrors."""
        try:
            # A relative path with a colon, such as 12:30.mp4, would be taken for a URL.
            with av.open(str(self.path.absolute()), **OPTIONS) as container:
                # The cover picture of a song is a video stream too.
                streams = [
                    stream
                    for stream in container.streams.video
                    if not stream.disposition & Disposition.attached_pic
                ]
                if not streams:
                    raise VideoError(f"{self.path} has no video stream, only other media.")
                stream = streams[0]
                if stream.codec_context is None:
                    raise VideoError(
                        f"{self.path} is damaged or has a codec that FFmpeg can't decode; encode "
                        "it again, for example as H.264."
                    )
                stream.codec_context.thread_type = "NONE"
                yield container, stream
        # A demuxer can also run out of memory, or say so, on flipped bits.
        except (av.error.FFmpegError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or "out of memory"
            raise VideoError(
                f"{self.path} could not be read as a video ({reason}); it is damaged, "
                "incomplete or in a format that FFmpeg does not know."
            ) from error
