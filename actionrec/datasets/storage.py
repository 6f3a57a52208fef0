"""List the videos of shards, folders and buckets with their labels, for `--dataset csv`.

    actionrec data index 'shards/train-{000..007}.tar' 'shards/val-*.tar' --output data.csv
    actionrec data index hf://datasets/USER/NAME --output data.csv
    actionrec train --dataset csv --root data.csv

The videos stay where they are; the list names them by paths and addresses. Only those inside of
Parquet files are written to files, in a folder beside the list. Labels and splits come from what is
beside the videos:

- WebDataset's shards, tar archives: files of one name up to the first dot are a sample, such as
  0001.mp4 and 0001.json, 0001.cls or 0001.txt. The label is the text of .cls or .txt, or in .json
  what stands under a key.
- Folders as of Hugging Face's VideoFolder, also in a bucket or on the hub: metadata.csv or
  metadata.jsonl with the columns file_name and label, or else the name of the folder that a video
  lies in.
- Parquet files with videos and labels as columns (see `parquet`), alone or in a folder.

A folder or archive whose name begins with train, val or test tells the split of its videos.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

from actionrec.datasets.parquet import unpacked
from actionrec.errors import ActionrecError
from actionrec.files import VIDEO_SUFFIXES, replacing, require_free, scan
from actionrec.progress import track
from actionrec.text import visible
from actionrec.video.address import (
    TAR,
    Address,
    VideoPath,
    member_address,
    member_of,
    video_path,
)
from actionrec.video.remote import call, file_system, storage_errors
from actionrec.video.sources import is_archive
from actionrec.video.tar import members_of, read_member

# In this order.
LABEL_SUFFIXES = ("cls", "txt", "json")
METADATA = ("metadata.csv", "metadata.jsonl")
TABLE = ".parquet"
SPLITS = {
    "train": re.compile(r"train(ing)?(?![a-z])", re.IGNORECASE),
    "val": re.compile(r"val(id|idate|idation)?(?![a-z])", re.IGNORECASE),
    "test": re.compile(r"test(ing)?(?![a-z])", re.IGNORECASE),
}
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Listed:
    """A video with its label, and the split that its place tells, "" if none."""

    path: VideoPath
    label: str
    split: str


@dataclass(frozen=True)
class Table:
    """A Parquet file with videos, and the split that its place tells, "" if none."""

    path: VideoPath
    split: str


def index_storage(sources: Sequence[str], output: Path, key: str = "label") -> list[Listed]:
    """Write the CSV file of the videos in shards and folders; returns what it lists.

    Args:
        sources: Tar archives, Parquet files and folders, as paths, patterns or addresses;
            {000..007} stands for each of these numbers.
        output: The CSV file. Paths below its folder are written relative to it. The videos of
            Parquet files are written to OUTPUT_videos beside it.
        key: Where the label stands in the .json of a sample, or the column of a Parquet file.

    Raises:
        UsageError: `output` is there already.
        ActionrecError: a source can't be read, a video has no label, or only some have a split.
    """
    require_free(output)
    places = [place for source in sources for place in _expanded(source)]
    found: list[Listed | Table] = []
    for place in track(places, "listing", len(places)):
        if place.suffix.lower() == TABLE:
            folder = place.parent.name
            is_split = any(pattern.fullmatch(folder) for pattern in SPLITS.values())
            found.append(Table(place, _split_of([place.name, folder * is_split])))
        else:
            found += _in_shard(place, key) if is_archive(place) else _in_folder(place)
    listed = [each for each in found if isinstance(each, Listed)]
    videos = output.with_name(f"{output.stem}_videos")
    for table in found:
        if isinstance(table, Table):
            rows = unpacked(table.path, videos, key)
            listed += [Listed(path, label, table.split) for path, label in rows]
    if not listed:
        raise ActionrecError(f"{', '.join(sources)} has no videos; check the names.")
    without = [each for each in listed if not each.split]
    if without and len(without) < len(listed):
        raise ActionrecError(
            f"{without[0].path} tells no split, and {len(listed) - len(without)} other videos do; "
            "let each folder or archive begin with train, val or test."
        )
    columns = ["path", "label"] if without else ["path", "label", "split"]
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for each in listed:
            row = [_relative(each.path, output.absolute().parent), each.label, each.split]
            writer.writerow(row[: len(columns)])
    return listed


def _expanded(source: str) -> Iterator[VideoPath]:
    """The archives and folders that a source names."""
    if (braces := BRACES.search(source)) is not None:
        first, last = braces.groups()
        numbers = range(int(first), int(last) + 1)
        if len(numbers) > MOST_SHARDS:
            raise ActionrecError(f"{source} stands for {len(numbers)} shards; check the numbers.")
        for number in numbers:
            name = f"{number:0{len(first)}}"
            yield from _expanded(source[: braces.start()] + name + source[braces.end() :])
        return
    path = video_path(source)
    if isinstance(path, Path):
        if path.exists() or not set("*?[") & set(source):
            yield path
            return
        found = [Path(name) for name in sorted(glob(source))]
    elif set("*?[") & set(source) and path.scheme not in ("http", "https"):
        system, pattern = _system(path)
        with storage_errors(source):
            names = call(system, "glob", pattern)
        found = [Address(system.unstrip_protocol(name)) for name in sorted(names)]
    else:
        yield path
        return
    if not found:
        raise ActionrecError(f"No file matches {source}; check the pattern.")
    yield from found


def _in_shard(archive: VideoPath, key: str) -> Iterator[Listed]:
    samples: dict[str, dict[str, str]] = {}
    for name in members_of(archive):
        folder, slash, file = name.rpartition("/")
        stem, _, suffix = file.partition(".")
        samples.setdefault(folder + slash + stem, {})[suffix.lower()] = name
    split = _split_of([archive.name])
    for sample, files in samples.items():
        for suffix, name in files.items():
            # The last part: 0001.left.mp4 has the suffix left.mp4.
            if f".{suffix.rpartition('.')[2]}" in VIDEO_SUFFIXES:
                label = _label_of_sample(archive, sample, files, key)
                yield Listed(member_address(name, archive), label, split)


def _label_of_sample(archive: VideoPath, sample: str, files: dict[str, str], key: str) -> str:
    for suffix in LABEL_SUFFIXES:
        if suffix not in files:
            continue
        text = read_member(archive, files[suffix]).decode("utf-8", errors="replace").strip()
        if suffix != "json":
            return _usable(text, f"{archive}, {files[suffix]}")
        values = None
        try:
            values = json.loads(text)
            return _usable(values[key], f"{archive}, {files[suffix]}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            keys = f" of {', '.join(map(str, values))[:80]}" if isinstance(values, dict) else ""
            raise ActionrecError(
                f"{archive}: {visible(files[suffix])} has no {key!r}; choose a --label-key{keys}."
            ) from error
    raise ActionrecError(
        f"{archive}: the sample {visible(sample)} has no .cls, .txt or .json with its label."
    )


def _usable(label: Any, where: str) -> str:
    if not isinstance(label, str | int) or isinstance(label, bool) or not str(label).strip():
        raise ActionrecError(f"{where}: {visible(label)[:80]!r} is no label; choose a --label-key.")
    return str(label).strip()


def _in_folder(place: VideoPath) -> Iterator[Listed | Table]:
    """The videos of a folder, here or in storage, or its Parquet files if it has no others."""
    if isinstance(place, Path):
        if not place.is_dir():
            raise ActionrecError(f"{place} is not a folder and no tar archive; check the path.")
        found = scan(place)
        if found.unlisted:
            raise ActionrecError(found.unlisted[0].error)
        files = [path.relative_to(place).as_posix() for path in (*found.videos, *found.others)]
        path_of, read = place.joinpath, lambda name: (place / name).read_bytes()
    else:
        system, root = _system(place)
        root = root.rstrip("/")
        with storage_errors(place.url):
            names = call(system, "find", root)
        files = sorted(name.removeprefix(f"{root}/") for name in names)
        path_of = partial(_address_in, system, root)
        read = partial(_read_from, system, root)
    metadata = _metadata(place, files, read)
    for name in files:
        path = PurePosixPath(name)
        if path.suffix.lower() not in VIDEO_SUFFIXES and not (
            isinstance(place, Path) and (place / name).is_dir()
        ):
            continue
        split = _split_of([place.name, *path.parts[:-1]])
        if metadata:
            if name not in metadata:
                continue
            label = metadata[name]
        else:
            label = path.parent.name
            if not label or _split_of([label]):
                raise ActionrecError(
                    f"{place} has no metadata.csv, and {name} lies in no folder that names its "
                    "label; expected is LABEL/video.mp4."
                )
        yield Listed(path_of(name), label, split)
    if not any(PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES for name in files):
        for name in filter(is_table, files):
            split = _split_of(
                [PurePosixPath(name).name, *PurePosixPath(name).parts[:-1], place.name]
            )
            yield Table(path_of(name), split)


def is_table(name: str) -> bool:
    """Whether a file is a table of videos, by its name."""
    return name.lower().endswith(TABLE)


def _system(address: Address) -> tuple[Any, str]:
    if address.scheme in ("http", "https"):
        raise ActionrecError(f"{address} can't be listed: HTTP has no folders; name its shards.")
    return file_system(address.url)


def _address_in(system: Any, root: str, name: str) -> Address:
    return Address(system.unstrip_protocol(f"{root}/{name}"))


def _read_from(system: Any, root: str, name: str) -> bytes:
    with storage_errors(system.unstrip_protocol(f"{root}/{name}")):
        return call(system, "cat_file", f"{root}/{name}")


def _metadata(place: VideoPath, files: Iterable[str], read: Any) -> dict[str, str]:
    """The labels by file that the tables of a folder state, {} if there are none."""
    labels: dict[str, str] = {}
    for name in files:
        path = PurePosixPath(name)
        if path.name not in METADATA:
            continue
        text = read(name).decode("utf-8-sig", errors="replace")
        try:
            if path.suffix == ".csv":
                rows = list(csv.DictReader(io.StringIO(text)))
            else:
                rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            for row in rows:
                label = _usable(row["label"], f"{place}, {name}")
                labels[(path.parent / row["file_name"]).as_posix()] = label
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise ActionrecError(
                f"{place}: {name} has no columns file_name and label ({error}); add them."
            ) from error
    return labels


def _split_of(names: Iterable[str]) -> str:
    for name in names:
        for split, pattern in SPLITS.items():
            if pattern.match(name):
                return split
    return ""


def _relative(path: VideoPath, folder: Path) -> str:
    if isinstance(path, Address):
        if path.scheme == TAR:
            name, archive = member_of(path)
            return f"{TAR}://{name}::{_relative(archive, folder)}"
        return str(path)
    path = path.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
