"""A Python that has imported the large libraries and forks for each command of the tests.

To import PyTorch and Lightning takes seconds, more than most commands of the tests need for their
work. A command is a process of its own here too, with its own arguments, folder, environment and
streams, which imports all of actionrec itself; it only finds the libraries of others in memory.
"""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LONGEST = 1200  # seconds; SIGALRM ends a command that hangs


class CommandServer:
    """The server, in a process of its own: one that has threads, as pytest's may, can't fork."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def ask(self, *request) -> int | None:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(self, arguments, cwd=None, env=None) -> "Command":
        """Start `actionrec` with the arguments, in a session of its own."""
        return Command(self, list(map(str, arguments)), cwd or Path.cwd(), env or os.environ)

    def close(self) -> None:
        self.process.communicate()


class Command:
    """A command that the server has started, with the attributes and methods of `Popen`."""

    def __init__(self, server, arguments, folder, environment) -> None:
        self.server, self.arguments = server, arguments
        self.streams = [tempfile.NamedTemporaryFile() for _ in range(2)]
        names = [stream.name for stream in self.streams]
        self.pid = server.ask("start", arguments, str(folder), dict(environment), names)
        self.returncode = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.server.ask("poll", self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """What the command has printed, once it has ended."""
        while self.poll() is None:
            time.sleep(0.01)
        return tuple(Path(stream.name).read_text("utf-8", "replace") for stream in self.streams)

    def completed(self) -> subprocess.CompletedProcess:
        """What `subprocess.run` would return."""
        printed = self.communicate()
        return subprocess.CompletedProcess(self.arguments, self.returncode, *printed)


def serve() -> None:
    """Answer the requests of stdin, one a line, until it ends."""
    import av  # noqa: F401
    import jsonargparse  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pytorch_lightning  # noqa: F401
    import torchmetrics  # noqa: F401
    import torchvision  # noqa: F401

    gc.collect()
    gc.freeze()  # What is never looked at again stays shared.
    for line in sys.stdin:
        what, *request = json.loads(line)
        if what == "start":
            arguments, *surroundings = request
            answer = os.fork()
            if answer == 0:
                become(*surroundings)
                sys.argv = ["actionrec", *arguments]
                runpy.run_module("actionrec", run_name="__main__", alter_sys=True)
                return
        else:
            ended, status = os.waitpid(*request, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        print(json.dumps(answer), flush=True)


def become(folder: str, environment: dict[str, str], streams: list[str]) -> None:
    """Turn this process into one that was started for a command."""
    os.setsid()
    signal.alarm(LONGEST)
    # Also where a shell that started the tests in the background has Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate([os.devnull, *streams]):
        file = os.open(name, os.O_RDWR)
        os.dup2(file, number)
        os.close(file)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "").partition(":")
    sys.stdin, sys.stdout = open(0), open(1, "w", encoding=encoding or None, errors=errors or None)
    sys.stderr = open(2, "w", 1, encoding or None, "backslashreplace")


if __name__ == "__main__":
    serve()
