"""Progress on stderr, so that results on stdout can be piped.

for path in track(paths, "checking"):
    ...
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import length_hint
from typing import TypeVar

from actionrec.text import visible

Item = TypeVar("Item")


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
