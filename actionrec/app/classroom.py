"""What the page does with a project: shows it, changes it, and takes and gives its files.

`actionrec.app.routes` has the addresses for it.
"""

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import AsyncIterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from actionrec.app.fine_tuning import FineTuning
from actionrec.app.previews import Preview, previews, read_preview
from actionrec.app.project import (
    Conflict,
    Edit,
    Example,
    Project,
    Table,
    folded,
    is_visible,
    require_name,
)
from actionrec.app.teacher import Teacher
from actionrec.datasets.check import FileState
from actionrec.errors import ActionrecError
from actionrec.export import export
from actionrec.files import TEMPORARY, short_enough
from actionrec.models import model_file
from actionrec.models.classifier import VideoClassifier

logger = logging.getLogger(__name__)

LONGEST_WORDS = 400  # letters of what an edit is called
RESERVE = 20  # bytes of a file's name for " (2)" and the suffixes of previews
GROUPINGS = ("file", "name", "time")
SESSION = 600.0  # seconds between recordings of different groups


class TooLarge(ActionrecError):
    """A file is larger than the page takes."""


@dataclass
class Classroom:
    """A project, what is learnt from it, and its previews, behind the addresses of the page.

    Attributes:
        state: Grows with everything that a page should show anew.
    """

    project: Project
    teacher: Teacher
    tuning: FineTuning
    max_seconds: float
    max_megabytes: float
    state: int = 1

    @property
    def folder(self) -> Path:
        """The project's folder."""
        return self.project.folder

    def __post_init__(self) -> None:
        self.shown: dict[str, Preview | ActionrecError] = {}
        self.uploading = threading.Lock()
        self.awake, self.closed = threading.Event(), threading.Event()
        self.preview_thread = threading.Thread(target=self.make_previews, daemon=True)
        self.teacher.changed = self.change

    def start(self) -> None:
        """Begin to learn and to make previews."""
        self.preview_thread.start()
        self.teacher.start()

    def close(self) -> None:
        """End all threads and the training."""
        self.closed.set()
        self.awake.set()
        self.tuning.close()
        self.teacher.close()
        if self.preview_thread.is_alive():
            self.preview_thread.join()

    def change(self) -> None:
        """Something is to be shown anew."""
        self.state += 1

    def make_previews(self) -> None:
        """Make the previews of new videos, one after the other, until the page is closed."""
        seen: dict[str, FileState] = {}
        while not self.closed.is_set():
            missing = []
            now = {path: FileState.of(self.folder / path) for path in self.project.videos()}
            # Videos that were deleted or replaced by hand.
            for path in [path for path in self.shown if now.get(path) != seen[path]]:
                del self.shown[path]
                self.change()
            seen = now
            for path in now:
                if path not in self.shown and (known := read_preview(self.folder, path)):
                    self.shown[path] = known
                    self.change()
                elif path not in self.shown:
                    missing.append(path)
            try:
                made = previews(self.folder, missing, self.max_seconds)
                for path, result in made:
                    self.shown[path] = result
                    self.change()
                    if self.closed.is_set():
                        made.close()
            except Exception:
                logger.exception("The previews could not be made.")
            self.awake.wait(timeout=5)
            self.awake.clear()

    # What the page shows

    def describe(self) -> dict[str, Any]:
        """Everything that the page shows."""
        state = self.state
        try:
            table = self.project.table()
            problem = None
        except ActionrecError as error:
            table, problem = Table(), str(error)
        lesson = self.teacher.lesson
        counts = {label: 0 for label in table.labels}
        for example in table.examples:
            counts[example.label] += 1
        suggested = {each.path: each for each in lesson.suggestions}
        unlabelled = [] if problem else self.project.unlabelled()
        order = {path: number for number, path in enumerate(suggested)}
        unlabelled.sort(key=lambda path: order.get(path, len(order)))
        return {
            "state": state,
            "folder": str(self.folder),
            "problem": problem,
            "model": self.project.model,
            "classes": [{"name": name, "examples": n} for name, n in counts.items()],
            "examples": [self.example(each) for each in table.examples],
            "unlabelled": [
                self.video(path)
                | {"suggestion": asdict(suggested[path]) if path in suggested else None}
                for path in unlabelled
            ],
            "figure": lesson.figure and asdict(lesson.figure),
            "words": lesson.words,
            "learnt": list(lesson.labels),
            "doing": self.teacher.doing,
            "undo": self.project.undoable(),
            "runs": [asdict(run) for run in self.tuning.states()],
        }

    def example(self, example: Example) -> dict[str, Any]:
        """An example with its video, and what a head says that was fitted without its group."""
        judgement = self.teacher.lesson.judgements.get(example.part)
        failure = self.teacher.failure(example.part)
        return (
            self.video(example.path)
            | asdict(example)
            | {
                "is_known": self.teacher.is_known(example.part),
                "judgement": judgement and asdict(judgement),
            }
            | ({"problem": failure} if failure else {})
        )

    def video(self, path: str) -> dict[str, Any]:
        """What the page shows of a video."""
        preview = self.shown.get(path)
        failure = self.teacher.failure((path, None, None))
        problem = str(preview) if isinstance(preview, ActionrecError) else failure
        known = isinstance(preview, Preview)
        return {
            "path": path,
            "name": path.removeprefix("videos/"),
            "duration": preview.duration if known else None,
            "thumbnails": preview.thumbnails if known else 0,
            # Messages name the file where it lies.
            "problem": problem and problem.replace(f"{self.folder}{os.sep}videos{os.sep}", ""),
        }

    # What the page changes

    def add_class(self, name: str) -> None:
        """Name a class that has no examples yet."""
        name = require_name(name, "class")
        table = self.project.table()
        if (known := self.spelling(name)) in table.labels:
            raise Conflict(f"There is a class {known!r} already.")
        self.make(Edit(f"new class {name}", classes=(table.classes, (*table.classes, name))))

    def rename_class(self, old: str, new: str, merge: bool) -> None:
        """Rename a class; with `merge` to the name of another one, whose examples they become."""
        new = require_name(new, "class")
        table = self.project.table()
        if old not in table.labels:
            raise Conflict(f"There is no class {old!r} any more.")
        if new == old:
            return
        if folded(new) != folded(old):
            new = self.spelling(new)
        if new in table.labels and not merge:
            raise Conflict(
                f"There is a class {new!r} already; rename it too, or put both together."
            )
        changed = [x for x in table.examples if x.label == old]
        classes = tuple(dict.fromkeys(new if name == old else name for name in table.labels))
        self.make(
            Edit(
                f"{old} is called {new}",
                tuple(changed),
                tuple(replace(x, label=new) for x in changed),
                classes=(table.classes, classes),
            )
        )

    def spelling(self, name: str) -> str:
        """A name as the class is spelt that is the same but for upper case, if there is one."""
        name, labels = require_name(name, "class"), self.project.table().labels
        alike = [label for label in labels if folded(label) == folded(name)]
        return name if name in labels or not alike else alike[0]

    def remove_class(self, name: str) -> None:
        """Remove a class; the videos of its examples are unlabelled then."""
        table = self.project.table()
        gone = tuple(x for x in table.examples if x.label == name)
        classes = tuple(each for each in table.labels if each != name)
        self.make(Edit(f"remove class {name}", gone, classes=(table.classes, classes)))

    def group_by(self, way: str) -> None:
        """Name the groups of all examples anew: by file, by the beginning of the file's name, or
        by the time of recording."""
        if way not in GROUPINGS:
            raise ActionrecError(f"There is no way {way!r} of grouping.")
        examples = self.project.table().examples
        groups = self.recordings() if way == "time" else {}
        new = [replace(x, group=groups.get(x.path) or group_of(x.path, way)) for x in examples]
        pairs = [(a, b) for a, b in zip(examples, new, strict=True) if a != b]
        if pairs:
            self.make(Edit(f"groups by {way}", *map(tuple, zip(*pairs, strict=True))))

    def recordings(self) -> dict[str, str]:
        """The session of each video that knows when it was recorded: a time without long pauses."""
        times = {
            path: preview.recorded
            for path, preview in self.shown.items()
            if isinstance(preview, Preview) and preview.recorded is not None
        }
        groups, session, last = {}, 0, None
        for path, recorded in sorted(times.items(), key=lambda item: item[1]):
            if last is None or recorded - last > SESSION:
                session += 1
            groups[path], last = f"session {session}", recorded
        return groups

    def drop(self, path: str) -> None:
        """Leave a video out: its examples go, and it is not suggested any more."""
        table = self.project.table()
        gone = tuple(x for x in table.examples if x.path == path)
        # A video that was deleted has its examples still.
        if not gone and path not in self.project.videos():
            raise ActionrecError(f"{path} is no video of the project.")
        dropped = tuple(dict.fromkeys((*table.dropped, path)))
        if gone or dropped != table.dropped:
            self.make(Edit(f"drop {Path(path).name}", gone, dropped=(table.dropped, dropped)))

    def change_rows(self, values: dict[str, Any]) -> None:
        """Replace rows of the table by others."""
        removed, added = (examples_of(values, name) for name in ("removed", "added"))
        added = [replace(example, label=self.spelling(example.label)) for example in added]
        videos = set(self.project.videos()) | {example.path for example in removed}
        for example in added:
            if example.path not in videos:
                raise ActionrecError(f"{example.path} is no video of the project.")
            duration = self.video(example.path)["duration"]
            if example.end is not None and duration and example.end > duration + 0.05:
                raise ActionrecError(
                    f"{example} is outside the video, which ends at {duration:.2f} s."
                )
        words = str(values.get("words") or "an edit")[:LONGEST_WORDS]
        self.make(Edit(words, tuple(removed), tuple(added)))

    def make(self, edit: Edit) -> None:
        """Make an edit and learn from it."""
        self.project.edit(edit)
        self.changed_table()

    def undo(self) -> None:
        """Take the last edit back."""
        try:
            if self.project.undo() is None:
                raise ActionrecError("There is nothing to undo.")
        finally:
            self.changed_table()

    def changed_table(self) -> None:
        self.change()
        self.teacher.wake()

    # Files

    async def receive(
        self, chunks: AsyncIterable[bytes], announced: int, folder: Path
    ) -> tuple[Path, str]:
        """Write an upload of `announced` bytes to a new file in `folder`; returns file and sha256.

        Raises:
            TooLarge: it is larger than the page takes; nothing is left of it.
            ActionrecError: the disk is full.
        """
        most = int(self.max_megabytes * 1e6)
        too_large = TooLarge(
            f"The file is larger than the {self.max_megabytes:g} MB that this page takes; cut it, "
            "or start `actionrec app` with more --max-megabytes."
        )
        if announced > most:
            raise too_large
        # `actionrec.files.remove_leftovers` knows the name.
        path, sha256, size = None, hashlib.sha256(), 0
        try:
            folder.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".upload{TEMPORARY}", dir=folder)
            path = Path(name)
            with os.fdopen(handle, "wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > most:
                        raise too_large
                    sha256.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            if path is not None:
                path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise ActionrecError(
                    f"The video could not be kept ({error.strerror}); free some space."
                ) from error
            raise
        if size == 0:
            path.unlink()
            raise ActionrecError("The file is empty.")
        return path, sha256.hexdigest()

    def add_video(
        self, received: Path, sha256: str, name: str, label: str, group: str
    ) -> tuple[str, bool]:
        """Give a received file its place in the project, and a label unless that is ""; returns its
        path and whether it is new. Without a group it is one of its own."""
        path, new = self._keep(received, sha256, name)
        known = {example.part for example in self.project.table().examples}
        if label and (path, None, None) not in known:
            example = Example(path, self.spelling(label), group or group_of(path))
            self.make(Edit(f"add {example}", added=(example,)))
        return path, new

    def _keep(self, received: Path, sha256: str, name: str) -> tuple[str, bool]:
        folder = self.folder / "videos"
        with self.uploading:
            # Hidden ones are uploads that come in just now.
            for other in (each for each in folder.iterdir() if not each.name.startswith(".")):
                if not other.is_file() or other.stat().st_size != received.stat().st_size:
                    continue
                with other.open("rb") as file:
                    known = hashlib.file_digest(file, "sha256").hexdigest() == sha256
                if known:
                    received.unlink()
                    return f"videos/{other.name}", False
            target = folder / free_name(folder, name)
            received.rename(target)
        self.awake.set()
        self.teacher.wake()
        self.change()
        return f"videos/{target.name}", True

    def download(self, run: str | None, kind: str) -> Path:
        """A model as a file: that of a run, or the base with the newest head.

        Raises:
            ActionrecError: nothing is learnt yet, or the kind of file is unknown or not installed.
        """
        if kind not in ("safetensors", "onnx"):
            raise ActionrecError(
                f"There is no file of the kind {kind!r}; there are safetensors, onnx."
            )
        folder = self.folder / "models"
        if run is not None:
            source = self.tuning.model_file(run)
            # A run that goes on has another model later.
            name = f"{self.folder.name} run {run} {model_file.sha256(source)[:8]}"
        else:
            classifier = self.teacher.classifier()
            weights = classifier.network.head.weight.detach().numpy().tobytes()
            digest = hashlib.sha256(weights + repr(classifier.config.labels).encode()).hexdigest()
            name = f"{self.folder.name} {digest[:8]}"
            source = folder / f"{name}.safetensors"
            if not source.exists():
                classifier.save(source)
        if kind == "safetensors":
            return source
        target = folder / f"{name}.onnx"
        if not target.exists():
            export(VideoClassifier.load(source), target)
        return target


def examples_of(values: dict[str, Any], name: str) -> list[Example]:
    """The rows of a request.

    Raises:
        ActionrecError: it has something else, or a row is impossible.
    """
    rows = values.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ActionrecError(f"The {name} rows of the request are no list of objects.")
    return [Example.of(row) for row in rows]


def free_name(folder: Path, name: str) -> str:
    """A name for a new file of `folder`, as near as possible to what a user called it."""
    name = name.replace("\\", "/").rpartition("/")[2].strip().lstrip(".")
    name = "".join(c if is_visible(c) and c not in '<>:"|?*' else "_" for c in name) or "video"
    stem, suffix = os.path.splitext(name)
    while len(os.fsencode(f"{stem}{suffix}")) > 255 - RESERVE and stem:
        stem = stem[:-1]
    names, number = {x.name.lower() for x in folder.iterdir()}, 1
    name = short_enough(f"{stem}{suffix}")
    while name.lower() in names:
        number += 1
        name = f"{stem} ({number}){suffix}"
    return name


def group_of(path: str, way: str = "file") -> str:
    """The group of a video by its name, as long as nobody names another."""
    stem = Path(path).stem
    if way == "name":
        for separator in "_- .":
            stem = stem.partition(separator)[0] or stem
    return stem
