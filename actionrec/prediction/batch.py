"""Predict any number of videos, which several processes read, and go on after any interruption.

    actionrec predict --files-from videos.txt --output actions.jsonl --workers 8
    actionrec predict --files-from videos.txt --output part3.parquet --shard 3/8

Each result is appended to a file of lines (`prediction.journal`) the moment it is known, in the
order in which videos are done. The same command goes on where it was stopped, be it by Ctrl-C,
kill -9, a power cut or a full disk: a video that has a whole line is not predicted again. Parquet
can't be appended to, so actions.parquet.jsonl is converted when its last line is there.
"""

import codecs
import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from actionrec.errors import ActionrecError, Failure, Stopped, UsageError, VideoError
from actionrec.files import exclusive, short_enough
from actionrec.models.inference import InferenceModel, read_model
from actionrec.models.registry import EngineName
from actionrec.models.shared_batches import Network, ScoredVideo, score_videos, threads_of
from actionrec.prediction import parquet
from actionrec.prediction.journal import FeatureSettings, Journal, Settings
from actionrec.prediction.videos import prediction
from actionrec.processes import STANDARD_LIMITS, Limits, WorkerError
from actionrec.progress import track
from actionrec.signals import sigterm_as_interrupt
from actionrec.text import json_text
from actionrec.video.address import Address, is_address, spelled, video_path
from actionrec.video.sources import find_videos

logger = logging.getLogger("actionrec")


def list_videos(
    paths: Iterable[str], files_from: str | None = None, shard: str = "1/1"
) -> list[str | Failure]:
    """The videos that `paths` name (see `find_videos`), then those of a list, in order.

    Lines of the list are taken literally, as files or addresses; blank lines are skipped.

    Args:
        paths: Files, folders, patterns and addresses.
        files_from: A text file with a path or address on each line, its address, or - for standard
            input.
        shard: The part to take: 3/8 is every eighth video from the third on.

    Raises:
        UsageError: there is no such shard, no such list, or the list is no text.
    """
    part = re.fullmatch(r"([0-9]+)/([0-9]+)", shard)
    if part is None or not 1 <= int(part[1]) <= int(part[2]):
        raise UsageError(
            f"--shard {shard} is not possible; write 3/8 for the third of eight parts, counted "
            "from 1."
        )
    found = [v if isinstance(v, Failure) else str(v) for v in find_videos(paths)]
    data = b""
    if files_from == "-":
        data = sys.stdin.buffer.read()
    elif files_from is not None:
        try:
            path = video_path(files_from)
            data = path.open().read() if isinstance(path, Address) else path.read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UsageError(
                f"--files-from {files_from} is not a file; give a text file with a path on each "
                "line, or - for standard input."
            ) from error
        except VideoError as error:
            raise UsageError(f"--files-from: {error}") from error
    if b"\0" in data:
        raise UsageError(
            f"--files-from {files_from} holds zero bytes and so is no list of paths; give a text "
            "file with a path on each line."
        )
    lines = (line.rstrip(b"\r\n") for line in io.BytesIO(data.removeprefix(codecs.BOM_UTF8)))
    named = chain(found, (spelled(os.fsdecode(line)) for line in lines if line.strip()))
    home = f"{os.getcwd()}{os.sep}"
    once: dict[str, str | Failure] = {}
    for video in named:
        once.setdefault(_identity(video, home), video)
    if files_from is not None and not once:
        raise UsageError(f"--files-from {files_from} names no video; put a path on each line.")
    return list(islice(once.values(), int(part[1]) - 1, None, int(part[2])))


def _identity(video: str | Failure, home: str) -> str:
    """What all spellings of one video have in common; `home` is the folder that relative paths
    start from. Most names are their own, which saves time and memory with a million of them."""
    name = video.video if isinstance(video, Failure) else video
    if is_address(name):
        return name
    if ".." in name:
        name = os.path.abspath(name)
    return name.removeprefix(home)


def predict_to_file(
    videos: Iterable[str | Failure],
    output: Path,
    settings: Settings,
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
    engine: EngineName = "auto",
    complain: Callable[[str], None] = logger.warning,
) -> int:
    """Predict the videos of which `output` has no result yet; returns how many have failed.

    Args:
        videos: Of `list_videos`.
        output: *.jsonl or *.parquet.
        settings: The model, and what else the results depend on.
        workers: Processes that read videos; by default one a core.
        limits: Time and memory for reading one video.
        engine: What computes the network.
        complain: Called with the reason of each failure.

    Raises:
        UsageError: `output` was made with other settings or not by actionrec.
        Stopped: by Ctrl-C or SIGTERM.
        ActionrecError: another process writes to `output`, it can't be written, or the model can't
            be loaded.
    """
    # One video may be named several times.
    by_name = {v.video if isinstance(v, Failure) else v: v for v in videos}
    if output.is_symlink():
        output = output.resolve()
    to_parquet = output.suffix.lower() == ".parquet"
    lines = output.with_name(short_enough(f"{output.name}.jsonl")) if to_parquet else output
    if to_parquet:
        parquet.require_pyarrow()
    busy = (
        f"Another actionrec is writing {output}; wait until it is done, or choose another --output."
    )
    with exclusive(lines, busy), sigterm_as_interrupt():
        # Before the workers start, so that the model is downloaded or refused once.
        read_model(settings.model)
        settings = settings.resolved(engine)
        if to_parquet and output.exists():
            return parquet.check_finished(by_name, output, lines, settings)
        with closing(Journal(lines, settings)) as journal:
            try:
                lines_of = partial(
                    _lines, settings=settings, workers=workers, limits=limits, engine=engine
                )
                complete(by_name, journal, lines_of, complain)
                if to_parquet:
                    parquet.write(lines, output, settings, journal.rows)
                    journal.delete()
            except KeyboardInterrupt:
                raise Stopped(
                    f"Stopped; {lines} holds {journal.rows} results, and the same command "
                    "goes on from there.",
                    exit_code=130,
                ) from None
            return journal.failed


