"""What each nonlocal block can do where the class is a relation of distant things.

    python scripts/relations.py
    python scripts/relations.py --blocks none nl snl --tasks motion --seeds 0 1 2
    python scripts/relations.py --table

Two tasks of generated clips, 16 frames of 16x24 pixels:

    motion    two objects, one near each side, move up or down: the same way, or opposite ways
    events    a flash or a shadow early in the clip, and one late: the same event, or another

Every single object and event is equally likely in both classes. A small 3D convolutional network,
trained from scratch, sees less than the distance of the two at each position (`receptive_field`),
and averages its features: without a block its logits are a sum of what it says of each of the two.
By cross-entropy the best such sum is a constant, and none is right in more than three of four
cases. One nonlocal block goes before its last convolution.

Each run trains until the last 25 batches are 98 % right, or to the last step, and adds a line to
results/relations.csv. The same command goes on where it was stopped. The table is printed as
Markdown: `rate` is the block's learning rate in relation to that of the rest, `solved` counts the
runs that ended early, and `steps` is their median; accuracies are on 512 other clips, in percent,
with the block and with it taken out afterwards. The 95 % interval is that of the difference from
`none`, seed by seed.
"""

import argparse
import csv
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, astuple, dataclass, fields
from datetime import date
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import exclusive, replacing
from actionrec.models.backbone import Backbone
from actionrec.models.nonlocal_blocks import build_block
from actionrec.models.registry import BLOCKS
from actionrec.training.block_activity import BlockActivity

RESULTS = Path(__file__).parents[1] / "results" / "relations.csv"
FRAMES, HEIGHT, WIDTH = 16, 16, 24
RADIUS = 2  # pixels from the centre of an object to its edge
CHANNELS = 16  # where the block is
TRAINING_CLIPS, TEST_CLIPS = 4096, 512
BATCH, LEARNING_RATE = 32, 0.1
SOLVED, BATCHES_TO_TELL = 0.98, 25
# Softmax blocks, whose originals start Phi and Psi from small normal numbers.
SMALL_INIT_BLOCKS = ("nl", "dnl", "cc")
SMALL_INIT = 0.01


# The clips.


def objects(y: Tensor, x: Tensor) -> Tensor:
    """Spots, (..., FRAMES, HEIGHT, WIDTH), at centres of shape (..., FRAMES)."""
    rows, columns = (
        torch.exp(-distance.square() / 2) * (distance.abs() <= RADIUS)
        for distance in (torch.arange(HEIGHT) - y[..., None], torch.arange(WIDTH) - x[..., None])
    )
    return rows[..., None] * columns[..., None, :]


