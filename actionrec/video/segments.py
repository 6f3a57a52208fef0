"""Parts of video files, from a start to an end in seconds, read as if they had been cut out.

    python -c "from actionrec.video.clips import ClipReader; \
               from actionrec.video.segments import VideoSegment; \
               print(ClipReader().read(VideoSegment('match.mp4', 12.5, 15), clips=1).seconds)"

A segment has the frames whose time of presentation is from its start on and before its end.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from actionrec.errors import VideoError
from actionrec.video.address import VideoPath, video_path
from actionrec.video.reader import Crop, Size, VideoReader

logger = logging.getLogger("actionrec")

# Annotations and some containers round times to milliseconds: a boundary that is this close to a
# frame's time means that frame.
ROUNDING = 0.0005 + 1e-6  # seconds
# Annotations round a video's end up, often to whole seconds.
MOST_LATE = 1.0  # seconds


@dataclass(frozen=True, order=True)
class VideoSegment:
    """A part of a video file, from `start` to `end` in seconds from the beginning of the file.

    As text it is a media fragment of the W3C: match.mp4#t=12.5,15.
    """

    path: VideoPath
    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.path}#t={plain_number(self.start)},{plain_number(self.end)}"


# What clips are read from: a whole file or a part of one.
VideoSource = VideoPath | VideoSegment


def path_of(source: str | VideoSource) -> VideoPath:
    """The file of a source."""
    return source.path if isinstance(source, VideoSegment) else video_path(source)


def by_file(sources: Iterable[VideoSource], most: int) -> Iterator[list[VideoSource]]:
    """The sources in lists of one file each, of at most `most` sources that lie near each other in
    it."""
    files: dict[VideoPath, list[VideoSource]] = {}
    for source in sources:
        files.setdefault(path_of(source), []).append(source)
    for same in files.values():
        same.sort(key=lambda source: source.start if isinstance(source, VideoSegment) else 0)
        yield from (same[first : first + most] for first in range(0, len(same), most))


class SegmentReader:
    """A segment of a video with the interface of `VideoReader`: frame 0 is the segment's first one.

    Args:
        video: The file.
        segment: The part of it. An end up to a second after the video's is told and taken for it.

    Raises:
        VideoError: the segment is outside of the video, or no frame is shown in it.
    """

    def __init__(self, video: VideoReader, segment: VideoSegment) -> None:
        self.video = video
        self.path, self.fps, self.size = video.path, video.fps, video.size
        self.first, self.stop = frames_of(video, segment)

    def __len__(self) -> int:
        return self.stop - self.first

    @cached_property
    def times(self) -> np.ndarray:
        """As of `VideoReader`, still in seconds from the beginning of the file."""
        return self.video.times[self.first : self.stop + 1]

    @cached_property
    def has_constant_rate(self) -> bool:
        """As of `VideoReader`."""
        even = self.times[0] + np.arange(len(self.times)) / self.fps
        return bool(np.abs(self.times - even).max() < 0.5 / self.fps)

    def read(
        self, indices: Sequence[int], size: Size = None, crop: Crop | None = None
    ) -> np.ndarray:
        """As of `VideoReader`."""
        if len(indices) and not 0 <= min(indices) <= max(indices) < len(self):
            raise IndexError(f"Frames {indices} of a segment of {self.path} with {len(self)}.")
        return self.video.read(self.in_file(indices), size, crop)

    def in_file(self, indices: Sequence[int]) -> list[int]:
        """The numbers in the file of frames of the segment."""
        return [self.first + index for index in indices]


def frames_of(video: VideoReader, segment: VideoSegment) -> tuple[int, int]:
    """The first frame of a segment, and the one after its last.

    Raises:
        VideoError: the segment is outside of the video, or no frame is shown in it.
    """
    times, end = video.times, float(video.times[-1])
    where = f"from {plain_number(segment.start)} to {plain_number(segment.end)} s"
    late = segment.end - end
    if segment.start >= end - ROUNDING or late > MOST_LATE:
        raise VideoError(
            f"{video.path} has no part {where}, because it ends at {end:.3f} s; correct the "
            "segment or the path."
        )
    if late > 1 / video.fps:
        warn_of_late_end(segment, end)
    first, stop = np.searchsorted(times[:-1], np.array([segment.start, segment.end]) - ROUNDING)
    if first == stop:
        raise VideoError(
            f"{video.path} shows no new frame {where}, at {video.fps:.3g} frames a second; make "
            "the segment longer."
        )
    return int(first), int(stop)


@cache
def warn_of_late_end(segment: VideoSegment, end: float) -> None:
    """Tell once in the life of this process that a segment is read up to the end of its video."""
    logger.warning("%s is read up to the end of the video, %.3f s.", segment, end)


def plain_number(seconds: float) -> str:
    """A time in seconds with as many digits as it takes, six after the point at most."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
