"""Predict videos in any number, in several processes, and go on after any interruption.

    actionrec predict --files-from videos.txt --output actions.jsonl --workers 8
    actionrec predict --files-from videos.txt --output part3.parquet --shard 3/8

Each result is a line of JSON, appended the moment it is known, in the order in which videos are
done and in the form of `predict --format json`:

    {"video": "a.mp4", "model": "kinetics400-i3d", "top": [{"label": "yoga", "score": 0.98}, ...],
     "clips": [{"start": 0.0, "end": 2.56, "top": [...]}, ...]}
    {"video": "b.mp4", "error": "b.mp4 is empty."}

The same command goes on where it was stopped, be it by Ctrl-C, kill -9, a power cut or a full
disk: a video that has a whole line is not predicted again. To try those that failed once more,
delete their lines. What the results depend on is kept beside the lines, in
actions.jsonl.settings.json, so that two models or settings are never mixed in one file.

Parquet can't be appended to. The lines are collected in actions.parquet.jsonl and turned into the
Parquet file when the last one is there.
"""

import codecs
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, track
from rich.progress import TimeRemainingColumn as TimeLeft

from actionrec.config import DecoderName
from actionrec.devices import fastest_device, has_bfloat16
from actionrec.errors import ActionrecError, Failure, Stopped, UsageError, VideoError
from actionrec.files import find_videos, replacing
from actionrec.models.catalogue import WEIGHTS
from actionrec.models.classifier import VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.models.registry import PrecisionName
from actionrec.prediction.videos import predict_video
from actionrec.processes import (
    STANDARD_LIMITS,
    KilledFromOutside,
    Limits,
    WorkerError,
    cores,
    run_each,
)

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger("actionrec")

SUFFIXES = (".jsonl", ".parquet")
# Rows of a Parquet row group, and lines in memory when it is written.
ROW_GROUP = 2000
METADATA_KEY = b"actionrec"
# Processes are faster than as many threads of one, but each takes about 1 GB; with more cores than
# these, each has several threads.
MOST_WORKERS = 4


# The videos


