"""The workers of a job on a Ray cluster, and the pool that hands out videos to them.

    pool = Pool(Job(task, limits, engine, cores, gpus, os.getcwd()), ray.put(model), (1, 64))
    pool.add(paths)
    for result in pool.results():
        ...

A worker is a Ray actor. It holds the model, and its child processes read videos as those of a run
on one machine do (`models.shared_batches`): a decoder that crashes or hangs costs one row. The
driver hands out paths and gets rows; nothing large crosses the object store but the network, once.
When an actor dies, the videos that it had go to another, each alone: one that ends two actors
becomes a row with its reason. A node that is lost counts against no video.
"""

import logging
import math
import os
import platform
import socket
import sys
import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from actionrec.errors import ActionrecError, Failure, reason_of
from actionrec.models.classifier import VideoClassifier
from actionrec.models.exported import ExportedModel
from actionrec.models.inference import InferenceModel, automatic_precision
from actionrec.models.registry import EngineName, PrecisionName
from actionrec.models.shared_batches import ScoredVideo, score_once, threads_of
from actionrec.prediction.batch import networks_of
from actionrec.prediction.tasks import Task
from actionrec.processes import KilledFromOutside, Limits
from actionrec.video.address import Address, VideoPath, video_path
from actionrec.video.pictures import FRAME_RATE

logger = logging.getLogger("actionrec")

TICK = 0.5  # seconds
AHEAD = 8  # videos that a worker has for each of its cores, so that it never waits for the driver
MOST_MOVES = 3  # lost nodes, before a video is suspected
MOST_FAILED_WORKERS = 4  # in a row, at their start or by an error that is no video's fault
PATIENCE = 60.0  # seconds between words on workers that can't start


@dataclass(frozen=True)
class Job:
    """What a worker needs to know, except the model.

    Attributes:
        task: What is asked of each video.
        limits: Time and memory for reading one video.
        engine: What computes the network.
        cores: Of each worker.
        gpus: Of each worker.
        folder: That relative paths start from.
    """

    task: Task
    limits: Limits
    engine: EngineName
    cores: int
    gpus: float
    folder: str


@dataclass(frozen=True)
class Place:
    """Where a worker is: the node's name in Ray, the machine's name, the versions there, and the
    precision that auto stands for."""

    node: str
    host: str
    actionrec: str
    python: str
    precision: PrecisionName = "float32"


@dataclass(frozen=True)
class _Answer:
    """A finished video: its rows, or why there are none.

    Attributes:
        was_killed: The process that read it was killed from outside, and it should be tried again.
        is_missing: The worker's machine has no such file.
    """

    video: str
    rows: bytes | None = None
    error: str | None = None
    was_killed: bool = False
    is_missing: bool = False


