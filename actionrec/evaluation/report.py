"""Files and pictures that show what a recognizer gets right and what it mistakes for what.

    actionrec evaluate --model runs/mine/model.safetensors --dataset demo --output report

writes into the folder `report`

    results.json           what `actionrec evaluate --format json` prints
    per_class.csv          each class's accuracy, and what it is most often taken for
    predictions.csv        each video's true class, its rank, and the five best classes
    confusion_matrix.png   which classes are taken for which
    per_class.png          the classes in the order of their accuracy
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actionrec.errors import UsageError
from actionrec.files import replacing
from actionrec.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from actionrec.evaluation.scoring import ClipLogits, Evaluation

RESULTS = "results.json"
PER_CLASS = "per_class.csv"
PREDICTIONS = "predictions.csv"
CONFUSION_PICTURE = "confusion_matrix.png"
PER_CLASS_PICTURE = "per_class.png"

DPI = 120
SMALLEST_FONT = 5.5  # points; what can still be read
MOST_CLASSES_WITH_NUMBERS = 16


def require_same_evaluation(folder: Path, protocol: dict[str, Any]) -> None:
    """Refuse to let a report take the place of another one.

    A report of the same model and protocol may be replaced.

    Raises:
        UsageError: `folder` is a file, or has files of a report of something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; choose another --output.")
    names = (RESULTS, PER_CLASS, PREDICTIONS, CONFUSION_PICTURE, PER_CLASS_PICTURE)
    there = [name for name in names if (folder / name).exists()]
    if not there:
        return
    found = _protocol_in(folder / RESULTS)
    if found is None:
        raise UsageError(
            f"{folder} has a {there[0]} that is not of `actionrec evaluate`; choose another "
            "--output."
        )
    for key in protocol | found:
        if protocol.get(key) != found.get(key):
            raise UsageError(
                f"{folder} has the report of another evaluation, whose {key} is "
                f"{found.get(key)} and not {protocol.get(key)}; choose another --output."
            )


def _protocol_in(results: Path) -> dict[str, Any] | None:
    """The protocol in the `results.json` of a report, None if it is not one."""
    try:
        protocol = json.loads(results.read_text(encoding="utf-8"))["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return protocol if isinstance(protocol, dict) else None


def write_report(folder: Path, scored: "ClipLogits", evaluation: "Evaluation") -> None:
    """Write all files of a report into `folder`, each whole or not at all.

    Raises:
        ActionrecError: a file can't be written.
    """
    # The results come first: they say whose the other files are, should this be cut off.
    with replacing(folder / RESULTS) as temporary:
        temporary.write_text(json.dumps(asdict(evaluation), indent=2) + "\n", encoding="utf-8")
    truths, predictions = scored.truths, best_classes(scored.video_scores, 1)[:, 0]
    _write_csv(folder / PER_CLASS, per_class_rows(evaluation, truths, predictions, scored.labels))
    _write_csv(folder / PREDICTIONS, prediction_rows(scored))
    pictures = {
        CONFUSION_PICTURE: confusion_matrix_figure(truths, predictions, scored.labels),
        PER_CLASS_PICTURE: per_class_figure(truths, predictions, scored.labels),
    }
    for name, figure in pictures.items():
        with replacing(folder / name) as temporary:
            figure.savefig(temporary)


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)


