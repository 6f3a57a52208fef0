"""What a nonlocal block does in a fine-tuning: whether it learns, and whether the network answers
better with it.

    python scripts/block_study.py --dataset csv --root my_videos.csv --split group
    python scripts/block_study.py --dataset csv --root my_videos.csv --split 1 2 3 4 5 \\
        --blocks none snl --seeds 0 1 2 --setting train_from=block --setting lr_new=10
    python scripts/block_study.py --table

The units before the first block, or before the stage train_from where that comes first, are frozen,
and what leaves them is computed once for all blocks, splits and seeds (`recipe_search.py --help`
says how, and what such a training lacks). The head starts fitted. A setting is any of train_from,
lr, warmup, epochs, ema, batch_size, and of the block lr_new, the factor of its rate, stages and
blocks_per_stage; the others are those of the recipe small, but stage5 for train_from. With
--init small, Phi and Psi of the softmax blocks start from small normal numbers, as their originals
do.

Each run is a row of results/block_study.csv: accuracies of the last epoch in percent; the block's
term in relation to its input and its gradient, epoch by epoch; and the mean scale of its norm. The
same command goes on where it was stopped. Several with other splits, blocks or seeds may share a
file. The table is printed as Markdown, each difference from no block between runs of the same split
and seed, with the 95 % interval of its mean.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measurements
import torch
from recipe_search import (
    EVALUATION_CLIPS,
    SHARED,
    Epoch,
    columns_of_inputs,
    compute_inputs,
    first_trained,
    fit_head,
    only_readable,
    open_splits,
    settings_of,
    train,
)
from relations import SMALL_INIT_BLOCKS, start_small
from table7 import (
    RUNS_TO_TELL,
    Spread,
    counted,
    markdown_table,
    shown,
    told_apart,
)

from actionrec.config import TrainConfig
from actionrec.datasets.dataset import VideoDataset
from actionrec.devices import fastest_device
from actionrec.errors import ActionrecError, UsageError
from actionrec.models.classifier import VideoClassifier
from actionrec.models.registry import BLOCKS
from actionrec.training.run import build_classifier

RESULTS = Path(__file__).parents[1] / "results" / "block_study.csv"
# Those of the paper's Table 7.
COMPARED = ("none", "nl", "ns", "a2", "cgnl", "snl")
OF_BLOCKS = ("lr_new", "stages", "blocks_per_stage")
SETTINGS = ("train_from", "lr", "warmup", "epochs", "ema", "batch_size")
FIRST_TRAINED = "stage5"
# Runs that differ in nothing but these are compared with each other.
TOLD_APART = ("block", "init", *OF_BLOCKS)
DATA = ("data", "division", "network", "clip", "stride", "fps", "gamma", "draws")
KEY = (*DATA, *SETTINGS, *TOLD_APART, "split", "seed")

# The runs without a block, by split and seed.
Base = dict[tuple[str, str], dict[str, str]]


@dataclass(frozen=True)
class Run:
    """A network that is trained on one split.

    Attributes:
        init: Of Phi and Psi, ours or small.
        key: The columns of results that tell it from other runs.
    """

    config: TrainConfig
    split: str
    init: str
    key: dict[str, str]

    @property
    def name(self) -> str:
        told = (f"{name} {self.key[name]}" for name in ("train_from", *OF_BLOCKS, "init"))
        return f"{self.config.block} split {self.split} seed {self.config.seed} ({', '.join(told)})"


def plan(arguments: argparse.Namespace, splits: dict[str, VideoDataset]) -> list[Run]:
    """The runs that are asked for, all blocks of a split and seed together.

    Raises:
        UsageError: a setting is none, or does not fit.
    """
    first = next(iter(splits.values()))
    given = {name: getattr(arguments, name) for name in ("dataset", "root", *SHARED)}
    shared = ["--train_from", FIRST_TRAINED, "--fit_head", "true", "--block", "snl"]
    shared += [word for name, value in given.items() if value for word in (f"--{name}", value)]
    configs = [
        settings_of(setting, shared, first, (*SETTINGS, *OF_BLOCKS))
        for setting in arguments.setting
    ]
    runs = []
    for seed, split, config, block in product(arguments.seeds, splits, configs, arguments.blocks):
        own = replace(config, block=block, seed=seed)
        if own.train_from in ("all", "head"):
            raise UsageError(
                f"train_from is {own.train_from}; choose block, or a stage such as {FIRST_TRAINED}."
            )
        init = arguments.init if block in SMALL_INIT_BLOCKS else "ours"
        runs.append(Run(own, split, init, key_of(own, arguments, split, init)))
    return runs


def key_of(
    config: TrainConfig, arguments: argparse.Namespace, split: str, init: str
) -> dict[str, str]:
    """What tells the run from others in the file of results."""
    values = {
        **columns_of_inputs(config, arguments),
        **{name: getattr(config, name) for name in SETTINGS},
        "block": config.block,
        "init": init,
        "lr_new": config.lr_new,
        "stages": " ".join(map(str, config.stages)),
        "blocks_per_stage": config.blocks_per_stage,
        "split": split,
        "seed": config.seed,
    }
    if config.block == "none":
        values |= dict.fromkeys(("init", *OF_BLOCKS), "")
    return {name: "" if value is None else str(value) for name, value in values.items()}


def build(run: Run, labels: tuple[str, ...]) -> VideoClassifier:
    """The network of a run, before its training."""
    torch.manual_seed(run.config.seed)
    model = build_classifier(run.config, labels)
    if run.init == "small":
        for block in model.network.blocks.values():
            start_small(block)
    return model


def figures(epochs: Sequence[Epoch], videos: int) -> dict[str, Any]:
    """What came of a run, as columns of the file of results; several blocks are averaged."""
    last = epochs[-1]

    def curve(figure: str) -> list[float]:
        of_epochs = ([getattr(one, figure) for one in each.blocks.values()] for each in epochs)
        return [sum(values) / len(values) for values in of_epochs if values]

    terms, gradients, scales = curve("term"), curve("gradient"), curve("scale")
    return {
        "videos": videos,
        "clip_top1": round(last.clip_top1, 4),
        "video_top1": round(last.video_top1, 4),
        "video_curve": " ".join(f"{epoch.video_top1:.1f}" for epoch in epochs),
        "term": f"{terms[-1]:.4g}" if terms else "",
        "gradient": f"{gradients[-1]:.4g}" if gradients else "",
        "scale": f"{scales[-1]:.4g}" if scales else "",
        "terms": " ".join(f"{term:.3g}" for term in terms),
        "gradients": " ".join(f"{gradient:.3g}" for gradient in gradients),
    }


def study(arguments: argparse.Namespace, splits: dict[str, VideoDataset]) -> int:
    """Do the runs that have no row yet; returns the exit code."""
    runs = plan(arguments, splits)
    here = measurements.machine(fastest_device())

    def not_done(runs: Sequence[Run]) -> list[Run]:
        rows = measurements.read(arguments.results)
        return [
            run for run in runs if not any((run.key | here).items() <= row.items() for row in rows)
        ]

    waiting = not_done(runs)
    say(f"{len(runs) - len(waiting)} of {len(runs)} runs are done already")
    if not waiting:
        return 0
    first = next(iter(splits.values()))
    plain = build_classifier(replace(waiting[0].config, block="none"), first.labels)
    places = ("block", "stages", "blocks_per_stage", "train_from")
    starts = {
        first_trained(build_classifier(run.config, first.labels).network, run.config.train_from)
        for run in {tuple(run.key[name] for name in places): run for run in waiting}.values()
    }
    inputs = compute_inputs(plain, waiting[0].config, starts, splits, arguments.draws)
    readable = {name: only_readable(name, dataset, inputs) for name, dataset in splits.items()}
    heads = {}
    failed = 0
    for number, run in enumerate(waiting, start=1):
        # By now another process may have done it.
        if not not_done([run]):
            continue
        dataset = readable[run.split]
        if run.split not in heads:
            heads[run.split] = fit_head(dataset, inputs)
        model = build(run, dataset.labels)
        try:
            epochs = train(model, run.config, dataset, inputs, heads[run.split])
        except ActionrecError as error:
            say(f"[{number}/{len(waiting)}] {run.name} failed: {error}")
            failed += 1
            continue
        row = run.key | figures(epochs, len(dataset.val))
        measurements.append(arguments.results, row, fastest_device())
        term = f", adds {float(row['term']):.2%} of its input" if row["term"] else ""
        say(
            f"[{number}/{len(waiting)}] {run.name}: Top-1 of videos {row['video_top1']:.1f} %, "
            f"of clips {row['clip_top1']:.1f} %{term}"
        )
    print("\n".join(tables(measurements.read(arguments.results))))
    return 1 if failed or readable != splits else 0


# The tables.

HEAD = ("block", "rate", "stages", "Phi, Psi", "runs", "clip Top-1", "over none", "95 % interval")
HEAD += ("video Top-1", "over none", "95 % interval", "term / input, %", "gradient", "norm scale")


def tables(rows: Iterable[dict[str, str]]) -> Iterator[str]:
    """A Markdown table for everything that is compared, a line for each block, place and init."""
    # Two processes that began alike have done the same runs.
    once = {tuple(row[name] for name in (*KEY, "device", "torch")): row for row in rows}
    compared: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in once.values():
        common = tuple(row[name] for name in (*DATA, *SETTINGS, "device", "torch"))
        compared.setdefault(common, []).append(row)
    for own in compared.values():
        yield from (title(own), "")
        base: Base = {pair(row): row for row in own if row["block"] == "none"}
        kinds: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for row in own:
            kinds.setdefault(tuple(row[name] for name in TOLD_APART), []).append(row)
        order = ("none", *BLOCKS)
        in_order = sorted(kinds, key=lambda kind: (order.index(kind[0]), kind))
        yield from markdown_table(HEAD, (line(kinds[kind], base) for kind in in_order))
        yield from ("", verdict([kinds[kind] for kind in in_order], base), "")


def pair(row: dict[str, str]) -> tuple[str, str]:
    return row["split"], row["seed"]


def title(rows: Sequence[dict[str, str]]) -> str:
    """What the runs of a table have in common."""
    row = rows[0]
    splits, seeds = (len({each[name] for each in rows}) for name in ("split", "seed"))
    trained = "block and head" if row["train_from"] == "block" else f"{row['train_from']} on"
    return (
        f"**{row['data']}**, {row['division']}: {counted(splits, 'split')}, "
        f"{counted(seeds, 'seed')}; {row['network']}, {row['clip']}, stride {row['stride']}; "
        f"trained: {trained}, lr {row['lr']}, {counted(int(row['epochs']), 'epoch')}, batch "
        f"{row['batch_size']}, EMA {row['ema']}; "
        f"{counted(EVALUATION_CLIPS, 'clip')} a video; {row['device']}, PyTorch {row['torch']}."
    )


def difference(rows: Sequence[dict[str, str]], base: Base, figure: str) -> Spread | None:
    """The differences of a line's runs from no block."""
    if rows[0]["block"] == "none":
        return None
    pairs = [(row, base[pair(row)]) for row in rows if pair(row) in base]
    return Spread.of([float(row[figure]) - float(none[figure]) for row, none in pairs])


