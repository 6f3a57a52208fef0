"""`python -m actionrec` and `actionrec` are the command line."""

import sys


def main() -> int:
    """Entry point of the console script; returns the exit code."""
    interrupted = False
    try:
        # Imported here, so that Ctrl-C in the first second is a sentence too.
        import signal

        def interrupt(*_: object) -> None:
            nonlocal interrupted
            interrupted = True
            raise KeyboardInterrupt

        # Another handler is the shell's, which lets a command in the background ignore Ctrl-C.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
        from actionrec.cli.main import main as run

        return run()
    except (Exception, KeyboardInterrupt) as error:
        # PyTorch swallows an interrupt while it imports NumPy, and a half-imported module fails.
        if not interrupted and isinstance(error, Exception):
            raise
        print(
            "actionrec: interrupted; everything printed or saved so far is complete.",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
