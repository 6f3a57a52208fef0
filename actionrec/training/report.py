"""The page at the end of a training run: its course and its result, in one HTML file.

    actionrec train --dataset demo --config demo.yaml

writes `report.html` into the run's folder: learning curves, confusion matrix, accuracy per class,
trained parts and settings. The page contains its plots, runs no script and loads nothing, so it
can be sent, printed and read on a phone. Its template is report.html beside this module.
"""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import binomtest

from actionrec.config import TrainConfig
from actionrec.datasets.dataset import abridged
from actionrec.datasets.registry import DATASETS
from actionrec.evaluation.plots import (
    average_precision_figure,
    confusion_matrix_figure,
    per_class_figure,
)
from actionrec.evaluation.several_labels import (
    average_precisions,
    best_thresholds,
    precision_recall,
)
from actionrec.files import write_whole
from actionrec.models.complexity import PARTS_HEAD, TrainedPart, parts_rows
from actionrec.recipes import recipe_settings
from actionrec.training.block_activity import BlockFigures
from actionrec.training.early_stopping import reason_to_stop

REPORT = "report.html"

CURVE_DPI = 180
PIXELS_PER_INCH = 80  # of the page, for a plot at its full size
TRAINING, VALIDATION, OTHER = "#3d7ab5", "#c0392b", "#555555"
MOST_CONFUSIONS = 10
MOST_SELDOM_CLASSES = 10
MOST_NAMED = 5
MOST_BAD_VIDEOS = 100

# Thresholds of the diagnosis, which should rather miss a problem than invent one.
MUCH_WAITING = 0.2  # of the time
WIDE_GAP = 0.25  # between training and validation Top-1
DIVERGED = 1.5, 0.2  # factor of the lowest training loss, and margin above that
ASLEEP = 0.02  # of its input; measured terms from 6 % on can matter: see docs/blocks.md
RISEN = 1.1, 0.05  # factor of the lowest validation loss, and margin above that
UNBALANCED = 10  # times as many training videos in the largest class as in the smallest
SETTLED = 3  # epochs that must all have risen, since validation loss is noisy


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


