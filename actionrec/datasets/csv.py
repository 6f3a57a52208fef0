"""Videos listed in a CSV file with the columns path,label[,group][,split][,start,end][,fps].

    actionrec train --dataset csv --root my_videos.csv
    actionrec train --dataset csv --root s3://bucket/my_videos.csv

Paths are relative to the folder of the CSV file, which may itself stand at an address; addresses
(https://, s3://, ...) may stand in their place. `split` says train or val. `group` names the
recording that a clip was cut from: clips of one recording must not be on both sides, or the
validation figures only tell how well the recording is recognised again. Without a `split`
column the groups are dealt into five folds, or as many as there are groups if those are fewer, and
fold N validates: `--split 1` to `--split 5`.

`start` and `end` make a row a segment of its file, in seconds; both empty mean all of it. A file
may then have many rows, and all of them are on one side; where no group is known, the file is it.

`fps` is the rate of a folder of frames; without it, --frame-rate is. Video files have their own.

With `--multi-label true` a video may have several labels, parted by | in its cell, or none: an
empty cell.
"""

import codecs
import csv
import io
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from unicodedata import normalize

from actionrec.datasets.dataset import LabelledVideo, VideoDataset, deal_groups
from actionrec.errors import ActionrecError, UsageError, VideoError
from actionrec.files import replacing
from actionrec.video.address import (
    Address,
    VideoPath,
    beside,
    frames_address,
    is_address,
    rate_of,
    video_path,
)
from actionrec.video.pictures import is_frame_folder

logger = logging.getLogger("actionrec")

COLUMNS = ("path", "label", "group", "split", "start", "end", "fps")
TIMES = ("start", "end")
MAY_BE_EMPTY = ("group", "label", *TIMES, "fps")
# Other names that people give to these two.
LIKE_TIMES = re.compile(
    r"(.*[^a-z])?(t0|t1|start|begin|end|stop|onset|offset)([^a-z].*)?|"
    r"(start|begin|end|stop)(s|ing|time|sec|seconds|frame)|(from|to)"
)
DECIMAL_COMMA = re.compile(r"[0-9]+,[0-9]+")
FOLDS = ("1", "2", "3", "4", "5")
SIDE_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}

# Of a list at an address; what is larger is no list.
MOST_BYTES = 1 << 28

# Between the labels of a cell.
SEPARATOR = "|"

Row = dict[str, str]
Segment = tuple[float, float]


def open_csv(
    path: str | VideoPath,
    split: str = "1",
    to_train: bool = True,
    multi_label: bool | None = None,
) -> VideoDataset:
    """Return the videos that a CSV file lists; the labels are its label names, sorted.

    Columns are separated by commas, semicolons or tabs; other columns than `COLUMNS` are not used.

    With a `split` column, train trains and val (also valid, validate, validation) validates;
    test validates where no row is val, and is left out otherwise. Without, `split` is the fold,
    "1" to "5" (with fewer groups, to their number): whole groups, dealt so that folds are alike in
    size and labels, always the same for the same rows. Videos whose group is empty or "unknown"
    could be of any recording, so they train in every fold. Without training `to_train`, no video
    needs the split train, and without `split` and `group` all videos validate.

    A row with `start` and `end` is a segment. All segments of a file must be on one side; segments
    that overlap and have different labels are kept and told.

    A cell holds one label or, with `multi_label`, several, parted by |, or none. By default there
    are several where one of the cells holds |.

    `fps` is the rate of a folder of frames, the same in all its rows; that of a video file is not
    used, which is told.

    A listed file that doesn't exist is warned of and kept, and counts as a broken video when it is
    read; where half the files or more don't exist, the paths themselves must be wrong: an error.

    Raises:
        UsageError: `path` is a folder, or its `split` column leaves no choice of a fold.
        ActionrecError: the file can't be read, has wrong columns, an incomplete line or one
            video twice, lacks the groups or labels that the division needs, divides a group or
            file between training and validation, has an impossible segment or rate or, without
            `multi_label`, several labels in a cell, or most of its videos don't exist.
    """
    path = video_path(path)
    if isinstance(path, Path) and path.is_dir():
        raise UsageError(f"{path} is a folder; give the CSV file itself, --root FILE.csv.")
    rows = _read(path)
    if multi_label is None:
        multi_label = has_several_labels(rows)
    _check_labels(path, rows, multi_label)
    if not to_train and not rows[0].keys() & {"split", "group"}:
        train, val, rest = [], rows, []
    elif "split" not in rows[0]:
        train, val, rest = *_divide_by_fold(path, rows, FOLDS.index(split)), []
    elif split == "1":
        train, val, rest = _divide_by_column(path, rows, to_train)
    else:
        raise UsageError(f"{path} has a split column, so there is no split {split!r} of it.")

    labels = tuple(sorted({label for row in train + val for label in _labels_of(row, multi_label)}))
    if not labels:
        raise ActionrecError(f"{path} has no label in any line; fill in the column label.")
    trained = {label for row in train for label in _labels_of(row, multi_label)}
    for row in val if trained else []:
        if strays := [label for label in _labels_of(row, multi_label) if label not in trained]:
            raise ActionrecError(
                f"{path}, line {row['line']}: no training video shows {strays[0]!r}, which "
                "this one is to validate; add training videos of it from another group, or check "
                "the spelling."
            )
    _check_files(path, train + val)
    index = {name: label for label, name in enumerate(labels)}

    def video(row: Row) -> LabelledVideo:
        own = tuple(index[label] for label in _labels_of(row, multi_label))
        first, several = own[0] if own else -1, own if multi_label else None
        place, part = _place_of(path, row), _segment_of(row)
        return LabelledVideo(place, first, _group_of(row), part, several)

    sides = [tuple(map(video, side)) for side in (train, val)]
    others = tuple(_place_of(path, row) for row in rest)
    return VideoDataset("csv", labels, *sides, others=others, multi_label=multi_label)


