"""The figures of a training run: those of an epoch, and those of a head that is fitted alone."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binomtest

from actionrec.training.block_activity import BlockFigures


@dataclass(frozen=True)
class EpochFigures:
    """The metrics of one epoch; losses in nats, accuracies and `data_wait` in [0, 1].

    Args:
        epoch: From 1.
        train_loss: Mean over the epoch's random clips, while the weights change.
        train_top1: Top-1 on the same clips.
        val_loss: Mean over one clip of each validation video, at the end of the epoch.
        val_top1: Top-1 on the same clips.
        val_top5: Top-5 on the same clips; 1 with fewer than five classes.
        learning_rate: Learning rate during the epoch.
        data_wait: Share of the training time spent waiting for clips.
        blocks: What each nonlocal block did, by the name of the unit after it.
        val_map: With several labels a video, the mean average precision of the same clips. Top-1
            and Top-5 then ask for one of a clip's labels among the best.
    """

    epoch: int
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    val_top5: float
    learning_rate: float
    data_wait: float
    blocks: dict[str, BlockFigures] = field(default_factory=dict)
    val_map: float | None = None

    @classmethod
    def of(cls, figures: dict[str, Any]) -> "EpochFigures":
        """The inverse of `asdict`; figures of an earlier version have no blocks."""
        blocks = figures.get("blocks", {}).items()
        return cls(**figures | {"blocks": {name: BlockFigures(**of) for name, of in blocks}})

    def of_block(self, name: str) -> dict[str, float | None]:
        """A block's figures for JSON, which has no number that is not finite."""
        figures = asdict(self.blocks[name]).items()
        finite = {name: value if math.isfinite(value) else None for name, value in figures}
        return {"epoch": self.epoch} | finite


@dataclass(frozen=True)
class CrossValidation:
    """Accuracies of heads that were fitted without the videos they are judged on.

    Attributes:
        penalties: The penalties that were tried, from the strongest.
        losses: For each, the mean cross-entropy of a clip.
        top1: For each, the share of videos that are right, in [0, 1].
        videos: Number of judged videos.
        folds: Number of parts.
        groups: Whether groups of the data set kept recordings on one side.
        most_frequent: Share of the most frequent class, in [0, 1].
    """

    penalties: tuple[float, ...]
    losses: tuple[float, ...]
    top1: tuple[float, ...]
    videos: int
    folds: int
    groups: bool
    most_frequent: float

    @property
    def best(self) -> int:
        """The position of the penalty with the lowest loss."""
        return int(np.argmin(self.losses))

    def sentence(self) -> str:
        """The result in words."""
        low, high = wilson_interval(round(self.top1[self.best] * self.videos), self.videos)
        sides = "whole groups" if self.groups else "videos, whose recordings are not known,"
        return (
            f"cross-validation, {self.folds} parts of {sides} held out in turn: video-level Top-1 "
            f"{self.top1[self.best]:.1%} of {self.videos} training videos (95 % interval "
            f"{low:.1%} to {high:.1%}), with the penalty {self.penalties[self.best]:g}"
            + (
                ""
                if low > self.most_frequent
                else f"; this is not clearly above the {self.most_frequent:.1%} of always "
                "predicting the most frequent class, so the features show no signal of the labels"
            )
        )


def mean_class_accuracy(truths: np.ndarray, predictions: np.ndarray) -> float:
    """The mean over classes of the share of their clips that are right, in [0, 1], to six digits;
    classes without a clip don't count."""
    clips = np.bincount(truths)
    right = np.bincount(truths[truths == predictions], minlength=len(clips))
    return round(float(np.mean(right[clips > 0] / clips[clips > 0])), 6)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy, `correct` of `n` independent cases (Wilson 1927)."""
    interval = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
