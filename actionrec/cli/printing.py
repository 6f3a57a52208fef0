"""Results on stdout: a table for people, JSON and CSV for programs.

    actionrec predict video.mp4 --format json

Imports are light, because some verbs answer at once.
"""

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from actionrec.errors import Failure
from actionrec.text import (
    NONE_OF_THESE,
    aligned_table,
    csv_row,
    hours,
    json_text,
    plain_table,
    visible,
)

if TYPE_CHECKING:
    from actionrec.evaluation.accuracy import Evaluation
    from actionrec.evaluation.compare import Comparison
    from actionrec.evaluation.detection import TimelineEvaluation
    from actionrec.prediction.timeline import Timeline
    from actionrec.prediction.videos import Prediction
    from actionrec.quantize import Comparison as QuantizationComparison
    from actionrec.training.calibration import Calibration

Format = Literal["table", "json", "csv"]

# Lines for classes that quantisation changed.
MOST_CLASSES = 10


def say(line: str) -> None:
    """Print one line."""
    print(visible(line), flush=True)


def print_table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> None:
    """Print aligned columns, fitted to a terminal; in a file or pipe, of any width."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(markup=False, highlight=False, emoji=False).print(aligned_table(rows, head))
    else:
        print(plain_table(rows, head), flush=True)


def print_json(value: Any) -> None:
    """Print a JSON value."""
    print(json_text(value, indent=2))


def print_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a CSV table, each row as it comes."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow(csv_row(row))
        sys.stdout.flush()


def print_rows(rows: Sequence[Mapping[str, Any]], format: Format) -> None:
    """Print rows that all have the same keys."""
    if format == "json":
        print_json(rows)
    elif format == "csv":
        print_csv(list(rows[0]), (row.values() for row in rows))
    else:
        print_table((list(row.values()) for row in rows), list(rows[0]))


def print_results(
    results: Iterable[Any],
    format: Format,
    json_pieces: Callable[[Any], Iterable[str]],
    csv_head: Sequence[str],
    csv_rows: Callable[[Any], Iterable[Sequence[Any]]],
    show: Callable[[Any], None],
) -> None:
    """Print the results of videos as they arrive; a Failure is part of JSON and CSV only.

    The JSON list is valid even if the command is interrupted.
    """
    if format == "csv":
        blank = [""] * (len(csv_head) - 2)
        rows = (
            [[each.video, *blank, each.error]] if isinstance(each, Failure) else csv_rows(each)
            for each in results
        )
        print_csv(csv_head, (row for of_video in rows for row in of_video))
    elif format == "json":
        separator = "["
        try:
            for each in results:
                failed = isinstance(each, Failure)
                print(end=separator)
                sys.stdout.writelines([json_text(asdict(each))] if failed else json_pieces(each))
                sys.stdout.flush()
                separator = ",\n"
        finally:
            print("]" if separator != "[" else "[]")
    else:
        for each in results:
            if not isinstance(each, Failure):
                show(each)


def print_predictions(
    results: "Iterable[Prediction | Failure]", format: Format, multi_label: bool = False
) -> None:
    """Print the best classes of each video, and which of them it is given."""

    def csv_rows(result: "Prediction") -> Iterable[Sequence[Any]]:
        given = {entry.label for entry in result.labels}
        for rank, entry in enumerate(result.top, start=1):
            known = int(entry.label in given), result.uncertainty
            yield [result.video, rank, entry.label, entry.score, *known, ""]

    def show(result: "Prediction") -> None:
        clips = f"{len(result.clips)} clip{'s' if len(result.clips) > 1 else ''}"
        say(f"{result.video}  ({result.clips[-1].end:.1f} s, {clips})")
        if result.none_of_these:
            print(f"  {NONE_OF_THESE}; the nearest:", flush=True)
        # With one label a video, its place marks it.
        given = {entry.label for entry in result.labels} if multi_label else set()
        print_table(
            ("*" if entry.label in given else "", f"{entry.score:.2%}", entry.label)
            for entry in result.top
        )

    csv_head = ["video", "rank", "label", "score", "given", "uncertainty", "error"]
    print_results(
        results, format, lambda result: [json_text(asdict(result))], csv_head, csv_rows, show
    )


def print_timelines(results: "Iterable[Timeline | Failure]", format: Format) -> None:
    """Print the segments of each video."""
    from actionrec.prediction.formats import CSV_HEAD, csv_rows, json_object

    def show(result: "Timeline") -> None:
        say(f"{result.video}  ({hours(result.duration)}, {len(result.clips)} clips)")
        if result.segments:
            print_table(
                ("", f"{hours(each.start)} - {hours(each.end)}", f"{each.score:.2%}", each.label)
                for each in result.segments
            )
        elif result.none_of_these:
            print(f"  {NONE_OF_THESE}; the nearest is {result.top[0].label}", flush=True)
        else:
            highest = max(step.top[0].score for step in result.steps)
            print(f"  no class reaches --min-score; the highest is {highest:.2%}", flush=True)

    print_results(results, format, json_object, CSV_HEAD, csv_rows, show)


def print_evaluation(result: "Evaluation", format: Format) -> None:
    """Print the accuracies on the whole data set and of each class."""
    clip, video, protocol, classes = result.clip, result.video, result.protocol, result.per_class
    # Where a video may have several labels.
    precision = getattr(result, "map", None)
    if format == "json":
        print_json(asdict(result))
    elif format == "csv":
        rows = [["(all)", clip.top1, clip.top5, video.top1, video.top5, video.n]]
        for name, each in classes.items():
            rows.append([name, each.clip_top1, "", each.video_top1, "", each.videos])
        head = ["class", "clip_top1", "clip_top5", "video_top1", "video_top5", "videos"]
        if timeline := getattr(result, "timeline", None):
            head.append("mean_ap")
            of_classes = [timeline.per_class.get(name, "") for name in classes]
            rows = [
                [*row, value] for row, value in zip(rows, [timeline.mean, *of_classes], strict=True)
            ]
        if precision is not None:
            head.append("average_precision")
            for row, value in zip(rows, [precision, *_average_precisions(result)], strict=True):
                row.append(value)
        print_csv(head, rows)
    else:
        print(
            f"{protocol['dataset']}, split {protocol['split']}: {video.n} of "
            f"{protocol['videos']} videos, {protocol['clips']} clips x {protocol['crops']} crops"
        )
        rows = []
        for name, level in (("clip-level", clip), ("video-level", video)):
            tops = (level.top1, level.top1_interval), (level.top5, level.top5_interval)
            cells = [(f"{top:.2%}", "{:.2%} to {:.2%}".format(*interval)) for top, interval in tops]
            rows.append([name, *cells[0], *cells[1], level.n])
        print_table(rows, ["", "Top-1", "95 % interval", "Top-5", "95 % interval", "n"])
        if precision is not None:
            print(f"mAP: {precision:.2%} of videos, {result.clip_map:.2%} of clips")
        print()
        rows = [
            [name, f"{each.clip_top1:.1%}", f"{each.video_top1:.1%}", each.videos]
            for name, each in classes.items()
        ]
        head = ["class", "clip", "video", "videos"]
        if precision is not None:
            head += ["average precision", "threshold", "precision", "recall"]
            for row, each in zip(rows, classes.values(), strict=True):
                right = "–" if each.precision is None else f"{each.precision:.1%}"
                row += [f"{each.average_precision:.1%}", f"{each.threshold:.3f}", right]
                row.append(f"{each.recall:.1%}")
        print_table(rows, head)
        if timeline := getattr(result, "timeline", None):
            print()
            print_timeline_figures(timeline, several=precision is not None)


def _average_precisions(result: "Evaluation") -> list[float]:
    return [each.average_precision for each in result.per_class.values()]


def print_timeline_figures(result: "TimelineEvaluation", several: bool) -> None:
    """Print how well segments are found in time, of one label or several, beside what the default
    settings give."""
    tuned = f"tuned on {result.tuned_on}" if result.tuned_on else "not tuned now"
    say(f"timeline, {tuned}: {result.settings}")
    columns = [result, result.with_defaults]
    rows = [
        [f"mean AP at tIoU {threshold}", *(f"{each.mean_ap[threshold]:.1%}" for each in columns)]
        for threshold in result.mean_ap
    ]
    rows += [
        [name, *(f"{getattr(each, key):.1%}" for each in columns)]
        for name, key in (
            ("mean of these", "mean"),
            (f"frames with {'just ' * several}the right label{'s' * several}", "frame_accuracy"),
            ("those in segments", "annotated_frame_accuracy"),
        )
    ]
    annotated = result.segments["annotated"]
    rows.append(
        [f"segments found, of {annotated} annotated", *(each.segments["found"] for each in columns)]
    )
    print_table(rows, ["", "timeline", "by defaults"])


def print_comparison(result: "Comparison", format: Format) -> None:
    """Print Top-1 in percent, differences in points of percent, the tests, and the verdict."""
    if format == "json":
        print_json(asdict(result))
        return
    print(f"{result.videos} videos, {len(result.mcnemar)} model(s) each\n")
    rows = []
    for name, top1 in (("clip-level", result.clip_top1), ("video-level", result.video_top1)):
        low, high = (f"{100 * end:+.2f}" for end in top1.interval)
        difference = f"{100 * top1.difference:+.2f}"
        rows.append([name, f"{top1.a:.2%}", f"{top1.b:.2%}", difference, f"{low} to {high}"])
    print_table(rows, ["Top-1", "A", "B", "B - A", "95 % interval"])
    print()
    rows = [
        [f"pair {number}", test.only_a, test.only_b, f"{test.p:.2g}", test.test]
        for number, test in enumerate(result.mcnemar, start=1)
    ]
    print_table(rows, ["McNemar", "only A", "only B", "p", "test"])
    print(f"\n{result.verdict} {result.limits}".rstrip())


def print_calibration(output: str, found: "Calibration", format: Literal["table", "json"]) -> None:
    """Print what calibration chose, and the figures before and after."""
    if format == "json":
        print_json({"output": output} | asdict(found))
        return
    say(
        f"{output}: temperature {found.temperature:.3g}; below a "
        f"{'confidence of the detector' if found.detector else 'best score'} of "
        f"{found.least_confidence:.4g}, {NONE_OF_THESE}"
    )
    say(
        f"of {found.videos} known videos, held out in turn: {found.top1:.1%} right, "
        f"{found.top1_kept:.1%} right and kept, {found.rejected:.1%} rejected "
        f"(allowed: {found.false_alarms:.1%})"
    )
    rows = [
        ["expected calibration error", f"{found.calibration_error_before:.3f}"]
        + [f"{found.calibration_error:.3f}"],
        ["loss", f"{found.loss_before:.3f}", f"{found.loss:.3f}"],
    ]
    if found.auroc is not None:
        say(f"of {found.negatives} negatives: {found.accepted:.1%} accepted")
        rows += [
            ["AUROC against negatives", f"{found.auroc_before:.3f}", f"{found.auroc:.3f}"],
            ["negatives accepted with 95 % of known", f"{found.fpr95_before:.3f}"]
            + [f"{found.fpr95:.3f}"],
        ]
    print_table(rows, ["", "before", "after"])


def print_quantization(output: str, found: "QuantizationComparison") -> None:
    """How a model in INT8 compares with float32, with the classes that changed most."""
    sure = ""
    if found.sure_agreement is not None:
        sure = f"; {found.sure_agreement:.1%} of the {found.sure_clips} of which float32 is sure"
    say(f"{output}: on {found.clips} clips that calibrated nothing, beside float32")
    rows = [
        ["same best label", f"{found.agreement:.1%}{sure}"],
        ["largest change of a score", f"{found.mean_difference:.3f} mean"]
        + [f"{found.worst_difference:.3f} at worst"],
        ["seconds a clip", f"{found.int8_seconds:.2g} instead of {found.float32_seconds:.2g}"],
        ["MB", f"{found.int8_bytes / 1e6:.1f} instead of {found.float32_bytes / 1e6:.1f}"],
    ]
    for name, *values in rows:
        say(f"  {name}: {', '.join(values)}")
    if found.disagreements:
        print_table(
            [
                [f"  {each.video}", f"{each.float32} {each.float32_score:.3f}"]
                + [f"{each.int8} {each.int8_score:.3f}"]
                for each in found.disagreements
            ],
            ["  other best label", "float32", "INT8"],
        )
    most = list(found.per_class.items())[:MOST_CLASSES]
    print_table(
        [[f"  {label}", f"{change:.3f}"] for label, change in most],
        ["  predicted class", "largest change of a score, mean"],
    )