def has_several_labels(rows: Iterable[Row]) -> bool:
    """Whether a cell holds several labels."""
    return any(SEPARATOR in row["label"] for row in rows)


def _labels_of(row: Row, multi_label: bool) -> list[str]:
    cell = row["label"]
    if not multi_label:
        return [cell]
    return [label.strip() for label in cell.split(SEPARATOR)] if cell else []


def _place_of(path: VideoPath, row: Row) -> VideoPath:
    """The video of a row of the list at `path`."""
    place = beside(path.parent, row["path"])
    return frames_address(place, float(row["fps"])) if row.get("fps") else place


def _check_labels(path: VideoPath, rows: list[Row], multi_label: bool) -> None:
    for row in rows:
        where, cell = f"{path}, line {row['line']}", row["label"]
        if not multi_label and not cell:
            raise ActionrecError(f"{where} has no label; fill it in.")
        if not multi_label and SEPARATOR in cell:
            raise ActionrecError(
                f"{where} has several labels in one cell, {cell!r}; add --multi-label true to "
                "train on them all, or rename the label if it is one."
            )
        labels = _labels_of(row, multi_label)
        if "" in labels:
            raise ActionrecError(f"{where} has an empty label in {cell!r}; remove a {SEPARATOR}.")
        if twice := [label for label, count in Counter(labels).items() if count > 1]:
            raise ActionrecError(f"{where} has the label {twice[0]!r} twice; remove one of them.")


def rewrite_csv(source: VideoPath, new_path: Callable[[VideoPath], str], target: Path) -> None:
    """Write a CSV file that `open_csv` has accepted anew, with other paths of the videos."""
    rows = [row | {"path": new_path(_place_of(source, row))} for row in _read(source)]
    for row in rows:
        # The copy of a folder of frames is a video file.
        if row.get("fps") and (target.parent / row["path"]).is_file():
            row["fps"] = ""
    columns = [name for name in rows[0] if name in COLUMNS]
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _group_of(row: Row) -> str | None:
    """The recording that a video is of; where parts of files are listed without one, the file."""
    group = row.get("group", row.get("recording", ""))
    return None if group.lower() in ("", "unknown") else group


def _segment_of(row: Row) -> Segment | None:
    return (float(row["start"]), float(row["end"])) if row.get("start") else None


