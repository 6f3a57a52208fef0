"""Which frames make a clip.

A clip is `length` frames, `stride` apart. A video shorter than that is used from its first frame
on and its last frame is repeated: nothing is looped, skipped or dropped.
"""

from dataclasses import dataclass

import numpy as np

from actionrec.errors import UsageError


@dataclass(frozen=True)
class ClipSampling:
    """The frames of a clip: `length` of them, each `stride` frames after the one before."""

    length: int = 16
    stride: int = 1

    def __post_init__(self) -> None:
        if self.length < 1 or self.stride < 1:
            raise UsageError(
                f"A clip of {self.length} frames with stride {self.stride} is not possible; "
                "both must be at least 1."
            )

    @property
    def span(self) -> int:
        """Frames from the first to the last one of a clip, both counted."""
        return (self.length - 1) * self.stride + 1

    def clip(self, start: int, frames: int) -> list[int]:
        """The clip from frame `start` of a video of `frames` frames; past the end, its last."""
        return [min(start + step * self.stride, frames - 1) for step in range(self.length)]

    def random(self, frames: int, generator: np.random.Generator) -> list[int]:
        """A clip that starts anywhere it fits, each start equally likely."""
        return self.clip(int(generator.integers(max(frames - self.span, 0) + 1)), frames)

    def uniform(self, frames: int, clips: int) -> list[list[int]]:
        """`clips` clips, evenly spread from the first frame to the last; one is in the middle.

        A video shorter than a clip gives one clip: more would all be the same.
        """
        last = frames - self.span
        if last <= 0:
            return [self.clip(0, frames)]
        starts = [last / 2] if clips == 1 else np.linspace(0, last, clips)
        return [self.clip(round(start), frames) for start in starts]

    def covering(self, frames: int, at_most: int) -> list[list[int]]:
        """As few evenly spread clips as leave no frame between them unseen, or `at_most`."""
        return self.uniform(frames, min(-(-frames // self.span), at_most))
