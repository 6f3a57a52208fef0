"""Learning curves go through the figures of the epochs, whatever these are."""

from dataclasses import replace

import numpy as np

from actionrec.training.curves import loss_figure, pace_figure, top1_figure
from actionrec.training.figures import EpochFigures

EPOCHS = [
    EpochFigures(1, 2.125, 0.31, 2.25, 0.5, 0.75, 0.01, 0.04),
    EpochFigures(2, 1.375, 0.42, 1.625, 0.8, 1.0, 0.01, 0.03),
    EpochFigures(3, 0.875, 0.63, 1.75, 0.7, 0.9, 0.001, 0.05),
]


def test_the_curves_go_through_the_epochs_figures():
    loss, top1 = (make(EPOCHS, 2).axes[0] for make in (loss_figure, top1_figure))
    rate, wait = pace_figure(EPOCHS).axes
    for axes, names, factor in (
        (loss, ("train_loss", "val_loss"), 1),
        (top1, ("train_top1", "val_top1"), 100),
        (rate, ("learning_rate",), 1),
        (wait, ("data_wait",), 100),
    ):
        for line, name in zip(axes.lines, names, strict=False):
            assert list(line.get_xdata()) == [1, 2, 3]
            expected = [factor * getattr(of, name) for of in EPOCHS]
            np.testing.assert_allclose(line.get_ydata(), expected)
            low, high = axes.get_ylim()
            assert low <= min(expected) and max(expected) <= high
    for axes in (loss, top1):
        labels = [line.get_label() for line in axes.lines]
        assert labels == ["training", "validation", "best epoch"]
        assert list(axes.lines[2].get_xdata()) == [2, 2]


def test_losses_that_are_not_finite_can_be_drawn():
    losses = (2.0, float("nan"), float("inf"), 900.0)
    epochs = [
        replace(EPOCHS[0], epoch=epoch, val_loss=loss) for epoch, loss in enumerate(losses, 1)
    ]
    assert loss_figure(epochs, 1).axes[0].get_yscale() == "log"
    loss_figure(epochs, 1).draw_without_rendering()
