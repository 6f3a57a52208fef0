"""A command that stops with the page that started it, however that one ends.

    python -m actionrec.app.tied_process train --config config.yaml

Runs actionrec with the arguments. When standard input ends, which it does with the page, the
command is asked to stop as Ctrl-C would, so that it can go on later.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """Returns the exit code of the command."""
    command = [sys.executable, "-m", "actionrec", *sys.argv[1:]]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: process.send_signal(signal.SIGTERM))

        def watch() -> None:
            # Not by sys.stdin, which a thread must not hold when Python ends.
            while os.read(0, 1024):
                pass
            process.send_signal(signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
        return process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