class VideoWorker:
    """A worker: the actor that holds the model. A thread of it scores, so that `exchange` answers
    at once and what has been read is not lost between two calls."""

    def about(self, job: Job) -> Place:
        context = ray.get_runtime_context()
        return Place(
            context.get_node_id(),
            socket.gethostname(),
            version("actionrec"),
            platform.python_version(),
            automatic_precision(job.engine, job.task.settings.model),
        )

    def load(self, job: Job, model: VideoClassifier | ExportedModel) -> None:
        # Ray divides the cores of a machine by count, and the system knows nothing of that.
        os.environ["PYTHON_CPU_COUNT"] = str(job.cores)
        # Relative paths mean what they mean to the driver, where the folder is on a shared disk.
        with suppress(OSError):
            os.chdir(job.folder)
        if isinstance(model, ExportedModel) and not model.path.is_file():
            raise ActionrecError(
                f"The machine {socket.gethostname()} does not see {model.path}; put the model on a "
                "disk that all machines share."
            )
        # Each process that reads would run Ray's main module once more.
        vars(sys.modules["__main__"]).pop("__file__", None)
        settings = job.task.settings
        if settings.frame_rate is not None:
            os.environ[FRAME_RATE] = str(settings.frame_rate)
        self._model = InferenceModel(
            model,
            "cuda" if job.gpus else "cpu",
            settings.precision,
            settings.decoder,
            job.task.topk,
            job.engine,
        )
        self._waiting: SimpleQueue[str] = SimpleQueue()
        self._done: SimpleQueue[_Answer | ActionrecError] = SimpleQueue()
        Thread(target=self._score, args=(job,), daemon=True).start()

    def _score(self, job: Job) -> None:
        def videos() -> Iterator[VideoPath | None]:
            while True:
                try:
                    yield video_path(self._waiting.get_nowait())
                except Empty:
                    yield None

        model = self._model
        try:
            results = score_once(
                networks_of([model] * threads_of(model), job.task.answers),
                model.clips,
                videos(),
                job.task.settings.clips,
                job.cores,
                job.limits,
                job.task.hop,
            )
            for video, result in results:
                if isinstance(result, ScoredVideo):
                    self._done.put(_Answer(str(video), job.task.rows(model, str(video), result)))
                else:
                    self._done.put(_failed(video, result))
        except ActionrecError as error:
            self._done.put(error)
        except BaseException as error:
            self._done.put(ActionrecError(f"A worker failed ({type(error).__name__}: {error})."))

    def exchange(self, videos: Sequence[str]) -> list[_Answer]:
        """Take further videos and return those that are done, after a moment if there are none."""
        for video in videos:
            self._waiting.put(video)
        answers: list[_Answer] = []
        with suppress(Empty):
            answers.append(self._done.get(timeout=TICK))
            while True:
                answers.append(self._done.get_nowait())
        for answer in answers:
            if isinstance(answer, ActionrecError):
                raise answer
        return answers


def _failed(video: VideoPath, error: ActionrecError) -> _Answer:
    return _Answer(
        str(video),
        error=str(error),
        was_killed=isinstance(error, KilledFromOutside),
        is_missing=not isinstance(video, Address) and not video.exists(),
    )


@dataclass
class _Worker:
    """A worker as the driver sees it.

    Attributes:
        actor: The handle of a `VideoWorker`.
        call: The one that it has not answered yet.
        step: Of its life: about, load, exchange.
        videos: Those that it has.
        is_alone: It takes one suspected video at a time.
    """

    actor: Any
    call: Any
    step: str = "about"
    place: Place | None = None
    videos: dict[str, None] = field(default_factory=dict)
    is_alone: bool = False


