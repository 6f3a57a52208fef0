"""How a timeline is made from scores: `actionrec evaluate --timeline` chooses it for a model, and
`actionrec timeline` does so where no flag says otherwise.

    actionrec evaluate --timeline --model runs/mine --dataset csv --root data.csv
    actionrec timeline match.mp4 --model runs/mine

The chosen settings are in a file beside the model, model.timeline.json for model.safetensors:

    {"version": 1, "model_sha256": "...", "tuned_on": "40 segments of 1 videos",
     "settings": {"hop": 0.32, "smoothing": 1.28, "min_score": 0.3, "min_length": 0.64,
                  "bridge": 0.0}}
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actionrec.datasets.check import load_json
from actionrec.errors import UsageError
from actionrec.files import write_whole
from actionrec.models import model_file
from actionrec.text import json_text

logger = logging.getLogger("actionrec")

VERSION = 1


@dataclass(frozen=True)
class TimelineSettings:
    """How a timeline is made from scores.

    Attributes:
        hop: Seconds from one window to the next; None is half a clip.
        smoothing: Seconds over which the scores of a step are averaged, half of them before its
            middle; 0 for none.
        min_score: Steps whose best class scores less belong to no segment.
        min_length: Segments that last fewer seconds are left out.
        bridge: Two segments of one class at most so many seconds apart, with no other segment
            between them, are one.

    Raises:
        UsageError: one is not in its bounds.
    """

    hop: float | None = None
    smoothing: float = 0.0
    min_score: float = 0.2
    min_length: float = 0.0
    bridge: float = 0.0

    def __post_init__(self) -> None:
        if self.hop is not None and not 0 < self.hop < float("inf"):
            raise UsageError(f"A hop of {self.hop} seconds is not possible; it must be above 0.")
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"A min_score of {self.min_score} is not possible; it is from 0 to 1.")
        for name in ("smoothing", "min_length", "bridge"):
            if not 0 <= (seconds := getattr(self, name)) < float("inf"):
                raise UsageError(
                    f"A {name} of {seconds} seconds is not possible; it must be at least 0."
                )

    def __str__(self) -> str:
        hop = "half a clip" if self.hop is None else f"{self.hop:g} s"
        return (
            f"hop {hop}, smoothing {self.smoothing:g} s, min-score {self.min_score:g}, "
            f"min-length {self.min_length:g} s, bridge {self.bridge:g} s"
        )


DEFAULTS = TimelineSettings()


def settings_file(model: str | Path) -> Path | None:
    """The file of the settings for a model file or a run's folder; None for a model by name."""
    path = model_file.locate(model)
    return path.with_name(f"{path.stem}.timeline.json") if path.is_file() else None


def stored_settings(model: str | Path) -> TimelineSettings | None:
    """The settings that were chosen for a model; None if there are none, or for another model that
    lay in its place, which is told.

    Raises:
        ActionrecError: the file is damaged.
    """
    file = settings_file(model)
    if file is None:
        return None

    def parse(values: dict[str, Any]) -> tuple[str, TimelineSettings]:
        settings = {key: each and float(each) for key, each in values["settings"].items()}
        return str(values["model_sha256"]), TimelineSettings(**settings)

    title = "settings of a timeline"
    found = load_json(file, VERSION, parse, title, "delete it, or tune them again")
    if found is None:
        return None
    sha256, settings = found
    if sha256 != model_file.sha256(model_file.locate(model)):
        logger.warning("%s was chosen for another model in this place and is not used.", file)
        return None
    return settings


def store_settings(model: str | Path, settings: TimelineSettings, tuned_on: str) -> Path | None:
    """Write the settings for a model and return their file; None for a model by name.

    Raises:
        ActionrecError: the file can't be written.
    """
    file = settings_file(model)
    if file is not None:
        values = {
            "version": VERSION,
            "model_sha256": model_file.sha256(model_file.locate(model)),
            "tuned_on": tuned_on,
            "settings": asdict(settings),
        }
        write_whole(file, json_text(values, indent=2) + "\n")
    return file
