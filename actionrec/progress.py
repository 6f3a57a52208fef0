"""Progress on stderr, so that results on stdout can be piped.

for path in track(paths, "checking"):
    ...
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import length_hint
from typing import Self, TypeVar

from actionrec.text import visible

logger = logging.getLogger("actionrec")

Item = TypeVar("Item")

MINUTE = 60.0  # seconds


def track(
    items: Iterable[Item],
    description: str,
    total: int | None = None,
    completed: int = 0,
    transient: bool = False,
    disable: bool = False,
) -> Iterator[Item]:
    """The items, with a bar that counts them and estimates the time that is left.

    Args:
        items: Anything iterable.
        description: Words before the bar.
        total: Number of items; by default their length, if they have one.
        completed: Items that were done before.
        transient: Remove the bar at the end.
        disable: Show nothing.
    """
    # Imported here, so that help answers at once.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    if total is None:
        total = length_hint(items) or None
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=transient, disable=disable) as bar:
        task = bar.add_task(visible(description), total=total, completed=completed)
        # Not bar.track, which forgets what was completed before.
        for item in items:
            yield item
            bar.advance(task)


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """Shows that work of unknown length goes on."""
    from rich.console import Console

    with Console(stderr=True).status(visible(description)):
        yield


class Counter:
    """A bar that counts items which come in any number at a time, with their speed and the time
    that is left; where stderr is no terminal, a line of the log each minute.

    Use it as a context manager.

    Args:
        description: Words before the bar.
        total: Number of items.
        completed: Items that were done before.
        unit: What is counted, in the plural.
    """

    def __init__(self, description: str, total: int, completed: int, unit: str) -> None:
        # Imported here, so that help answers at once.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._total, self._completed, self._before = total, completed, completed
        self._description, self._unit, self._note = description, unit, ""
        self._begin = self._told = time.monotonic()
        console = Console(stderr=True)
        self._is_terminal = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not self._is_terminal,
        )
        self._task = self._bar.add_task(
            visible(description), total=total, completed=completed, speed="", note=""
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def speed(self) -> float:
        """Items a second since the beginning."""
        return (self._completed - self._before) / max(time.monotonic() - self._begin, 1e-9)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count items; `note` stands after the bar until another does."""
        self._completed += count
        self._note = self._note if note is None else visible(note)
        speed = f"{self.speed:.3g} {self._unit}/s"
        self._bar.update(self._task, completed=self._completed, speed=speed, note=self._note)
        now = time.monotonic()
        if not self._is_terminal and now > self._told + MINUTE:
            self._told = now
            left = (self._total - self._completed) / max(self.speed, 1e-9)
            logger.info(
                f"{self._description}: {self._completed} of {self._total} {self._unit}, {speed}, "
                f"{left / MINUTE:.0f} min left. {self._note}".rstrip()
            )
