"""Predict videos on the machines of a Ray cluster, or on this one.

    actionrec predict --files-from videos.txt --output actions --cluster ray
    actionrec predict --files-from s3://lake/videos.txt --output s3://lake/actions \\
        --cluster ray --address auto --workers 4:64 --gpus-per-worker 1

A worker is a Ray actor. It holds the model, and its child processes read videos as those of a run
on one machine do (`models.shared_batches`): a decoder that crashes or hangs costs one row. The
driver hands out paths and gets lines of text; nothing large crosses the object store but the
network, once. When an actor dies, the videos that it had go to another, each alone: one that ends
two actors becomes a row with its reason. A node that is lost counts against no video.

Ray Data alone loses such rows, or tries for ever (docs/cluster.md): it serves `predict_dataset`
as the frame around the same workers.
"""

import json
import logging
import math
import os
import platform
import re
import socket
import sys
import time
import warnings
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from actionrec.errors import ActionrecError, Failure, Stopped, UsageError, reason_of
from actionrec.models.classifier import VideoClassifier
from actionrec.models.exported import ExportedModel
from actionrec.models.inference import InferenceModel, read_model
from actionrec.models.registry import EngineName, PrecisionName
from actionrec.models.shared_batches import score_once, threads_of
from actionrec.prediction import parquet
from actionrec.prediction.batch import line_of, networks_of
from actionrec.prediction.journal import Settings
from actionrec.prediction.parts import Parts, recorded_settings, resolved, sole_writer
from actionrec.processes import STANDARD_LIMITS, KilledFromOutside, Limits, cores
from actionrec.progress import Counter
from actionrec.signals import sigterm_as_interrupt
from actionrec.storage import Folder
from actionrec.text import json_text, valid_utf8
from actionrec.video.address import Address, VideoPath, video_path
from actionrec.video.sources import find_videos

try:
    # Ray looks for a cluster twenty times as long otherwise: ten minutes.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ActionrecError(
        "A cluster needs Ray, which is not installed; `pip install 'actionrec[ray]'`."
    ) from error

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

logger = logging.getLogger("actionrec")

TICK = 0.5  # seconds
CONNECT_TIMEOUT = 5.0  # seconds
MOST_CORES = 8  # of a worker without a GPU
AHEAD = 8  # videos that a worker has for each of its cores, so that it never waits for the driver
MOST_MOVES = 3  # lost nodes, before a video is suspected
MOST_FAILED_WORKERS = 4  # in a row, at their start or by an error that is no video's fault
OBJECT_STORE = 256 * 2**20  # bytes, of a local Ray
PATIENCE = 60.0  # seconds between words on workers that can't start
NAMED_OF_A_KIND = 3  # failures of one kind that are named, before they are only counted
ROWS_OF_A_BLOCK = 256  # of a Dataset


@dataclass(frozen=True)
class Cluster:
    """Where to predict.

    Attributes:
        address: Of the cluster: auto, host:port or ray://host:port. None: $RAY_ADDRESS, or else a
            Ray of its own on this machine.
        workers: Fewest and most workers; None for as many as the machines hold.
        gpus: GPUs of each worker, such as 0.5; None for one if a machine has a GPU.
    """

    address: str | None = None
    workers: tuple[int, int] | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know, except the model."""

    settings: Settings
    limits: Limits
    engine: EngineName
    cores: int
    gpus: float
    folder: str


@dataclass(frozen=True)
class Place:
    """Where a worker is: the node's name in Ray, the machine's name, and the versions there."""

    node: str
    host: str
    actionrec: str
    python: str


@dataclass(frozen=True)
class _Answer:
    """A finished video: its line, or why there is none.

    Attributes:
        was_killed: The process that read it was killed from outside, and it should be tried again.
        is_missing: The worker's machine has no such file.
    """

    video: str
    line: str | None = None
    error: str | None = None
    was_killed: bool = False
    is_missing: bool = False


class _Predictor:
    """A worker: the actor that holds the model. A thread of it scores, so that `exchange` answers
    at once and what has been read is not lost between two calls."""

    def about(self) -> Place:
        context = ray.get_runtime_context()
        host = socket.gethostname()
        return Place(context.get_node_id(), host, version("actionrec"), platform.python_version())

    def load(self, job: _Job, model: VideoClassifier | ExportedModel) -> None:
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
        settings = job.settings
        self._model = InferenceModel(
            model,
            "cuda" if job.gpus else "cpu",
            settings.precision,
            settings.decoder,
            settings.topk,
            job.engine,
        )
        self._waiting: SimpleQueue[str] = SimpleQueue()
        self._done: SimpleQueue[_Answer | ActionrecError] = SimpleQueue()
        Thread(target=self._score, args=(job,), daemon=True).start()

    def _score(self, job: _Job) -> None:
        def videos() -> Iterator[VideoPath | None]:
            while True:
                try:
                    yield video_path(self._waiting.get_nowait())
                except Empty:
                    yield None

        model = self._model
        try:
            results = score_once(
                networks_of([model] * threads_of(model), InferenceModel.scores),
                model.clips,
                videos(),
                job.settings.clips,
                job.cores,
                job.limits,
            )
            for video, result in results:
                self._done.put(_answer(video, line_of(model, str(video), result)))
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


def _answer(video: VideoPath, line: str | ActionrecError) -> _Answer:
    if isinstance(line, str):
        return _Answer(str(video), line)
    return _Answer(
        str(video),
        error=str(line),
        was_killed=isinstance(line, KilledFromOutside),
        is_missing=not isinstance(video, Address) and not video.exists(),
    )


@dataclass
class _Worker:
    """A worker as the driver sees it.

    Attributes:
        actor: The handle of a `_Predictor`.
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


