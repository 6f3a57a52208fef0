"""The classifier that trains: network, labels, preprocessing and clip sampling in one object.

    python -c "from actionrec.models.classifier import VideoClassifier; \
               print(VideoClassifier.load('runs/demo/model.safetensors').config)"
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from actionrec.errors import ActionrecError
from actionrec.models import conversion, model_file
from actionrec.models.backbone import require_clips
from actionrec.models.catalogue import MODELS, suggestion
from actionrec.models.hub import MODEL_CARD, MODEL_FILE, ModelHubMixin
from actionrec.models.network import BlockConfig, ClassifierConfig, build_network
from actionrec.models.published import PublishedWeights
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

__all__ = ["BlockConfig", "ClassifierConfig", "LoadReport", "VideoClassifier"]

# In the order of the published I3D's logits. Torchvision has them too, but takes as long to import
# as PyTorch does.
KINETICS400_LABELS = Path(__file__).with_name("kinetics400.txt")


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors after pretrained weights were loaded into a network.

    `loaded` came from the file, `new` ones of the network start afresh, and `unused` ones of the
    file were left out.
    """

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = {
            f"block before {name.split('.')[1]}" if name.startswith("blocks.") else "head"
            for name in self.new
        }
        new = ", ".join(sorted(parts)) or "none"
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return f"{len(self.loaded)} tensors loaded, {len(self.new)} new ({new}){unused}"


class VideoClassifier(
    nn.Module,
    ModelHubMixin,
    library_name="actionrec",
    pipeline_tag="video-classification",
    tags=["action-recognition"],
    model_card_template=MODEL_CARD,
):
    """Classifies actions: uint8 clips (B, 3, T, H, W) to logits (B, classes).

    `save_pretrained(folder)`, `push_to_hub("owner/name")` and `from_pretrained(folder or name)` are
    those of the Hugging Face Hub (extra `hub`).

    Attributes:
        config: labels, network, and the clips that it expects.
        training_record: how it was trained and its results; empty if unknown.
        name: stands beside its predictions.
    """

    def __init__(self, config: ClassifierConfig, training: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.training_record = dict(training or {})
        self.name = config.backbone
        # Channels last is the order in which both oneDNN and cuDNN convolve fastest.
        self.network = build_network(config).to(memory_format=torch.channels_last_3d)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.network(self.pixels(clips))

    def pixels(self, clips: torch.Tensor) -> torch.Tensor:
        """The network's input for uint8 clips (B, 3, T, H, W), in the type of its convolutions.

        Raises:
            UsageError: `clips` has another form.
        """
        require_clips(clips)
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
            ActionrecError: the backbone lacks a tensor, or has no place for one.
        """
        given, own = _shapes(tensors), _shapes(self.network.state_dict())
        fits = {name for name, _ in given.items() & own.items()}
        new = [x for x in own if x not in fits and not x.endswith("num_batches_tracked")]
        unused = [name for name in given if name not in fits]
        unexplained = [name for name in new + unused if not name.startswith(("head.", "blocks."))]
        if unexplained:
            name = unexplained[0]
            raise ActionrecError(
                f"{source} does not fit the backbone {self.config.backbone}: {name} is "
                f"{given.get(name, 'absent')} in the file and {own.get(name, 'absent')} in "
                f"the network ({len(unexplained)} such tensors); choose the backbone that the "
                "weights belong to."
            )
        taken = {name: tensors[name] for name in fits}
        model_file.require_finite(taken, source)
        self.network.load_state_dict(taken, strict=False)
        return LoadReport(tuple(sorted(fits)), tuple(new), tuple(unused))

    def save(self, path: str | Path) -> None:
        """Write the classifier to one safetensors file, which appears only when it is whole.

        Raises:
            ActionrecError: the file can't be written.
        """
        tensors = self.network.state_dict()
        model_file.write(Path(path), self.config, self.training_record, tensors)

    @classmethod
    def load(cls, model: str | Path) -> "VideoClassifier":
        """The classifier in a model file or a run's folder, or the pretrained one of that name.

        Raises:
            ActionrecError: there is no such file or name, or the file is no model.
        """
        path = model_file.locate(model)
        if str(model) in MODELS:
            classifier = load_published(str(model))
        elif path.is_file():
            description = model_file.read_description(path)
            config = model_file.parse_config(description["config"], path)
            classifier = cls(config, description["training"])
            tensors = load_file(path)
            differing = _shapes(tensors).items() ^ _shapes(classifier.network.state_dict()).items()
            wrong = sorted({name for name, _ in differing})
            if wrong:
                raise ActionrecError(
                    f"{path} does not hold the model that its metadata describes: {len(wrong)} "
                    "tensors are missing, extra or of another shape, "
                    f"{wrong[0]} first; train or download it again."
                )
            model_file.require_finite(tensors, path)
            classifier.network.load_state_dict(tensors)
        else:
            raise ActionrecError(
                f"There is no model {str(path)!r}, neither a file nor a name; "
                f"{suggestion(str(model))}"
            )
        classifier.name = str(model)
        return classifier

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory / MODEL_FILE)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "VideoClassifier":
        path = Path(model_id, MODEL_FILE)
        if not Path(model_id).is_dir():
            from huggingface_hub import hf_hub_download

            where = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            path = hf_hub_download(model_id, MODEL_FILE, **{name: options[name] for name in where})
        classifier = cls.load(path)
        classifier.name = model_id
        return classifier


def load_published(name: str) -> VideoClassifier:
    """The pretrained classifier `name`, downloaded to the user's cache on first use."""
    config = published_config(name)
    checkpoint = conversion.load(name, config.backbone)
    preprocessing = replace(config.preprocessing, mean=checkpoint.mean, std=checkpoint.std)
    classifier = VideoClassifier(replace(config, preprocessing=preprocessing))
    classifier.load_pretrained(checkpoint.tensors, name)
    return classifier


def published_config(name: str) -> ClassifierConfig:
    """The network and the clips of a model of the catalogue; the checkpoint has the statistics of
    its pixels."""
    weights = MODELS[name]
    sampling, sizes = ClipSampling(length=64, fps=25), (256, 224)
    if isinstance(weights, PublishedWeights):
        sampling = ClipSampling(weights.frames, weights.stride, weights.fps)
        sizes = weights.short_side, weights.crop
    return ClassifierConfig(
        labels=tuple(KINETICS400_LABELS.read_text(encoding="utf-8").splitlines()),
        backbone=weights.backbone,
        sampling=sampling,
        preprocessing=Preprocessing(*sizes),
    )


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The shapes of tensors in words, such as 64x3x7x7x7."""
    return {name: "x".join(map(str, x.shape)) or "a number" for name, x in tensors.items()}
