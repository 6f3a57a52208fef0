"""Features of any number of videos, for models of your own: `actionrec features`.

    actionrec features holiday/ --output features.npz
    actionrec features --files-from videos.txt --hop 0.5 --output features/
    actionrec features --files-from videos.txt --output features.parquet

Features are the last feature map of the network, averaged over time and space: what its head makes
the scores of. Each clip, or each window that slides over the video, has a row of them.

A folder is what grows while videos are read, and after any interruption the same command goes on:
NAME.npy, float32 (clips, features), for each video, and index.jsonl, a line for each:

    {"video": "a.mp4", "model": "kinetics400-i3d", "file": "a.npy",
     "clips": [{"start": 0.0, "end": 2.56}, ...]}
    {"video": "b.mp4", "error": "b.mp4 is empty."}

For features.npz and features.parquet the folder is features.npz.parts, which is gone when the file
is whole. In both, rows are clips:

| | .npz | .parquet |
|---|---|---|
| features | `features`, float32 (rows, features) | `features`, list of float32 |
| where | `video`, `start` and `end` (rows,), in seconds | `video`, `start`, `end` |
| failures | `failed`, `errors` (videos,) | a row with `error`, the rest null |
| settings | `model`, and `settings` as JSON | `model`, and the file's metadata |
"""

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actionrec.errors import ActionrecError, Failure, Stopped, UsageError
from actionrec.files import exclusive, replacing, short_enough
from actionrec.models.classifier import VideoClassifier
from actionrec.models.exported import ExportedModel
from actionrec.models.inference import InferenceModel, read_model
from actionrec.models.registry import EngineName
from actionrec.models.shared_batches import ScoredVideo
from actionrec.prediction.batch import complete, score_each
from actionrec.prediction.formats import CLUSTER_SETTINGS, FEATURE_FILES
from actionrec.prediction.journal import FeatureSettings, Journal
from actionrec.prediction.parquet import (
    METADATA_KEY,
    failed_row,
    feature_rows,
    feature_schema,
    require_pyarrow,
)
from actionrec.processes import STANDARD_LIMITS, Limits
from actionrec.progress import track
from actionrec.signals import sigterm_as_interrupt
from actionrec.text import json_text, valid_utf8
from actionrec.video.address import video_path

logger = logging.getLogger("actionrec")

INDEX = "index.jsonl"
SETTINGS = f"{INDEX}.settings.json"
ROW_GROUP = 4096  # rows of a group of Parquet


def features_to_file(
    videos: Iterable[str | Failure],
    output: Path,
    settings: FeatureSettings,
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
    engine: EngineName = "auto",
    complain: Callable[[str], None] = logger.warning,
) -> int:
    """Write the features of the videos that `output` lacks; returns how many videos have failed.

    Args:
        videos: Of `batch.list_videos`.
        output: *.npz, *.parquet or a folder.
        settings: The model, and what else features depend on.
        workers: Processes that read videos; by default one a core.
        limits: Time and memory for reading one video.
        engine: What computes the network.
        complain: Called with the reason of each failure.

    Raises:
        UsageError: `output` was made with other settings or not by actionrec.
        Stopped: by Ctrl-C or SIGTERM.
        ActionrecError: another process writes to `output`, it can't be written, or the model can't
            be loaded or gives no features.
    """
    by_name = {v.video if isinstance(v, Failure) else v: v for v in videos}
    write = WRITERS.get(output.suffix.lower()) if not output.is_dir() else None
    if output.suffix.lower() == ".parquet":
        require_pyarrow()
    # Before anything is written, so that a wrong model leaves nothing behind.
    require_features(read_model(settings.model), settings.model)
    settings = settings.resolved(engine)
    if output.is_symlink():
        output = output.resolve()
    folder = output if write is None else output.with_name(short_enough(f"{output.name}.parts"))
    _require_own(folder)
    busy = (
        f"Another actionrec is writing {output}; wait until it is done, or choose another --output."
    )
    locked = folder / INDEX if write is None else output
    with exclusive(locked, busy), sigterm_as_interrupt():
        if write is not None and output.exists():
            return _check_finished(by_name, output, folder, settings)
        with closing(Journal(folder / INDEX, settings)) as journal:
            names = _Names(folder)
            lines_of = partial(
                _lines,
                folder=folder,
                names=names,
                settings=settings,
                workers=workers,
                limits=limits,
                engine=engine,
            )
            try:
                complete(by_name, journal, lines_of, complain, "reading features")
                if write is not None:
                    write(output, folder, settings, journal.rows)
            except KeyboardInterrupt:
                raise Stopped(
                    f"Stopped; {folder} holds the features of {journal.rows} videos, and the same "
                    "command goes on from there.",
                    exit_code=130,
                ) from None
        if write is not None:
            shutil.rmtree(folder)
        return journal.failed


