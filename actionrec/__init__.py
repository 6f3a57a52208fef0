"""Recognise human actions in video.

import actionrec
recognizer = actionrec.load("kinetics400-i3d")     # or a model file of `actionrec train`
scores = recognizer.scores(clips)                  # uint8 (B, 3, T, H, W) -> (B, classes)
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actionrec.models.recognizer import Recognizer

__all__ = ["Recognizer", "list_models", "load"]
__version__ = version("actionrec")


def load(model: str | Path) -> "Recognizer":
    """The recognizer in a model file, or the pretrained one of that name (see `list_models`).

    Raises:
        actionrec.errors.ActionrecError: there is no such model, or it can't be downloaded.
    """
    from actionrec.models.recognizer import Recognizer

    return Recognizer.load(model)


def list_models() -> list[str]:
    """The names of the pretrained models that `load` takes."""
    from actionrec.models.weights import WEIGHTS

    return list(WEIGHTS)


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; the command line's help should not wait for it.
    if name == "Recognizer":
        from actionrec.models.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
