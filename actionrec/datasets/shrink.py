"""Copy a data set with smaller videos, which are read about twice as fast.

    actionrec data shrink ucf101 --root UCF-101 --output UCF-101-small
    actionrec train --dataset ucf101 --root UCF-101-small

Training reads a few frames of a video, scales them down and throws the rest away. In the copy the
frames are small already, and every twelfth is a key frame. Folders, names, numbers of frames and
frame rates stay as they are, so that splits and labels do too.

The copy's actionrec_shrink.json records the finished videos, and the next run goes on from there:

    {"version": 1, "dataset": "ucf101", "source": "/data/UCF-101", "short_side": 128,
     "videos": {"Archery/v_Archery_g01_c01.avi":
                {"size": 290110, "mtime_ns": 5678, "file": "Archery/v_Archery_g01_c01.avi",
                 "bytes": 61234}}}

`size` and `mtime_ns` describe the source, `file` and `bytes` the copy.
"""

import filecmp
import logging
import os
import re
import shutil
from contextlib import closing
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actionrec.datasets.check import (
    REPORT,
    FileState,
    every_video,
    load_json,
    relative_path,
    report_file,
)
from actionrec.datasets.dataset import scan_files
from actionrec.datasets.registry import DatasetKind, dataset_kind
from actionrec.errors import ActionrecError, UsageError, VideoError
from actionrec.files import exclusive, remove_leftovers, replacing, write_whole
from actionrec.processes import STANDARD_LIMITS, Limits, WorkerError, run_each_with_progress
from actionrec.text import json_text
from actionrec.video.address import FRAMES, Address, VideoPath, frame_folder_of
from actionrec.video.reader import VideoReader
from actionrec.video.writer import CONTAINERS, VideoWriter

logger = logging.getLogger("actionrec")

VERSION = 1
RECORD = "actionrec_shrink.json"
LIST_SUFFIXES = {".txt", ".csv", ".json"}
SMALLEST = 32  # pixels
KEY_FRAME_EVERY = 12
# FFmpeg's -qscale 3, in its unit of 118: hardly to be told from the original.
QUALITY = 3 * 118
CHUNK = 8  # frames in memory at once
# Of the times of a variable rate, in seconds; Matroska rounds them to 0.001 s.
TIME_UNIT = Fraction(1, 60_000)
MOST_LATE = 0.002


@dataclass(frozen=True)
class Copy:
    """A finished video: size and modification time of its source, path and bytes of the copy."""

    size: int
    mtime_ns: int
    file: str
    bytes: int


