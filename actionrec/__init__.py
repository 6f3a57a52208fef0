"""Recognise human actions in video.

import actionrec
recognizer = actionrec.load("kinetics400-i3d")     # or a model file of `actionrec train`
prediction = recognizer.predict("video.mp4")       # prediction.top[0].label, .score, .clips
for result in recognizer.predict(["a.mp4", "b.mp4"]):  # a Prediction or a Failure each
    print(result)
timeline = recognizer.timeline("match.mp4")        # timeline.segments[0].label, .start, .end
embeddings = recognizer.features("video.mp4")      # float32 (clips, features)
scores = recognizer.scores(clips)                  # uint8 (B, 3, T, H, W) -> (B, classes)
actionrec.insert_block(resnet50, "layer3.5", "snl")  # a nonlocal block in any PyTorch network
actionrec.predict_dataset(dataset)                 # a step of a Ray Data pipeline
"""

# Nothing is imported here: before `__main__` runs, Ctrl-C would be a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from actionrec.models.classifier import VideoClassifier
    from actionrec.models.insertion import insert_block
    from actionrec.models.registry import EngineName, PrecisionName
    from actionrec.prediction.cluster import predict_dataset
    from actionrec.recognizer import Recognizer

__all__ = [
    "Recognizer",
    "VideoClassifier",
    "insert_block",
    "list_models",
    "load",
    "predict_dataset",
]

# torch takes seconds to import; the command line's help should not wait for it.
_LAZY = {
    "Recognizer": "actionrec.recognizer:Recognizer",
    "VideoClassifier": "actionrec.models.classifier:VideoClassifier",
    "insert_block": "actionrec.models.insertion:insert_block",
    "predict_dataset": "actionrec.prediction.cluster:predict_dataset",
}


def load(
    model: "str | Path",
    device: str | None = None,
    precision: "PrecisionName" = "auto",
    decoder: str = "pyav",
    topk: int = 5,
    engine: "EngineName" = "auto",
) -> "Recognizer":
    """Load a model file, or the pretrained model of that name, ready to predict.

    Args:
        model: A file or a name (see `list_models`). A file may be one of `actionrec export`, *.onnx
            or *.xml, which predicts but explains nothing.
        device: Such as "cpu" or "cuda:1"; by default the first GPU, if there is one.
        precision: Number format of the network: float32; bfloat16, slow without hardware for it; or
            auto, bfloat16 where the device has it in hardware and float32 elsewhere.
        decoder: Library that decodes videos: pyav, decord or torchcodec.
        topk: Number of best classes in a prediction.
        engine: What computes the network: torch, compile, openvino, onnxruntime or auto, the
            fastest that is installed, measured at first use. One that can't compute it is replaced
            by torch, with a warning.

    Raises:
        actionrec.errors.ActionrecError: there is no such model, it can't be downloaded, or the
            engine is not installed.
    """
    return __getattr__("Recognizer").load(model, device, precision, decoder, topk, engine)


def list_models() -> list[str]:
    """The names of the pretrained models that `load` takes."""
    from actionrec.models.catalogue import MODELS

    return list(MODELS)


def __getattr__(name: str) -> "Any":
    if name in _LAZY:
        from pkgutil import resolve_name

        return resolve_name(_LAZY[name])
    if name == "__version__":
        from importlib.metadata import version

        return version("actionrec")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
