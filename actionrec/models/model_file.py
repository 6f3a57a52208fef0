"""The model file: safetensors whose metadata holds the classifier's configuration as JSON.

    python -c "from actionrec.models import model_file; \
               print(model_file.read_description('runs/demo/model.safetensors'))"

Predicting and evaluating need nothing else.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_origin

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from actionrec.errors import ActionrecError
from actionrec.files import replacing
from actionrec.models.decision import Decision
from actionrec.models.network import BlockConfig, ClassifierConfig
from actionrec.text import json_text
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

METADATA_KEY = "actionrec"
# The name of `BlockConfig.units` in files.
UNITS_KEY = "stage_num"
# Far beyond what networks are made of: more means a damaged or hostile file.
LARGEST = 4096
MOST_PIXELS = 2**28  # of a clip
PARTS = {
    "block": BlockConfig,
    "sampling": ClipSampling,
    "preprocessing": Preprocessing,
    "decision": Decision,
}


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
        description = json_text(describe(config, training))
        temporary.write_bytes(save(stored, {METADATA_KEY: description}))


def locate(model: str | Path) -> Path:
    """The model file: `model` itself, or the best epoch's in the folder of a training run."""
    path = Path(model)
    return path / "model.safetensors" if path.is_dir() else path


def sha256(path: Path) -> str:
    """The hash of a model file; of OpenVINO's *.xml, with the weights beside it."""
    weights = [path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else []
    found = hashlib.sha256()
    for part in [path, *weights]:
        found.update(part.read_bytes())
    return found.hexdigest()


def require_finite(tensors: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Raise ActionrecError if a tensor holds a NaN or an infinity."""
    for name, values in tensors.items():
        if values.is_complex() or not torch.isfinite(values.float()).all():
            raise ActionrecError(
                f"{source} holds values in {name} that are no finite numbers: its training has "
                "diverged, or it is damaged; train or download it again."
            )


def read_description(path: str | Path) -> dict[str, Any]:
    """The metadata of a model file (see `describe`).

    Raises:
        ActionrecError: the file is no model file of this program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = dict(json.loads((file.metadata() or {})[METADATA_KEY]))
        if not all(isinstance(description[key], dict) for key in ("config", "training")):
            raise ValueError("no settings")
        return description
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, OSError) as error:
        raise ActionrecError(
            f"{path} is no model file of actionrec; give the model.safetensors that "
            "`actionrec train` wrote."
        ) from error


def parse_config(values: dict[str, Any], path: Path) -> ClassifierConfig:
    """The configuration in the metadata of `path`.

    Raises:
        ActionrecError: this version lacks one of its keys, or values make no sense.
    """

    def tuples(entries: dict[str, Any]) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}

    try:
        block = {"units" if k == UNITS_KEY else k: v for k, v in values["block"].items()}
        # Files of earlier versions have no decision: one label a video, the best.
        values = {"decision": {}, **values, "block": block}
        _require_plausible(values)
        parts = {name: kind(**tuples(values[name])) for name, kind in PARTS.items()}
        return ClassifierConfig(**tuples(values | parts))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        known = ", ".join(entry.name for entry in fields(ClassifierConfig))
        raise ActionrecError(
            f"{path} was written by another version of actionrec: its configuration does not "
            f"consist of {known} ({error}); use the version that its metadata names."
        ) from error


def _require_plausible(values: dict[str, Any]) -> None:
    """Raise ValueError where values of a configuration are not of the types of their fields, or
    numbers that no machine could compute with."""
    parts = [(kind, values[name]) for name, kind in PARTS.items()]
    for kind, part in [(ClassifierConfig, values), *parts]:
        for entry in fields(kind):
            if entry.name in part.keys() - PARTS.keys() and not _fits(part[entry.name], entry.type):
                raise ValueError(f"{entry.name} is {part[entry.name]!r:.40}")
    length, crop = values["sampling"]["length"], values["preprocessing"]["crop"]
    if not values["labels"] or length * crop**2 > MOST_PIXELS:
        raise ValueError(f"{len(values['labels'])} labels, clips of {length}x{crop}x{crop}")
    thresholds = values["decision"].get("thresholds", ())
    if len(thresholds) not in (0, len(values["labels"])):
        raise ValueError(f"{len(thresholds)} thresholds for {len(values['labels'])} labels")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type and, if it is a number, plausible."""
    members = get_args(kind)
    if get_origin(kind) is tuple:
        length_fits = members[-1] is ... or len(members) == len(value)
        return isinstance(value, list) and length_fits and all(_fits(x, members[0]) for x in value)
    if members:
        return any(_fits(value, member) for member in members)
    if kind in (int, float):
        number = (int, float) if kind is float else int
        return isinstance(value, number) and abs(value) <= LARGEST
    return isinstance(value, kind)
