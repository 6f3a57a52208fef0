"""`actionrec data`: list, download, import, check, index and shrink data sets."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Literal

from jsonargparse.typing import PositiveInt

from actionrec.cli.parser import complain
from actionrec.cli.printing import Format, print_csv, print_json, print_rows, print_table, say
from actionrec.config import DatasetName, Positive
from actionrec.datasets.annotations.registry import FORMATS
from actionrec.datasets.registry import DATASETS, open_dataset
from actionrec.files import require_free, require_suffix


def data_list(
    dataset: DatasetName | None = None,
    root: str | None = None,
    split: str = "1",
    format: Format = "table",
) -> int:
    """List the known data sets, or count the videos of one by class.

    Examples:
        actionrec data list
        actionrec data list ucf101 --root UCF-101 --split paper
        actionrec data list folder --root my_videos --format json

    Args:
        dataset: Name of a data set; without a name, all are listed.
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
    train, val = (
        Counter(label for video in side for label in video.all_labels)
        for side in (data.train, data.val)
    )
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
        dataset: Name of the data set.
        root: Destination folder; UCF-101 needs 14 GB there for a while, 7 GB in the end.
    """
    from actionrec.datasets.download import CLASSES, VIDEOS, download

    folder = download(Path(root))
    say(f"{folder}: {VIDEOS} videos of {CLASSES} classes")
    say(f"train with: actionrec train --dataset {dataset} --root {shlex.quote(str(folder))}")
    return 0


def data_import(
    files: list[str],
    output: str,
    format: Literal["auto", *FORMATS] = "auto",
    videos: str | None = None,
) -> int:
    """Turn the annotations of other tools into a CSV file to train on.

    The CSV file has a row a segment: path, label, start and end in seconds, and the split of the
    format or a group a video. What has no place in it is told.

    Examples:
        actionrec data import project.json --output data.csv
        actionrec data import annotations/*.eaf --output data.csv --videos footage
        actionrec train --dataset csv --root data.csv

    Args:
        files: Files of ActivityNet (JSON), CVAT (video XML), Label Studio (JSON), VIA 3 (JSON),
            ELAN (EAF), Kinetics (CSV) or HACS (CSV or JSON).
        output: The CSV file, *.csv.
        format: Format of the files; auto finds it by their content.
        videos: Folder with the videos, at any depth; by default that of each file.
    """
    require_suffix(Path(output), [".csv"], "--output")
    require_free(Path(output))

    from actionrec.datasets.annotations.importing import import_annotations

    found = import_annotations(
        [Path(file) for file in files], Path(output), format, videos and Path(videos)
    )
    for note in found.notes:
        say(note)
    for failure in found.failures:
        complain(failure)
    say(f"{output}: {found.rows} rows of {found.videos} videos, {found.labels} labels")
    say(f"train with: actionrec train --dataset csv --root {shlex.quote(output)}")
    return 1 if found.failures else 0


def data_check(
    dataset: DatasetName,
    root: str | None = None,
    split: str | None = None,
    workers: PositiveInt | None = None,
    timeout: Positive = 300,
    memory: PositiveInt = 4096,
    again: bool = False,
    format: Format = "table",
) -> int:
    """Decode every video of a data set and report the broken ones.

    The results are kept in a file beside the videos. An interrupted check continues from it;
    training and evaluation leave out the broken videos.

    Examples:
        actionrec data check ucf101 --root UCF-101
        actionrec data check folder --root my_videos --workers 8 --format json > report.json

    Args:
        split: Check only the videos of this split; by default all.
        workers: Number of decoding processes; by default one for each core.
        again: Decode videos again that were checked before and have not changed.
    """
    from actionrec.datasets.check import check
    from actionrec.processes import Limits

    result = check(dataset, root, split, workers, Limits(timeout, memory), again)
    findings, bad = result.report.findings, result.report.bad
    if format == "json":
        print_json(result.report.to_json())
    elif format == "csv":
        rows = ([video, found.frames, found.reason] for video, found in sorted(findings.items()))
        print_csv(["video", "frames", "error"], rows)
    else:
        print(f"{dataset}: {len(findings)} videos checked, {len(bad)} bad")
        for _, found in sorted(bad.items()):
            say(f"  {found.reason}")
        for video, damage in result.report.damaged.items():
            say(f"  {video} is damaged but readable: {damage}.")
        if result.file is not None:
            say(f"report: {result.file}")
    return 1 if bad else 0


def data_index(sources: list[str], output: str, label_key: str = "label") -> int:
    """List the videos of shards, buckets and data sets of the hub in a CSV file.

    The videos stay where they are; those inside of Parquet files are written to a folder beside the
    list. Labels come from the .cls, .txt or .json in WebDataset's shards, from a column of Parquet
    files, and from metadata.csv or the names of folders elsewhere; splits from names that begin
    with train, val or test.

    Examples:
        actionrec data index 'shards/train-{000..007}.tar' 'shards/val-*.tar' --output data.csv
        actionrec data index s3://bucket/actions/ --output data.csv
        actionrec data index hf://datasets/USER/NAME --output data.csv
        actionrec data index 'data/train-*.parquet' 'data/test-*.parquet' --output data.csv

    Args:
        sources: Tar archives, Parquet files and folders: paths, patterns in quotes, or addresses.
        output: New CSV file, for --dataset csv.
        label_key: Where the label stands in the .json of a sample, or its column in Parquet files.
    """
    from actionrec.datasets.storage import index_storage

    listed = index_storage(sources, Path(output), label_key)
    sides = Counter(each.split for each in listed)
    parts = ", ".join(f"{count} {side}" for side, count in sides.items() if side)
    labels = len({each.label for each in listed})
    say(f"{output}: {len(listed)} videos of {labels} labels{f' ({parts})' if parts else ''}")
    if parts:
        say(f"train with: actionrec train --dataset csv --root {shlex.quote(output)}")
    else:
        say("to train with it, add a column split (train, val) or group (the recording)")
    return 0


def data_shrink(
    dataset: DatasetName,
    output: str,
    root: str | None = None,
    short_side: PositiveInt = 128,
    workers: PositiveInt | None = None,
    timeout: Positive = 300,
    memory: PositiveInt = 4096,
) -> int:
    """Copy a data set with smaller videos, for faster training.

    Training reads the copies about twice as fast. Names, frame counts and frame rates stay the
    same; sound is left out. An interrupted copy continues with the next video.

    Examples:
        actionrec data shrink ucf101 --root UCF-101 --output UCF-101-small
        actionrec data shrink csv --root my_videos.csv --output small --short-side 256

    Args:
        output: Folder for the copy, new or from an interrupted run.
        short_side: Short side of the copies, in pixels; smaller videos are copied unchanged.
            Training scales to 128 to 160 pixels by default, and a head alone to 184.
        workers: Number of processes; by default one for each core.
    """
    from actionrec.datasets.shrink import shrink
    from actionrec.processes import Limits

    limits = Limits(timeout, memory)
    result = shrink(dataset, root, Path(output), short_side, workers, limits)
    for failure in result.failures:
        complain(failure)
    say(
        f"{result.root}: {result.videos} videos, {result.before / 1e6:.1f} MB before, "
        f"{result.after / 1e6:.1f} MB now"
    )
    if result.failures:
        print(f"left out: {len(result.failures)}")
    say(f"train with: actionrec train --dataset {dataset} --root {shlex.quote(str(result.root))}")
    return 1 if result.failures else 0
