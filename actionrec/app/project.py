"""A project of the page: a folder with videos, a table of their labels, and what was made of them.

    actionrec app --project my_actions
    actionrec train --dataset csv --root my_actions/data.csv

    my_actions/
        data.csv        path, label, group, start, end: an example a row, the table of `train`
        project.json    version, model, names of classes, dropped videos
        history.jsonl   every edit, with the rows that it removed and added
        videos/         the videos, as they came
        previews/, features/    made from the videos; made anew if they are deleted
        models/, runs/  recognizers that were downloaded or trained

`data.csv` is the truth and may be edited by hand while the page runs. An edit is answered when it
is on the disk. It is refused if a row that it replaces is not there any more as the page has shown
it: another page, or a hand, was first.
"""

import csv
import io
import json
import logging
import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from unicodedata import normalize

from actionrec.datasets.csv import csv_records
from actionrec.errors import ActionrecError
from actionrec.files import exclusive, remove_leftovers, write_whole
from actionrec.text import json_text

logger = logging.getLogger("actionrec")

VERSION = 1
COLUMNS = ("path", "label", "group", "start", "end")
FOLDERS = ("videos", "previews", "features", "models", "runs")
LABEL_SEPARATOR = "|"  # of several labels in the table of `train`
LONGEST_NAME = 100  # letters of a class or group
# Invisible themselves, they belong to the spelling of some scripts and to many emoji.
JOINERS = "\u200c\u200d"


class Conflict(ActionrecError):
    """Somebody else has changed meanwhile what an edit was to change."""


@dataclass(frozen=True, order=True)
class Example:
    """A video, or the part of it from `start` to `end`, in seconds, that shows one class.

    Attributes:
        path: Below the project's folder, with forward slashes.
        label: Name of the class.
        group: The recording, person or place; examples of one group are never on both sides of a
            validation.
        start, end: None for the whole video.
    """

    path: str
    label: str
    group: str
    start: float | None = None
    end: float | None = None

    @property
    def part(self) -> tuple[str, float | None, float | None]:
        """Which part of which video it is."""
        return self.path, self.start, self.end

    def __str__(self) -> str:
        name = self.path.removeprefix("videos/")
        return name if self.start is None else f"{name} from {self.start:g} to {self.end:g} s"

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """An example from its values by name.

        Raises:
            ActionrecError: a value is missing or impossible.
        """
        path, label, group = (str(values.get(name) or "").strip() for name in COLUMNS[:3])
        start, end = (_seconds(values.get(name), name) for name in COLUMNS[3:])
        if not path or ".." in Path(path).parts or Path(path).is_absolute():
            raise ActionrecError(f"{path!r} is no path below the project's folder.")
        # One name in all its encodings, as `train` sees it.
        group = normalize("NFC", group or Path(path).stem)
        label = require_name(label, "class")
        if (start is None) != (end is None):
            raise ActionrecError(f"{path} has only one of start and end; give both or none.")
        if start is not None and not 0 <= start < end:
            raise ActionrecError(
                f"{path} from {start:g} to {end:g} s is no part of a video; start must be before "
                "end, and neither negative."
            )
        return cls(path, label, group, start, end)


