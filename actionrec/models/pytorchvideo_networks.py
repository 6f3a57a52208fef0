"""Networks of PyTorchVideo's model zoo: X3D, SlowFast, Slow R50, R(2+1)D R50, CSN R101, I3D R50.

    python -c "from actionrec.models.pytorchvideo_networks import x3d_s; print(x3d_s())"

Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020;
Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019; Tran et al., CVPR 2018
and ICCV 2019.
"""

import math
import warnings
from pkgutil import resolve_name

import torch
from torch import nn
from torch.nn import functional as F

from actionrec.models.backbone import Backbone, first_convolution


class Projection(nn.Module):
    """The last convolutions of X3D: (B, C, T, H, W) to (B, 2048, T', H', W'), with averages over
    `window` (T, H, W) in between, or over all of a smaller map."""

    def __init__(self, head: nn.Module, window: tuple[int, int, int]) -> None:
        super().__init__()
        self.pre_conv, self.pre_norm = head.pre_conv, head.pre_norm
        self.post_conv = head.post_conv
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.pre_norm(self.pre_conv(x)))
        window = [min(sizes) for sizes in zip(self.window, x.shape[2:], strict=True)]
        # PyTorch has no average of bfloat16 on a CPU, and a mean needs more digits.
        mean = F.avg_pool3d(x.float(), window, stride=1).to(x.dtype)
        return F.relu(self.post_conv(mean))


