"""Predict videos, or read their features, on the machines of a Ray cluster, or on this one.

    actionrec predict --files-from videos.txt --output actions --cluster ray
    actionrec predict --files-from s3://lake/videos.txt --output s3://lake/actions \\
        --cluster ray --address auto --workers 4:64 --gpus-per-worker 1
    actionrec features --files-from videos.txt --output features --hop 0.5 --cluster ray

The driver hands out paths (`prediction.cluster_workers`), and writes the rows that it gets for them
into a folder (`prediction.parts`). Predictions and features differ by what a `Task` says.

Ray Data alone loses rows, or tries for ever (docs/cluster.md): it serves `predict_dataset` as the
frame around the same workers.
"""

import logging
import os
import re
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actionrec.errors import Failure, Stopped
from actionrec.models.inference import read_model
from actionrec.models.registry import EngineName, PrecisionName
from actionrec.prediction.cluster_connection import Cluster, connect, connected, share_of
from actionrec.prediction.cluster_workers import Job, Pool
from actionrec.prediction.journal import Settings
from actionrec.prediction.parquet import require_pyarrow
from actionrec.prediction.parts import Parts, recorded_settings, resolved, sole_writer
from actionrec.prediction.tasks import Predictions, Task
from actionrec.processes import STANDARD_LIMITS, Limits
from actionrec.progress import Counter, waiting
from actionrec.signals import sigterm_as_interrupt
from actionrec.storage import Folder
from actionrec.text import valid_utf8
from actionrec.video.address import video_path
from actionrec.video.sources import find_videos

# After the modules above, which say what to install where there is no Ray.
import ray  # isort: skip

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

logger = logging.getLogger("actionrec")

NAMED_OF_A_KIND = 3  # failures of one kind that are named, before they are only counted
ROWS_OF_A_BLOCK = 256  # of a Dataset


def run_to_folder(
    videos: Iterable[str | Failure],
    output: str,
    task: Task,
    cluster: Cluster,
    limits: Limits = STANDARD_LIMITS,
    engine: EngineName = "auto",
    complain: Callable[[str], None] = logger.warning,
) -> int:
    """Do the videos of which the folder `output` has no result yet; returns how many have failed.

    Args:
        videos: Of `list_videos`.
        output: A folder's path or address.
        task: What is asked of each video.
        cluster: Where it is done.
        limits: Time and memory for reading one video.
        engine: What computes the network.
        complain: Called with the reason of the first failures of each kind.

    Raises:
        UsageError: `output` was made with other settings or not by actionrec.
        Stopped: by Ctrl-C or SIGTERM.
        ActionrecError: there is no such cluster, its workers can't do their work, or `output` can't
            be written.
    """
    require_pyarrow()
    folder = Folder.at(output)
    by_name = {v.video if isinstance(v, Failure) else v: v for v in videos}
    del videos
    with sole_writer(folder), sigterm_as_interrupt():
        # Before a cluster is asked for anything, so that the model is downloaded or refused once.
        model = read_model(task.settings.model)
        task.require(model)
        recorded = recorded_settings(folder)
        task = resolved(task, recorded)
        parts = Parts(folder, task) if recorded is not None else None
        done = parts.videos if parts else set()
        missing = [video for name, video in by_name.items() if valid_utf8(name) not in done]
        total, completed = len(by_name), len(by_name) - len(missing)
        # Many names take much memory.
        by_name.clear()
        done.clear()
        if parts is not None and not missing:
            logger.info("All %d videos are in %s already.", total, output)
            return parts.failed
        # Again, because Ray has its own way to end by SIGTERM.
        with connected(cluster), sigterm_as_interrupt():
            share = share_of(cluster)
            job = Job(task, limits, engine, share.cores, share.gpus, os.getcwd())
            pool = Pool(job, ray.put(model), share.workers)
            del model
            failures = [video for video in missing if isinstance(video, Failure)]
            pool.add(video for video in missing if not isinstance(video, Failure))
            missing.clear()
            try:
                if parts is None:
                    with waiting("starting the first worker"):
                        settings = replace(task.settings, precision=pool.precision())
                    parts = Parts(folder, replace(task, settings=settings))
                elif completed:
                    logger.info("%d of %d videos are done already.", completed, total)
                results = chain(((each.video, each) for each in failures), pool.results())
                with Counter(task.title, total, completed, "videos") as counter:
                    _write(results, parts, task, counter, complain)
            except KeyboardInterrupt:
                held = parts.done if parts else 0
                raise Stopped(
                    f"Stopped; {output} holds {held} results, and the same command goes on "
                    "from there.",
                    exit_code=130,
                ) from None
            finally:
                pool.close()
        return parts.failed


