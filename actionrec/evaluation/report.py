"""The report of an evaluation: a folder of JSON, CSV and plots.

    actionrec evaluate --model runs/mine/model.safetensors --dataset demo --output report

writes into the folder `report`

    results.json           the output of `actionrec evaluate --format json`
    per_class.csv          each class's accuracy and its most frequent confusion
    predictions.csv        each video's true class, its rank, and the five best classes
    confusion_matrix.png   the share of each class that was predicted as each other class
    per_class.png          the classes in the order of their accuracy
    segments.csv           with --timeline: the segments that were found
    report.html            surest mistakes, least sure hits, confusions and labels that look wrong,
                           with frames of their videos and links to them

Where a video may have several labels there is no confusion matrix.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from actionrec.errors import UsageError
from actionrec.evaluation.accuracy import (
    Evaluation,
    EvaluationOfSeveralLabels,
    LabelAccuracy,
)
from actionrec.evaluation.detection import Detection
from actionrec.evaluation.gallery import (
    MOST_OF_PAIR,
    Case,
    gallery_of,
    given_labels,
    strips,
    true_labels,
)
from actionrec.evaluation.logits import ClipLogits
from actionrec.evaluation.plots import (
    average_precision_figure,
    confusion_matrix_figure,
    per_class_figure,
)
from actionrec.evaluation.several_labels import average_precisions
from actionrec.evaluation.timeline import EvaluationInTime
from actionrec.files import replacing, write_whole
from actionrec.text import csv_text, json_text, visible
from actionrec.video.parts import VideoSegment, VideoSource, path_of, plain_number

RESULTS = "results.json"
PER_CLASS = "per_class.csv"
PREDICTIONS = "predictions.csv"
CONFUSION_PLOT = "confusion_matrix.png"
PER_CLASS_PLOT = "per_class.png"
SEGMENTS = "segments.csv"
PAGE = "report.html"
MOST_SCORES = 4  # of a video on the page


def require_same_evaluation(folder: Path, protocol: dict[str, Any]) -> None:
    """Refuse to replace the report of another model or protocol.

    Raises:
        UsageError: `folder` is a file, or holds a report of another evaluation.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; choose another --output.")
    names = (RESULTS, PER_CLASS, PREDICTIONS, CONFUSION_PLOT, PER_CLASS_PLOT, SEGMENTS, PAGE)
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
    sources: Sequence[VideoSource] | None = None,
    found: Sequence[Detection] = (),
) -> None:
    """Write the files of a report into `folder`, each whole or not at all.

    Args:
        folder: New, or with a report of the same evaluation.
        logits: Those of the evaluation.
        evaluation: What follows from them.
        sources: The files of the videos, or their parts, for frames and links on the page.
        found: The segments that were found, if timelines were evaluated.

    Raises:
        ActionrecError: a file can't be written.
    """
    # First, because it tells whose the other files are if this is interrupted.
    write_whole(folder / RESULTS, json_text(asdict(evaluation), indent=2) + "\n")
    write_whole(folder / PREDICTIONS, csv_text(prediction_rows(logits)))
    if isinstance(evaluation, EvaluationInTime):
        write_whole(folder / SEGMENTS, csv_text(segment_rows(found)))
    if logits.multi_label:
        write_whole(folder / PER_CLASS, csv_text(label_rows(evaluation)))
        precisions = average_precisions(logits.truths, logits.video_scores)
        plots = {
            PER_CLASS_PLOT: average_precision_figure(
                precisions, logits.truths.sum(axis=0), logits.labels
            )
        }
    else:
        truths, labels = logits.truths, logits.labels
        predictions = best_classes(logits.video_scores, 1)[:, 0]
        per_class = per_class_rows(evaluation, truths, predictions, labels)
        write_whole(folder / PER_CLASS, csv_text(per_class))
        plots = {
            CONFUSION_PLOT: confusion_matrix_figure(truths, predictions, labels),
            PER_CLASS_PLOT: per_class_figure(truths, predictions, labels),
        }
    for name, plot in plots.items():
        with replacing(folder / name) as temporary:
            plot.savefig(temporary)
    write_whole(folder / PAGE, page(folder, logits, evaluation, sources))