def _read(path: VideoPath) -> list[Row]:
    """Return the rows, stripped of spaces, each with the number of its line under "line"."""
    (_, names), *records = csv_records(path)
    names = [name.lower() for name in names]
    _check_columns(path, names)
    rows = []
    lines: dict[tuple[str, ...], str] = {}
    for number, record in records:
        where = f"{path}, line {number}"
        if any(record[len(names) :]):
            raise ActionrecError(
                f"{where} has more fields than the header; put a field that contains a comma in "
                "double quotes."
            )
        record += [""] * (len(names) - len(record))
        # Programs and spreadsheets number the rows in a column without a name.
        for name, value in zip(names, record, strict=False):
            if not name and value and not value.isdecimal():
                raise ActionrecError(
                    f"{where} has {value!r} in a column without a name; name the column in the "
                    "first line, or put a field that contains a comma in double quotes."
                )
        values = zip(names, record, strict=False)
        row = {name: normalize("NFC", value) for name, value in values if name in COLUMNS}
        for name in COLUMNS:
            # Whether a label may be empty is known once all rows are.
            if name in row and name not in MAY_BE_EMPTY and not row[name]:
                raise ActionrecError(f"{where} has no {name}; fill it in.")
        try:
            row["path"] = _path_here(path.parent, record[names.index("path")])
            place = beside(path.parent, row["path"])
        except VideoError as error:
            raise ActionrecError(f"{where}: {error}") from error
        row["file"] = str(place) if isinstance(place, Address) else os.path.abspath(place)
        _check_segment(where, row)
        _check_rate(where, row)
        same: tuple[str, ...] = (row["file"],)
        if (segment := _segment_of(row)) is not None:
            same = (row["file"], *map(str, segment), row["label"])
        if same in lines:
            what = "the same segment" if segment else row["path"]
            raise ActionrecError(
                f"{where}: {what} is already in line {lines[same]}; remove one of them."
            )
        row["line"] = lines[same] = str(number)
        rows.append(row)
    if not rows:
        raise ActionrecError(f"{path} lists no videos; add a line for each, below the header.")
    if any(_segment_of(row) for row in rows):
        _check_files_of_segments(path, rows)
    if any(row.get("fps") for row in rows):
        _check_rates(path, rows)
    return rows


def _check_segment(where: str, row: Row) -> None:
    """Check the start and end of a row, which are both empty or seconds in this order."""
    given = [row.get(name, "") for name in TIMES]
    if not any(given):
        return
    for name, text in zip(TIMES, given, strict=True):
        if not text:
            raise ActionrecError(
                f"{where} has no {name} to its {TIMES[1 - TIMES.index(name)]}; fill it in, or "
                "leave both empty for the whole video."
            )
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        # Python would read 1_000 as a number.
        if not math.isfinite(seconds) or "_" in text:
            raise ActionrecError(
                f"{where}: the {name} {text!r} is no number; write seconds, such as 62.5."
            )
        if seconds < 0:
            raise ActionrecError(
                f"{where}: the {name} {text} is negative; write seconds from the beginning of the "
                "video."
            )
    start, end = map(float, given)
    if start >= end:
        relation = "is" if start == end else "is after"
        raise ActionrecError(
            f"{where}: the start {given[0]} {relation} the end {given[1]}; a segment must end "
            "after it starts."
        )


def _check_rate(where: str, row: Row) -> None:
    if (text := row.get("fps")) and rate_of(text) is None:
        raise ActionrecError(
            f"{where}: the fps {text!r} is no rate; write frames a second above 0, such as 30, or "
            "leave it empty."
        )


def _check_rates(path: VideoPath, rows: list[Row]) -> None:
    """Check that each folder of frames has one rate, and leave out those of video files, which is
    told."""
    rated = [row for row in rows if row["fps"]]
    unused = [row for row in rated if is_address(row["file"]) or os.path.isfile(row["file"])]
    for row in unused:
        row["fps"] = ""
    if unused:
        logger.warning(
            "%s, line %s: the fps of %s is not used, because fps is for folders of frames, and a "
            "video file has its own (%d such lines).",
            *(path, unused[0]["line"], unused[0]["path"], len(unused)),
        )
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row["file"], row)
        if rate_of(other["fps"]) != rate_of(row["fps"]):
            rates = " and ".join(
                f"{each['fps'] or 'no'} fps in line {each['line']}" for each in (other, row)
            )
            raise ActionrecError(
                f"{path}: {row['path']} has {rates}; give all rows of a folder of frames one rate."
            )


def _check_files_of_segments(path: VideoPath, rows: list[Row]) -> None:
    """Check that each file with segments has one group, its own name if none is known, and tell
    which segments overlap and have different labels."""
    files: dict[str, list[Row]] = {}
    for row in rows:
        files.setdefault(row["file"], []).append(row)
    overlaps = []
    for its in files.values():
        groups = {_group_of(row): row["line"] for row in its}
        if len(groups) > 1:
            (one, line), (other, its_line) = list(groups.items())[:2]
            raise ActionrecError(
                f"{path}: {its[0]['path']} has the group {one or 'unknown'!r} in line {line} and "
                f"{other or 'unknown'!r} in line {its_line}; all parts of a video are one "
                "recording: give them one group."
            )
        for row in its:
            row["recording"] = its[0]["path"]
        spans = [(*(_segment_of(row) or (0.0, math.inf)), row) for row in its]
        going_on: list[tuple[float, float, Row]] = []
        for start, end, row in sorted(spans, key=lambda span: span[:2]):
            going_on = [span for span in going_on if span[1] > start]
            others = (other for *_, other in going_on if other["label"] != row["label"])
            overlaps += [(other, row) for other in islice(others, 1)]
            going_on.append((start, end, row))
    if overlaps:
        first, second = overlaps[0]
        logger.warning(
            "%s: segments that overlap others of their video with another label are kept (%d); the "
            "first are lines %s, %s, and %s, %s.",
            *(path, len(overlaps), first["line"], first["label"], second["line"], second["label"]),
        )


