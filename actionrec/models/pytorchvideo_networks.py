"""Networks of PyTorchVideo's model zoo: X3D, Slow R50, R(2+1)D R50, CSN R101 and I3D R50.

    python -c "from actionrec.models.pytorchvideo_networks import x3d_s; print(x3d_s())"

Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020;
Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019; Tran et al., CVPR 2018
and ICCV 2019.
"""

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
