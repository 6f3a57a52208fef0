"""Trains and evaluates the rows of the paper's Table 7 on any data set, and gathers the table.

    python scripts/table7.py --config table7/demo.yaml
    python scripts/table7.py --dataset folder --root my_videos --rows i3d snl --seeds 0 1 2
    python scripts/table7.py --dataset ucf101 --root UCF-101 --split 1 2 3
    python scripts/table7.py --config table7/i3d.yaml --root UCF-101 -- --weights FILE.pth
    python scripts/table7.py --config table7/weizmann.yaml --root weizmann.csv --split group

A row is a block in the network, i3d the network without one, head the head alone, fitted to frozen
features (--train-from head); any other block that `actionrec train` knows can be a row too. What
follows a lone -- are more flags of `actionrec train`. Every row and seed has a folder,
OUTPUT/ROW-seedN, and a log beside it; with --split, every row, split and seed has one,
OUTPUT/ROW-splitS-seedN. The same command goes on where it was stopped, however that was, and skips
what is finished; more rows, splits or seeds can be added. A run that fails is reported, the others
go on, and the exit code is 1. With --split group, each group of a CSV file is a split: it
validates, all others train.

With --minutes N the script ends within N minutes: it stops the training that is at work, which goes
on in the next call, and its exit code is 3. With --results FILE.csv every run that is finished
becomes a row of that file, with its settings, device and versions, and a run that has a row there
is not repeated on the same device with the same versions, wherever its folder is.

OUTPUT/table7.md is printed too; table7.csv has a line for every row, table7_runs.csv one for every
run, table7.png shows both. The figures are those of the last epoch: the best is chosen on the very
videos that are evaluated. The paper's stand in columns of their own, since its data, network and
protocol need not be yours. A figure that was not measured is a dash, in the CSV files an empty
cell.
"""

import argparse
import csv
import fcntl
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import measurements
from matplotlib.figure import Figure
from scipy import stats

from actionrec.cli.main import build_parser
from actionrec.config import BlockName, TrainConfig
from actionrec.datasets.registry import open_dataset
from actionrec.devices import fastest_device
from actionrec.errors import ActionrecError, UsageError
from actionrec.files import replacing
from actionrec.recipes import RECIPES
from actionrec.signals import sigterm_as_interrupt
from actionrec.training.early_stopping import reason_to_stop
from actionrec.training.run import check_output, resolve

BASE = "i3d"
HEAD = "head"
FIGURES = ("clip_top1", "clip_top5", "video_top1", "video_top5")
# A run is known by these columns of a file of results.
KEY = ("data", "division", "split", "seed", "block", "recipe", "clips", "crops")
GROUP = "group"
# Settings that a recipe tells in words, and those that belong to the run or the machine.
TOLD = ("backbone", "weights", "clip_length", "crop", "stride", "epochs", "batch_size", "lr")
TOLD += ("schedule", "freeze_batchnorm", "precision")
NO_RECIPE = ("recipe", "dataset", "root", "split", "block", "seed", "output", "resume")
NO_RECIPE += ("devices", "nodes", "workers", "decoder", "max_bad")
SECONDS_TO_STOP = 25  # for a step, or a validation, and a checkpoint
RUNS_TO_TELL = 3  # with fewer, the spread of the differences is hardly known itself
OURS = ("--block", "--seed", "--split", "--output", "--resume")


@dataclass(frozen=True)
class PaperRow:
    """Clip-level accuracies of Table 7, in percent."""

    clip_top1: float
    clip_top5: float


PAPER = {
    "i3d": PaperRow(81.57, 95.40),
    "nl": PaperRow(82.88, 95.74),
    "ns": PaperRow(82.50, 95.84),
    "a2": PaperRow(82.68, 95.85),
    "cgnl": PaperRow(83.38, 95.42),
    "snl": PaperRow(84.39, 97.66),
}
PAPER_PROTOCOL = (
    'Table 7 of "Unifying Nonlocal Blocks for Neural Networks" (ICCV 2021): UCF-101, its own split '
    "of 7912 training and 1625 test videos, a 3D ResNet-50, 16 frames of 124x124, clip level"
)


# What is to be run.