def require_features(model: VideoClassifier | ExportedModel, name: str) -> None:
    """Raise ActionrecError if a model is an exported file, which gives no features."""
    if isinstance(model, ExportedModel):
        raise ActionrecError(
            f"{name} is an exported file, which gives no features; give the model that it was made "
            "from."
        )


def _require_own(folder: Path) -> None:
    """Raise UsageError if there is something at `folder` that `features_to_file` didn't write."""
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise UsageError(f"{folder} is a file; choose another --output, or move it away.")
        return
    others = [name for name in os.listdir(folder) if not name.startswith(".")]
    if CLUSTER_SETTINGS in others:
        raise UsageError(
            f"{folder} was written with --cluster ray, and only so it can be added to; choose "
            "another --output."
        )
    if others and SETTINGS not in others:
        raise UsageError(
            f"{folder} holds {min(others)} and was not written by `actionrec features`; choose a "
            "new folder as --output."
        )


class _Names:
    """Names of the files in a folder: that of the video, with a number where several have one."""

    def __init__(self, folder: Path) -> None:
        # Some file systems take a.npy and A.npy for one file.
        self.taken = {row["file"].casefold() for row in _rows(folder) if "file" in row}

    def name(self, video: str) -> str:
        stem = valid_utf8(video_path(video).stem) or "video"
        name, number = short_enough(f"{stem}.npy"), 1
        while name.casefold() in self.taken:
            number += 1
            name = short_enough(f"{stem}-{number}.npy")
        self.taken.add(name.casefold())
        return name


def _lines(
    videos: list[str | Failure],
    folder: Path,
    names: _Names,
    settings: FeatureSettings,
    workers: int | None,
    limits: Limits,
    engine: EngineName,
) -> Iterator[tuple[str, str | ActionrecError]]:
    """Each video with its line or the error, once its features are written."""
    network = InferenceModel.clip_features
    scored = score_each(videos, settings, network, workers, limits, engine, hop=settings.hop)
    with closing(scored):
        for model, video, result in scored:
            if not isinstance(result, ScoredVideo):
                yield video, result
                continue
            file = names.name(video)
            with replacing(folder / file) as temporary:
                np.save(temporary, result.answers[:, 0])
            clips = [{"start": start, "end": end} for start, end in rounded(result.seconds)]
            row = {"video": video, "model": model.name, "file": file, "clips": clips}
            yield video, json_text(row)


