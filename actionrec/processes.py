"""Work on files in processes that may hang, crash or run out of memory without harm to the rest.

    for path, result in run_each(count_frames, paths, workers=4):
        print(path, result)

Native video code can loop for ever or crash on a damaged file, and no `except` catches that. A
process that takes too long is killed, one that died is replaced; its file gets the reason and the
others go on. Every process has a pipe of its own, so that the death of one can't block or end the
others, as it can with pebble, loky and concurrent.futures.
"""

import multiprocessing
import os
import pickle
import re
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.queues import Queue
from pathlib import Path
from threading import Thread
from types import GeneratorType
from typing import Generic, TypeVar

import numpy as np

from actionrec.errors import ActionrecError, UsageError
from actionrec.progress import track
from actionrec.text import make_logs_visible

Result = TypeVar("Result")

OUT_OF_MEMORY = 77  # an exit code that neither Python nor the shell uses
KILL_TIMEOUT = 5.0  # seconds; a process that waits for a lost network disk may not end
SAVED_EVERY = 10.0  # seconds
TICK = 0.5  # seconds
SHORT_TICK = 0.02  # seconds, while a process has nothing to do
PIECE = 1 << 18  # bytes; Python's connections take three times as long for a clip in one piece


class WorkerError(ActionrecError):
    """The process that worked on a file was killed or died, or failed in an unforeseen way.

    On another machine or with higher limits the file may do.
    """


class KilledFromOutside(WorkerError):
    """The process that worked on a file was killed, most likely through no fault of the file."""


@dataclass(frozen=True)
class Limits:
    """Limits for one file.

    Attributes:
        timeout: Seconds of work: processor time while the process runs, wall time while it waits,
            as for a lost disk. The time of a paused machine or process does not count.
        memory: MiB beyond those that the process has before it begins (not enforced on Windows and
            macOS); None for any amount.
    """

    timeout: float = 300
    memory: int | None = 4096

    def __post_init__(self) -> None:
        if not self.timeout > 0 or self.memory is not None and self.memory < 1:
            raise UsageError(
                f"A time-out of {self.timeout:g} s and {self.memory} MiB of memory are not "
                "possible; both must be above 0."
            )


STANDARD_LIMITS = Limits()


@dataclass(frozen=True)
class Part(Generic[Result]):
    """What a generator function has yielded for a file; its result follows."""

    item: Result


Answer = tuple[Path, Part[Result] | Result | ActionrecError]


@dataclass(frozen=True)
class _Task(Generic[Result]):
    function: Callable[[Path], Result]
    limits: Limits


def run_each(
    function: Callable[[Path], Result],
    paths: Iterable[Path],
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
) -> Iterator[tuple[Path, Result | ActionrecError]]:
    """Call `function` with every path, each in one of `workers` processes (None: one a core).

    Yields each path with the result as soon as it is known; in place of a result the
    ActionrecError that `function` raised, or a WorkerError. Closing the iterator kills the
    processes. `paths` may be endless: few are taken ahead.

    Args:
        function: A function of a module, or a `functools.partial` of one: it is sent to processes.

    Raises:
        UsageError: `workers` is below 1.
        WorkerError: no process can be started.
    """
    with closing(Workers(function, paths, workers, limits)) as pool:
        while pool.at_work:
            yield from pool.answers()


class Workers(Generic[Result]):
    """The processes of `run_each`, for a caller that does other work beside theirs.

    If `function` is a generator function, each item comes as a `Part` at once. A process whose
    item nobody takes waits, and that takes nothing of its file's time. A None among `paths` says
    that none is known yet: the source is asked again.
    """

    def __init__(
        self,
        function: Callable[[Path], Result],
        paths: Iterable[Path | None],
        workers: int | None = None,
        limits: Limits = STANDARD_LIMITS,
    ) -> None:
        workers = cores() if workers is None else workers
        if workers < 1:
            raise UsageError(f"--workers {workers} is too few: at least one is needed.")
        self._task = _Task(function, limits)
        self._source = iter(paths)
        self._waiting = deque(islice(self._source, workers))
        self._pool = [_Worker(self._task) for _ in self._waiting]
        self._idle: list[_Worker] = []
        self._last = time.monotonic()

    @property
    def at_work(self) -> bool:
        """Whether more answers will come."""
        return bool(self._pool)

    def answers(self, timeout: float = TICK, most: int | None = None) -> Iterator[Answer]:
        """What the processes have sent, one message of each and of `most` of them.

        Time limits are kept only if this is called again within a second.

        Args:
            timeout: Seconds to wait if nothing has come.
            most: The processes that have to wait until the next call are those that began last.
        """
        idle, self._idle = self._idle, []
        for worker in idle:
            if not worker.process.is_alive():
                worker.kill()
            self._begin_next(worker)
        timeout = min(timeout, SHORT_TICK) if self._idle else timeout
        ready = wait([worker.pipe for worker in self._pool], timeout)
        # A longer time means that this process was paused, or its caller busy.
        elapsed, self._last = min(time.monotonic() - self._last, 2 * TICK), time.monotonic()
        for worker in self._pool:
            worker.count(elapsed, waits_for_us=worker.pipe in ready)
        answered = [worker for worker in self._pool if worker.pipe in ready][:most]
        late = [worker for worker in self._pool if worker.is_late and worker.pipe not in ready]
        for worker in answered + late:
            path, answer = worker.path, worker.answer()
            if worker in self._idle:
                # It was killed while it had nothing to do, and another takes its place.
                self._idle.remove(worker)
                answer = None
            if not isinstance(answer, Part):
                self._begin_next(worker)
            # The first answer of a new worker only says that it is ready.
            if path is not None:
                yield path, answer
            elif isinstance(answer, ActionrecError):
                raise answer

    def _begin_next(self, worker: "_Worker") -> None:
        if self._waiting and worker.alive:
            path = self._waiting.popleft()
            self._waiting.extend(islice(self._source, 1))
            if path is None:
                worker.path = None
                self._idle.append(worker)
            else:
                worker.begin(path)
            return
        worker.kill()
        self._pool.remove(worker)
        if self._waiting:
            self._pool.append(_Worker(self._task))

    def close(self) -> None:
        """Kill the processes."""
        for worker in self._pool:
            worker.kill()