def _write(
    results: Iterable[tuple[str, bytes | Failure] | None],
    parts: Parts,
    task: Task,
    counter: Counter,
    complain: Callable[[str], None],
) -> None:
    kinds: Counts[str] = Counts()
    begin, new = time.monotonic(), 0
    try:
        for result in results:
            if result is None:
                parts.write_when_due()
                counter.advance(0)
                continue
            video, rows = result
            if isinstance(rows, Failure):
                kind = _kind(rows)
                kinds[kind] += 1
                if kinds[kind] <= NAMED_OF_A_KIND:
                    complain(rows.error)
                parts.append(task.failed(video, rows.error), failed=True)
            else:
                parts.append(rows)
            new += 1
            counter.advance(1, _told(kinds.most_common(3)))
    finally:
        # Whatever ends the run, the rows that are known are written.
        parts.write()
    seconds = max(time.monotonic() - begin, 1e-9)
    logger.info(
        f"{parts.done} videos are done, {parts.failed} of them failed; {new} of them new in "
        f"{seconds:.0f} s, {new / seconds:.3g} videos/s."
    )
    if kinds:
        logger.info("Failed in this run: %s.", _told(kinds.most_common()))


def _kind(failure: Failure) -> str:
    """The reason without what belongs to this one video."""
    reason = failure.error.replace(failure.video, "").partition(";")[0].strip(" .,:")
    return re.sub(r"(?<!signal )\b\d+(\.\d+)?", "N", reason)


def _told(kinds: list[tuple[str, int]]) -> str:
    return "; ".join(f"{count} {kind}" for kind, count in kinds)


# A Dataset


def predict_dataset(
    videos: "str | Path | Iterable[str | Path] | Dataset",
    model: str = "kinetics400-i3d",
    topk: int = 5,
    clips: int | None = None,
    precision: PrecisionName = "auto",
    decoder: str = "pyav",
    engine: EngineName = "auto",
    workers: tuple[int, int] | None = None,
    gpus_per_worker: float | None = None,
    limits: Limits = STANDARD_LIMITS,
    column: str = "video",
) -> "Dataset":
    """Predict videos as a step of a Ray Data pipeline.

    Args:
        videos: Files, folders and patterns; or a Dataset with the paths in its column `column`.
        model: A model file, or the name of a pretrained model.
        topk: Classes of each prediction.
        clips: Clips spread over each video; None for as many as cover it, ten at most.
        precision, decoder, engine: As in `actionrec.load`.
        workers: Fewest and most; by default as many as the cluster's machines hold.
        gpus_per_worker: By default one, if a machine has a GPU.
        limits: Time and memory for reading one video.
        column: Of `videos`, if it is a Dataset.

    Returns:
        A Dataset, lazy as all are, with a row for each row of `videos`: the columns of
        `actionrec predict --output actions.parquet`. A video that can't be read has an `error`.

    Raises:
        ActionrecError: there is no such model, or no Ray.
    """
    import pyarrow
    from ray.data import ActorPoolStrategy, Dataset, from_arrow

    cluster = Cluster(None, workers, gpus_per_worker)
    network = read_model(model)
    if not ray.is_initialized():
        connect(cluster)
    if not isinstance(videos, Dataset):
        paths = [videos] if isinstance(videos, str | Path) else list(videos)
        found = find_videos(paths)
        names = [video.video if isinstance(video, Failure) else str(video) for video in found]
        blocks = range(0, max(1, len(names)), ROWS_OF_A_BLOCK)
        schema = pyarrow.schema([(column, pyarrow.string())])
        videos = from_arrow(
            [
                pyarrow.table({column: names[begin : begin + ROWS_OF_A_BLOCK]}, schema)
                for begin in blocks
            ]
        )
    share = share_of(cluster)
    task = resolved(Predictions(Settings(model, None, topk, clips, precision, decoder)), None)
    job = Job(task, limits, engine, share.cores, share.gpus, os.getcwd())
    return videos.map_batches(
        _BlockPredictor,
        fn_constructor_args=(job, ray.put(network), column),
        batch_size=ROWS_OF_A_BLOCK,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=share.workers[0], max_size=share.workers[1]),
        # It holds no model and does no work but wait for the worker, which has the resources.
        num_cpus=0,
    )


class _BlockPredictor:
    """Predicts a block of a Dataset by a worker of its own, which may die without harm to it."""

    def __init__(self, job: Job, model: Any, column: str) -> None:
        self._pool = Pool(job, model, (1, 1))
        self._column = column

    def __call__(self, block: "pyarrow.Table") -> "pyarrow.Table":
        names = [name or "" for name in block[self._column].to_pylist()]
        # As Path writes a name: ./a.mp4 and a.mp4 are one video.
        paths = {name: str(video_path(name)) for name in names}
        self._pool.add(dict.fromkeys(paths.values()))
        task = self._pool.job.task
        results = dict(filter(None, self._pool.results()))
        rows = [
            task.failed(path, rows.error) if isinstance(rows, Failure) else rows
            for path, rows in results.items()
        ]
        # Each row has the name that it was given.
        at = {path: number for number, path in enumerate(results)}
        table = task.table(rows).take([at[paths[name]] for name in names])
        return table.set_column(0, table.schema.field("video"), [[valid_utf8(n) for n in names]])
