"""The report of an evaluation: a folder of JSON, CSV and plots.

    actionrec evaluate --model runs/mine/model.safetensors --dataset demo --output report

writes into the folder `report`

    results.json           the output of `actionrec evaluate --format json`
    per_class.csv          each class's accuracy and its most frequent confusion
    predictions.csv        each video's true class, its rank, and the five best classes
    confusion_matrix.png   the share of each class that was predicted as each other class
    per_class.png          the classes in the order of their accuracy
    segments.csv           with --timeline: the segments that were found
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from actionrec.errors import UsageError
from actionrec.evaluation.accuracy import Evaluation
from actionrec.evaluation.detection import Detection
from actionrec.evaluation.logits import ClipLogits
from actionrec.evaluation.plots import confusion_matrix_figure, per_class_figure
from actionrec.evaluation.timeline import EvaluationInTime
from actionrec.files import replacing, write_whole
from actionrec.text import csv_text, json_text
from actionrec.video.parts import plain_number

RESULTS = "results.json"
PER_CLASS = "per_class.csv"
PREDICTIONS = "predictions.csv"
CONFUSION_PLOT = "confusion_matrix.png"
PER_CLASS_PLOT = "per_class.png"
SEGMENTS = "segments.csv"


def require_same_evaluation(folder: Path, protocol: dict[str, Any]) -> None:
    """Refuse to replace the report of another model or protocol.

    Raises:
        UsageError: `folder` is a file, or holds a report of another evaluation.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; choose another --output.")
    names = (RESULTS, PER_CLASS, PREDICTIONS, CONFUSION_PLOT, PER_CLASS_PLOT, SEGMENTS)
    existing = [name for name in names if (folder / name).exists()]
    if not existing:
        return
    try:
        found = dict(json.loads((folder / RESULTS).read_text(encoding="utf-8"))["protocol"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{folder} has a {existing[0]} that `actionrec evaluate` did not write; choose another "
            "--output."
        ) from error
    for key in protocol | found:
        if protocol.get(key) != found.get(key):
            raise UsageError(
                f"{folder} has the report of another evaluation: its {key} is {found.get(key)}, "
                f"not {protocol.get(key)}; choose another --output."
            )


def write_report(
    folder: Path,
    logits: ClipLogits,
    evaluation: Evaluation,
    found: Sequence[Detection] = (),
) -> None:
    """Write the files of a report into `folder`, each whole or not at all; with the segments that
    were found, if timelines were evaluated.

    Raises:
        ActionrecError: a file can't be written.
    """
    # First, because it tells whose the other files are if this is interrupted.
    write_whole(folder / RESULTS, json_text(asdict(evaluation), indent=2) + "\n")
    truths, labels = logits.truths, logits.labels
    predictions = best_classes(logits.video_scores, 1)[:, 0]
    per_class = csv_text(per_class_rows(evaluation, truths, predictions, labels))
    write_whole(folder / PER_CLASS, per_class)
    write_whole(folder / PREDICTIONS, csv_text(prediction_rows(logits)))
    if isinstance(evaluation, EvaluationInTime):
        write_whole(folder / SEGMENTS, csv_text(segment_rows(found)))
    for name, plot in (
        (CONFUSION_PLOT, confusion_matrix_figure),
        (PER_CLASS_PLOT, per_class_figure),
    ):
        with replacing(folder / name) as temporary:
            plot(truths, predictions, labels).savefig(temporary)


def best_classes(scores: np.ndarray, topk: int) -> np.ndarray:
    """The indices (n, topk) of the highest scores (n, classes), best first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :topk]


def per_class_rows(
    evaluation: Evaluation, truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]
) -> Iterator[Sequence[Any]]:
    """The head, and a row for each class that has videos; accuracies in [0, 1].

    `taken_for` is the class that its wrongly classified videos were most often predicted as,
    `times` their number; both are empty if all videos were right.
    """
    yield ["class", "clip_top1", "video_top1", "videos", "taken_for", "times"]
    for name, accuracy in evaluation.per_class.items():
        truth = labels.index(name)
        wrong = predictions[(truths == truth) & (predictions != truth)]
        counts = np.bincount(wrong, minlength=len(labels))
        confusion = [labels[counts.argmax()], int(counts.max())] if len(wrong) else ["", ""]
        yield [name, *asdict(accuracy).values(), *confusion]


def segment_rows(found: Sequence[Detection]) -> Iterator[Sequence[Any]]:
    """The head, and a row for each segment that was found, times in seconds."""
    yield ["video", "start", "end", "label", "score"]
    for each in found:
        times = plain_number(each.start), plain_number(each.end)
        yield [each.video, *times, each.label, f"{each.score:.6f}"]


def prediction_rows(logits: ClipLogits) -> Iterator[Sequence[Any]]:
    """The head, and a row for each video with its video-level scores in [0, 1].

    Where videos are segments, `start` and `end` follow the file, in seconds; empty for a whole
    file. `rank` is the rank of the true class from 1; ties count against it.
    """
    scores, labels = logits.video_scores, logits.labels
    best = best_classes(scores, 5)
    times = ("start", "end") if logits.segments is not None else ()
    yield [
        *("video", *times, "label", "predicted", "score", "rank", "label_score", "clips"),
        *(f"{name}_{rank}" for rank in range(2, best.shape[1] + 1) for name in ("label", "score")),
    ]
    segments = logits.segments or [None] * len(logits.videos)
    columns = (logits.videos, segments, logits.truths, logits.video_ranks, logits.counts)
    for video, segment, truth, rank, clips, row, top in zip(*columns, scores, best, strict=True):
        part = map(plain_number, segment) if segment else [""] * len(times)
        first, *others = ([labels[index], f"{row[index]:.6f}"] for index in top)
        yield [
            *(video, *part, labels[truth], *first, rank + 1, f"{row[truth]:.6f}", clips),
            *(value for pair in others for value in pair),
        ]
