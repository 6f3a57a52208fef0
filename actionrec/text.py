"""Labels, times and tables as people read them.

Labels and file names are other people's text, so nothing of them is printed, logged or drawn but
through `visible`, and nothing is written to a CSV file for spreadsheets but through `csv_row`.
"""

import csv
import io
import json
import logging
import math
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger("actionrec")

LONGEST_LABEL = 28  # characters
# In the place of a label where no class scores enough.
NONE_OF_THESE = "none of these"
# Control characters and line ends move the cursor of a terminal, bidirectional marks change the
# order of letters, and lone surrogates, which stand for the bytes of a name that is no UTF-8,
# can't be encoded.
UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def visible(text: object) -> str:
    r"""The text on one line, with what a terminal would obey or hide as an escape such as \x1b."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def valid_utf8(name: str) -> str:
    """A file's name with an escape in place of each byte that is no UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def csv_row(cells: Iterable[Any]) -> list[Any]:
    """The cells of a CSV file: text is `visible`, with an apostrophe before what a spreadsheet
    would run as a formula."""

    def defused(text: str) -> str:
        return "'" * text.startswith(FORMULA_STARTS) + visible(text)

    return [defused(cell) if isinstance(cell, str) else cell for cell in cells]


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(csv_row, rows))
    return text.getvalue()


def json_text(value: Any, indent: int | None = None) -> str:
    """The value as strict JSON, where null stands for a number that is not finite."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_with_finite_numbers(value), indent=indent, allow_nan=False)


def _with_finite_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_finite_numbers(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_finite_numbers(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def use_utf8() -> None:
    """Let stdout be UTF-8 whatever the locale, and escape what stdout or stderr can't encode; what
    is printed to one that is closed goes nowhere."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream, encoding in ((sys.stdout, "utf-8"), (sys.stderr, None)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


class VisibleFormatter(logging.Formatter):
    """Prints log messages as `visible` text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return visible(super().formatMessage(record))


def make_logs_visible() -> None:
    """Let a new process, which has no handler of log messages, print them as `visible` text."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter())


def shorten(name: str) -> str:
    """The name, cut off with an ellipsis if it is too long for a plot."""
    name = visible(name)
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

    cells = [[visible(value) for value in row] for row in rows]
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


# Fonts of pictures


def own_font() -> str:
    """The file of matplotlib's own font, which is the same everywhere and has Latin, Greek and
    Cyrillic."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"))


def fonts_for(text: str) -> dict[str, str]:
    """Names and files of the fonts that draw the text: matplotlib's own, and installed ones for
    what it lacks. A warning says what none of them has."""
    return _fonts_for("".join(sorted(c for c in set(text) if not c.isascii())))


@cache
def _fonts_for(characters: str) -> dict[str, str]:
    from matplotlib.font_manager import fontManager

    fonts = {"DejaVu Sans": own_font()}
    lacking = lacking_in(own_font(), characters)
    for font in fontManager.ttflist if lacking else ():
        left = lacking_in(font.fname, lacking)
        # A "last resort" font has a box for every character.
        if len(left) < len(lacking) and "Last" not in font.name:
            fonts[font.name], lacking = font.fname, left
    if lacking:
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        logger.warning(
            "No installed font has %s, so pictures show boxes for it; install a font such as Noto "
            "Sans CJK or Noto Emoji.",
            " ".join(lacking),
        )
    return fonts


def lacking_in(font: str, text: str) -> str:
    """The characters of the text that the font in a file does not have."""
    from matplotlib.font_manager import get_font

    try:
        has = get_font(font).get_char_index
    except (OSError, RuntimeError):
        return text
    # Joiners and variation selectors have no picture of their own.
    unseen = {"Cf", "Mn"}
    return "".join(c for c in text if not has(ord(c)) and unicodedata.category(c) not in unseen)
