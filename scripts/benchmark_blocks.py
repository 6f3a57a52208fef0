"""Time and peak memory of the nonlocal blocks: through the N x N matrix, without it, and as the
papers' formulas read.

    python scripts/benchmark_blocks.py
    python scripts/benchmark_blocks.py --blocks snl --stages 4 2 --clips 16x112x112
    python scripts/benchmark_blocks.py --device cuda --dtype bfloat16 --output runs/benchmark_h100
    python scripts/benchmark_blocks.py --training-steps --device cuda --dtype bfloat16

Each block stands where the 3D ResNet-50 would have it: stage 2, 3 or 4 has 256, 512 or 1024
channels, and 8x28x28, 4x14x14 or 2x7x7 positions of a 16x112x112 clip. Forms of a block:

    dense     A z through the N x N matrix
    linear    A z without it: low-rank products from right to left, or fused attention
    plain     the dense formula as it is usually written, with a convolution for every projection

`chosen` marks the form that the block takes at that size by itself; `speed x` and `memory /` say
how many times faster and smaller than plain a form is. The forms take turns, so that other load of
the machine meets all of them; times are medians, ratios medians of the ratios within a turn.
Memory is PyTorch's peak beyond weights and input.

With --training-steps it measures instead whole training steps of the backbones, without and with
one block in stage 4. Results go to stdout and to the folder --output, as CSV and as a plot.
"""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stopwatch import device_name, synchronise, take_turns
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from actionrec.models import nonlocal_blocks
from actionrec.models.complexity import measure
from actionrec.models.network import BlockConfig, ClassifierConfig, build_network
from actionrec.models.nonlocal_blocks import REDUCTIONS, NonlocalBlock, build_block
from actionrec.models.registry import BACKBONES, BLOCKS

CHANNELS = {2: 256, 3: 512, 4: 1024}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# N x N matrices that a dense form holds at once, measured for snl forward + backward.
MATRICES_HELD = 5
MIB = 2**20
# As the recognizers have it.
LAYOUT = torch.channels_last_3d


