"""The results of a job on a cluster: a folder of Parquet files, to which finished rows are added.

    actions/_actionrec.json                     the settings that the results depend on
    actions/_run.json                           the run that may write
    actions/part-20261127-204900-3f2a-00001.parquet

A part is written once and whole, so that the folder can be read while the job runs:
`pyarrow.parquet.read_table("actions")`. The folder may be local or at an address such as
s3://bucket/actions. Files whose names begin with _ are no data to Parquet's readers.
"""

import io
import json
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import cache_folder, exclusive, replacing
from actionrec.prediction.formats import CLUSTER_SETTINGS
from actionrec.prediction.parquet import METADATA_KEY
from actionrec.prediction.tasks import Predictions, Task
from actionrec.storage import WAITS, Folder
from actionrec.text import json_text

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger("actionrec")

RUN = "_run.json"
KIND = "results"  # the setting that says what the folder holds; predictions where it is missing
MOST_VIDEOS = 10_000  # of a part
MOST_BYTES = 64 * 2**20  # of a part, before it is compressed
# A part is written after 2 s, and later after a hundredth of the time that the run has taken: a run
# that is killed loses at most that, and a week makes about 900 parts.
SOONEST = 2.0  # seconds
SHARE = 0.01


def recorded_settings(folder: Folder) -> dict[str, Any] | None:
    """The settings that the results in a folder were made with; None if it is empty.

    Raises:
        UsageError: there is something else in it.
    """
    names = [name for name in folder.names() if not name.startswith(".")]
    if not names:
        return None
    try:
        if CLUSTER_SETTINGS not in names:
            raise ValueError(f"{CLUSTER_SETTINGS} is missing")
        return dict(json.loads(folder.read(CLUSTER_SETTINGS)))
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{folder.address} is there already and was not written by actionrec; choose another "
            "--output."
        ) from error


