"""Fine-tuning of a project in the background, beside its head alone on the same videos.

runs/
    1.csv       the examples, and which of them are held out: whole groups
    1/          the training, by `actionrec train`; stopped, it goes on where it was
    1.json      how many of the held-out examples the network and the head alone name rightly
    1.log       what the training said
    1-2.csv ... the same for the second fold, where each fold is held out once

A run of all folds judges every example, and takes as many times as long.
"""

import csv
import io
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from actionrec.app.project import Example, Project
from actionrec.app.teacher import Figure, Teacher, figure_of, scores_of
from actionrec.datasets.dataset import deal_groups
from actionrec.errors import ActionrecError
from actionrec.files import exclusive, write_whole
from actionrec.models.classifier import VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.models.shared_batches import ScoredVideo, score_videos, threads_of
from actionrec.text import json_text
from actionrec.training.head import CLIPS, FOLDS

WITH_WARMUP = 4  # epochs
LINES = 5  # of the log, for an error


@dataclass(frozen=True)
class Epoch:
    """Figures of an epoch; the accuracy is that of one clip of each validation example."""

    epoch: int
    train_loss: float
    val_loss: float
    val_top1: float


@dataclass(frozen=True)
class Comparison:
    """How many of the held-out examples, of which each has `CLIPS` clips, are named rightly.

    Attributes:
        groups: Number of groups that the examples are of; None where an older page compared.
    """

    examples: int
    fine_tuned: int
    head_alone: int
    groups: int | None = None


@dataclass(frozen=True)
class RunState:
    """What the page shows of a run.

    Attributes:
        name: Number of the run.
        status: running, stopped, comparing, done or failed.
        fold, folds: Number of the fold that is held out now, or was last, and of all of the run.
        epochs: Finished epochs of this fold.
        of: Epochs of a fold; None until it is known.
        seconds_left: Of all folds; None while nothing is known.
        problem: Why it failed.
        comparison: On the folds that are done; None before the first is.
        fine_tuned, head_alone: The figures of the comparison with their intervals.
        command: What repeats the first fold.
    """

    name: str
    status: str
    fold: int
    folds: int
    epochs: tuple[Epoch, ...]
    of: int | None
    seconds_left: float | None
    problem: str | None
    comparison: Comparison | None
    fine_tuned: Figure | None
    head_alone: Figure | None
    command: str


