"""Exported files as models: *.onnx and *.xml (OpenVINO) of `actionrec export` predict here too.

actionrec predict video.mp4 --model i3d-int8.onnx
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from actionrec.errors import ActionrecError, UsageError, reason_of
from actionrec.models.model_file import METADATA_KEY, parse_config
from actionrec.models.network import ClassifierConfig

# The libraries that run each kind of file.
RUN_BY = {".onnx": ("openvino", "onnxruntime"), ".xml": ("openvino",)}


@dataclass(frozen=True)
class ExportedModel:
    """A file of `actionrec export`: a graph from uint8 clips (B, 3, T, H, W) to logits.

    Attributes:
        path: The file.
        config: Labels, network, and the clips that it expects.
        training_record: How the model was trained and its results; empty if unknown.
        quantization: How it was quantised, and how well it agrees with float32; None if it is not.
    """

    path: Path
    config: ClassifierConfig
    training_record: Mapping[str, Any]
    quantization: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """Stands beside its predictions."""
        return str(self.path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What a file says of itself.

        Raises:
            UsageError: no library that runs it is installed.
            ActionrecError: there is no such file, it is not of `actionrec export`, or the library
                can't be loaded.
        """
        if not path.is_file():
            raise ActionrecError(f"There is no model {str(path)!r}; `actionrec export` makes one.")
        library = installed(path)
        try:
            import_openvino() if library == "openvino" else import_module(library)
        # A broken installation fails in any way.
        except Exception as error:
            raise ActionrecError(
                f"{library}, which runs {path}, can't be loaded ({reason_of(error)}); install it "
                "again."
            ) from error
        try:
            description = json.loads(READERS[library](path))
            config, training = description["config"], description["training"]
        # The errors of the libraries have no base in common.
        except Exception as error:
            weights = path.with_suffix(".bin")
            is_ours = METADATA_KEY.encode() in path.read_bytes()
            if path.suffix.lower() == ".xml" and is_ours and not weights.is_file():
                raise ActionrecError(
                    f"{path} needs {weights}, which holds its weights; copy both."
                ) from error
            raise ActionrecError(
                f"{path} is no model that `actionrec export` wrote, or it is damaged; export it "
                "again."
            ) from error
        return cls(path, parse_config(config, path), training, description.get("quantization"))


def is_exported(model: str | Path) -> bool:
    """Whether a model is an exported file, by its name."""
    return Path(model).suffix.lower() in RUN_BY


def installed(path: Path) -> str:
    """The first installed library that runs a file.

    Raises:
        UsageError: there is none.
    """
    libraries = RUN_BY[path.suffix.lower()]
    for library in libraries:
        if find_spec(library) is not None:
            return library
    raise UsageError(
        f"{path} needs {' or '.join(libraries)}; `pip install 'actionrec[openvino]'` installs one."
    )


def import_openvino() -> ModuleType:
    """The library, which sends no statistics of its use to its maker: without the package that does
    so it and NNCF go on, and if the program has loaded that package before, it stays."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def openvino_core() -> Any:
    """The one `openvino.Core` of this process.

    Each core gives the thread that makes it a stack for signals of its own, and takes it away with
    itself. Where several come and go, a stack is left that is no more, and the next signal, such as
    Ctrl-C, ends the process (OpenVINO 2026.4).
    """
    return import_openvino().Core()


def _read_by_openvino(path: Path) -> str:
    graph = openvino_core().read_model(path)
    key = ["framework", METADATA_KEY] if path.suffix.lower() == ".onnx" else [METADATA_KEY]
    return graph.get_rt_info(key).value


def _read_by_onnxruntime(path: Path) -> str:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map[METADATA_KEY]


READERS = {"openvino": _read_by_openvino, "onnxruntime": _read_by_onnxruntime}
