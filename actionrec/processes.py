"""Work on files in processes that may hang, crash or run out of memory without harm to the rest.

    for path, result in run_each(count_frames, paths, workers=4):
        print(path, result)

Native video code can loop for ever or crash on a damaged file, and no `except` catches that. A
process that takes too long is killed and one that died is replaced; its file gets the reason and
the others go on. Every process has a pipe of its own, so that a killed one can't leave a lock or
a queue behind that the others wait for: concurrent.futures gives up all work in that case, and
other pools have hung.
"""

import math
import multiprocessing
import os
import re
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeVar

from actionrec.errors import ActionrecError, UsageError

Result = TypeVar("Result")

# Any number that Python and the shell don't use.
OUT_OF_MEMORY = 77
# Seconds for a killed process to end: one that waits for a lost network disk may not.
PATIENCE = 5.0
# Loaded once and shared by all workers: it is what takes the time of starting one.
PRELOADED = ["actionrec.video.reader"]


class WorkerError(ActionrecError):
    """The process that worked on a file was killed or died, or failed in an unforeseen way.

    On another machine or with higher limits the file may do.
    """


class KilledFromOutside(WorkerError):
    """The process that worked on a file was killed, most likely through no fault of the file."""


@dataclass(frozen=True)
class Limits:
    """What one file may take: `timeout` in seconds of wall time, `memory` in MiB beyond what the
    process has before it begins (not enforced on Windows and macOS); None: any amount, as CUDA
    maps far more than it uses."""

    timeout: float = 300
    memory: int | None = 4096

    def __post_init__(self) -> None:
        if not self.timeout > 0 or self.memory is not None and self.memory < 1:
            raise UsageError(
                f"A time-out of {self.timeout:g} s and {self.memory} MiB of memory are not "
                "possible; both must be above 0."
            )


STANDARD_LIMITS = Limits()


def run_each(
    function: Callable[..., Result],
    paths: Iterable[Path],
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
    prepare: Callable[[int], object] | None = None,
) -> Iterator[tuple[Path, Result | ActionrecError]]:
    """Call `function` with every path, each in one of `workers` processes (None: one a core).

    Yields the path with what `function` returned, in the order in which they are done. In place
    of a result comes the ActionrecError that it raised, or a WorkerError. `function` is sent to
    new processes, so it must be one of a module, or a `functools.partial` of one. Closing the
    iterator kills the processes. `paths` may be endless: few are taken ahead.

    Args:
        prepare: Each process first calls it with its place, 0 to workers - 1, which a process that
            takes the place of another inherits; what it returns is the second argument of
            `function`. To load a model here takes nothing of the first file's time and memory.

    Raises:
        UsageError: `workers` is below 1.
        WorkerError: no process can be started.
        ActionrecError: `prepare` raised it.
    """
    workers = cores() if workers is None else workers
    if workers < 1:
        raise UsageError(f"--workers {workers} is too few: at least one is needed.")
    source = iter(paths)
    waiting = deque(islice(source, workers))
    crew = [_Worker(function, limits, prepare, place) for place in range(len(waiting))]
    try:
        while crew:
            seconds = min(worker.deadline for worker in crew) - time.monotonic()
            wait([worker.pipe for worker in crew], min(max(seconds, 0), 60))
            for worker in [worker for worker in crew if worker.has_spoken or worker.is_late]:
                path, outcome = worker.path, worker.outcome()
                if not worker.alive:
                    crew.remove(worker)
                    if waiting:
                        crew.append(_Worker(function, limits, prepare, worker.place))
                elif waiting:
                    worker.begin(waiting.popleft())
                    waiting.extend(islice(source, 1))
                else:
                    crew.remove(worker)
                    worker.kill()
                # What a new worker sends first only says that it is ready.
                if path is not None:
                    yield path, outcome
                elif isinstance(outcome, ActionrecError):
                    raise outcome
    finally:
        for worker in crew:
            worker.kill()


def cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker:
    """A process and the pipe to it: a path goes there, an outcome comes back."""

    def __init__(
        self,
        function: Callable[..., Result],
        limits: Limits,
        prepare: Callable[[int], object] | None,
        place: int,
    ) -> None:
        self.limits = limits
        self.place = place
        self.path: Path | None = None
        self.deadline = math.inf
        self.alive = True
        context = _context()
        self.pipe, other = context.Pipe()
        # A daemon: it ends with this process, however that ends.
        self.process = context.Process(
            target=_work, args=(other, function, limits.memory, prepare, place), daemon=True
        )
        self.process.start()
        # While this end is open here too, the pipe would not end with the process.
        other.close()

    def begin(self, path: Path) -> None:
        self.path = path
        self.deadline = time.monotonic() + self.limits.timeout
        try:
            self.pipe.send(path)
        except OSError:
            pass  # It died while it waited; the pipe's end says so in the next round.

    @property
    def has_spoken(self) -> bool:
        """Whether the process sent something or has died."""
        return bool(wait([self.pipe], 0))

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def outcome(self) -> object:
        """What the process sent, or a WorkerError if it is dead or, being too late, killed."""
        if not self.has_spoken:
            self.kill()
            return WorkerError(
                f"{self.path} was given up after {self.limits.timeout:g} s; it is damaged or very "
                "long: for more time, raise --timeout."
            )
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(PATIENCE)
            code = self.process.exitcode
            self.kill()
            return self._cause_of_death(code)

    def _cause_of_death(self, code: int | None) -> WorkerError:
        if self.path is None:
            return WorkerError(f"A process to read videos could not be started (exit code {code}).")
        if code == OUT_OF_MEMORY and self.limits.memory is None:
            return WorkerError(
                f"{self.path} needs more memory than there is; it is damaged or very large, or "
                "there are too many --workers."
            )
        if code == OUT_OF_MEMORY:
            return WorkerError(
                f"{self.path} needs more than {self.limits.memory} MiB of memory; it is damaged or "
                "very large: for more memory, raise --memory."
            )
        if code in (-9, -15):  # SIGKILL, a name that Windows lacks, and SIGTERM
            return KilledFromOutside(
                f"{self.path} was given up, because the process that read it was killed from "
                "outside; usually the machine's memory has run out, try fewer --workers."
            )
        died = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerError(
            f"{self.path} crashes the decoder ({died}); copy, download or encode it again."
        )

    def kill(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.join(PATIENCE)
        self.pipe.close()


def _context() -> multiprocessing.context.BaseContext:
    """Clean new processes: a fork of this one would inherit its threads' locks as they are."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        return context
    return multiprocessing.get_context("spawn")


def _work(
    pipe: Connection,
    function: Callable[..., Result],
    memory: int | None,
    prepare: Callable[[int], object] | None,
    place: int,
) -> None:
    """The life of a worker, which ends with its parent's."""
    try:
        _serve(pipe, function, memory, prepare, place)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _serve(
    pipe: Connection,
    function: Callable[..., Result],
    memory: int | None,
    prepare: Callable[[int], object] | None,
    place: int,
) -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        prepared = () if prepare is None else (prepare(place),)
    except ActionrecError as error:
        pipe.send(error)
        return
    if memory is not None:
        _limit_memory(memory)
    pipe.send(None)
    while True:
        path = pipe.recv()
        before = _resident_memory("VmRSS")
        try:
            outcome = function(path, *prepared)
        except ActionrecError as error:
            # Some decoders call the data invalid when it is the memory that they don't get.
            most = _resident_memory("VmHWM") - before
            starved = memory is not None and 2 * most > memory * 2**20
            if isinstance(error.__cause__, MemoryError) or starved:
                os._exit(OUT_OF_MEMORY)
            outcome = error
        # What it has allocated may never be freed, so the next file gets a new process.
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except Exception as error:
            outcome = WorkerError(
                f"{path} could not be read ({type(error).__name__}: {error}); it is damaged, "
                "or this is a fault of actionrec."
            )
        pipe.send(outcome)


def _resident_memory(what: str) -> int:
    """Bytes in memory: now (VmRSS), or at most since the last call (VmHWM); 0 if unknown."""
    try:
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def _limit_memory(mebibytes: int) -> None:
    """Let this process have that much more memory than it has now, where the system can."""
    try:
        import resource

        # RLIMIT_AS would count as well what every thread reserves and never touches: 64 MiB each,
        # which on a machine with many cores is more than most videos need.
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        most = pages * resource.getpagesize() + mebibytes * 2**20
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    except (ImportError, OSError, ValueError):
        return


@contextmanager
def reader_failures_as_errors() -> Iterator[None]:
    """Turn what a DataLoader says when one of its processes was killed into a sentence.

    Raises:
        ActionrecError: one was.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # A batch that the process had sent before it died is memory that only it can hand over,
        # and the attempt to fetch it fails in one of several ways.
        fetching = "torch.multiprocessing.reductions" in {
            frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)
        }
        if not fetching and "DataLoader worker" not in str(error):
            raise
        raise ActionrecError(
            "A process that reads videos was killed, most likely by the system because memory ran "
            "out; use fewer --workers or a smaller --batch-size. A training goes on with "
            "--resume auto."
        ) from error
