"""Seconds a clip of every pretrained model, beside its published accuracy.

    python scripts/benchmark_models.py
    python scripts/benchmark_models.py --models kinetics400-i3d x3d_s --rounds 9
    python scripts/benchmark_models.py --results results/models.csv

Each model scores one clip of its own size with weights that are drawn, which takes as long as with
published ones. Models have their turns one after the other, in processes of their own, so that one
at a time is in memory; number formats take turns in each round, and the table shows medians.
bfloat16 is left out where the device doesn't compute it in hardware.

With --results FILE a model's row is added as soon as it is measured. A run that was stopped goes on
with the same command: what was measured today on this machine, with these versions, engine and
number of threads, is not measured again.
"""

import argparse
import datetime
import multiprocessing
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measurements
import numpy as np
import torch
from stopwatch import device_name, take_turns

from actionrec.devices import fastest_device, has_bfloat16
from actionrec.errors import ActionrecError
from actionrec.models.catalogue import MODELS, list_weights
from actionrec.models.classifier import VideoClassifier, published_config
from actionrec.models.complexity import measure
from actionrec.models.inference import InferenceModel
from actionrec.text import plain_table

Row = dict[str, Any]
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


@dataclass(frozen=True)
class Work:
    """What a process of its own measures."""

    name: str
    engine: str
    device: str
    rounds: int
    threads: int


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3, help="at least 1")
    parser.add_argument("--engine", default="torch", choices=["torch", "openvino", "onnxruntime"])
    parser.add_argument("--device", default=fastest_device())
    parser.add_argument("--results", type=Path, help="CSV file to which rows are added")
    arguments = parser.parse_args(words)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def measured(work: Work) -> Row:
    """The row of a model in results/models.csv, and `gigabytes`, the most that the process held."""
    torch.set_num_threads(work.threads)
    (entry,) = (row for row in list_weights() if row["name"] == work.name)
    config = published_config(work.name)
    classifier = VideoClassifier(config).eval()
    side = config.preprocessing.crop
    clip = torch.zeros(1, 3, config.sampling.length, side, side, dtype=torch.uint8)
    ways = {}
    for precision in formats(work.device):
        model = InferenceModel(classifier, work.device, precision, engine=work.engine)
        ways[precision] = lambda model=model: model.scores(clip)
    seconds = take_turns(ways, work.rounds, work.name)
    medians = {name: round(float(np.median(values)), 4) for name, values in seconds.items()}
    ways.clear()
    del classifier, model
    cost = measure(config, entry["clip"])
    return {
        "name": work.name,
        "clip": entry["clip"],
        "top1": entry["top1"],
        "protocol": entry["protocol"],
        "params": cost.params,
        "macs": cost.macs,
        "engine": work.engine,
        "threads": work.threads,
        "float32_seconds": medians["float32"],
        "bfloat16_seconds": medians.get("bfloat16"),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e9,
    }


def formats(device: str) -> list[str]:
    return ["float32"] + ["bfloat16"] * has_bfloat16(torch.device(device))


def measured_today(path: Path | None, work: Work) -> Row | None:
    """The row that an earlier, stopped run has written for the same work."""
    if path is None:
        return None
    same = {
        "date": datetime.date.today().isoformat(),
        "name": work.name,
        "engine": work.engine,
        "threads": str(work.threads),
        **measurements.machine(work.device),
    }
    rows = [row for row in measurements.read(path) if same.items() <= row.items()]
    return rows[-1] if rows else None


def run_all(arguments: argparse.Namespace) -> tuple[list[Row], int]:
    """The rows of the models, and how many models failed."""
    rows, failed = [], 0
    for number, name in enumerate(arguments.models, 1):
        threads = torch.get_num_threads()
        work = Work(name, arguments.engine, arguments.device, arguments.rounds, threads)
        place = f"{number}/{len(arguments.models)} {name}"
        if row := measured_today(arguments.results, work):
            say(f"{place}: measured today already")
            rows.append(row)
            continue
        try:
            # The memory of a network is given back when its process ends.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                row = pool.submit(measured, work).result()
        except (ActionrecError, BrokenProcessPool, MemoryError, RuntimeError) as error:
            say(f"{place}: could not be measured ({error})")
            failed += 1
            continue
        gigabytes = row.pop("gigabytes")
        times = ", ".join(f"{each} {row[f'{each}_seconds']:.3f} s" for each in formats(work.device))
        say(f"{place}: {times}; {gigabytes:.1f} GB of memory")
        if arguments.results is not None:
            measurements.append(arguments.results, row, arguments.device)
        rows.append(row)
    return rows, failed


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_table(rows: Sequence[Row], device: str) -> None:
    print(f"{device_name(device)}, torch {torch.__version__}")
    head = ("model", "clip", "Top-1", "params, M", "GMAC", *(f"{x}, s" for x in formats(device)))
    cells = [
        (
            row["name"],
            row["clip"],
            f"{float(row['top1']):.1f}",
            f"{int(row['params']) / 1e6:.1f}",
            f"{int(row['macs']) / 1e9:.1f}",
            *(f"{float(row[f'{each}_seconds']):.3f}" for each in formats(device)),
        )
        for row in rows
    ]
    print(plain_table(cells, head))


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(words)
    try:
        rows, failed = run_all(arguments)
    except KeyboardInterrupt:
        say("stopped; the same command goes on.")
        return 130
    except ActionrecError as error:
        say(str(error))
        return 1
    print_table(rows, arguments.device)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
