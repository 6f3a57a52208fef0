"""The data sets by name: what each is, how it lies on disk, and how it is divided.

    actionrec data list

A new data set is a module here with an `open_*` function that returns a `VideoDataset`, and a line
in `DATASETS`. Help texts, `actionrec data list` and error messages follow from that line.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from actionrec.datasets import csv, demo, folder, hmdb51, kinetics, ucf101
from actionrec.datasets.dataset import VideoDataset
from actionrec.errors import UsageError


@dataclass(frozen=True)
class DatasetKind:
    """A kind of data set.

    Attributes:
        open: from the root, and the split where there are several, to the videos.
        description: what it is, in a line.
        layout: where its files lie below ROOT.
        splits: the names of its splits; empty where there is one division only.
        splits_for_all: splits whose videos together are all of the data set.
        needs_root: whether the user has to say where it lies.
    """

    open: Callable[..., VideoDataset]
    description: str
    layout: str
    splits: tuple[str, ...] = ()
    splits_for_all: tuple[str, ...] = ("1",)
    needs_root: bool = True


DATASETS: dict[str, DatasetKind] = {
    "ucf101": DatasetKind(
        ucf101.open_ucf101,
        "13,320 clips of 101 actions, three official splits and the paper's own",
        "ROOT/Class/v_Class_gNN_cNN.avi, or ROOT/UCF-101/Class/...; list files are not needed",
        splits=("1", "2", "3", "paper"),
    ),
    "hmdb51": DatasetKind(
        hmdb51.open_hmdb51,
        "6,766 clips of 51 actions from films and the web, three official splits",
        "ROOT/class/*.avi, and the official CLASS_test_splitN.txt files in ROOT, beside it or in "
        "a folder testTrainMulti_7030_splits there",
        splits=("1", "2", "3"),
        splits_for_all=("1", "2", "3"),
    ),
    "kinetics": DatasetKind(
        kinetics.open_kinetics,
        "Kinetics-400, -600 or -700: ten-second clips from YouTube, or a part of them",
        "ROOT/train/ID_TTTTTT_TTTTTT.mp4, ROOT/val/..., with or without class folders, and "
        "ROOT/annotations/train.csv and val.csv",
    ),
    "folder": DatasetKind(
        folder.open_folder,
        "videos of your own, in one folder a class",
        "ROOT/train/CLASS/video.mp4 and ROOT/val/CLASS/video.mp4",
    ),
    "csv": DatasetKind(
        csv.open_csv,
        "videos of your own, listed in a CSV file",
        "ROOT is the file; columns path,label and, if known, group and split (train, val)",
        splits=("1", "2", "3", "4", "5"),
    ),
    "demo": DatasetKind(
        demo.open_demo,
        "400 small generated clips of 8 motions, made on first use",
        "nothing is needed; ROOT is a new or empty folder, or left out for the cache",
        needs_root=False,
    ),
}


def open_dataset(name: str, root: str | Path | None = None, split: str = "1") -> VideoDataset:
    """Open a data set by its name.

    Args:
        name: A key of `DATASETS`.
        root: Its folder, or the CSV file; not needed for the demo data set.
        split: One of the data set's splits; "1" where there is one division only.

    Raises:
        UsageError: there is no such data set or split, or the root is missing.
        ActionrecError: what lies at `root` is not that data set.
    """
    if name not in DATASETS:
        raise UsageError(f"There is no data set {name!r}; choose one of {', '.join(DATASETS)}.")
    kind = DATASETS[name]
    if root is None and kind.needs_root:
        what = "its CSV file" if name == "csv" else "its folder"
        raise UsageError(f"The data set {name} needs {what}; add --root.")
    if kind.splits:
        return kind.open(root, split)
    if split != "1":
        raise UsageError(f"The data set {name} has only one split; leave out --split {split}.")
    return kind.open(root)
