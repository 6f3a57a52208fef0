"""Annotations of other tools as a CSV file to train on.

actionrec data import project.json --output data.csv --videos footage
actionrec train --dataset csv --root data.csv
"""

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from actionrec.datasets.annotations.annotation import Annotation, Annotations
from actionrec.datasets.annotations.registry import read_annotations
from actionrec.datasets.dataset import abridged, scan_files
from actionrec.errors import ActionrecError, VideoError
from actionrec.files import write_whole
from actionrec.progress import track
from actionrec.video.reader import VideoReader
from actionrec.video.segments import plain_number

# Separates the labels of a row, where a row may have several.
SEPARATOR = "|"


@dataclass
class Imported:
    """A written CSV file: its rows, videos and labels, what was lost or changed on the way, as
    sentences, and what failed."""

    rows: int = 0
    videos: int = 0
    labels: int = 0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    path: str
    label: str
    split: str
    start: str
    end: str


def import_annotations(
    files: Sequence[Path], output: Path, name: str = "auto", videos: Path | None = None
) -> Imported:
    """Write the annotations in `files` as a CSV file that `open_csv` reads.

    The videos are found by their names, below the folder `videos` or, without it, below each
    file's own folder; their paths are written relative to `output`. Annotations that count frames
    get the times of these frames in the video. The sides of the format become the column split;
    without sides, each video is a group of its own.

    Raises:
        ActionrecError: a file can't be read, not one video is there, two videos have one name, or
            `output` can't be written.
    """
    result = Imported()
    rows: dict[_Row, None] = {}
    wanted: set[str] = set()
    missing: dict[str, None] = {}
    repeated = 0
    for file in files:
        annotations = read_annotations(file, name)
        folder = videos or file.parent
        found = VideoFiles(folder)
        dropped: Counter[str] = Counter()
        readers: dict[Path, VideoReader | None] = {}
        for each in track(annotations.found, "importing", transient=True):
            wanted.add(each.videos[0])
            path, is_cut = found.find(each)
            if path is None:
                missing[each.videos[0]] = None
                continue
            seconds = None if is_cut else each.seconds
            if each.frames is not None:
                if path not in readers:
                    readers[path] = _open(path, annotations, each, result)
                if (video := readers[path]) is None:
                    continue
                seconds = _seconds(video, each.frames)
            if reason := _unusable(each, seconds):
                dropped[reason] += 1
                continue
            start, end = map(plain_number, seconds) if seconds else ("", "")
            label = " ".join(normalize("NFC", each.label).split())
            relative = os.path.relpath(path, output.parent)
            row = _Row(Path(relative).as_posix(), label, each.split, start, end)
            repeated += row in rows
            rows[row] = None
        result.notes += _notes(file, annotations, dropped)
    if missing:
        result.failures.append(
            f"{len(missing)} of {len(wanted)} videos are not below {videos or files[0].parent} and "
            f"are left out: {abridged(list(missing))}; give their folder with --videos."
        )
    if repeated:
        result.notes.append(f"{repeated} annotations are there twice and written once.")
    if not rows:
        reasons = [*result.failures, *result.notes]
        reason = reasons[0] if reasons else f"{files[0]} holds no annotations."
        raise ActionrecError(f"Nothing is left to write: {reason}")
    kept = _without_separator(_with_split(list(rows), result), result)
    kept = _with_one_row_a_video(kept, result)
    result.rows, result.videos = len(kept), len({row.path for row in kept})
    result.labels = len({row.label for row in kept})
    write_whole(output, _csv_text(kept))
    return result


