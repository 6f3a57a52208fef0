"""Videos inside of Parquet files, as data sets on Hugging Face's hub keep them, become files.

    actionrec data index train-00000-of-00004.parquet --output data.csv
    actionrec data index hf://datasets/USER/NAME --output data.csv

A column of videos is one of the feature Video, or a struct of bytes and path. Where a video lies in
the file only the pages before it tell, and pages may be compressed; so none can be read alone as a
member of a tar archive can. Each is written to a file of its own, in a folder beside the list, for
which the Parquet file is read once, in order, and of its columns only videos and labels.

A label is a text, a number, or a ClassLabel, whose names are in the metadata; a list of these are
several labels. What has been written is kept in unpacked.json, and not read again:

    {"version": 1, "size": 1234, "mtime_ns": 5678, "files": ["000000-a.mp4", null]}
"""

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from actionrec.errors import ActionrecError, VideoError, reason_of
from actionrec.files import VIDEO_SUFFIXES, replacing, short_enough, write_whole
from actionrec.progress import track
from actionrec.text import json_text, visible
from actionrec.video.address import Address, VideoPath, beside
from actionrec.video.block_cache import BLOCK, key_of
from actionrec.video.tar import opened_archive, version_of

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

logger = logging.getLogger("actionrec")

RECORD = "unpacked.json"
VERSION = 1
ROWS = 4  # in memory
# Whose label is missing, of a ClassLabel.
NO_CLASS = -1
# Between the labels of a cell, as of `datasets.csv`.
SEPARATOR = "|"
LIKE_VIDEOS = "video"


def unpacked(table: VideoPath, folder: Path, key: str) -> Iterator[tuple[VideoPath, str]]:
    """The videos of a Parquet file, as files in a folder of its own in `folder`, and their labels.

    Rows without a video or label are left out, which is told. A video that is named by its path
    alone is that file or address.

    Args:
        table: The Parquet file.
        folder: Where its folder is, or will be.
        key: The column of the labels.

    Raises:
        ActionrecError: it can't be read, has no column of videos or no column `key`, a label is
            none, or a video can't be written.
    """
    place = table.absolute()
    own = folder / short_enough(f"{visible(table.stem)[:60]}-{key_of(str(place))[:8]}")
    with _opened(table) as file:
        schema = file.schema_arrow
        features = _features(schema)
        column = _video_column(table, schema, features)
        labels = _labels(table, file, features, key)
        videos = _recorded(table, own)
        if videos is None:
            videos = _written(table, file, column, own)
    for number, (video, label) in enumerate(zip(videos, labels, strict=True)):
        if video is not None and label is not None:
            yield video, label
        elif video is None or label is None:
            _tell_left_out(table, number, "video" if video is None else "label")


_told: set[tuple[str, str]] = set()


def _tell_left_out(table: VideoPath, number: int, what: str) -> None:
    """Tell once of a table that rows are left out."""
    if (str(table), what) not in _told:
        _told.add((str(table), what))
        logger.warning(
            "%s: rows without a %s are left out, the first is row %d.", table, what, number
        )


@contextmanager
def _opened(table: VideoPath) -> Iterator["ParquetFile"]:
    """A Parquet file; errors while it is read are ActionrecErrors."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ActionrecError(
            f"{table} can't be read without pyarrow; `pip install 'actionrec[parquet]'`."
        ) from error
    version_of(table)
    with opened_archive(table) as file:
        try:
            yield pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=BLOCK)
        except ActionrecError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            if (found := getattr(file, "error", None)) is not None:
                raise found from None
            raise ActionrecError(
                f"{table} can't be read as a Parquet file ({reason_of(error)}); it is damaged or "
                "incomplete: copy or download it again."
            ) from error


def _features(schema: "pyarrow.Schema") -> dict[str, Any]:
    """What Hugging Face's library has noted on the columns; {} where it has not."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _kind(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _video_column(table: VideoPath, schema: "pyarrow.Schema", features: dict[str, Any]) -> str:
    """The name of the column of videos."""
    import pyarrow

    noted = [name for name in schema.names if _kind(features.get(name)) == "Video"]
    # As those of pictures and sound, of which the note is another.
    alike = [
        field.name
        for field in schema
        if pyarrow.types.is_struct(field.type)
        and {"bytes", "path"} <= {inner.name for inner in field.type}
        and _kind(features.get(field.name)) is None
    ]
    binary = [
        field.name
        for field in schema
        if field.name == LIKE_VIDEOS
        and (pyarrow.types.is_binary(field.type) or pyarrow.types.is_large_binary(field.type))
    ]
    found = noted or alike or binary
    if not found:
        raise ActionrecError(
            f"{table} has no column of videos, a struct of bytes and path, among {_names(schema)}."
        )
    if len(found) > 1 and LIKE_VIDEOS not in found:
        raise ActionrecError(
            f"{table} has several columns of videos, {', '.join(map(visible, found))}; rename the "
            f"one to use to {LIKE_VIDEOS}."
        )
    return found[0] if len(found) == 1 else LIKE_VIDEOS


