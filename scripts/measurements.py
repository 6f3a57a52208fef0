"""Measurements as rows of the CSV files in results/, which are appended and never rewritten."""

import csv
import datetime
import fcntl
import os
import platform
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

    Raises:
        ActionrecError: it is no CSV file in UTF-8.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
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
        with path.open("a+", encoding="utf-8", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            columns = next(csv.reader(file), None)
            file.seek(0)
            torn = not file.read().endswith("\n")
            writer = csv.DictWriter(file, columns or list(row), lineterminator="\n")
            if columns is None:
                writer.writeheader()
            elif torn:
                # A power cut has left half a row.
                file.write("\n")
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
    except ValueError as error:
        raise ActionrecError(
            f"{path} has other columns than what was measured ({error}); name another file."
        ) from error
    except OSError as error:
        raise ActionrecError(
            f"{path} could not be written ({error.strerror}); free some space or choose a folder "
            "that you may write to."
        ) from error
