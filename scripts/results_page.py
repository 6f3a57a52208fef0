"""Writes docs/results.md and its picture from the CSV files in results/.

    python scripts/results_page.py

The page depends on nothing else, so that the same files always give the same page.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import block_study
import measurements
from table7 import (
    BASE,
    FIGURES,
    HEAD,
    RUNS_TO_TELL,
    Result,
    Row,
    Spread,
    counted,
    markdown_table,
    shown,
    told_apart,
)

from actionrec.errors import ActionrecError
from actionrec.files import replacing

PROJECT = Path(__file__).parents[1]
PICTURE = Path("images", "blocks_on_real_videos.svg")
LEVELS = {"clip": "clip_top1", "video": "video_top1"}
STUDY = ("data", "division", "recipe", "clips", "crops", "device", "torch")

Rows = Sequence[dict[str, str]]


def groups(rows: Rows, *columns: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """The rows by their values in some columns, in the order of the file."""
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in columns), []).append(row)
    return found


def newest(rows: Rows, *columns: str) -> list[dict[str, str]]:
    """Of rows that are alike in some columns, the last."""
    return [alike[-1] for alike in groups(rows, *columns).values()]


# Blocks on real videos.


def compared(runs: Rows) -> list[Row]:
    """The blocks of one study, each against no block."""
    results = [
        Result(
            row=BASE if run["block"] == "none" else run["block"],
            split=run["split"],
            seed=int(run["seed"]),
            **{name: float(run[name]) for name in FIGURES},
            videos=int(run["videos"]),
            left_out=0,
        )
        for run in newest(runs, "block", "split", "seed")
    ]
    return [Row.of(name, results) for name in dict.fromkeys(result.row for result in results)]


def sentence(rows: Sequence[Row]) -> str:
    """What a table of blocks shows."""
    differences = {
        f"{row.name} at the {level} level": difference
        for row in rows
        for level, figure in LEVELS.items()
        if (difference := row.differences[figure]) and difference.n >= RUNS_TO_TELL
    }
    return told_apart(differences)


def blocks_on_videos(studies: dict[tuple[str, ...], list[dict[str, str]]]) -> Iterator[str]:
    """A section for each study: protocol, table, and what it shows."""
    head = ["block", "runs"]
    for level in LEVELS:
        head += [f"{level} Top-1", "none, same runs", "difference", "95 % interval"]
    for (data, division, recipe, clips, crops, device, torch), runs in studies.items():
        rows = compared(runs)
        [base] = [row for row in rows if row.name == BASE] or [None]
        splits, seeds = ({run[name] for run in runs} for name in ("split", "seed"))
        yield f"### {data}, {division}, {device}"
        yield ""
        yield (
            f"{recipe}; figures of the last epoch, {counted(int(clips), 'clip')} x "
            f"{counted(int(crops), 'crop')} of every video; {counted(len(splits), 'split')}, seeds "
            f"{', '.join(sorted(seeds, key=int))}; PyTorch {torch}."
        )
        yield ""
        yield from markdown_table(head, (cells(row, base) for row in rows))
        yield ""
        if [row.name for row in rows] != [BASE]:
            yield sentence(rows)
            yield ""
        if any(row.name == HEAD for row in rows):
            yield (
                "`head` is the head alone, fitted to the frozen features of clips of "
                "32x160x160 (`--train-from head`)."
            )
            yield ""


def cells(row: Row, base: Row | None) -> list[str]:
    """A block's line; the base's mean is that over the runs that the block has, too."""
    values = ["none" if row.name == BASE else row.name, str(len(row.results))]
    pairs = {result.pair for result in row.results}
    for figure in LEVELS.values():
        difference = row.differences[figure]
        values.append(shown(row.figures[figure]))
        if difference is None:
            values += ["-", "-", "-"]
            continue
        same = [getattr(each, figure) for each in base.results if each.pair in pairs]
        low, high = difference.interval if difference.n > 1 else (None, None)
        interval = "-" if low is None else f"{low:+.2f} to {high:+.2f}"
        values += [f"{Spread.of(same).mean:.2f}", shown(difference, "+"), interval]
    return values


def picture(studies: dict[tuple[str, ...], list[dict[str, str]]]) -> str:
    """Differences from no block with their intervals, as SVG; every study on the same scale."""
    marks = [
        (f"{study[0]}: {row.name}, {level}", level, row.differences[figure])
        for study, runs in studies.items()
        for row in compared(runs)
        for level, figure in LEVELS.items()
        if (difference := row.differences[figure]) and difference.n >= RUNS_TO_TELL
    ]
    reach = max((abs(end) for *_, mark in marks for end in mark.interval), default=1)
    left, half, line = 190, 220, 16
    height = line * (len(marks) + 3)

    def at(points: float) -> str:
        return f"{left + half + half * points / reach:.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + 2 * half + 20}" '
        f'height="{height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<line x1="{at(0)}" x2="{at(0)}" y1="8" y2="{height - 2 * line}" stroke="#999"/>',
    ]
    for number, (name, level, difference) in enumerate(marks, start=1):
        y, colour = line * number, "#1f77b4" if level == "clip" else "#ff7f0e"
        low, high = difference.interval
        lines += [
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>',
            f'<line x1="{at(low)}" x2="{at(high)}" y1="{y}" y2="{y}" stroke="{colour}"/>',
            f'<circle cx="{at(difference.mean)}" cy="{y}" r="3" fill="{colour}"/>',
        ]
    for points in (-reach, 0, reach):
        lines.append(
            f'<text x="{at(points)}" y="{height - line}" text-anchor="middle">{points:+.1f}</text>'
        )
    title = "Top-1 minus that without a block, points; bar: 95 % interval of the mean"
    lines.append(f'<text x="{at(0)}" y="{height - 3}" text-anchor="middle">{title}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


# Speed and precision.


def places(row: dict[str, str]) -> str:
    """The device and versions of a row, as far as they were recorded."""
    torch = f", PyTorch {row['torch']}" if row["torch"] else ""
    return f"{row['device']}{torch}, {row['date']}"


def by_machine(rows: Rows, *columns: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The newest rows of each device, PyTorch and day, under a line that names them."""
    for alike in groups(newest(rows, "device", "torch", *columns), "device", "torch", "date"):
        own = [row for row in rows if (row["device"], row["torch"], row["date"]) == alike]
        own = newest(own, *columns)
        yield places(own[0]), own


