"""A recognizer: network, labels, preprocessing and clip sampling, in one object and one file.

    python -c "from actionrec.models.classifier import VideoClassifier; \
               print(VideoClassifier.load('runs/demo/model.safetensors').config)"

The file is safetensors. Its metadata holds the configuration as JSON, so that predicting and
evaluating need nothing else.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from actionrec.errors import ActionrecError
from actionrec.files import replacing
from actionrec.models import catalogue
from actionrec.models.backbone import Backbone
from actionrec.models.hub import MODEL_CARD, MODEL_FILE, ModelHubMixin
from actionrec.models.nonlocal_blocks import build_block
from actionrec.models.registry import BACKBONES, find
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

METADATA_KEY = "actionrec"
# What files call the units of a block, those of older versions too.
UNITS_KEY = "stage_num"
# In the order of the published I3D's logits. Torchvision has them too, but takes as long to import
# as PyTorch does.
KINETICS400_LABELS = Path(__file__).with_name("kinetics400.txt")


@dataclass(frozen=True)
class BlockConfig:
    """The nonlocal blocks of a network: which, and how many of them where.

    `per_stage` blocks stand before the last units of each of `stages`; the other fields are
    the arguments of `nonlocal_blocks.build_block`.
    """

    name: str = "none"
    stages: tuple[int, ...] = (4,)
    per_stage: int = 1
    reduction: int = 2
    order: int | None = None
    groups: int | None = None
    units: int = 1


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that makes a recognizer but its weights."""

    labels: tuple[str, ...]
    backbone: str = "i3d"
    block: BlockConfig = field(default_factory=BlockConfig)
    sampling: ClipSampling = field(default_factory=ClipSampling)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


@dataclass(frozen=True)
class LoadReport:
    """What became of each weight when pretrained ones were loaded into a network.

    `loaded` came from the file; `new` are those of the network that start afresh; `unused` are
    those of the file that were left out.
    """

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        new = ", ".join(sorted({_part(name) for name in self.new})) or "none"
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return f"{len(self.loaded)} tensors loaded, {len(self.new)} new ({new}){unused}"


def _part(name: str) -> str:
    """The part of the network that a tensor belongs to, in words."""
    return f"block before {name.split('.')[1]}" if name.startswith("blocks.") else "head"


def build_network(config: ClassifierConfig) -> Backbone:
    """The backbone of `config` with its nonlocal blocks and a head for its labels.

    Raises:
        UsageError: no such backbone, block or stage, or block settings that don't go together.
    """
    network = find(BACKBONES, config.backbone, "backbone")(classes=len(config.labels))
    block = config.block
    if block.name != "none":
        for stage in block.stages:
            for unit, channels in network.block_sites(stage, block.per_stage).items():
                network.blocks[unit] = build_block(
                    block.name,
                    channels,
                    reduction=block.reduction,
                    order=block.order,
                    groups=block.groups,
                    units=block.units,
                )
    return network


