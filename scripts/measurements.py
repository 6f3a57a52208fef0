"""Measurements as rows of the CSV files in results/, which are appended and never rewritten."""

import csv
import datetime
import errno
import fcntl
import io
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from stopwatch import device_model

from actionrec.errors import ActionrecError


def machine(device: str | torch.device) -> dict[str, str]:
    """Where and with which versions something is measured."""
    return {
        "device": device_model(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file; none where there is no file yet.

    A row that is not whole, of which a power cut took the end, is told and left out.

    Raises:
        ActionrecError: it is no CSV file in UTF-8.
    """
    whole = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            for row in rows:
                if None in row or None in row.values():
                    told = f"{path}, line {rows.line_num}, is not whole and is left out"
                    print(told, file=sys.stderr, flush=True)
                else:
                    whole.append(row)
            return whole
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ActionrecError(
            f"{path} can't be read as a CSV file in UTF-8 ({error}); mend it or name another one."
        ) from error


def append(path: Path, row: Mapping[str, object], device: str | torch.device) -> None:
    """Add a row with today's date and the machine; None becomes an empty field.

    Several processes and threads may do so at the same time.

    Raises:
        ActionrecError: the file can't be written, or has no column for a part of the row.
    """
    row = {"date": datetime.date.today().isoformat(), **row, **machine(device)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not buffered, so that nothing is left to be written after a failure.
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            before = file.read()
            text = io.StringIO()
            header = before.partition(b"\n")[0].decode()
            columns = next(csv.reader([header])) if header else None
            writer = csv.DictWriter(text, columns or list(row), lineterminator="\n")
            if columns is None:
                writer.writeheader()
            elif not before.endswith(b"\n"):
                # A power cut has left half a row.
                text.write("\n")
            writer.writerow(row)
            try:
                data = text.getvalue().encode()
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(len(before))
                raise
    except ValueError as error:
        raise ActionrecError(
            f"{path} has other columns than what was measured ({error}); name another file. "
            f"Measured: {row}"
        ) from error
    except OSError as error:
        raise ActionrecError(
            f"{path} could not be written ({error.strerror}); free some space or choose a folder "
            f"that you may write to. Measured: {row}"
        ) from error