def complete(
    videos: dict[str, str | Failure],
    journal: Journal,
    lines_of: Callable[[list[str | Failure]], Iterator[tuple[str, str | ActionrecError]]],
    complain: Callable[[str], None],
    title: str = "predicting",
) -> None:
    """Append a line to the journal for each video that has none.

    Args:
        videos: By name.
        journal: Holds the results.
        lines_of: Gives each of some videos with its line or the error, in any order.
        complain: Called with the reason of each failure.
        title: Words before the bar of progress.

    Raises:
        ActionrecError: one came that is no fault of a video, or the journal can't be written.
    """
    missing = [video for name, video in videos.items() if name not in journal.videos]
    completed, before, begin = len(videos) - len(missing), journal.rows, time.monotonic()
    if before:
        logger.info("%d of %d videos are done already.", completed, len(videos))
    if not missing:
        return
    with closing(lines_of(missing)) as lines:
        for video, line in track(lines, title, len(videos), completed):
            if isinstance(line, VideoError | WorkerError):
                complain(str(line))
                failure = Failure(video, str(line))
                journal.append(json_text(asdict(failure)), failed=True)
            elif isinstance(line, ActionrecError):
                raise line
            else:
                journal.append(line)
    new, seconds = journal.rows - before, max(time.monotonic() - begin, 1e-9)
    logger.info(
        f"{journal.rows} videos are done, {journal.failed} of them failed; {new} of them new in "
        f"{seconds:.0f} s, {new / seconds:.3g} videos/s."
    )


def _lines(
    videos: list[str | Failure],
    settings: Settings,
    workers: int | None,
    limits: Limits,
    engine: EngineName,
) -> Iterator[tuple[str, str | ActionrecError]]:
    """Each video with its line or the error, as soon as it is known."""
    results = score_each(
        videos, settings, InferenceModel.scores, workers, limits, engine, settings.topk
    )
    with closing(results):
        for model, video, result in results:
            yield video, line_of(model, video, result)


def line_of(
    model: InferenceModel | None, video: str, result: ScoredVideo | ActionrecError
) -> str | ActionrecError:
    """The line of the journal for what the network says of a video, or the error."""
    if isinstance(result, ActionrecError):
        return result
    return json_text(asdict(prediction(model, video, result.seconds, result.answers[:, 0])))


def score_each(
    videos: list[str | Failure],
    settings: Settings | FeatureSettings,
    network: Callable[[InferenceModel, torch.Tensor], np.ndarray],
    workers: int | None,
    limits: Limits,
    engine: EngineName,
    topk: int = 1,
    hop: float | None = None,
) -> Iterator[tuple[InferenceModel | None, str, ScoredVideo | ActionrecError]]:
    """Each video with what the network says of its clips or the error, as soon as it is known, and
    the model.

    Args:
        network: What is asked of the model: a method of it that takes clips.
        hop: Seconds from one window to the next, in place of a number of clips.
    """
    paths = [video_path(video) for video in videos if not isinstance(video, Failure)]
    for video in videos:
        if isinstance(video, Failure):
            yield None, video.video, VideoError(video.error)
    if not paths:
        return
    models = _load(settings, engine, topk)
    networks = networks_of(models, network)
    reader = models[0].clips
    scored = score_videos(networks, reader, paths, settings.clips, 1, workers, limits, hop)
    with closing(scored) as results:
        for path, result in results:
            yield models[0], str(path), result


def networks_of(
    models: Iterable[InferenceModel], method: Callable[[InferenceModel, torch.Tensor], np.ndarray]
) -> list[Network]:
    """A method of each of the models, which says what is no fault of a video."""
    return [partial(_answers, method, model) for model in models]


def _load(
    settings: Settings | FeatureSettings, engine: EngineName, topk: int
) -> list[InferenceModel]:
    """The model for each thread, on each of the GPUs."""
    gpus = torch.cuda.device_count()
    models = []
    for device in [f"cuda:{number}" for number in range(gpus)] or ["cpu"]:
        with _failures_explained(device):
            model = InferenceModel.load(
                settings.model,
                device,
                settings.precision,
                settings.decoder,
                topk,
                engine,
            )
        models += [model] * threads_of(model)
    return models


def _answers(
    network: Callable[[InferenceModel, torch.Tensor], np.ndarray],
    model: InferenceModel,
    clips: torch.Tensor,
) -> np.ndarray:
    with _failures_explained(str(model.device)):
        return network(model, clips)


@contextmanager
def _failures_explained(device: str) -> Iterator[None]:
    """Turn PyTorch's errors of full memory and of a failed GPU into an error that ends the run:
    they are no fault of a video, and after them the process can often not use the GPU any more."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ActionrecError(
            f"The memory of the GPU {device} can't hold the network and a batch of clips; end what "
            "else uses it, and the same command goes on from there."
        ) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise ActionrecError(
                "The memory can't hold the network and its clips; end what else uses it or try "
                "fewer --workers, and the same command goes on from there."
            ) from error
        if device == "cpu":
            raise
        raise ActionrecError(
            f"The GPU {device} failed ({str(error).splitlines()[0]}); the same command goes on "
            "from there."
        ) from error