@dataclass(frozen=True)
class Run:
    """A row with one split and seed: its training, and its evaluation with `clips` x `crops` a
    video.

    Attributes:
        root: Data set that was asked for; that of `config` may be a list made from it.
        division: How training and validation are told apart.
        study: The settings that it shares with the other rows, in words.
        recorded: Its row in the file of results, from this call or an earlier one.
    """

    row: str
    split: str | None
    seed: int
    config: TrainConfig
    train_words: tuple[str, ...]
    clips: int
    crops: int
    root: str | None = None
    division: str = ""
    study: str = ""
    recorded: dict[str, str] | None = None

    @property
    def name(self) -> str:
        return run_name(self.row, self.split, self.seed)

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def model(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def evaluation(self) -> Path:
        return self.folder / f"evaluation_{self.clips}x{self.crops}.json"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_trained(self) -> bool:
        """Whether the last epoch is over; its results are written after its model."""
        try:
            results = json.loads((self.folder / "results.json").read_text())
        except FileNotFoundError:
            return False
        if self.row == HEAD or reason_to_stop(results, self.config):
            return True
        return results["last"]["epoch"] == self.config.epochs

    @property
    def is_finished(self) -> bool:
        return self.recorded is not None or self.evaluation.exists()

    @property
    def data(self) -> str:
        """The name of the data set, for videos of one's own that of their folder or list."""
        own = self.config.dataset in ("csv", "folder")
        return Path(self.root).stem if own and self.root else self.config.dataset

    @property
    def key(self) -> dict[str, str]:
        """What tells the run from others in a file of results."""
        values = {
            "data": self.data,
            "division": self.division,
            "split": self.split or self.config.split,
            "seed": self.seed,
            "block": HEAD if self.row == HEAD else self.config.block,
            "recipe": self.study,
            "clips": self.clips,
            "crops": self.crops,
        }
        return {name: str(value) for name, value in values.items()}


def run_name(row: str, split: str | None, seed: int) -> str:
    """Such as snl seed 0, or snl split 2 seed 0 where splits were asked for."""
    return f"{row} seed {seed}" if split is None else f"{row} split {split} seed {seed}"


def plan(arguments: argparse.Namespace, train_flags: Sequence[str]) -> list[Run]:
    """The runs that are asked for, row after row of a split and seed, so that a whole table is
    there early.

    Raises:
        UsageError: a flag that is ours to set, or a folder that holds another run.
    """
    for flag in train_flags:
        if flag.partition("=")[0] in OURS:
            raise UsageError(
                f"{flag} can't stand after --: table7.py sets it for every run; use --rows, "
                "--split, --seeds and --output."
            )
    given = {name: getattr(arguments, name) for name in ("config", "dataset")}
    shared = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    root = ["--root", arguments.root] if arguments.root else []
    asked = config_of([*shared, *root, *train_flags])
    splits: dict[str | None, str | None] = dict.fromkeys(arguments.split or [None], asked.root)
    if arguments.split == [GROUP]:
        splits = {**lists_by_group(asked, arguments.output)}
    division = division_of(asked, arguments.split)
    recorded = recorded_runs(arguments.results) if arguments.results else {}
    runs = []
    for seed, (split, listing) in product(arguments.seeds, splits.items()):
        for row in arguments.rows:
            name = f"{row}-seed{seed}" if split is None else f"{row}-split{split}-seed{seed}"
            folder = arguments.output / name
            own = {
                "root": listing,
                "train_from": HEAD if row == HEAD else None,
                "block": {BASE: "none", HEAD: None}.get(row, row),
                "seed": seed,
                "output": folder,
                "resume": "auto",
                "split": None if listing != asked.root else split,
            }
            words = [*shared, *train_flags]
            for key, value in own.items():
                words += [] if value is None else [f"--{key}", str(value)]
            config = resolve(config_of(words))
            remove_unfinished_files(folder)
            check_output(config, folder)
            counts = arguments.clips, arguments.crops
            # The head alone is a row of the table of the networks that are trained.
            study = recipe(resolve(asked) if row == HEAD else config)
            run = Run(row, split, seed, config, tuple(words), *counts, asked.root, division, study)
            runs.append(replace(run, recorded=recorded.get(tuple(run.key.values()))))
    return runs


def config_of(words: Sequence[str]) -> TrainConfig:
    """The settings that `actionrec train` takes from these words."""
    values = vars(train_parser().parse_args(["train", *words]).train)
    del values["config"]
    return TrainConfig(**values)


# Building it takes longer than a hundred uses of it.
train_parser = cache(build_parser)


def lists_by_group(config: TrainConfig, output: Path) -> dict[str, str]:
    """CSV files, by group: its videos validate, all others train.

    Raises:
        UsageError: the data set is no CSV file, or names no groups.
        ActionrecError: the CSV file can't be used.
    """
    if config.dataset != "csv":
        raise UsageError(f"--split {GROUP} needs --dataset csv, not {config.dataset}.")
    dataset = open_dataset("csv", config.root, multi_label=config.multi_label)
    videos = sorted(dataset.train + dataset.val, key=lambda video: str(video.source))
    lists = {}
    for group in sorted({video.group for video in videos} - {None}):
        # A group may have any name.
        name = quote(group, safe=" ")
        listing = output / "groups" / f"{name}.csv"
        with replacing(listing) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "label", "group", "split", "start", "end"])
            for video in videos:
                path = video.path.resolve() if isinstance(video.path, Path) else video.path
                label = "|".join(dataset.labels[each] for each in video.all_labels)
                side = "val" if video.group == group else "train"
                segment = video.segment or ("", "")
                writer.writerow([path, label, video.group or "", side, *segment])
        lists[name] = str(listing)
    if not lists:
        raise UsageError(f"{config.root} names no groups; leave out --split {GROUP}.")
    return lists