@dataclass(frozen=True)
class Table:
    """All examples, the names of classes that may have none yet, and the dropped videos."""

    examples: tuple[Example, ...] = ()
    classes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of all classes: those that were named, then those of examples alone."""
        return tuple(dict.fromkeys((*self.classes, *sorted({x.label for x in self.examples}))))


@dataclass(frozen=True)
class Edit:
    """A change of a table.

    Attributes:
        words: What it does, for the button that undoes it.
        removed, added: Rows; a changed one is in both.
        classes, dropped: Names and videos before and after, where they change.
        undoes: The number of the edit that it takes back.
    """

    words: str
    removed: tuple[Example, ...] = ()
    added: tuple[Example, ...] = ()
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    dropped: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    undoes: int | None = None

    def inverse(self, number: int) -> "Edit":
        """The edit that takes this one, of a given number, back."""
        return Edit(
            f"Undo: {self.words}",
            self.added,
            self.removed,
            self.classes and self.classes[::-1],
            self.dropped and self.dropped[::-1],
            undoes=number,
        )

    def applied(self, table: Table) -> Table:
        """The table after the edit.

        Raises:
            Conflict: a row to remove is not there, or one to add is.
            ActionrecError: a video would have two groups.
        """
        present = {example.part: example for example in table.examples}
        for example in self.removed:
            if (now := present.pop(example.part, None)) != example:
                state = "is gone" if now is None else f"is now {now.label!r} of group {now.group!r}"
                raise Conflict(f"{example} {state}; somebody else changed it, so look again.")
        for example in self.added:
            if example.part in present:
                raise Conflict(f"{example} is there already, as {present[example.part].label!r}.")
            present[example.part] = example
        # A changed row stays in its place.
        added = {example.part: example for example in self.added}
        kept = [present[x.part] for x in table.examples if x.part in present]
        old = {example.part for example in table.examples}
        new = [example for part, example in added.items() if part not in old]
        require_one_group(kept + new)
        return Table(
            tuple(kept + new),
            self.classes[1] if self.classes else table.classes,
            self.dropped[1] if self.dropped else table.dropped,
        )


@dataclass
class Project:
    """An open project. Its methods may be called from several threads.

    Attributes:
        folder: The project's folder.
        model: File or name of the model whose features it uses.
        revision: Grows with every change of the table.
    """

    folder: Path
    model: str
    revision: int = 0
    _table: Table = field(default_factory=Table, repr=False)
    _state: tuple[int, int] | None = field(default=None, repr=False)
    _history: list[Edit | None] = field(default_factory=list, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, model: str) -> Iterator["Project"]:
        """Open a project, which is made if there is none, and keep other programs away from it.

        Raises:
            ActionrecError: the folder holds something else, a project of another version or of
                another model, a broken table, or another page has it.
        """
        folder = folder.absolute()
        if folder.exists() and not folder.is_dir():
            raise ActionrecError(f"{folder} is a file; name a folder with --project.")
        new = not folder.exists()
        busy = f"Another page has the project {folder} open; use that one, or end it first."
        with exclusive(folder / "project", busy):
            project = cls(folder, model)
            description = folder / "project.json"
            if description.exists():
                project._read_description(description)
            elif others := [x for x in folder.iterdir() if not x.name.startswith(".")]:
                raise ActionrecError(
                    f"{folder} holds {others[0].name} and no project; name a new or empty folder "
                    "with --project."
                )
            else:
                project._write_description(project._table)
            for name in FOLDERS:
                (folder / name).mkdir(exist_ok=True)
            remove_leftovers(folder)
            project._history = read_history(folder / "history.jsonl")
            project.table()
            try:
                yield project
            finally:
                project._remove_unused()
        if new:
            with suppress(OSError):
                folder.rmdir()

    def table(self) -> Table:
        """The table as it is on the disk now.

        Raises:
            ActionrecError: it was edited by hand and can't be read.
        """
        with self._lock:
            state = self._file_state()
            if state != self._state:
                examples = read_examples(self.folder / "data.csv")
                self._state = state
                if examples != self._table.examples:
                    self._table = replace(self._table, examples=examples)
                    self.revision += 1
            return self._table

    def edit(self, edit: Edit) -> Table:
        """Make an edit; it is on the disk when this returns.

        Raises:
            Conflict: the table is not as the edit expects.
            ActionrecError: the files can't be written.
        """
        with self._lock:
            before = self.table()
            edited = edit.applied(before)
            is_described = edit.classes is not None or edit.dropped is not None
            # The labels last: where the first file can't be written, they are as they were.
            if is_described:
                self._write_description(edited)
            if edit.removed or edit.added:
                try:
                    write_whole(self.folder / "data.csv", examples_as_csv(edited.examples))
                except ActionrecError:
                    if is_described:
                        with suppress(ActionrecError):
                            self._write_description(before)
                    raise
                self._state = self._file_state()
            self._table = edited
            self.revision += 1
            self._remember(edit)
            return edited

    def undo(self) -> Edit | None:
        """Take the last edit back that is not taken back yet; None if there is none.

        Raises:
            Conflict: its rows were changed since, by hand or by an edit that a kill kept out of
                the history; the next `undo` passes it over.
        """
        with self._lock:
            if (number := self._undoable()) is None:
                return None
            edit = self._history[number]
            inverse, table = edit.inverse(number), self.table()
            # Classes and videos that came since stay.
            if inverse.classes is not None:
                after = _moved(table.classes, *inverse.classes)
                inverse = replace(inverse, classes=(table.classes, after))
            if inverse.dropped is not None:
                after = _moved(table.dropped, *inverse.dropped)
                inverse = replace(inverse, dropped=(table.dropped, after))
            try:
                self.edit(inverse)
            except Conflict as conflict:
                self._remember(Edit(f"{edit.words} stays", undoes=number))
                raise Conflict(f"{edit.words!r} can't be undone any more: {conflict}") from conflict
            return edit

    def undoable(self) -> str | None:
        """What `undo` would take back, in words."""
        with self._lock:
            number = self._undoable()
            return None if number is None else self._history[number].words

    def videos(self) -> list[str]:
        """Paths of all videos of the project, below its folder."""
        try:
            names = os.listdir(self.folder / "videos")
        except OSError:
            return []
        # Names that are no UTF-8 have no place in a table or an answer.
        visible = (name for name in names if not name.startswith(".") and is_text(name))
        return sorted(f"videos/{name}" for name in visible)

    def unlabelled(self) -> list[str]:
        """Paths of the videos that are neither labelled nor dropped."""
        table = self.table()
        known = {example.path for example in table.examples} | set(table.dropped)
        return [path for path in self.videos() if path not in known]

    def _remove_unused(self) -> None:
        """Remove the files of a project that nothing was put into."""
        if self._history or self.videos() or self._table.examples:
            return
        (self.folder / "project.json").unlink(missing_ok=True)
        for name in FOLDERS:
            with suppress(OSError):
                (self.folder / name).rmdir()

    def _undoable(self) -> int | None:
        undone = {edit.undoes for edit in self._history if edit is not None}
        return next(
            (
                number
                for number in reversed(range(len(self._history)))
                if (edit := self._history[number]) is not None
                and edit.undoes is None
                and number not in undone
            ),
            None,
        )

    def _read_description(self, path: Path) -> None:
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            version = int(description["version"])
            model = str(description["model"])
            classes = tuple(map(str, description["classes"]))
            dropped = tuple(map(str, description["dropped"]))
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise ActionrecError(
                f"{path} is damaged ({error}); mend it, or name another folder with --project."
            ) from error
        if version != VERSION:
            raise ActionrecError(
                f"{self.folder} is a project of version {version}, and this actionrec knows "
                f"version {VERSION}; open it with the actionrec that made it."
            )
        if model != self.model:
            raise ActionrecError(
                f"{self.folder} was made with --model {model}, not {self.model}; start the page "
                "with that one, or name another folder with --project."
            )
        self._table = Table((), classes, dropped)

    def _write_description(self, table: Table) -> None:
        description = {
            "version": VERSION,
            "model": self.model,
            "classes": table.classes,
            "dropped": table.dropped,
        }
        write_whole(self.folder / "project.json", json_text(description, indent=2) + "\n")

    def _file_state(self) -> tuple[int, int] | None:
        try:
            status = (self.folder / "data.csv").stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def _remember(self, edit: Edit) -> None:
        path = self.folder / "history.jsonl"
        self._history.append(edit)
        try:
            with path.open("ab+") as file:
                # A line that a power cut or a full disk tore stays alone.
                file.seek(-min(1, file.tell()), os.SEEK_END)
                torn = file.read() not in (b"", b"\n")
                file.write(b"\n" * torn + json_text(asdict(edit)).encode() + b"\n")
        except OSError as error:
            # The labels themselves are on the disk.
            logger.warning("%s could not be written (%s); free some space.", path, error.strerror)


def read_history(path: Path) -> list[Edit | None]:
    """The edits of a project, in order; None for a line that a power cut tore."""
    if not path.exists():
        return []
    history: list[Edit | None] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            rows = {
                name: tuple(Example(**row) for row in values[name]) for name in ("removed", "added")
            }
            names = {
                name: values[name] and tuple(map(tuple, values[name]))
                for name in ("classes", "dropped")
            }
            history.append(Edit(values["words"], **rows, **names, undoes=values["undoes"]))
        except (ValueError, TypeError, LookupError):
            history.append(None)
    return history


def _moved(now: Iterable[str], before: Sequence[str], after: Sequence[str]) -> tuple[str, ...]:
    """Names after the change that leads from `before` to `after` is made to the present ones."""
    gone, come = set(before) - set(after), [name for name in after if name not in before]
    return tuple(dict.fromkeys([name for name in now if name not in gone] + come))


def require_name(name: str, what: str) -> str:
    """The name of a class or group without spaces around it.

    Raises:
        ActionrecError: it is empty, too long, or has characters that no name has.
    """
    name = normalize("NFC", " ".join(name.split()))
    if not name:
        raise ActionrecError(f"A {what} needs a name.")
    if len(name) > LONGEST_NAME:
        raise ActionrecError(f"The name of a {what} has at most {LONGEST_NAME} letters.")
    if LABEL_SEPARATOR in name or not all(map(is_visible, name)):
        raise ActionrecError(
            f"The name of a {what} has no {LABEL_SEPARATOR}, which parts several labels, and no "
            "invisible characters."
        )
    return name


def is_visible(character: str) -> bool:
    """Whether a character may be part of a name."""
    return character.isprintable() or character in JOINERS


def is_text(name: str) -> bool:
    """Whether a file's name is made of characters, not of stray bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def folded(name: str) -> str:
    """What is equal of two names that only differ by upper case or by the form of characters."""
    return normalize("NFKC", name.casefold())


