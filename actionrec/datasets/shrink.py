"""Copy a data set with smaller videos, which are read about twice as fast.

    actionrec data shrink ucf101 --root UCF-101 --output UCF-101-small
    actionrec train --dataset ucf101 --root UCF-101-small

Training reads a few frames of a video, scales them down and throws the rest away. In the copy the
frames are small already, and every twelfth is a key frame. Folders, names, numbers of frames and
frame rates stay as they are, so that splits and labels do too.

What is done is kept in the copy's actionrec_shrink.json, and the next run goes on from there:

    {"version": 1, "dataset": "ucf101", "source": "/data/UCF-101", "short_side": 128,
     "videos": {"Archery/v_Archery_g01_c01.avi":
                {"size": 290110, "mtime_ns": 5678, "file": "Archery/v_Archery_g01_c01.avi",
                 "bytes": 61234}}}

`size` and `mtime_ns` are those of the source, `file` and `bytes` path and size of the copy.
"""

import csv
import filecmp
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

from actionrec.datasets.check import REPORT, Stamp, every_video, report_file, rows_of_csv
from actionrec.datasets.hmdb51 import SPLIT_FOLDERS
from actionrec.errors import ActionrecError, UsageError, VideoError
from actionrec.files import replacing
from actionrec.processes import STANDARD_LIMITS, Limits, WorkerError, run_each
from actionrec.video.reader import VideoReader
from actionrec.video.writer import CONTAINERS, VideoWriter

logger = logging.getLogger("actionrec")

VERSION = 1
RECORD = "actionrec_shrink.json"
SAVED_EVERY = 10.0  # seconds
LIST_SUFFIXES = {".txt", ".csv", ".json"}
LISTS_BESIDE = {
    "ucf101": ["ucfTrainTestlist/*.txt"],
    "hmdb51": [f"{folder}/*_test_split?.txt" for folder in SPLIT_FOLDERS],
}
SMALLEST = 32  # pixels
KEY_FRAME_EVERY = 12
# FFmpeg's -qscale 3, in its unit of 118: hardly to be told from the original.
QUALITY = 3 * 118
CHUNK = 8  # frames in memory at once


@dataclass(frozen=True)
class Copy:
    """A finished video: size and time of change of its source, its path in the copy, its bytes."""

    size: int
    mtime_ns: int
    file: str
    bytes: int


@dataclass
class Record:
    """What a shrunk data set was made from and which of its videos are finished, by the path that
    they have in the source."""

    dataset: str
    source: str
    short_side: int
    videos: dict[str, Copy] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the record, whole or not at all.

        Raises:
            ActionrecError: the folder can't be written.
        """
        with replacing(path) as temporary:
            text = json.dumps({"version": VERSION} | asdict(self))
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Record | None":
        """The record at `path`, None if there is none.

        Raises:
            ActionrecError: it is damaged or of another version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if (version := values.pop("version")) != VERSION:
                raise ValueError(f"version {version}, not {VERSION}")
            videos = {key: Copy(**copy) for key, copy in values.pop("videos").items()}
            return cls(**values, videos=videos)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ActionrecError(
                f"{path} can't be read as a record of `actionrec data shrink` "
                f"({type(error).__name__}: {error}); choose another --output."
            ) from error


@dataclass(frozen=True)
class Shrunk:
    """A shrunk data set: what to give as --root, the number of its videos, their size in bytes
    before and after, and the reasons why others are not in it, as sentences."""

    root: Path
    videos: int
    before: int
    after: int
    failures: list[str]


