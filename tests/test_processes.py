"""A file that hangs, crashes or eats its process's memory gets the reason; the rest goes on."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict, deque
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from actionrec.errors import ActionrecError, UsageError, VideoError
from actionrec.processes import (
    KilledFromOutside,
    Limits,
    Part,
    WorkerError,
    Workers,
    cores,
    reader_failures_as_errors,
    run_each,
    run_each_with_progress,
)

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
MEBIBYTE = 2**20


def act(path):
    """Do what the file's name says, in a worker."""
    if path.name == "hang":
        time.sleep(600)
    if path.name == "hang without Python":
        # Only SIGKILL ends it, as with native code that holds the GIL.
        ctypes.PyDLL(None).sleep(600)
    if path.name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name == "exit":
        os._exit(3)
    if path.name == "eat":
        return len(bytearray(600 * MEBIBYTE))
    if path.name == "eat in FFmpeg":
        raise VideoError("could not be read (out of memory)") from MemoryError()
    if path.name == "error":
        raise VideoError(f"{path} is empty.")
    if path.name == "fault":
        raise ZeroDivisionError("by zero")
    return path.name.upper()


def outcomes(*names, workers=2, **limits):
    limits = Limits(**{"timeout": 60, "memory": 1024} | limits)
    return {path.name: out for path, out in run_each(act, map(Path, names), workers, limits)}


def test_every_file_gets_its_result_or_its_error():
    names = [f"video {index}" for index in range(20)]
    results = outcomes(*names, "error", "fault")
    assert [results[name] for name in names] == [name.upper() for name in names]
    assert isinstance(results["error"], VideoError) and str(results["error"]) == "error is empty."
    assert isinstance(results["fault"], WorkerError)
    assert "ZeroDivisionError: by zero" in str(results["fault"])


@posix
def test_files_that_hang_crash_or_are_killed_do_not_stop_the_others():
    names = ["a", "hang", "b", "hang without Python", "crash", "c", "killed", "exit", "d", "e"]
    results = outcomes(*names, timeout=1)
    assert [results[name] for name in "abcde"] == list("ABCDE")
    for name, reason in {
        "hang": "hang was given up after 1 s",
        "hang without Python": "given up after 1 s",
        "crash": "crash crashes the decoder (signal 11)",
        "killed": "killed was given up, because the process that read it was killed from outside",
        "exit": "exit crashes the decoder (exit code 3)",
    }.items():
        assert isinstance(results[name], WorkerError)
        assert isinstance(results[name], KilledFromOutside) == (name == "killed")
        assert reason in str(results[name])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory")
def test_a_file_that_needs_more_memory_than_allowed_is_given_up():
    results = outcomes("a", "eat", "eat in FFmpeg", "b", workers=1, memory=200)
    assert results["a"] == "A" and results["b"] == "B"
    for name in ("eat", "eat in FFmpeg"):
        assert f"{name} needs more than 200 MiB of memory" in str(results[name])
    assert outcomes("eat", memory=700) == {"eat": 600 * MEBIBYTE}
    unlimited = outcomes("eat", "eat in FFmpeg", memory=None)
    assert unlimited["eat"] == 600 * MEBIBYTE
    assert "needs more memory than there is" in str(unlimited["eat in FFmpeg"])


def test_progress_is_saved_when_work_ends_or_is_interrupted(capsys):
    saved = []
    paths = [Path("a"), Path("b")]
    results = run_each_with_progress(act, paths, "testing", lambda: saved.append(True), 1)
    assert next(results) == (Path("a"), "A") and not saved
    results.close()
    assert len(saved) == 1
    assert list(run_each_with_progress(act, [], "testing", lambda: saved.append(True))) == []
    assert len(saved) == 2 and "testing" in capsys.readouterr().err


def act_after_a_slow_start():
    time.sleep(1.5)
    return act


