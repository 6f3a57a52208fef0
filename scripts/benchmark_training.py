"""Clips a second of a training step: `actionrec train` against a plain PyTorch loop.

    python scripts/benchmark_training.py
    python scripts/benchmark_training.py --backbones i3d r3d50 --blocks none snl --batch-size 32
    python scripts/benchmark_training.py --root my_videos.csv --dataset csv --workers 8

Both train the same network on the same clips, read by the same DataLoader, with the same loss and
optimizer, on a GPU if there is one; the plain loop does nothing else. They take turns, now one
first, now the other, so that other load of the machine meets both. Figures are medians over the
turns, of the third epoch of each; the ratio is the median of the ratios within a turn. An epoch is
timed from its start to its last step, without validation and saving. The first two epochs pay once
for compiled kernels and for memory shared with the processes that read videos.

`waiting` is the share of that time in which the next batch was not there yet. `of peak` is the
share of the GPU's peak by its maker's figures for dense bfloat16, for some GPUs, and `of product`
that of the rate at which it multiplies large matrices, measured before: a clip counts as three
times the forward pass's multiply-adds, two operations each.
"""

import argparse
import csv
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from benchmark_blocks import measure_products, share_of_peak
from rich.console import Console
from rich.progress import track
from stopwatch import device_name, synchronise
from torch.nn import functional as F

from actionrec.config import TrainConfig
from actionrec.datasets.dataset import VideoDataset
from actionrec.datasets.registry import open_dataset
from actionrec.devices import fastest_device
from actionrec.training.clips import loaders
from actionrec.training.precision import sound_gradients
from actionrec.training.run import build_classifier, quiet_lightning, resolve, train

# Dense bfloat16, in 1e12 operations a second, by the makers' data sheets.
PEAK = {
    **{"H100 80GB HBM3": 989, "H200": 989, "H100 PCIe": 756, "A100": 312, "L40S": 362, "L4": 121},
    **{"RTX 4090": 165, "RTX 3090": 71},
}


EPOCHS = 3


@dataclass(frozen=True)
class Pace:
    """Clips a second, and the share of the time spent waiting for them."""

    clips: float
    waiting: float


def videos(arguments: argparse.Namespace, folder: Path) -> Path:
    """A CSV file of as many videos of the data set as the steps need."""
    dataset = open_dataset(arguments.dataset, arguments.root)
    needed = arguments.batch_size * arguments.steps
    chosen = random.Random(0).choices(dataset.train, k=needed)
    path = folder / "videos.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for side, some in (("train", chosen), ("val", chosen[:1])):
            for video in some:
                # A file may stand in the list once only.
                link = folder / f"{side}{len(list(folder.iterdir()))}{video.path.suffix}"
                link.symlink_to(video.path.resolve())
                writer.writerow([link, dataset.labels[video.label], side])
    return path


