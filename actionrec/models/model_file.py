"""The model file: safetensors whose metadata holds the classifier's configuration as JSON.

    python -c "from actionrec.models import model_file; \
               print(model_file.read_description('runs/demo/model.safetensors'))"

Predicting and evaluating need nothing else.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from actionrec.errors import ActionrecError
from actionrec.files import replacing
from actionrec.models.network import BlockConfig, ClassifierConfig
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

METADATA_KEY = "actionrec"
# The name of `BlockConfig.units` in files.
UNITS_KEY = "stage_num"
PARTS = {"block": BlockConfig, "sampling": ClipSampling, "preprocessing": Preprocessing}


def describe(config: ClassifierConfig, training: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a model file: `config`, `training` and `versions`."""
    values = asdict(config)
    values["block"] = {UNITS_KEY if k == "units" else k: v for k, v in values["block"].items()}
    return {
        "config": values,
        "training": dict(training),
        "versions": {
            "actionrec": version("actionrec"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def write(
    path: Path,
    config: ClassifierConfig,
    training: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Write a model file, which appears only when it is whole.

    Raises:
        ActionrecError: the file can't be written.
    """
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(stored, temporary, {METADATA_KEY: json.dumps(describe(config, training))})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_description(path: str | Path) -> dict[str, Any]:
    """The metadata of a model file (see `describe`).

    Raises:
        ActionrecError: the file is no model file of this program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})[METADATA_KEY])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ActionrecError(
            f"{path} is no model file of actionrec; give the model.safetensors that "
            "`actionrec train` wrote."
        ) from error


def parse_config(values: dict[str, Any], path: Path) -> ClassifierConfig:
    """The configuration in the metadata of `path`.

    Raises:
        ActionrecError: this version lacks one of its keys.
    """

    def tuples(entries: dict[str, Any]) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}

    try:
        block = {"units" if k == UNITS_KEY else k: v for k, v in values["block"].items()}
        values = values | {"block": block}
        parts = {name: kind(**tuples(values[name])) for name, kind in PARTS.items()}
        return ClassifierConfig(**tuples(values | parts))
    except (TypeError, KeyError, AttributeError) as error:
        known = ", ".join(entry.name for entry in fields(ClassifierConfig))
        raise ActionrecError(
            f"{path} was written by another version of actionrec: its configuration does not "
            f"consist of {known} ({error}); use the version that its metadata names."
        ) from error