def csv_records(path: VideoPath) -> list[tuple[int, list[str]]]:
    """The lines of a table that aren't blank, with their numbers: the header, separated by comma,
    semicolon or tab, and the rows; without the spaces around the cells.

    Spreadsheets separate by semicolons or tabs where they write times with a decimal comma; it
    becomes a point.

    Raises:
        ActionrecError: the file can't be read, or not as a table in UTF-8.
    """
    try:
        data = _bytes_of(path)
        if data.startswith(b"PK\x03\x04"):
            raise ActionrecError(f"{path} is a workbook, no CSV file; save it as CSV in UTF-8.")
        # Excel's "Unicode text" is UTF-16; utf-8-sig removes the byte order mark that it writes.
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
        # Excel's own line that names the separator.
        first, _, rest = text.partition("\n")
        text = f"\n{rest}" if re.fullmatch("sep=.\r?", first) else text
        for delimiter in ",;\t":
            source = io.StringIO(text, newline="")
            # Strict, because a quote that is never closed would swallow the rows below it.
            reader = csv.reader(source, delimiter=delimiter, skipinitialspace=True, strict=True)
            stripped = ([cell.strip() for cell in record] for record in reader)
            records = ((reader.line_num, record) for record in stripped if any(record))
            header = next(records, (1, []))
            names = [name.lower() for name in header[1]]
            if {"path", "label"} <= set(names):
                times = [names.index(name) for name in TIMES if name in names]
                rows = list(records)
                for _, record in rows if delimiter != "," else []:
                    for column in times:
                        if DECIMAL_COMMA.fullmatch(record[column] if column < len(record) else ""):
                            record[column] = record[column].replace(",", ".")
                return [header, *rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ActionrecError(
            f"{path} can't be read as a CSV file in UTF-8 ({error}); check the path and how it "
            "was saved."
        ) from error
    lines = (line.strip() for line in text.splitlines())
    found = next(filter(None, lines), "")
    return [(1, [name.strip() for name in found.split(",")])]


def _bytes_of(path: VideoPath) -> bytes:
    """The contents of a list.

    Raises:
        OSError: there is no such file here, or it can't be read.
        ActionrecError: there is none at an address, it can't be read, or it is too large.
    """
    if isinstance(path, Path):
        return path.read_bytes()
    try:
        with path.open() as file:
            if (size := file.state.st_size) > MOST_BYTES:
                raise ActionrecError(
                    f"{path} has {size / 1e6:.0f} MB and so is no CSV file; check the address."
                )
            return file.read()
    except VideoError as error:
        raise ActionrecError(f"The CSV file can't be read: {error}") from error


def _path_here(folder: VideoPath, path: str) -> str:
    """A listed path as this machine writes it: backslashes from Windows become slashes, ~ the home
    folder. Addresses stay as they are.

    Raises:
        VideoError: it is a path on this machine in a list that stands elsewhere.
    """
    if is_address(path):
        return path
    if isinstance(folder, Address):
        path = path.replace("\\", "/")
        if path.startswith(("/", "~")) or re.match("[A-Za-z]:", path):
            raise VideoError(
                f"{path} is a path on one machine, and the list stands at an address; write it "
                "relative to the list, or as an address."
            )
        return path
    if os.sep == "/" and "\\" in path and not (folder / path).exists():
        path = path.replace("\\", "/")
    return os.path.expanduser(path) if path.startswith("~/") else path


def _check_columns(path: VideoPath, names: list[str]) -> None:
    wanted = (
        "the first line must be path,label and, if known, group, split, start and end of "
        f"segments, and fps of folders of frames ({path})"
    )
    others = [name for name in names if name and name not in COLUMNS]
    missing = [name for name in COLUMNS if name not in names]
    # Many words are like "start" or "fps"; those for times are meant by their whole.
    close = [name for name in missing if name not in (*TIMES, "fps")]
    misspelt = [name for name in others if get_close_matches(name, close)]
    if not set(TIMES) & set(names):
        misspelt += [name for name in others if LIKE_TIMES.fullmatch(name)]
    if misspelt:
        raise ActionrecError(f"Unknown column {', '.join(map(repr, misspelt))}; {wanted}.")
    if missing := [name for name in COLUMNS[:2] if name not in names]:
        found = f" in {', '.join(names)[:80]!r}" if any(names) else ""
        raise ActionrecError(f"No column {' and no column '.join(missing)}{found}; {wanted}.")
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise ActionrecError(f"Two columns {twice[0]!r}; {wanted}.")
    if alone := [name for name in TIMES if name in names]:
        if len(alone) == 1:
            other = TIMES[1 - TIMES.index(alone[0])]
            raise ActionrecError(
                f"{path} has the column {alone[0]!r} but no column {other!r}; a segment needs both."
            )
    if others:
        logger.warning("%s: columns that are not used: %s.", path, ", ".join(others))


def _divide_by_column(
    path: VideoPath, rows: list[Row], to_train: bool
) -> tuple[list[Row], list[Row], list[Row]]:
    """Return the rows that train, that validate, and the rest."""
    side_of = {word: side for side, words in SIDE_NAMES.items() for word in words}
    sides: dict[str, list[Row]] = {side: [] for side in SIDE_NAMES}
    for row in rows:
        side = side_of.get(row["split"].lower())
        if side is None:
            raise ActionrecError(
                f"{path}, line {row['line']}: the split {row['split']!r} is unknown; write "
                "train, val or test."
            )
        sides[side].append(row)
    train, val, test = sides.values()
    if not val:
        val, test = test, []
    for side, videos in (("train", train), ("val", val)):
        if not videos and (to_train or side == "val"):
            raise ActionrecError(f"{path} has no video with the split {side}; add some.")
    files = {row["file"]: row["line"] for row in train}
    if divided := [row for row in val if row["file"] in files]:
        row = divided[0]
        raise ActionrecError(
            f"{path}: {row['path']} is in training in line {files[row['file']]} and in validation "
            f"in line {row['line']}; put all segments of a video on one side."
        )
    if both := {_group_of(row) for row in train} & {_group_of(row) for row in val} - {None}:
        raise ActionrecError(
            f"{path}: the group {min(both)!r} is in training and in validation; put all of a "
            "group on one side."
        )
    return train, val, test


def _divide_by_fold(path: VideoPath, rows: list[Row], fold: int) -> tuple[list[Row], list[Row]]:
    """Return the rows that train and that validate."""
    if not rows[0].keys() & {"group", "recording"}:
        raise ActionrecError(
            f"{path} has neither a split nor a group column; add split (train, val) or group "
            "(the recording that a clip was cut from), because a random division would put "
            "clips of one recording on both sides."
        )
    groups = [_group_of(row) for row in rows]
    known = len(set(groups) - {None})
    if known < 2:
        raise ActionrecError(
            f"{path} has {known or 'no'} known group{'' if known == 1 else 's'}, too few for "
            "folds; add videos of another group, or a split column (train, val)."
        )
    if fold >= known:
        raise UsageError(
            f"{path} has {known} known groups, so there are folds 1 to {known}, and no --split "
            f"{fold + 1}."
        )
    folds = deal_groups(groups, [row["label"] for row in rows], min(known, len(FOLDS)))
    val = [row for row, its in zip(rows, folds, strict=True) if its == fold]
    train = [row for row, its in zip(rows, folds, strict=True) if its != fold]
    return train, val


def _check_files(path: VideoPath, rows: list[Row]) -> None:
    # A listing of each folder answers for thousands of files at once. Files that it lacks are
    # looked at one by one: a disk may accept another case or form of an accent in a name.
    # Whether an address leads anywhere shows when it is read.
    named = [beside(path.parent, row["path"]) for row in rows]
    paths = [each for each in named if isinstance(each, Path)]
    files: set[Path] = set()
    for folder in {path.parent for path in paths}:
        with suppress(OSError, ValueError), os.scandir(folder) as entries:
            files |= {folder / entry.name for entry in entries if entry.is_file()}
    missing = [
        each for each in paths if not (each in files or each.is_file() or is_frame_folder(each))
    ]
    if missing:
        message = (
            f"{len(missing)} of the {len(rows)} videos of {path} don't exist, the first is "
            f"{missing[0]}"
        )
        if 2 * len(missing) >= len(rows):
            raise ActionrecError(f"{message}; paths are relative to the folder of the CSV file.")
        logger.warning("%s.", message)