def division_of(config: TrainConfig, splits: Sequence[str] | None) -> str:
    """How training and validation are told apart, in words."""
    if splits == [GROUP]:
        return "group left out"
    if config.dataset != "csv":
        return "split of the data set"
    try:
        open_dataset("csv", config.root, "2")
    except UsageError:
        return "split column"
    return "fold by group"


def recipe(config: TrainConfig) -> str:
    """The settings on which a run's figures depend, but for block, split and seed, in words."""
    defaults = asdict(TrainConfig(config.dataset)) | RECIPES["paper"].settings
    others = {
        key: value
        for key, value in asdict(config).items()
        if key not in TOLD + NO_RECIPE and value != defaults[key]
    }
    words = [
        f"{config.backbone} from {origin(config.weights)}",
        f"{config.clip_length}x{config.crop}x{config.crop}",
        f"stride {config.stride}",
        counted(config.epochs, "epoch"),
        f"batch {config.batch_size}",
        f"lr {config.lr:g}",
        config.schedule,
        *(["batch norm frozen"] if config.freeze_batchnorm else []),
        *(f"{key} {value}" for key, value in others.items()),
        config.precision,
    ]
    return ", ".join(words)


def recorded_runs(results: Path) -> dict[tuple[str | None, ...], dict[str, str]]:
    """The rows of runs on this device with these versions, by the values of `Run.key`."""
    here = measurements.machine(fastest_device())
    return {
        tuple(row.get(name) for name in KEY): row
        for row in measurements.read(results)
        if here.items() <= row.items()
    }


def remove_unfinished_files(folder: Path) -> None:
    """Remove what `files.replacing` leaves when it is killed, named .NAME.RANDOM.SUFFIX.

    A folder with nothing else, one whose run was killed at its very start, would be taken for
    another's. Nobody else is writing there: the folder is locked.
    """
    for path in folder.glob(".*.????????.*"):
        path.unlink()


# Running it.


