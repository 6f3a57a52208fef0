"""The results of a long run, a line of JSON a video in the form of `predict --format json`.

    {"video": "a.mp4", "model": "kinetics400-i3d", "top": [{"label": "yoga", "score": 0.98}, ...],
     "clips": [{"start": 0.0, "end": 2.56, "top": [...]}, ...]}
    {"video": "b.mp4", "error": "b.mp4 is empty."}

To retry the failed videos, delete their lines. The settings that results depend on are kept beside
the lines, in actions.jsonl.settings.json, so that one file never mixes two models or settings.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from actionrec.config import DecoderName
from actionrec.errors import ActionrecError, UsageError
from actionrec.files import short_enough, write_whole
from actionrec.models import model_file
from actionrec.models.catalogue import MODELS
from actionrec.models.inference import automatic_precision
from actionrec.models.registry import EngineName, PrecisionName
from actionrec.progress import track
from actionrec.text import json_text
from actionrec.video.pictures import STANDARD_RATE, frame_rate


class RunSettings:
    """What the data classes of settings have in common; all results in a file have the same."""

    model: str
    precision: PrecisionName

    def resolved(self, engine: EngineName) -> Self:
        """`identified`, with the precision that auto stands for on this machine with an engine."""
        precision = self.precision
        if precision == "auto":
            precision = automatic_precision(engine, self.model)
        return replace(self.identified(), precision=precision)

    def identified(self) -> Self:
        """The same with the hash of the model file and the rate of folders of frames."""
        # As in the files of versions that knew no other.
        rate = None if frame_rate() == STANDARD_RATE else frame_rate()
        return replace(self, sha256=self.hash(), frame_rate=rate)

    def hash(self) -> str | None:
        """The SHA-256 of the model file; None for a pretrained model."""
        if self.model in MODELS:
            return None
        return model_file.sha256(model_file.locate(self.model))

    def require(self, others: dict[str, Any], path: Path | str) -> None:
        """Raise UsageError if the settings that the file at `path` was made with are others."""
        for name, value in asdict(self).items():
            before = others.get(name)
            if before != value:
                difference = f"{name} {before}, not {value}"
                if name == "sha256":
                    difference = f"other weights in {self.model}"
                raise UsageError(
                    f"{path} was made with {difference}; choose another --output, or move that "
                    "file away."
                )


@dataclass(frozen=True)
class Settings(RunSettings):
    """The settings that predictions depend on.

    Attributes:
        model: A pretrained model or a model file.
        sha256: That of the model file; None for a pretrained model, whose name identifies it.
        topk: Classes of each prediction.
        clips: Clips spread over each video; None for as many as cover it, ten at most.
        precision: Numbers that the network computes with.
        decoder: Library that decodes videos.
        shard: The part of the list of videos.
        frame_rate: That of folders of frames; None for the standard one.
    """

    model: str
    sha256: str | None = None
    topk: int = 5
    clips: int | None = None
    precision: PrecisionName = "auto"
    decoder: DecoderName = "pyav"
    shard: str = "1/1"
    frame_rate: float | None = None


@dataclass(frozen=True)
class FeatureSettings(RunSettings):
    """The settings that features depend on; those of `Settings`, and `hop`, the seconds from one
    window to the next (None: clips spread over the video)."""

    model: str
    sha256: str | None = None
    clips: int | None = None
    hop: float | None = None
    precision: PrecisionName = "auto"
    decoder: DecoderName = "pyav"
    shard: str = "1/1"
    frame_rate: float | None = None


class Journal:
    """The lines of a file: read once, then appended to.

    Attributes:
        rows: the number of lines.
        failed: the number of lines that are errors.
        videos: the videos of the lines that were there at first.

    Raises:
        UsageError: the file was made with other settings or not by actionrec.
        ActionrecError: the file can't be written.
    """

    def __init__(self, path: Path, settings: RunSettings) -> None:
        self.path = path
        self.settings_path = path.with_name(short_enough(f"{path.name}.settings.json"))
        self.rows = self.failed = self._size = 0
        self.videos: set[str] = set()
        if path.exists():
            self._read(settings)
        else:
            write_whole(self.settings_path, json_text(asdict(settings)))
        # Unbuffered: a line is with the system at once, and outlives a kill of this process.
        self._file = path.open("ab", buffering=0)
        # Removes a line that was torn off when the last run ended.
        self._file.truncate(self._size)

    def _read(self, settings: RunSettings) -> None:
        try:
            others = dict(json.loads(self.settings_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{self.path} is there already without {self.settings_path.name} beside it, the "
                "settings of its results; choose another --output, or move that file away."
            ) from error
        settings.require(others, self.path)
        with self.path.open("rb") as file:
            for line in track(file, f"reading {self.path}", transient=True):
                if not line.endswith(b"\n"):
                    return
                self.rows += 1
                self._size += len(line)
                try:
                    row = json.loads(line)
                    self.videos.add(row["video"])
                    self.failed += "error" in row
                except (ValueError, KeyError, TypeError) as error:
                    raise UsageError(
                        f"Line {self.rows} of {self.path} is no result of actionrec; delete that "
                        "line, or choose another --output."
                    ) from error

    def append(self, line: str, failed: bool = False) -> None:
        """Write a line.

        Raises:
            ActionrecError: it can't be written; the lines before it stay whole.
        """
        data = line.encode() + b"\n"
        try:
            if self._file.write(data) < len(data):
                raise OSError("the disk is full")
        except OSError as error:
            self._file.truncate(self._size)
            raise ActionrecError(
                f"{self.path} could not be written ({error.strerror or error}); free some space, "
                f"and the same command goes on after the {self.rows} results that it holds."
            ) from error
        self._size += len(data)
        self.rows += 1
        self.failed += failed

    def close(self) -> None:
        """Close the file when its lines are on the disk."""
        os.fsync(self._file.fileno())
        self._file.close()

    def delete(self) -> None:
        """Delete the file and its settings."""
        self.path.unlink()
        self.settings_path.unlink(missing_ok=True)