class _Pool:
    """The workers, and the videos that they have, wait for them or are suspected to end them.

    Args:
        job: What the workers do.
        model: A reference to the model in the object store.
        workers: Fewest and most.
    """

    def __init__(self, job: _Job, model: Any, workers: tuple[int, int]) -> None:
        self.job, self._model = job, model
        self._least, self._most = workers
        self._actor = ray.remote(
            num_cpus=job.cores, num_gpus=job.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )(_Predictor)
        self._workers: list[_Worker] = []
        self._waiting: deque[str] = deque()
        self._suspects: deque[str] = deque()
        self._ended: Counts[str] = Counts()
        self._moved: Counts[str] = Counts()
        self._failed_starts = self._failed_answers = 0
        self._told = time.monotonic()

    def results(self, videos: Iterable[str]) -> Iterator[tuple[str, str | Failure] | None]:
        """Each video with its line or why it has none, as soon as it is known; None where nothing
        has come for a moment.

        Raises:
            ActionrecError: the workers can't do their work.
        """
        self._waiting.extend(videos)
        while self._waiting or self._suspects or any(worker.videos for worker in self._workers):
            self._start_and_end_workers()
            for worker in self._workers:
                if worker.step == "exchange" and worker.call is None:
                    self._hand_out(worker)
            calls = {w.call: w for w in self._workers if w.call is not None}
            ready, _ = ray.wait(list(calls), timeout=TICK) if calls else ([], [])
            if not ready:
                self._tell_waiting()
                yield None
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
            self._workers.append(_Worker(actor, actor.about.remote()))

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
            worker.call = worker.actor.load.remote(self.job, self._model)
        elif worker.step == "load":
            self._failed_starts = 0
            worker.step = "exchange"
        else:
            return answer
        return []

    def _accept(self, worker: _Worker, answer: _Answer) -> Iterator[tuple[str, str | Failure]]:
        video = answer.video
        self._failed_answers = 0
        worker.videos.pop(video, None)
        if answer.line is not None:
            yield video, answer.line
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
    if "out of memory" in text.lower() and "was killed" in text.lower():
        if "memory usage threshold" in text or "killed due to the node running low" in text:
            return "its machine ran out of memory"
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


