"""3D ResNets: the paper's own r3d50, and a narrow r3d18 that trains on a laptop.

Hara, Kataoka & Satoh, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?",
CVPR 2018. Module names within a unit are those of Hara's code.

    python -c "from actionrec.models.resnet3d import r3d50; print(r3d50())"
"""

import torch
from torch import nn
from torch.nn import functional as F

from actionrec.models.backbone import Backbone


class Stem(nn.Module):
    """7x7x7 convolution with stride (1, 2, 2), then 3x3x3 max-pooling with stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool3d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)


class ResidualUnit(nn.Module):
    """Residual unit on (B, C, T, H, W); the stride is on the first 3x3x3 convolution.

    `bottleneck`: 1x1x1 to `width`, 3x3x3, 1x1x1 to 4 `width`; otherwise two 3x3x3 of `width`.
    """

    def __init__(self, in_channels: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = 4 * width if bottleneck else width
        if bottleneck:
            self.conv1 = nn.Conv3d(in_channels, width, 1, bias=False)
            self.bn1 = nn.BatchNorm3d(width)
            self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm3d(width)
            self.conv3 = nn.Conv3d(width, self.out_channels, 1, bias=False)
            self.bn3 = nn.BatchNorm3d(self.out_channels)
        else:
            self.conv1 = nn.Conv3d(in_channels, width, 3, stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm3d(width)
            self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm3d(width)
            self.conv3 = None
        self.downsample = None
        if stride != 1 or in_channels != self.out_channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, self.out_channels, 1, stride, bias=False),
                nn.BatchNorm3d(self.out_channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.conv3 is not None:
            x = self.bn3(self.conv3(F.relu(x)))
        return F.relu(x + shortcut)


class ResNet3D(Backbone):
    """3D ResNet: clips (B, 3, T, H, W) to logits (B, classes).

    `depths` are the numbers of units in res2..res5, `width` the channels of the stem.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        bottleneck: bool,
        width: int = 64,
        classes: int = 400,
        dropout: float = 0.0,
    ) -> None:
        units: dict[str, nn.Module] = {"stem": Stem(width)}
        stages = {}
        channels = width
        for index, depth in enumerate(depths):
            names = tuple(f"layer{index + 1}_{position}" for position in range(depth))
            for position, name in enumerate(names):
                stride = 2 if index > 0 and position == 0 else 1
                units[name] = ResidualUnit(channels, width * 2**index, stride, bottleneck)
                channels = units[name].out_channels
            stages[index + 2] = names
        super().__init__(units, stages, features=channels, classes=classes, dropout=dropout)


def r3d50(classes: int = 400) -> ResNet3D:
    """Hara's 3D ResNet-50, the base row "I3D" of the paper's Table 7: 47.02 M parameters,
    10.07 G multiply-adds at 16x112x112 with 400 classes."""
    return ResNet3D((3, 4, 6, 3), bottleneck=True, classes=classes)


def r3d18_small(classes: int) -> ResNet3D:
    """3D ResNet-18 at a quarter of the width: 2.1 M parameters, for demos and tests."""
    return ResNet3D((2, 2, 2, 2), bottleneck=False, width=16, classes=classes)