def motion(number: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """An object near each side that moves up or down; class 1: both the same way."""
    way = torch.randint(2, (number, 2), generator=draw) * 2 - 1
    middle = 6 + 3 * torch.rand(number, 2, 1, generator=draw)
    y = middle + 0.5 * way[..., None] * (torch.arange(FRAMES) - (FRAMES - 1) / 2)
    x = torch.tensor([3.0, WIDTH - 4.0])[:, None] + 2 * torch.rand(number, 2, 1, generator=draw) - 1
    clips = objects(y, x.expand_as(y)).sum(1)
    return clips, (way[:, 0] == way[:, 1]).long()


def events(number: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """A flash or a shadow in the first four frames, and in the last four; class 1: twice the same.

    Both are anywhere in the frame.
    """
    sign = torch.randint(2, (number, 2), generator=draw) * 2 - 1
    start = torch.tensor([0, FRAMES - 4]) + torch.randint(2, (number, 2), generator=draw)
    frames = torch.arange(FRAMES) - start[..., None]
    shown = sign[..., None] * ((frames >= 0) & (frames < 3))
    y, x = (
        RADIUS + (size - 2 * RADIUS) * torch.rand(number, 2, 1, generator=draw)
        for size in (HEIGHT, WIDTH)
    )
    spots = objects(y.expand(-1, -1, FRAMES), x.expand(-1, -1, FRAMES))
    return (spots * shown[..., None, None]).sum(1), (sign[:, 0] == sign[:, 1]).long()


TASKS: dict[str, Callable[[int, torch.Generator], tuple[Tensor, Tensor]]] = {
    "motion": motion,
    "events": events,
}


@cache
def dataset(task: str, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clips of a task with noise, int8 in hundredths (number, 1, T, H, W), and their classes."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(0, number, TEST_CLIPS):
        clips, classes = TASKS[task](TEST_CLIPS, draw)
        clips = clips + 0.1 * torch.randn(clips.shape, generator=draw)
        parts.append(((100 * clips).clamp(-128, 127).to(torch.int8)[:, None], classes))
    clips, classes = (torch.cat(part)[:number] for part in zip(*parts, strict=True))
    return clips, classes


def pixels(clips: Tensor) -> Tensor:
    return clips.float() / 100


# The network.


class Unit(nn.Module):
    """A convolution, batch normalisation, ReLU."""

    def __init__(self, channels: tuple[int, int], *convolution: tuple[int, int, int]) -> None:
        super().__init__()
        self.in_channels = channels[0]
        self.conv = nn.Conv3d(*channels, *convolution, bias=False)
        self.bn = nn.BatchNorm3d(channels[1])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def small_network(block: str, init: str = "ours") -> Backbone:
    """A convolution to 4x4x6 positions, each of 4 frames and 4x4 pixels, `block`, a 1x1x1
    convolution, and a linear head on the average."""
    units = {
        "conv1": Unit((1, CHANNELS), (4, 4, 4), (4, 4, 4)),
        "conv2": Unit((CHANNELS, 2 * CHANNELS), (1, 1, 1)),
    }
    stages = {2: ("conv1",), 3: ("conv2",)}
    network = Backbone(units, stages, features=2 * CHANNELS, classes=2, dropout=0)
    if block != "none":
        network.blocks["conv2"] = build_block(block, CHANNELS)
        if init != "ours":
            start_small(network.blocks["conv2"])
    return network


def start_small(block: nn.Module) -> None:
    """Let Phi and Psi of a block start from small normal numbers."""
    phi_and_psi = sum(block.widths[:2])
    nn.init.normal_(block.projection.weight[:phi_and_psi], std=SMALL_INIT)


def receptive_field() -> tuple[int, int, int]:
    """Frames, rows and columns of the clip that a position of the last feature map depends on,
    without a block, from the gradient."""
    torch.manual_seed(0)
    network = small_network("none").eval()
    clips = torch.randn(64, 1, FRAMES, HEIGHT, WIDTH, requires_grad=True)
    t, h, w = (size // 2 for size in network.feature_map(clips).shape[2:])
    network.feature_map(clips)[:, :, t, h, w].sum().backward()
    seen = clips.grad.abs().sum(dim=(0, 1)) > 0
    extents = (seen.any(0).any(0), seen.any(0).any(1), seen.any(1).any(1))
    width, height, frames = (int(axis.sum()) for axis in extents)
    return frames, height, width


# A run.


@dataclass(frozen=True)
class Setting:
    """What is trained; the block's learning rate is `rate_factor` times that of the rest."""

    task: str
    block: str
    rate_factor: float
    init: str
    seed: int
    max_steps: int
    learning_rate: float = LEARNING_RATE


@dataclass(frozen=True)
class Outcome:
    """What came of it: accuracies in percent, the last three with less of the block's term, and the
    figures of `BlockFigures`; None where there is no block."""

    steps: int
    solved: bool
    training_accuracy: float
    accuracy: float
    accuracy_with_30_percent: float | None
    accuracy_with_10_percent: float | None
    accuracy_block_out: float | None
    term: float | None
    gradient: float | None
    scale: float | None
    seconds: float


def train(setting: Setting) -> Outcome:
    """Train and test one network."""
    torch.manual_seed(setting.seed)
    draw = torch.Generator().manual_seed(setting.seed)
    clips, classes = dataset(setting.task, TRAINING_CLIPS, 1)
    network = small_network(setting.block, setting.init)
    activity = BlockActivity(network)
    of_block = list(network.blocks.parameters())
    others = [*network.units.parameters(), *network.head.parameters()]
    groups = [{"params": others}]
    if of_block:
        rate = setting.learning_rate * setting.rate_factor
        groups.append({"params": of_block, "lr": rate})
    optimizer = torch.optim.SGD(groups, setting.learning_rate, momentum=0.9, weight_decay=1e-4)
    start, right, recent = time.process_time(), [], 0.0
    while len(right) < setting.max_steps and recent < SOLVED:
        batch = torch.randint(len(clips), (BATCH,), generator=draw)
        logits = network(pixels(clips[batch]))
        optimizer.zero_grad()
        F.cross_entropy(logits, classes[batch]).backward()
        activity.note_gradients(network)
        optimizer.step()
        right.append((logits.argmax(1) == classes[batch]).float().mean().item())
        if len(right) >= BATCHES_TO_TELL:
            recent = statistics.fmean(right[-BATCHES_TO_TELL:])
    network.eval()
    accuracy = accuracy_of(network, setting.task)
    figures = activity.end_epoch(network)
    with_less = [
        accuracy_with(network, setting.task, share) if of_block else None for share in (0.3, 0.1, 0)
    ]
    found = figures.get("conv2")
    return Outcome(
        steps=len(right),
        solved=recent >= SOLVED,
        training_accuracy=round(100 * statistics.fmean(right[-BATCHES_TO_TELL:]), 2),
        accuracy=accuracy,
        accuracy_with_30_percent=with_less[0],
        accuracy_with_10_percent=with_less[1],
        accuracy_block_out=with_less[2],
        term=found and found.term,
        gradient=found and found.gradient,
        scale=found and found.scale,
        seconds=round(time.process_time() - start, 1),
    )


@torch.no_grad()
def accuracy_of(network: Backbone, task: str) -> float:
    clips, classes = dataset(task, TEST_CLIPS, 2)
    return round(100 * (network(pixels(clips)).argmax(1) == classes).float().mean().item(), 2)


def accuracy_with(network: Backbone, task: str, share: float) -> float:
    """The accuracy with a share of the block's term, which its norm scales."""
    lessened = deepcopy(network)
    for unit in lessened.blocks["conv2"].units:
        for weight in unit.norm.parameters():
            weight.data *= share
    return accuracy_of(lessened, task)


# All runs.


def plan(arguments: argparse.Namespace) -> list[Setting]:
    """The runs that are asked for, seed by seed, so that a whole table is there early."""
    settings = []
    for seed, task, factor, init, block in product(
        arguments.seeds, arguments.tasks, arguments.rate_factors, arguments.inits, arguments.blocks
    ):
        if block == "none":
            factor, init = 1.0, "ours"
        if init == "ours" or block in SMALL_INIT_BLOCKS:
            settings.append(Setting(task, block, factor, init, seed, arguments.steps))
    return list(dict.fromkeys(settings))


def row_of(setting: Setting, outcome: Outcome) -> dict[str, str]:
    """A line of the CSV file; None is an empty cell."""
    versions = {
        "device": f"CPU {torch.backends.cpu.get_cpu_capability()}, 1 thread",
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }
    row = asdict(setting) | asdict(outcome) | versions
    return {name: "" if value is None else str(value) for name, value in row.items()}


def setting_of(row: dict[str, str]) -> Setting:
    """The setting of a line of the CSV file."""
    return Setting(**{each.name: each.type(row[each.name]) for each in fields(Setting)})


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        [setting_of(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} has lines that this script did not write; choose another --output."
        ) from error
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def run_all(settings: list[Setting], path: Path, jobs: int) -> None:
    """Do the runs that the file has not; each is in the file as soon as it is done."""
    rows = read_rows(path)
    done = {setting_of(row) for row in rows}
    waiting = [setting for setting in settings if setting not in done]
    say(f"{len(settings) - len(waiting)} of {len(settings)} runs are done already")
    for number, (setting, outcome) in enumerate(outcomes(waiting, jobs), 1):
        rows.append(row_of(setting, outcome))
        write_rows(path, rows)
        name = " ".join(map(str, astuple(setting)[:5]))
        added = "" if outcome.term is None else f", adds {outcome.term:.1%} of its input"
        say(
            f"[{number}/{len(waiting)}] {name}: {outcome.accuracy:.1f} % after "
            f"{outcome.steps} steps{added}; {outcome.seconds} s"
        )


def outcomes(settings: list[Setting], jobs: int) -> Iterator[tuple[Setting, Outcome]]:
    """Train all, `jobs` at once, in processes of one thread: the tensors are too small for more."""
    torch.set_num_threads(1)
    if jobs == 1:
        yield from ((setting, train(setting)) for setting in settings)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, (1,)) as pool:
        running = {pool.submit(train, setting): setting for setting in settings}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def say(message: str) -> None:
    print(f"relations: {message}", file=sys.stderr, flush=True)


# The table.

HEAD = (
    "block | rate | Phi, Psi | steps at most | runs | solved | steps | accuracy | "
    "over none (95 %) | block taken out | term / input, % | norm scale"
).split(" | ")
# What the runs of a line have in common.
KIND = ("block", "rate_factor", "init", "max_steps")


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table for every task, a line for every block, rate and initialisation."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        base = {row["seed"]: float(row["accuracy"]) for row in own if row["block"] == "none"}
        order = ["none", *BLOCKS]
        kinds = {(order.index(row["block"]), *(row[key] for key in KIND)) for row in own}
        lines += ["", f"**{task}**", ""]
        lines += [f"| {' | '.join(HEAD)} |", f"|{' --- |' * 3}{' ---: |' * (len(HEAD) - 3)}"]
        for _, *kind in sorted(kinds):
            of_kind = [row for row in own if [row[key] for key in KIND] == kind]
            lines.append(f"| {' | '.join(cells(of_kind, base))} |")
    return "\n".join(lines[1:])


def cells(rows: Sequence[dict[str, str]], base: dict[str, float]) -> Iterable[str]:
    """A line of the table."""
    block, factor, init, at_most = (rows[0][key] for key in KIND)
    pairs = [float(r["accuracy"]) - base[r["seed"]] for r in rows if r["seed"] in base]
    steps = [int(row["steps"]) for row in rows if row["solved"] == "True"]
    yield from (block, f"x{float(factor):g}", init, at_most, str(len(rows)))
    yield f"{len(steps)} of {len(rows)}"
    yield f"{statistics.median(steps):.0f}" if steps else "-"
    yield spread([float(row["accuracy"]) for row in rows])
    yield "-" if block == "none" or len(pairs) < 2 else interval(pairs)
    if block == "none":
        yield from ("-", "-", "-")
        return
    yield spread([float(row["accuracy_block_out"]) for row in rows])
    yield spread([100 * float(row["term"]) for row in rows])
    yield f"{statistics.fmean(float(row['scale']) for row in rows):.3f}"


def spread(values: Sequence[float]) -> str:
    """The mean, and with several values their standard deviation."""
    std = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{std}"


def interval(differences: Sequence[float]) -> str:
    """The mean of paired differences and its 95 % interval by Student's t."""
    n, mean = len(differences), statistics.fmean(differences)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    blocks, tasks = ("none", *BLOCKS), tuple(TASKS)
    parser.add_argument("--blocks", nargs="+", choices=blocks, default=blocks)
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument("--rate-factors", nargs="+", type=float, default=(1.0, 10.0))
    parser.add_argument(
        "--inits",
        nargs="+",
        choices=("ours", "small"),
        default=("ours", "small"),
        help=f"of Phi and Psi; small: normal, {SMALL_INIT}, for {', '.join(SMALL_INIT_BLOCKS)}",
    )
    parser.add_argument("--steps", type=int, default=400, help="at most")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    arguments = parser.parse_args()
    if min(arguments.steps, arguments.jobs) < 1:
        parser.error("--steps and --jobs must be at least 1")
    if not all(0 < factor < math.inf for factor in arguments.rate_factors):
        parser.error("--rate-factors must be above 0")
    try:
        if not arguments.table:
            busy = f"Another relations.py is writing {arguments.output}; wait until it is done."
            with exclusive(arguments.output, busy):
                run_all(plan(arguments), arguments.output, arguments.jobs)
        print(table(read_rows(arguments.output)))
    except KeyboardInterrupt:
        say("stopped; the same command goes on.")
        return 130
    except UsageError as error:
        say(str(error))
        return 2
    except ActionrecError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
