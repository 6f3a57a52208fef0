"""The learning curves of a training run, and the penalties that a head alone was tried with."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from actionrec.training.figures import CrossValidation, EpochFigures

TRAINING, VALIDATION, OTHER = "#3d7ab5", "#c0392b", "#555555"


def course_figures(epochs: Sequence[EpochFigures], best_epoch: int) -> dict[str, Figure]:
    """The curves of a run by name: loss, top1 (with several labels a video, mAP), pace and, with
    nonlocal blocks, blocks."""
    accuracy_figure = top1_figure if epochs[-1].val_map is None else map_figure
    figures = {
        "loss": loss_figure(epochs, best_epoch),
        "top1": accuracy_figure(epochs, best_epoch),
        "pace": pace_figure(epochs),
    }
    return figures | ({"blocks": blocks_figure(epochs)} if epochs[-1].blocks else {})


def loss_figure(epochs: Sequence[EpochFigures], best_epoch: int) -> Figure:
    """Training and validation loss over epochs."""
    [axes] = _axes("loss")
    training = _plot(axes, epochs, "train_loss", color=TRAINING, label="training")
    validation = _plot(axes, epochs, "val_loss", color=VALIDATION, label="validation")
    _mark_best(axes, best_epoch)
    finite = [loss for loss in training + validation if math.isfinite(loss) and loss > 0]
    # A single outlier must not flatten all other epochs.
    if finite and max(finite) > 20 * float(np.median(finite)):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.08 * max(finite, default=1))
    return axes.figure


def top1_figure(epochs: Sequence[EpochFigures], best_epoch: int) -> Figure:
    """Training and validation Top-1 over epochs, in percent."""
    [axes] = _axes("Top-1, %")
    _plot(axes, epochs, "train_top1", 100, color=TRAINING, label="training")
    _plot(axes, epochs, "val_top1", 100, color=VALIDATION, label="validation")
    _mark_best(axes, best_epoch)
    axes.set_ylim(0, 101)
    return axes.figure


def map_figure(epochs: Sequence[EpochFigures], best_epoch: int) -> Figure:
    """The mean average precision on the validation clips over epochs, in percent."""
    [axes] = _axes("mAP, %")
    _plot(axes, epochs, "val_map", 100, color=VALIDATION, label="validation")
    _mark_best(axes, best_epoch)
    axes.set_ylim(0, 101)
    return axes.figure


def pace_figure(epochs: Sequence[EpochFigures]) -> Figure:
    """The learning rate, and the share of the time spent waiting for data, over epochs."""
    axes, below = _axes("learning rate", "waited for data, %")
    rates = _plot(axes, epochs, "learning_rate", color=OTHER)
    waits = _plot(below, epochs, "data_wait", 100, color=OTHER)
    if min(rates) > 0 and max(rates) >= 10 * min(rates):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.1 * max(rates) or 1)
    below.set_ylim(0, max(10, 1.1 * max(waits)))
    return axes.figure


def penalty_figure(found: CrossValidation) -> Figure:
    """Held-out loss and video-level Top-1 of a head over the penalty of its weights."""
    axes, below = _axes("held-out loss", "held-out Top-1, %")
    for each, values in ((axes, found.losses), (below, 100 * np.array(found.top1))):
        each.plot(found.penalties, values, ".-", markersize=7, color=VALIDATION)
        each.axvline(found.penalties[found.best], color="#777777", linewidth=1.2, linestyle=":")
        each.set_xscale("log")
    below.set_xlabel("penalty; the dotted one was chosen")
    return axes.figure


def blocks_figure(epochs: Sequence[EpochFigures]) -> Figure:
    """The nonlocal blocks' terms in relation to their input, gradients and norm scales."""
    all_axes = _axes("term, %", "gradient", "scale")
    noted = [each for each in epochs if each.blocks]
    for axes, figure, factor in zip(
        all_axes, ("term", "gradient", "scale"), (100, 1, 1), strict=True
    ):
        for name in noted[-1].blocks:
            values = [factor * getattr(each.blocks[name], figure) for each in noted]
            axes.plot([each.epoch for each in noted], values, ".-", label=f"before {name}")
        axes.set_ylim(bottom=0)
    handles, names = all_axes[0].get_legend_handles_labels()
    all_axes[0].figure.legend(
        handles, names, loc="outside upper left", ncols=3, frameon=False, fontsize=9
    )
    return all_axes[0].figure


def _axes(*names: str) -> Sequence[Axes]:
    """Axes of a new figure, one above the other, each for a quantity over epochs."""
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    all_axes = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(all_axes, names, strict=True):
        axes.set_ylabel(name)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[-1].set_xlabel("epoch")
    locator = MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    all_axes[-1].xaxis.set_major_locator(locator)
    return all_axes


def _plot(
    axes: Axes, epochs: Sequence[EpochFigures], name: str, factor: float = 1, **style: Any
) -> list[float]:
    """Plot a field of the epochs, times `factor`; returns the plotted values."""
    values = [factor * getattr(each, name) for each in epochs]
    # Training is dashed, to be distinct in black and white.
    line = ".--" if style["color"] == TRAINING else ".-"
    markersize = 7 if len(epochs) <= 30 else 0
    axes.plot([each.epoch for each in epochs], values, line, markersize=markersize, **style)
    return values


def _mark_best(axes: Axes, best_epoch: int) -> None:
    axes.axvline(best_epoch, color="#777777", linewidth=1.2, linestyle=":", label="best epoch")
    axes.figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
