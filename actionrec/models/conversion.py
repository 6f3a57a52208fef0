"""Weights to start training from, by name or from a file: ours, Hara's, or PyTorchVideo's.

    actionrec train --dataset folder --root my_videos --backbone r3d50 \
        --weights resnet-50-kinetics.pth

A checkpoint brings the mean and standard deviation of its training pixels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import cache_folder
from actionrec.models import catalogue, model_file
from actionrec.models.classifier import VideoClassifier

Statistics = tuple[float, float, float]

I3D_R50_URL = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/I3D_8x8_R50.pyth"
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
    r"blocks\.0\.": "units.stem.",
    r"blocks\.1\.res_blocks\.(\d+)\.": r"units.res2_\1.",
    r"blocks\.([345])\.res_blocks\.(\d+)\.": r"units.res\1_\2.",
    r"blocks\.6\.proj\.": "head.",
}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by the names of our modules, and their pixel statistics on the scale of [0, 1]."""

    tensors: dict[str, torch.Tensor]
    mean: Statistics
    std: Statistics


def load(name: str, backbone: str) -> Checkpoint:
    """The weights `name` for a backbone: kinetics400, or a file.

    Raises:
        UsageError: there are no weights of that name for the backbone.
        ActionrecError: they can't be had, or the file holds no checkpoint.
    """
    if name == "kinetics400":
        if backbone == "i3d":
            # I3D takes RGB in [-1, 1].
            tensors = load_file(catalogue.fetch("kinetics400-i3d"))
            return Checkpoint(tensors, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        if backbone == "i3d_r50":
            return from_pytorchvideo(read_pickled(download_i3d_r50()))
        raise UsageError(
            f"There are no Kinetics-400 weights for {backbone} to be downloaded; use --weights "
            "none, or a file."
        )
    path = model_file.locate(name)
    if not path.is_file():
        raise ActionrecError(f"There are no weights {name!r}: use kinetics400, none or a file.")
    if path.suffix == ".safetensors" or backbone not in ("r3d50", "i3d_r50"):
        model = VideoClassifier.load(path)
        preprocessing = model.config.preprocessing
        return Checkpoint(model.network.state_dict(), preprocessing.mean, preprocessing.std)
    read = from_hara if backbone == "r3d50" else from_pytorchvideo
    return read(read_pickled(path))


def read_pickled(path: Path) -> dict[str, Any]:
    """A checkpoint of torch.save that holds nothing but tensors and plain values."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle fails in any of Python's ways.
    except Exception as error:
        raise ActionrecError(
            f"{path} is no checkpoint of tensors and plain values alone "
            f"({type(error).__name__}), and no other is read; download it again or choose another."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ActionrecError(f"{path} is no checkpoint: it holds a {type(checkpoint).__name__}.")
    return checkpoint


def from_hara(checkpoint: dict[str, Any]) -> Checkpoint:
    """A checkpoint of kenshohara/3D-ResNets-PyTorch."""
    tensors = renamed(checkpoint.get("state_dict", checkpoint), HARA_NAMES)
    kinetics400 = "head.bias" in tensors and tensors["head.bias"].shape == (400,)
    return Checkpoint(tensors, *(HARA_KINETICS400 if kinetics400 else HARA_LATER))


def from_pytorchvideo(checkpoint: dict[str, Any]) -> Checkpoint:
    """PyTorchVideo's I3D 8x8 R50."""
    tensors = renamed(checkpoint.get("model_state", checkpoint), PYTORCHVIDEO_NAMES)
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


def download_i3d_r50() -> Path:
    """The path of PyTorchVideo's file in the cache, downloaded at most once.

    Its hash isn't published, so `read_pickled` takes only tensors and plain values from it.
    """
    path = cache_folder() / Path(I3D_R50_URL).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(I3D_R50_URL, str(path))
        except OSError as error:
            raise ActionrecError(
                f"{I3D_R50_URL} could not be downloaded ({error}); download it on another "
                f"machine and put it into {path.parent}."
            ) from error
    return path