class Pool:
    """The workers, and the videos that they have, wait for them or are suspected to end them.

    Args:
        job: What the workers do.
        model: A reference to the model in the object store.
        workers: Fewest and most.
    """

    def __init__(self, job: Job, model: Any, workers: tuple[int, int]) -> None:
        self.job, self._model = job, model
        self._least, self._most = workers
        self._actor = ray.remote(
            num_cpus=job.cores, num_gpus=job.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )(VideoWorker)
        self._workers: list[_Worker] = []
        self._waiting: deque[str] = deque()
        self._suspects: deque[str] = deque()
        self._ended: Counts[str] = Counts()
        self._moved: Counts[str] = Counts()
        self._failed_starts = self._failed_answers = 0
        self._told = time.monotonic()

    def add(self, videos: Iterable[str]) -> None:
        """Let further videos wait for the workers."""
        self._waiting.extend(videos)

    def precision(self) -> PrecisionName:
        """The precision of the results. If it is to be automatic, that is what suits the machine of
        the first worker, which is waited for.

        Raises:
            ActionrecError: the workers can't do their work.
        """
        while self._waiting and self.job.task.settings.precision == "auto":
            for _ in self._turn():
                pass
        settings = self.job.task.settings
        if settings.precision == "auto":
            return automatic_precision(self.job.engine, settings.model)
        return settings.precision

    def results(self) -> Iterator[tuple[str, bytes | Failure] | None]:
        """Each video with its rows or why it has none, as soon as it is known; None where nothing
        has come for a moment.

        Raises:
            ActionrecError: the workers can't do their work.
        """
        while self._waiting or self._suspects or any(worker.videos for worker in self._workers):
            yield from self._turn()

    def _turn(self) -> Iterator[tuple[str, bytes | Failure] | None]:
        self._start_and_end_workers()
        for worker in self._workers:
            if worker.step == "exchange" and worker.call is None:
                self._hand_out(worker)
        calls = {w.call: w for w in self._workers if w.call is not None}
        ready, _ = ray.wait(list(calls), timeout=TICK) if calls else ([], [])
        if not ready:
            self._tell_waiting()
            yield None
        elif len(calls) > 1:
            # All that have answered by now: one at a time, a thousand workers would wait.
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in ready:
            for answer in self._next(calls[call]):
                yield from self._accept(calls[call], answer)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            _end(worker)
        self._workers = []

    def _start_and_end_workers(self) -> None:
        left = len(self._waiting) + len(self._suspects)
        if not left:
            # Their machines may be wanted elsewhere.
            for worker in [w for w in self._workers if not w.videos]:
                _end(worker)
                self._workers.remove(worker)
        busy = sum(bool(worker.videos) for worker in self._workers)
        wanted = max(self._least, busy + math.ceil(left / self.job.cores)) if left else 0
        while len(self._workers) < min(self._most, wanted):
            actor = self._actor.remote()
            self._workers.append(_Worker(actor, actor.about.remote(self.job)))

    def _hand_out(self, worker: _Worker) -> None:
        if self._suspects and not any(w.is_alone for w in self._workers):
            worker.is_alone = True
        videos = []
        if not worker.is_alone:
            # Fewer and fewer towards the end, so that all workers end at about the same time.
            share = math.ceil(len(self._waiting) / (2 * len(self._workers)))
            most = min(AHEAD * self.job.cores, max(share, 2 * self.job.cores))
            count = min(max(0, most - len(worker.videos)), len(self._waiting))
            videos = [self._waiting.popleft() for _ in range(count)]
        elif not worker.videos:
            if self._suspects:
                videos = [self._suspects.popleft()]
            else:
                worker.is_alone = False
        worker.videos |= dict.fromkeys(videos)
        if worker.videos:
            worker.call = worker.actor.exchange.remote(videos)

    def _next(self, worker: _Worker) -> list[_Answer]:
        """What a call has answered; begins the next step."""
        try:
            answer = ray.get(worker.call)
        except RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, ActionrecError):
                cause = ActionrecError(f"A worker failed ({type(cause).__name__}: {cause}).")
            if worker.step == "load":
                raise cause from error
            return self._lost(worker, cause, counts=False)
        except RayError as error:
            return self._lost(worker, error, counts=not self._is_lost_node(worker, error))
        worker.call = None
        if worker.step == "about":
            require_same_versions(answer)
            worker.place, worker.step = answer, "load"
            task = self.job.task
            if task.settings.precision == "auto":
                settings = replace(task.settings, precision=answer.precision)
                self.job = replace(self.job, task=replace(task, settings=settings))
            worker.call = worker.actor.load.remote(self.job, self._model)
        elif worker.step == "load":
            self._failed_starts = 0
            worker.step = "exchange"
        else:
            return answer
        return []

    def _accept(self, worker: _Worker, answer: _Answer) -> Iterator[tuple[str, bytes | Failure]]:
        video = answer.video
        self._failed_answers = 0
        worker.videos.pop(video, None)
        if answer.rows is not None:
            yield video, answer.rows
        elif answer.is_missing and os.path.exists(video) and worker.place is not None:
            raise ActionrecError(
                f"The machine {worker.place.host} does not see {video}, which is here; put videos "
                "on a disk that all machines share, under the same path, and the same command goes "
                "on."
            )
        elif answer.was_killed and not self._ended[video]:
            self._ended[video] += 1
            self._suspects.append(video)
        else:
            yield video, Failure(video, answer.error)

    def _lost(self, worker: _Worker, error: Exception, counts: bool) -> list[_Answer]:
        """Give the videos of a worker that is lost to others; those that have ended two workers are
        answered."""
        _end(worker)
        self._workers.remove(worker)
        where = f" on {worker.place.host}" if worker.place else ""
        if "No module named 'actionrec" in str(error):
            raise ActionrecError(
                "A machine of the cluster has no actionrec, or another version; install version "
                f"{version('actionrec')} on all."
            ) from error
        if isinstance(error, ActionrecError):
            self._failed_answers += 1
            if self._failed_answers >= MOST_FAILED_WORKERS:
                raise error
        elif worker.step != "exchange":
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_WORKERS:
                raise ActionrecError(
                    f"{self._failed_starts} workers ended one after the other before they were "
                    f"ready{where} ({_cause(error)}); the same command goes on when that is mended."
                ) from error
        if worker.videos:
            logger.warning(
                "A worker%s is lost (%s); its %d videos go to others.",
                *(where, _cause(error), len(worker.videos)),
            )
        answers = []
        for video in worker.videos:
            if not counts:
                self._moved[video] += 1
                counted = self._moved[video] > MOST_MOVES
            else:
                counted = True
            self._ended[video] += counted
            if not counted:
                self._waiting.appendleft(video)
            elif self._ended[video] < 2:
                self._suspects.append(video)
            else:
                reason = (
                    f"{video} was given up, because it ended two workers ({_cause(error)}); it is "
                    "damaged or very large, or the machines lack memory."
                )
                answers.append(_Answer(video, error=reason))
        worker.videos = {answer.video: None for answer in answers}
        return answers

    def _is_lost_node(self, worker: _Worker, error: Exception) -> bool:
        """Whether a worker is lost with its machine, or because that can't be reached."""
        if type(error).__name__ == "ActorUnavailableError" or "node has died" in str(error):
            return True
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return worker.place is not None and worker.place.node not in alive

    def _tell_waiting(self) -> None:
        if any(w.step == "exchange" for w in self._workers):
            self._told = time.monotonic()
        elif time.monotonic() > self._told + PATIENCE:
            self._told = time.monotonic()
            logger.warning(
                "No worker could start yet: each needs %d free cores%s on one machine; the cluster "
                "may be busy, or be starting machines.",
                *(self.job.cores, f" and {self.job.gpus:g} GPUs" if self.job.gpus else ""),
            )