@contextmanager
def alone(output: Path) -> Iterator[int]:
    """Keep others out of `output`; yields the lock, for the processes that are started.

    They keep it when this one is killed and they are not, so that no run is ever trained twice at
    the same time.

    Raises:
        ActionrecError: others are at work there.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ActionrecError(
                f"{output} is being worked on by another table7.py or by a training that it left "
                "behind; wait for it, or end it."
            ) from error
        yield file.fileno()


class TimeIsOver(ActionrecError):
    """A run has to wait for the next call."""


@dataclass(frozen=True)
class Workplace:
    """What all processes of a call share.

    Attributes:
        lock: They hold it until they end.
        threads: Of each process.
        deadline: When they must be stopped, by the monotonic clock.
        results: File that a finished run becomes a row of.
        processes: Those at work.
        stopped: Whether no other may begin.
    """

    lock: int
    threads: int | None = None
    deadline: float | None = None
    results: Path | None = None
    processes: set[subprocess.Popen] = field(default_factory=set)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds_left(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.monotonic()

    def stop(self) -> None:
        """Let the processes end, which keep what they have: a signal need not reach them all."""
        self.stopped.set()
        for process in self.processes.copy():
            process.terminate()


def finish(run: Run, workplace: Workplace) -> Run:
    """Train and evaluate a run, or what is left of that; returns it with its row of results.

    Raises:
        TimeIsOver: before it was done; what is done stays.
        ActionrecError: one of the two failed.
    """
    if workplace.seconds_left is not None and workplace.seconds_left <= 0:
        raise TimeIsOver(f"{run.name} waits for the next call.")
    say(f"{run.name} begins; its log is {run.log}")
    if not run.is_trained:
        actionrec(run, ["train", *run.train_words], workplace)
        if not run.is_trained:
            raise ActionrecError(f"{run.name} could not be trained: {last_line(run.log)}")
    config = run.config
    flags = {
        "model": run.model,
        "dataset": config.dataset,
        "root": config.root,
        "split": config.split,
        "clips": run.clips,
        "crops": run.crops,
        "workers": config.workers,
        "decoder": config.decoder,
        "format": "json",
    }
    words = [
        word
        for name, value in flags.items()
        if value is not None
        for word in (f"--{name}", str(value))
    ]
    printed = actionrec(run, ["evaluate", *words], workplace)
    try:
        evaluation = json.loads(printed)
    except json.JSONDecodeError as error:
        reason = last_line(run.log)
        raise ActionrecError(f"{run.name} could not be evaluated: {reason}") from error
    if workplace.results:
        # First of all: a run without its row is evaluated again.
        figures = {name: round(value, 4) for name, value in percentages(evaluation).items()}
        row = {**run.key, "epoch": "last", "videos": evaluation["video"]["n"], **figures}
        measurements.append(workplace.results, row, fastest_device())
        run = replace(run, recorded={name: str(value) for name, value in row.items()})
    with replacing(run.evaluation) as temporary:
        temporary.write_text(printed)
    return run


def actionrec(run: Run, words: list[str], workplace: Workplace) -> str:
    """Call the command line in a process of its own; returns what it prints, the rest is logged.

    Its exit code does not tell whether the work is done: it is 1 where a video was bad, too.

    Raises:
        TimeIsOver: the deadline came first; the process was stopped.
    """
    environment = dict(os.environ)
    if workplace.threads:
        environment.setdefault("OMP_NUM_THREADS", str(workplace.threads))
    with (
        run.log.open("a") as log,
        subprocess.Popen(
            [sys.executable, "-m", "actionrec", *words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            pass_fds=[workplace.lock],
        ) as process,
    ):
        workplace.processes.add(process)
        if workplace.stopped.is_set():
            process.terminate()
        try:
            printed, _ = process.communicate(timeout=workplace.seconds_left)
        except subprocess.TimeoutExpired as error:
            process.terminate()
            try:
                process.communicate(timeout=SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
            raise TimeIsOver(f"{run.name} was stopped; the next call goes on with it.") from error
        finally:
            workplace.processes.discard(process)
        log.write(printed)
    return printed


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} ({log} has the rest)"


def run_all(
    runs: list[Run], arguments: argparse.Namespace, lock: int, deadline: float | None
) -> tuple[list[Run], dict[str, str]]:
    """Finish the runs, `arguments.jobs` at once.

    Returns the runs as they are now, and what became of those that failed.
    """
    waiting = [run for run in runs if not run.is_finished]
    if len(waiting) < len(runs):
        say(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs) if arguments.jobs > 1 else None
    workplace = Workplace(lock, threads, deadline, arguments.results)
    now = {run.name: run for run in runs}
    failures: dict[str, str] = {}
    start = time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            pending = {pool.submit(finish, run, workplace): run for run in waiting}
            for done, future in enumerate(as_completed(pending), start=1):
                run = pending[future]
                try:
                    run = now[run.name] = future.result()
                    outcome = f"clip-level Top-1 {Result.of(run).clip_top1:.2f} %"
                except TimeIsOver as error:
                    say(str(error))
                    continue
                except ActionrecError as error:
                    outcome = failures[run.name] = str(error)
                taken = time.monotonic() - start
                left = taken / done * (len(waiting) - done)
                say(
                    f"[{len(runs) - len(waiting) + done}/{len(runs)}] {run.name}: {outcome}; "
                    f"{minutes(taken)} until now, about {minutes(left)} left"
                )
                write_all(Table.of(list(now.values())), arguments.output)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            workplace.stop()
            raise
    return list(now.values()), failures


def deadline_of(minutes: float | None) -> float | None:
    """When to begin to stop, by the monotonic clock, so that all is over `minutes` from now."""
    if minutes is None:
        return None
    return time.monotonic() + 60 * minutes - min(SECONDS_TO_STOP + 5, 20 * minutes)


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(message: str) -> None:
    print(f"table7: {message}", file=sys.stderr, flush=True)


# Gathering it.


def percentages(evaluation: dict[str, Any]) -> dict[str, float]:
    """The figures of what `actionrec evaluate` prints."""
    levels = (name.partition("_")[::2] for name in FIGURES)
    return {f"{level}_{top}": 100 * evaluation[level][top] for level, top in levels}


@dataclass(frozen=True)
class Result:
    """What a finished run reached, in percent, and how it was measured."""

    row: str
    split: str | None
    seed: int
    clip_top1: float
    clip_top5: float
    video_top1: float
    video_top5: float
    videos: int
    left_out: int

    @classmethod
    def of(cls, run: Run) -> "Result":
        """From its evaluation, or from its row of results where the folder is another's."""
        if run.evaluation.exists():
            evaluation = json.loads(run.evaluation.read_text())
            figures = percentages(evaluation)
            videos, left_out = evaluation["video"]["n"], len(evaluation["skipped"])
        else:
            figures = {name: float(run.recorded[name]) for name in FIGURES}
            videos, left_out = int(run.recorded["videos"]), 0
        return cls(run.row, run.split, run.seed, **figures, videos=videos, left_out=left_out)

    @property
    def pair(self) -> tuple[str | None, int]:
        """What it shares with the base row's run that it is compared with: split and seed."""
        return self.split, self.seed


