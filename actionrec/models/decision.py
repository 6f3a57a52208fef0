"""From the logits of a network to scores, and from scores to the labels of a video.

    python -c "from actionrec.models.classifier import VideoClassifier; \
               print(VideoClassifier.load('runs/demo/model.safetensors').config.decision)"

A network with one label a video has softmax scores, and the best label is given, or "none of these"
where the network is too unsure. A network with several labels a video has a sigmoid score for each
label, and all labels above their thresholds are given.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Decision:
    """How scores follow from logits, and labels from scores; it is stored in the model file.

    Attributes:
        multi_label: Whether a video may have several labels, or none.
        thresholds: With several labels, the least score of each in (0, 1); empty for 0.5.
        temperature: Divides the logits before the softmax (Guo et al. 2017).
        detector: Whether the network's last output, after those of the labels, is the logit of a
            video that shows one of the labels. The scores then add up to its sigmoid, and what
            they lack of 1 is the score of "none of these".
        least_confidence: A video whose `confidence` is lower shows none of the labels; 0 for never.

    Raises:
        ValueError: a number is out of its bounds.
    """

    multi_label: bool = False
    thresholds: tuple[float, ...] = ()
    temperature: float = 1.0
    detector: bool = False
    least_confidence: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}")
        if not 0 <= self.least_confidence <= 1:
            raise ValueError(f"least_confidence is {self.least_confidence}")
        if not all(0 < threshold < 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds are {self.thresholds}")
        if self.multi_label and (self.detector or self.least_confidence or self.temperature != 1):
            raise ValueError("multi_label with a temperature or with a least confidence")

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """The decision of which `values` is `asdict`; raises TypeError or ValueError otherwise."""
        return cls(**values | {"thresholds": tuple(map(float, values.get("thresholds", ())))})

    @property
    def name(self) -> str:
        """The kind of the scores, for protocols."""
        if self.multi_label:
            return "sigmoid"
        return "softmax" + (f" at temperature {self.temperature:.4g}" * (self.temperature != 1))

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores (..., labels) in [0, 1] of the network's outputs (..., labels), or
        (..., labels + 1) with a detector."""
        if self.multi_label:
            return logits.sigmoid()
        if not self.detector:
            return (logits / self.temperature).softmax(dim=-1)
        known = logits[..., -1:].sigmoid()
        return (logits[..., :-1] / self.temperature).softmax(dim=-1) * known

    def confidence(self, scores: np.ndarray) -> np.ndarray:
        """How sure it is that videos of mean scores (..., labels) show one of the labels."""
        return scores.sum(axis=-1) if self.detector else scores.max(axis=-1)

    def least_scores(self, classes: int) -> np.ndarray:
        """With several labels, the threshold (classes,) of each."""
        return np.array(self.thresholds or (DEFAULT_THRESHOLD,) * classes)

    def given(self, scores: np.ndarray) -> np.ndarray:
        """The labels of a video with mean scores (labels,), as indices, best first; none of them
        is "none of these"."""
        order = np.argsort(-scores, kind="stable")
        if self.multi_label:
            return order[(scores >= self.least_scores(len(scores)))[order]]
        return order[: int(self.confidence(scores) >= self.least_confidence)]

    def uncertainty(self, scores: np.ndarray) -> float:
        """How little a video's mean scores (labels,) decide, from 0 to 1.

        With one label, 1 minus the margin of the best over the second (Scheffer et al. 2001), one
        of which may be "none of these"; with several, the closeness of a score to its threshold, of
        the closest one.
        """
        if self.multi_label:
            least = self.least_scores(len(scores))
            room = np.where(scores < least, least, 1 - least)
            return float(np.clip(1 - np.abs(scores - least) / room, 0, 1).max())
        rest = max(0.0, 1 - float(scores.sum())) if self.detector else 0.0
        second, best = np.sort(np.append(scores, rest))[-2:]
        return float(np.clip(1 - (best - second), 0, 1))
