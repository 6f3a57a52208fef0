"""Whether a project of the page keeps everything through kills of its server at random moments.

    python scripts/check_project.py FOLDER
    python scripts/check_project.py FOLDER --minutes 10 --seed 0 --model kinetics400-i3d

FOLDER has a folder of videos for each class. A user adds them, marks parts, labels, relabels,
renames, groups, drops, undoes, accepts suggestions, downloads the head and fine-tunes, all by the
addresses of the page. The server is killed meanwhile, half the times while it answers, and started
again. After every start and every action the table on the disk and what the page says are compared
with what was answered. What was not answered may be done or not, but not halfway.

    lost         examples, videos, classes, dropped videos or edits that were answered and are gone
    doubled      examples that are there and should not be
    unreadable   the table as `actionrec train --dataset csv` reads it, or files that were answered
    left         temporary files and processes that a killed server left, after the next start

The exit code is 1 if one of them isn't 0.
"""

import argparse
import csv
import hashlib
import json
import logging
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import requests
from drawn_model import make_model
from rich.console import Console
from rich.table import Table

from actionrec.datasets.csv import open_csv
from actionrec.errors import ActionrecError
from actionrec.files import TEMPORARY

FAULTS = ("lost", "doubled", "unreadable", "left")
MOST_VIDEOS = 40
SECONDS_BETWEEN_KILLS = 9.0
SECONDS_BETWEEN_ACTIONS = 0.25
Part = tuple[str, float | None, float | None]
Rows = dict[Part, tuple[str, str]]  # label and group
Names = frozenset[str]


@dataclass(frozen=True)
class Change:
    """An edit as the user means it: rows and names before and after, where they change."""

    words: str | None
    removed: Rows
    added: Rows
    classes: tuple[Names, Names] = (frozenset(), frozenset())
    dropped: tuple[Names, Names] = (frozenset(), frozenset())

    def inverse(self) -> "Change":
        return Change(None, self.added, self.removed, self.classes[::-1], self.dropped[::-1])


@dataclass(frozen=True)
class State:
    """What the project must hold."""

    rows: Rows
    named: Names = frozenset()
    dropped: Names = frozenset()
    history: tuple[Change, ...] = ()

    @property
    def classes(self) -> Names:
        return self.named | {label for label, _ in self.rows.values()}

    @property
    def undo(self) -> str | None:
        return self.history[-1].words if self.history else None

    def after(self, change: Change) -> "State | None":
        """None if it can't be made."""
        if any(self.rows.get(part) != values for part, values in change.removed.items()):
            return None
        rows = {part: values for part, values in self.rows.items() if part not in change.removed}
        if rows.keys() & change.added.keys():
            return None
        return State(
            rows | change.added,
            self.named - (change.classes[0] - change.classes[1]) | change.classes[1],
            self.dropped - (change.dropped[0] - change.dropped[1]) | change.dropped[1],
            (*self.history, change),
        )

    def undone(self) -> "State":
        *earlier, last = self.history
        state = self.after(last.inverse()) or self
        return replace(state, history=tuple(earlier))


class Server:
    """`actionrec app` on a project, killed and started again."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.kills = 0
        self.lock = threading.Lock()

    def start(self) -> bool:
        """Whether it answers; it may be killed before."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "actionrec", "app", "--model", self.model]
        command += ["--project", str(self.folder / "project"), "--port", str(port)]
        self.begin = time.time()
        with (self.folder / "log.txt").open("ab") as log, self.lock:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ
                | {"TMPDIR": str(self.temporary)}
                | {"ACTIONREC_CACHE": os.environ["ACTIONREC_CACHE"]},
            )
        self.url = self.process.stdout.readline().strip()
        return self.url.startswith("http")

    def kill(self) -> None:
        with self.lock:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
                self.kills += 1

    def left(self) -> list[str]:
        """Temporary files of earlier servers."""
        files = [
            path
            for place in (self.folder / "project", Path(os.environ["ACTIONREC_CACHE"]))
            for path in place.rglob(f".*{TEMPORARY}*")
        ]
        files += self.temporary.glob("actionrec-*")
        found = []
        for path in files:
            try:
                if path.stat().st_mtime < self.begin:
                    found.append(str(path))
            except OSError:  # a file of the running server that is done
                continue
        return found


