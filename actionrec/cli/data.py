"""`actionrec data`: count, download, check and shrink data sets."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Literal

from jsonargparse.typing import PositiveFloat, PositiveInt

from actionrec.cli.parser import complain
from actionrec.cli.printing import Format, print_csv, print_json, print_rows, print_table
from actionrec.config import DatasetName
from actionrec.datasets.registry import DATASETS, open_dataset


def data_list(
    dataset: DatasetName | None = None,
    root: str | None = None,
    split: str = "1",
    format: Format = "table",
) -> int:
    """Count the videos of a data set by class, or list the data sets that there are.

    Examples:
        actionrec data list
        actionrec data list ucf101 --root UCF-101 --split paper
        actionrec data list folder --root my_videos --format json

    Args:
        dataset: Kind of data set; without it all kinds are listed.
        root: Its folder, or the CSV file.
        split: One of the splits that the list of all kinds names.
        format: What to print.
    """
    if dataset is None:
        rows = [
            {
                "dataset": name,
                "what": kind.description,
                "layout": kind.layout,
                "splits": ", ".join(kind.splits),
            }
            for name, kind in DATASETS.items()
        ]
        print_rows(rows, format)
        return 0

    data = open_dataset(dataset, root, split)
    train, val = (Counter(video.label for video in side) for side in (data.train, data.val))
    per_class = {
        name: {"train": train[label], "val": val[label]} for label, name in enumerate(data.labels)
    }
    groups = {video.group for video in data.train + data.val} - {None}
    counts = {
        "dataset": dataset,
        "root": root,
        "split": split,
        "classes": len(data.labels),
        "train": len(data.train),
        "val": len(data.val),
        "flip": data.flip,
        "groups": len(groups) or None,
        "per_class": per_class,
    }
    head = ["class", "train", "val"]
    rows = [["(all)", counts["train"], counts["val"]]]
    rows += [[name, *sides.values()] for name, sides in per_class.items()]
    if format == "json":
        print_json(counts)
    elif format == "csv":
        print_csv(head, rows)
    else:
        print(
            f"{dataset}, split {split}: {len(data.labels)} classes, "
            f"{f'{len(groups)} groups' if groups else 'no groups known'}, "
            f"{'may' if data.flip else 'must not'} be mirrored"
        )
        print_table(rows, head)
    return 0


def data_download(dataset: Literal["ucf101"], root: str) -> int:
    """Download a data set and unpack it.

    Example:
        actionrec data download ucf101 --root data

    Args:
        dataset: Which.
        root: Folder for it, on a disk with room: UCF-101 has 7 GB.
    """
    from actionrec.datasets.download import download

    count = download(dataset, Path(root))
    print(f"{count.folder}: {count.videos} videos of {count.classes} classes")
    print(
        f"train with: actionrec train --dataset {dataset} --root {shlex.quote(str(count.folder))}"
    )
    return 0


def data_check(
    dataset: DatasetName,
    root: str | None = None,
    split: str | None = None,
    workers: PositiveInt | None = None,
    timeout: PositiveFloat = 300,
    memory: PositiveInt = 4096,
    again: bool = False,
    format: Format = "table",
) -> int:
    """Decode every video of a data set and name the bad ones with the reason.

    The findings are kept in a report beside the videos: an interrupted check goes on from it, and
    training and evaluation leave out the bad videos.

    Examples:
        actionrec data check ucf101 --root UCF-101
        actionrec data check folder --root my_videos --workers 8 --format json > report.json

    Args:
        dataset: Kind of data set.
        root: Its folder, or the CSV file.
        split: Only the videos of this split; by default all.
        workers: Processes that decode; by default one a processor core.
        timeout: Seconds after which a video is given up.
        memory: MiB that a video may take before it is given up.
        again: Decode also videos that have not changed since the last check.
        format: What to print.
    """
    from actionrec.datasets.check import check
    from actionrec.processes import Limits

    folder = Path(root) if root is not None else None
    result = check(dataset, folder, split, workers, Limits(timeout, memory), again)
    findings, bad = result.report.findings, result.report.bad
    if format == "json":
        print_json(result.report.to_json())
    elif format == "csv":
        rows = ([video, found.frames, found.reason] for video, found in sorted(findings.items()))
        print_csv(["video", "frames", "error"], rows)
    else:
        print(f"{dataset}: {len(findings)} videos checked, {len(bad)} bad")
        for _, found in sorted(bad.items()):
            print(f"  {found.reason}")
        if result.file is not None:
            print(f"report: {result.file}")
    return 1 if bad else 0


def data_shrink(
    dataset: DatasetName,
    output: str,
    root: str | None = None,
    short_side: PositiveInt = 128,
    workers: PositiveInt | None = None,
    timeout: PositiveFloat = 300,
    memory: PositiveInt = 4096,
) -> int:
    """Copy a data set with smaller videos, which are read about twice as fast.

    Names, numbers of frames and frame rates stay; sound is left out. The next run continues an
    interrupted copy.

    Examples:
        actionrec data shrink ucf101 --root UCF-101 --output UCF-101-small
        actionrec data shrink csv --root my_videos.csv --output small --short-side 256

    Args:
        dataset: Kind of data set.
        output: Folder for the copy, new or from an interrupted run.
        root: The data set's folder, or the CSV file.
        short_side: Pixels of the short side; smaller videos are copied as they are. Training
            scales to 128 to 160 pixels unless told otherwise.
        workers: Processes that read and write videos; by default one a processor core.
        timeout: Seconds after which a video is given up.
        memory: MiB that a video may take before it is given up.
    """
    from actionrec.datasets.shrink import shrink
    from actionrec.processes import Limits

    folder = Path(root) if root is not None else None
    limits = Limits(timeout, memory)
    result = shrink(dataset, folder, Path(output), short_side, workers, limits)
    for failure in result.failures:
        complain(failure)
    print(
        f"{result.root}: {result.videos} videos, {result.before / 1e6:.1f} MB before, "
        f"{result.after / 1e6:.1f} MB now"
    )
    if result.failures:
        print(f"left out: {len(result.failures)}")
    print(f"train with: actionrec train --dataset {dataset} --root {shlex.quote(str(result.root))}")
    return 1 if result.failures else 0
