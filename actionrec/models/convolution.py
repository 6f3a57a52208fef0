"""3D convolutions that are fast on an x86 CPU.

    python -c "from actionrec import load; from actionrec.models.convolution import speed_up; \
               print(speed_up(load('kinetics400-i3d', precision='float32').network))"

`scripts/benchmark_prediction.py` measures what they gain in prediction,
`scripts/benchmark_training.py` what `PointwiseConv3d` gains in training.
"""

import copy
import platform

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionrec.devices import has_bfloat16
from actionrec.models.backbone import Backbone

# Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: F(4, 3) gives four
# neighbours of a convolution with three weights for six multiplications instead of twelve.
WEIGHT_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
TILE = 4
# With fewer channels or columns the transforms cost what the multiplications save.
LEAST_CHANNELS = 32
LEAST_WIDTH = 12
# Frames at a time, whose transforms stay in the processor's cache.
FRAMES = 8


class PointwiseConv3d(nn.Conv3d):
    """A 1x1x1 convolution of (B, C, T, H, W), in training in one thread of a CPU computed as a
    matrix product.

    With one thread PyTorch leaves it to an implementation of its own that returns channels-first
    memory, and all that follows, max-pooling above all, is slow there: by matrix products a
    training step of I3D takes 0.80 of the time. With two threads it would take 1.03.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # The compiler chooses for itself.
        compiled = torch.compiler.is_compiling()
        if compiled or not (self.training and x.is_cpu and torch.get_num_threads() == 1):
            return super().forward(x)
        return F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1)).permute(0, 4, 1, 2, 3)


class DirectConv3d(nn.Module):
    """`convolution`, always computed by oneDNN.

    With one clip in a batch PyTorch leaves most 3D convolutions to an implementation of its own
    that is slower and returns channels-first memory.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight = convolution.weight
        self.bias = convolution.bias
        self.geometry = (convolution.padding, convolution.stride, convolution.dilation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.mkldnn_convolution(x, self.weight, self.bias, *self.geometry, groups=1)


class WinogradConv3d(DirectConv3d):
    """A 3x3x3 `convolution` with stride 1 and padding 1, along the width by Winograd's F(4, 3).

    It multiplies half as often. Rounding errors are about three times those of float32's direct
    convolution: some 1e-5 of the output's standard deviation.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__(convolution)
        transform = torch.tensor(WEIGHT_TRANSFORM, dtype=torch.float64)
        weights = torch.einsum("gw,octhw->gocth", transform, self.weight.double())
        layout = {"dtype": torch.float32, "memory_format": torch.channels_last_3d}
        self.weights = [each.unsqueeze(-1).to(**layout) for each in weights]

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < LEAST_WIDTH:
            return super().forward(x)
        batch, _, time, height, width = x.shape
        tiles = -(-width // TILE)
        channels_last = x.permute(0, 2, 3, 4, 1)
        padded = F.pad(channels_last, (0, 0, 1, TILE * tiles + 1 - width, 0, 0, 1, 1))
        output = x.new_empty(batch, time, height, TILE * tiles, self.weight.shape[0])
        for start in range(0, time, FRAMES):
            frames = padded[:, start : start + FRAMES + 2]
            self._convolve(frames, output[:, start : start + FRAMES])
        return output[:, :, :, :width].permute(0, 4, 1, 2, 3)

    def _convolve(self, frames: Tensor, output: Tensor) -> None:
        """Fill `output` (B, T, H, 4 n, O) from `frames` (B, T + 2, H, 4 n + 2, C)."""
        last = frames.shape[3] - TILE - 1
        x0, x1, x2, x3, x4, x5 = (frames[:, :, :, i : i + last : TILE] for i in range(6))
        even, odd = torch.sub(x4, x2, alpha=4), torch.sub(x3, x1, alpha=4)
        even_2, odd_2 = x4 - x2, (x3 - x1).mul_(2)
        transformed = (
            (x0 - x2).mul_(4).add_(even_2),
            even + odd,
            even - odd,
            even_2 + odd_2,
            even_2 - odd_2,
            (x1 - x3).mul_(4).add_(x5).sub_(x3),
        )
        m0, m1, m2, m3, m4, m5 = (
            self._product(each, index) for index, each in enumerate(transformed)
        )
        sum_12, difference_12 = m1 + m2, m1 - m2
        sum_34, difference_34 = m3 + m4, m3 - m4
        output[:, :, :, 0::TILE] = m0.add_(sum_12).add_(sum_34)
        torch.add(difference_12, difference_34, alpha=2, out=output[:, :, :, 1::TILE])
        torch.add(sum_12, sum_34, alpha=4, out=output[:, :, :, 2::TILE])
        output[:, :, :, 3::TILE] = m5.add_(difference_12).add_(difference_34, alpha=8)

    def _product(self, transformed: Tensor, index: int) -> Tensor:
        """The convolution over time and height; the bias reaches all outputs through product 1."""
        x = transformed.permute(0, 4, 1, 2, 3)
        bias = self.bias if index == 1 else None
        y = torch.mkldnn_convolution(x, self.weights[index], bias, (0, 1, 0), (1,) * 3, (1,) * 3, 1)
        return y.permute(0, 2, 3, 4, 1)


def speed_up(network: Backbone) -> Backbone:
    """A copy of a network, with the same weights in memory, whose convolutions are fast here.

    Logits agree to rounding. On GPUs and other processors than x86 it is the network itself.
    """
    weight = next(network.parameters())
    known = weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and has_bfloat16(weight.device)
    )
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if weight.device.type != "cpu" or not (x86 and known and torch.backends.mkldnn.is_available()):
        return network
    shared = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    fast = copy.deepcopy(network, shared)
    for module in list(fast.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv3d) and child.groups == 1:
                kind = WinogradConv3d if gains_by_winograd(child) else DirectConv3d
                setattr(module, name, kind(child))
    return fast


def gains_by_winograd(convolution: nn.Conv3d) -> bool:
    """Whether Winograd's algorithm makes it faster: a 3x3x3 convolution that keeps the size."""
    cube = convolution.kernel_size == (3, 3, 3) and convolution.dilation == (1, 1, 1)
    same = convolution.stride == (1, 1, 1) and convolution.padding == (1, 1, 1)
    wide = min(convolution.in_channels, convolution.out_channels) >= LEAST_CHANNELS
    return cube and same and wide and convolution.weight.dtype == torch.float32
