"""Data sets: which videos there are, what each shows, and which of them train.

One module a data set; each has an `open_*` function that returns a `VideoDataset`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actionrec.errors import ActionrecError, UsageError
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


def open_dataset(name: str, root: str | Path | None = None, split: str = "1") -> VideoDataset:
    """Return a data set by its name: ucf101, hmdb51, kinetics, folder, csv or demo.

    `root` is its folder, for csv the file; demo needs none. `split` is one of the official
    splits of ucf101 or hmdb51, or a fold of csv; a data set with one division only has just
    split "1".

    Raises:
        UsageError: there is no such data set or split, or the root is missing.
        ActionrecError: what lies at `root` is not that data set.
    """
    names = ("ucf101", "hmdb51", "kinetics", "folder", "csv", "demo")
    if name not in names:
        raise UsageError(f"There is no data set {name!r}; choose one of {', '.join(names)}.")
    if root is None and name != "demo":
        what = "its CSV file" if name == "csv" else "its folder"
        raise UsageError(f"The data set {name} needs {what}; add --root.")
    if split != "1" and name in ("kinetics", "folder", "demo"):
        raise UsageError(f"The data set {name} has only one split; leave out --split {split}.")
    # Each is imported by its use: the modules import the classes above.
    if name == "ucf101":
        from actionrec.datasets.ucf101 import open_ucf101

        return open_ucf101(root, split)
    if name == "hmdb51":
        from actionrec.datasets.hmdb51 import open_hmdb51

        return open_hmdb51(root, split)
    if name == "kinetics":
        from actionrec.datasets.kinetics import open_kinetics

        return open_kinetics(root)
    if name == "folder":
        from actionrec.datasets.folder import open_folder

        return open_folder(root)
    if name == "csv":
        from actionrec.datasets.csv import open_csv

        return open_csv(root, split)
    from actionrec.datasets.demo import open_demo

    return open_demo(root)


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
