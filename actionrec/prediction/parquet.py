"""Predictions and features as Parquet: a row a video, or a row a clip.

schema(), feature_schema()      the columns
write(lines, output, ...)       predictions, converted from lines of JSON in one go
"""

import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import replacing
from actionrec.prediction.journal import Journal, Settings
from actionrec.progress import track
from actionrec.text import json_text, valid_utf8

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger("actionrec")

ROW_GROUP = 2000  # rows of a group, and lines in memory
METADATA_KEY = b"actionrec"


def require_pyarrow() -> None:
    """Raise ActionrecError if pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ActionrecError(
            "Parquet can't be written without pyarrow; `pip install 'actionrec[parquet]'`, or "
            "choose an --output that ends in .jsonl."
        ) from error


def schema() -> "pyarrow.Schema":
    """The columns: `labels` and `scores` are those of the best classes, `given` the labels that the
    video is given. In a row with an `error`, all columns after it are null."""
    import pyarrow

    labels = pyarrow.list_(pyarrow.string())
    scores = pyarrow.list_(pyarrow.float32())
    seconds = pyarrow.float64()
    clip = [("start", seconds), ("end", seconds), ("labels", labels), ("scores", scores)]
    return pyarrow.schema(
        [
            pyarrow.field("video", pyarrow.string(), nullable=False),
            ("error", pyarrow.string()),
            ("model", pyarrow.string()),
            ("labels", labels),
            ("scores", scores),
            ("clips", pyarrow.list_(pyarrow.struct(clip))),
            ("given", labels),
            ("none_of_these", pyarrow.bool_()),
            ("uncertainty", pyarrow.float32()),
        ]
    )


def feature_schema() -> "pyarrow.Schema":
    """The columns of features. In a row with an `error`, all columns after it are null."""
    import pyarrow

    return pyarrow.schema(
        [
            pyarrow.field("video", pyarrow.string(), nullable=False),
            ("error", pyarrow.string()),
            ("model", pyarrow.string()),
            ("start", pyarrow.float64()),
            ("end", pyarrow.float64()),
            ("features", pyarrow.list_(pyarrow.float32())),
        ]
    )


def feature_rows(
    video: str, model: str, seconds: Sequence[tuple[float, float]], features: np.ndarray
) -> "pyarrow.RecordBatch":
    """The rows of a video: of each clip its start and end in seconds and its features, of all of
    them float32 (clips, features)."""
    import pyarrow

    count = len(seconds)
    offsets = np.arange(0, features.size + 1, features.shape[1], dtype=np.int32)
    lists = pyarrow.ListArray.from_arrays(offsets, features.ravel())
    starts, ends = zip(*seconds, strict=True)
    return pyarrow.record_batch(
        [[valid_utf8(video)] * count, [None] * count, [model] * count, starts, ends, lists],
        feature_schema(),
    )


def failed_row(video: str, error: str, columns: "pyarrow.Schema") -> "pyarrow.RecordBatch":
    """The row of a video that failed, whatever the columns."""
    import pyarrow

    row = {"video": valid_utf8(video), "error": valid_utf8(error)}
    return pyarrow.RecordBatch.from_pylist([row], columns)


def write(lines: Path, output: Path, settings: Settings, rows: int) -> None:
    """Convert a file of `rows` lines into a Parquet file, which appears when it is whole.

    Raises:
        ActionrecError: the file can't be written.
    """
    import pyarrow
    from pyarrow import parquet

    columns = schema()
    described = columns.with_metadata({METADATA_KEY: json_text(asdict(settings))})
    with replacing(output) as temporary, lines.open(encoding="utf-8") as file:
        with parquet.ParquetWriter(temporary, described) as writer:
            for _ in track(range(0, rows, ROW_GROUP), f"writing {output.name}"):
                group = [row(json.loads(line)) for line in islice(file, ROW_GROUP)]
                writer.write_table(pyarrow.Table.from_pylist(group, columns))


def row(result: dict[str, Any]) -> dict[str, Any]:
    """The row of a line of the journal, read from JSON."""
    if "error" in result:
        return {name: valid_utf8(text) for name, text in result.items()}
    # Lines of earlier versions have no labels that are given.
    if "labels" in result:
        result["given"] = [entry["label"] for entry in result["labels"]]
    clips = [_columns(clip) for clip in result["clips"]]
    return _columns(result) | {"video": valid_utf8(result["video"]), "clips": clips}


def _columns(result: dict[str, Any]) -> dict[str, Any]:
    """A result with two lists, `labels` and `scores`, in place of its list of pairs."""
    top = result.pop("top")
    lists = {f"{name}s": [entry[name] for entry in top] for name in ("label", "score")}
    return result | lists


def check_finished(videos: Iterable[str], output: Path, lines: Path, settings: Settings) -> int:
    """Check that a finished Parquet file holds all videos; returns how many of its videos failed.

    Raises:
        UsageError: it lacks videos, or was made with other settings or not by actionrec.
    """
    import pyarrow
    from pyarrow import parquet

    done, failed = set(), 0
    try:
        with parquet.ParquetFile(output) as file:
            others = dict(json.loads((file.schema_arrow.metadata or {})[METADATA_KEY]))
            settings.require(others, output)
            for batch in file.iter_batches(columns=["video", "error"]):
                done.update(batch["video"].to_pylist())
                failed += len(batch) - batch["error"].null_count
    except (pyarrow.ArrowException, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{output} is there already and was not written by actionrec; choose another "
            "--output, or move that file away."
        ) from error
    names = {valid_utf8(video) for video in videos}
    if missing := len(names - done):
        raise UsageError(
            f"{output} is finished and lacks {missing} of these {len(names)} videos; Parquet can't "
            "be added to, so choose another --output."
        )
    logger.info("All %d videos are in %s already.", len(names), output)
    if lines.exists():
        # The last run ended between writing the file and deleting its lines.
        with closing(Journal(lines, settings)) as journal:
            if {valid_utf8(video) for video in journal.videos} <= done:
                journal.delete()
    return failed