@dataclass(frozen=True)
class Spread:
    """Mean of n figures, and their sample standard deviation, which one figure hasn't."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        if not values:
            return None
        return cls(
            mean=statistics.fmean(values),
            std=statistics.stdev(values) if len(values) > 1 else None,
            n=len(values),
        )

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence of the mean of at least two figures, by Student's t."""
        return self.interval_at(0.95)

    def interval_at(self, confidence: float) -> tuple[float, float]:
        """Another confidence of the mean."""
        half = stats.t.ppf((1 + confidence) / 2, self.n - 1) * self.std / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    def excludes_zero(self, confidence: float = 0.95) -> bool:
        """Whether the interval lies on one side of 0."""
        low, high = self.interval_at(confidence)
        return low > 0 or high < 0


@dataclass(frozen=True)
class Row:
    """A row's figures over its runs, and their differences from the base row's.

    A difference is between runs of the same split and seed; those that only one of the two has are
    left out.
    """

    name: str
    results: tuple[Result, ...]
    figures: dict[str, Spread | None]
    differences: dict[str, Spread | None]

    @classmethod
    def of(cls, name: str, results: Sequence[Result]) -> "Row":
        own = {result.pair: result for result in results if result.row == name}
        base = {result.pair: result for result in results if result.row == BASE}
        pairs = [(own[pair], base[pair]) for pair in own if pair in base and name != BASE]
        return cls(
            name=name,
            results=tuple(own.values()),
            figures={f: Spread.of([getattr(r, f) for r in own.values()]) for f in FIGURES},
            differences={
                f: Spread.of([getattr(mine, f) - getattr(its, f) for mine, its in pairs])
                for f in FIGURES
            },
        )

    @property
    def verdict(self) -> str:
        """Whether the row differs from the base by more than runs do, in a sentence.

        Runs on splits of one data set share videos, so that their interval is rather narrow.
        """
        difference = self.differences["clip_top1"]
        if not self.results:
            return f"{self.name}: not measured."
        if difference is None:
            return f"{self.name}: no difference, because {BASE} has no run of its seeds and splits."
        points = f"{shown(difference, '+')} points"
        start = f"{self.name}: clip-level Top-1 differs from {BASE}'s by {points}"
        runs = counted(difference.n, "run")
        if difference.n < RUNS_TO_TELL:
            return (
                f"{start}; with {runs} it can't be told whether this is more than the spread "
                f"between runs, {RUNS_TO_TELL} are needed."
            )
        low, high = difference.interval
        more = "more" if difference.excludes_zero() else "not more"
        return (
            f"{start} over {runs}, 95 % interval of the mean {low:+.2f} to {high:+.2f}: "
            f"{more} than the spread between runs explains."
        )


