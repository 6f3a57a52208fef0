"""What a data set consists of: labelled videos, some to train on and some to validate on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actionrec.errors import ActionrecError
from actionrec.files import VIDEO_SUFFIXES


@dataclass(frozen=True)
class LabelledVideo:
    """One video file and what it shows.

    `label` is the index into the data set's `labels`; `group` names what must not be divided
    between training and validation (the recording a clip was cut from), None where unknown.
    """

    path: Path
    label: int
    group: str | None = None


@dataclass(frozen=True)
class VideoDataset:
    """The videos of one split of a data set.

    `labels` are the class names in the order of the logits. `flip` says whether a mirrored
    video keeps its class: False where classes are mirror images of each other.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[LabelledVideo, ...]
    val: tuple[LabelledVideo, ...]
    flip: bool = True


def scan_videos(folder: str | Path, depth: int) -> Iterator[tuple[str, str]]:
    """Yield name without suffix, and path, of the videos in `folder` and `depth` levels below.

    A video is known by the suffix of its name. No file's status is asked for, which takes
    minutes for hundreds of thousands of files on a network disk. Linked files and folders count
    like others; hidden ones are passed over.

    Raises:
        ActionrecError: a folder can't be listed.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() in VIDEO_SUFFIXES:
                    yield stem, entry.path
                elif depth and entry.is_dir():
                    yield from scan_videos(entry.path, depth - 1)
    except OSError as error:
        raise ActionrecError(
            f"{folder} can't be listed ({error.strerror}); check the path and its permissions."
        ) from error


def absent_classes(labels: tuple[str, ...], present: set[int]) -> str:
    """Return an end of a warning that names the classes without a video, "" if all have one."""
    absent = [name for label, name in enumerate(labels) if label not in present]
    if not absent:
        return ""
    more = ", ..." if len(absent) > 3 else ""
    return f"; {len(absent)} classes have none ({', '.join(absent[:3])}{more})"
