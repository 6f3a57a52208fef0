"""What the files of annotation tools say of videos, in one form."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree.ElementTree import Element

from actionrec.text import json_text


@dataclass(frozen=True)
class Annotation:
    """A label of a video or of a part of one.

    Attributes:
        videos: The names that the file may have, likeliest first; without a suffix where the
            format has none.
        label: The action.
        seconds: Start and end; None with `frames`, or for the whole video.
        frames: The first frame, from 0, and the one after the last; for formats that count.
        split: The side, in the words of the format; "" where it has none.
        cut: The name of a file, without suffix, that holds nothing but this part, if there is one.
    """

    videos: tuple[str, ...]
    label: str
    seconds: tuple[float, float] | None = None
    frames: tuple[int, int] | None = None
    split: str = ""
    cut: str = ""


@dataclass
class Annotations:
    """The content of a file.

    Attributes:
        found: The annotations, in the order of the file.
        lost: What a CSV file of labels and segments has no place for, as nouns in the plural, and
            how many there were.
        notes: Other remarks on the translation, as sentences.
        frame_counts: The number of frames that a video has by the file, by its likeliest name.
    """

    found: list[Annotation] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    frame_counts: dict[str, int] = field(default_factory=dict)


class Unsupported(ValueError):
    """A file is of another version, or holds no annotations of videos; the message is the end of a
    sentence that begins with the file."""


# A file's content: a value of JSON, the root of XML, or the rows of CSV with the header first.
Content = Any


@dataclass(frozen=True)
class Format:
    """A format of annotations.

    Attributes:
        title: Its name in sentences.
        kind: "json", "xml" or "csv".
        matches: Whether a content of the kind is of this format, of any version.
        read: The annotations in a content; raises `Unsupported`. ValueError, KeyError, TypeError,
            AttributeError and IndexError mean that the file is damaged.
    """

    title: str
    kind: str
    matches: Callable[[Content], bool]
    read: Callable[[Content], Annotations]


def file_name(address: str) -> str:
    """The file's name in a path or address of any system, such as file:///C:/videos/a%20b.mp4."""
    parts = urlsplit(address.replace("\\", "/"))
    # Label Studio names local files in a query.
    inner = parse_qs(parts.query).get("d", [""])[0]
    return PurePosixPath(inner or unquote(parts.path)).name


def text_of(element: Element, path: str) -> str:
    """The text of the first element at a path below another, "" if there is none."""
    return (element.findtext(path) or "").strip()


def as_text(value: Any) -> str:
    """A label as the text that it is; `Unsupported` where it is anything else."""
    if not isinstance(value, str):
        raise Unsupported(f"has the label {json_text(value)[:40]}, which is no text")
    return value