def page(
    folder: Path,
    logits: ClipLogits,
    evaluation: Evaluation,
    sources: Sequence[VideoSource] | None,
) -> str:
    """The HTML page of a report that lies in `folder`. It contains its pictures, runs no script and
    loads nothing."""
    gallery = gallery_of(logits)
    pictures = strips(gallery, sources) if sources is not None else {}
    links = [link_to(source, folder) for source in sources] if sources is not None else []

    def shown(case: Case, in_question: bool = False) -> dict[str, Any]:
        scores = logits.video_scores[case.video]
        best = best_classes(scores[None], MOST_SCORES)[0].tolist()
        listed = best + [label for label in (*case.true, case.about) if label not in best]
        marks = {label: "wrong" for label in case.given} | dict.fromkeys(case.true, "true")
        return {
            "name": name_of(logits, case.video),
            "link": links[case.video] if links else None,
            "strip": pictures.get(case.video),
            "true": [visible(logits.labels[label]) for label in case.true],
            "given": [visible(logits.labels[label]) for label in case.given],
            "about": visible(logits.labels[case.about]) if in_question else None,
            "scores": [
                (visible(logits.labels[label]), float(scores[label]), marks.get(label, ""))
                for label in dict.fromkeys(listed)
            ],
        }

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    protocol = logits.protocol
    return environment.get_template("report.html").render(
        title=f"{protocol.get('model', 'Model')} on {protocol.get('dataset', 'videos')}",
        protocol=", ".join(f"{name} {value}" for name, value in protocol.items()),
        figures=tiles(evaluation),
        mistakes=[shown(case, logits.multi_label) for case in gallery.mistakes],
        hits=[shown(case) for case in gallery.hits],
        labels=[shown(case, True) for case in gallery.labels],
        pairs=[
            {
                "true": [visible(logits.labels[true])] if true >= 0 else [],
                "given": [visible(logits.labels[given])] if given >= 0 else [],
                "count": len(cases),
                "cases": [shown(case) for case in cases[:MOST_OF_PAIR]],
                "rest": [shown(case) for case in cases[MOST_OF_PAIR:]],
            }
            for true, given, cases in gallery.pairs
        ],
        skipped=logits.skipped,
    )


def tiles(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The figures on top of the page, and what they are."""
    video, clip = evaluation.video, evaluation.clip
    low, high = video.top1_interval
    found = [
        (f"{video.top1:.1%}", f"video-level Top-1 of {video.n}, {low:.1%} to {high:.1%}"),
        (f"{clip.top1:.1%}", f"clip-level Top-1 of {clip.n}"),
    ]
    if isinstance(evaluation, EvaluationOfSeveralLabels):
        found.insert(0, (f"{evaluation.map:.1%}", f"mAP over {len(evaluation.per_class)} labels"))
    return found


def name_of(logits: ClipLogits, video: int) -> str:
    """The name of a video, with its part of the file, if it is one."""
    segment = logits.segments[video] if logits.segments is not None else None
    part = f", {segment[0]:g} to {segment[1]:g} s" if segment else ""
    return visible(logits.videos[video]) + part


def link_to(source: VideoSource, folder: Path) -> str | None:
    """The address of a video from a page in `folder`, and of its part as a media fragment; None for
    one that browsers don't open."""
    path = path_of(source)
    if not isinstance(path, Path):
        return str(source) if path.scheme in ("http", "https") else None
    try:
        address = quote(Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix())
    except ValueError:  # Another drive.
        address = path.absolute().as_uri()
    fragment = f"#t={source.start:g},{source.end:g}" if isinstance(source, VideoSegment) else ""
    # A colon in the first part would be taken for a scheme.
    return f"./{address}{fragment}" if ":" in address.split("/")[0] else address + fragment


def label_rows(evaluation: Evaluation) -> Iterator[Sequence[Any]]:
    """The head, and a row for each label that some video has, where a video may have several."""
    names = [field.name for field in fields(LabelAccuracy)]
    yield ["class", *names]
    for label, found in evaluation.per_class.items():
        values = asdict(found)
        yield [label, *("" if values[name] is None else values[name] for name in names)]


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
    if logits.multi_label:
        yield from rows_of_several_labels(logits)
        return
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


def rows_of_several_labels(logits: ClipLogits) -> Iterator[Sequence[Any]]:
    """The head, and a row for each video: its true labels and those that it is given, each in one
    cell, and the score of every label."""
    times = ("start", "end") if logits.segments is not None else ()
    yield ["video", *times, "labels", "given", "clips", *logits.labels]

    def cell(chosen: Sequence[int]) -> str:
        return "|".join(logits.labels[label] for label in chosen)

    for video, (name, scores) in enumerate(zip(logits.videos, logits.video_scores, strict=True)):
        segment = logits.segments[video] if logits.segments is not None else None
        part = map(plain_number, segment) if segment else [""] * len(times)
        both = cell(true_labels(logits, video)), cell(given_labels(logits, video))
        yield [name, *part, *both, logits.counts[video], *(f"{score:.6f}" for score in scores)]