@dataclass(frozen=True)
class Table:
    """The rows, in the order asked for, and how every figure in them was reached."""

    rows: tuple[Row, ...]
    protocol: dict[str, Any]
    missing: tuple[str, ...]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Table":
        results = [Result.of(run) for run in runs if run.is_finished]
        config = runs[0].config
        return cls(
            rows=tuple(Row.of(name, results) for name in dict.fromkeys(run.row for run in runs)),
            protocol={
                "dataset": runs[0].data,
                "split": " ".join(dict.fromkeys(run.split or run.config.split for run in runs)),
                "backbone": config.backbone,
                "initialisation": config.weights,
                "epochs": config.epochs,
                "epoch_reported": "last",
                "clips": runs[0].clips,
                "crops": runs[0].crops,
                "clip": f"{config.clip_length}x{config.crop}x{config.crop}",
            },
            missing=tuple(run.name for run in runs if not run.is_finished),
        )


# Showing it.


def told_apart(differences: Mapping[str, Spread]) -> str:
    """Which differences from no block, by name, are more than chance, in a sentence."""
    if not differences:
        return f"There are too few runs to tell blocks apart: {RUNS_TO_TELL} pairs are needed."
    many = counted(len(differences), "comparison")
    alone = {name: each for name, each in differences.items() if each.excludes_zero()}
    if not alone:
        return f"No block is told apart from no block: the intervals of all {many} contain 0."
    corrected = 1 - 0.05 / len(differences)
    together = [name for name, each in alone.items() if each.excludes_zero(corrected)]
    told = (f"{name} ({each.mean:+.2f})" for name, each in alone.items())
    return (
        f"Of {many}, the intervals that do not contain 0 are those of {', '.join(told)}; after "
        f"Bonferroni's correction this holds for {', '.join(together) or 'none'}."
    )


def shown(spread: Spread | None, sign: str = "") -> str:
    """97.50 ± 0.30, 97.50 where there is one figure, and a dash where there is none."""
    if spread is None:
        return "-"
    return f"{spread.mean:{sign}.2f}" + ("" if spread.std is None else f" ± {spread.std:.2f}")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def origin(weights: str) -> str:
    """What training started from, in words."""
    return "random weights" if weights == "none" else Path(weights).name


def named_splits(protocol: dict[str, Any]) -> str:
    several = " " in protocol["split"]
    return f"{'splits' if several else 'split'} {protocol['split']}"


def markdown(table: Table) -> str:
    """The whole table with its protocol, per row and per run, and what it says in sentences."""
    protocol = table.protocol
    seeds = sorted({result.seed for row in table.rows for result in row.results})
    lines = [
        "# Table 7",
        "",
        f"Measured: {protocol['dataset']}, {named_splits(protocol)}; {protocol['backbone']} "
        f"from {origin(protocol['initialisation'])}, clips of {protocol['clip']}; "
        f"{counted(protocol['epochs'], 'epoch')}, figures of the last (not of the best, which is "
        f"chosen on the same videos); {counted(protocol['clips'], 'clip')} x "
        f"{counted(protocol['crops'], 'crop')} of every video; "
        f"seeds {', '.join(map(str, seeds)) or '-'}.",
        "Accuracies in percent, mean ± standard deviation over runs (none with one); differences "
        f"from {BASE} are taken between runs of the same split and seed.",
        "",
        f"Paper: {PAPER_PROTOCOL}. Its figures compare with the measured ones only as far as the "
        "protocols agree.",
        "",
    ]
    head = ["row", "runs", "videos", "clip Top-1", "clip Top-5", f"clip Top-1 - {BASE}"]
    head += ["video Top-1", "video Top-5", f"video Top-1 - {BASE}"]
    head += ["paper: clip Top-1", "paper: clip Top-5", "paper: clip Top-1 - I3D"]
    lines += markdown_table(head, map(row_cells, table.rows))
    lines += ["", *(f"- {row.verdict}" for row in table.rows if row.name != BASE)]
    left_out = max((result.left_out for row in table.rows for result in row.results), default=0)
    if left_out:
        unreadable = counted(left_out, "unreadable video")
        lines.append(f"- Left out of the evaluation of a run: {unreadable}.")
    if table.missing:
        lines.append(f"- Not finished: {', '.join(table.missing)}.")
    runs = (
        [run_name(result.row, *result.pair), *(f"{getattr(result, f):.2f}" for f in FIGURES)]
        for row in table.rows
        for result in row.results
    )
    head = ["run", "clip Top-1", "clip Top-5", "video Top-1", "video Top-5"]
    lines += ["", *markdown_table(head, runs)]
    return "\n".join(lines) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table whose columns, but for the first, hold numbers."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(row)} |" for row in [head, rule, *rows]]