def write_training_report(
    folder: Path,
    epochs: Sequence[EpochFigures],
    truths: np.ndarray,
    predictions: np.ndarray,
    labels: Sequence[str],
    parts: Sequence[TrainedPart],
    cross_validation: CrossValidation | None = None,
    videos: Sequence[int] | None = None,
) -> None:
    """Write `report.html` into a run's folder, beside its `config.yaml` and `results.json`.

    Args:
        folder: The run's folder; unreadable videos are in its `bad_videos.json`, if any.
        epochs: All epochs of the run so far, in order, at least one.
        truths: Integers (n,), indices into `labels`: the class of each validation video. With
            several labels a video, 0 and 1 (n, classes): whether it has each.
        predictions: Integers (n,), likewise: the prediction of the last epoch for its middle clip.
            With several labels, scores (n, classes).
        labels: Names of the classes.
        parts: Parts of the network, from `complexity.trained_parts`.
        cross_validation: That of a head alone, which has no epochs to show.
        videos: Number of training videos of each class, None if unknown.

    Raises:
        ActionrecError: the file can't be written.
    """
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    bad_file = folder / "bad_videos.json"
    bad_videos = json.loads(bad_file.read_text(encoding="utf-8")) if bad_file.exists() else []
    several = truths.ndim == 2
    diagnose = diagnose_labels if several else diagnose_classes
    diagnosis = diagnose(truths, predictions, labels)
    if config["train_from"] != "head":
        diagnosis = diagnose_curves(epochs) + diagnose_blocks(epochs) + diagnosis
    settings = TrainConfig(**config)
    if videos:
        diagnosis += diagnose_balance(videos, labels, settings)
    if reason := reason_to_stop(results, settings):
        diagnosis.insert(0, reason)
    if bad_videos:
        diagnosis.append(f"{counted(len(bad_videos), 'video')} could not be read; listed below.")
    # There is no default data set.
    defaults = asdict(TrainConfig(dataset=config["dataset"])) | {"dataset": None}
    defaults |= recipe_settings(settings.recipe, settings.optimizer)
    changed = [name for name, value in config.items() if value != defaults.get(name)]
    if config["train_from"] != "head":
        curves = {
            "loss": embedded(loss_figure(epochs, results["best"]["epoch"]), CURVE_DPI),
            "top1": embedded(
                (map_figure if several else top1_figure)(epochs, results["best"]["epoch"]),
                CURVE_DPI,
            ),
            "pace": embedded(pace_figure(epochs), CURVE_DPI),
        }
        if epochs[-1].blocks:
            curves["blocks"] = embedded(blocks_figure(epochs), CURVE_DPI)
    elif cross_validation:
        curves = {"penalty": embedded(penalty_figure(cross_validation), CURVE_DPI)}
    else:
        curves = {}
    templates = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    jinja.filters |= {"counted": counted, "percent": "{:.1%}".format}
    page = jinja.get_template("report.html").render(
        folder=folder,
        config=config,
        has_splits=bool(DATASETS[config["dataset"]].splits),
        results=results,
        epochs=epochs,
        truths=truths,
        labels=labels,
        balance=balance_sentence(settings),
        interval=None
        if several
        else wilson_interval(int(np.sum(truths == predictions)), len(truths)),
        diagnosis=diagnosis,
        cross_validation=cross_validation,
        plots={
            **curves,
            **{
                name: embedded(figure)
                for name, figure in (figures_of_labels if several else figures_of_classes)(
                    truths, predictions, labels
                ).items()
            },
        },
        seldom=seldom_classes(truths, predictions, labels, videos) if videos else [],
        confusions=[] if several else frequent_confusions(truths, predictions, labels),
        label_rows=label_rows(truths, predictions, labels) if several else [],
        parts=parts,
        parts_head=PARTS_HEAD,
        parts_rows=parts_rows(parts, config["freeze_batchnorm"]),
        changed=[(name, as_flag(config[name]), as_flag(defaults.get(name))) for name in changed],
        unchanged=[(name, as_flag(config[name])) for name in config if name not in changed],
        # Most reasons begin with the video's name.
        bad_videos=[
            (bad["video"], bad["error"].removeprefix(bad["video"]).strip()) for bad in bad_videos
        ],
        most_bad_videos=MOST_BAD_VIDEOS,
    )
    write_whole(folder / REPORT, page)


def figures_of_classes(
    truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]
) -> dict[str, Figure]:
    """The plots of predictions with one label a video."""
    return {
        "confusion": confusion_matrix_figure(truths, predictions, labels),
        "per_class": per_class_figure(truths, predictions, labels),
    }


def figures_of_labels(
    truths: np.ndarray, scores: np.ndarray, labels: Sequence[str]
) -> dict[str, Figure]:
    """The plot of scores with several labels a video."""
    precisions = average_precisions(truths, scores)
    videos = truths.sum(axis=0).astype(int)
    return {"per_class": average_precision_figure(precisions, videos, labels)}


def label_rows(truths: np.ndarray, scores: np.ndarray, labels: Sequence[str]) -> list[list[str]]:
    """For each label: videos, average precision, and the chosen threshold with its precision and
    recall on the same videos."""
    thresholds = best_thresholds(truths, scores)
    columns = (average_precisions(truths, scores), thresholds)
    columns += precision_recall(truths, scores, thresholds)

    def percent(value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.1%}"

    return [
        [
            label,
            str(int(videos)),
            percent(average),
            f"{threshold:.3f}",
            percent(right),
            percent(hit),
        ]
        for label, videos, average, threshold, right, hit in zip(
            labels, truths.sum(axis=0), *columns, strict=True
        )
    ]