def read_examples(path: Path) -> tuple[Example, ...]:
    """The examples of a table; none where there is no file.

    Raises:
        ActionrecError: it is no table of `COLUMNS`, or a row is impossible or there twice.
    """
    if not path.exists():
        return ()
    (_, header), *records = csv_records(path)
    columns = [name.lower() for name in header]
    if sorted(filter(None, columns)) != sorted(COLUMNS):
        raise ActionrecError(
            f"{path} has the columns {', '.join(columns) or 'of an empty file'}; a project's are "
            f"{', '.join(COLUMNS)}."
        )
    examples: dict[tuple[str, float | None, float | None], Example] = {}
    for line, record in records:
        values = dict(zip(columns, record, strict=False))
        try:
            if any(record[len(columns) :]) or values.pop("", ""):
                raise ActionrecError("more fields than columns; quote a name that has a comma.")
            example = Example.of(values)
        except ActionrecError as error:
            raise ActionrecError(f"{path}, line {line}: {error}") from error
        if example.part in examples:
            raise ActionrecError(f"{path}, line {line}: {example} is there twice.")
        examples[example.part] = example
    try:
        require_one_group(examples.values())
    except ActionrecError as error:
        raise ActionrecError(f"{path}: {error}") from error
    return tuple(examples.values())


def require_one_group(examples: Iterable[Example]) -> None:
    """Raise ActionrecError if parts of one video have different groups."""
    groups: dict[str, str] = {}
    for example in examples:
        if groups.setdefault(example.path, example.group) != example.group:
            raise ActionrecError(
                f"Parts of {example.path} have the groups {groups[example.path]!r} and "
                f"{example.group!r}; all parts of a video are of one group."
            )


def examples_as_csv(examples: Iterable[Example]) -> str:
    """The table as text."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for example in examples:
        values = asdict(example)
        writer.writerow(["" if values[name] is None else values[name] for name in COLUMNS])
    return text.getvalue()


def _seconds(value: Any, name: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ActionrecError(f"The {name} {value!r} is no number of seconds.")
    return seconds