@dataclass(frozen=True)
class Site:
    """Where a block stands."""

    clip: str
    stage: int
    batch: int
    reduction: int

    @property
    def channels(self) -> int:
        return CHANNELS[self.stage]

    @property
    def grid(self) -> tuple[int, int, int]:
        frames, height, width = map(int, self.clip.split("x"))
        in_time, in_space = 2 ** (self.stage - 1), 2**self.stage
        return -(-frames // in_time), -(-height // in_space), -(-width // in_space)

    @property
    def positions(self) -> int:
        t, h, w = self.grid
        return t * h * w


@dataclass
class BlockRow:
    """One form of one block at one place; without a time, `note` says why."""

    device: str
    dtype: str
    clip: str
    stage: int
    channels: int
    reduced: int
    positions: int
    batch: int
    block: str
    direction: str
    form: str
    chosen: bool
    milliseconds: float | None = None
    peak_mib: float | None = None
    speed_over_plain: float | None = None
    memory_below_plain: float | None = None
    turns: int = 0
    note: str = ""


@dataclass
class StepRow:
    """Training steps of one backbone, without or with a block."""

    device: str
    dtype: str
    clip: str
    batch: int
    backbone: str
    block: str
    milliseconds: float
    peak_mib: float
    speed_over_none: float
    turns: int
    share_of_matrix_product: float | None = None


@dataclass
class ProductRow:
    """Products of two square matrices: what a device reaches at best."""

    dtype: str
    size: int
    turns: int
    tera_operations: float  # a second, a multiply-add counted as two


# The dense formulas as they are usually written, position first: (B, N, Cs).


def plain_softmax(phi: Tensor, psi: Tensor) -> Tensor:
    return torch.softmax(phi @ psi.transpose(1, 2), dim=2)


def plain_dot_product(phi: Tensor, psi: Tensor) -> Tensor:
    return phi @ psi.transpose(1, 2) / phi.shape[1]


def plain_double_attention(phi: Tensor, psi: Tensor) -> Tensor:
    return torch.softmax(phi, dim=2) @ torch.softmax(psi, dim=1).transpose(1, 2)


def plain_symmetric(phi: Tensor, psi: Tensor) -> Tensor:
    m = torch.relu(phi) @ torch.relu(psi).transpose(1, 2)
    m = (m + m.transpose(1, 2)) / 2
    scale = (m.sum(2) + 1e-6).rsqrt()
    return m * scale.unsqueeze(1) * scale.unsqueeze(2)


def plain_row_normalised(phi: Tensor, psi: Tensor) -> Tensor:
    m = torch.relu(phi) @ torch.relu(psi).transpose(1, 2)
    return m / (m.sum(2, keepdim=True) + 1e-6)


PLAIN_AFFINITIES = {
    "nl": plain_softmax,
    "nl_dot": plain_dot_product,
    "ns": plain_softmax,
    "a2": plain_double_attention,
    "snl": plain_symmetric,
    "snl_a1": plain_symmetric,
    "snl_a2": plain_row_normalised,
}


class PlainBlock(nn.Module):
    """A block with the weights of `block`, its affinity an N x N matrix."""

    def __init__(self, name: str, block: NonlocalBlock) -> None:
        super().__init__()
        unit = block.units[0]
        self.name = name
        self.phi, self.psi, self.z = map(_convolution, block.projection.weight.split(block.widths))
        weights = unit.output.weight.chunk(unit.filter.terms, dim=1)
        self.outputs = nn.ModuleList(map(_convolution, weights))
        self.norm = unit.norm

    def forward(self, x: Tensor) -> Tensor:
        phi, psi, z = (
            project(x).flatten(2).transpose(1, 2) for project in (self.phi, self.psi, self.z)
        )
        az = PLAIN_AFFINITIES[self.name](phi, psi) @ z
        if self.name == "ns":
            az = az - z
        terms = [z, az] if len(self.outputs) == 2 else [az]
        y = sum(
            output(term.transpose(1, 2).reshape(len(x), -1, *x.shape[2:]))
            for output, term in zip(self.outputs, terms, strict=True)
        )
        return x + self.norm(y)


def _convolution(weight: Tensor) -> nn.Conv3d:
    convolution = nn.Conv3d(weight.shape[1], weight.shape[0], 1, bias=False)
    convolution.weight = nn.Parameter(weight.detach().clone())
    return convolution


@contextmanager
def through_matrix(dense: bool) -> Iterator[None]:
    """Every affinity made in here goes through its N x N matrix, or none does."""
    with mock.patch.object(nonlocal_blocks, "dense_is_faster", lambda positions, limit: dense):
        yield


def chosen_form(name: str, site: Site) -> str:
    """The form that the block takes by itself."""
    limits = []

    def spy(positions: int, limit: int) -> bool:
        limits.append(positions <= limit)
        return False

    block = build_block(name, site.channels, reduction=site.reduction)
    with mock.patch.object(nonlocal_blocks, "dense_is_faster", spy), torch.no_grad():
        block.affinity(torch.zeros(1, site.channels, *site.grid))
    return "dense" if any(limits) else "linear"


def forms_of(name: str, site: Site, device: torch.device) -> dict[str, nn.Module]:
    """The forms of a block that exist, all with the same weights."""
    torch.manual_seed(0)
    block = build_block(name, site.channels, reduction=site.reduction)
    nn.init.ones_(block.units[0].norm.weight)
    forms = {"linear": block}
    if name not in ("cc", "cgnl"):
        forms["dense"] = block
    if name in PLAIN_AFFINITIES:
        forms["plain"] = PlainBlock(name, block)
    return {form: module.to(device, memory_format=LAYOUT) for form, module in forms.items()}


# Measuring.


def runner(
    module: nn.Module, x: Tensor, form: str, backward: bool, dtype: torch.dtype
) -> Callable[[], None]:
    """A function that runs a form once, forward or forward + backward."""
    x = x.detach().requires_grad_(backward)
    upstream = torch.ones_like(x)

    def run() -> None:
        autocast = torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32)
        with through_matrix(form == "dense"), autocast, torch.set_grad_enabled(backward):
            y = module(x)
        if backward:
            y.backward(upstream)
            x.grad = None
            module.zero_grad(set_to_none=True)

    return run


