"""Recognise human actions in video.

import actionrec
recognizer = actionrec.load("kinetics400-i3d")     # or a model file of `actionrec train`
prediction = recognizer.predict("video.mp4")       # prediction.top[0].label, .score, .clips
for result in recognizer.predict(["a.mp4", "b.mp4"]):  # a Prediction or a Failure each
    print(result)
embeddings = recognizer.features("video.mp4")      # float32 (clips, features)
scores = recognizer.scores(clips)                  # uint8 (B, 3, T, H, W) -> (B, classes)
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actionrec.config import PrecisionName
    from actionrec.models.recognizer import Recognizer

__all__ = ["Recognizer", "list_models", "load"]
__version__ = version("actionrec")


def load(
    model: str | Path, device: str | None = None, precision: "PrecisionName" = "auto"
) -> "Recognizer":
    """The recognizer in a model file, or the pretrained one of that name (see `list_models`).

    Args:
        model: A file or a name.
        device: Such as "cpu" or "cuda:1"; by default the first GPU, if there is one.
        precision: Numbers that `predict` and `features` compute with: float32, bfloat16, or auto,
            bfloat16 where the device has it in hardware. The weights stay as they are.

    Raises:
        actionrec.errors.ActionrecError: there is no such model, or it can't be downloaded.
    """
    from actionrec.models.inference import fastest_device
    from actionrec.models.recognizer import Recognizer

    recognizer = Recognizer.load(model).to(device or fastest_device())
    recognizer.precision = precision
    return recognizer


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
