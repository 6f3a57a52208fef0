"""A video classifier made ready once to predict: folded, cast, and on its device.

    python -c "from actionrec.models.inference import InferenceModel; \
               print(InferenceModel.load('kinetics400-i3d').network)"

Training never uses this form: its batch normalisations are gone.
"""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch

from actionrec.devices import fastest_device, has_bfloat16
from actionrec.errors import ActionrecError, UsageError
from actionrec.models.backbone import Backbone, require_clips
from actionrec.models.classifier import VideoClassifier
from actionrec.models.engines import (
    Answers,
    Torch,
    computes_in,
    engine_of_file,
    engine_of_network,
)
from actionrec.models.exported import ExportedModel, installed, is_exported
from actionrec.models.graph import folded
from actionrec.models.registry import EngineName, PrecisionName
from actionrec.video.clips import ClipReader

logger = logging.getLogger(__name__)

BATCH_SIZE = 4

# A fork has none of the threads that PyTorch has started and would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class InferenceModel:
    """A copy of a video classifier that gives the same answers faster, or an exported file.

    Batch normalisations are folded into the convolutions before them. In bfloat16 the units and
    nonlocal blocks compute with 8 significant bits; pooling, head and softmax keep float32, which
    leaves scores within about 0.02 of those in float32 (cgnl, which nothing normalises: 0.05).

    Args:
        model: The classifier, which is not changed; or a file, which needs an engine of its own.
        device, precision, decoder, topk, engine: As in `actionrec.load`.

    Raises:
        UsageError: `topk` is below 1, or the engine is not installed.
    """

    def __init__(
        self,
        model: VideoClassifier | ExportedModel,
        device: str | torch.device | None = None,
        precision: PrecisionName = "auto",
        decoder: str = "pyav",
        topk: int = 5,
        engine: EngineName = "torch",
    ) -> None:
        if topk < 1:
            raise UsageError(f"A topk of {topk} is not possible; it must be at least 1.")
        exported = isinstance(model, ExportedModel)
        self.device = torch.device("cpu" if exported else device or fastest_device())
        if precision == "auto":
            file = model.path if exported else None
            precision = automatic_precision(engine, file, self.device)
        self.name = model.name
        self.config = model.config
        self.labels = model.config.labels
        self.decision = model.config.decision
        self.precision: str = precision
        self.topk = topk
        self.clips = ClipReader(model.config.sampling, model.config.preprocessing, decoder)
        if exported:
            self._classifier = None
            if model.quantization is not None:
                self.precision, precision = "int8", "float32"
            self.engine = engine_of_file(engine, model, precision)
        else:
            self._classifier = folded(model).to(self.device)
            dtype = getattr(torch, precision)
            self._classifier.network.units.to(dtype)
            self._classifier.network.blocks.to(dtype)
            self.engine = engine_of_network(engine, model, self._classifier, precision)

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str | torch.device | None = None,
        precision: PrecisionName = "auto",
        decoder: str = "pyav",
        topk: int = 5,
        engine: EngineName = "auto",
    ) -> Self:
        """Make the classifier in a model file, or the pretrained one of that name, ready.

        Raises:
            ActionrecError: there is no such file or name, or the file is no model.
        """
        return cls(read_model(model), device, precision, decoder, topk, engine)

    @property
    def is_exported(self) -> bool:
        """Whether it is an exported file, which has no network to look into."""
        return self._classifier is None

    @property
    def model(self) -> VideoClassifier:
        """The folded classifier.

        Raises:
            ActionrecError: the model is an exported file.
        """
        if self._classifier is None:
            raise ActionrecError(
                f"{self.name} is an exported file, which can predict and nothing else; give the "
                "model that it was made from."
            )
        return self._classifier

    @property
    def network(self) -> Backbone:
        """The folded network; raises as `model` does."""
        return self.model.network

    def logits(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits of the labels, float32 (B, classes) on the CPU, of uint8 clips (B, 3, T, H, W)."""
        logits, _ = self._answers(clips)
        return self._finite(logits[:, : len(self.labels)])

    def scores(self, clips: torch.Tensor) -> np.ndarray:
        """Scores in [0, 1], float32 (B, classes), of uint8 clips (B, 3, T, H, W): of a softmax or,
        if a video may have several labels, of a sigmoid (see `Decision`)."""
        logits, _ = self._answers(clips)
        return self._finite(self.decision.scores(logits)).numpy()

    def clip_features(self, clips: torch.Tensor) -> np.ndarray:
        """The pooled feature map, float32 (B, features), of uint8 clips (B, 3, T, H, W).

        Raises:
            ActionrecError: the model is an exported file that has logits alone.
        """
        _, features = self._answers(clips)
        if features.shape[1] == 0:
            raise ActionrecError(
                f"{self.name} gives no features; give the model that it was made from."
            )
        return self._finite(features).numpy()

    def logits_and_features(self, clips: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """`logits` (B, classes) and `clip_features` (B, features) in one pass."""
        logits, features = self._answers(clips)
        return self._finite(logits[:, : len(self.labels)]).numpy(), features.numpy()

    @torch.inference_mode()
    def _answers(self, clips: torch.Tensor) -> Answers:
        """The logits and features of clips, a batch at a time."""
        require_clips(clips)
        if not self.engine.takes(clips):
            size = "x".join(map(str, clips.shape[2:]))
            if self._classifier is None:
                raise ActionrecError(f"{self.name} takes no clips of {size}; it has one size.")
            logger.warning(
                "The engine %s was made for another clip than %s; torch computes from here on.",
                *(self.engine.name, size),
            )
            self.engine = Torch(self._classifier)
        answers = [self.engine(batch) for batch in clips.split(BATCH_SIZE)]
        logits, features = (torch.cat(each) for each in zip(*answers, strict=True))
        return logits, features

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


def read_model(model: str | Path) -> VideoClassifier | ExportedModel:
    """The model in a file or a run's folder, or the pretrained one of that name.

    Raises:
        ActionrecError: there is no such file or name, or the file is no model.
    """
    return ExportedModel.read(Path(model)) if is_exported(model) else VideoClassifier.load(model)


def automatic_precision(
    engine: EngineName, model: str | Path | None = None, device: torch.device | None = None
) -> PrecisionName:
    """The precision that auto stands for: bfloat16 where hardware and engine are made for it.

    Args:
        engine: auto is, for an exported file, the first library that runs it.
        model: Name or path of the model; None for a network.
        device: By default the fastest.

    Raises:
        UsageError: no library that runs the exported file is installed.
    """
    if model is not None and is_exported(model):
        device = torch.device("cpu")
        engine = installed(Path(model)) if engine == "auto" else engine
    has_it = has_bfloat16(device or torch.device(fastest_device()))
    return "bfloat16" if has_it and computes_in(engine, "bfloat16") else "float32"