# The cluster


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Be connected to the cluster while the block runs; one that was connected before stays.

    Raises:
        ActionrecError: there is no such cluster, or its versions are others.
    """
    if ray.is_initialized():
        yield
        return
    connect(cluster)
    # There is one view of the progress: what Ray says of lost machines stands in its own logs.
    with patch("ray._private.worker.print_to_stdstream", create=True):
        try:
            yield
        finally:
            ray.shutdown()


def connect(cluster: Cluster) -> None:
    """Connect to a cluster, or start Ray on this machine.

    Raises:
        ActionrecError: there is no such cluster, or its versions are others.
    """
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        options["num_cpus"] = cores()
        # Else whatever runs beside them goes first (a niceness of 15), which is no worker of Ray.
        os.environ.setdefault("RAY_worker_niceness", "0")
    elif address != "auto":
        _require_open(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # What Ray warns of before it fails, the error says too.
            warnings.simplefilter("ignore")
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:
        text = " ".join(str(error).split())
        if found := re.search(r"[Vv]ersion mismatch.*", text):
            raise ActionrecError(
                f"The cluster at {address} runs other versions of Ray or Python than this machine "
                f"({found[0][:300].rstrip('.')}); install the same on all."
            ) from error
        if address == "local":
            raise ActionrecError(f"Ray can't be started on this machine ({text[:300]}).") from error
        raise ActionrecError(
            f"There is no Ray cluster at {address} ({text[:200].rstrip('.')}); start one with "
            "`ray start --head`, or leave out --address to use this machine."
        ) from error


def _require_open(address: str) -> None:
    """Raise ActionrecError if nothing answers at an address: Ray would wait for minutes."""
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise UsageError(
            f"--address {address} is no address of a Ray cluster; write auto, host:6379 or "
            "ray://host:10001."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise ActionrecError(
            f"There is no Ray cluster at {address} ({reason_of(error)}); start one with "
            "`ray start --head`, or leave out --address to use this machine."
        ) from error


@dataclass(frozen=True)
class _Share:
    """What each worker gets of its machine, and how many workers there are, at least and at
    most."""

    cores: int
    gpus: float
    workers: tuple[int, int]


def _share(cluster: Cluster) -> _Share:
    """Divide the machines of the connected cluster.

    Raises:
        ActionrecError: no machine has the GPUs or a core.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpu = [machine for machine in machines if machine.get("GPU", 0) > 0]
    gpus = cluster.gpus
    if gpus is None:
        gpus = 1.0 if with_gpu else 0.0
    fitting = [m for m in machines if m.get("GPU", 0) >= gpus and m.get("CPU", 0) >= 1]
    if not fitting and not _may_grow():
        if gpus:
            most = max((machine.get("GPU", 0) for machine in machines), default=0)
            raise ActionrecError(
                f"--gpus-per-worker {gpus:g} is more than any machine of the cluster has: the most "
                f"is {most:g}."
            )
        raise ActionrecError("No machine of the cluster has a core to offer.")
    if gpus:
        shares = [int(m["CPU"] * gpus / m["GPU"]) for m in fitting]
        count = sum(int(m["GPU"] / gpus) for m in fitting)
        each = max(1, min(shares, default=MOST_CORES))
    else:
        each = max(1, min(MOST_CORES, min((int(m["CPU"]) for m in fitting), default=MOST_CORES)))
        count = sum(int(m["CPU"] / each) for m in fitting)
    return _Share(each, gpus, cluster.workers or (1, max(1, count)))


def _may_grow() -> bool:
    """Whether the cluster starts machines by itself."""
    # Ray has no public word for it.
    with suppress(ImportError, AttributeError):
        from ray._private.state import state

        return state.get_max_resources_from_cluster_config() is not None
    return True


def _precision_on(share: _Share) -> PrecisionName:
    """The precision that auto stands for on a machine of the workers."""

    def resolve() -> PrecisionName:
        return Settings("").resolved_precision()

    if [node["NodeManagerAddress"] for node in ray.nodes()] == [ray.util.get_node_ip_address()]:
        return resolve()
    task = ray.remote(num_cpus=share.cores, num_gpus=share.gpus)(resolve)
    try:
        return ray.get(task.remote())
    except RayError as error:
        if "No module named 'actionrec" in str(error):
            raise ActionrecError(
                "A machine of the cluster has no actionrec; install the same version, "
                f"{version('actionrec')}, on all."
            ) from error
        raise ActionrecError(f"A task on the cluster failed ({_cause(error)}).") from error


# A folder of results