class VideoClassifier(
    nn.Module,
    ModelHubMixin,
    library_name="actionrec",
    pipeline_tag="video-classification",
    tags=["action-recognition"],
    model_card_template=MODEL_CARD,
):
    """Recognises actions: uint8 clips (B, 3, T, H, W) to logits (B, classes).

    Its `config` says what clips it expects and what the classes are called; `training_record` tells
    how it was trained and what it reached (empty if unknown).

    `save_pretrained(folder)`, `push_to_hub("owner/name")` and `from_pretrained(folder or name)` are
    those of the Hugging Face Hub (extra `hub`).
    """

    def __init__(self, config: ClassifierConfig, training: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.training_record = dict(training or {})
        # What its predictions are signed with.
        self.name = config.backbone
        # Channels last is the order in which both oneDNN and cuDNN convolve fastest.
        self.network = build_network(config).to(memory_format=torch.channels_last_3d)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.network(self.pixels(clips))

    def pixels(self, clips: torch.Tensor) -> torch.Tensor:
        """What the network sees of uint8 clips (B, 3, T, H, W), in the type that it computes in."""
        pixels = clips.contiguous(memory_format=torch.channels_last_3d)
        first = next(self.network.units.parameters())
        return self.config.preprocessing.normalise(pixels).to(first.dtype)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.head.weight.device

    def load_pretrained(self, tensors: Mapping[str, torch.Tensor], source: str) -> LoadReport:
        """Take all weights but the nonlocal blocks' and the head's from `tensors`.

        Blocks and head are taken too where they are there and fit.

        Raises:
            ActionrecError: the backbone lacks a tensor, or there is one that it has no place for.
        """
        own = self.network.state_dict()
        fits = {name for name, value in tensors.items() if shape_of(own, name) == value.shape}
        optional = ("head.", "blocks.")
        counters = "num_batches_tracked"
        new = [name for name in own if name not in fits and not name.endswith(counters)]
        unused = [name for name in tensors if name not in fits]
        unexplained = [name for name in new + unused if not name.startswith(optional)]
        if unexplained:
            name = unexplained[0]
            raise ActionrecError(
                f"{source} does not fit the backbone {self.config.backbone}: {name} is "
                f"{_shape_words(tensors, name)} in the file and {_shape_words(own, name)} in "
                f"the network ({len(unexplained)} such tensors); choose the backbone that the "
                "weights belong to."
            )
        self.network.load_state_dict({name: tensors[name] for name in fits}, strict=False)
        return LoadReport(tuple(sorted(fits)), tuple(new), tuple(unused))

    def description(self) -> dict[str, Any]:
        """What a file with this recognizer says of it: `config`, `training` and `versions`."""
        return {
            "config": config_values(self.config),
            "training": self.training_record,
            "versions": {
                "actionrec": version("actionrec"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def save(self, path: Path) -> None:
        """Write the recognizer to one safetensors file, which appears only when it is whole.

        Raises:
            ActionrecError: the file can't be written.
        """
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in self.network.state_dict().items()
        }
        metadata = {METADATA_KEY: json.dumps(self.description())}
        with replacing(Path(path)) as temporary:
            try:
                save_file(tensors, temporary, metadata=metadata)
            except SafetensorError as error:
                raise OSError(str(error)) from error

    @classmethod
    def load(cls, model: str | Path) -> "VideoClassifier":
        """The recognizer in a model file, or the pretrained one of that name.

        Raises:
            ActionrecError: there is no such file or name, or the file is no recognizer.
        """
        if str(model) in catalogue.WEIGHTS:
            recognizer = load_published(str(model))
            recognizer.name = str(model)
            return recognizer
        path = Path(model)
        if not path.is_file():
            raise ActionrecError(
                f"There is no model {str(model)!r}: neither a file nor one of "
                f"{', '.join(catalogue.WEIGHTS)}."
            )
        description = read_description(path)
        recognizer = cls(parse_config(description["config"], path), description["training"])
        tensors = load_file(path)
        own = recognizer.network.state_dict()
        wrong = sorted(
            name
            for name in own.keys() | tensors.keys()
            if shape_of(own, name) != shape_of(tensors, name)
        )
        if wrong:
            raise ActionrecError(
                f"{path} is not the model that it says it is: {len(wrong)} tensors are missing, "
                f"extra or of another shape, {wrong[0]} first; train or download it again."
            )
        recognizer.network.load_state_dict(tensors)
        recognizer.name = str(model)
        return recognizer

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory / MODEL_FILE)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "VideoClassifier":
        path = Path(model_id, MODEL_FILE)
        if not Path(model_id).is_dir():
            from huggingface_hub import hf_hub_download

            where = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            path = hf_hub_download(model_id, MODEL_FILE, **{name: options[name] for name in where})
        recognizer = cls.load(path)
        recognizer.name = model_id
        return recognizer


def load_published(name: str) -> VideoClassifier:
    """The pretrained recognizer `name`, downloaded to the user's cache on first use."""
    recognizer = VideoClassifier(
        ClassifierConfig(
            labels=tuple(KINETICS400_LABELS.read_text(encoding="utf-8").splitlines()),
            sampling=ClipSampling(length=64, fps=25),
            preprocessing=Preprocessing(short_side=256, crop=224),
        )
    )
    recognizer.load_pretrained(load_file(catalogue.fetch(name)), name)
    return recognizer


def read_description(path: Path) -> dict[str, Any]:
    """What a model file says of itself: `config`, `training` and `versions`.

    Raises:
        ActionrecError: it is no model file of this program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return json.loads(metadata[METADATA_KEY])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ActionrecError(
            f"{path} is no model file of actionrec; give the model.safetensors that "
            "`actionrec train` wrote."
        ) from error


def config_values(config: ClassifierConfig) -> dict[str, Any]:
    """The configuration as it stands in a model file."""
    values = asdict(config)
    values["block"] = {UNITS_KEY if k == "units" else k: v for k, v in values["block"].items()}
    return values


def parse_config(values: dict[str, Any], path: Path) -> ClassifierConfig:
    """The configuration that `save` wrote into `path`.

    Raises:
        ActionrecError: it has a key that this version does not know.
    """
    parts: dict[str, type] = {
        "block": BlockConfig,
        "sampling": ClipSampling,
        "preprocessing": Preprocessing,
    }
    try:
        block = {"units" if k == UNITS_KEY else k: v for k, v in values["block"].items()}
        values = values | {"block": block}
        values = values | {
            name: kind(**{key: _tuple(value) for key, value in values[name].items()})
            for name, kind in parts.items()
        }
        return ClassifierConfig(**{key: _tuple(value) for key, value in values.items()})
    except (TypeError, KeyError, AttributeError) as error:
        known = ", ".join(entry.name for entry in fields(ClassifierConfig))
        raise ActionrecError(
            f"{path} was written by another version of actionrec: its configuration is not one "
            f"of {known} ({error}); use the version that its metadata names."
        ) from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def shape_of(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Size | None:
    """The shape of the tensor `name`, None where there is none."""
    return tensors[name].shape if name in tensors else None


def _shape_words(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    shape = shape_of(tensors, name)
    return "absent" if shape is None else "x".join(map(str, shape)) or "a number"
