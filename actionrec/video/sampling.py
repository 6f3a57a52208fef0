"""The frames of a clip: `length` of them, `stride` apart.

A clip of a shorter video begins with its first frame and repeats its last one: nothing is looped,
skipped or dropped.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from actionrec.errors import UsageError
from actionrec.video.reader import VideoReader
from actionrec.video.segments import SegmentReader


@dataclass(frozen=True)
class ClipSampling:
    """The frames of a clip: `length` of them, each `stride` frames after the one before.

    With `fps`, the stride counts frames of a video of that rate, so that videos of all rates are
    seen at the same speed (see `at`). Without, it counts frames of the video, whatever its rate.
    """

    length: int = 16
    stride: float = 1
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.length < 1 or self.stride <= 0:
            raise UsageError(
                f"A clip of {self.length} frames with stride {self.stride} is not possible; "
                "both must be at least 1."
            )
        if self.fps is not None and self.fps <= 0:
            raise UsageError(f"A rate of {self.fps} frames a second is not possible.")

    def at(self, video_fps: float) -> "ClipSampling":
        """The sampling for a video of `video_fps` frames a second, in its own frames.

        At a higher rate frames are left out, at a lower rate repeated, the nearest one each time.
        """
        if self.fps is None:
            return self
        return replace(self, stride=self.stride * video_fps / self.fps, fps=None)

    @property
    def span(self) -> int:
        """Frames from the first to the last one of a clip, both included."""
        return round((self.length - 1) * self.stride) + 1

    def clip(self, start: int, frames: int) -> list[int]:
        """The clip from frame `start` of a video of `frames` frames; past the end, the last one."""
        steps = range(self.length)
        return [min(start + round(step * self.stride), frames - 1) for step in steps]

    def random(self, frames: int, generator: np.random.Generator) -> list[int]:
        """A clip that starts anywhere it fits, each start equally likely."""
        return self.clip(int(generator.integers(max(frames - self.span, 0) + 1)), frames)

    def uniform(self, frames: int, clips: int) -> list[list[int]]:
        """`clips` clips, evenly spread from the first frame to the last; one is in the middle.

        A video shorter than a clip gives one clip: several would be the same.
        """
        last = frames - self.span
        if last <= 0:
            return [self.clip(0, frames)]
        starts = [last / 2] if clips == 1 else np.linspace(0, last, clips)
        return [self.clip(round(start), frames) for start in starts]

    def covering(self, frames: int, at_most: int) -> list[list[int]]:
        """As many evenly spread clips as it takes to leave no gap between them, or `at_most`."""
        return self.uniform(frames, min(-(-frames // self.span), at_most))

    def sliding(self, frames: int, starts: Iterable[int]) -> Iterator[list[int]]:
        """The clips from `starts` on, as far as they fit, and one that ends with the video."""
        last = max(frames - self.span, 0)
        for start in starts:
            if start < last:
                yield self.clip(start, frames)
        yield self.clip(last, frames)


class FrameGrid:
    """The positions in one video, or segment of one, that its clips are sampled from.

    These are its frames. Only where a sampling at a target rate meets a video of variable rate,
    they are moments, evenly spaced at the target rate; at each the frame nearest in time is seen.

    Attributes:
        sampling: the sampling in positions.
        positions: their number.
    """

    def __init__(self, sampling: ClipSampling, video: VideoReader | SegmentReader) -> None:
        if sampling.fps is None or video.has_constant_rate:
            self.rate, self.sampling, self.positions = None, sampling.at(video.fps), len(video)
        else:
            self.rate, self.sampling = sampling.fps, replace(sampling, fps=None)
            self.times = video.times[:-1]
            self.positions = round((self.times[-1] - self.times[0]) * sampling.fps) + 1

    def frames(self, positions: Sequence[int]) -> list[int]:
        """The frame at each of the positions, which must not decrease."""
        if self.rate is None:
            return list(positions)
        return nearest(self.times, self.times[0] + np.asarray(positions) / self.rate).tolist()

    def position(self, frame: int) -> int:
        """The position nearest to a frame."""
        if self.rate is None:
            return frame
        return round((self.times[frame] - self.times[0]) * self.rate)

    def apart(self, hop: int) -> Iterator[int]:
        """Positions `hop` apart, without those from which a clip shows the same frame throughout
        as the one before: a gap may last for years."""
        position = 0
        while position < self.positions:
            yield position
            following = position + hop
            if self.rate is not None:
                change = (self._end(position) - self.sampling.span) // hop * hop
                following = max(following, int(change))
            position = following

    def _end(self, position: int) -> float:
        """Where the frame seen at a position gives way to the next one."""
        frame = self.frames([position])[0]
        middle = self.times[frame : frame + 2].mean() - self.times[0]
        return middle * self.rate


def nearest(times: np.ndarray, wanted: ArrayLike) -> np.ndarray:
    """Index of the nearest of some `times`, which increase, for each `wanted` one."""
    after = np.searchsorted(times, wanted).clip(min(1, len(times) - 1), len(times) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(wanted - times[before] <= times[after] - wanted, before, after)
