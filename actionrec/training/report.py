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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from actionrec.config import TrainConfig
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
from actionrec.training.curves import course_figures, penalty_figure
from actionrec.training.diagnosis import balance_sentence, counted, diagnose
from actionrec.training.early_stopping import reason_to_stop
from actionrec.training.figures import CrossValidation, EpochFigures, wilson_interval

REPORT = "report.html"

CURVE_DPI = 180
PIXELS_PER_INCH = 80  # of the page, for a plot at its full size
MOST_CONFUSIONS = 10
MOST_SELDOM_CLASSES = 10
MOST_BAD_VIDEOS = 100


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
    settings = TrainConfig(**config)
    several, head_alone = truths.ndim == 2, settings.train_from == "head"
    diagnosis = diagnose(epochs, truths, predictions, labels, videos, settings)
    if reason := reason_to_stop(results, settings):
        diagnosis.insert(0, reason)
    if bad_videos:
        diagnosis.append(f"{counted(len(bad_videos), 'video')} could not be read; listed below.")
    # There is no default data set.
    defaults = asdict(TrainConfig(dataset=config["dataset"])) | {"dataset": None}
    defaults |= recipe_settings(settings.recipe, settings.optimizer)
    changed = [name for name, value in config.items() if value != defaults.get(name)]
    if not head_alone:
        curves = course_figures(epochs, results["best"]["epoch"])
    else:
        curves = {"penalty": penalty_figure(cross_validation)} if cross_validation else {}
    figures = (figures_of_labels if several else figures_of_classes)(truths, predictions, labels)
    plots = {name: embedded(figure, CURVE_DPI) for name, figure in curves.items()}
    plots |= {name: embedded(figure) for name, figure in figures.items()}
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
        plots=plots,
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