class FineTuning:
    """The runs of a project, of which one at a time is trained.

    Args:
        project: The project.
        teacher: Has the features, and the base that a run starts from.
        model: File or name of the base.
    """

    def __init__(self, project: Project, teacher: Teacher, model: str) -> None:
        self.project, self.teacher, self.model = project, teacher, model
        self.folder = project.folder / "runs"
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._name, self._comparing, self._stopping = "", False, threading.Event()
        self._begin, self._before, self._pace = 0.0, 0, math.nan
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()

    def start(self, epochs: int | None = None, all_folds: bool = False) -> None:
        """Begin a new run on the examples as they are now.

        Args:
            epochs: Of each fold; None for the number of the recipe.
            all_folds: Hold out each fold once, one after the other, instead of one alone.

        Raises:
            ActionrecError: there are too few examples or groups, another run is being trained, or
                the disk is full.
        """
        with self._lock:
            self._require_idle()
            examples = [
                x for x in self.project.table().examples if self.teacher.failure(x.part) is None
            ]
            sides, *others = divisions(examples)
            name = str(max(map(int, self.names()), default=0) + 1)
            for left_over in self.folder.glob(f"{name}-*.csv"):
                left_over.unlink()
            for number, side in enumerate(others if all_folds else (), 2):
                write_examples(self.folder / f"{name}-{number}.csv", examples, side)
            # The run is there with this one.
            write_examples(self.folder / f"{name}.csv", examples, sides)
            self._launch(name, epochs)

    def go_on(self, name: str) -> None:
        """Go on with a run that was stopped.

        Raises:
            ActionrecError: there is no such run, or another one is being trained.
        """
        with self._lock:
            self._require_idle()
            if name not in self.names():
                raise ActionrecError(f"There is no run {name!r}.")
            self._launch(name, None)

    def stop(self) -> None:
        """Ask the training to stop after its present step; it can go on later."""
        with self._lock:
            self._stopping.set()
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()

    def close(self) -> None:
        """Stop the training, and return when it has ended."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def names(self) -> list[str]:
        """The runs, the oldest first."""
        found = (x.stem for x in self.folder.glob("*.csv") if x.stem.isdigit())
        return sorted(found, key=int)

    def folds(self, name: str) -> list[str]:
        """The names of the trainings of a run, one for each fold that it holds out."""
        others = (x.stem for x in self.folder.glob(f"{name}-*.csv"))
        return [name, *sorted(others, key=lambda fold: int(fold.rpartition("-")[2]))]

    def model_file(self, name: str) -> Path:
        """The model of a run, which is that of its first fold.

        Raises:
            ActionrecError: it has none yet.
        """
        path = self.folder / name / "model.safetensors"
        if name not in self.names() or not path.is_file():
            raise ActionrecError(f"The run {name!r} has no model yet.")
        return path

    def states(self) -> list[RunState]:
        """What the page shows of every run."""
        return [self._state(name) for name in self.names()]

    def _state(self, name: str) -> RunState:
        folds = self.folds(name)
        found = [read_comparison(self.folder / f"{fold}.json") for fold in folds]
        done = [comparison for comparison in found if comparison]
        present = next((n for n, each in enumerate(found) if not each), len(folds) - 1)
        folder = self.folder / folds[present]
        epochs = read_epochs(folder / "logs" / "metrics.csv")
        of = epochs_of(folder / "config.yaml") or epochs_of(self.folder / name / "config.yaml")
        if self._name == name:
            status = "comparing" if self._comparing else "running"
        elif name in self._problems:
            status = "failed"
        else:
            status = "done" if len(done) == len(folds) else "stopped"
        seconds_left = None
        if status == "running" and of is not None:
            new = len(epochs) - self._before
            pace = (time.monotonic() - self._begin) / new if new > 0 else self._pace
            if math.isfinite(pace):
                seconds_left = pace * (of * (len(folds) - present) - len(epochs))
        comparison = total(done) if done else None
        return RunState(
            name=name,
            status=status,
            fold=present + 1,
            folds=len(folds),
            epochs=epochs,
            of=of,
            seconds_left=seconds_left,
            problem=self._problems.get(name),
            comparison=comparison,
            fine_tuned=comparison and figure_in(comparison, comparison.fine_tuned),
            head_alone=comparison and figure_in(comparison, comparison.head_alone),
            command=f"actionrec train --config {self.folder / name / 'config.yaml'} --output again",
        )

    @property
    def is_busy(self) -> bool:
        """Whether a run is being trained or compared."""
        return bool(self._name)

    def _require_idle(self) -> None:
        if self.is_busy:
            raise ActionrecError(f"Run {self._name} is being trained; stop it first.")

    def _launch(self, name: str, epochs: int | None) -> None:
        self._problems.pop(name, None)
        self._stopping.clear()
        self._name, self._pace = name, math.nan
        self._thread = threading.Thread(target=self._run, args=(name, epochs), daemon=True)
        self._thread.start()

    def _run(self, name: str, epochs: int | None) -> None:
        """Train and compare the folds of a run that are not done yet, one after the other."""
        try:
            for fold in self.folds(name):
                result = self.folder / f"{fold}.json"
                if read_comparison(result) is not None:
                    continue
                # Later folds are trained like the first.
                epochs = epochs or epochs_of(self.folder / name / "config.yaml")
                if not self._train(fold, epochs):
                    break
                self._comparing = True
                self.teacher.changed()
                if (comparison := self._compare(fold)) is None:
                    break
                write_whole(result, json_text(asdict(comparison)) + "\n")
                self._comparing = False
        except ActionrecError as error:
            self._problems[name] = str(error)
        except OSError as error:
            self._problems[name] = f"The training could not be started ({error.strerror})."
        finally:
            self._name, self._comparing = "", False
            self.teacher.changed()

    def _train(self, fold: str, epochs: int | None) -> bool:
        """Train a fold to its end; whether it is done, and was not asked to stop.

        Raises:
            ActionrecError: it failed.
        """
        folder = self.folder / fold
        config = folder / "config.yaml"
        if config.is_file():
            arguments = ["--config", config, "--resume", "auto"]
        else:
            base = self.teacher.base.config
            arguments = ["--dataset", "csv", "--root", self.folder / f"{fold}.csv"]
            arguments += ["--backbone", base.backbone, "--weights", self.model]
            arguments += ["--output", folder]
            arguments += ["--epochs", epochs] if epochs else []
            # A recipe's warm-up takes some epochs of its own.
            arguments += ["--warmup", 0] if epochs and epochs < WITH_WARMUP else []
        self._wait_for_an_orphan(folder)
        begin, before = time.monotonic(), len(read_epochs(folder / "logs" / "metrics.csv"))
        self._begin, self._before = begin, before
        with self._lock, (self.folder / f"{fold}.log").open("ab") as log:
            if self._stopping.is_set():
                return False
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "actionrec.app.tied_process", "train", *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        code = process.wait()
        if (new := len(read_epochs(folder / "logs" / "metrics.csv")) - before) > 0:
            self._pace = (time.monotonic() - begin) / new
        if code != 0 and not self._stopping.is_set():
            raise ActionrecError(last_lines(self.folder / f"{fold}.log"))
        return code == 0

    def _wait_for_an_orphan(self, folder: Path) -> None:
        """Wait until the training of a page that was killed has stopped, as it does by itself."""
        while folder.is_dir() and not self._stopping.is_set():
            with suppress(ActionrecError), exclusive(folder / "run", "It is being trained."):
                return
            self._stopping.wait(0.2)

    def _compare(self, fold: str) -> Comparison | None:
        """The network of a fold and the head alone on its held-out examples; None if the page is to
        stop meanwhile."""
        examples, sides = read_examples_of_run(self.folder / f"{fold}.csv")
        held_out = [x for x, side in zip(examples, sides, strict=True) if side == "val"]
        network = VideoClassifier.load(self.folder / fold / "model.safetensors")
        labels = network.config.labels
        head = self.teacher.head_without([x.part for x in held_out], examples, labels)
        known = [x for x in held_out if self.teacher.is_known(x.part)]
        right = sum(
            labels[int(scores_of(self.teacher.features(x.part), *head).argmax())] == x.label
            for x in known
        )
        tuned = self._rightly_named(network, known)
        groups = len({example.group for example in known})
        return None if tuned is None else Comparison(len(known), tuned, right, groups)

    def _rightly_named(self, network: VideoClassifier, examples: Sequence[Example]) -> int | None:
        model = InferenceModel(network)
        label_of = {self.teacher.source(x.part): x.label for x in examples}
        networks = [model.scores] * threads_of(model)
        right = 0
        with closing(score_videos(networks, model.clips, list(label_of), CLIPS)) as results:
            for source, result in results:
                if self._stopping.is_set():
                    return None
                if isinstance(result, ScoredVideo):
                    best = int(result.answers[:, 0].mean(axis=0).argmax())
                    right += model.labels[best] == label_of[source]
        return right


def total(comparisons: Sequence[Comparison]) -> Comparison:
    """The comparison on the held-out examples of several folds, which share none and no group."""
    groups = [each.groups for each in comparisons]
    return Comparison(
        sum(each.examples for each in comparisons),
        sum(each.fine_tuned for each in comparisons),
        sum(each.head_alone for each in comparisons),
        None if None in groups else sum(groups),
    )


def figure_in(comparison: Comparison, right: int) -> Figure | None:
    """The share of a comparison's examples that is right, with its interval."""
    if not comparison.examples:
        return None
    return figure_of(right, comparison.examples, comparison.groups or comparison.examples)


