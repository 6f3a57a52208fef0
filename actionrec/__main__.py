"""`python -m actionrec` and `actionrec` are the command line."""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

# New objects after which Python looks for garbage; its own figure is some hundreds.
GARBAGE = 100_000
INTERRUPTED = "actionrec: interrupted; everything printed or saved so far is complete."


def main() -> int:
    """Entry point of the console script; returns the exit code."""
    try:
        # Imported here, so that Ctrl-C in the first second is a sentence too.
        import gc
        import signal

        # Another handler is the shell's, which lets a command in the background ignore Ctrl-C.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
        # PyTorch consists of some hundred thousand objects. To look for garbage among them, while
        # it is imported and once more at the end, took half a second of every command.
        gc.set_threshold(GARBAGE)
        from actionrec.cli.main import main as run
        from actionrec.memory import keep_freed_memory

        keep_freed_memory()
        try:
            return run()
        finally:
            gc.freeze()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130


def interrupt(_: int, frame: "FrameType | None") -> None:
    """Raise KeyboardInterrupt, but end at once while a module is imported: PyTorch, for one,
    swallows what is raised while it imports NumPy, and would go on."""
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load":
            print(INTERRUPTED, file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