def embedded(figure: Figure, dpi: float | str = "figure") -> dict[str, Any]:
    """A figure as a base64 PNG, and its width in pixels of the page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    png = base64.b64encode(file.getvalue()).decode("ascii")
    return {"png": png, "width": round(figure.get_figwidth() * PIXELS_PER_INCH)}


def frequent_confusions(
    truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]
) -> list[tuple[str, str, str]]:
    """True class, predicted class and number of videos of the most frequent confusions."""
    wrong = np.stack([truths, predictions], axis=1)[truths != predictions]
    pairs, times = np.unique(wrong, axis=0, return_counts=True)
    videos = np.bincount(truths)
    return [
        (labels[truth], labels[predicted], f"{times[index]} of {videos[truth]}")
        for index in np.argsort(-times, kind="stable")[:MOST_CONFUSIONS]
        for truth, predicted in [pairs[index]]
    ]


def seldom_classes(
    truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str], videos: Sequence[int]
) -> list[tuple[str, str, str]]:
    """Name, training videos and right validation videos of the classes with the fewest training
    videos."""
    of_class = np.bincount(truths, minlength=len(labels))
    right = np.bincount(truths[truths == predictions], minlength=len(labels))
    return [
        (labels[index], f"{videos[index]:,}", f"{right[index]} of {of_class[index]}")
        for index in np.argsort(videos, kind="stable")[:MOST_SELDOM_CLASSES]
    ]


def as_flag(value: Any) -> str:
    """A setting as its flag takes it; a dash where it is not set."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return " ".join(map(as_flag, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


# Diagnosis.


def diagnose_curves(epochs: Sequence[EpochFigures]) -> list[str]:
    """Sentences on problems that the epochs show: divergence, over-fitting, too short a run,
    waiting for data."""
    last = epochs[-1]
    sentences = []
    lowest = min(epochs, key=lambda each: each.train_loss)
    factor, margin = DIVERGED
    if last.train_loss > factor * lowest.train_loss + margin:
        sentences.append(
            f"Training loss diverges: it was lowest in epoch {lowest.epoch} "
            f"({lowest.train_loss:.2f}) and is {last.train_loss:.2f} now; try a smaller --lr, "
            "--warmup or --clip-gradient."
        )
    lowest = min(epochs, key=lambda each: each.val_loss)
    factor, margin = RISEN
    recent = min(each.val_loss for each in epochs[-SETTLED:])
    gap = last.train_top1 - last.val_top1
    if last.train_loss < lowest.train_loss and recent > factor * lowest.val_loss + margin:
        sentences.append(
            f"Validation loss was lowest in epoch {lowest.epoch} ({lowest.val_loss:.2f}) and is "
            f"{last.val_loss:.2f} now, while training loss fell from {lowest.train_loss:.2f} to "
            f"{last.train_loss:.2f}, a sign of over-fitting: fewer epochs, --augment, "
            "--label-smoothing or more videos may help."
        )
    elif gap >= WIDE_GAP:
        sentences.append(
            f"Training Top-1 ({last.train_top1:.1%}) is {100 * gap:.0f} points above validation "
            f"Top-1 ({last.val_top1:.1%}), a sign of over-fitting: --augment, --train-from or more "
            "videos may help."
        )
    # Of epochs that are equal the first is the best, as in results.json.
    name, figure = ("Top-1", "val_top1") if last.val_map is None else ("mAP", "val_map")
    best = max(epochs, key=lambda each: getattr(each, figure))
    if len(epochs) > SETTLED and best is last and lowest is last:
        sentences.append(
            f"The last epoch is the best in {name} and in loss: longer training (--epochs) may "
            "help."
        )
    waiting = float(np.median([each.data_wait for each in epochs]))
    if waiting >= MUCH_WAITING:
        sentences.append(
            f"Training waited for data {waiting:.0%} of the time (median over epochs): more "
            "--workers or `actionrec data shrink` make it faster."
        )
    return sentences


def diagnose_blocks(epochs: Sequence[EpochFigures]) -> list[str]:
    """Sentences on nonlocal blocks that sleep, and on those that overwhelm their input."""
    sentences = []
    for name, block in epochs[-1].blocks.items():
        if block.term < ASLEEP:
            sentences.append(
                f"The nonlocal block before {name} sleeps: it adds {block.term:.2%} of its input "
                "(norm), and the network hardly differs from one with --block none; more epochs or "
                "a higher --lr may wake it, if the classes need it."
            )
        elif not block.term <= 1:
            sentences.append(
                f"The nonlocal block before {name} overwhelms its input: what it adds is "
                f"{block.term:.1f} times as large (norm), and pretrained layers behind it see "
                "features that they don't know; try a smaller --lr, --warmup or --clip-gradient."
            )
    return sentences


