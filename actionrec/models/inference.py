"""A video classifier made ready once to predict: folded, cast, and on its device.

    python -c "from actionrec.models.inference import InferenceModel; \
               print(InferenceModel.load('kinetics400-i3d').network)"

Training never uses this form: its batch normalisations are gone.
"""

import copy
import os
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from actionrec.devices import fastest_device, has_bfloat16
from actionrec.errors import ActionrecError, UsageError
from actionrec.models.backbone import Backbone
from actionrec.models.classifier import VideoClassifier
from actionrec.models.convolution import speed_up
from actionrec.models.registry import PrecisionName
from actionrec.video.clips import ClipReader

BATCH_SIZE = 4

# A fork has none of the threads that PyTorch has started and would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class InferenceModel:
    """A copy of a video classifier that gives the same answers faster.

    Batch normalisations are folded into the convolutions before them, and an x86 CPU computes these
    by `convolution.speed_up`. In bfloat16 the units and nonlocal blocks compute with 8 significant
    bits; pooling, head and softmax keep float32, which leaves scores within about 0.02 of those in
    float32 (cgnl, which nothing normalises: 0.05).

    Args:
        model: The classifier, which is not changed.
        device, precision, decoder, topk: As in `actionrec.load`.

    Raises:
        UsageError: `topk` is below 1.
    """

    def __init__(
        self,
        model: VideoClassifier,
        device: str | torch.device | None = None,
        precision: PrecisionName = "auto",
        decoder: str = "pyav",
        topk: int = 5,
    ) -> None:
        if topk < 1:
            raise UsageError(f"A topk of {topk} is not possible; it must be at least 1.")
        prepared = copy.deepcopy(model).eval().requires_grad_(False)
        prepared = prepared.to(device or fastest_device())
        fold_batchnorm(prepared.network)
        if precision == "auto":
            precision = "bfloat16" if has_bfloat16(prepared.device) else "float32"
        dtype = getattr(torch, precision)
        prepared.network.units.to(dtype)
        prepared.network.blocks.to(dtype)
        self.model = prepared
        self.name = model.name
        self.config = model.config
        self.labels = model.config.labels
        self.precision = precision
        self.topk = topk
        self.clips = ClipReader(model.config.sampling, model.config.preprocessing, decoder)

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str | torch.device | None = None,
        precision: PrecisionName = "auto",
        decoder: str = "pyav",
        topk: int = 5,
    ) -> Self:
        """Make the classifier in a model file, or the pretrained one of that name, ready.

        Raises:
            ActionrecError: there is no such file or name, or the file is no model.
        """
        return cls(VideoClassifier.load(model), device, precision, decoder, topk)

    @property
    def network(self) -> Backbone:
        """The folded network."""
        return self.model.network

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.device

    @torch.inference_mode()
    def logits(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits, float32 (B, classes) on the CPU, of uint8 clips (B, 3, T, H, W)."""
        batches = clips.split(BATCH_SIZE)
        scored = [self._fast(self._pixels(batch)).float().cpu() for batch in batches]
        return self._finite(torch.cat(scored))

    @torch.inference_mode()
    def scores(self, clips: torch.Tensor) -> np.ndarray:
        """Softmax scores, float32 (B, classes), of uint8 clips (B, 3, T, H, W)."""
        batches = clips.split(BATCH_SIZE)
        scored = [self._fast(self._pixels(batch)).float().softmax(dim=1) for batch in batches]
        return self._finite(torch.cat([scores.cpu() for scores in scored])).numpy()

    def _finite(self, answers: torch.Tensor) -> torch.Tensor:
        """The network's answers, if they are numbers.

        Raises:
            ActionrecError: one is NaN or infinite.
        """
        if not torch.isfinite(answers).all():
            raise ActionrecError(
                f"The model {self.name} computes values that are no finite numbers in "
                f"{self.precision}; its training has diverged, or it needs --precision float32."
            )
        return answers

    @torch.inference_mode()
    def clip_features(self, clips: torch.Tensor) -> np.ndarray:
        """The pooled feature map, float32 (B, features), of uint8 clips (B, 3, T, H, W)."""
        return self._fast.features(self._pixels(clips)).float().cpu().numpy()

    @cached_property
    def _fast(self) -> Backbone:
        """The network as it computes; explanations look into the plain one."""
        return speed_up(self.network)

    def _pixels(self, clips: torch.Tensor) -> torch.Tensor:
        return self.model.pixels(clips.to(self.device))


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