def number(text: str, digits: int = 3) -> str:
    """A figure with so many significant digits, or a dash."""
    if not text:
        return "-"
    value = float(text)
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}"


def percent(text: str) -> str:
    return f"{100 * float(text):.1f} %" if text else "-"


def block_speed(rows: Rows) -> Iterator[str]:
    """The chosen form of each block at each place, forward and backward."""
    rows = [
        row for row in rows if row["chosen"] == "True" and row["direction"] == "forward + backward"
    ]
    settings = ("dtype", "batch", "clip", "stage", "block")
    for name, own in by_machine(rows, *settings):
        blocks = list(dict.fromkeys(row["block"] for row in own))
        table = []
        for (dtype, batch, clip, stage, positions), alike in groups(
            own, "dtype", "batch", "clip", "stage", "positions"
        ).items():
            of_block = {row["block"]: row for row in alike}
            cells = [clip, stage, positions, batch, dtype]
            for block in blocks:
                row = of_block.get(block, {})
                time, speed = row.get("milliseconds", ""), row.get("speed_over_plain", "")
                cells.append(number(time) + (f" ({float(speed):.1f}x)" if speed else ""))
            table.append(cells)
        yield f"{name}; milliseconds, and how many times as fast as the papers' formulas written"
        yield "out with the N x N matrix (where that fits and exists):"
        yield ""
        yield from markdown_table(["clip", "stage", "N", "batch", "type", *blocks], table)
        yield ""


def plain_tables(rows: Rows, keys: Sequence[str], shown_as: dict[str, str]) -> Iterator[str]:
    """A table for each machine, with the columns {column: heading}."""
    for name, own in by_machine(rows, *keys):
        yield f"{name}:"
        yield ""
        table = ([cell(column, row[column]) for column in shown_as] for row in own)
        yield from markdown_table(list(shown_as.values()), table)
        yield ""


def cell(column: str, text: str) -> str:
    if column in ("waiting", "share_of_peak", "share_of_matrix_product"):
        return percent(text)
    if column in AS_WRITTEN:
        return text or "-"
    try:
        float(text)
    except ValueError:
        return text or "-"
    return text if text.isdecimal() else number(text)


# With as many digits as there are in the file.
AS_WRITTEN = ("splits", "fps", "gamma", "lr", "lr_new", "ema", "penalty", "video_top1", "spread")