def shrink(
    name: str,
    root: Path | None,
    output: Path,
    short_side: int = 128,
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
) -> Shrunk:
    """Copy a data set into the folder `output` with videos of `short_side` pixels.

    Videos that are no larger than that are copied as they are. A video that can't be read is left
    out. Finished videos are kept by the next run with the same `output`, unless their source has
    changed since. A CSV file still lists the videos that were left out: without them the folds
    would be others.

    Raises:
        UsageError: there is no such data set, `short_side` is too small, or `output` is, or lies
            in, the source.
        ActionrecError: what lies at `root` is not that data set; `output` holds something else;
            two videos would get one name; or the disk is full.
    """
    if short_side < SMALLEST:
        raise UsageError(f"--short-side {short_side} is too small; the least is {SMALLEST}.")
    dataset, paths = every_video(name, root)
    folder = report_file(dataset, root).parent
    _check_output(name, folder, output)
    places = {path: place(path, folder) for path in paths}
    _check_names(places)
    record = _open_record(Record(name, str(folder.resolve()), short_side), output)

    failures = []
    _remove_leftovers(output)
    saved = time.monotonic()
    try:
        todo = _unfinished(places, record, output)
        task = partial(shrink_video, folder=folder, output=output, short_side=short_side)
        for path, result in _with_progress(task, todo, workers, limits):
            if isinstance(result, Copy):
                record.videos[places[path].as_posix()] = result
            elif isinstance(result, VideoError | WorkerError):
                failures.append(str(result))
            else:
                raise result
            if time.monotonic() > saved + SAVED_EVERY:
                record.save(output / RECORD)
                saved = time.monotonic()
    finally:
        record.save(output / RECORD)
        _remove_leftovers(output)

    copied = {
        path: record.videos[key]
        for path, to in places.items()
        if (key := to.as_posix()) in record.videos
    }
    if name == "csv":
        _write_csv(root, {path: copy.file for path, copy in copied.items()}, output / root.name)
    else:
        _copy_lists(name, folder, output)
    return Shrunk(
        root=output / root.name if name == "csv" else output,
        videos=len(copied),
        before=sum(copy.size for copy in copied.values()),
        after=sum(copy.bytes for copy in copied.values()),
        failures=failures,
    )


def shrink_video(path: Path, folder: Path, output: Path, short_side: int) -> Copy:
    """Write the smaller copy of one video of the data set in `folder`.

    Raises:
        VideoError: the video can't be read.
        ActionrecError: the copy can't be written.
    """
    video = VideoReader(path)
    found = path.stat()
    target = output / place(path, folder)
    if min(video.size) <= short_side:
        video.verify()
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
    else:
        # In these, MPEG-4 keeps every frame and the exact frame rate.
        if target.suffix.lower() not in CONTAINERS:
            target = target.with_suffix(".mp4")
        with replacing(target) as temporary:
            encode(video, short_side, temporary)
            _compare(video, VideoReader(temporary))
    file = target.relative_to(output).as_posix()
    return Copy(found.st_size, found.st_mtime_ns, file, target.stat().st_size)


def encode(video: VideoReader, short_side: int, path: Path) -> None:
    """Write all frames of `video`, scaled, as MPEG-4 without B-frames and without sound."""
    scale = short_side / min(video.size)
    height, width = (round(side * scale) for side in video.size)
    starts = range(0, len(video), CHUNK)
    chunks = [range(start, min(start + CHUNK, len(video))) for start in starts]
    # MPEG-4 counts time in units of 1/65535 s or more.
    rate = 1 / Fraction(1 / video.fps).limit_denominator(65535)
    options = {
        "flags": "+qscale",
        "global_quality": str(QUALITY),
        "g": str(KEY_FRAME_EVERY),
        "bf": "0",
        "threads": "1",
    }
    with VideoWriter(path, (height, width), rate, "mpeg4", options) as writer:
        for chunk in video.clips(chunks):
            for picture in chunk:
                writer.write(picture)


def place(path: Path, folder: Path) -> Path:
    """Where in the copy a video of the data set in `folder` lies: at the same relative path.

    A CSV file may list videos that lie elsewhere; they get their whole path, without the root.
    """
    path = Path(os.path.abspath(path))
    folder = Path(os.path.abspath(folder))
    return path.relative_to(folder if path.is_relative_to(folder) else path.anchor)


def _with_progress(
    task: partial[Copy], paths: list[Path], workers: int | None, limits: Limits
) -> Iterator[tuple[Path, Copy | ActionrecError]]:
    if not paths:
        return
    from rich.console import Console
    from rich.progress import track

    with closing(run_each(task, paths, workers, limits)) as results:
        console = Console(stderr=True)
        yield from track(results, "shrinking", total=len(paths), console=console)