def run_each_with_progress(
    function: Callable[[Path], Result],
    paths: Collection[Path],
    title: str,
    save: Callable[[], None],
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
) -> Iterator[tuple[Path, Result | ActionrecError]]:
    """Do as `run_each`, with a progress bar on stderr; call `save` every few seconds and at the
    end, whether all is done or the iterator is closed."""
    saved = time.monotonic()
    try:
        if not paths:
            return
        with closing(run_each(function, paths, workers, limits)) as results:
            for result in track(results, title, len(paths)):
                yield result
                if time.monotonic() > saved + SAVED_EVERY:
                    save()
                    saved = time.monotonic()
    finally:
        save()


def cores() -> int:
    """The number of processor cores that this process may use: by $PYTHON_CPU_COUNT, Python's own
    variable since 3.13, or else by the system."""
    if (count := os.environ.get("PYTHON_CPU_COUNT", "")).isdigit() and int(count) > 0:
        return int(count)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker:
    """A process and the pipe to it: a path goes there, an answer comes back."""

    def __init__(self, task: _Task) -> None:
        self.limits = task.limits
        self.path: Path | None = None
        self.worked = self.processor_time = 0.0
        self.alive = True
        context = _context(task.function)
        self.pipe, other = context.Pipe()
        # A daemon: it ends with this process, however that ends.
        self.process = context.Process(target=_work, args=(other, task), daemon=True)
        self.process.start()
        # While this end is open here too, the pipe would not end with the process.
        other.close()

    def begin(self, path: Path) -> None:
        self.path = path
        self.worked = 0.0
        # Where it died while it waited, the pipe's end says so in the next round.
        with suppress(OSError):
            self.pipe.send(path)

    @property
    def is_late(self) -> bool:
        return self.path is not None and self.worked >= self.limits.timeout

    def count(self, elapsed: float, waits_for_us: bool) -> None:
        """Add what counts of the last `elapsed` seconds to the work on the file."""
        state, used = _state(self.process.pid)
        busy, self.processor_time = used - self.processor_time, used
        # Sleeping, it waits for something; running (R) or stopped (T), it may get no processor.
        only_busy = waits_for_us or state in ("R", "T", "t")
        self.worked += min(elapsed, busy) if only_busy else elapsed

    def answer(self) -> object:
        """The message of the process, or a WorkerError if it is dead or, being too late, killed."""
        try:
            if wait([self.pipe], 0):
                message = _receive(self.pipe)
                if not (self.is_late and isinstance(message, Part)):
                    return message
        except (EOFError, OSError):
            self.process.join(KILL_TIMEOUT)
            code = self.process.exitcode
            self.kill()
            return self._cause_of_death(code)
        self.kill()
        return WorkerError(
            f"{self.path} was given up after {self.limits.timeout:g} s; it is damaged or very "
            "long: for more time, raise --timeout."
        )

    def _cause_of_death(self, code: int | None) -> WorkerError:
        if self.path is None:
            return WorkerError(f"A process to read videos could not be started (exit code {code}).")
        if code in (-9, -15):  # SIGKILL, a name that Windows lacks, and SIGTERM
            return KilledFromOutside(
                f"{self.path} was given up, because the process that read it was killed from "
                "outside; usually the machine's memory has run out, try fewer --workers."
            )
        if code != OUT_OF_MEMORY:
            died = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            reason = f"crashes the decoder ({died}); copy, download or encode it again"
        elif self.limits.memory is None:
            reason = (
                "needs more memory than there is; it is damaged or very large, or there are too "
                "many --workers"
            )
        else:
            reason = (
                f"needs more than {self.limits.memory} MiB of memory; it is damaged or very large: "
                "for more memory, raise --memory"
            )
        return WorkerError(f"{self.path} {reason}.")

    def kill(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.join(KILL_TIMEOUT)
        self.pipe.close()


def _context(function: Callable) -> multiprocessing.context.BaseContext:
    """Clean new processes: a fork of this one would inherit its threads' locks as they are."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        # Loaded once and shared by all workers: it takes most of the time of starting one.
        called = function.func if isinstance(function, partial) else function
        context.set_forkserver_preload([called.__module__])
        return context
    return multiprocessing.get_context("spawn")


def _send(pipe: Connection, message: object) -> None:
    """Send a message, arrays in it without a copy."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    pipe.send((data, [len(array) for array in arrays]))
    for array in arrays:
        for begin in range(0, len(array), PIECE):
            pipe.send_bytes(array[begin : begin + PIECE])


def _receive(pipe: Connection) -> object:
    """The next message that `_send` sends at the other end."""
    data, sizes = pipe.recv()
    arrays = [np.empty(size, np.uint8) for size in sizes]
    for array in arrays:
        for begin in range(0, len(array), PIECE):
            pipe.recv_bytes_into(array[begin : begin + PIECE])
    return pickle.loads(data, buffers=arrays)


def _state(pid: int) -> tuple[str, float]:
    """The state letter of a process and the seconds that processors worked for it; "" and 0 where
    the system doesn't tell as Linux does."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work(pipe: Connection, task: _Task) -> None:
    """The life of a worker, which ends with its parent's."""
    make_logs_visible()
    # One that hangs sees nothing of the end of its pipe.
    Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        if task.limits.memory is not None:
            _limit_memory(task.limits.memory)
        _send(pipe, None)
        while True:
            for message in _messages(task, pipe.recv()):
                _send(pipe, message)


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(0)


def _messages(task: _Task[Result], path: Path) -> Iterator[Part[Result] | Result | ActionrecError]:
    """The items for a path, if the function yields any, and its result or the error; ends the
    process where the memory doesn't do."""
    before = _resident_memory("VmRSS")
    try:
        result = task.function(path)
        if isinstance(result, GeneratorType):
            result = yield from map(Part, result)
        yield result
    except ActionrecError as error:
        # Some decoders call the data invalid when they don't get memory.
        most = _resident_memory("VmHWM") - before
        starved = task.limits.memory is not None and 2 * most > task.limits.memory * 2**20
        if isinstance(error.__cause__, MemoryError) or starved:
            os._exit(OUT_OF_MEMORY)
        yield error
    # Memory that it has allocated may never be freed, so the next file gets a new process.
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:
        yield WorkerError(
            f"{path} could not be read ({type(error).__name__}: {error}); it is damaged, "
            "or this is a fault of actionrec."
        )


def _resident_memory(field: str) -> int:
    """Bytes in memory: now (VmRSS), or at most since the last call (VmHWM); 0 if unknown."""
    try:
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def _limit_memory(mebibytes: int) -> None:
    """Limit this process to that much more memory than it has now, where the system can."""
    try:
        import resource

        # RLIMIT_AS would also count 64 MiB that every thread reserves and never touches: on a
        # machine with many cores more than most videos need.
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        most = pages * resource.getpagesize() + mebibytes * 2**20
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    except (ImportError, OSError, ValueError):
        return


@contextmanager
def reader_failures_as_errors() -> Iterator[None]:
    """Turn the errors of a DataLoader whose reading process failed or was killed into an
    ActionrecError."""
    try:
        yield
    # What a reader raised has its type here too.
    except Exception as error:
        # A batch that the process had sent before it died is memory that only it can hand over,
        # and the attempt to fetch it fails in one of several ways.
        fetching = "torch.multiprocessing.reductions" in {
            frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)
        }
        told = str(error).strip()
        if not fetching and "DataLoader worker" not in told:
            raise
        if "shared memory" in told:
            raise ActionrecError(
                "A process that reads videos can't hand them over, because /dev/shm is full; give "
                "it more room (`docker run --shm-size 8g`), use fewer --workers, or --workers 0."
            ) from error
        if told.startswith("Caught"):
            raise ActionrecError(
                f"A process that reads videos failed ({told.splitlines()[-1]}); use fewer "
                "--workers, or --workers 0."
            ) from error
        raise ActionrecError(
            "A process that reads videos was killed, most likely by the system because memory ran "
            "out; use fewer --workers or a smaller --batch-size. A training goes on with "
            "--resume auto."
        ) from error


def answer_for_failures(worker: int) -> None:
    """Let a DataLoader's worker say that it can't hand over what it read; a `worker_init_fn`.

    Python's queue drops what it can't send, for want of shared memory or open files, and the
    worker lives on: the other side would wait for ever.
    """
    make_logs_visible()
    from torch._utils import ExceptionWrapper  # here, because `data check` needs no torch

    def answer(queue: Queue, _: Exception, item: tuple[int, object]) -> None:
        failure = ExceptionWrapper(where=f"in DataLoader worker process {worker}")
        queue.put((item[0], failure))

    Queue._on_queue_feeder_error = answer