class Pathways(nn.Module):
    """From a clip (B, 3, T, H, W) to the input of the slow and of the fast pathway: a quarter of
    its frames, evenly spread, and all of them."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        frames = x.shape[2]
        chosen = torch.linspace(0, frames - 1, math.ceil(frames / 4), device=x.device).long()
        return [x.index_select(2, chosen), x]


class TwoPathways(nn.Module):
    """A unit of each pathway."""

    def __init__(self, slow: nn.Module, fast: nn.Module) -> None:
        super().__init__()
        self.slow, self.fast = slow, fast

    def forward(self, x: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.slow(x[0]), self.fast(x[1])]


class Join(nn.Module):
    """The maps of both pathways, averaged over time and over `window` (H, W), as one map."""

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        window = [min(sizes) for sizes in zip(self.window, x[0].shape[3:], strict=True)]
        means = [
            F.avg_pool3d(each.float(), (each.shape[2], *window), stride=1).to(each.dtype)
            for each in x
        ]
        return torch.cat(means, dim=1)


def x3d_xs(classes: int = 400) -> Backbone:
    """X3D-XS, for 4 frames of 182x182 with a stride of 12: 3.79 M parameters with 400 classes."""
    return _x3d("x3d:x3d_xs", classes)


def x3d_s(classes: int = 400) -> Backbone:
    """X3D-S, for 13 frames of 182x182 with a stride of 6: 3.79 M parameters with 400 classes."""
    return _x3d("x3d:x3d_s", classes)


def x3d_m(classes: int = 400) -> Backbone:
    """X3D-M, for 16 frames of 224x224 with a stride of 5: 3.79 M parameters with 400 classes."""
    return _x3d("x3d:x3d_m", classes)


def x3d_l(classes: int = 400) -> Backbone:
    """X3D-L, for 16 frames of 312x312 with a stride of 5: 6.15 M parameters with 400 classes."""
    return _x3d("x3d:x3d_l", classes)


def slowfast_r50(classes: int = 400) -> Backbone:
    """SlowFast 8x8 with the units of ResNet-50, for 32 frames with a stride of 2: 34.57 M
    parameters with 400 classes. Blocks stand in the slow pathway."""
    return _slowfast("slowfast:slowfast_r50", classes)


def slowfast_r101(classes: int = 400) -> Backbone:
    """SlowFast 8x8 with the units of ResNet-101: 62.83 M parameters with 400 classes."""
    return _slowfast("slowfast:slowfast_r101", classes)


def slowfast_16x8_r101_50_50(classes: int = 400) -> Backbone:
    """SlowFast 16x8 with the units of ResNet-101, for 64 frames with a stride of 2: 53.77 M
    parameters with 400 classes."""
    return _slowfast("slowfast:slowfast_16x8_r101_50_50", classes)


def slow_r50(classes: int = 400) -> Backbone:
    """The slow pathway of SlowFast alone: 32.45 M parameters with 400 classes."""
    return _resnet("resnet:slow_r50", classes)


def r2plus1d_r50(classes: int = 400) -> Backbone:
    """R(2+1)D with the units of ResNet-50: 28.11 M parameters with 400 classes."""
    return _resnet("r2plus1d:r2plus1d_r50", classes)


def csn_r101(classes: int = 400) -> Backbone:
    """Channel-separated network with the units of ResNet-101: 22.21 M parameters with 400
    classes."""
    return _resnet("csn:csn_r101", classes)


def i3d_r50(classes: int = 400) -> Backbone:
    """ResNet-50 inflated over time, "I3D 8x8": 28.04 M parameters with 400 classes."""
    stem, res2, pool, *later, head = _blocks("resnet:i3d_r50", classes)
    units, stages = _units(stem, [res2, *later])
    ordered = {}
    for name, unit in units.items():
        ordered[name] = unit
        if name == stages[2][-1]:
            ordered["pool"] = pool
    return Backbone(ordered, stages, head.proj.in_features, classes, dropout=head.dropout.p)


def _x3d(name: str, classes: int) -> Backbone:
    stem, *stages, head = _blocks(name, classes)
    units, names = _units(stem, stages)
    window = tuple(int(size) for size in head.pool.pool.kernel_size)
    units["projection"] = Projection(head.pool, window)
    return Backbone(units, names, head.proj.in_features, classes, dropout=head.dropout.p)


def _slowfast(name: str, classes: int) -> Backbone:
    stem, *parts, pool, head = _blocks(name, classes)
    units: dict[str, nn.Module] = {"pathways": Pathways()}
    units["stem"] = TwoPathways(*stem.multipathway_blocks)
    units["stem_fusion"] = stem.multipathway_fusion
    stages = {}
    for stage, part in enumerate(parts, 2):
        slow, fast = (pathway.res_blocks for pathway in part.multipathway_blocks)
        names = tuple(f"res{stage}_{position}" for position in range(len(slow)))
        for name, *pair in zip(names, slow, fast, strict=True):
            units[name] = TwoPathways(*pair)
            units[name].in_channels = first_convolution(pair[0].branch2).in_channels
        units[f"res{stage}_fusion"] = part.multipathway_fusion
        stages[stage] = names
    units["join"] = Join(pool.pool[0].kernel_size[1:])
    return Backbone(units, stages, head.proj.in_features, classes, dropout=head.dropout.p)


def _resnet(name: str, classes: int) -> Backbone:
    stem, *stages, head = _blocks(name, classes)
    units, names = _units(stem, stages)
    dropout = head.dropout.p if head.dropout is not None else 0.0
    window = tuple(head.pool.kernel_size)
    return Backbone(units, names, head.proj.in_features, classes, dropout, window=window)


def _blocks(name: str, classes: int) -> nn.ModuleList:
    """The parts of a network of PyTorchVideo's hub: stem, stages, head."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        build = resolve_name(f"pytorchvideo.models.hub.{name}")
    return build(pretrained=False, model_num_class=classes).blocks


def _units(
    stem: nn.Module, parts: list[nn.Module]
) -> tuple[dict[str, nn.Module], dict[int, tuple[str, ...]]]:
    """The stem and the residual units of the parts from res2 on by name, and the names by stage."""
    units = {"stem": stem}
    stages = {}
    for stage, part in enumerate(parts, 2):
        names = tuple(f"res{stage}_{position}" for position in range(len(part.res_blocks)))
        for name, unit in zip(names, part.res_blocks, strict=True):
            unit.in_channels = first_convolution(unit.branch2).in_channels
            units[name] = unit
        stages[stage] = names
    return units, stages