def peak_bytes(run: Callable[[], None], device: torch.device) -> int:
    """PyTorch's peak of memory during a run, in bytes beyond the memory before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronise()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    changes = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def memory_limit(device: torch.device) -> int:
    """Bytes that a form may need: the free memory of a GPU, or half of the free main memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def measure_block(
    name: str, site: Site, backward: bool, arguments: argparse.Namespace
) -> list[BlockRow]:
    """The forms of one block at one place in one direction."""
    device, dtype = torch.device(arguments.device), DTYPES[arguments.dtype]
    chosen = chosen_form(name, site)
    modules = forms_of(name, site, device)
    x = torch.randn(site.batch, site.channels, *site.grid, device=device)
    x = x.contiguous(memory_format=LAYOUT)
    matrices = MATRICES_HELD * site.batch * site.positions**2 * dtype.itemsize
    rows, runs = {}, {}
    for form, module in modules.items():
        row = rows[form] = BlockRow(
            device=device_name(device),
            dtype=arguments.dtype,
            clip=site.clip,
            stage=site.stage,
            channels=site.channels,
            reduced=site.channels // site.reduction,
            positions=site.positions,
            batch=site.batch,
            block=name,
            direction="forward + backward" if backward else "forward",
            form=form,
            chosen=form == chosen,
        )
        if form != "linear" and matrices > memory_limit(device):
            row.note = f"not run: needs about {matrices / 2**30:.0f} GiB"
            continue
        run = runner(module, x, form, backward, dtype)
        try:
            run()
            row.peak_mib = peak_bytes(run, device) / MIB
        except torch.OutOfMemoryError:
            row.note = "out of memory"
            torch.cuda.empty_cache()
            continue
        runs[form] = run

    times = take_turns(runs, arguments.repeats, name, arguments.seconds)
    for form in runs:
        row = rows[form]
        row.milliseconds = float(np.median(times[form])) * 1e3
        row.turns = len(times[form])
        if "plain" in runs:
            row.speed_over_plain = float(np.median(times["plain"] / times[form]))
            row.memory_below_plain = rows["plain"].peak_mib / row.peak_mib
    return list(rows.values())


def measure_products(
    size: int, device: torch.device, repeats: int, types: Iterable[str] = tuple(DTYPES)
) -> list[ProductRow]:
    """Products of two matrices of `size` x `size`, in each type of number."""
    runs = {}
    for name in types:
        left, right = (torch.randn(size, size, device=device).to(DTYPES[name]) for _ in range(2))
        runs[name] = partial(torch.matmul, left, right)
    times = take_turns(runs, repeats, "matrix products")
    return [
        ProductRow(name, size, repeats, 2 * size**3 / float(np.median(seconds)) / 1e12)
        for name, seconds in times.items()
    ]


def share_of_peak(
    config: ClassifierConfig,
    clip: str,
    clips_per_second: float,
    peak: float | None,
    passes: int = 1,
) -> float | None:
    """The share of a peak, in 1e12 operations a second, that a pace of clips takes.

    A training step counts as three passes: forward, and backward to the input and the weights.
    """
    if peak is None:
        return None
    return 2 * passes * measure(config, clip).macs * clips_per_second / (peak * 1e12)


def measure_training_steps(
    backbone: str, clip: str, arguments: argparse.Namespace, peak: float | None = None
) -> list[StepRow]:
    """Training steps of one backbone, without a block and with each of the blocks.

    `peak` is the device's rate of matrix products, in 1e12 operations a second, if known.
    """
    device, dtype = torch.device(arguments.device), DTYPES[arguments.dtype]
    runs = {
        block: training_step(backbone, block, clip, arguments.batch, device, dtype)
        for block in ("none", *arguments.blocks)
    }
    for run in runs.values():
        run()
    peaks = {block: peak_bytes(run, device) / MIB for block, run in runs.items()}
    times = take_turns(runs, arguments.repeats, backbone, arguments.seconds)
    return [
        StepRow(
            device=device_name(device),
            dtype=arguments.dtype,
            clip=clip,
            batch=arguments.batch,
            backbone=backbone,
            block=block,
            milliseconds=float(np.median(times[block])) * 1e3,
            peak_mib=peaks[block],
            speed_over_none=float(np.median(times["none"] / times[block])),
            turns=len(times[block]),
            share_of_matrix_product=share_of_peak(
                step_config(backbone, block),
                clip,
                arguments.batch / float(np.median(times[block])),
                peak,
                passes=3,
            ),
        )
        for block in runs
    ]


def step_config(backbone: str, block: str) -> ClassifierConfig:
    labels = tuple(f"class {index}" for index in range(101))
    return ClassifierConfig(labels, backbone, BlockConfig(block))