class User:
    """Does things at random, and knows what was answered."""

    def __init__(self, server: Server, clips: list[Path], choose: random.Random) -> None:
        self.server, self.clips, self.choose = server, clips, choose
        self.state = State({})
        self.doubt: State | None = None
        self.videos: dict[str, str] = {}  # sha256 by path
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.faults: dict[str, list[str]] = {kind: [] for kind in FAULTS}
        self.number = 0
        self.told: dict[str, Any] = {}
        self.kill_while_it_answers = False

    # Requests

    def send(self, method: str, address: str, **options: Any) -> requests.Response:
        if self.kill_while_it_answers:
            self.kill_while_it_answers = False
            threading.Timer(self.choose.random() * 0.03, self.server.kill).start()
        return requests.request(method, f"{self.server.url}{address}", timeout=120, **options)

    def post(self, name: str, values: dict[str, Any]) -> requests.Response:
        return self.send("POST", f"/project/{name}", json=values)

    def make(self, change: Change, name: str, values: dict[str, Any]) -> None:
        """Ask for a change, which is there once it is answered."""
        self.doubt = self.state.after(change)
        answer = self.post(name, values)
        if answer.ok:
            self.state = self.doubt
        else:
            self.refused[f"{name}: {answer.json()['error'][:60]}"] += 1
        self.doubt = None

    def rows(self, removed: Rows, added: Rows, words: str) -> None:
        self.number += 1
        words = f"{words} {self.number}"

        def listed(rows: Rows) -> list[dict[str, Any]]:
            return [
                {"path": path, "start": start, "end": end, "label": label, "group": group}
                for (path, start, end), (label, group) in rows.items()
            ]

        values = {"words": words, "removed": listed(removed), "added": listed(added)}
        self.make(Change(words, removed, added), "rows", values)

    # Actions; one that has nothing to work on does nothing.

    def add_video(self) -> None:
        if len(self.videos) >= MOST_VIDEOS:
            return
        clip = self.choose.choice(self.clips)
        self.number += 1
        # Another file each time.
        data = clip.read_bytes() + self.number.to_bytes(4, "big")
        name = f"{clip.stem} {self.number}{clip.suffix}"
        path, label = f"videos/{name}", self.choose.choice(["", clip.parent.name])
        group = clip.stem.partition("_")[0]
        if label:
            words = f"add {name}"
            self.doubt = self.state.after(Change(words, {}, {(path, None, None): (label, group)}))

        def pieces() -> Iterator[bytes]:
            size = len(data) // 3 + 1
            for start in range(0, len(data), size):
                yield data[start : start + size]
                time.sleep(0.01)

        query = {"name": name, "label": label, "group": group}
        answer = self.send("PUT", "/project/videos", params=query, data=pieces())
        if answer.ok:
            self.videos[answer.json()["path"]] = hashlib.sha256(data).hexdigest()
            self.state = self.doubt or self.state
        else:
            self.refused[f"videos: {answer.text[:60]}"] += 1
        self.doubt = None

    def unlabelled(self) -> list[str]:
        known = {path for path, *_ in self.state.rows} | self.state.dropped
        return [path for path in self.videos if path not in known]

    def a_row(self) -> tuple[Part, tuple[str, str]] | None:
        return self.choose.choice(list(self.state.rows.items())) if self.state.rows else None

    def a_class(self) -> str | None:
        return self.choose.choice(sorted(self.state.classes)) if self.state.classes else None

    def group(self, path: str) -> str:
        groups = (group for (its, *_), (_, group) in self.state.rows.items() if its == path)
        return next(groups, Path(path).stem.partition("_")[0])

    def label(self) -> None:
        if (paths := self.unlabelled()) and (label := self.a_class()):
            path = self.choose.choice(paths)
            self.rows({}, {(path, None, None): (label, self.group(path))}, "label")

    def relabel(self) -> None:
        if (row := self.a_row()) and (label := self.a_class()):
            part, (old, group) = row
            if label != old:
                self.rows({part: (old, group)}, {part: (label, group)}, "relabel")

    def mark_part(self) -> None:
        if (label := self.a_class()) and self.videos:
            path = self.choose.choice([x for x in self.videos if x not in self.state.dropped])
            start = round(self.choose.random(), 3)
            part = path, start, round(start + 0.1 + self.choose.random() * 0.3, 3)
            if part not in self.state.rows:
                self.rows({}, {part: (label, self.group(path))}, "part")

    def remove_row(self) -> None:
        if (row := self.a_row()) and len(self.state.rows) > 10:
            self.rows(dict([row]), {}, "remove")

    def regroup(self) -> None:
        if row := self.a_row():
            path = row[0][0]
            old = {part: values for part, values in self.state.rows.items() if part[0] == path}
            group = self.choose.choice(["ann", "bob", "cid", Path(path).stem])
            new = {part: (label, group) for part, (label, _) in old.items()}
            if new != old:
                self.rows(old, new, "group")

    def accept_suggestion(self) -> None:
        told = self.send("GET", "/project").json()
        if found := [x for x in told["unlabelled"] if x["suggestion"] and x["path"] in self.videos]:
            path, label = found[0]["path"], found[0]["suggestion"]["label"]
            # What was learnt may have another name by now.
            if label in self.state.classes and path in self.unlabelled():
                self.rows({}, {(path, None, None): (label, self.group(path))}, "accept")

    def add_class(self) -> None:
        if len(self.state.classes) < 8:
            self.number += 1
            name = f"class {self.number}"
            change = Change(f"new class {name}", {}, {}, (frozenset(), frozenset([name])))
            self.make(change, "class/add", {"name": name})

    def rename_class(self) -> None:
        if old := self.a_class():
            self.number += 1
            new = f"{old.partition(' ')[0]} {self.number}"
            changed = {part: row for part, row in self.state.rows.items() if row[0] == old}
            renamed = {part: (new, group) for part, (_, group) in changed.items()}
            names = self.state.named, self.state.classes - {old} | {new}
            change = Change(f"{old} is called {new}", changed, renamed, names)
            self.make(change, "class/rename", {"old": old, "new": new})

    def remove_class(self) -> None:
        if (name := self.a_class()) and len(self.state.classes) > 5:
            gone = {part: row for part, row in self.state.rows.items() if row[0] == name}
            names = self.state.named, self.state.classes - {name}
            change = Change(f"remove class {name}", gone, {}, names)
            self.make(change, "class/remove", {"name": name})

    def drop(self) -> None:
        if paths := [path for path in self.videos if path not in self.state.dropped]:
            path = self.choose.choice(paths)
            gone = {part: row for part, row in self.state.rows.items() if part[0] == path}
            names = frozenset(), frozenset([path])
            change = Change(f"drop {Path(path).name}", gone, {}, dropped=names)
            self.make(change, "drop", {"path": path})

    def undo(self) -> None:
        if self.state.history:
            self.doubt = self.state.undone()
            answer = self.post("undo", {})
            can_be_undone = self.state.after(self.state.history[-1].inverse()) is not None
            if answer.ok != can_be_undone:
                self.blame("lost", f"undo of {self.state.undo!r}: {answer.text}")
            self.state, self.doubt = self.doubt, None

    def download_head(self) -> None:
        answer = self.send("GET", "/project/model.safetensors")
        if answer.ok:
            header = int.from_bytes(answer.content[:8], "little")
            try:
                json.loads(answer.content[8 : 8 + header])
            except ValueError:
                self.blame("unreadable", "the downloaded model")

    def fine_tune(self) -> None:
        runs = self.send("GET", "/project").json()["runs"]
        if runs and runs[-1]["status"] == "running":
            if self.choose.random() < 0.3:
                self.post("train/stop", {})
        elif runs and runs[-1]["status"] in ("stopped", "failed"):
            if runs[-1]["problem"]:
                self.refused[f"fine-tuning: {runs[-1]['problem'][-60:]}"] += 1
            self.post("train/go-on", {"run": runs[-1]["name"]})
        elif self.choose.random() < 0.3:
            self.post("train/start", {"epochs": 3})

    def actions(self) -> dict[Callable[[], None], int]:
        """All actions, and how often each is done."""
        return {
            self.add_video: 12,
            self.label: 8,
            self.relabel: 8,
            self.mark_part: 8,
            self.accept_suggestion: 6,
            self.rename_class: 4,
            self.regroup: 4,
            self.undo: 6,
            self.add_class: 2,
            self.remove_row: 2,
            self.remove_class: 1,
            self.drop: 2,
            self.download_head: 2,
            self.fine_tune: 4,
        }

    def act(self) -> None:
        """Do something; ConnectionError and the like if the server is killed meanwhile."""
        [action] = self.choose.choices(*map(list, zip(*self.actions().items(), strict=True)))
        before = self.state
        action()
        self.done[action.__name__] += self.state is not before
        self.compare()

    # What is there

    def blame(self, kind: str, sentence: str) -> None:
        if sentence not in self.faults[kind]:
            self.faults[kind].append(sentence)
            print(f"{kind}: {sentence}", file=sys.stderr, flush=True)

    def after_a_start(self) -> None:
        """Find out which of two states there is, if the last request was not answered."""
        if self.doubt is not None:
            rows, told = self.rows_on_disk(), self.send("GET", "/project").json()
            names = frozenset(each["name"] for each in told["classes"])
            before, after = self.state, self.doubt
            state = after if rows == after.rows and rows != before.rows else before
            if rows == before.rows == after.rows and names == after.classes:
                state = after
            # The names are written before the rows, and the history after them.
            dropped = frozenset(told.get("dropped", ())) or state.dropped
            if dropped not in (before.dropped, after.dropped):
                self.blame("lost", f"dropped videos {dropped}")
            named = after.named if names == after.named | state.classes else state.named
            history = after.history if told["undo"] == after.undo else before.history
            self.state = replace(state, history=history, named=named, dropped=dropped)
            self.doubt = None
        for path, sha256 in self.videos.items():
            file = self.server.folder / "project" / path
            if not file.is_file():
                self.blame("lost", path)
            elif hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
                self.blame("unreadable", path)
        for path in self.server.left():
            self.blame("left", path)
        self.compare()
        self.read_as_train_does()

    def rows_on_disk(self) -> Rows:
        table = self.server.folder / "project" / "data.csv"
        if not table.exists():
            return {}
        with table.open(encoding="utf-8", newline="") as file:
            listed = list(csv.DictReader(file))
        rows: Rows = {}
        for row in listed:
            times = (float(row[x]) if row[x] else None for x in ("start", "end"))
            part: Part = row["path"], *times
            if part in rows:
                self.blame("doubled", f"{part} in data.csv")
            rows[part] = row["label"], row["group"]
        return rows

    def compare(self) -> None:
        """The table on the disk and the page against what was answered."""
        told = self.send("GET", "/project").json()
        shown = {
            (each["path"], each["start"], each["end"]): (each["label"], each["group"])
            for each in told["examples"]
        }
        for where, rows in (("data.csv", self.rows_on_disk()), ("the page", shown)):
            for part in self.state.rows.keys() - rows.keys():
                self.blame("lost", f"{part} in {where} of kill {self.server.kills}")
            for part in rows.keys() - self.state.rows.keys():
                self.blame("doubled", f"{part} in {where} of kill {self.server.kills}")
            for part in rows.keys() & self.state.rows.keys():
                if rows[part] != self.state.rows[part]:
                    self.blame("lost", f"{part} is {rows[part]}, not {self.state.rows[part]}")
        names = {each["name"] for each in told["classes"]}
        if names != self.state.classes:
            self.blame("lost", f"classes {sorted(names)}, not {sorted(self.state.classes)}")
        if told["undo"] != self.state.undo:
            self.blame("lost", f"undo is {told['undo']!r}, not {self.state.undo!r}")
        if told["problem"]:
            self.blame("unreadable", told["problem"])
        listed = {each["path"] for each in told["unlabelled"]}
        for path in set(self.unlabelled()) - listed:
            self.blame("lost", f"{path} is not shown as unlabelled")
        self.told = told

    def read_as_train_does(self) -> None:
        groups = {group for _, group in self.state.rows.values()}
        if len(groups) < 2:
            return
        try:
            open_csv(self.server.folder / "project" / "data.csv")
        except ActionrecError as error:
            # Whether each class has enough groups is not the table's fault.
            if "no training video shows" not in str(error):
                self.blame("unreadable", str(error))