@dataclass
class Record:
    """The source of a shrunk data set, and its finished videos by their path in the source."""

    dataset: str
    source: str
    short_side: int
    videos: dict[str, Copy] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the record; an ActionrecError where the folder can't be written."""
        write_whole(path, json_text({"version": VERSION} | asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Record | None":
        """The record at `path`, None if there is none; an ActionrecError as of `load_json`."""

        def parse(values: dict[str, Any]) -> Record:
            videos = {key: Copy(**copy) for key, copy in values.pop("videos").items()}
            return cls(**values, videos=videos)

        title = "a record of `actionrec data shrink`"
        return load_json(path, VERSION, parse, title, "choose another --output")


@dataclass(frozen=True)
class Shrunk:
    """A shrunk data set: its --root, the number of its videos, their size in bytes before and
    after, and the reasons why others are left out, as sentences."""

    root: Path
    videos: int
    before: int
    after: int
    failures: list[str]


def shrink(
    name: str,
    root: str | Path | None,
    output: Path,
    short_side: int = 128,
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
) -> Shrunk:
    """Copy a data set into the folder `output` with videos of `short_side` pixels.

    Smaller videos are copied as they are. A video that can't be read is left out. The next run
    with the same `output` keeps finished videos unless their source has changed. A CSV file still
    lists the videos that were left out: without them the folds would be others.

    Raises:
        UsageError: there is no such data set, `short_side` is too small, or `output` is, or lies
            in, the source.
        ActionrecError: `root` is not that data set; `output` holds something else, or another
            process writes it; two videos would get one name; or the disk is full.
    """
    if short_side < SMALLEST:
        raise UsageError(f"--short-side {short_side} is too small; the least is {SMALLEST}.")
    dataset, paths = every_video(name, root)
    kind = dataset_kind(name)
    folder = report_file(dataset).parent
    _check_output(kind, folder, output)
    targets = {path: path_in_copy(path, folder) for path in paths}
    _check_names(targets)
    busy = f"Another `data shrink` is writing {output}; wait until it is done."
    with exclusive(output / RECORD, busy):
        remote = isinstance(dataset.root, Address)
        source = str(dataset.root if remote else folder.resolve())
        record = _open_record(Record(name, source, short_side), output)

        failures = []
        remove_leftovers(output)
        try:
            todo = _unfinished(targets, record, output)
            task = partial(shrink_video, folder=folder, output=output, short_side=short_side)
            save = partial(record.save, output / RECORD)
            results = run_each_with_progress(task, todo, "shrinking", save, workers, limits)
            with closing(results):
                for path, result in results:
                    if isinstance(result, Copy):
                        record.videos[targets[path].as_posix()] = result
                    elif isinstance(result, VideoError | WorkerError):
                        failures.append(str(result))
                    else:
                        raise result
        finally:
            remove_leftovers(output)

        copied = {
            path: record.videos[key]
            for path, target in targets.items()
            if (key := target.as_posix()) in record.videos
        }

        def new_path(path: Path) -> str:
            return copied[path].file if path in copied else path_in_copy(path, folder).as_posix()

        if kind.rewrite_list is None:
            new_root = output
            _copy_lists(kind, folder, output)
        else:
            new_root = output / dataset.root.name
            kind.rewrite_list(dataset.root, new_path, new_root)
        return Shrunk(
            root=new_root,
            videos=len(copied),
            before=sum(copy.size for copy in copied.values()),
            after=sum(copy.bytes for copy in copied.values()),
            failures=failures,
        )


def shrink_video(path: VideoPath, folder: Path, output: Path, short_side: int) -> Copy:
    """Write the smaller copy of one video of the data set in `folder`."""
    video = VideoReader(path)
    found = FileState.of(path)
    target = output / path_in_copy(path, folder)
    # A folder of frames becomes a file in any case.
    if min(video.size) <= short_side and video.index.access != "pictures":
        video.verify()
        with replacing(target) as temporary, path.open("rb") as source:
            with temporary.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    else:
        # In these, MPEG-4 keeps every frame and its time, but AVI has no times.
        if target.suffix.lower() == ".avi" and not video.index.is_regular:
            raise VideoError(
                f"{path} has a variable frame rate, which a smaller AVI can't keep; convert it, "
                "for example into .mp4."
            )
        if target.suffix.lower() not in CONTAINERS:
            target = target.with_suffix(".mp4")
        with replacing(target) as temporary:
            encode(video, short_side, temporary)
            _compare(video, VideoReader(temporary))
    file = target.relative_to(output).as_posix()
    return Copy(found.size, found.mtime_ns, file, target.stat().st_size)


def encode(video: VideoReader, short_side: int, path: Path) -> None:
    """Write all frames of `video`, scaled, as MPEG-4 without B-frames and without sound."""
    scale = min(1, short_side / min(video.size))
    height, width = (round(side * scale) for side in video.size)
    starts = range(0, len(video), CHUNK)
    chunks = [range(start, min(start + CHUNK, len(video))) for start in starts]
    # MPEG-4 counts time in units of 1/65535 s or more.
    rate = 1 / Fraction(1 / video.fps).limit_denominator(65535)
    unit = None if video.index.is_regular else TIME_UNIT
    times = iter(video.times - video.times[0])
    options = {
        "flags": "+qscale",
        "global_quality": str(QUALITY),
        "g": str(KEY_FRAME_EVERY),
        "bf": "0",
        "threads": "1",
    }
    with VideoWriter(path, (height, width), rate, "mpeg4", options, unit) as writer:
        for chunk in video.clips(chunks):
            for picture, seconds in zip(chunk, times, strict=False):
                writer.write(picture, seconds if unit else None)


def path_in_copy(path: VideoPath, folder: Path) -> Path:
    """The path in the copy of a video of the data set in `folder`: the same relative path.

    A CSV file may list videos that lie elsewhere; they get their whole path, without the root, or
    the server and path of their address.
    """
    if isinstance(path, Address) and path.scheme == FRAMES:
        path, _ = frame_folder_of(path)
    path = relative_path(path, folder)
    if isinstance(path, Address):
        server_and_folders = re.split(r"/+|::", path.url.partition("?")[0].replace("://", "/"))
        parents = [part for part in server_and_folders[1:-1] if part not in (".", "..")]
        return Path(*parents, path.name)
    return path.relative_to(path.anchor)


def _unfinished(targets: dict[VideoPath, Path], record: Record, output: Path) -> list[VideoPath]:
    """The videos that are still to be copied; removes outdated copies."""
    todo = []
    changed = 0
    for path, target in targets.items():
        copy = record.videos.get(target.as_posix())
        if copy is not None and FileState(copy.size, copy.mtime_ns) != FileState.of(path):
            (output / copy.file).unlink(missing_ok=True)
            changed += 1
        elif copy is not None and FileState.of(output / copy.file).size == copy.bytes:
            continue
        record.videos.pop(target.as_posix(), None)
        todo.append(path)
    if done := len(targets) - len(todo):
        logger.info("%d of %d videos are in %s already.", done, len(targets), output)
    if changed:
        logger.warning("%d videos have changed since they were copied; it is done anew.", changed)
    return todo


def _compare(video: VideoReader, copy: VideoReader) -> None:
    same = len(copy) == len(video)
    if same and video.index.is_regular:
        same = abs(copy.fps / video.fps - 1) <= 1e-4
    elif same:
        moments = (each.times[:-1] - each.times[0] for each in (video, copy))
        same = np.allclose(*moments, rtol=0, atol=MOST_LATE)
    if not same:
        raise VideoError(
            f"{video.path} has {len(video)} frames at {video.fps:g} a second and its copy "
            f"{len(copy)} at {copy.fps:g}, or at other times; encode it again, for example as "
            "H.264 in .mp4."
        )


def _check_output(kind: DatasetKind, folder: Path, output: Path) -> None:
    source, target = folder.resolve(), output.resolve()
    # Where a file lists the videos, the copies may lie beside the originals.
    if target == source or (kind.rewrite_list is None and source in target.parents):
        raise UsageError(
            f"--output {output} lies in the data set itself; choose a folder outside of {folder}."
        )
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is not a folder; choose another name.")
    names = set(os.listdir(output)) - {f".{RECORD}.lock"} if output.exists() else set()
    if names and RECORD not in names:
        raise ActionrecError(
            f"{output} holds files that are not from `actionrec data shrink`, such as "
            f"{min(names)}; choose a new or empty folder as --output."
        )


def _check_names(targets: dict[Path, Path]) -> None:
    """Refuse two videos whose copies would have one name, because one of them becomes .mp4."""
    taken: dict[Path, Path] = {}
    for path, target in targets.items():
        names = {target}
        if target.suffix.lower() not in CONTAINERS:
            names.add(target.with_suffix(".mp4"))
        for name in names:
            if other := taken.get(name):
                raise ActionrecError(
                    f"{path} and {other} would both become {name}; rename one of them."
                )
            taken[name] = path


def _open_record(wanted: Record, output: Path) -> Record:
    """The record in `output`, or in a new folder `wanted`, which is written there."""
    path = output / RECORD
    found = Record.load(path)
    if found is None:
        wanted.save(path)
        return wanted
    for name in ("dataset", "source", "short_side"):
        before, now = getattr(found, name), getattr(wanted, name)
        if before != now:
            raise ActionrecError(
                f"{output} was made with {name.replace('_', ' ')} {before}, not {now}; choose "
                "another --output."
            )
    return found


def _copy_lists(kind: DatasetKind, folder: Path, output: Path) -> None:
    """Copy the lists of splits and labels that lie in the data set or, as some do, beside it."""
    beside = folder.parent
    lists_beside = [path for pattern in kind.lists_beside for path in beside.glob(pattern)]
    lists = {output / path.relative_to(beside): path for path in lists_beside}
    for path in scan_files(folder, suffixes=LIST_SUFFIXES):
        if path.name not in (RECORD, REPORT):
            lists[output / path.relative_to(folder)] = path
    for target, path in lists.items():
        if target.exists():
            if filecmp.cmp(path, target, shallow=False):
                continue
            logger.warning("%s has changed since it was copied; it is done anew.", path)
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