def row_cells(row: Row) -> list[str]:
    """A row of the Markdown table."""
    paper = PAPER.get(row.name)
    difference = f"{paper.clip_top1 - PAPER[BASE].clip_top1:+.2f}" if paper else "-"
    videos = sorted({result.videos for result in row.results})
    return [
        row.name,
        str(len(row.results) or "-"),
        " to ".join(map(str, videos[:1] + videos[1:][-1:])) or "-",
        shown(row.figures["clip_top1"]),
        shown(row.figures["clip_top5"]),
        "base" if row.name == BASE else shown(row.differences["clip_top1"], "+"),
        shown(row.figures["video_top1"]),
        shown(row.figures["video_top5"]),
        "base" if row.name == BASE else shown(row.differences["video_top1"], "+"),
        f"{paper.clip_top1:.2f}" if paper else "-",
        f"{paper.clip_top5:.2f}" if paper else "-",
        "base" if row.name == BASE else difference,
    ]


def csv_of_row(row: Row, table: Table) -> dict[str, Any]:
    """A line of table7.csv; None becomes an empty cell."""
    line: dict[str, Any] = {
        "row": row.name,
        "seeds": " ".join(str(seed) for seed in sorted({result.seed for result in row.results})),
        "videos": " ".join(str(n) for n in sorted({result.videos for result in row.results})),
    }
    for kind, spreads in (("", row.figures), ("_difference", row.differences)):
        for name, spread in spreads.items():
            line[f"{name}{kind}_mean"] = spread and round(spread.mean, 4)
            line[f"{name}{kind}_std"] = spread and spread.std and round(spread.std, 4)
            line[f"{name}{kind}_n"] = spread and spread.n
    paper = PAPER.get(row.name)
    line["paper_clip_top1"] = paper and paper.clip_top1
    line["paper_clip_top5"] = paper and paper.clip_top5
    return line | table.protocol


def csv_of_run(result: Result, table: Table) -> dict[str, Any]:
    """A line of table7_runs.csv."""
    figures = {name: round(getattr(result, name), 4) for name in FIGURES}
    counts = {"videos": result.videos, "videos_left_out": result.left_out}
    # Of several splits, its own.
    own = {} if result.split is None else {"split": result.split}
    return {"row": result.row, "seed": result.seed} | figures | counts | table.protocol | own