class SlowToStart:
    """Takes longer to be taken up by a process than a file may take."""

    def __reduce__(self):
        return act_after_a_slow_start, ()


def test_starting_a_process_does_not_count_as_time_of_the_file():
    results = run_each(SlowToStart(), [Path("a")], 1, Limits(timeout=1))
    assert list(results) == [(Path("a"), "A")]


@posix
def test_closing_the_iterator_ends_the_processes(tmp_path):
    results = run_each(partial(note_pid, folder=tmp_path), map(Path, "ab"), 1, Limits())
    next(results)
    [pid] = [int(path.name) for path in tmp_path.iterdir()]
    os.kill(pid, 0)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def note_pid(path, folder):
    (folder / str(os.getpid())).touch()
    if path.name == "b":
        time.sleep(600)


def count_up(path):
    """Yield as many arrays as the file's name says, and then do what follows the number."""
    count, _, then = path.name.partition(" ")
    for number in range(int(count)):
        yield np.full((3, 2**18), number)
    act(Path(then))


def parts_and_results(pool, taken=lambda: None, most=None):
    """The parts of each path, checked, by number; and its result."""
    parts, results = defaultdict(list), {}
    with closing(pool):
        while pool.at_work:
            for path, answer in pool.answers(most=most):
                if isinstance(answer, Part):
                    assert (answer.item == answer.item[0, 0]).all()
                    parts[path.name].append(int(answer.item[0, 0]))
                else:
                    results[path.name] = answer
            taken()
    return parts, results


@posix
def test_large_items_come_whole_and_in_order_also_beside_processes_that_end_in_the_middle():
    names = ["3", "2 crash", "40", "1 hang", "2 error", "2 killed", "0", "5"]
    pool = Workers(count_up, map(Path, names), 3, Limits(timeout=1))
    parts, results = parts_and_results(pool, most=2)
    for name in names:
        assert parts[name] == list(range(int(name.split()[0])))
    assert [results[name] for name in ("3", "40", "0", "5")] == [None] * 4
    assert "crashes the decoder" in str(results["2 crash"])
    assert "was given up after 1 s" in str(results["1 hang"])
    assert isinstance(results["2 error"], VideoError)
    assert isinstance(results["2 killed"], KilledFromOutside)


def test_waiting_until_an_item_is_wanted_is_no_work_of_the_file():
    pool = Workers(count_up, [Path("4")], 1, Limits(timeout=1))
    parts, results = parts_and_results(pool, taken=lambda: time.sleep(0.9))
    assert parts["4"] == [0, 1, 2, 3] and results == {"4": None}


def count_for_ever(path):
    while True:
        begin = time.process_time()
        while time.process_time() < begin + 0.01:
            pass
        yield np.zeros((1, 1))


def test_a_file_that_never_ends_is_given_up_although_it_always_answers():
    parts, results = parts_and_results(Workers(count_for_ever, [Path("a")], 1, Limits(timeout=1)))
    assert "a was given up after 1 s" in str(results["a"]) and len(parts["a"]) > 10


def test_paths_are_taken_as_they_are_needed():
    taken = []
    results = run_each(act, (taken.append(n) or Path(str(n)) for n in range(10**9)), 2)
    assert len(taken) == 0
    next(results)
    results.close()
    assert len(taken) <= 6


def test_paths_that_are_known_later_are_done_by_processes_that_wait():
    later = deque([Path("a"), None, None, Path("b")])

    def paths():
        while True:
            yield later.popleft() if later else None

    with closing(Workers(act, paths(), 1)) as workers:
        found, killed = {}, False
        while "c" not in found:
            found |= {path.name: result for path, result in workers.answers(0.1)}
            if "b" in found and not killed:
                # One that is killed while it waits is replaced.
                [process] = multiprocessing.active_children()
                process.kill()
                process.join()
                later.extend([None, Path("c")])
                killed = True
    assert found == {"a": "A", "b": "B", "c": "C"}


