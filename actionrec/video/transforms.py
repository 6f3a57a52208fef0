"""From the frames of a clip to the input of the network: crop, scale, flip, augment, normalise.

Cropping and scaling happen where the file is read, one clip at a time; `augment`, `mix` and
`Preprocessing.normalise` take whole batches and run on the GPU when there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actionrec.errors import UsageError
from actionrec.video.reader import Crop

# Largest over smallest short side of scaled training clips: 320 to 256, the scales of the nonlocal
# networks (Wang et al. 2018) and of most I3D and SlowFast recipes.
SHORT_SIDE_JITTER = 1.25
# Inception's range of width to height, for crops chosen by their area.
ASPECT_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Preprocessing:
    """The form of a network's input; it is stored in the model file.

    Frames are scaled until the shorter side has `short_side` pixels, a square of `crop` pixels is
    cut out, and RGB values in [0, 1] become (value ** gamma - mean) / std. A gamma below 1
    brightens dark videos; networks are pretrained with 1.

    The square is cut out before scaling, which gives the same picture for less work.
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

    def square(self, size: tuple[int, int]) -> Crop:
        """The central crop of a frame of `size` (height, width), before scaling."""
        height, width = size
        side = self._side(size, self.short_side)
        return (height - side) // 2, (width - side) // 2, side, side

    def strip(self, size: tuple[int, int]) -> Crop:
        """The part of a frame of `size` (height, width) that three crops cover: all of its longer
        side."""
        height, width = size
        top, left, side, _ = self.square(size)
        return (top, 0, side, width) if width >= height else (0, left, height, side)

    def squares(self, strip: np.ndarray) -> torch.Tensor:
        """Three squares, uint8 (3, 3, T, crop, crop), at both ends and in the middle of a strip
        (T, H, W, 3) with a short side of `crop`."""
        _, height, width, _ = strip.shape
        crops = []
        for share in (0.0, 0.5, 1.0):
            top, left = int((height - self.crop) * share), int((width - self.crop) * share)
            crops.append(strip[:, top : top + self.crop, left : left + self.crop])
        return stack_clips([channels_first(crop) for crop in crops])

    def random_square(self, size: tuple[int, int], generator: np.random.Generator) -> Crop:
        """A square anywhere in a frame of `size` (height, width), for a training clip.

        Its size is that of a square of `crop` pixels in a frame scaled to a random short side,
        from `short_side` to 1.25 times as much.
        """
        longest = round(SHORT_SIDE_JITTER * self.short_side)
        side = self._side(size, int(generator.integers(self.short_side, longest + 1)))
        height, width = size
        top = int(generator.integers(height - side + 1))
        left = int(generator.integers(width - side + 1))
        return top, left, side, side

    def _side(self, size: tuple[int, int], short_side: int) -> int:
        return max(1, round(min(size) * self.crop / short_side))

    @property
    def mean_colour(self) -> list[int]:
        """The RGB values in [0, 255] that become about 0 in the network's input."""
        return [round(255 * mean ** (1 / self.gamma)) for mean in self.mean]

    def normalise(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (B, 3, T, H, W) with values from 0 to 255 to float32, normalised."""
        mean = torch.tensor(self.mean, device=clips.device).view(3, 1, 1, 1)
        std = torch.tensor(self.std, device=clips.device).view(3, 1, 1, 1)
        # In place: a clip of 64 frames has 38 MB.
        pixels = clips.to(torch.float32, copy=True).div_(255)
        if self.gamma != 1:
            pixels = pixels.pow(self.gamma)
        return pixels.sub_(mean).div_(std)


def random_area(
    size: tuple[int, int], areas: tuple[float, float], generator: np.random.Generator
) -> Crop:
    """A part of a frame of `size` (height, width) whose share of the area is in `areas`, as in
    Inception's training: width to height between 3/4 and 4/3."""
    # Torchvision takes as long to import as PyTorch, and only training needs it.
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(size, scale=areas, ratio=ASPECT_RATIOS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        chosen = crop.make_params([torch.empty(1, *size)])
    return chosen["top"], chosen["left"], chosen["height"], chosen["width"]


def erase(clip: torch.Tensor, value: Sequence[int], generator: np.random.Generator) -> torch.Tensor:
    """A copy of a uint8 clip (3, T, H, W) without a box that is the same in all frames (random
    erasing, Zhong et al. 2020).

    The box has 2 to 33 % of the area and sides of 3:10 to 10:3, at random.

    Args:
        clip: The clip.
        value: Colour of the box, in [0, 255].
        generator: The box depends on nothing else.
    """
    from torchvision.transforms import v2

    erasing = v2.RandomErasing(p=1.0, value=list(value))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        # Any axes before the colours share the box.
        return erasing(clip.transpose(0, 1)).transpose(0, 1)


def augment(clips: torch.Tensor, name: str, seed: int) -> torch.Tensor:
    """Change the colours (or more) of uint8 clips (B, 3, T, H, W), all frames of a clip alike.

    "color" jitters brightness, contrast and saturation by up to 0.4 and the hue by 0.1;
    "randaugment" is RandAugment (Cubuk et al. 2020), two operations of magnitude 9. The result
    depends on nothing but the clips and the seed.
    """
    from torchvision.transforms import v2

    transforms = {"color": v2.ColorJitter(0.4, 0.4, 0.4, 0.1), "randaugment": v2.RandAugment()}
    transform = transforms[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = [transform(clip.transpose(0, 1)).transpose(0, 1) for clip in clips]
    return stack_clips(changed)


def mix(
    clips: torch.Tensor, labels: torch.Tensor, name: str, classes: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix every clip of a batch with the one before it, and their labels likewise.

    "mixup" blends them (Zhang et al. 2018, alpha 0.2), "cutmix" puts a box of one, through all its
    frames, into the other (Yun et al. 2019, alpha 1), "both" does one of the two; the alphas are
    those of torchvision's reference training.

    Args:
        clips: uint8 (B, 3, T, H, W).
        labels: Integers (B,).
        name: mixup, cutmix or both.
        classes: Number of classes.
        seed: The result depends on nothing else.

    Returns:
        float32 clips (B, 3, T, H, W) in [0, 255], and the classes' shares (B, classes).
    """
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    mixup, cutmix = v2.MixUp(alpha=0.2, num_classes=classes), v2.CutMix(num_classes=classes)
    transforms = {"mixup": mixup, "cutmix": cutmix, "both": v2.RandomChoice([mixup, cutmix])}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # As a video, because of the fifth dimension; which one is time doesn't matter here.
        mixed, shares = transforms[name](tv_tensors.Video(clips.float()), labels)
    return mixed.as_subclass(torch.Tensor), shares


def channels_first(frames: np.ndarray) -> torch.Tensor:
    """Frames (T, H, W, 3) as a tensor (3, T, H, W) whose memory still has the channels last, the
    order in which networks convolve fastest."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)


def stack_clips(clips: Sequence[torch.Tensor]) -> torch.Tensor:
    """Clips (3, T, H, W) as one batch (B, 3, T, H, W), which keeps the channels last in memory."""
    frames = torch.stack([clip.permute(1, 2, 3, 0) for clip in clips])
    return frames.permute(0, 4, 1, 2, 3)