SEARCH_KEYS = ("data", "division", "splits", "network", "clip", "stride", "fps", "gamma", "draws")
SEARCH_KEYS += ("train_from", "fit_head", "lr", "lr_new", "warmup", "epochs", "ema", "batch_size")
SEARCH_KEYS += ("seed", "penalty")
SEARCH_TEXT = """\
Fine-tunings from stored inputs of the first trained stage (`scripts/recipe_search.py` says how, and
where this differs from `actionrec train`). Top-1 is that of videos, three clips each, after the
last epoch, in percent, mean over the splits; the spread is the largest minus the smallest mean of
the last third of the epochs. Settings were chosen by these very videos, so that the best figures
are too good; trials compare where data, splits and clip are the same.
""".splitlines()

BLOCK_STUDY_TEXT = """\
Fine-tunings from stored inputs of the first trained unit (`scripts/block_study.py` says how). The
rate is the block's, in relation to that of the rest; the term what it adds, in relation to its
input, after the last epoch. Differences and intervals are as above.
""".splitlines()

TABLES = {
    "training_steps": (
        "Training steps on clips that are on the GPU",
        ("dtype", "clip", "batch", "backbone", "block"),
        {
            "backbone": "network",
            "block": "block",
            "clip": "clip",
            "batch": "batch",
            "dtype": "type",
            "milliseconds": "ms",
            "peak_mib": "peak MiB",
            "speed_over_none": "speed / none",
            "share_of_matrix_product": "of matrix products",
        },
    ),
    "training": (
        "Training from videos, clips a second",
        ("network", "batch", "clip", "precision", "workers"),
        {
            "network": "network",
            "batch": "batch",
            "clip": "clip",
            "precision": "precision",
            "plain_clips_per_second": "plain PyTorch",
            "actionrec_clips_per_second": "actionrec",
            "ratio": "ratio",
            "waiting": "waiting for data",
            "share_of_peak": "of the maker's peak",
            "share_of_matrix_product": "of matrix products",
        },
    ),
    "prediction": (
        "Prediction",
        ("what", "clip", "way"),
        {
            "what": "what",
            "clip": "clip",
            "way": "way",
            "milliseconds": "ms",
            "speed_over_plain": "speed / plain",
            "share_of_matrix_product": "of matrix products",
        },
    ),
    "batch": (
        "Many videos, videos a second",
        ("data", "model", "engine", "precision", "videos"),
        {
            "data": "data",
            "model": "model",
            "engine": "engine",
            "precision": "precision",
            "videos": "videos",
            "clips": "clips",
            "predict": "predict",
            "reading_alone": "reading alone",
            "network_alone": "network alone",
            "share": "of the slower limit",
        },
    ),
    "labelling_order": (
        "Labels in the order of the page and in random order: Top-1 on held-out groups",
        ("data", "labels", "order"),
        {
            "data": "data",
            "labels": "labels",
            "order": "order",
            "top1": "Top-1, %",
            "spread": "spread",
            "seeds": "seeds",
        },
    ),
    "quantization": (
        "INT8 beside float32, on clips that did not calibrate it",
        ("model", "data"),
        {
            "model": "model",
            "data": "data",
            "calibration_clips": "calibrated by",
            "clips": "clips",
            "agreement": "same best label, %",
            "sure_clips": "sure in float32",
            "sure_agreement": "of these, %",
            "mean_difference": "score changes, mean",
            "worst_difference": "at most",
            "float32_seconds": "float32 (torch), s",
            "int8_seconds": "INT8, s",
        },
    ),
    "matrix_products": (
        "Matrix products, 10^12 operations a second",
        ("dtype", "size"),
        {"dtype": "type", "size": "size", "tera_operations": "10^12 / s"},
    ),
    "precision": (
        "Precision: relative distance from float64 on the CPU",
        ("backbone", "block", "clip", "batch", "dtype"),
        {
            "backbone": "network",
            "block": "block",
            "clip": "clip",
            "dtype": "type",
            "logits": "logits",
            "gradients": "gradients",
            "worst_gradient": "worst gradient",
            "worst_parameter": "of",
        },
    ),
    "tests": (
        "Tests that compute on the GPU",
        ("file",),
        {
            "file": "file",
            "passed": "passed",
            "failed": "failed",
            "skipped": "skipped",
            "failures": "failures",
        },
    ),
}


