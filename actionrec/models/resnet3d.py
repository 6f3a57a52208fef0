"""3D ResNet-50: r3d50, the network of the paper's own experiments on video.

python -c "from actionrec.models.resnet3d import r3d50; print(r3d50())"
"""

import torch
from torch import nn
from torch.nn import functional as F

from actionrec.models.backbone import Backbone
from actionrec.models.convolution import PointwiseConv3d


class Stem(nn.Module):
    """7x7x7 convolution with stride (1, 2, 2), then 3x3x3 max-pooling with stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool3d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """Residual unit on (B, C, T, H, W): 1x1x1 to `width` channels, 3x3x3 with the stride, 1x1x1
    to four times `width`."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = 4 * width
        self.conv1 = PointwiseConv3d(in_channels, width)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = PointwiseConv3d(width, self.out_channels)
        self.bn3 = nn.BatchNorm3d(self.out_channels)
        self.downsample = None
        if stride != 1 or in_channels != self.out_channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, self.out_channels, 1, stride, bias=False),
                nn.BatchNorm3d(self.out_channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


def r3d50(classes: int = 400) -> Backbone:
    """The base row "I3D" of the paper's Table 7: clips (B, 3, T, H, W) to logits (B, classes).

    It is the 3D ResNet-50 of Hara, Kataoka & Satoh, "Can Spatiotemporal 3D CNNs Retrace the
    History of 2D CNNs and ImageNet?", CVPR 2018: 47.02 M parameters and 10.07 G multiply-adds at
    16x112x112 with 400 classes. Modules within a unit have the names of Hara's code.
    """
    units: dict[str, nn.Module] = {"stem": Stem()}
    stages = {}
    channels = 64
    for index, depth in enumerate((3, 4, 6, 3)):
        names = tuple(f"layer{index + 1}_{position}" for position in range(depth))
        for position, name in enumerate(names):
            stride = 2 if index > 0 and position == 0 else 1
            units[name] = Bottleneck(channels, 64 * 2**index, stride)
            channels = units[name].out_channels
        stages[index + 2] = names
    return Backbone(units, stages, features=channels, classes=classes, dropout=0.0)