def predict_to_folder(
    videos: Iterable[str | Failure],
    output: str,
    settings: Settings,
    cluster: Cluster,
    limits: Limits = STANDARD_LIMITS,
    engine: EngineName = "auto",
    complain: Callable[[str], None] = logger.warning,
) -> int:
    """Predict the videos of which the folder `output` has no result yet; returns how many have
    failed.

    Args:
        videos: Of `list_videos`.
        output: A folder's path or address.
        settings: The model, and what else the results depend on.
        cluster: Where to predict.
        limits: Time and memory for reading one video.
        engine: What computes the network.
        complain: Called with the reason of the first failures of each kind.

    Raises:
        UsageError: `output` was made with other settings or not by actionrec.
        Stopped: by Ctrl-C or SIGTERM.
        ActionrecError: there is no such cluster, its workers can't do their work, or `output` can't
            be written.
    """
    parquet.require_pyarrow()
    folder = Folder.at(output)
    by_name = {v.video if isinstance(v, Failure) else v: v for v in videos}
    with sole_writer(folder), sigterm_as_interrupt():
        # Before a cluster is asked for anything, so that the model is downloaded or refused once.
        model = read_model(settings.model)
        recorded = recorded_settings(folder)
        settings = replace(resolved(settings, recorded), sha256=settings.hash())
        parts = Parts(folder, settings) if recorded is not None else None
        if parts is not None and all(valid_utf8(name) in parts.videos for name in by_name):
            logger.info("All %d videos are in %s already.", len(by_name), output)
            return parts.failed
        # Again, because Ray has its own way to end by SIGTERM.
        with connected(cluster), sigterm_as_interrupt():
            share = _share(cluster)
            if settings.precision == "auto":
                settings = replace(settings, precision=_precision_on(share))
            parts = parts or Parts(folder, settings)
            missing = [v for name, v in by_name.items() if valid_utf8(name) not in parts.videos]
            total = len(by_name)
            # Many names take much memory.
            by_name.clear()
            parts.videos.clear()
            if parts.rows:
                logger.info("%d of %d videos are done already.", total - len(missing), total)
            job = _Job(settings, limits, engine, share.cores, share.gpus, os.getcwd())
            pool = _Pool(job, ray.put(model), share.workers)
            try:
                _write(_results(missing, pool), parts, total, total - len(missing), complain)
            except KeyboardInterrupt:
                raise Stopped(
                    f"Stopped; {output} holds {parts.rows} results, and the same command goes on "
                    "from there.",
                    exit_code=130,
                ) from None
            finally:
                pool.close()
        return parts.failed


def _results(
    videos: list[str | Failure], pool: _Pool
) -> Iterator[tuple[str, str | Failure] | None]:
    for video in videos:
        if isinstance(video, Failure):
            yield video.video, video
    paths = [video for video in videos if not isinstance(video, Failure)]
    # Many names take much memory.
    videos.clear()
    yield from pool.results(paths)


def _write(
    results: Iterator[tuple[str, str | Failure] | None],
    parts: Parts,
    total: int,
    completed: int,
    complain: Callable[[str], None],
) -> None:
    kinds: Counts[str] = Counts()
    begin, new = time.monotonic(), 0
    try:
        with Counter("predicting", total, completed, "videos") as counter:
            for result in results:
                if result is None:
                    parts.write_when_due()
                    counter.advance(0)
                    continue
                video, line = result
                if isinstance(line, Failure):
                    kind = _kind(line)
                    kinds[kind] += 1
                    if kinds[kind] <= NAMED_OF_A_KIND:
                        complain(line.error)
                    line = json_text({"video": video, "error": line.error})
                    parts.append(line, failed=True)
                else:
                    parts.append(line)
                new += 1
                counter.advance(1, _told(kinds.most_common(3)))
    finally:
        # Whatever ends the run, the rows that are known are written.
        parts.write()
    seconds = max(time.monotonic() - begin, 1e-9)
    logger.info(
        f"{parts.rows} videos are done, {parts.failed} of them failed; {new} predicted in "
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
    share = _share(cluster)
    settings = Settings(model, None, topk, clips, precision, decoder)
    if precision == "auto":
        settings = replace(settings, precision=_precision_on(share))
    job = _Job(settings, limits, engine, share.cores, share.gpus, os.getcwd())
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

    def __init__(self, job: _Job, model: Any, column: str) -> None:
        self._pool = _Pool(job, model, (1, 1))
        self._column = column

    def __call__(self, block: "pyarrow.Table") -> "pyarrow.Table":
        import pyarrow

        names = [name or "" for name in block[self._column].to_pylist()]
        # As Path writes a name: ./a.mp4 and a.mp4 are one video.
        paths = {name: str(video_path(name)) for name in names}
        lines = dict(filter(None, self._pool.results(dict.fromkeys(paths.values()))))
        rows = []
        for name, path in paths.items():
            line = lines[path]
            result = {"error": line.error} if isinstance(line, Failure) else json.loads(line)
            rows.append(parquet.row(result | {"video": name}))
        by_name = dict(zip(paths, rows, strict=True))
        return pyarrow.Table.from_pylist([by_name[name] for name in names], parquet.schema())
