"""3D convolutions that are fast on an x86 CPU.

    python -c "from actionrec import load; from actionrec.models.convolution import speed_up; \
               print(speed_up(load('kinetics400-i3d', precision='float32').network))"

`scripts/benchmark_prediction.py` measures what they gain in prediction.
"""

import copy
import platform

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionrec.devices import has_bfloat16
from actionrec.models.backbone import Backbone

# Where Winograd's algorithm evaluates polynomials, beside infinity; more points cost digits.
POINTS = (0, 1, -1, 2, -2, 1 / 2)
# The product at the point 1, which every output of a tile contains once.
COMMON = 1
# Neighbours that are computed together, along each axis that it takes.
TILE = 4
# Weights along time of 7 frames with a stride of 2: the last pair has but one.
TAPS_OF_PAIRS = 4
# Of taps * inputs * outputs / (inputs + outputs): with less the transforms cost what the products
# save.
LEAST_PRODUCTS = 90
# Area of all tiles in relation to that of the map: more of it would be computed for nothing.
LARGEST_TILED = 1.4
# Tiles at a time: enough for large products, and few enough for the memory of a small machine.
TILES = 1568


def winograd(outputs: int, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of Winograd's F(outputs, taps), float32, for N = outputs + taps - 1 products.

    With these of inputs (N, N), weights (N, taps) and outputs (outputs, N), neighbours of a
    convolution are `of_outputs @ ((of_inputs @ numbers) * (of_weights @ weights))` of N numbers.
    From Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.

    Raises:
        ValueError: N is above 7, for which there are no more points.
    """
    last = outputs + taps - 2
    points = POINTS[:last]
    of_inputs = np.zeros((last + 1, last + 1))
    of_weights, of_outputs = (
        np.vander([*points, 0.0], each, increasing=True) for each in (taps, outputs)
    )
    for line, point in enumerate(points):
        others = [other for other in points if other != point]
        of_inputs[line, :last] = np.poly(others)[::-1]
        of_weights[line] /= np.prod(np.subtract(point, others))
    of_inputs[last] = np.poly(points)[::-1]
    # At infinity a polynomial is its last coefficient.
    of_weights[last] = np.eye(taps)[-1]
    of_outputs[last] = np.eye(outputs)[-1]
    of_inputs, of_weights, of_outputs = map(torch.from_numpy, (of_inputs, of_weights, of_outputs.T))
    return of_inputs.float(), of_weights.float(), of_outputs.float()


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
        # Both axes of space at once: (36, 36), (36, 9) and (16, 36).
        self.inputs, of_weights, self.outputs = (
            torch.kron(transform, transform) for transform in winograd(TILE, 3)
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
            # At the point 1 of both axes.
            products[6 * COMMON + COMMON] += self.bias
        results = self.outputs @ products.view(36, -1)
        tiled = results.view(TILE, TILE, time, rows, columns, channels)
        output.copy_(tiled.permute(2, 3, 0, 4, 1, 5))


class WinogradInTime(DirectConv3d):
    """A `convolution` of 7xhxw weights with a stride of 2 in time, by Winograd's F(4, 4) of pairs
    of frames.

    It multiplies half as often: four frames take seven products of pairs, that is of 14 frames,
    instead of 28. Rounding errors are about twice those of float32's direct convolution.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__(convolution)
        self.inputs, of_weights, self.outputs = winograd(TILE, TAPS_OF_PAIRS)
        # (4, O, C, 2, h, w): an eighth frame of weights is 0.
        pairs = F.pad(self.weight, (0, 0, 0, 0, 0, 1)).unflatten(2, (-1, 2)).movedim(2, 0)
        transformed = (of_weights @ pairs.flatten(1)).view(-1, *pairs.shape[1:])
        self.weights = [
            each.contiguous(memory_format=torch.channels_last_3d) for each in transformed
        ]

    def forward(self, x: Tensor) -> Tensor:
        padding, stride, _ = self.geometry
        frames, height, width = (
            (size + 2 * pad - taps) // step + 1
            for size, pad, taps, step in zip(
                x.shape[2:], padding, self.weight.shape[2:], stride, strict=True
            )
        )
        if -(-frames // TILE) * TILE > LARGEST_TILED * frames:
            return super().forward(x)
        output = x.new_empty(len(x), frames, height, width, len(self.weight))
        for clip, result in zip(x.permute(0, 2, 3, 4, 1), output, strict=True):
            for start in range(0, frames, TILE):
                self._convolve(clip, 2 * start - padding[0], result[start : start + TILE])
        return output.permute(0, 4, 1, 2, 3)

    def _convolve(self, clip: Tensor, first: int, output: Tensor) -> None:
        """Fill `output`, (at most 4, H', W', O), from a clip, (T, H, W, C), beginning with its
        frame `first`; outside of the clip frames are 0."""
        (_, *padding), (_, *stride), dilation = self.geometry
        pairs, length = len(self.inputs), 2 * len(self.inputs)
        frames = clip[max(0, first) : first + length]
        if len(frames) < length:
            before = max(0, -first)
            frames = F.pad(frames, (0,) * 6 + (before, length - before - len(frames)))
        inputs = (self.inputs @ frames.reshape(pairs, -1)).view(pairs, 1, 2, *clip.shape[1:])
        products = output.new_empty(pairs, *output.shape[1:])
        for line, (pair, weight) in enumerate(zip(inputs, self.weights, strict=True)):
            bias = self.bias if line == COMMON else None
            products[line] = torch.mkldnn_convolution(
                pair.permute(0, 4, 1, 2, 3), weight, bias, (0, *padding), (1, *stride), dilation, 1
            ).permute(0, 2, 3, 4, 1)
        some = self.outputs[: len(output)]
        torch.matmul(some, products.flatten(1), out=output.view(len(output), -1))


def speed_up(network: Backbone) -> Backbone:
    """A copy of a network, with the same weights in memory, whose convolutions are fast here.

    It is for inference, without gradients; logits agree to rounding. On GPUs and other processors
    than x86 it is the network itself.
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
                setattr(module, name, fastest_form(child))
    return fast


def fastest_form(convolution: nn.Conv3d) -> DirectConv3d:
    """The fastest way to compute a convolution whose maps are not too small."""
    if convolution.weight.dtype != torch.float32 or convolution.dilation != (1, 1, 1):
        return DirectConv3d(convolution)
    taps, *in_space = convolution.kernel_size
    if taps == 7 and convolution.stride[0] == 2:
        return WinogradInTime(convolution)
    inputs, outputs = convolution.in_channels, convolution.out_channels
    if (
        in_space == [3, 3]
        and convolution.stride == (1, 1, 1)
        and convolution.padding[1:] == (1, 1)
        and taps * inputs * outputs / (inputs + outputs) >= LEAST_PRODUCTS
    ):
        return WinogradConv3d(convolution)
    return DirectConv3d(convolution)