@dataclass(frozen=True)
class Shard:
    """Every `count`-th video of a list from the `number`-th on, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that is written as 3/8.

        Raises:
            UsageError: it is written otherwise, or there is no such shard.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(
                f"--shard {text} is not possible; it must be such as 3/8, the third of eight "
                "parts, counted from 1."
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Shard(1, 1)


class VideoList:
    """The videos that `paths` name (see `find_videos`) and then those of a list, in order.

    Of the list no more than a line is in memory. Its lines are taken literally, as files; blank
    ones are skipped.

    Args:
        paths: Files, folders and patterns.
        files_from: A text file with a path on each line, or - for standard input.
        shard: The part to take.

    Raises:
        UsageError: there is no such list, or it is no text.
    """

    def __init__(
        self, paths: Iterable[str], files_from: str | None = None, shard: Shard = WHOLE
    ) -> None:
        self.found = find_videos(paths)
        self.shard = shard
        # It is read twice, to count and to predict, and may be a pipe or change meanwhile.
        self.copy = tempfile.TemporaryFile()
        if files_from == "-":
            shutil.copyfileobj(sys.stdin.buffer, self.copy)
        elif files_from is not None:
            try:
                with open(files_from, "rb") as file:
                    shutil.copyfileobj(file, self.copy)
            except (FileNotFoundError, IsADirectoryError) as error:
                raise UsageError(
                    f"--files-from {files_from} is not a file; give a text file with a path on "
                    "each line, or - for standard input."
                ) from error
        self.copy.seek(0)
        if any(b"\0" in line for line in self.copy):
            raise UsageError(
                f"--files-from {files_from} is no list of paths, there are zero bytes in it; give "
                "a text file with a path on each line."
            )

    def __iter__(self) -> Iterator[Path | Failure]:
        videos = chain(self.found, self._listed())
        return islice(videos, self.shard.number - 1, None, self.shard.count)

    def _listed(self) -> Iterator[Path]:
        self.copy.seek(0)
        for number, line in enumerate(self.copy, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield Path(os.fsdecode(line.rstrip(b"\r\n")))


# The lines


@dataclass(frozen=True)
class Settings:
    """What results depend on; a file has those of one.

    `sha256` is that of a model file, None for a published model, whose name says all.
    """

    model: str
    sha256: str | None
    topk: int
    clips: int | None
    precision: str
    decoder: str
    shard: str

    def require(self, others: dict[str, Any], path: Path) -> None:
        """Raise UsageError if the file at `path` was made with `others`, different from these."""
        for name, value in asdict(self).items():
            if others.get(name) != value:
                before = others.get(name)
                difference = (
                    f"{name} {before}, not {value}"
                    if name != "sha256"
                    else f"other weights in {self.model}"
                )
                raise UsageError(
                    f"{path} was made with {difference}; choose another --output, or move that "
                    "file away."
                )


class Journal:
    """The lines of a run: read once, then appended to.

    Attributes:
        rows: the number of lines.
        failed: how many of them are errors.
        videos: those that had a line when the file was read.

    Raises:
        UsageError: the file is not one of ours, or was made with other settings.
        ActionrecError: it can't be written.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings_path = path.with_name(f"{path.name}.settings.json")
        self.rows = self.failed = 0
        self.videos: set[str] = set()
        self._size = 0
        if path.exists():
            settings.require(self._settings(), path)
            self._read()
        else:
            with replacing(self.settings_path) as temporary:
                temporary.write_text(json.dumps(asdict(settings)), encoding="utf-8")
        # Unbuffered: what is written is with the system, which a kill of this process leaves alone.
        self._file = path.open("ab", buffering=0)
        # A line that was torn off when the last run ended.
        self._file.truncate(self._size)

    def _settings(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.settings_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{self.path} is there already, and {self.settings_path.name}, which would say how "
                "it was made, is not beside it; choose another --output, or move that file away."
            ) from error

    def _read(self) -> None:
        with _waiting_for(f"reading {self.path}"), self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    row = json.loads(line)
                    self.videos.add(row["video"])
                    self.failed += "error" in row
                except (ValueError, KeyError, TypeError) as error:
                    raise UsageError(
                        f"Line {number} of {self.path} is no result of actionrec; delete that "
                        "line, or choose another --output."
                    ) from error
                self.rows += 1
                self._size += len(line)

    def append(self, line: str, failed: bool = False) -> None:
        """Write a line.

        Raises:
            ActionrecError: it can't be written; the lines before it stay whole.
        """
        data = line.encode() + b"\n"
        try:
            if self._file.write(data) < len(data):
                raise OSError("the disk is full")
        except OSError as error:
            self._file.truncate(self._size)
            raise ActionrecError(
                f"{self.path} could not be written ({error.strerror or error}); free some space, "
                f"and the same command goes on after the {self.rows} results that it holds."
            ) from error
        self._size += len(data)
        self.rows += 1
        self.failed += failed

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def delete(self) -> None:
        self.path.unlink()
        self.settings_path.unlink(missing_ok=True)


# Prediction


@dataclass(frozen=True)
class Totals:
    """How many videos an output holds, and how many of them failed."""

    videos: int
    failed: int


def require_output(names: Sequence[str]) -> Path:
    """The one file that results can be written to.

    Raises:
        UsageError: there are several, or its suffix says no format.
    """
    if len(names) > 1 or Path(names[0]).suffix not in SUFFIXES:
        raise UsageError(
            f"--output {' '.join(names)} is not possible: without --timeline it is one file, "
            f"*{' or *'.join(SUFFIXES)}."
        )
    return Path(names[0])


