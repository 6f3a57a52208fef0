"""Figures of videos with several labels each: average precision, thresholds, precision and recall.

    from actionrec.evaluation.several_labels import average_precisions, best_thresholds

The average precision of a label is the area under its precision over recall, as torchmetrics
computes it; mAP is the mean over the labels that some video has.
"""

import numpy as np
import torch
from torchmetrics.functional.classification import binary_average_precision

from actionrec.models.decision import DEFAULT_THRESHOLD


def average_precisions(truths: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The average precision (classes,) of each label, NaN for one that no video has.

    Args:
        truths: Whether a video has a label, (n, classes).
        scores: In [0, 1], (n, classes).
    """
    positive = truths.astype(bool)
    found = np.full(truths.shape[1], np.nan)
    for label in np.flatnonzero(positive.any(axis=0)):
        column = torch.from_numpy(np.ascontiguousarray(scores[:, label], dtype=np.float64))
        found[label] = binary_average_precision(column, torch.from_numpy(positive[:, label]).long())
    return found


def mean_average_precision(average_precisions: np.ndarray) -> float:
    """mAP: the mean over the labels that have an average precision; NaN where none has."""
    known = average_precisions[~np.isnan(average_precisions)]
    return float(known.mean()) if len(known) else float("nan")


def best_thresholds(truths: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The threshold (classes,) of each label with the highest F1, halfway between two scores; the
    arguments are those of `average_precisions`.

    A label that no video has tells nothing of its threshold, and gets 0.5.
    """
    found = np.full(truths.shape[1], DEFAULT_THRESHOLD)
    for label in np.flatnonzero(truths.any(axis=0)):
        order = np.argsort(-scores[:, label], kind="stable")
        column, positive = scores[order, label].astype(np.float64), truths[order, label]
        taken = np.arange(1, len(order) + 1)
        f1 = 2 * np.cumsum(positive) / (taken + positive.sum())
        following = np.append(column[1:], 0.0)
        # Videos of the same score are taken together.
        f1[column == following] = -1
        best = int(np.argmax(f1))
        found[label] = (column[best] + following[best]) / 2
    # A threshold of 0 or 1 would take everything or nothing, whatever the next video scores.
    return np.clip(found, 1e-6, 1 - 1e-6)


def precision_recall(
    truths: np.ndarray, scores: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall (classes,) at thresholds (classes,); NaN where nothing is taken, or no
    video has the label."""
    taken, positive = scores >= thresholds, truths.astype(bool)
    right = (taken & positive).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return right / taken.sum(axis=0), right / positive.sum(axis=0)


def multi_hot(labels: list[tuple[int, ...]], classes: int) -> np.ndarray:
    """Whether each video has each label, bool (n, classes), from the labels of the videos."""
    found = np.zeros((len(labels), classes), dtype=bool)
    for row, own in zip(found, labels, strict=True):
        row[list(own)] = True
    return found