def plain_loop(config: TrainConfig, dataset: VideoDataset) -> Pace:
    """Epochs as one would write them without a framework; the last one's pace."""
    config = resolve(config)
    torch.manual_seed(config.seed)
    device = torch.device(fastest_device())
    recognizer = build_classifier(config, dataset.labels).to(device).train()
    loader, _ = loaders(config, dataset, recognizer.config)
    optimizer = torch.optim.SGD(
        recognizer.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(config.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)
        waited, clips = 0.0, 0
        start = before = time.perf_counter()
        for batch in loader:
            waited += time.perf_counter() - before
            pixels = batch.clips.to(device, non_blocking=True)
            labels = batch.labels.to(device, non_blocking=True)
            optimizer.zero_grad()
            autocast = torch.autocast(device.type, half, enabled=half is not None)
            with autocast, sound_gradients(device):
                loss = F.cross_entropy(recognizer(pixels), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            clips += len(labels)
            before = time.perf_counter()
        synchronise()
        seconds = time.perf_counter() - start
    return Pace(clips / seconds, waited / seconds)


def ours(config: TrainConfig) -> Pace:
    """Epochs of `actionrec train`; the last one's pace, as it logs it."""
    train(config)
    with (Path(config.output) / "logs" / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    return Pace(float(last["clips_per_second"]), float(last["data_wait"]))


@dataclass(frozen=True)
class TrainingRow:
    """Medians over the turns; shares are None where the peak isn't known."""

    network: str
    batch: int
    clip: str
    precision: str
    workers: int
    steps: int
    turns: int
    plain_clips_per_second: float
    actionrec_clips_per_second: float
    ratio: float
    waiting: float
    share_of_peak: float | None
    share_of_matrix_product: float | None


def measure_networks(
    arguments: argparse.Namespace, products: Mapping[str, float]
) -> Iterator[TrainingRow]:
    """Train every network in turns, plainly and by `actionrec train`.

    `products` are the device's rates of matrix products, in 1e12 operations a second, by precision.
    """
    device = device_name(fastest_device())
    makers = {"bfloat16": next((value for key, value in PEAK.items() if key in device), None)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listing = videos(arguments, folder)
        dataset = open_dataset("csv", listing)
        for backbone, block in product(arguments.backbones, arguments.blocks):
            config = resolve(
                TrainConfig(
                    dataset="csv",
                    root=str(listing),
                    backbone=backbone,
                    block=block,
                    weights="none",
                    epochs=EPOCHS,
                    clip_length=arguments.clip_length,
                    short_side=arguments.crop + 4,
                    crop=arguments.crop,
                    batch_size=arguments.batch_size,
                    precision=arguments.precision,
                    workers=arguments.workers,
                )
            )
            turns = []
            console = Console(file=sys.stderr)
            for turn in track(range(arguments.turns), f"{backbone} {block}", console=console):
                output = folder / f"{backbone}-{block}-{turn}"
                own_config = replace(config, compile=arguments.compile, output=str(output))
                if turn % 2:
                    own = ours(own_config)
                    plain = plain_loop(config, dataset)
                else:
                    plain = plain_loop(config, dataset)
                    own = ours(own_config)
                turns.append((plain, own))
            clips = statistics.median(own.clips for _, own in turns)
            size = f"{config.clip_length}x{config.crop}x{config.crop}"
            network = build_classifier(config, dataset.labels).config
            shares = [
                share_of_peak(network, size, clips, peaks.get(config.precision), passes=3)
                for peaks in (makers, products)
            ]
            yield TrainingRow(
                backbone if block == "none" else f"{backbone}+{block}",
                config.batch_size,
                size,
                config.precision,
                config.workers,
                arguments.steps,
                arguments.turns,
                statistics.median(plain.clips for plain, _ in turns),
                clips,
                statistics.median(own.clips / plain.clips for plain, own in turns),
                statistics.median(own.waiting for _, own in turns),
                *shares,
            )


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="demo", help="kind of data set")
    parser.add_argument("--root", help="its folder, or the CSV file")
    parser.add_argument("--backbones", nargs="+", default=["i3d"])
    parser.add_argument("--blocks", nargs="+", default=["none", "snl"])
    parser.add_argument("--clip-length", type=int, default=16, help="frames of a clip")
    parser.add_argument("--crop", type=int, default=124, help="side of a clip, in pixels")
    parser.add_argument("--batch-size", type=int, default=32 if torch.cuda.is_available() else 4)
    parser.add_argument("--steps", type=int, default=40 if torch.cuda.is_available() else 12)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile, ours only")
    return parser.parse_args(words)


def shown(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def main() -> None:
    arguments = parse_arguments()
    quiet_lightning()
    device = torch.device(fastest_device())
    print(
        f"{device_name(device)}, torch {torch.__version__}, batch {arguments.batch_size}, "
        f"{arguments.clip_length}x{arguments.crop}x{arguments.crop}, precision "
        f"{arguments.precision}, {arguments.workers} workers, {arguments.turns} turns of "
        f"{arguments.steps} steps"
    )
    measured = measure_products(8192 if device.type == "cuda" else 2048, device, repeats=10)
    products = {row.dtype: row.tera_operations for row in measured}
    head = ("network", "plain, clips/s", "actionrec, clips/s", "ratio", "waiting", "of peak")
    print("{:12}{:>16}{:>20}{:>8}{:>10}{:>10}{:>12}".format(*head, "of product"))
    for row in measure_networks(arguments, products):
        print(
            f"{row.network:12}{row.plain_clips_per_second:16.2f}"
            f"{row.actionrec_clips_per_second:20.2f}{row.ratio:8.2f}{shown(row.waiting):>10}"
            f"{shown(row.share_of_peak):>10}{shown(row.share_of_matrix_product):>12}",
            flush=True,
        )


if __name__ == "__main__":
    main()
