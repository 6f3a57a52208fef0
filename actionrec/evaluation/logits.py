"""The logits of every clip and crop of a data set's videos, from which all accuracies follow.

    actionrec evaluate --model model.safetensors --dataset demo --save-logits logits.safetensors
    python -c "from actionrec.evaluation.logits import ClipLogits; \
               print(ClipLogits.load('logits.safetensors').video_scores)"
"""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from actionrec.errors import ActionrecError, Failure
from actionrec.files import replacing
from actionrec.models.decision import Decision
from actionrec.text import json_text

METADATA_KEY = "actionrec_logits"


@dataclass(frozen=True, eq=False)
class ClipLogits:
    """The logits of all crops of all clips of the scored videos, and the true classes.

    The file is safetensors; nothing is pickled. Its tensors are `logits`, `counts` and `truths`;
    its metadata has one key, "actionrec_logits", a JSON object with `labels`, `videos`,
    `segments` where there are some, `protocol`, `skipped`, `decision` and `versions`.

    Attributes:
        logits: float32 (videos, clips, crops, classes), before the softmax. Short videos have
            fewer clips; the rest of their rows is NaN.
        counts: int64 (videos,), the number of clips of each video, at least 1.
        truths: int64 (videos,), the true classes as indices into `labels`; where a video may have
            several, 0 and 1 (videos, classes): whether it has each.
        videos: The files, relative to the deepest folder that holds the whole data set.
        segments: The part of its file that each video is, from its start to its end in seconds, or
            None for all of it; None where every video is a whole file.
        labels: The classes of the logits.
        protocol: How clips were sampled and scores averaged, as in `Evaluation`.
        skipped: The videos that could not be scored.
        decision: How scores follow from logits, and labels from scores.
    """

    logits: np.ndarray
    counts: np.ndarray
    truths: np.ndarray
    videos: tuple[str, ...]
    labels: tuple[str, ...]
    protocol: dict[str, Any]
    skipped: list[Failure] = field(default_factory=list)
    segments: tuple[tuple[float, float] | None, ...] | None = None
    decision: Decision = field(default_factory=Decision)

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels, or none."""
        return self.truths.ndim == 2

    @cached_property
    def clip_scores(self) -> np.ndarray:
        """Scores (videos, clips, classes), averaged over crops; NaN past the counts."""
        return self.decision.scores(torch.from_numpy(self.logits)).mean(dim=2).numpy()

    @cached_property
    def video_scores(self) -> np.ndarray:
        """Scores (videos, classes), averaged over the clips of each video."""
        pairs = zip(self.clip_scores, self.counts, strict=True)
        return np.stack([scores[:count].mean(axis=0) for scores, count in pairs])

    @cached_property
    def video_of_clip(self) -> np.ndarray:
        """The index (n,) of the video of each of all n clips."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def clip_ranks(self) -> np.ndarray:
        """The rank (n,) of the true class of each of all n clips, see `ranks`."""
        return ranks(self.present_clip_scores, self.truths[self.video_of_clip])

    @property
    def present_clip_scores(self) -> np.ndarray:
        """The scores (n, classes) of all n clips."""
        present = np.arange(self.logits.shape[1]) < self.counts[:, None]
        return self.clip_scores[present]

    @cached_property
    def video_ranks(self) -> np.ndarray:
        """The rank (videos,) of the true class of each video, see `ranks`."""
        return ranks(self.video_scores, self.truths)

    def save(self, path: Path) -> None:
        """Write a safetensors file, which appears only when it is whole.

        Raises:
            ActionrecError: the file can't be written.
        """
        description = {
            "labels": self.labels,
            "videos": self.videos,
            "protocol": self.protocol,
            "skipped": [asdict(failure) for failure in self.skipped],
            "versions": {"actionrec": version("actionrec"), "torch": torch.__version__},
            "decision": asdict(self.decision),
        }
        if self.segments is not None:
            description["segments"] = self.segments
        tensors = {"logits": self.logits, "counts": self.counts, "truths": self.truths}
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(save(tensors, {METADATA_KEY: json_text(description)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            ActionrecError: there is no such file, or it holds no logits.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                description = json.loads((file.metadata() or {})[METADATA_KEY])
                tensors = {name: file.get_tensor(name) for name in ("logits", "counts", "truths")}
            loaded = cls(
                **tensors,
                videos=tuple(description["videos"]),
                labels=tuple(description["labels"]),
                protocol=description["protocol"],
                skipped=[Failure(**failure) for failure in description["skipped"]],
                segments=_segments(description.get("segments")),
                # Files of earlier versions have none.
                decision=Decision.parse(description.get("decision", {})),
            )
            loaded._require_consistent()
            return loaded
        except FileNotFoundError as error:
            raise ActionrecError(
                f"There is no file {path}; `actionrec evaluate --save-logits {path}` writes it."
            ) from error
        except (
            *(SafetensorError, KeyError, TypeError, ValueError),
            *(AttributeError, RecursionError, OSError),
        ) as error:
            raise ActionrecError(
                f"{path} is not a file of logits; give a file that `actionrec evaluate "
                "--save-logits` wrote."
            ) from error

    def _require_consistent(self) -> None:
        """Raise ValueError where tensors and description don't fit each other."""
        videos, clips, crops, classes = self.logits.shape
        one_each = self.counts.shape == self.truths.shape[:1] == (videos,) == (len(self.videos),)
        whole = self.counts.dtype == self.truths.dtype == np.int64
        if not (one_each and whole and self.logits.dtype == np.float32 and min(videos, crops) > 0):
            raise ValueError("shapes or types")
        if not ((self.counts > 0) & (self.counts <= clips)).all():
            raise ValueError("counts")
        if self.truths.shape[1:] not in ((), (classes,)):
            raise ValueError("shapes")
        most = 2 if self.multi_label else classes
        if classes != len(self.labels) or not ((self.truths >= 0) & (self.truths < most)).all():
            raise ValueError("labels")
        if self.segments is not None and len(self.segments) != videos:
            raise ValueError("segments")
        if self.decision.detector or len(self.decision.thresholds) not in (0, classes):
            raise ValueError("decision")
        texts = (*self.labels, *self.videos)
        if not isinstance(self.protocol, dict) or not all(isinstance(x, str) for x in texts):
            raise ValueError("description")
        present = np.arange(clips) < self.counts[:, None]
        if not np.isfinite(self.logits[present]).all():
            raise ValueError("values that are no finite numbers")


def _segments(values: Any) -> tuple[tuple[float, float] | None, ...] | None:
    """The segments in a description; ValueError or TypeError where they are none."""
    if values is None:
        return None
    pairs = [None if value is None else tuple(map(float, value)) for value in values]
    if any(pair is not None and len(pair) != 2 for pair in pairs):
        raise ValueError("segments")
    return tuple(pairs)


def ranks(scores: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """The rank (n,), from 0, of the true class among scores (n, classes).

    Ties and NaN count against the true class, so that a network that gives all classes the same
    score is not right by accident. Where truths (n, classes) tell whether a case has each label,
    the rank is that of the best of its labels among those that it lacks; cases without a label are
    left out.
    """
    if truths.ndim == 1:
        true_scores = np.take_along_axis(scores, truths[:, None], axis=1)
        return (~(scores < true_scores)).sum(axis=1) - 1
    truths = truths.astype(bool)
    labelled = truths.any(axis=1)
    scores, truths = scores[labelled], truths[labelled]
    true_scores = np.where(truths, scores, -np.inf).max(axis=1, keepdims=True)
    return (~(scores < true_scores) & ~truths).sum(axis=1)