def _unfinished(places: dict[Path, Path], record: Record, output: Path) -> list[Path]:
    """The videos that are still to be copied; copies of those that have changed are removed."""
    todo = []
    changed = 0
    for path, to in places.items():
        copy = record.videos.get(to.as_posix())
        if copy is None:
            todo.append(path)
        elif Stamp(copy.size, copy.mtime_ns) != Stamp.of(path):
            (output / copy.file).unlink(missing_ok=True)
            changed += 1
            todo.append(path)
        elif Stamp.of(output / copy.file).size != copy.bytes:
            todo.append(path)
    for path in todo:
        record.videos.pop(places[path].as_posix(), None)
    if done := len(places) - len(todo):
        logger.info("%d of %d videos are in %s already.", done, len(places), output)
    if changed:
        logger.warning("%d videos have changed since they were copied; it is done anew.", changed)
    return todo


def _compare(video: VideoReader, copy: VideoReader) -> None:
    if len(copy) != len(video) or abs(copy.fps / video.fps - 1) > 1e-4:
        raise VideoError(
            f"{video.path} has {len(video)} frames at {video.fps:g} a second and its copy "
            f"{len(copy)} at {copy.fps:g}; encode it again, for example as H.264 in .mp4."
        )


def _check_output(name: str, folder: Path, output: Path) -> None:
    source, target = folder.resolve(), output.resolve()
    # A CSV file says which videos there are, so that the copies may well lie beside the originals.
    if target == source or (name != "csv" and source in target.parents):
        raise UsageError(
            f"--output {output} lies in the data set itself; choose a folder outside of {folder}."
        )
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is not a folder; choose another name.")


def _check_names(places: dict[Path, Path]) -> None:
    """Refuse two videos of which one becomes .mp4 and then has the other's name."""
    taken: dict[Path, Path] = {}
    for path, to in places.items():
        names = {to}
        if to.suffix.lower() not in CONTAINERS:
            names.add(to.with_suffix(".mp4"))
        for each in names:
            if other := taken.get(each):
                raise ActionrecError(
                    f"{path} and {other} would both become {each}; rename one of them."
                )
            taken[each] = path


def _open_record(wanted: Record, output: Path) -> Record:
    """The record of the run that `output` is from, or `wanted`, written into the new folder."""
    path = output / RECORD
    found = Record.load(path)
    if found is None:
        if output.exists() and any(output.iterdir()):
            raise ActionrecError(
                f"{output} holds files that are not from `actionrec data shrink`; choose a new or "
                "empty folder as --output."
            )
        wanted.save(path)
        return wanted
    for what in ("dataset", "source", "short_side"):
        before, now = getattr(found, what), getattr(wanted, what)
        if before != now:
            raise ActionrecError(
                f"{output} was made with {what.replace('_', ' ')} {before}, not {now}; choose "
                "another --output."
            )
    return found


def _remove_leftovers(output: Path) -> None:
    """Remove what killed processes have left half-written: `replacing` calls it .NAME.xxxxxxxx."""
    for path in output.rglob(".*.????????.*"):
        path.unlink(missing_ok=True)


def _copy_lists(name: str, folder: Path, output: Path) -> None:
    """Copy the lists of splits and labels that lie in the data set or, as some do, beside it."""
    beside = folder.parent
    patterns = LISTS_BESIDE.get(name, [])
    lists = {
        path.relative_to(beside): path for pattern in patterns for path in beside.glob(pattern)
    }
    lists |= {path.relative_to(folder): path for path in _lists_in(folder)}
    for to, path in lists.items():
        if (output / to).exists():
            if filecmp.cmp(path, output / to, shallow=False):
                continue
            logger.warning("%s has changed since it was copied; it is done anew.", path)
        with replacing(output / to) as temporary:
            shutil.copyfile(path, temporary)


def _lists_in(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            ours = name in (RECORD, REPORT)
            if path.suffix.lower() in LIST_SUFFIXES and not name.startswith(".") and not ours:
                yield path


def _write_csv(source: Path, files: dict[Path, str], target: Path) -> None:
    """Write the CSV file anew with the paths of the copies.

    A video that was left out keeps its line: without it the folds by group could be others.
    """
    rows = rows_of_csv(source)
    for row in rows:
        path = source.parent / row["path"]
        row["path"] = files.get(path) or place(path, source.parent).as_posix()
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
