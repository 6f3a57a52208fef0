"""A model file for checks in which the network's answers don't matter."""

from pathlib import Path

import torch

from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing


def make_model(path: Path) -> None:
    """Write a small network with drawn weights."""
    torch.manual_seed(0)
    config = ClassifierConfig(
        labels=("a", "b", "c"),
        backbone="c3d_small",
        block=BlockConfig("none"),
        sampling=ClipSampling(length=8, stride=2),
        preprocessing=Preprocessing(short_side=64, crop=56),
    )
    VideoClassifier(config, {"note": "drawn"}).eval().save(path)
