"""Times of several ways to do the same thing, for the benchmarks beside this module."""

import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track


def device_name(device: str | torch.device) -> str:
    """The model of a GPU, or that of the CPU with the number of threads."""
    threads = f", {torch.get_num_threads()} threads"
    return device_model(device) + ("" if torch.device(device).type == "cuda" else threads)


def device_model(device: str | torch.device) -> str:
    """A GPU's name, or the CPU's where Linux tells it, else the machine type."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"CPU {line.partition(':')[2].strip()}"
    return f"CPU {platform.machine()}"


def seconds_of(run: Callable[[], object]) -> float:
    """How long `run` takes, with everything that it starts on a GPU."""
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    """Wait until the GPU, if one is in use, is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def take_turns(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    title: str,
    budget: float = float("inf"),
) -> dict[str, np.ndarray]:
    """Seconds (rounds,) of each way, after one more round that warms up and is not counted.

    Whatever else the machine does meets all ways alike: they take turns, in another order in each
    round. No round begins after `budget` seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    generator = np.random.default_rng(0)
    start = time.perf_counter()
    for number in track(range(rounds + 1), title, console=Console(stderr=True), transient=True):
        for name in generator.permutation(list(ways)):
            duration = seconds_of(ways[name])
            if number > 0:
                seconds[name].append(duration)
        if number > 0 and time.perf_counter() - start > budget:
            break
    return {name: np.array(values) for name, values in seconds.items()}
