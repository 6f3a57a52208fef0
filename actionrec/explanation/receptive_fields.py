"""Receptive field centres: where in a clip the positions of a feature map lie.

Strides and paddings of the network move the centres. "SAME" padding, as in I3D, puts them up to
half a stride behind the middle of equal cells; padding by half the kernel, as in ResNets, up to
half a stride before it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True)
class Centres:
    """Receptive field centres along one axis of the network's input, in frames, rows or
    columns: `offset` is that of position 0, `stride` the distance to the next one."""

    offset: float = 0
    stride: float = 1

    def centre(self, position: int) -> float:
        """The coordinate of a position's centre."""
        return self.offset + self.stride * position

    def nearest(self, coordinate: float, positions: int) -> int:
        """The position, out of `positions`, whose centre is nearest to a coordinate."""
        return min(max(round((coordinate - self.offset) / self.stride), 0), positions - 1)

    def interpolation(self, coordinates: np.ndarray, positions: int) -> np.ndarray:
        """Weights (coordinates, positions) of linear interpolation; constant beyond both ends."""
        index = ((coordinates - self.offset) / self.stride).clip(0, positions - 1)
        return (1 - np.abs(index[:, None] - np.arange(positions))).clip(0).astype(np.float32)

    def behind(self, kernel: int, stride: int, padding: int) -> "Centres":
        """The centres behind a convolution or pooling, with `padding` before the first element."""
        offset = self.offset + self.stride * ((kernel - 1) / 2 - padding)
        return Centres(offset, self.stride * stride)


# Centres in time, height and width.
Grid = tuple[Centres, Centres, Centres]


class CentreTracker(TorchDispatchMode):
    """Follows clips (B, 3, T, H, W) through a network; `grids` maps each tensor to its centres."""

    def __init__(self, clips: Tensor) -> None:
        super().__init__()
        self.grids = WeakTensorKeyDictionary()
        self.grids[clips] = (Centres(),) * 3

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        inputs = (x for x in tree_leaves(args) if isinstance(x, Tensor) and x in self.grids)
        source = next(inputs, None)
        if source is None:
            return results
        kernel, stride, padding = (1, 1, 1), (1, 1, 1), (0, 0, 0)
        if func is torch.ops.aten.convolution.default:
            kernel, stride, padding = args[1].shape[2:], args[3], args[4]
        elif func is torch.ops.aten.max_pool3d_with_indices.default:
            kernel, stride, padding = (*args[1:], padding)[:3]
        elif func is torch.ops.aten.constant_pad_nd.default:
            # Padding before and after each axis, the last axis first.
            padding = args[1][-2::-2]
        layers = zip(self.grids[source], kernel, stride, padding, strict=True)
        grid = tuple(centres.behind(*layer) for centres, *layer in layers)
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self.grids[result] = grid
        return results
