"""Parts of video files, from a start to an end in seconds, read as if they had been cut out.

    python -c "from actionrec.video.clips import ClipReader; \
               from actionrec.video.parts import VideoSegment; \
               print(ClipReader().read(VideoSegment('match.mp4', 12.5, 15), clips=1).seconds)"

A segment has the frames whose time of presentation is from its start on and before its end.
"""

import logging
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np

from actionrec.errors import VideoError
from actionrec.video.parts import VideoSegment, plain_number
from actionrec.video.reader import Crop, Size, VideoReader, are_even

logger = logging.getLogger("actionrec")

# Annotations and some containers round times to milliseconds: a boundary that is this close to a
# frame's time means that frame.
ROUNDING = 0.0005 + 1e-6  # seconds
# Annotations round a video's end up, often to whole seconds.
MOST_LATE = 1.0  # seconds


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
        return are_even(self.times, self.fps)

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