class VideoFiles:
    """The videos below a folder, by their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ActionrecError(f"{folder} is not a folder; give the videos' with --videos.")
        self.by_name: dict[str, list[Path]] = {}
        self.by_stem: dict[str, list[Path]] = {}
        for path in scan_files(folder):
            self.by_name.setdefault(normalize("NFC", path.name), []).append(path)
            self.by_stem.setdefault(normalize("NFC", path.stem), []).append(path)

    def find(self, annotation: Annotation) -> tuple[Path | None, bool]:
        """The video of an annotation, None if there is none, and whether it is the part alone.

        Raises:
            ActionrecError: two files have the name.
        """
        cut = self._one(annotation.cut, self.by_stem) if annotation.cut else None
        if cut is not None:
            return cut, True
        # A name without a suffix may contain a point.
        for files in (self.by_name, self.by_stem):
            for name in annotation.videos:
                if (path := self._one(name, files)) is not None:
                    return path, False
        for name in annotation.videos:
            # The video may have been converted into another container.
            if (path := self._one(Path(name).stem, self.by_stem)) is not None:
                return path, False
        return None, False

    def _one(self, name: str, files: dict[str, list[Path]]) -> Path | None:
        paths = files.get(normalize("NFC", name), [])
        if len(paths) > 1:
            raise ActionrecError(
                f"{paths[0]} and {paths[1]} have the name of one annotated video; give a folder "
                "with one of them with --videos."
            )
        return paths[0] if paths else None


def _open(
    path: Path, annotations: Annotations, annotation: Annotation, result: Imported
) -> VideoReader | None:
    """A video whose frames are counted, None where it can't be read or has others."""
    try:
        video = VideoReader(path)
    except VideoError as error:
        result.failures.append(str(error))
        return None
    expected = annotations.frame_counts.get(annotation.videos[0], len(video))
    # Tools that play videos in a browser estimate the number.
    if abs(expected - len(video)) > max(2, 0.01 * len(video)):
        result.failures.append(
            f"{path} has {len(video)} frames, and {expected} by its annotations, so their times "
            "are unknown: it is left out."
        )
        return None
    return video


def _seconds(video: VideoReader, frames: tuple[int, int]) -> tuple[float, float] | None:
    """Start and end of frames, those past the video's end taken for it."""
    first, stop = frames[0], min(frames[1], len(video))
    if not 0 <= first < stop:
        return math.nan, math.nan
    return float(video.times[first]), float(video.times[stop])


def _unusable(annotation: Annotation, seconds: tuple[float, float] | None) -> str:
    """Why an annotation can't be a row, in words for its kind; "" if it can."""
    if not annotation.label.strip():
        return "annotations without a label"
    if seconds is None:
        return ""
    start, end = seconds
    if not (math.isfinite(start) and math.isfinite(end)):
        return "segments outside of their video"
    if start < 0:
        return "segments that start before their video"
    return "" if start < end else "segments that end no later than they start"


def _notes(file: Path, annotations: Annotations, dropped: Counter[str]) -> Iterable[str]:
    lost = [f"{count} {what}" for what, count in annotations.lost.items() if count > 0]
    if lost:
        yield f"{file}: a CSV file has no place for {', '.join(lost)}."
    if dropped:
        kinds = ", ".join(f"{count} {what}" for what, count in dropped.items())
        yield f"{file}: left out are {kinds}."
    for note in annotations.notes:
        yield f"{file}: {note}"


def _with_split(rows: list[_Row], result: Imported) -> list[_Row]:
    """The rows; where some have a split, those alone."""
    kept = [row for row in rows if row.split]
    if kept and len(kept) < len(rows):
        result.notes.append(f"{len(rows) - len(kept)} annotations without a split are left out.")
    return kept or rows


def _without_separator(rows: list[_Row], result: Imported) -> list[_Row]:
    """The rows with labels that can't be taken for several."""
    labels = {row.label for row in rows}
    renamed = {label: label.replace(SEPARATOR, "/") for label in labels if SEPARATOR in label}
    for label, new in sorted(renamed.items()):
        if new in labels:
            raise ActionrecError(
                f"The label {label!r} has the character that separates labels, and {new!r} is "
                "another label; rename one of them in the annotations."
            )
        result.notes.append(
            f"The label {label!r} has the character that separates labels and is written {new!r}."
        )
    return [
        _Row(row.path, renamed.get(row.label, row.label), row.split, row.start, row.end)
        for row in rows
    ]


def _with_one_row_a_video(rows: list[_Row], result: Imported) -> list[_Row]:
    """The rows, those of one whole video with all of its labels in one."""
    labels: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row.start:
            labels.setdefault((row.path, row.split), []).append(row.label)
    if several := sum(len(each) > 1 for each in labels.values()):
        result.notes.append(
            f"{several} videos have several labels, separated by {SEPARATOR} in their rows."
        )
    whole = [
        _Row(path, SEPARATOR.join(each), split, "", "") for (path, split), each in labels.items()
    ]
    return whole + [row for row in rows if row.start]


def _csv_text(rows: list[_Row]) -> str:
    with_split = bool(rows[0].split)
    with_times = any(row.start for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    times = ["start", "end"] if with_times else []
    writer.writerow(["path", "label", "split" if with_split else "group", *times])
    order = sorted(rows, key=lambda row: (row.path, float(row.start or 0), row.label))
    for row in order:
        side = row.split if with_split else row.path
        writer.writerow([row.path, row.label, side, *([row.start, row.end] if times else [])])
    return text.getvalue()
