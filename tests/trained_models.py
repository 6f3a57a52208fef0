"""Models as training leaves them, without the training."""

import torch
from torch import nn

from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing


def trained(backbone: str, block: str = "none", length: int = 8, size: int = 32) -> VideoClassifier:
    """A model whose norms and blocks all do something, as after training."""
    torch.manual_seed(0)
    model = VideoClassifier(
        ClassifierConfig(
            labels=("a", "b", "c"),
            backbone=backbone,
            block=BlockConfig(block),
            sampling=ClipSampling(length),
            preprocessing=Preprocessing(size + 4, size, gamma=0.7),
        )
    )
    return randomised(model).eval()


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm3d | nn.GroupNorm) and norm.weight is not None:
                norm.weight.uniform_(0.5, 1.5)
            if isinstance(norm, nn.BatchNorm3d):
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 1.5)
    return module