def verdict(lines: Sequence[Sequence[dict[str, str]]], base: Base) -> str:
    """Which blocks a table tells from none, in a sentence."""
    found = {
        f"{rows[0]['block']} (x{float(rows[0]['lr_new']):g}, {level})": several
        for rows in lines
        for level in ("clip", "video")
        if (several := difference(rows, base, f"{level}_top1")) and several.n >= RUNS_TO_TELL
    }
    return told_apart(found)


def line(rows: Sequence[dict[str, str]], base: Base) -> list[str]:
    """A line of a table; the rows differ in split and seed alone."""
    block, init, rate, stages, several = (rows[0][name] for name in TOLD_APART)
    places = f"{stages} ({several} in each)" if several not in ("", "1") else stages
    cells = [block, rate and f"x{float(rate):g}", places, init]
    cells = [*(cell or "-" for cell in cells), str(len(rows))]
    for figure in ("clip_top1", "video_top1"):
        cells.append(shown(Spread.of([float(row[figure]) for row in rows])))
        over_none = difference(rows, base, figure)
        cells.append(shown(over_none, "+"))
        if over_none and over_none.n > 1:
            low, high = over_none.interval
            cells.append(f"{low:+.2f} to {high:+.2f}")
        else:
            cells.append("-")
    for figure, factor in (("term", 100), ("gradient", 1), ("scale", 1)):
        values = [factor * float(row[figure]) for row in rows if row[figure]]
        cells.append(f"{sum(values) / len(values):.3g}" if values else "-")
    return cells