def write_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def draw(table: Table, path: Path) -> None:
    """A point a run, and mean and standard deviation: the figures, and what is over the base."""
    rows = [row for row in table.rows if row.results]
    figure = Figure(figsize=(11, 1.8 + 0.45 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for y, row in enumerate(rows):
        draw_row(left, y, [result.clip_top1 for result in row.results])
        base = {
            result.pair: result.clip_top1
            for other in rows
            if other.name == BASE and row.name != BASE
            for result in other.results
        }
        draw_row(right, y, [r.clip_top1 - base[r.pair] for r in row.results if r.pair in base])
    left.set_yticks(range(len(rows)), [row.name for row in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_xlabel("clip-level Top-1, %")
    right.set_xlabel(f"difference from {BASE} with the same split and seed, points")
    right.axvline(0, color="0.6", linewidth=1, zorder=0)
    for axes in (left, right):
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    protocol = table.protocol
    figure.suptitle(
        f"{protocol['dataset']}, {named_splits(protocol)}: {protocol['backbone']} from "
        f"{origin(protocol['initialisation'])}, last of {counted(protocol['epochs'], 'epoch')}, "
        f"{counted(protocol['clips'], 'clip')} x {counted(protocol['crops'], 'crop')}\n"
        "a point a run; bar: mean ± standard deviation over runs",
        fontsize=10,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_row(axes: Any, y: int, values: list[float]) -> None:
    spread = Spread.of(values)
    if spread is None:
        return
    axes.plot(values, [y] * len(values), "o", color="C0", alpha=0.6, markersize=6)
    if spread.std is not None:
        axes.errorbar(
            *(spread.mean, y + 0.22),
            xerr=spread.std,
            fmt="|",
            color="black",
            markersize=9,
            capsize=3,
        )


def write_all(table: Table, output: Path) -> None:
    """Write table7.md, the CSV files and, once there is something to see, the picture."""
    with replacing(output / "table7.md") as temporary:
        temporary.write_text(markdown(table))
    write_csv(output / "table7.csv", [csv_of_row(row, table) for row in table.rows])
    results = [result for row in table.rows for result in row.results]
    if results:
        write_csv(output / "table7_runs.csv", [csv_of_run(result, table) for result in results])
        draw(table, output / "table7.png")


# The command line.


def parse_arguments(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our arguments, and the flags for `actionrec train` that follow a lone --."""
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="table7.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] [-- flags of actionrec train]",
    )
    parser.add_argument("--config", help="YAML file for `actionrec train`, yours or shipped")
    parser.add_argument("--dataset", help="as for `actionrec train`")
    parser.add_argument("--root", help="folder of the data set, or its CSV file")
    parser.add_argument(
        "--split",
        nargs="+",
        metavar="S",
        help=f"as for `actionrec train`; several, such as 1 2 3; or {GROUP}, each group of a CSV "
        "file",
    )
    choices = list(dict.fromkeys([*PAPER, HEAD, *get_args(BlockName)]))
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=choices,
        default=list(PAPER),
        metavar="ROW",
        help=f"blocks, {BASE} for none, {HEAD} for the head alone; by default {' '.join(PAPER)}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--clips", type=int, default=10, help="of a video, when evaluating")
    parser.add_argument("--crops", type=int, choices=(1, 3), default=1)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--minutes", type=float, metavar="N", help="end within N minutes")
    parser.add_argument(
        "--results", type=Path, metavar="FILE.csv", help="append a row for every finished run"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/table7"))
    arguments = parser.parse_args(words[:end])
    if arguments.jobs < 1 or arguments.clips < 1:
        parser.error("--jobs and --clips must be at least 1")
    if arguments.minutes is not None and not arguments.minutes > 0:
        parser.error("--minutes must be above 0")
    arguments.rows = list(dict.fromkeys(BASE if row == "none" else row for row in arguments.rows))
    arguments.seeds = list(dict.fromkeys(arguments.seeds))
    arguments.split = arguments.split and list(dict.fromkeys(arguments.split))
    if GROUP in (arguments.split or []) and len(arguments.split) > 1:
        parser.error(f"--split {GROUP} stands alone")
    return arguments, words[end + 1 :]


def main(words: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 1 a run failed or videos were left out, 2 wrong usage, 3 the
    minutes are over and runs are left."""
    arguments, train_flags = parse_arguments(words)
    deadline = deadline_of(arguments.minutes)
    try:
        with sigterm_as_interrupt(), alone(arguments.output) as lock:
            runs = plan(arguments, train_flags)
            runs, failures = run_all(runs, arguments, lock, deadline)
            table = Table.of(runs)
            write_all(table, arguments.output)
    except ActionrecError as error:
        say(str(error))
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        say(f"{error.filename or 'A file'} could not be used: {error.strerror}.")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here.")
        return 130
    print(markdown(table), end="")
    for failure in failures.values():
        say(failure)
    left_out = any(result.left_out for row in table.rows for result in row.results)
    if failures or left_out:
        return 1
    return 3 if table.missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
