"""From the frames of a clip to what the network sees: scale, crop, flip, normalise."""

from dataclasses import dataclass

import numpy as np
import torch

from actionrec.errors import UsageError


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input; it is stored in the model file.

    Frames are scaled until the shorter side has `short_side` pixels, a square of `crop` pixels is
    cut out, and RGB values, brought to [0, 1], become (value ** gamma - mean) / std. A gamma below
    1 brightens what is dark; networks are pretrained with 1.
    """

    short_side: int = 128
    crop: int = 124
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise UsageError(f"A gamma of {self.gamma} is not possible; it must be above 0.")
        if not 0 < self.crop <= self.short_side:
            raise UsageError(
                f"A crop of {self.crop} does not fit into frames with a short side of "
                f"{self.short_side}; choose a smaller crop or a larger short side."
            )

    def random_short_side(self, generator: np.random.Generator) -> int:
        """A short side for a training clip: from `short_side` to 1.25 times as much."""
        return int(generator.integers(self.short_side, round(1.25 * self.short_side) + 1))

    def random_crop(
        self, frames: np.ndarray, generator: np.random.Generator, flip: bool
    ) -> torch.Tensor:
        """A square from anywhere in frames (T, H, W, 3), mirrored half of the time if `flip`:
        uint8 (3, T, crop, crop)."""
        _, height, width, _ = frames.shape
        top = generator.integers(height - self.crop + 1)
        left = generator.integers(width - self.crop + 1)
        square = frames[:, top : top + self.crop, left : left + self.crop]
        if flip and generator.random() < 0.5:
            square = square[:, :, ::-1]
        return channels_first(square)

    def crops(self, frames: np.ndarray, number: int) -> torch.Tensor:
        """Squares of frames (T, H, W, 3): the centre one, or three along the longer side; uint8
        (number, 3, T, crop, crop)."""
        _, height, width, _ = frames.shape
        share = {1: [0.5], 3: [0.0, 0.5, 1.0]}[number]
        squares = []
        for position in share:
            top = (height - self.crop) * (position if height > width else 0.5)
            left = (width - self.crop) * (position if width >= height else 0.5)
            top, left = int(top), int(left)
            squares.append(frames[:, top : top + self.crop, left : left + self.crop])
        return torch.stack([channels_first(square) for square in squares])

    def normalise(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 clips (B, 3, T, H, W) to float32, normalised."""
        mean = torch.tensor(self.mean, device=clips.device).view(3, 1, 1, 1)
        std = torch.tensor(self.std, device=clips.device).view(3, 1, 1, 1)
        return ((clips.float() / 255).pow(self.gamma) - mean) / std


def channels_first(frames: np.ndarray) -> torch.Tensor:
    """Frames (T, H, W, 3) as a tensor (3, T, H, W) of its own memory."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))