def predict_to_file(
    videos: VideoList,
    output: Path,
    model: str,
    topk: int = 5,
    clips: int | None = None,
    precision: PrecisionName = "auto",
    decoder: DecoderName = "pyav",
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
    complain: Callable[[str], None] = logger.warning,
) -> Totals:
    """Predict those videos that `output`, *.jsonl or *.parquet, has no result of yet.

    Args:
        workers: Processes, each with the model in its memory, that take turns with the GPUs or
            share the processor cores; by default one a GPU or, without one, one a core, four at
            most.
        limits: What one video may take; its memory is not limited where there are GPUs.
        complain: Is told the reason why a video failed.

    Raises:
        UsageError: `output` was made with other settings or is none of ours.
        Stopped: by Ctrl-C or SIGTERM.
        ActionrecError: another process writes to `output`, it can't be written, or the model can't
            be had.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers} is too few: at least one is needed.")
    parquet = output.suffix == ".parquet"
    if parquet and find_spec("pyarrow") is None:
        raise ActionrecError(
            "Parquet can't be written without pyarrow; `pip install 'actionrec[parquet]'`, or "
            "choose an --output that ends in .jsonl."
        )
    with _alone(output), _sigterm_as_interrupt():
        # Here, so that no process downloads or meets what is wrong with it on its own.
        VideoClassifier.load(model)
        settings = Settings(
            model=model,
            sha256=None if model in WEIGHTS else _sha256(Path(model)),
            topk=topk,
            clips=clips,
            precision=_resolved(precision),
            decoder=decoder,
            shard=str(videos.shard),
        )
        lines = output.with_name(f"{output.name}.jsonl") if parquet else output
        if parquet and output.exists():
            return _finished(videos, output, lines, settings)
        with closing(Journal(lines, settings)) as journal:
            try:
                _predict_missing(videos, journal, settings, workers, limits, complain)
                if parquet:
                    write_parquet(lines, output, settings, journal.rows)
                    journal.delete()
            except KeyboardInterrupt:
                raise Stopped(
                    f"Stopped; {lines} holds {journal.rows} results, and the same command "
                    "goes on from there.",
                    exit_code=130,
                ) from None
            return Totals(journal.rows, journal.failed)


def _predict_missing(
    videos: VideoList,
    journal: Journal,
    settings: Settings,
    workers: int | None,
    limits: Limits,
    complain: Callable[[str], None],
) -> None:
    total = done = 0
    with _waiting_for("counting the videos"):
        for video in videos:
            total += 1
            done += _name(video) in journal.videos
    if journal.rows:
        logger.info("%d of %d videos are done already.", done, total)
    if done == total:
        return
    gpus = torch.cuda.device_count()
    # Those that find no video would only take cores from the others.
    workers = min(workers or gpus or min(cores(), MOST_WORKERS), total - done)

    def fail(failure: Failure) -> None:
        complain(failure.error)
        journal.append(json.dumps(asdict(failure)), failed=True)

    def missing() -> Iterator[Path]:
        taken = journal.videos
        for video in videos:
            if _name(video) in taken:
                continue
            # The list may name it once more.
            taken.add(_name(video))
            if isinstance(video, Failure):
                fail(video)
            else:
                yield video

    columns = TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeLeft()
    begin, before = time.monotonic(), journal.rows
    with (
        closing(_lines(missing(), settings, workers, gpus, limits)) as lines,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("", total=total, completed=done)
        for path, line in lines:
            if isinstance(line, VideoError | WorkerError):
                fail(Failure(str(path), str(line)))
            elif isinstance(line, ActionrecError):
                raise line
            else:
                journal.append(line)
            progress.update(task, completed=done + journal.rows - before)
    seconds, new = time.monotonic() - begin, journal.rows - before
    if new:
        logger.info(
            "%d videos are done, %d of them failed; %d predicted in %.0f s, %.3g videos/s.",
            journal.rows,
            journal.failed,
            new,
            seconds,
            new / seconds,
        )


def _lines(
    paths: Iterable[Path], settings: Settings, workers: int, gpus: int, limits: Limits
) -> Iterator[tuple[Path, str | ActionrecError]]:
    """Each path with its line or the error, as soon as it is known. A file whose process was
    killed from outside is tried once more when the others are done, alone."""
    if gpus:
        limits = Limits(limits.timeout, memory=None)
    predict = partial(predict_line, clips=settings.clips)
    prepare = partial(_load, settings, workers, gpus)
    killed = []
    with closing(run_each(predict, paths, workers, limits, prepare)) as results:
        for path, line in results:
            if isinstance(line, KilledFromOutside):
                killed.append(path)
            else:
                yield path, line
    yield from run_each(predict, killed, 1, limits, prepare)


def _load(settings: Settings, workers: int, gpus: int, place: int) -> InferenceModel:
    """The model of the process at `place` among `workers`, which share cores and GPUs."""
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // workers)))
    device = f"cuda:{place % gpus}" if gpus else "cpu"
    with _gpu_errors_explained(device):
        return InferenceModel.load(
            settings.model, device, settings.precision, settings.decoder, settings.topk
        )


def predict_line(path: Path, model: InferenceModel, clips: int | None) -> str:
    """The prediction of a video as a JSON object on one line.

    Raises:
        VideoError: the video can't be read.
        MemoryError: there is not enough memory for it.
        ActionrecError: something is wrong that other videos would meet as well.
    """
    with _gpu_errors_explained(model.device.type):
        try:
            prediction = predict_video(model, path, clips)
        except RuntimeError as error:
            if "can't allocate memory" in str(error):
                raise MemoryError from error
            raise
    return json.dumps(asdict(prediction))


@contextmanager
def _gpu_errors_explained(device: str) -> Iterator[None]:
    """Turn what PyTorch raises when a GPU is full or failed into an error that ends the run: it is
    no fault of a video, and after it the GPU is often of no use to the process any more."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ActionrecError(
            "The GPU's memory can't hold a model for each process; use fewer --workers, and the "
            "same command goes on from there."
        ) from error
    except RuntimeError as error:
        if device == "cpu":
            raise
        raise ActionrecError(
            f"The GPU {device} failed ({str(error).splitlines()[0]}); the same command goes on "
            "from there."
        ) from error


