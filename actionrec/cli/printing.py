"""What verbs print on stdout: a table for people, JSON and CSV for programs.

    actionrec predict video.mp4 --format json

Each is printed as soon as it is known. Nothing heavy is imported: some verbs answer at once.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from actionrec.evaluation.compare import Comparison
    from actionrec.evaluation.scoring import Evaluation
    from actionrec.prediction.timeline import Timeline
    from actionrec.prediction.videos import Failure, Prediction

Format = Literal["table", "json", "csv"]


def print_predictions_table(results: "Iterable[Prediction | Failure]") -> None:
    """Each video's best classes, a line each, as soon as they are known."""
    from actionrec.prediction.videos import Prediction

    for result in results:
        if isinstance(result, Prediction):
            seconds = result.clips[-1].end
            clips = f"{len(result.clips)} clip{'s' if len(result.clips) > 1 else ''}"
            print(f"{result.video}  ({seconds:.1f} s, {clips})")
            for entry in result.top:
                print(f"  {entry.score:7.2%}  {entry.label}", flush=True)


def print_predictions_json(results: "Iterable[Prediction | Failure]") -> None:
    """A JSON list of one object a video, printed object by object: it is whole even when the
    command is interrupted."""
    separator = "["
    try:
        for result in results:
            print(separator + json.dumps(asdict(result)), end="", flush=True)
            separator = ",\n"
    finally:
        print("]" if separator != "[" else "[]")


def print_predictions_csv(results: "Iterable[Prediction | Failure]") -> None:
    """A row for each of a video's best classes; a row with the error for one that failed."""
    from actionrec.errors import Failure

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["video", "rank", "label", "score", "error"])
    for result in results:
        if isinstance(result, Failure):
            writer.writerow([result.video, "", "", "", result.error])
            continue
        for rank, entry in enumerate(result.top, start=1):
            writer.writerow([result.video, rank, entry.label, entry.score, ""])


PREDICTION_PRINTERS: dict[str, Callable[["Iterable[Prediction | Failure]"], None]] = {
    "table": print_predictions_table,
    "json": print_predictions_json,
    "csv": print_predictions_csv,
}


def print_timelines_table(results: "Iterable[Timeline | Failure]") -> None:
    """Each video's segments, a line each."""
    from actionrec.errors import Failure
    from actionrec.text import hours

    for result in results:
        if isinstance(result, Failure):
            continue
        print(f"{result.video}  ({hours(result.duration)}, {len(result.clips)} clips)")
        for segment in result.segments:
            print(
                f"  {hours(segment.start)} - {hours(segment.end)} {segment.score:8.2%}  "
                f"{segment.label}",
                flush=True,
            )
        if not result.segments:
            highest = max(step.top[0].score for step in result.steps)
            print(f"  nothing scores as much as --min-score; the highest is {highest:.2%}")


def print_timelines_json(results: "Iterable[Timeline | Failure]") -> None:
    """A JSON list of one object a video, whole even when the command is interrupted."""
    from actionrec.errors import Failure
    from actionrec.prediction.formats import json_object

    separator = "["
    try:
        for result in results:
            print(end=separator)
            if isinstance(result, Failure):
                print(end=json.dumps(asdict(result)))
            else:
                sys.stdout.writelines(json_object(result))
            separator = ",\n"
    finally:
        print("]" if separator != "[" else "[]")


def print_timelines_csv(results: "Iterable[Timeline | Failure]") -> None:
    """A row for each segment; a row with the error for a video that failed."""
    from actionrec.errors import Failure
    from actionrec.prediction.formats import CSV_HEAD, csv_rows

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for result in results:
        if isinstance(result, Failure):
            writer.writerow([result.video, "", "", "", "", result.error])
        else:
            writer.writerows(csv_rows(result))


TIMELINE_PRINTERS: dict[str, Callable[["Iterable[Timeline | Failure]"], None]] = {
    "table": print_timelines_table,
    "json": print_timelines_json,
    "csv": print_timelines_csv,
}


