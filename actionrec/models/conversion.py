"""Weights to start training from, by name or from a file: ours, Hara's, PyTorchVideo's or
torchvision's.

    actionrec train --dataset folder --root my_videos --backbone r3d50 \
        --weights resnet-50-kinetics.pth

A checkpoint brings the mean and standard deviation of its training pixels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import torch
from safetensors.torch import load_file

from actionrec.errors import ActionrecError, UsageError
from actionrec.models import catalogue, model_file, published
from actionrec.models.catalogue import MODELS, suggestion
from actionrec.models.published import PUBLISHED, PublishedWeights, read_pickled

Statistics = tuple[float, float, float]

PYTORCHVIDEO_STATISTICS = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
# Hara's checkpoints with 400 classes are of Kinetics-400, the later ones of Kinetics-700, alone and
# with other data.
HARA_KINETICS400 = (114.8 / 255, 107.7 / 255, 99.5 / 255), (1 / 255, 1 / 255, 1 / 255)
HARA_LATER = (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)

# Regular expressions and their replacements, from the beginning of a tensor's name to ours.
HARA_NAMES = {
    r"module\.": "",  # saved from several GPUs
    r"fc\.": "head.",
    r"layer(\d+)\.(\d+)\.": r"units.layer\1_\2.",
    r"(conv1|bn1)\.": r"units.stem.\1.",
}
PYTORCHVIDEO_NAMES = {
    # SlowFast's pathways, and what joins them.
    r"blocks\.0\.multipathway_blocks\.0\.": "units.stem.slow.",
    r"blocks\.0\.multipathway_blocks\.1\.": "units.stem.fast.",
    r"blocks\.0\.multipathway_fusion\.": "units.stem_fusion.",
    **{
        rf"blocks\.{stage - 1}\.multipathway_blocks\.{number}\.res_blocks\.(\d+)\.": (
            rf"units.res{stage}_\1.{pathway}."
        )
        for stage in (2, 3, 4, 5)
        for number, pathway in enumerate(("slow", "fast"))
    },
    **{
        rf"blocks\.{stage - 1}\.multipathway_fusion\.": f"units.res{stage}_fusion."
        for stage in (2, 3, 4)
    },
    r"blocks\.6\.proj\.": "head.",
    r"blocks\.0\.": "units.stem.",
    r"blocks\.1\.res_blocks\.(\d+)\.": r"units.res2_\1.",
    r"blocks\.2\.res_blocks\.(\d+)\.": r"units.res3_\1.",
    r"blocks\.3\.res_blocks\.(\d+)\.": r"units.res4_\1.",
    r"blocks\.4\.res_blocks\.(\d+)\.": r"units.res5_\1.",
    r"blocks\.5\.pool\.": "units.projection.",
    r"blocks\.5\.proj\.": "head.",
}
# After stage 2 it has a pooling of its own.
I3D_R50_NAMES = {
    r"blocks\.0\.": "units.stem.",
    r"blocks\.1\.res_blocks\.(\d+)\.": r"units.res2_\1.",
    r"blocks\.([345])\.res_blocks\.(\d+)\.": r"units.res\1_\2.",
    r"blocks\.6\.proj\.": "head.",
}
TORCHVISION_NAMES = {
    r"head\.1\.": "head.",
    r"(conv_proj|pos_encoding)\.": r"units.patches.\1.",
    r"blocks\.(\d+)\.": r"units.block_\1.block.",
    r"norm\.": "units.norm.norm.",
    r"patch_embed\.": "units.patch_embed.",
    r"fc\.": "head.",
    r"classifier\.1\.": "head.",
    r"stem\.": "units.stem.",
    r"layer(\d+)\.(\d+)\.": r"units.layer\1_\2.",
    r"features\.(\d+)\.": r"units.features_\1.",
}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by the names of our modules, and their pixel statistics on the scale of [0, 1]."""

    tensors: dict[str, torch.Tensor]
    mean: Statistics
    std: Statistics


def load(name: str, backbone: str) -> Checkpoint:
    """The weights `name` for a backbone: kinetics400, a name of the catalogue, or a file.

    Raises:
        UsageError: there are no weights of that name for the backbone.
        ActionrecError: they can't be had, or the file holds no checkpoint.
    """
    if name == "kinetics400":
        named = [each.name for each in MODELS.values() if each.backbone == backbone]
        if not named:
            raise UsageError(
                f"There are no Kinetics-400 weights for {backbone} to be downloaded; use --weights "
                "none, or a file."
            )
        name = named[0]
    if name in MODELS:
        weights = MODELS[name]
        if weights.backbone != backbone:
            raise UsageError(
                f"The weights {name} are for --backbone {weights.backbone}, not for {backbone}."
            )
        if isinstance(weights, PublishedWeights):
            return from_library(read_pickled(published.fetch(weights)), backbone)
        # I3D takes RGB in [-1, 1].
        tensors = load_file(catalogue.fetch(name))
        return Checkpoint(tensors, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    path = model_file.locate(name)
    if not path.is_file():
        raise ActionrecError(
            f"There are no weights {name!r}, neither a file nor kinetics400, none or a name; "
            f"{suggestion(name)}"
        )
    if path.suffix == ".safetensors" or backbone not in ("r3d50", *PUBLISHED):
        description = model_file.read_description(path)
        preprocessing = model_file.parse_config(description["config"], path).preprocessing
        return Checkpoint(load_file(path), preprocessing.mean, preprocessing.std)
    checkpoint = read_pickled(path)
    return from_hara(checkpoint) if backbone == "r3d50" else from_library(checkpoint, backbone)


def from_hara(checkpoint: dict[str, Any]) -> Checkpoint:
    """A checkpoint of kenshohara/3D-ResNets-PyTorch."""
    tensors = renamed(checkpoint.get("state_dict", checkpoint), HARA_NAMES)
    kinetics400 = "head.bias" in tensors and tensors["head.bias"].shape == (400,)
    return Checkpoint(tensors, *(HARA_KINETICS400 if kinetics400 else HARA_LATER))


def from_library(checkpoint: dict[str, Any], backbone: str) -> Checkpoint:
    """A checkpoint of PyTorchVideo or torchvision for the backbone of that name."""
    weights = PUBLISHED[backbone]
    if weights.is_torchvisions:
        tensors = renamed(checkpoint, TORCHVISION_NAMES)
        # S3D's head is a convolution.
        if "head.weight" in tensors:
            tensors["head.weight"] = tensors["head.weight"].flatten(1)
        transforms = resolve_name(weights.record).transforms()
        return Checkpoint(tensors, tuple(transforms.mean), tuple(transforms.std))
    names = I3D_R50_NAMES if backbone == "i3d_r50" else PYTORCHVIDEO_NAMES
    tensors = renamed(checkpoint.get("model_state", checkpoint), names)
    return Checkpoint(tensors, *PYTORCHVIDEO_STATISTICS)


def renamed(tensors: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> dict[str, Any]:
    """The tensors with the beginnings of their names replaced, one rule after the other."""
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise ActionrecError(
            "The checkpoint holds other things than named tensors where its weights should be; "
            "download it again or choose another."
        )
    found = {}
    for name, value in tensors.items():
        for pattern, replacement in names.items():
            name = re.sub(f"^{pattern}", replacement, name)
        found[name] = value
    return found
