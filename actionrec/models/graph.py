"""A network that predicts as one graph: from uint8 clips to logits and features.

    python -c "from actionrec.models.classifier import VideoClassifier; \
               from actionrec.models.graph import *; \
               print(trace_prediction(VideoClassifier.load('kinetics400-i3d')))"
"""

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_weights

from actionrec.models.classifier import VideoClassifier


class PredictionGraph(nn.Module):
    """The function that a graph computes, of a classifier whose network is folded."""

    def __init__(self, folded: VideoClassifier) -> None:
        super().__init__()
        self.model = folded

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and pooled features (B, C) of uint8 clips (B, 3, T, H, W)."""
        features = self.model.network.features(self.model.pixels(clips))
        return self.model.network.head(features), features


def folded(model: VideoClassifier) -> VideoClassifier:
    """A copy that predicts: its batch normalisations are folded, and nothing is trained."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    fold_batchnorm(copied.network)
    return copied


def fold_batchnorm(network: nn.Module) -> None:
    """Fold the batch normalisations of `network`, in place, into the convolutions before them.

    In our networks and in PyTorchVideo's, a Conv3d and its BatchNorm3d are neighbours within a
    module.
    """
    for module in list(network.modules()):
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
                statistics = norm.running_mean, norm.running_var, norm.eps
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, *statistics, norm.weight, norm.bias
                )
                setattr(module, name, nn.Identity())


def trace_prediction(
    model: VideoClassifier, clips: Tensor | None = None, shapes: dict[int, Any] | None = None
) -> ExportedProgram:
    """The graph of a classifier on the CPU, in float32, by torch.export.

    Args:
        model: The classifier, which is not changed.
        clips: uint8, (B, 3, T, H, W); by default one clip of the size that the model expects.
        shapes: The axes of `clips` that may have other sizes, as `torch.export.Dim`.
    """
    if clips is None:
        length, crop = model.config.sampling.length, model.config.preprocessing.crop
        clips = torch.zeros(1, 3, length, crop, crop, dtype=torch.uint8)
    graph = PredictionGraph(folded(model).cpu())
    return torch.export.export(graph, (clips,), dynamic_shapes=shapes and (shapes,))
