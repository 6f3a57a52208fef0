"""Labels, times and tables as people read them."""

import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

LONGEST_LABEL = 28  # characters


def shorten(name: str) -> str:
    """The name, cut off with an ellipsis if it is too long for a plot."""
    # A folder's name need not be valid Unicode, but matplotlib draws nothing else.
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def hours(seconds: float, point: str = ".") -> str:
    """A time in hours, minutes, seconds and milliseconds, such as 01:02:03.450."""
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{whole:02}{point}{milliseconds:03}"


def clock_time(seconds: float, digits: int = 0) -> str:
    """A time in minutes and seconds, such as 1:02, or with one digit 1:02.5."""
    units = round(seconds * 10**digits)
    minutes, rest = divmod(units, 60 * 10**digits)
    return f"{minutes}:{rest / 10**digits:0{2 + (digits and digits + 1)}.{digits}f}"


def aligned_table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> "Table":
    """Rows in aligned columns; columns of numbers are aligned to the right."""
    from rich.table import Table

    cells = [[str(value) for value in row] for row in rows]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=bool(head))
    for index in range(len(head or cells and cells[0])):
        numbers = all(re.fullmatch(r"[-+\d.,%e]*", row[index]) for row in cells)
        name, side = head[index] if head else "", "right" if numbers else "left"
        table.add_column(name, justify=side, overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table


def plain_table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """`aligned_table` as plain text of any width."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, width=10_000, markup=False, highlight=False, emoji=False)
    console.print(aligned_table(rows, head))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
