"""The data sets by name: description, layout on disk, splits.

    actionrec data list

A new data set is a module here with an `open_*` function that returns a `VideoDataset`, and a line
in `DATASETS`. Help texts, `actionrec data list` and error messages follow from that line.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import category

from actionrec.datasets import csv, demo, folder, hmdb51, kinetics, ucf101
from actionrec.datasets.dataset import VideoDataset
from actionrec.errors import ActionrecError, UsageError
from actionrec.video.address import VideoPath, video_path


@dataclass(frozen=True)
class DatasetKind:
    """A kind of data set.

    Attributes:
        open: Opens the data set at a root; a kind with several splits also takes the split.
        description: One line on its content.
        layout: Its files below ROOT.
        splits: Names of its splits; empty where there is only one.
        splits_for_all: Splits that together hold all videos.
        needs_root: Whether the user has to say where it lies.
        may_lack_training: Whether validation videos alone can be opened; `open` then takes
            `to_train`.
        may_have_several_labels: Whether a video can have several labels; `open` then takes
            `multi_label`.
        lists_beside: Patterns of list files beside ROOT that belong to it.
        rewrite_list: Where ROOT is a file that lists the videos: writes it for their copies, from
            the file, the new path of every video, and the new file.
    """

    open: Callable[..., VideoDataset]
    description: str
    layout: str
    splits: tuple[str, ...] = ()
    splits_for_all: tuple[str, ...] = ("1",)
    needs_root: bool = True
    may_lack_training: bool = False
    may_have_several_labels: bool = False
    lists_beside: tuple[str, ...] = ()
    rewrite_list: Callable[[VideoPath, Callable[[VideoPath], str], Path], None] | None = None


DATASETS: dict[str, DatasetKind] = {
    "ucf101": DatasetKind(
        ucf101.open_ucf101,
        "13,320 clips of 101 actions, three official splits and the paper's own",
        "ROOT/Class/v_Class_gNN_cNN.avi, or ROOT/UCF-101/Class/...; list files are not needed",
        splits=tuple(ucf101.VALIDATION_GROUPS),
        lists_beside=(f"{ucf101.LIST_FOLDER}/*.txt",),
    ),
    "hmdb51": DatasetKind(
        hmdb51.open_hmdb51,
        "6,766 clips of 51 actions from films and the web, three official splits",
        "ROOT/class/*.avi, and the official CLASS_test_splitN.txt files in ROOT, beside it or in "
        "a folder testTrainMulti_7030_splits there",
        splits=hmdb51.SPLITS,
        splits_for_all=hmdb51.SPLITS,
        lists_beside=tuple(f"{name}/*_test_split?.txt" for name in hmdb51.SPLIT_FOLDERS),
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
        may_lack_training=True,
    ),
    "csv": DatasetKind(
        csv.open_csv,
        "videos of your own, listed in a CSV file",
        "ROOT is the file or its address; columns path,label and, if known, group, split (train, "
        "val), start and end of segments in seconds, and fps of folders of frames; without split "
        "the groups are dealt into five folds; several labels in a cell are parted by |",
        splits=csv.FOLDS,
        may_lack_training=True,
        may_have_several_labels=True,
        rewrite_list=csv.rewrite_csv,
    ),
    "demo": DatasetKind(
        demo.open_demo,
        "400 small generated clips of 8 motions, made on first use",
        "nothing is needed; ROOT is a new or empty folder, or left out for the cache",
        needs_root=False,
    ),
}


def open_dataset(
    name: str,
    root: str | VideoPath | None = None,
    split: str = "1",
    to_train: bool = True,
    multi_label: bool | None = None,
) -> VideoDataset:
    """Open a data set by its name.

    Args:
        name: A key of `DATASETS`.
        root: Its folder, or CSV file or the address of one; not needed for the demo data set.
        split: One of the data set's splits; "1" where there is only one.
        to_train: Whether videos to train on are needed.
        multi_label: Whether a video may have several labels, or none; None for as the data say.

    Raises:
        UsageError: there is no such data set or split, the root is missing, or the data set has one
            label a video whatever `multi_label` says.
        ActionrecError: `root` is not that data set, or has no videos to train or to validate on.
    """
    kind = dataset_kind(name)
    if root is None and kind.needs_root:
        raise UsageError(f"The data set {name} needs a root; add --root ({kind.layout}).")
    if not kind.splits and split != "1":
        raise UsageError(f"The data set {name} has only one split; leave out --split {split}.")
    if kind.splits and split not in kind.splits:
        raise UsageError(
            f"The data set {name} has no split {split!r}; choose {', '.join(kind.splits)}."
        )
    if kind.needs_root and kind.rewrite_list is None and not Path(root).is_dir():
        raise ActionrecError(f"{root} is not a folder; expected is {kind.layout}.")
    options = {"to_train": to_train} if kind.may_lack_training else {}
    if kind.may_have_several_labels:
        options["multi_label"] = multi_label
    elif multi_label:
        several = ", ".join(name for name in DATASETS if DATASETS[name].may_have_several_labels)
        raise UsageError(
            f"The data set {name} has one label a video; several are possible with {several}."
        )
    dataset = kind.open(root, split, **options) if kind.splits else kind.open(root, **options)
    for videos, purpose in ((dataset.train, "train"), (dataset.val, "validate")):
        if not videos and (to_train or not kind.may_lack_training or purpose == "validate"):
            raise ActionrecError(
                f"{root} holds no videos to {purpose} on in split {split} of {name}; add the "
                f"missing videos{', choose another split' if kind.splits else ''} or check that "
                "list files and videos belong together."
            )
    if odd := [label for label in dataset.labels if any(category(c) == "Cc" for c in label)]:
        raise ActionrecError(
            f"{root} has the label {odd[0]!r} with a control character; rename it."
        )
    return replace(dataset, root=dataset.root or video_path(root))


def dataset_kind(name: str) -> DatasetKind:
    """Return the kind of a data set by its name.

    Raises:
        UsageError: there is none.
    """
    if name not in DATASETS:
        raise UsageError(f"There is no data set {name!r}; choose one of {', '.join(DATASETS)}.")
    return DATASETS[name]
