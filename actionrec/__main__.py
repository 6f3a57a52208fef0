"""`python -m actionrec` and `actionrec` are the command line."""

import sys


def main() -> int:
    """Entry point of the console script; returns the exit code."""
    try:
        # Imported here, so that Ctrl-C in the first second is a sentence too.
        from actionrec.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("actionrec: interrupted before anything was done.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