def best_classes(scores: np.ndarray, topk: int) -> np.ndarray:
    """The `topk` classes, or all if there are fewer, that score highest (n, topk), best first,
    for scores (n, classes)."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :topk]


def per_class_rows(
    evaluation: "Evaluation",
    truths: np.ndarray,
    predictions: np.ndarray,
    labels: Sequence[str],
) -> Iterable[Sequence[Any]]:
    """The head and a row for each class that has videos; accuracies in [0, 1].

    `taken_for` is the wrong class that most of its videos were taken for, `times` how many; both
    are empty where all videos were right. `truths` and `predictions` (videos,) index `labels`.
    """
    yield ["class", "clip_top1", "video_top1", "videos", "taken_for", "times"]
    for name, share in evaluation.per_class.items():
        truth = labels.index(name)
        wrong = predictions[(truths == truth) & (predictions != truth)]
        counts = np.bincount(wrong, minlength=len(labels))
        worst = counts.argmax()
        mistake = [labels[worst], int(counts[worst])] if len(wrong) else ["", ""]
        yield [name, share.clip_top1, share.video_top1, share.videos, *mistake]


def prediction_rows(scored: "ClipLogits") -> Iterable[Sequence[Any]]:
    """The head and a row for each video, from its video-level scores in [0, 1].

    `rank` is the place of the true class, 1 if it is right; it counts a tie against the truth.
    """
    scores, labels = scored.video_scores, scored.labels
    best = best_classes(scores, 5)
    places = range(2, best.shape[1] + 1)
    yield [
        *("video", "label", "predicted", "score", "rank", "label_score", "clips"),
        *(f"{what}_{place}" for place in places for what in ("label", "score")),
    ]
    columns = (scored.videos, scored.truths, scored.video_ranks, scored.counts)
    for video, truth, rank, clips, row, top in zip(*columns, scores, best, strict=True):
        first, *others = ((labels[index], f"{row[index]:.6f}") for index in top)
        yield [
            *(video, labels[truth], *first, rank + 1, f"{row[truth]:.6f}", clips),
            *(value for pair in others for value in pair),
        ]


def confusion_matrix_figure(
    truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]
) -> "Figure":
    """Which share of each true class (a row) was taken for which class (a column).

    Only classes that occur among truths or predictions are shown. With few of them, the shares
    stand in the cells, in percent; with very many, not every row and column is labelled.

    Args:
        truths: Integers (n,), indices into `labels`.
        predictions: Integers (n,), likewise.
        labels: Names of the classes.
    """
    import torch
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    # Numbers the classes that occur from 0 on.
    shown, numbers = np.unique(np.concatenate([truths, predictions]), return_inverse=True)
    new_truths, new_predictions = torch.from_numpy(numbers).chunk(2)
    # One class alone: torchmetrics wants two at least.
    counts = multiclass_confusion_matrix(
        new_predictions, new_truths, num_classes=max(len(shown), 2)
    ).numpy()[: len(shown), : len(shown)]
    # A class that is only predicted has a row of nothing, which stays white.
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    side = float(np.clip(3 + 0.14 * len(shown), 5.5, 17))
    figure = Figure(figsize=(side + 1, side), dpi=DPI, layout="compressed")
    axes = figure.add_subplot()
    # On a linear scale a mistake of a few percent could not be seen beside the diagonal.
    scale = PowerNorm(0.5, vmin=0, vmax=100)
    picture = axes.imshow(shares, cmap="Blues", norm=scale, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="share of the true class, %", fraction=0.04, pad=0.02)
    names = [shorten(labels[index]) for index in shown]
    _name_ticks(axes.xaxis, names, inches=0.75 * side, rotation=90)
    _name_ticks(axes.yaxis, names, inches=0.75 * side)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{np.mean(truths == predictions):.1%} of {len(truths)} right")
    if len(shown) <= MOST_CLASSES_WITH_NUMBERS:
        _write_numbers(axes, shares)
    return figure


def _write_numbers(axes: "Axes", shares: np.ndarray) -> None:
    """The shares, in percent, in their cells; nothing where there is nothing."""
    for (row, column), share in np.ndenumerate(shares):
        if share:
            colour = "white" if share > 35 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, size=8)


def per_class_figure(
    truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]
) -> "Figure":
    """The share of right predictions in each class that has cases, the best at the top.

    Args:
        truths: Integers (n,), indices into `labels`.
        predictions: Integers (n,), likewise.
        labels: Names of the classes.
    """
    from matplotlib.figure import Figure

    classes, counts = np.unique(truths, return_counts=True)
    shares = np.array([100 * np.mean(predictions[truths == each] == each) for each in classes])
    order = np.argsort(-shares, kind="stable")
    height = float(np.clip(1.2 + 0.15 * len(classes), 2.5, 24))
    figure = Figure(figsize=(8, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.barh(np.arange(len(classes)), shares[order], height=0.75, color="#3d7ab5")
    whole = 100 * float(np.mean(truths == predictions))
    axes.axvline(whole, color="#c0392b", linewidth=1, label=f"all {len(truths)}: {whole:.1f} %")
    names = [f"{shorten(labels[classes[index]])} ({counts[index]})" for index in order]
    _name_ticks(axes.yaxis, names, inches=height - 1)
    axes.set(xlim=(0, 100), ylim=(len(classes) - 0.4, -0.6), xlabel="right, %")
    figure.legend(loc="outside upper right", frameon=False, fontsize=8)
    return figure


def _name_ticks(axis: "Axis", names: Sequence[str], inches: float, rotation: float = 0) -> None:
    """Name the places 0, 1, ... of an axis that is about `inches` long.

    The letters are as small as that needs; where they would be too small, names are left out.
    """
    room = 72 * inches / len(names)  # points
    step = int(np.ceil(SMALLEST_FONT / room))
    size = float(np.clip(0.85 * room * step, SMALLEST_FONT, 9))
    axis.set_ticks(
        range(0, len(names), step),
        names[::step],
        size=size,
        rotation=rotation,
        # A dollar sign in a name is no formula.
        parse_math=False,
    )
    axis.set_tick_params(length=1.5)
