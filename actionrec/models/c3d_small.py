"""A plain 3D CNN of five convolutions, for the demo and for tests: it learns on two CPU cores in
minutes. In the manner of C3D (Tran et al., ICCV 2015), far smaller, with batch normalisation.

    python -c "from actionrec.models.c3d_small import c3d_small; print(c3d_small(classes=8))"
"""

import torch
from torch import nn
from torch.nn import functional as F

from actionrec.models.backbone import Backbone


class ConvUnit(nn.Module):
    """Convolution that keeps the size or divides it by `stride`, batch normalisation, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        padding = [size // 2 for size in kernel]
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


def c3d_small(classes: int) -> Backbone:
    """Clips (B, 3, T, H, W) to logits (B, classes); 0.24 M parameters. Stages 2 to 5 are a
    convolution each; time is divided late, because in the demo motion is all there is."""
    units = {
        "conv1": ConvUnit(3, 16, (3, 5, 5), (1, 2, 2)),
        "conv2": ConvUnit(16, 32, stride=(1, 2, 2)),
        "conv3": ConvUnit(32, 64, stride=(2, 2, 2)),
        "conv4": ConvUnit(64, 96, stride=(2, 1, 1)),
    }
    stages = {2: ("conv2",), 3: ("conv3",), 4: ("conv4",)}
    return Backbone(units, stages, features=96, classes=classes, dropout=0.2)