def divisions(examples: Sequence[Example]) -> list[list[str]]:
    """For each fold, train or val for each example: about a fifth, whole groups, validates.

    A fold whose other examples lack a class is left out.

    Raises:
        ActionrecError: a class or the whole has too few groups.
    """
    labels = [example.label for example in examples]
    groups = [example.group for example in examples]
    folds = min(FOLDS, len(set(groups)))
    if len(set(labels)) < 2:
        raise ActionrecError("Training needs examples of two classes.")
    if folds < 2:
        raise ActionrecError(
            "All examples are of one group, so none could validate; name the groups, or add videos "
            "of another person, place or recording."
        )
    dealt = deal_groups(groups, labels, folds)
    found, lacking = [], set()
    for fold in range(folds):
        trained = {label for label, of in zip(labels, dealt, strict=True) if of != fold}
        lacking |= set(labels) - trained
        if trained == set(labels) and fold in dealt:
            found.append(["val" if of == fold else "train" for of in dealt])
    if not found:
        raise ActionrecError(
            f"{min(lacking)!r} has too few groups to train on some and validate on others; add "
            "examples of another person, place or recording."
        )
    return found


def write_examples(path: Path, examples: Sequence[Example], sides: Sequence[str]) -> None:
    """Write the table of a run; its paths lead from the folder of runs."""
    lines = [("path", "label", "group", "split", "start", "end")]
    for example, side in zip(examples, sides, strict=True):
        part = ["" if value is None else value for value in (example.start, example.end)]
        lines.append((f"../{example.path}", example.label, example.group, side, *part))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_whole(path, text.getvalue())


def read_examples_of_run(path: Path) -> tuple[list[Example], list[str]]:
    """The examples of a run, and the side of each."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    examples = [Example.of(row | {"path": row["path"].removeprefix("../")}) for row in rows]
    return examples, [row["split"] for row in rows]


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """The finished epochs of a run; an epoch that was trained twice counts once."""
    epochs = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row.get("val_top1"):
                    figures = (float(row[x]) for x in ("train_loss", "val_loss", "val_top1"))
                    number = int(float(row["epoch"])) + 1
                    epochs[number] = Epoch(number, *figures)
    except (OSError, ValueError, KeyError):
        pass
    return tuple(x for x in epochs.values() if math.isfinite(x.train_loss + x.val_loss))


def epochs_of(path: Path) -> int | None:
    """How many epochs a run has."""
    try:
        return int(yaml.safe_load(path.read_text(encoding="utf-8"))["epochs"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


def read_comparison(path: Path) -> Comparison | None:
    """The comparison of a finished run."""
    try:
        return Comparison(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def last_lines(path: Path) -> str:
    """The end of a log."""
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return "\n".join([line for line in lines if line.strip()][-LINES:])