def print_evaluation_table(result: "Evaluation") -> None:
    """The figures and how they were reached, in words."""
    protocol = result.protocol
    print(
        f"{protocol['dataset']}, split {protocol['split']}: {result.video.n} of "
        f"{protocol['videos']} videos, {protocol['clips']} clips x {protocol['crops']} crops"
    )
    print(f"{'':12}{'Top-1':>8}  {'95 % interval':16}{'Top-5':>8}  {'95 % interval':16}{'n':>8}")
    for name, figures in (("clip-level", result.clip), ("video-level", result.video)):
        top1, top5 = (
            "{:.2%} to {:.2%}".format(*interval)
            for interval in (figures.top1_interval, figures.top5_interval)
        )
        print(f"{name:12}{figures.top1:8.2%}  {top1:16}{figures.top5:8.2%}  {top5:16}{figures.n:8}")
    print(f"\n{'class':24}{'clip':>8}{'video':>8}{'videos':>8}")
    for name, share in result.per_class.items():
        print(f"{name:24}{share.clip_top1:8.1%}{share.video_top1:8.1%}{share.videos:8}")


def print_evaluation_json(result: "Evaluation") -> None:
    """One JSON object: clip, video, per_class, protocol, skipped."""
    print(json.dumps(asdict(result), indent=2))


def print_evaluation_csv(result: "Evaluation") -> None:
    """A row for the whole data set and one for each class; accuracies in [0, 1]."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["class", "clip_top1", "clip_top5", "video_top1", "video_top5", "videos"])
    clip, video = result.clip, result.video
    writer.writerow(["(all)", clip.top1, clip.top5, video.top1, video.top5, video.n])
    for name, share in result.per_class.items():
        writer.writerow([name, share.clip_top1, "", share.video_top1, "", share.videos])


EVALUATION_PRINTERS: dict[str, Callable[["Evaluation"], None]] = {
    "table": print_evaluation_table,
    "json": print_evaluation_json,
    "csv": print_evaluation_csv,
}


def print_rows(rows: list[dict[str, Any]], format: Format) -> None:
    """Rows with the same keys, as a JSON list or as CSV."""
    if format == "json":
        print(json.dumps(rows, indent=2))
        return
    writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


# What each data set is, and how it must lie on disk.
def print_dataset_table(counts: dict[str, Any]) -> None:
    """What a data set consists of, in words, and a line a class."""
    groups = f"{counts['groups']} groups" if counts["groups"] else "no groups known"
    print(
        f"{counts['dataset']}, split {counts['split']}: {counts['classes']} classes, {groups}, "
        f"{'may' if counts['flip'] else 'must not'} be mirrored"
    )
    print(f"{'class':32}{'train':>8}{'val':>8}")
    print(f"{'(all)':32}{counts['train']:8}{counts['val']:8}")
    for name, sides in counts["per_class"].items():
        print(f"{name:32}{sides['train']:8}{sides['val']:8}")


def print_dataset_json(counts: dict[str, Any]) -> None:
    """One JSON object: dataset, root, split, classes, train, val, flip, groups, per_class."""
    print(json.dumps(counts, indent=2))


def print_dataset_csv(counts: dict[str, Any]) -> None:
    """A row for the whole data set and one for each class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["class", "train", "val"])
    writer.writerow(["(all)", counts["train"], counts["val"]])
    writer.writerows([name, *sides.values()] for name, sides in counts["per_class"].items())


DATASET_PRINTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "table": print_dataset_table,
    "json": print_dataset_json,
    "csv": print_dataset_csv,
}


def print_comparison(result: "Comparison") -> None:
    """The figures in percent and points of percent, the tests, and the verdict."""
    print(f"{result.videos} videos, {len(result.mcnemar)} model(s) each\n")
    print(f"{'Top-1':12}{'A':>9}{'B':>9}{'B - A':>9}  95 % interval")
    for name, found in (("clip-level", result.clip_top1), ("video-level", result.video_top1)):
        low, high = (100 * end for end in found.interval)
        print(
            f"{name:12}{found.a:9.2%}{found.b:9.2%}{100 * found.difference:+9.2f}  "
            f"{low:+.2f} to {high:+.2f}"
        )
    print(f"\n{'McNemar':12}{'only A':>9}{'only B':>9}{'p':>9}  test")
    for index, test in enumerate(result.mcnemar, start=1):
        print(f"{f'pair {index}':12}{test.only_a:9}{test.only_b:9}{test.p:9.2g}  {test.test}")
    print(f"\n{result.verdict}")
