"""Inception-I3D, the network that the published Kinetics-400 weights belong to.

Carreira & Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset",
CVPR 2017, Fig. 3. Modules carry the endpoint names of the published TensorFlow code.

    python -c "from actionrec.models.i3d import I3D; print(I3D())"
"""

import torch
from torch import nn
from torch.nn import functional as F

from actionrec.models.backbone import Backbone
from actionrec.models.convolution import PointwiseConv3d


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Elements that TensorFlow's "SAME" adds before and after an axis of length `size`.

    The output has ceil(size / stride) elements; an odd number of added elements puts the larger
    share behind, which no `padding=` argument of PyTorch can express.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class MaxPoolSame(nn.Module):
    """Max-pooling of (B, C, T, H, W) with "SAME" padding, which never wins the maximum."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        traced = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if x.is_cpu and not traced and (self.kernel, self.stride) == ((3, 3, 3), (1, 1, 1)):
            return largest_neighbours(x)
        # ceil_mode supplies the one element that SAME may add behind: no padded copy of x.
        before = [each for each, _ in map(same_padding, x.shape[2:], self.kernel, self.stride)]
        return F.max_pool3d(x, self.kernel, self.stride, padding=before, ceil_mode=True)


def largest_neighbours(x: torch.Tensor) -> torch.Tensor:
    """The maximum of every element of (B, C, T, H, W) and its 26 neighbours.

    Axis by axis: PyTorch's max-pooling takes half as long again, because it notes the places, which
    only training needs.
    """
    for axis in (2, 3, 4):
        largest, others = x.clone(), x.shape[axis] - 1
        for own, neighbours in ((1, 0), (0, 1)):
            part = largest.narrow(axis, own, others)
            torch.maximum(part, x.narrow(axis, neighbours, others), out=part)
        x = largest
    return x


class BatchNormNoScale(nn.BatchNorm3d):
    """Batch normalisation with a shift and no scale, as I3D was published (epsilon 1e-3)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)
        self.weight = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        # Without a scale, CUDA's backward pass gives the shift a gradient of no elements.
        scale = torch.ones_like(self.running_var)
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            scale,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


class ConvUnit(nn.Module):
    """Convolution with "SAME" padding, batch normalisation, ReLU: the paper's `Unit3D`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.kernel, self.stride = kernel, stride
        # Without a stride, and only then, SAME is the same on both sides and at every size.
        self.strided = stride != (1, 1, 1)
        padding = (0, 0, 0) if self.strided else tuple(size // 2 for size in kernel)
        if kernel == stride == (1, 1, 1):
            self.conv = PointwiseConv3d(in_channels, out_channels)
        else:
            self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = BatchNormNoScale(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.strided:
            padding = list(map(same_padding, x.shape[2:], self.kernel, self.stride))
            # F.pad counts from the last axis to the first.
            x = F.pad(x, [n for pair in reversed(padding) for n in pair])
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Inception unit: four branches whose outputs are concatenated over the channels.

    `channels` are the widths of branch 0; 1 (1x1x1, 3x3x3); 2 (1x1x1, 3x3x3); 3 (pool, 1x1x1).
    """

    def __init__(self, in_channels: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.in_channels = in_channels
        width_0, reduce_1, width_1, reduce_2, width_2, width_3 = channels
        self.branch_0 = ConvUnit(in_channels, width_0)
        self.branch_1 = nn.Sequential(
            ConvUnit(in_channels, reduce_1), ConvUnit(reduce_1, width_1, (3, 3, 3))
        )
        self.branch_2 = nn.Sequential(
            ConvUnit(in_channels, reduce_2), ConvUnit(reduce_2, width_2, (3, 3, 3))
        )
        self.branch_3 = nn.Sequential(
            MaxPoolSame((3, 3, 3), (1, 1, 1)), ConvUnit(in_channels, width_3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1
        )


class I3D(Backbone):
    """Inception-I3D: clips (B, 3, T, H, W), RGB in [-1, 1], to logits (B, classes).

    Any T >= 1 and H, W >= 32. 12.7 M numbers with 400 classes; 8.77 G multiply-adds at
    16x124x124. At 64x224x224 the logits are those of the published network.
    """

    def __init__(self, classes: int = 400, dropout: float = 0.5) -> None:
        units = {
            "Conv3d_1a_7x7": ConvUnit(3, 64, (7, 7, 7), (2, 2, 2)),
            "MaxPool3d_2a_3x3": MaxPoolSame((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": ConvUnit(64, 64),
            "Conv3d_2c_3x3": ConvUnit(64, 192, (3, 3, 3)),
            "MaxPool3d_3a_3x3": MaxPoolSame((1, 3, 3), (1, 2, 2)),
            "Mixed_3b": Mixed(192, (64, 96, 128, 16, 32, 32)),
            "Mixed_3c": Mixed(256, (128, 128, 192, 32, 96, 64)),
            "MaxPool3d_4a_3x3": MaxPoolSame((3, 3, 3), (2, 2, 2)),
            "Mixed_4b": Mixed(480, (192, 96, 208, 16, 48, 64)),
            "Mixed_4c": Mixed(512, (160, 112, 224, 24, 64, 64)),
            "Mixed_4d": Mixed(512, (128, 128, 256, 24, 64, 64)),
            "Mixed_4e": Mixed(512, (112, 144, 288, 32, 64, 64)),
            "Mixed_4f": Mixed(528, (256, 160, 320, 32, 128, 128)),
            "MaxPool3d_5a_2x2": MaxPoolSame((2, 2, 2), (2, 2, 2)),
            "Mixed_5b": Mixed(832, (256, 160, 320, 32, 128, 128)),
            "Mixed_5c": Mixed(832, (384, 192, 384, 48, 128, 128)),
        }
        stages = {
            2: ("Conv3d_2b_1x1", "Conv3d_2c_3x3"),
            3: ("Mixed_3b", "Mixed_3c"),
            4: ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
            5: ("Mixed_5b", "Mixed_5c"),
        }
        super().__init__(units, stages, features=1024, classes=classes, dropout=dropout)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """Average (B, 1024, T, H, W) to (B, 1024): over all space, over windows of two time
        steps, then over the windows, so that inner time steps count twice as published."""
        x = x.mean(dim=(3, 4))
        return F.avg_pool1d(x, kernel_size=min(2, x.shape[2]), stride=1).mean(dim=2)
