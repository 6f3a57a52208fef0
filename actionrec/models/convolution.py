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
# neighbours of a convolution with three weights for six multiplications instead of twelve. What a
# line of `INPUTS` makes of six neighbours is multiplied by what the same line of `WEIGHTS` makes of
# three weights; a line of `OUTPUTS` adds six products up to one neighbour of the result.
INPUTS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
WEIGHTS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
OUTPUTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
TILE = 4
# The product that all outputs of a tile contain once: line 1 along the height and the width.
COMMON = 7
# Of taps * inputs * outputs / (inputs + outputs): with less the transforms cost what the products
# save.
LEAST_PRODUCTS = 90
# Area of all tiles in relation to that of the map: more of it would be computed for nothing.
LARGEST_TILED = 1.4
# Tiles at a time: enough for large products, and few enough for the memory of a small machine.
TILES = 1568


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
    """A `convolution` of 3x3 or tx3x3 weights, stride 1 and padding 1 in space, by Winograd's
    F(4x4, 3x3).

    It multiplies a quarter as often; transforms of inputs and outputs are matrix products, too.
    Rounding errors are about four times those of float32's direct convolution: some 5e-5 of the
    output's standard deviation.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__(convolution)
        # Both axes of space at once: (36, 36), (16, 36) and (36, 9).
        self.inputs, self.outputs, of_weights = (
            torch.kron(transform, transform)
            for transform in (torch.tensor(each).float() for each in (INPUTS, OUTPUTS, WEIGHTS))
        )
        outputs, inputs, taps, *_ = self.weight.shape
        transformed = of_weights @ self.weight.permute(3, 4, 2, 1, 0).reshape(9, -1)
        # Of each frame of weights, (36, C, O).
        self.weights = transformed.view(36, taps, inputs, outputs).unbind(1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, time, height, width = x.shape
        rows, columns = -(-height // TILE), -(-width // TILE)
        if rows * columns * TILE**2 > LARGEST_TILED * height * width:
            return super().forward(x)
        pad, more = self.geometry[0][0], len(self.weights) - 1
        below, right = TILE * rows + 1 - height, TILE * columns + 1 - width
        padded = F.pad(x.permute(0, 2, 3, 4, 1), (0, 0, 1, right, 1, below, pad, pad))
        frames, channels = time + 2 * pad - more, len(self.weight)
        output = x.new_empty(batch, frames, rows, TILE, columns, TILE, channels)
        step = max(1, TILES // (rows * columns))
        for clip, result in zip(padded, output, strict=True):
            for start in range(0, frames, step):
                some = result[start : start + step]
                self._convolve(clip[start : start + len(some) + more], some)
        output = output.view(batch, frames, TILE * rows, TILE * columns, channels)
        return output[:, :, :height, :width].permute(0, 4, 1, 2, 3)

    def _convolve(self, frames: Tensor, output: Tensor) -> None:
        """Fill `output`, (T, rows, 4, columns, 4, O), from `frames`, (T + taps - 1, 4 rows + 2,
        4 columns + 2, C)."""
        time, rows, _, columns, _, channels = output.shape
        tiles = frames.unfold(1, 6, TILE).unfold(2, 6, TILE).permute(4, 5, 0, 1, 2, 3)
        inputs = (self.inputs @ tiles.reshape(36, -1)).view(36, len(frames), rows * columns, -1)
        first, *others = self.weights
        products = inputs[:, :time].flatten(1, 2) @ first
        for tap, weight in enumerate(others, start=1):
            products.baddbmm_(inputs[:, tap : tap + time].flatten(1, 2), weight)
        if self.bias is not None:
            products[COMMON] += self.bias
        results = self.outputs @ products.view(36, -1)
        tiled = results.view(TILE, TILE, time, rows, columns, channels)
        output.copy_(tiled.permute(2, 3, 0, 4, 1, 5))


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
    """Whether Winograd's algorithm makes it faster where its maps are not too small."""
    taps, *in_space = convolution.kernel_size
    plain = (
        in_space == [3, 3]
        and convolution.stride == convolution.dilation == (1, 1, 1)
        and convolution.padding[1:] == (1, 1)
        and convolution.weight.dtype == torch.float32
    )
    inputs, outputs = convolution.in_channels, convolution.out_channels
    return plain and taps * inputs * outputs / (inputs + outputs) >= LEAST_PRODUCTS