def _names(schema: "pyarrow.Schema") -> str:
    return visible(", ".join(schema.names))[:200]


def _labels(
    table: VideoPath, file: "ParquetFile", features: dict[str, Any], key: str
) -> list[str | None]:
    """The cell of the labels of each row, None where they are missing."""
    schema = file.schema_arrow
    if key not in schema.names:
        raise ActionrecError(
            f"{table} has no column {key!r}; choose a --label-key of {_names(schema)}."
        )
    feature = features.get(key)
    if isinstance(feature, list) and feature:
        feature = feature[0]
    while isinstance(feature, dict) and "feature" in feature:
        feature = feature["feature"]
    names = feature.get("names") if _kind(feature) == "ClassLabel" else None
    values = file.read(columns=[key]).column(key).to_pylist()
    cells = []
    for number, value in enumerate(values):
        try:
            cells.append(_cell(value, names))
        except (ValueError, IndexError, TypeError) as error:
            raise ActionrecError(
                f"{table}, row {number}: {visible(value)[:80]!r} is no label; choose a --label-key "
                f"of {_names(schema)}."
            ) from error
    return cells


def _cell(value: Any, names: Any) -> str | None:
    """The labels of a row as a cell of the list; raises ValueError or IndexError for what is no
    label."""
    if value is None or (value == NO_CLASS and names):
        return None
    if isinstance(value, list):
        cells = [_cell(each, names) for each in value]
        return SEPARATOR.join(each for each in cells if each is not None)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(value)
    if names and isinstance(value, int):
        if value < 0:
            raise IndexError(value)
        value = names[value]
    return str(value).strip() or None


def _recorded(table: VideoPath, folder: Path) -> list[VideoPath | None] | None:
    """The videos that were written before, None if they were not, or the table has changed."""
    record = folder / RECORD
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        state = (found["version"], found["size"], found["mtime_ns"])
        if state != (VERSION, *version_of(table)):
            logger.warning("%s has changed since it was unpacked; it is done anew.", table)
            return None
        videos = [name and beside(folder, str(name)) for name in found["files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = all(isinstance(each, Address) or each is None or each.is_file() for each in videos)
    return videos if whole else None


def _written(
    table: VideoPath, file: "ParquetFile", column: str, folder: Path
) -> list[VideoPath | None]:
    """The videos of all rows, each in a file in `folder`, None where there is none."""
    state = version_of(table)
    _require_room(table, file, column, folder)
    batches = file.iter_batches(batch_size=ROWS, columns=[column])
    rows = (row for batch in batches for row in batch.column(0).to_pylist())
    videos: list[VideoPath | None] = []
    title = f"unpacking {table.name}"
    for number, row in zip(count(), track(rows, title, file.metadata.num_rows), strict=False):
        row = row if isinstance(row, dict) else {"bytes": row}
        data, name = row.get("bytes"), row.get("path")
        if data:
            path = folder / _file_name(number, name, data)
            with replacing(path) as temporary:
                temporary.write_bytes(data)
            videos.append(path)
        elif name:
            try:
                videos.append(beside(table.parent, name))
            except VideoError as error:
                raise ActionrecError(f"{table}, row {number}: {error}") from error
        else:
            videos.append(None)
    if version_of(table) != state:
        raise ActionrecError(f"{table} has changed while it was read; start again.")
    size, mtime_ns = state
    files = [
        each and (each.name if each.parent == folder else str(each.absolute())) for each in videos
    ]
    record = {"version": VERSION, "size": size, "mtime_ns": mtime_ns, "files": files}
    write_whole(folder / RECORD, json_text(record) + "\n")
    return videos


def _require_room(table: VideoPath, file: "ParquetFile", column: str, folder: Path) -> None:
    """Raise ActionrecError if the disk can't take the videos."""
    groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.partition(".")[0] == column
    )
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise ActionrecError(
            f"The videos of {table} have {size / 1e9:.1f} GB, and {there} has {free / 1e9:.1f} GB "
            "free; free some space, or choose an --output on another disk."
        )


def _file_name(number: int, path: Any, data: bytes) -> str:
    """A name for the video of a row: its number and, of what the table calls it, what any disk can
    have in a name."""
    named = PurePosixPath(str(path or "").replace("\\", "/"))
    suffix = named.suffix.lower() if named.suffix.lower() in VIDEO_SUFFIXES else _suffix_of(data)
    stem = re.sub(r"[^\w.-]+", "_", named.stem)[:80].strip("._")
    return f"{number:06}{'-' * bool(stem)}{stem}{suffix}"


def _suffix_of(data: bytes) -> str:
    """The suffix of a video by how it begins."""
    if data[:4] == b"RIFF":
        return ".avi"
    return ".mkv" if data[:4] == b"\x1a\x45\xdf\xa3" else ".mp4"