def use(server: Server, user: User, minutes: float, choose: random.Random) -> None:
    """Ten minutes of a user's life, or as many as are wanted."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        # One in ten starts is killed, too.
        if choose.random() < 0.1:
            threading.Timer(choose.random() * 8, server.kill).start()
        if not server.start():
            server.process.wait()
            if server.process.returncode >= 0:
                raise SystemExit(f"The server does not start; see {server.folder / 'log.txt'}.")
            continue
        try:
            user.after_a_start()
            kill = time.monotonic() + choose.expovariate(1 / SECONDS_BETWEEN_KILLS)
            while server.process.poll() is None:
                if time.monotonic() > kill:
                    if choose.random() < 0.5:
                        server.kill()
                        break
                    user.kill_while_it_answers = True
                user.act()
                time.sleep(choose.random() * 2 * SECONDS_BETWEEN_ACTIONS)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            # It was killed: what was asked for is in doubt.
            server.process.wait()
        print(f"{user.done.total()} actions, {server.kills} kills", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, help="folder with a folder of videos for each class")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="a small network with drawn weights by default")
    parser.add_argument("--keep", type=Path, help="new folder for the project, which stays")
    arguments = parser.parse_args()
    clips = sorted(path for path in arguments.videos.glob("*/*") if path.is_file())
    if not clips:
        parser.error(f"{arguments.videos} has no folders of videos")
    logging.getLogger("actionrec").setLevel(logging.ERROR)  # Parts may overlap.
    choose = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="check-project-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        # Features that other projects have computed would be no work.
        os.environ["ACTIONREC_CACHE"] = str(folder / "cache")
        model = arguments.model
        if model is None:
            model = str(folder / "model.safetensors")
            make_model(Path(model))
        server = Server(folder, model)
        user = User(server, clips, choose)
        use(server, user, arguments.minutes, choose)
        # The last one ends as it should.
        if server.process.poll() is not None:
            server.start()
            user.after_a_start()
        server.process.terminate()
        server.process.wait(timeout=300)
        time.sleep(5)
        for process in psutil.process_iter(["cmdline"]):
            if str(folder / "project") in " ".join(process.info["cmdline"] or ()):
                user.blame("left", " ".join(process.info["cmdline"]))
    table = Table("actions", "kills", *FAULTS)
    counts = [len(user.faults[kind]) for kind in FAULTS]
    table.add_row(*map(str, (user.done.total(), server.kills, *counts)))
    Console(width=100).print(table)
    for title, counter in (("done", user.done), ("refused", user.refused)):
        words = ", ".join(f"{name} {count}" for name, count in counter.most_common())
        print(f"{title}: {words or 'nothing'}", file=sys.stderr)
    return 1 if any(counts) else 0


if __name__ == "__main__":
    sys.exit(main())
