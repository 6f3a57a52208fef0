"""Weights to start training from, by name or from a file: ours, Hara's, or PyTorchVideo's.

    actionrec train --dataset folder --root my_videos --backbone r3d50 --weights r3d50_K_200ep.pth

A checkpoint brings the mean and standard deviation of the pixels that it was trained on.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import cache_folder
from actionrec.models import catalogue
from actionrec.models.classifier import VideoClassifier

Statistics = tuple[float, float, float]

I3D_R50_URL = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/I3D_8x8_R50.pyth"
# Hara's checkpoints don't say what they were trained on; the number of their classes does.
HARA_STATISTICS: dict[int, tuple[Statistics, Statistics]] = {
    400: ((114.8 / 255, 107.7 / 255, 99.5 / 255), (1 / 255, 1 / 255, 1 / 255)),
    700: ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
}
# Hara's later checkpoints, of Kinetics-700 and mixtures with it, share their statistics.
HARA_DEFAULT = HARA_STATISTICS[700]


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by the names of our modules, and the pixel statistics in [0, 1] they go with."""

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
    path = Path(name)
    if not path.is_file():
        raise ActionrecError(f"There are no weights {name!r}: use kinetics400, none or a file.")
    if path.suffix == ".safetensors" or backbone not in ("r3d50", "i3d_r50"):
        model = VideoClassifier.load(path)
        preprocessing = model.config.preprocessing
        return Checkpoint(model.network.state_dict(), preprocessing.mean, preprocessing.std)
    read = from_hara if backbone == "r3d50" else from_pytorchvideo
    return read(read_pickled(path))


def read_pickled(path: Path) -> dict[str, Any]:
    """A checkpoint that torch.save wrote; nothing but tensors and plain values is admitted.

    Raises:
        ActionrecError: it is none, or holds something else.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ActionrecError(
            f"{path} is no checkpoint of tensors and plain values alone, the only kind that is "
            f"read ({type(error).__name__}); download it again or choose another one."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ActionrecError(f"{path} is no checkpoint: it holds a {type(checkpoint).__name__}.")
    return checkpoint


def from_hara(checkpoint: dict[str, Any]) -> Checkpoint:
    """A checkpoint of kenshohara/3D-ResNets-PyTorch: `state_dict` with the names conv1, bn1,
    layer1.0.conv1, ..., fc, after `module.` where it was saved from several GPUs."""
    tensors = {}
    for name, value in checkpoint.get("state_dict", checkpoint).items():
        name = name.removeprefix("module.")
        if name.startswith("fc."):
            name = name.replace("fc.", "head.")
        elif name.startswith("layer"):
            layer, position, rest = name.split(".", 2)
            name = f"units.{layer}_{position}.{rest}"
        else:
            name = f"units.stem.{name}"
        tensors[name] = value
    classes = len(tensors["head.bias"]) if "head.bias" in tensors else None
    return Checkpoint(tensors, *HARA_STATISTICS.get(classes, HARA_DEFAULT))


def from_pytorchvideo(checkpoint: dict[str, Any]) -> Checkpoint:
    """PyTorchVideo's I3D 8x8 R50: `model_state` with the names blocks.0 to blocks.6."""
    stages = {"1": "res2", "3": "res3", "4": "res4", "5": "res5"}
    tensors = {}
    for name, value in checkpoint.get("model_state", checkpoint).items():
        parts = name.split(".")
        if name.startswith("blocks.0."):
            name = ".".join(["units.stem", *parts[2:]])
        elif name.startswith("blocks.6.proj."):
            name = f"head.{parts[-1]}"
        elif parts[0] == "blocks" and parts[1] in stages:
            name = ".".join([f"units.{stages[parts[1]]}_{parts[3]}", *parts[4:]])
        tensors[name] = value
    return Checkpoint(tensors, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))


def download_i3d_r50() -> Path:
    """PyTorchVideo's file in the cache, downloaded at most once.

    Its hash isn't published, so it is trusted no further than `read_pickled` goes.
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