def test_pythons_variable_says_how_many_cores_there_are(monkeypatch):
    monkeypatch.setenv("PYTHON_CPU_COUNT", "3")
    assert cores() == 3
    monkeypatch.setenv("PYTHON_CPU_COUNT", "default")
    assert cores() >= 1


class Unreadable:
    """Can be sent to another process, which fails to take it up."""

    def __reduce__(self):
        return exec, ("1 / 0",)


def test_processes_that_cannot_start_are_an_error_and_no_endless_loop():
    with pytest.raises(WorkerError, match="could not be started"):
        list(run_each(Unreadable(), [Path("a")], 1, Limits()))


@pytest.mark.parametrize("limits", [{"timeout": 0}, {"timeout": float("nan")}, {"memory": 0}])
def test_impossible_limits_are_wrong_usage(limits):
    with pytest.raises(UsageError, match="must be above 0"):
        Limits(**limits)


def test_less_than_one_worker_is_wrong_usage():
    with pytest.raises(UsageError, match="--workers 0"):
        list(run_each(act, [Path("a")], 0))


def test_no_files_are_no_work():
    assert list(run_each(act, [])) == []


class KillsItsReader(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


@posix
def test_a_killed_reader_is_a_sentence():
    with pytest.raises(ActionrecError, match="that reads videos was killed"):
        with reader_failures_as_errors():
            list(DataLoader(KillsItsReader(), num_workers=1))


@posix
@pytest.mark.parametrize("error", [ConnectionResetError, FileNotFoundError, EOFError])
def test_a_reader_that_is_dying_while_its_batch_is_fetched_is_a_sentence(error, monkeypatch):
    def reset(_):
        raise error

    # The reader still counts as alive, but no longer hands over the memory of what it sent.
    monkeypatch.setattr("multiprocessing.resource_sharer.DupFd.detach", reset)
    with pytest.raises(ActionrecError, match="that reads videos was killed"):
        with reader_failures_as_errors():
            list(DataLoader(torch.zeros(2, 1000), num_workers=1))


def test_errors_that_no_reader_caused_are_left_as_they_are():
    for error in (RuntimeError("shapes"), FileNotFoundError("list.csv"), EOFError()):
        with pytest.raises(type(error)), reader_failures_as_errors():
            raise error


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_pause_of_worker_or_machine_is_no_work(tmp_path):
    # Both processes are stopped for longer than the time-out, as by a suspended machine.
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys, time\nfrom pathlib import Path\n"
        "from actionrec.processes import Limits, run_each\n"
        "def act(path):\n"
        "    Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "    begin = time.process_time()\n"
        "    while time.process_time() < begin + 1: pass\n"
        "    return 'done'\n"
        "if __name__ == '__main__':\n"
        "    print([out for _, out in run_each(act, [Path('a')], 1, Limits(timeout=2))])\n"
    )
    note = tmp_path / "pid"
    command = [sys.executable, script, note]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        while not note.exists() or not note.read_text():
            time.sleep(0.01)
        worker = int(note.read_text())
        for stopped in ([worker], [parent.pid, worker]):
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(2.5)
            for pid in stopped[::-1]:
                os.kill(pid, signal.SIGCONT)
        assert parent.communicate()[0] == "['done']\n"


WITH_A_HANGING_FILE = """
import multiprocessing
from pathlib import Path
from test_processes import act
from actionrec.processes import Workers

if __name__ == "__main__":
    workers = Workers(act, [Path("a"), Path("hang")], 1)
    while True:
        for path, result in workers.answers():
            print(multiprocessing.active_children()[0].pid, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_process_that_hangs_ends_when_its_parent_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(WITH_A_HANGING_FILE)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    child = Path("/proc", str(int(run.stdout.readline())))
    assert child.exists()
    run.kill()
    run.wait()
    while child.exists():
        time.sleep(0.05)