class Parts:
    """The results of a folder: their videos read once, then added to.

    Args:
        folder: Where they are.
        task: Whose results they are.

    Attributes:
        done: the number of videos in the folder and of those that wait for the next part.
        failed: the number of videos that failed.
        videos: the videos that were there at first.

    Raises:
        UsageError: the folder was made with other settings or not by actionrec.
        ActionrecError: the folder can't be read or written.
    """

    def __init__(self, folder: Folder, task: Task) -> None:
        self.folder, self._task = folder, task
        self.done = self.failed = self._number = self._bytes = 0
        self.videos: set[str] = set()
        self._run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        self._waiting: list[bytes] = []
        self._begin = self._flushed = time.monotonic()
        self._unsaved = (
            cache_folder() / "unsaved" / sha256(folder.address.encode()).hexdigest()[:16]
        )
        settings = asdict(task.settings) | {KIND: task.results}
        self._metadata = {METADATA_KEY: json_text(settings)}
        others = recorded_settings(folder)
        if others is None:
            folder.write(CLUSTER_SETTINGS, json_text(settings).encode())
        else:
            _require_same(task, others, folder.address)
        # A run that was thought dead finds another's name here and writes no more.
        folder.write(RUN, json_text({"run": self._run}).encode())
        self._upload_unsaved()
        self._read()

    def _read(self) -> None:
        from pyarrow import ArrowException, dataset

        names = [name for name in self.folder.names() if name.endswith(".parquet")]
        if not names:
            return
        try:
            whole = dataset.dataset(
                [self.folder.path(name) for name in names],
                filesystem=self.folder.filesystem,
                format="parquet",
            )
            for batch in whole.to_batches(columns=["video", "error"]):
                self.videos.update(batch["video"].unique().to_pylist())
                self.failed += len(batch) - batch["error"].null_count
            self.done = len(self.videos)
        except (ArrowException, KeyError, OSError) as error:
            raise UsageError(
                f"A file in {self.folder.address} is not of actionrec ({str(error)[:200]}); move "
                "it away, or choose another --output."
            ) from error

    def append(self, rows: bytes, failed: bool = False) -> None:
        """Add the rows of a video, as `Task.rows` gives them, and write a part if it is time.

        Raises:
            ActionrecError: it can't be written; the parts before it stay.
        """
        self._waiting.append(rows)
        self._bytes += len(rows)
        self.done += 1
        self.failed += failed
        self.write_when_due()

    def write_when_due(self) -> None:
        """Write the waiting rows if they are many, or wait for long."""
        now = time.monotonic()
        late = now - self._flushed > max(SOONEST, SHARE * (now - self._begin))
        if len(self._waiting) >= MOST_VIDEOS or self._bytes >= MOST_BYTES or late:
            self.write()

    def write(self) -> None:
        """Write the waiting rows as a part.

        Raises:
            ActionrecError: they can't be written; they are kept on this machine, and the next run
                adds them.
        """
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        name = f"part-{self._run}-{self._number:05}.parquet"
        data = _parquet_bytes(self._task.table(self._waiting), self._metadata)
        try:
            self._require_sole_writer()
            self.folder.write(name, data, WAITS)
        except _OtherRun:
            raise
        except ActionrecError as error:
            if self.folder.is_local:
                raise
            kept = self._unsaved / name
            with replacing(kept) as temporary:
                temporary.write_bytes(data)
            videos = len(self._waiting)
            self._forget_waiting()
            raise ActionrecError(
                f"{str(error).rstrip('.')}; the last {videos} results are kept on this machine, "
                "and the same command adds them and goes on."
            ) from error
        self._number += 1
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        self._waiting, self._bytes = [], 0

    def _require_sole_writer(self) -> None:
        if not self.folder.is_local:
            run = json.loads(self.folder.read(RUN))["run"]
            if run != self._run:
                raise _OtherRun(
                    f"Another actionrec has begun to write to {self.folder.address}; this one ends."
                )

    def _upload_unsaved(self) -> None:
        """Add the parts that an earlier run on this machine could not write, if they are whole and
        of these settings: the folder may have been emptied since."""
        from pyarrow import ArrowException, parquet

        for kept in sorted(self._unsaved.glob("part-*.parquet")):
            try:
                metadata = parquet.read_schema(kept).metadata or {}
                _require_same(self._task, json.loads(metadata.get(METADATA_KEY, b"{}")), str(kept))
            except (UsageError, ArrowException, OSError) as error:
                logger.warning("Results in %s are not added: %s", kept, error)
                continue
            self.folder.write(kept.name, kept.read_bytes(), WAITS)
            kept.unlink()


class _OtherRun(ActionrecError):
    """Another run writes to the same folder."""


@contextmanager
def sole_writer(folder: Folder) -> Iterator[None]:
    """Keep other runs on a local folder out while the block runs.

    Raises:
        ActionrecError: another run writes there.
    """
    if not folder.is_local:
        yield
        return
    busy = (
        f"Another actionrec is writing {folder.address}; wait until it is done, or choose another "
        "--output."
    )
    with exclusive(Path(folder.root), busy):
        yield


def resolved(task: Task, others: dict[str, Any] | None) -> Task:
    """The same with the hash of the model file and the rate of folders of frames; a precision that
    is to be automatic is that of the results that are there."""
    settings = task.settings.identified()
    if settings.precision == "auto" and others and "precision" in others:
        settings = replace(settings, precision=others["precision"])
    return replace(task, settings=settings)


def _require_same(task: Task, others: dict[str, Any], address: str) -> None:
    """Raise UsageError if a folder holds other results or was made with other settings."""
    kind = others.get(KIND, Predictions.results)
    if kind != task.results:
        raise UsageError(f"{address} holds {kind}, not {task.results}; choose another --output.")
    task.settings.require(others, address)


def _parquet_bytes(table: "pyarrow.Table", metadata: dict[bytes, str]) -> bytes:
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()
