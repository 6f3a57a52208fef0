"""Figures of a run: those of an epoch, mean class accuracy, the interval of an accuracy."""

import json
from dataclasses import asdict
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from actionrec.training.figures import EpochFigures, mean_class_accuracy, wilson_interval

TRUTHS = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4, 5])
PREDICTIONS = np.array([0, 0, 1, 1, 1, 0, 0, 3, 4, 5])


def test_an_epochs_figures_survive_a_checkpoint():
    epochs = [
        EpochFigures(1, 2.125, 0.31, 2.25, 0.5, 0.75, 0.01, 0.04),
        EpochFigures(2, 1.375, 0.42, 1.625, 0.8, 1.0, 0.01, 0.03, val_map=0.5),
    ]
    plain = json.loads(json.dumps([asdict(of) for of in epochs]))
    assert [EpochFigures(**values) for values in plain] == epochs


def test_mean_class_accuracy_is_the_mean_of_the_classes_that_have_clips():
    truths = np.array([0] * 8 + [2] * 2)
    assert mean_class_accuracy(truths, np.zeros(10, int)) == 0.5
    assert mean_class_accuracy(truths, np.array([0] * 4 + [1] * 4 + [2, 0])) == 0.5
    assert mean_class_accuracy(TRUTHS, PREDICTIONS) == pytest.approx(
        recall_score(TRUTHS, PREDICTIONS)
    )


def recall_score(truths, predictions):
    """By torchmetrics, rounded."""
    metric = MulticlassAccuracy(6, average="macro")
    return round(metric(torch.tensor(predictions), torch.tensor(truths)).item(), 6)


def test_the_interval_of_an_accuracy_is_wilsons():
    # Its bounds are the shares p with (k/n - p)^2 = z^2 p (1 - p) / n.
    z = NormalDist().inv_cdf(0.975)
    for right, n in ((0, 5), (7, 10), (90, 112), (3783, 3783)):
        for share in wilson_interval(right, n):
            off = (right / n - share) ** 2 - z**2 * share * (1 - share) / n
            assert off == pytest.approx(0, abs=1e-12)
