"""The frames of a clip: `length` of them, `stride` apart.

A clip of a shorter video begins with its first frame and repeats its last one: nothing is looped,
skipped or dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from actionrec.errors import UsageError


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

    def sliding(self, frames: int, hop: int) -> Iterator[list[int]]:
        """Clips that start `hop` frames apart, from the first frame on; the last one ends with the
        video and may overlap more.

        Raises:
            UsageError: the hop is less than 1.
        """
        if hop < 1:
            raise UsageError(f"A hop of {hop} frames is not possible; it must be at least 1.")
        last = max(frames - self.span, 0)
        for start in range(0, last, hop):
            yield self.clip(start, frames)
        yield self.clip(last, frames)
