"""Seconds a clip of every pretrained model, beside its published accuracy.

    python scripts/benchmark_models.py
    python scripts/benchmark_models.py --models kinetics400-i3d x3d_s --rounds 9
    python scripts/benchmark_models.py --results results/models.csv

Each model scores one clip of its own size with weights that are drawn, which takes as long as with
published ones. Models and number formats take turns, in another order in each round; the table
shows medians. bfloat16 is left out where the device doesn't compute it in hardware.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import measurements
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stopwatch import device_name, take_turns

from actionrec.devices import fastest_device, has_bfloat16
from actionrec.models.catalogue import MODELS, list_weights
from actionrec.models.classifier import VideoClassifier, published_config
from actionrec.models.complexity import measure
from actionrec.models.inference import InferenceModel


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="torch", choices=["torch", "openvino", "onnxruntime"])
    parser.add_argument("--device", default=fastest_device())
    parser.add_argument("--results", type=Path, help="CSV file to which rows are added")
    return parser.parse_args(words)


def main() -> None:
    arguments = parse_arguments()
    formats = ["float32"] + ["bfloat16"] * has_bfloat16(torch.device(arguments.device))
    ways = {}
    for name in arguments.models:
        config = published_config(name)
        classifier = VideoClassifier(config).eval()
        side = config.preprocessing.crop
        clip = torch.zeros(1, 3, config.sampling.length, side, side, dtype=torch.uint8)
        for precision in formats:
            model = InferenceModel(classifier, arguments.device, precision, engine=arguments.engine)
            ways[f"{name} {precision}"] = lambda model=model, clip=clip: model.scores(clip)
    seconds = take_turns(ways, arguments.rounds, "measuring")

    console = Console()
    threads = torch.get_num_threads()
    console.print(f"{device_name(arguments.device)}, torch {torch.__version__}")
    head = ("model", "clip", "Top-1", "params, M", "GMAC", *(f"{each}, s" for each in formats))
    table = Table(*head, box=None)
    for row in list_weights():
        name = row["name"]
        if name not in arguments.models:
            continue
        cost = measure(published_config(name), row["clip"])
        medians = {each: float(np.median(seconds[f"{name} {each}"])) for each in formats}
        table.add_row(
            name,
            row["clip"],
            f"{row['top1']:.1f}",
            f"{cost.params / 1e6:.1f}",
            f"{cost.macs / 1e9:.1f}",
            *(f"{medians[each]:.3f}" for each in formats),
        )
        if arguments.results is not None:
            found = {
                "name": name,
                "clip": row["clip"],
                "top1": row["top1"],
                "protocol": row["protocol"],
                "params": cost.params,
                "macs": cost.macs,
                "engine": arguments.engine,
                "threads": threads,
                "float32_seconds": round(medians["float32"], 4),
                "bfloat16_seconds": round(medians["bfloat16"], 4) if formats[1:] else None,
            }
            measurements.append(arguments.results, found, arguments.device)
    console.print(table)


if __name__ == "__main__":
    main()