def rounded(seconds: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Starts and ends as they are written, to the millisecond."""
    return [(round(start, 3), round(end, 3)) for start, end in seconds]


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a folder's index, as far as they are whole."""
    if not (folder / INDEX).exists():
        return
    with (folder / INDEX).open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


@dataclass
class _Table:
    """What there is beside the features of a folder: a row for each clip."""

    video: list[str] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> "_Table":
        table = cls()
        for row in _rows(folder):
            video = valid_utf8(row["video"])
            if "error" in row:
                table.failed.append(video)
                table.errors.append(valid_utf8(row["error"]))
                continue
            table.files.append(folder / row["file"])
            for clip in row["clips"]:
                table.video.append(video)
                table.start.append(clip["start"])
                table.end.append(clip["end"])
        return table


def write_npz(output: Path, folder: Path, settings: FeatureSettings, _: int) -> None:
    """Write one file of the features in a folder; in memory there are those of one video at a time.

    Raises:
        ActionrecError: the file can't be written.
    """
    table = _Table.of(folder)
    width = np.load(table.files[0], mmap_mode="r").shape[1] if table.files else 0
    arrays = {
        "video": np.array(table.video, str),
        "start": np.array(table.start, np.float64),
        "end": np.array(table.end, np.float64),
        "failed": np.array(table.failed, str),
        "errors": np.array(table.errors, str),
        "model": np.array(settings.model),
        "settings": np.array(json_text(asdict(settings))),
    }
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("features.npy", "w", force_zip64=True) as file:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (len(table.video), width)}
            np.lib.format.write_array_header_2_0(file, shape)
            for path in track(table.files, f"writing {output.name}"):
                file.write(np.load(path).astype("<f4").tobytes())
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def write_parquet(output: Path, folder: Path, settings: FeatureSettings, rows: int) -> None:
    """Write one file of the features in a folder with `rows` videos, a row a clip.

    Raises:
        ActionrecError: the file can't be written.
    """
    import pyarrow
    from pyarrow import parquet

    described = feature_schema().with_metadata({METADATA_KEY: json_text(asdict(settings))})
    with replacing(output) as temporary, parquet.ParquetWriter(temporary, described) as writer:
        waiting: list[pyarrow.RecordBatch] = []
        for row in track(_rows(folder), f"writing {output.name}", rows):
            waiting.append(_batch(row, folder))
            if sum(len(batch) for batch in waiting) >= ROW_GROUP:
                writer.write_table(pyarrow.Table.from_batches(waiting))
                waiting = []
        writer.write_table(pyarrow.Table.from_batches(waiting, feature_schema()))


def _batch(row: dict[str, Any], folder: Path) -> Any:
    """The rows of Parquet of one video."""
    if "error" in row:
        return failed_row(row["video"], row["error"], feature_schema())
    seconds = [(clip["start"], clip["end"]) for clip in row["clips"]]
    return feature_rows(row["video"], row["model"], seconds, np.load(folder / row["file"]))


def _check_finished(
    videos: Iterable[str], output: Path, folder: Path, settings: FeatureSettings
) -> int:
    """Check that a finished file holds all videos; returns how many of its videos failed.

    Raises:
        UsageError: it lacks videos, or was made with other settings or not by actionrec.
    """
    read = {".npz": _read_npz, ".parquet": _read_parquet}[output.suffix.lower()]
    try:
        others, done, failed = read(output)
    # Of zipfile, NumPy and pyarrow, which have no error in common.
    except Exception as error:
        raise UsageError(
            f"{output} is there already and was not written by `actionrec features`; choose "
            "another --output, or move that file away."
        ) from error
    settings.require(others, output)
    names = {valid_utf8(video) for video in videos}
    if missing := len(names - done):
        raise UsageError(
            f"{output} is finished and lacks {missing} of these {len(names)} videos; it can't be "
            "added to, so choose another --output."
        )
    logger.info("The features of all %d videos are in %s already.", len(names), output)
    # The last run ended between writing the file and deleting its parts.
    if folder.exists() and {valid_utf8(row["video"]) for row in _rows(folder)} <= done:
        shutil.rmtree(folder)
    return failed


def _read_npz(path: Path) -> tuple[dict[str, Any], set[str], int]:
    """The settings of a finished file, its videos, and how many have failed."""
    with np.load(path, allow_pickle=False) as file:
        failed = set(file["failed"].tolist())
        videos = failed | set(file["video"].tolist())
        return dict(json.loads(file["settings"].item())), videos, len(failed)


def _read_parquet(path: Path) -> tuple[dict[str, Any], set[str], int]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        settings = dict(json.loads((file.schema_arrow.metadata or {})[METADATA_KEY]))
        table = file.read(["video", "error"])
    return settings, set(table["video"].to_pylist()), len(table) - table["error"].null_count


WRITERS: dict[str, Callable[[Path, Path, FeatureSettings, int], None]] = dict(
    zip(FEATURE_FILES, (write_npz, write_parquet), strict=True)
)