def _end(worker: _Worker) -> None:
    with suppress(RayError, ValueError):
        ray.kill(worker.actor)


def _cause(error: Exception) -> str:
    """Why an actor died, in a few words."""
    text = str(error)
    if isinstance(error, ActionrecError):
        return text.rstrip(".")
    if "memory usage threshold" in text or "killed due to the node running low" in text:
        return "its machine ran out of memory"
    if "references to the actor were removed" in text:
        return (
            "the cluster can't call this machine back; open its ports, and set RAY_AUTH_MODE to "
            "the same on all"
        )
    if "node has died" in text or "unavailable" in text:
        return "its machine was lost"
    if "process has died" in text or "worker process" in text:
        return "its process died or was killed"
    return reason_of(error)


def require_same_versions(place: Place) -> None:
    """Raise ActionrecError if another version of actionrec or Python runs there than here."""
    mine = version("actionrec"), platform.python_version()
    for name, here, there in zip(
        ("actionrec", "Python"), mine, (place.actionrec, place.python), strict=True
    ):
        # Pickles of one minor version of Python can be read by its others.
        same = here == there if name == "actionrec" else here.split(".")[:2] == there.split(".")[:2]
        if not same:
            raise ActionrecError(
                f"The machine {place.host} has {name} {there}, and this one {here}; install the "
                "same version on all machines of the cluster."
            )
