"""Memory and seconds of a training step with and without gradient checkpointing.

    python scripts/benchmark_checkpointing.py
    python scripts/benchmark_checkpointing.py --networks mvit_v2_s --clip 16x224x224 --rounds 5

Each measurement is a process of its own that takes steps of AdamW on drawn clips; the two ways take
turns. Memory is the process's largest resident set, and seconds are the processor's, which others
on the machine hardly prolong; on a GPU memory is what tensors took at most, and seconds are the
clock's. The table has the largest memory of all rounds and the median seconds of a step.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stopwatch import device_name, seconds_of
from torch.nn import functional as F

from actionrec.devices import fastest_device
from actionrec.models.network import ClassifierConfig, build_network
from actionrec.models.registry import BACKBONES
from actionrec.training.gradient_checkpointing import recomputed


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["x3d_s", "i3d"], choices=list(BACKBONES))
    parser.add_argument("--clip", default="16x112x112", help="TxHxW")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="the first one is not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=["kept", "recomputed"], help=argparse.SUPPRESS)
    return parser.parse_args(words)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """MiB at most and seconds of a step, in this process."""
    torch.manual_seed(0)
    device = torch.device(fastest_device())
    labels = tuple(map(str, range(10)))
    network = build_network(ClassifierConfig(labels, arguments.networks[0])).to(device).train()
    if arguments.one == "recomputed":
        network.call = recomputed
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    sizes = map(int, arguments.clip.split("x"))
    clips = torch.rand(arguments.batch_size, 3, *sizes, device=device)
    clips = clips.contiguous(memory_format=torch.channels_last_3d)
    truths = torch.arange(arguments.batch_size, device=device) % len(labels)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(clips), truths).backward()
        optimizer.step()

    if device.type == "cuda":
        seconds = [seconds_of(step) for _ in range(arguments.steps)]
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        seconds = [processor_seconds_of(step) for _ in range(arguments.steps)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"MiB": peak, "seconds": float(np.median(seconds[1:] or seconds))}


def processor_seconds_of(run: Callable[[], object]) -> float:
    """Seconds that the processor spends on `run`, in all threads together."""
    before = time.process_time()
    run()
    return time.process_time() - before


def measure_apart(network: str, way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process of its own."""
    words = ["--networks", network, "--one", way, "--clip", arguments.clip]
    words += ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)]
    program = [sys.executable, __file__, *words]
    found = json.loads(subprocess.run(program, check=True, stdout=subprocess.PIPE).stdout)
    print(f"{network}, {way}: {found}", file=sys.stderr)
    return found


def main() -> None:
    arguments = parse_arguments()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    table = Table("network", "inside of units", "MiB", "seconds of a step")
    table.title = (
        f"{arguments.batch_size} clips of {arguments.clip}, {device_name(fastest_device())}"
    )
    for network in arguments.networks:
        found = {"kept": [], "recomputed": []}
        for turn in range(arguments.rounds):
            for way in list(found)[:: 1 if turn % 2 == 0 else -1]:
                found[way].append(measure_apart(network, way, arguments))
        for way, rounds in found.items():
            most = max(each["MiB"] for each in rounds)
            seconds = float(np.median([each["seconds"] for each in rounds]))
            table.add_row(network, way, f"{most:,.0f}", f"{seconds:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