def training_step(
    backbone: str, block: str, clip: str, batch: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    """A function that takes one training step on random clips."""
    torch.manual_seed(0)
    config = step_config(backbone, block)
    network = build_network(config)
    network.to(device, memory_format=LAYOUT).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    clips = torch.randn(batch, 3, *map(int, clip.split("x")), device=device)
    clips = clips.contiguous(memory_format=LAYOUT)
    targets = torch.arange(batch, device=device) % len(config.labels)

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(network(clips), targets)
        loss.backward()
        optimiser.step()

    return run


# Showing.


def print_table(rows: Sequence[BlockRow | StepRow], columns: dict[str, str]) -> None:
    """Rows with the columns {field: heading}."""
    table = Table(*columns.values())
    for row in rows:
        table.add_row(*(shown(getattr(row, column)) for column in columns))
    Console(width=max(120, Console().width)).print(table)


def shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "chosen" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_csv(rows: Sequence[BlockRow | StepRow], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def plot_blocks(rows: list[BlockRow], path: Path) -> None:
    """Time and memory over the number of positions, forward + backward, a row of plots a block."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row.milliseconds and row.direction == "forward + backward"]
    blocks = list(dict.fromkeys(row.block for row in rows))
    figure, axes = pyplot.subplots(
        len(blocks),
        2,
        figsize=(10, 3 * len(blocks)),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for (time_axes, memory_axes), block in zip(axes, blocks, strict=True):
        for form, marker in (("plain", "s"), ("dense", "o"), ("linear", "^")):
            own = sorted(
                (row for row in rows if row.block == block and row.form == form),
                key=lambda row: row.positions,
            )
            positions = [row.positions for row in own]
            style = {"label": form, "marker": marker, "linestyle": "none", "alpha": 0.7}
            time_axes.loglog(positions, [row.milliseconds for row in own], **style)
            memory_axes.loglog(positions, [row.peak_mib for row in own], **style)
        time_axes.set_ylabel(f"{block}: ms")
        memory_axes.set_ylabel("peak MiB")
    axes[0][0].legend()
    for bottom in axes[-1]:
        bottom.set_xlabel("positions N")
    figure.suptitle(f"Forward + backward, {rows[0].device}, {rows[0].dtype}")
    figure.savefig(path, dpi=150)


BLOCK_COLUMNS = {
    "clip": "clip",
    "stage": "stage",
    "positions": "N",
    "reduced": "Cs",
    "block": "block",
    "direction": "direction",
    "form": "form",
    "chosen": "",
    "milliseconds": "ms",
    "speed_over_plain": "speed x",
    "peak_mib": "MiB",
    "memory_below_plain": "memory /",
    "turns": "turns",
    "note": "",
}
STEP_COLUMNS = {
    "clip": "clip",
    "batch": "batch",
    "backbone": "backbone",
    "block": "block",
    "milliseconds": "ms",
    "speed_over_none": "speed x",
    "peak_mib": "MiB",
    "turns": "turns",
}


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--blocks", nargs="+", choices=tuple(BLOCKS), default=["nl", "ns", "a2", "cgnl", "snl"]
    )
    parser.add_argument("--stages", nargs="+", type=int, choices=CHANNELS, default=[4, 3, 2])
    parser.add_argument(
        "--clips", nargs="+", default=["16x112x112", "16x224x224", "32x224x224"], metavar="TxHxW"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--reduction", type=int, choices=REDUCTIONS, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of autocast")
    parser.add_argument("--threads", type=int, help="of the CPU; default: PyTorch's")
    parser.add_argument("--repeats", type=int, default=15, help="turns at most")
    parser.add_argument("--seconds", type=float, default=20, help="for the turns of a comparison")
    parser.add_argument("--training-steps", action="store_true")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["i3d", "r3d50"])
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"))
    return parser.parse_args(words)


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(f"PyTorch {torch.__version__}, {device_name(torch.device(arguments.device))}")
    rows: list[BlockRow | StepRow] = []
    if arguments.training_steps:
        for clip, backbone in product(arguments.clips, arguments.backbones):
            print(f"{backbone} at {clip}", file=sys.stderr)
            rows += measure_training_steps(backbone, clip, arguments)
        print_table(rows, STEP_COLUMNS)
        write_csv(rows, arguments.output / "training_steps.csv")
        return
    for clip, stage, name in product(arguments.clips, arguments.stages, arguments.blocks):
        site = Site(clip, stage, arguments.batch, arguments.reduction)
        print(f"{name} in stage {stage} at {clip}: N {site.positions}", file=sys.stderr)
        for backward in (False, True):
            rows += measure_block(name, site, backward, arguments)
        # A run that is cut off leaves its measurements so far.
        write_csv(rows, arguments.output / "blocks.csv")
    print_table(rows, BLOCK_COLUMNS)
    plot_blocks(rows, arguments.output / "blocks.png")


if __name__ == "__main__":
    main()