def diagnose_classes(
    truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]
) -> list[str]:
    """Sentences on accuracy at chance level, a class predicted too often, classes that are never
    right, and classes without a video."""
    n, correct = len(truths), truths == predictions
    videos, predicted, hits = (
        np.bincount(classes, minlength=len(labels))
        for classes in (truths, predictions, truths[correct])
    )
    sentences = []
    if wilson_interval(int(correct.sum()), n)[0] <= videos.max() / n:
        sentences.append(
            f"Top-1 of the last epoch, {correct.mean():.1%} of {counted(n, 'video')}, is not "
            f"clearly above the {videos.max() / n:.1%} of always predicting the most frequent "
            "class."
        )
    favourite = int(predicted.argmax())
    if predicted[favourite] >= max(n / 2, 2 * videos[favourite]):
        sentences.append(
            f"{predicted[favourite]} of {counted(n, 'video')} were predicted as "
            f"{labels[favourite]}; only {videos[favourite]} are."
        )
    for chosen, total, problem in (
        ((videos > 0) & (hits == 0), int(np.sum(videos > 0)), "never right"),
        (videos == 0, len(labels), "without a validation video"),
    ):
        names = [labels[index] for index in np.flatnonzero(chosen)]
        if names:
            sentences.append(
                f"{len(names)} of {counted(total, 'class', 'classes')} {problem}: "
                f"{abridged(names, MOST_NAMED)}."
            )
    return sentences


def diagnose_balance(
    videos: Sequence[int], labels: Sequence[str], config: TrainConfig
) -> list[str]:
    """A sentence on unbalanced classes for which nothing was done."""
    present = [index for index, number in enumerate(videos) if number]
    fewest, most = min(present, key=videos.__getitem__), max(present, key=videos.__getitem__)
    if balance_sentence(config) or videos[most] <= UNBALANCED * videos[fewest]:
        return []
    head = "a training of more than the head with " if config.train_from == "head" else ""
    return [
        f"The classes are unbalanced: {labels[most]} has {videos[most]:,} training videos, "
        f"{labels[fewest]} {videos[fewest]:,}, and nothing was done about it; {head}"
        "--balanced-sampling true, --class-weights inverse or --focal-gamma 2 may help the classes "
        "with few videos, which mean class accuracy shows and Top-1 may not."
    ]


def balance_sentence(config: TrainConfig) -> str:
    """What was done for classes with few videos, as a sentence; "" for nothing."""
    weights = config.class_weights
    done = []
    if config.balanced_sampling:
        done.append("clips of every class are drawn equally often")
    if weights != "none":
        kind = weights if isinstance(weights, str) else "given"
        done.append(f"the loss has {kind} weights of the classes")
    if config.focal_gamma:
        done.append(f"the loss is focal, with gamma {config.focal_gamma:g}")
    if done and (weights != "none" or config.focal_gamma):
        done.append("validation loss is neither weighted nor focal")
    sentence = "; ".join(done)
    return sentence and f"{sentence[0].upper()}{sentence[1:]}."


def mean_class_accuracy(truths: np.ndarray, predictions: np.ndarray) -> float:
    """The mean over classes of the share of their clips that are right, in [0, 1], to six digits;
    classes without a clip don't count."""
    clips = np.bincount(truths)
    right = np.bincount(truths[truths == predictions], minlength=len(clips))
    return round(float(np.mean(right[clips > 0] / clips[clips > 0])), 6)


def diagnose_labels(truths: np.ndarray, scores: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Sentences on labels that score no better than chance, and on those without a video."""
    precisions, shares = average_precisions(truths, scores), truths.mean(axis=0)
    sentences = []
    for chosen, problem in (
        (precisions <= shares, "with an average precision no higher than by chance"),
        (shares == 0, "without a validation video, so that their threshold is 0.5 unseen"),
    ):
        names = [labels[index] for index in np.flatnonzero(chosen)]
        if names:
            sentences.append(
                f"{len(names)} of {counted(len(labels), 'label')} {problem}: "
                f"{abridged(names, MOST_NAMED)}."
            )
    return sentences


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy, `correct` of `n` independent cases (Wilson 1927)."""
    interval = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


# Learning curves.


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