def _waiting_for(what: str) -> AbstractContextManager[object]:
    """Something that moves on a terminal's stderr, for what takes a million videos a while."""
    return Console(stderr=True).status(what)


def _name(video: Path | Failure) -> str:
    return video.video if isinstance(video, Failure) else str(video)


def _resolved(precision: PrecisionName) -> PrecisionName:
    """What auto stands for on this machine."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_bfloat16(torch.device(fastest_device())) else "float32"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep a second process away from the output."""
    from filelock import FileLock, Timeout

    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output.with_name(f".{output.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise ActionrecError(
            f"Another actionrec is writing {output}; wait until it is done, or choose another "
            "--output."
        ) from error


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which clusters send before they kill, do what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# Parquet


def parquet_schema() -> "pyarrow.Schema":
    """A row a video. Where `error` is set, everything after it is null."""
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
        ]
    )


def write_parquet(lines: Path, output: Path, settings: Settings, rows: int) -> None:
    """Turn a file of `rows` lines into a Parquet file, which appears when it is whole.

    Raises:
        ActionrecError: it can't be written.
    """
    import pyarrow
    from pyarrow import parquet

    schema = parquet_schema()
    with replacing(output) as temporary, lines.open(encoding="utf-8") as file:
        described = schema.with_metadata({METADATA_KEY: json.dumps(asdict(settings))})
        with parquet.ParquetWriter(temporary, described) as writer:
            starts = range(0, rows, ROW_GROUP)
            for _ in track(starts, f"writing {output.name}", console=Console(stderr=True)):
                group = [_parquet_row(json.loads(line)) for line in islice(file, ROW_GROUP)]
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
        # The lines are about to be deleted.
        with temporary.open("rb") as written:
            os.fsync(written.fileno())


def _parquet_row(row: dict[str, Any]) -> dict[str, Any]:
    row["video"] = _text(row["video"])
    if "error" in row:
        return row | {"error": _text(row["error"])}
    clips = [{"start": clip["start"], "end": clip["end"]} | _best(clip) for clip in row["clips"]]
    return {"video": row["video"], "model": row["model"], "clips": clips} | _best(row)


def _best(of: dict[str, Any]) -> dict[str, Sequence[Any]]:
    return {
        "labels": [entry["label"] for entry in of["top"]],
        "scores": [entry["score"] for entry in of["top"]],
    }


def _text(name: str) -> str:
    """The name of a file without the bytes that are no UTF-8, which Parquet refuses."""
    return name.encode(errors="backslashreplace").decode()


def _finished(videos: VideoList, output: Path, lines: Path, settings: Settings) -> Totals:
    """What a Parquet file holds, if it holds all videos.

    Raises:
        UsageError: it does not, was made with other settings, or is none of ours.
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
    total = missing = 0
    for video in videos:
        total += 1
        missing += _text(_name(video)) not in done
    if missing:
        raise UsageError(
            f"{output} is finished and lacks {missing} of these {total} videos; Parquet can't be "
            "added to, so choose another --output."
        )
    logger.info("All %d videos are in %s already.", total, output)
    if lines.exists():
        # The last run ended between writing the one and deleting the other.
        with closing(Journal(lines, settings)) as journal:
            if {_text(video) for video in journal.videos} <= done:
                journal.delete()
    return Totals(len(done), failed)