def recipe_search(rows: Rows) -> Iterator[str]:
    """The trials from which the recipe for few videos was chosen."""
    yield from SEARCH_TEXT
    yield ""
    columns = {
        "data": "data",
        "splits": "splits",
        "clip": "clip",
        "stride": "stride",
        "fps": "fps",
        "gamma": "gamma",
        "draws": "draws",
        "train_from": "trained from",
        "fit_head": "head fitted",
        "penalty": "penalty",
        "lr": "lr",
        "lr_new": "of new layers",
        "warmup": "warm-up",
        "epochs": "epochs",
        "ema": "EMA",
        "batch_size": "batch",
        "seed": "seed",
        "video_top1": "video Top-1",
        "spread": "spread",
    }
    yield from plain_tables(rows, SEARCH_KEYS, columns)


def models(rows: Rows) -> Iterator[str]:
    """What a clip of each pretrained model costs."""
    columns = {
        "name": "model",
        "clip": "clip",
        "top1": "Top-1, %",
        "protocol": "of",
        "params": "parameters, M",
        "macs": "multiply-adds, G",
        "float32_seconds": "float32, s",
        "bfloat16_seconds": "bfloat16, s",
    }
    counted = [
        {
            **row,
            "params": f"{int(row['params']) / 1e6:.2f}",
            "macs": f"{int(row['macs']) / 1e9:.2f}",
        }
        for row in rows
    ]
    yield from plain_tables(counted, ("name",), columns)


def page(results: Path) -> tuple[str, str]:
    """The page as Markdown, and its picture as SVG.

    Raises:
        ActionrecError: a file of results can't be read.
    """
    studies = groups(measurements.read(results / "table7_runs.csv"), *STUDY)
    lines = [
        "# Measured results",
        "",
        "`python scripts/results_page.py` makes this page from the CSV files in `results/`, which",
        "have a row for every run and measurement ([reproduce.md](reproduce.md) says how).",
        "",
        "## Nonlocal blocks on real videos",
        "",
        "Top-1 in percent, mean ± standard deviation over runs. Differences from no block, in",
        "points, are between runs of the same split and seed, with the 95 % interval of their mean",
        "(Student's t). Runs of one data set share videos, so the intervals are rather narrow.",
        "",
        f"![Differences of each block from no block]({PICTURE.as_posix()})",
        "",
        *blocks_on_videos(studies),
    ]
    if runs := measurements.read(results / "block_study.csv"):
        lines += ["## What blocks do in a fine-tuning", "", *BLOCK_STUDY_TEXT, ""]
        lines += block_study.tables(runs)
    if trials := measurements.read(results / "recipe_search.csv"):
        lines += ["## Search for the recipe for few videos", "", *recipe_search(trials)]
    lines += [
        "## Speed of the blocks",
        "",
        "In the tables from here on, *of matrix products* is the rate of operations in relation to "
        "that of products",
        "of large matrices, measured on the same device. It can pass 100 %, because Winograd's "
        "algorithm needs fewer",
        "operations than are counted. *Of the maker's peak* is the same in relation to the data "
        "sheet (dense bfloat16);",
        "*of the slower limit* the rate in relation to reading alone or the network alone.",
        "",
        *block_speed(measurements.read(results / "blocks.csv")),
    ]
    if rows := measurements.read(results / "models.csv"):
        title = "Pretrained models: Top-1 on Kinetics-400 as published, and what a clip costs here"
        lines += [f"## {title}", "", *models(rows)]
    for name, (title, keys, columns) in TABLES.items():
        if rows := measurements.read(results / f"{name}.csv"):
            lines += [f"## {title}", "", *plain_tables(rows, keys, columns)]
    return "\n".join(lines).rstrip() + "\n", picture(studies)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=PROJECT / "results")
    parser.add_argument("--output", type=Path, default=PROJECT / "docs" / "results.md")
    arguments = parser.parse_args(words)
    try:
        if not any(arguments.results.glob("*.csv")):
            raise ActionrecError(f"{arguments.results} holds no CSV files; check --results.")
        text, drawn = page(arguments.results)
        for path, content in (
            (arguments.output, text),
            (arguments.output.parent / PICTURE, drawn),
        ):
            with replacing(path) as temporary:
                temporary.write_text(content, encoding="utf-8")
    except ActionrecError as error:
        print(f"results_page: {error}", file=sys.stderr)
        return 1
    except KeyError as error:
        print(f"results_page: a file in {arguments.results} lacks {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
