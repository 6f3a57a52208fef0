"""Fine-tuning of a project in the background, beside its head alone on the same videos.

runs/
    1.csv       the examples, and which of them validate: whole groups
    1/          the run of `actionrec train`; stopped, it goes on where it was
    1.json      how many validation examples the network and the head alone name rightly
    1.log       what the training said
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
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from actionrec.app.project import Example, Project
from actionrec.app.teacher import Teacher, scores_of
from actionrec.datasets.dataset import deal_groups
from actionrec.errors import ActionrecError
from actionrec.files import write_whole
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
    """How many of the validation examples, of which each has `CLIPS` clips, are named rightly."""

    examples: int
    fine_tuned: int
    head_alone: int


@dataclass(frozen=True)
class RunState:
    """What the page shows of a run.

    Attributes:
        name: Number of the run.
        status: running, stopped, comparing, done or failed.
        epochs: Finished epochs.
        of: Epochs of the run; None until it is known.
        seconds_left: None while nothing is known.
        problem: Why it failed.
        comparison: None until it is done.
        command: What repeats it.
    """

    name: str
    status: str
    epochs: tuple[Epoch, ...]
    of: int | None
    seconds_left: float | None
    problem: str | None
    comparison: Comparison | None
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
        self._process: subprocess.Popen[bytes] | None = None
        self._name, self._begin, self._before = "", 0.0, 0
        self._problems: dict[str, str] = {}
        self._comparing = ""
        self._lock = threading.Lock()

    def start(self, epochs: int | None = None) -> None:
        """Begin a new run on the examples as they are now.

        Raises:
            ActionrecError: there are too few examples or groups, or another run is being trained.
        """
        with self._lock:
            self._require_idle()
            examples = self.project.table().examples
            sides = validation_sides(examples)
            name = str(max(map(int, self.names()), default=0) + 1)
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
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()

    def close(self) -> None:
        """Stop the training, and return when it has ended."""
        self.stop()
        if self._process is not None:
            self._process.wait()

    def names(self) -> list[str]:
        """The runs, the oldest first."""
        found = (x.stem for x in self.folder.glob("*.csv") if x.stem.isdigit())
        return sorted(found, key=int)

    def model_file(self, name: str) -> Path:
        """The model of a run.

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
        folder = self.folder / name
        epochs = read_epochs(folder / "logs" / "metrics.csv")
        of = epochs_of(folder / "config.yaml")
        comparison = read_comparison(self.folder / f"{name}.json")
        running = self._name == name and self._process is not None
        if running and self._process.poll() is None:
            status = "running"
        elif self._comparing == name:
            status = "comparing"
        elif name in self._problems:
            status = "failed"
        else:
            status = "done" if comparison else "stopped"
        seconds_left, new = None, len(epochs) - self._before
        if status == "running" and of is not None and new > 0:
            seconds_left = (time.monotonic() - self._begin) / new * (of - len(epochs))
        command = f"actionrec train --config {folder / 'config.yaml'} --output again"
        problem = self._problems.get(name)
        return RunState(name, status, epochs, of, seconds_left, problem, comparison, command)

    @property
    def is_busy(self) -> bool:
        """Whether a run is being trained or compared."""
        return bool(self._comparing) or self._process is not None and self._process.poll() is None

    def _require_idle(self) -> None:
        if self.is_busy:
            raise ActionrecError(f"Run {self._name} is being trained; stop it first.")

    def _launch(self, name: str, epochs: int | None) -> None:
        config = self.folder / name / "config.yaml"
        if config.is_file():
            arguments = ["--config", config, "--resume", "auto"]
        else:
            base = self.teacher.base.config
            arguments = ["--dataset", "csv", "--root", self.folder / f"{name}.csv"]
            arguments += ["--backbone", base.backbone, "--weights", self.model]
            arguments += ["--output", self.folder / name]
            arguments += ["--epochs", epochs] if epochs else []
            # A recipe's warm-up takes some epochs of its own.
            arguments += ["--warmup", 0] if epochs and epochs < WITH_WARMUP else []
        self._problems.pop(name, None)
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "actionrec.app.tied_process", "train", *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self._name, self._begin = name, time.monotonic()
        self._before = len(read_epochs(self.folder / name / "logs" / "metrics.csv"))
        threading.Thread(target=self._watch, args=(name, self._process), daemon=True).start()

    def _watch(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a training, then compare it with the head alone."""
        code = process.wait()
        asked = process.stdin is None or process.stdin.closed
        if code == 0:
            self._comparing = name
            try:
                comparison = self._compare(name)
                write_whole(self.folder / f"{name}.json", json_text(asdict(comparison)) + "\n")
            except ActionrecError as error:
                self._problems[name] = str(error)
            finally:
                self._comparing = ""
        elif not asked:
            self._problems[name] = last_lines(self.folder / f"{name}.log")
        self.teacher.changed()

    def _compare(self, name: str) -> Comparison:
        examples, sides = read_examples_of_run(self.folder / f"{name}.csv")
        held_out = [x for x, side in zip(examples, sides, strict=True) if side == "val"]
        network = VideoClassifier.load(self.model_file(name))
        labels = network.config.labels
        head = self.teacher.head_without([x.part for x in held_out], examples, labels)
        known = [x for x in held_out if self.teacher.is_known(x.part)]
        right = sum(
            labels[int(scores_of(self.teacher.features(x.part), *head).argmax())] == x.label
            for x in known
        )
        return Comparison(len(known), self._rightly_named(network, known), right)

    def _rightly_named(self, network: VideoClassifier, examples: Sequence[Example]) -> int:
        model = InferenceModel(network)
        label_of = {self.teacher.source(x.part): x.label for x in examples}
        networks = [model.scores] * threads_of(model)
        right = 0
        with closing(score_videos(networks, model.clips, list(label_of), CLIPS)) as results:
            for source, result in results:
                if isinstance(result, ScoredVideo):
                    best = int(result.answers[:, 0].mean(axis=0).argmax())
                    right += model.labels[best] == label_of[source]
        return right


def validation_sides(examples: Sequence[Example]) -> list[str]:
    """train or val for each example: a fifth of them, whole groups, validates.

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
    for fold in range(folds):
        trained = {label for label, of in zip(labels, dealt, strict=True) if of != fold}
        if trained == set(labels):
            return ["val" if of == fold else "train" for of in dealt]
    lacking = min(set(labels) - trained)
    raise ActionrecError(
        f"{lacking!r} has too few groups to train on some and validate on others; add examples of "
        "another person, place or recording."
    )


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
