"""Plots of a classifier's predictions: confusion matrix and accuracy per class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from actionrec.text import fonts_for, shorten

DPI = 120
SMALLEST_FONT = 5.5  # points; still legible
MOST_CLASSES_WITH_NUMBERS = 16


def confusion_matrix_figure(
    truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]
) -> Figure:
    """The share of each true class (row) that was predicted as each class (column).

    Only classes that occur among truths or predictions are shown. A small matrix has the shares,
    in percent, in its cells; a very large one does not label every row and column.

    Args:
        truths: Integers (n,), indices into `labels`.
        predictions: Integers (n,), likewise.
        labels: Names of the classes.
    """
    # Renumbers the classes that occur from 0 on.
    shown, numbers = np.unique(np.concatenate([truths, predictions]), return_inverse=True)
    counts = np.zeros((len(shown), len(shown)), dtype=int)
    np.add.at(counts, tuple(numbers.reshape(2, -1)), 1)
    # A class that is only predicted has no cases; its row stays white.
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    side = float(np.clip(3 + 0.14 * len(shown), 5.5, 17))
    figure = Figure(figsize=(side + 1, side), dpi=DPI, layout="compressed")
    axes = figure.add_subplot()
    # On a linear scale, errors of a few percent would be invisible beside the diagonal.
    scale = PowerNorm(0.5, vmin=0, vmax=100)
    image = axes.imshow(shares, cmap="Blues", norm=scale, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the true class, %", fraction=0.04, pad=0.02)
    names = [shorten(labels[index]) for index in shown]
    _label_ticks(axes.xaxis, names, inches=0.75 * side, rotation=90)
    _label_ticks(axes.yaxis, names, inches=0.75 * side)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{np.mean(truths == predictions):.1%} of {len(truths)} right")
    if len(shown) <= MOST_CLASSES_WITH_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if share:
                color = "white" if share > 35 else "black"
                axes.text(
                    column, row, f"{share:.0f}", ha="center", va="center", color=color, size=8
                )
    return figure


def per_class_figure(truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]) -> Figure:
    """The share of correct predictions for each class that has cases, the best at the top; the
    arguments are those of `confusion_matrix_figure`."""
    classes, counts = np.unique(truths, return_counts=True)
    shares = np.array([100 * np.mean(predictions[truths == each] == each) for each in classes])
    order = np.argsort(-shares, kind="stable")
    names = [f"{shorten(labels[classes[index]])} ({counts[index]})" for index in order]
    whole = 100 * float(np.mean(truths == predictions))
    line = whole, f"all {len(truths)}: {whole:.1f} %"
    return _bars(shares[order], names, "right, %", *line)


def average_precision_figure(
    precisions: np.ndarray, videos: np.ndarray, labels: Sequence[str]
) -> Figure:
    """The average precision (classes,) of each label that some of the `videos` (classes,) have, the
    best at the top."""
    order = [index for index in np.argsort(-precisions, kind="stable") if videos[index]]
    mean = 100 * float(precisions[order].mean())
    names = [f"{shorten(labels[index])} ({videos[index]})" for index in order]
    line = mean, f"mAP: {mean:.1f} %"
    return _bars(100 * precisions[order], names, "average precision, %", *line)


def _bars(
    shares: np.ndarray, names: Sequence[str], xlabel: str, whole: float, whole_name: str
) -> Figure:
    """A bar for each class, in percent, and a line for all together."""
    height = float(np.clip(1.2 + 0.15 * len(names), 2.5, 24))
    figure = Figure(figsize=(8, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.barh(np.arange(len(names)), shares, height=0.75, color="#3d7ab5")
    axes.axvline(whole, color="#c0392b", linewidth=1, label=whole_name)
    _label_ticks(axes.yaxis, names, inches=height - 1)
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6), xlabel=xlabel)
    figure.legend(loc="outside upper right", frameon=False, fontsize=8)
    return figure


def _label_ticks(axis: Axis, names: Sequence[str], inches: float, rotation: float = 0) -> None:
    """Label the positions 0, 1, ... of an axis of about `inches`, in a font small enough for all;
    where it would be illegible, some labels are left out."""
    room = 72 * inches / len(names)  # points
    step = int(np.ceil(SMALLEST_FONT / room))
    size = float(np.clip(0.85 * room * step, SMALLEST_FONT, 9))
    places = range(0, len(names), step)
    # Dollar signs in a class's name are no formula.
    family = list(fonts_for("".join(names)))
    axis.set_ticks(
        places, names[::step], size=size, rotation=rotation, parse_math=False, fontfamily=family
    )
    axis.set_tick_params(length=1.5)