# The command line.


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="block_study.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("dataset", "root", *SHARED):
        parser.add_argument(f"--{name.replace('_', '-')}", help="as for `actionrec train`")
    parser.add_argument(
        "--split", nargs="+", default=["1"], metavar="S", help="several, such as 1 2 3; or group"
    )
    parser.add_argument("--blocks", nargs="+", choices=("none", *BLOCKS), default=COMPARED)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument("--init", choices=("ours", "small"), default="ours", help="of Phi and Psi")
    parser.add_argument("--draws", type=int, default=6, help="random clips of a training video")
    parser.add_argument(
        "--setting",
        action="append",
        metavar="NAME=VALUE,...",
        help=f"can be given several times; train_from={FIRST_TRAINED} where none is",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE.csv")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    arguments = parser.parse_args(words)
    if not arguments.table and not arguments.dataset:
        parser.error("--dataset is missing")
    if arguments.draws < 1:
        parser.error("--draws must be at least 1")
    arguments.setting = arguments.setting or [f"train_from={FIRST_TRAINED}"]
    return arguments


def say(message: str) -> None:
    print(f"block_study: {message}", file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 something failed or was left out, 2 wrong usage."""
    arguments = parse_arguments(words)
    try:
        if arguments.table:
            print("\n".join(tables(measurements.read(arguments.results))))
            return 0
        with TemporaryDirectory() as folder:
            splits = open_splits(arguments.dataset, arguments.root, arguments.split, Path(folder))
            return study(arguments, splits)
    except ActionrecError as error:
        say(str(error))
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        say("stopped; the same command goes on.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
