"""The form of all backbones: a row of named units, nonlocal blocks between them, and a head."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from actionrec.errors import UsageError


class Backbone(nn.Module):
    """A 3D convolutional network from a clip (B, 3, T, H, W) to logits (B, classes).

    `units` run one after the other, and `stages` names those of each stage. `blocks` holds each
    nonlocal block under the name of the unit after it, so that blocks change no name of a
    pretrained weight.

    Every unit that a block may precede has an attribute `in_channels`. Units may hand on a list of
    feature maps, one for each pathway; a block then stands in the first. Other units than the last
    one may hand on anything that the next one takes.

    Features are the mean over the last feature map, or, as some networks were published, the mean
    of averages over all places of a `window` (T, H, W), which counts its inside more than its rim.

    `call` computes every unit and block from its input; gradient checkpointing takes its place.
    """

    def __init__(
        self,
        units: dict[str, nn.Module],
        stages: dict[int, tuple[str, ...]],
        features: int,
        classes: int,
        dropout: float,
        window: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.units = nn.Sequential()
        for name, unit in units.items():
            self.units.add_module(name, unit)
        self.stages = stages
        self.window = window
        self.blocks = nn.ModuleDict()
        self.call = call
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)
        initialise(self)

    def units_of(self, stage: int) -> tuple[str, ...]:
        """The names of the units of a stage, in order."""
        if stage not in self.stages:
            raise UsageError(
                f"This backbone has no stage {stage}; choose from "
                f"{', '.join(map(str, self.stages))}."
            )
        return self.stages[stage]

    def block_sites(self, stage: int, number: int = 1) -> dict[str, int]:
        """The units of a stage that get a block before them, with the channels that enter them.

        One block goes before the last unit of the stage, as in the paper (Sec. 4.2), several before
        the last ones.

        Raises:
            UsageError: the backbone has no such stage, the stage fewer units, or no feature maps.
        """
        units = self.units_of(stage)
        if not hasattr(self.units.get_submodule(units[-1]), "in_channels"):
            raise UsageError(
                "This backbone is a transformer and has no place for a nonlocal block; choose a "
                "convolutional one, or --block none."
            )
        if not 1 <= number <= len(units):
            raise UsageError(
                f"Stage {stage} has room for 1 to {len(units)} blocks, not for {number}."
            )
        return {name: self.units.get_submodule(name).in_channels for name in units[-number:]}

    def freeze_before(self, start: str) -> None:
        """Freeze all units ("block"), blocks too ("head"), or the units before a stage ("stage4").

        Raises:
            UsageError: the backbone has no such stage.
        """
        first = None
        if start == "head":
            self.blocks.requires_grad_(False)
        elif start != "block":
            first = self.units_of(int(start.removeprefix("stage")))[0]
        for name, unit in self.units.named_children():
            if name == first:
                break
            unit.requires_grad_(False)

    def set_drop_path(self, rate: float) -> None:
        """Leave out the residual branches at random in training (Huang et al. 2016): the first with
        the probability 0, the last with `rate`, those between in equal steps.

        Raises:
            UsageError: the backbone has no such branches, and `rate` is not 0.
        """
        # Torchvision takes as long to import as PyTorch.
        from torchvision.ops import StochasticDepth

        layers = [layer for layer in self.units.modules() if isinstance(layer, StochasticDepth)]
        if rate and not layers:
            raise UsageError(
                "This backbone has no drop path, MViT and Swin have; leave out --drop-path."
            )
        for position, layer in enumerate(layers):
            layer.p = rate * position / max(1, len(layers) - 1)

    def feature_map(self, clips: torch.Tensor) -> torch.Tensor:
        """The last feature map, (B, C, T', H', W'), of clips (B, 3, T, H, W).

        Raises:
            UsageError: `clips` has not five axes.
        """
        if clips.dim() != 5:
            raise no_clips(clips)
        x = clips
        for name, unit in self.units.named_children():
            if name in self.blocks:
                block = self.blocks[name]
                if isinstance(x, list):
                    x = [self.call(block, x[0]), *x[1:]]
                else:
                    x = self.call(block, x)
            x = self.call(unit, x)
        return x

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """Average a feature map (B, C, T, H, W) over time and space: (B, C)."""
        if self.window is not None:
            window = [min(sizes) for sizes in zip(self.window, x.shape[2:], strict=True)]
            x = F.avg_pool3d(x, window, stride=1)
        return x.mean(dim=(2, 3, 4))

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """The pooled feature map, (B, C), of clips (B, 3, T, H, W), in the head's type."""
        # The mean of a bfloat16 feature map needs more digits.
        return self.pool(self.feature_map(clips).to(self.head.weight.dtype))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of clips (B, 3, T, H, W)."""
        return self.head(self.dropout(self.features(clips)))


def require_clips(clips: torch.Tensor) -> None:
    """Raise UsageError if a tensor is not of the form (B, 3, T, H, W)."""
    if clips.dim() != 5 or clips.shape[1] != 3:
        raise no_clips(clips)


def no_clips(clips: torch.Tensor) -> UsageError:
    """What is wrong with a tensor that is not of the form (B, 3, T, H, W)."""
    hint = "give each clip its three colours, R, G and B, in the second place"
    if clips.dim() == 4:
        hint = "images (B, 3, H, W) are clips of one frame after images.unsqueeze(2)"
    return UsageError(f"The network takes clips (B, 3, T, H, W), not {tuple(clips.shape)}; {hint}.")


def call(module: nn.Module, x: Any) -> Any:
    """`module(x)`."""
    return module(x)


def first_convolution(unit: nn.Module) -> nn.Conv3d:
    """The convolution that a unit begins with."""
    return next(module for module in unit.modules() if isinstance(module, nn.Conv3d))


def initialise(network: "Backbone") -> None:
    """He initialisation of convolutions (He et al. 2015), small normal weights for the head."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(network.head.weight, std=0.01)
    nn.init.zeros_(network.head.bias)
