"""Engines: what computes a network that predicts, PyTorch or a library that compiles its graph.

    actionrec predict video.mp4 --engine openvino
    python scripts/benchmark_prediction.py --engines

Compiled forms are kept in the cache folder, under names that stand for the weights, the settings
and the versions. A new engine is a class and a line in `ENGINES`.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionrec.errors import ActionrecError, UsageError, reason_of
from actionrec.files import cache_folder, replacing
from actionrec.models import model_file
from actionrec.models.backbone import Backbone
from actionrec.models.classifier import VideoClassifier
from actionrec.models.convolution import speed_up
from actionrec.models.exported import (
    RUN_BY,
    ExportedModel,
    import_openvino,
    installed,
    openvino_core,
)
from actionrec.models.graph import trace_prediction
from actionrec.models.onnx_graph import require_onnx, to_onnx
from actionrec.models.registry import EngineName
from actionrec.progress import waiting
from actionrec.text import json_text

logger = logging.getLogger(__name__)

# Logits (B, classes) and pooled features (B, C), float32 on the CPU.
Answers = tuple[Tensor, Tensor]
Source = VideoClassifier | ExportedModel
Form = TypeVar("Form")

# Compiled forms in the cache; those that were used last stay.
MOST_FORMS = 8
# Seconds for a clip, below which `auto` compiles nothing, and how much faster another engine must
# be to be taken, so that noise decides nothing.
WORTH_COMPILING = 0.1
CLEARLY_FASTER = 1.1


class Engine(Protocol):
    """Computes one network; thread-safe."""

    name: ClassVar[EngineName]
    # Whether it divides the cores itself, so that a second thread gains nothing.
    has_own_threads: ClassVar[bool]

    def takes(self, clips: Tensor) -> bool:
        """Whether it can compute clips of this size."""
        ...

    def __call__(self, clips: Tensor) -> Answers:
        """The answers for uint8 clips (B, 3, T, H, W)."""
        ...


def logits_of(head: nn.Linear, features: Tensor) -> Tensor:
    """The head's logits, float32 (B, classes), of features (B, C).

    In float64 on a CPU, so that rounding does not show how many clips share the batch.
    """
    if features.device.type != "cpu":
        return head(features).float()
    return F.linear(features.double(), head.weight.double(), head.bias.double()).float()


class Torch:
    """PyTorch.

    Args:
        prepared: The folded classifier, on its device and in its precision.
    """

    name: ClassVar[EngineName] = "torch"
    has_own_threads: ClassVar[bool] = False

    def __init__(self, prepared: VideoClassifier) -> None:
        self.prepared = prepared

    @cached_property
    def network(self) -> Backbone:
        """The network as it computes; explanations look into the plain one."""
        return speed_up(self.prepared.network)

    def takes(self, clips: Tensor) -> bool:
        return True

    def __call__(self, clips: Tensor) -> Answers:
        pixels = self.prepared.pixels(clips.to(self.prepared.device))
        features = self.network.features(pixels)
        return logits_of(self.network.head, features).cpu(), features.float().cpu()


class Compile(Torch):
    """PyTorch's own compiler, which keeps compiled forms in a cache of its own."""

    name: ClassVar[EngineName] = "compile"

    def __init__(self, prepared: VideoClassifier) -> None:
        super().__init__(prepared)
        self.on_cpu = prepared.device.type == "cpu"
        # On a CPU it gains nothing unless the weights are constants.
        options = {"freezing": True} if self.on_cpu else None
        self.features = torch.compile(prepared.network.features, options=options)
        # A compiler that is missing is known now.
        self(torch.zeros(1, 3, *clip_size(prepared), dtype=torch.uint8))

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Answers:
        # Each size of a batch would be compiled, for some 20 s on a CPU.
        batches = clips.split(1) if self.on_cpu else [clips]
        pixels = [self.prepared.pixels(batch.to(self.prepared.device)) for batch in batches]
        features = torch.cat([self.features(batch) for batch in pixels])
        return logits_of(self.prepared.network.head, features).cpu(), features.float().cpu()


class OpenVino:
    """OpenVINO on the CPU, one clip at a time: batches gain nothing.

    Args:
        source: The classifier, or an exported file.
        precision: float32, or bfloat16, which the processor must have.
    """

    name: ClassVar[EngineName] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    precisions: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    has_own_threads: ClassVar[bool] = True

    def __init__(self, source: Source, precision: str) -> None:
        self.size = clip_size(source)
        self.core = openvino_core()
        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        self.settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.compiled = from_cache(
            form_name(source, self.name, self.settings),
            lambda: self._form(source),
            lambda form: self.core.import_model(form, "CPU", self.settings),
        )
        used = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != hint:
            raise ActionrecError(f"it has no {precision} on this processor")

    def _form(self, source: Source) -> bytes:
        if isinstance(source, ExportedModel):
            graph = self.core.read_model(source.path)
            graph.reshape([1, 3, *self.size])
        else:
            graph = _converted(source)
        return self.core.compile_model(graph, "CPU", self.settings).export_model().getvalue()

    def takes(self, clips: Tensor) -> bool:
        return tuple(clips.shape[2:]) == self.size

    def __call__(self, clips: Tensor) -> Answers:
        request = self.compiled.create_infer_request()
        found = [request.infer([clip.numpy()]).to_tuple() for clip in clips.contiguous().split(1)]
        return joined([[np.array(output) for output in outputs] for outputs in found])


class OnnxRuntime:
    """onnxruntime on the CPU, one clip at a time, in float32."""

    name: ClassVar[EngineName] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript")
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    has_own_threads: ClassVar[bool] = True

    def __init__(self, source: Source, precision: str) -> None:
        import onnxruntime

        if not computes_in(self.name, precision):
            raise ActionrecError(f"it has no {precision}")
        self.size = clip_size(source)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()

        def session(model: Path | bytes) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])

        if isinstance(source, ExportedModel):
            self.session = session(source.path)
        else:
            require_onnx()
            name = form_name(source, self.name, {})
            self.session = from_cache(name, lambda: self._form(source), session)

    @staticmethod
    def _form(model: VideoClassifier) -> bytes:
        program = to_onnx(trace_prediction(model), {}, ["logits", "features"])
        return program.model_proto.SerializeToString()

    def takes(self, clips: Tensor) -> bool:
        return tuple(clips.shape[2:]) == self.size

    def __call__(self, clips: Tensor) -> Answers:
        batches = clips.contiguous().split(1)
        return joined([self.session.run(None, {"clips": clip.numpy()}) for clip in batches])


def _converted(model: VideoClassifier) -> Any:
    """A classifier as OpenVINO's graph."""
    level = logging.root.level
    try:
        return import_openvino().convert_model(trace_prediction(model))
    finally:
        # Where it fails, it leaves everybody's warnings switched off.
        logging.root.setLevel(level)


# Engines that compile a graph.
ENGINES: dict[str, type[OpenVino] | type[OnnxRuntime]] = {
    "openvino": OpenVino,
    "onnxruntime": OnnxRuntime,
}


def engine_of_file(name: EngineName, file: ExportedModel, precision: str) -> Engine:
    """The engine for an exported file; auto takes the first of `RUN_BY` that is installed.

    Raises:
        UsageError: the engine can't run such files, or is not installed.
        ActionrecError: it fails to load this one.
    """
    libraries = RUN_BY[file.path.suffix.lower()]
    if name == "auto":
        name = installed(file.path)
    if name not in libraries:
        raise UsageError(
            f"{file.path} is an exported file, which --engine {name} can't run; choose from "
            f"{', '.join(libraries)}."
        )
    # Packages that make such a file of a network are not needed to run it.
    if find_spec(name) is None:
        require_installed(name)
    try:
        return ENGINES[name](file, precision)
    # The errors of the libraries have no base in common.
    except Exception as error:
        raise ActionrecError(
            f"{name} can't load {file.path} ({reason_of(error)}); export it again."
        ) from error


def engine_of_network(
    name: EngineName, model: VideoClassifier, prepared: VideoClassifier, precision: str
) -> Engine:
    """The engine for a classifier, or PyTorch, with a sentence, where that engine fails.

    Args:
        name: The engine; auto is the fastest of those that are installed.
        model: The classifier as it was trained.
        prepared: As for `Torch`.
        precision: float32 or bfloat16.

    Raises:
        UsageError: the engine is not installed.
    """
    plain = Torch(prepared)
    if name == "torch":
        return plain
    if name == "auto":
        return fastest(model, plain, precision)
    require_installed(name)
    try:
        if name == "compile":
            return Compile(prepared)
        if prepared.device.type != "cpu":
            raise ActionrecError(f"it computes on the CPU, not on {prepared.device}")
        with waiting(f"compiling the network for {name}"):
            return ENGINES[name](model, precision)
    # Neither have the errors of compilers.
    except Exception as error:
        logger.warning(
            "The engine %s can't compute this network (%s); torch does.", name, reason_of(error)
        )
        return plain


def fastest(model: VideoClassifier, plain: Torch, precision: str) -> Engine:
    """The fastest engine that is installed, measured once for a kind of network, whatever its
    weights, and kept in the cache.

    PyTorch's compiler is not among them: on a CPU it takes 20 s each time and gained nothing.
    """
    there = [name for name in ENGINES if is_installed(name)]
    candidates = [name for name in there if computes_in(name, precision)]
    if plain.prepared.device.type != "cpu" or not candidates:
        return plain
    # OpenVINO was the faster of the two on every processor that was measured.
    name = candidates[0]
    kind = name_of(model, name, precision, torch.get_num_threads())
    path = forms_folder() / f"{kind}.json"
    try:
        seconds = json.loads(path.read_text())
    except (OSError, ValueError):
        clip = torch.zeros(1, 3, *clip_size(model), dtype=torch.uint8)
        if shortest({"torch": plain}, clip)["torch"] < WORTH_COMPILING:
            return plain
        other = engine_of_network(name, model, plain.prepared, precision)
        with waiting(f"measuring torch and {name}, once for such networks"):
            seconds = shortest({"torch": plain, other.name: other}, clip)
        # A library that fails may be mended; a network that it can't compute stays one.
        if other.name == name or can_be_imported(name):
            keep(path, json_text(seconds).encode())
    if seconds["torch"] < CLEARLY_FASTER * seconds.get(name, float("inf")):
        return plain
    chosen = engine_of_network(name, model, plain.prepared, precision)
    logger.info(
        "Computing with %s: %.2f s a clip, torch %.2f s.", name, seconds[name], seconds["torch"]
    )
    return chosen


def shortest(engines: dict[str, Engine], clip: Tensor, rounds: int = 2) -> dict[str, float]:
    """Seconds that each engine needs for a clip, the best of some rounds after a first one."""
    found: dict[str, list[float]] = {name: [] for name in engines}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, engine in engines.items():
                begin = time.perf_counter()
                engine(clip)
                found[name].append(time.perf_counter() - begin)
    return {name: round(min(seconds[1:]), 4) for name, seconds in found.items()}


def computes_in(engine: str, precision: str) -> bool:
    """Whether an engine knows a precision; PyTorch and its compiler know all."""
    return engine not in ENGINES or precision in ENGINES[engine].precisions


def is_installed(engine: str) -> bool:
    """Whether the packages of an engine are there."""
    packages = ENGINES[engine].packages if engine in ENGINES else ()
    return all(find_spec(package) is not None for package in packages)


def can_be_imported(engine: str) -> bool:
    """Whether the packages of an engine, which are there, work as far as that."""
    try:
        for package in ENGINES[engine].packages:
            import_module(package)
    # A broken installation fails in any way.
    except Exception:
        return False
    return True


def require_installed(engine: str) -> None:
    """Raise UsageError if a package of an engine is missing."""
    if not is_installed(engine):
        extra = {"onnxruntime": "onnx"}.get(engine, engine)
        raise UsageError(
            f"The engine {engine} is not installed; `pip install 'actionrec[{extra}]'` installs "
            "it, and --engine auto takes what is there."
        )


def joined(outputs: list[list[np.ndarray]]) -> Answers:
    """The answers for clips, of which each has its outputs: logits and, if they are there,
    features."""
    logits, *features = (
        torch.from_numpy(np.concatenate(each)) for each in zip(*outputs, strict=True)
    )
    return logits, features[0] if features else logits.new_empty(len(logits), 0)


def clip_size(model: Source) -> tuple[int, int, int]:
    """Frames, height and width of the clips that a model expects."""
    crop = model.config.preprocessing.crop
    return model.config.sampling.length, crop, crop


def forms_folder() -> Path:
    """Where compiled forms are kept."""
    return cache_folder() / "engines"


def form_name(source: Source, engine: str, settings: dict[str, object]) -> str:
    """The name of a compiled form, which stands for the weights too."""
    if isinstance(source, ExportedModel):
        return name_of(source, engine, settings, model_file.sha256(source.path))
    sha256 = hashlib.sha256()
    for name, tensor in source.state_dict().items():
        sha256.update(name.encode())
        sha256.update(tensor.cpu().flatten().view(torch.uint8).numpy())
    return name_of(source, engine, settings, sha256.hexdigest())


def name_of(source: Source, engine: str, *facts: object) -> str:
    """A name that stands for a kind of network, an engine, their versions, and some facts."""
    capability = torch.backends.cpu.get_cpu_capability()
    versions = version("actionrec"), torch.__version__, version_of(engine), capability
    known = asdict(source.config), engine, versions, facts
    return hashlib.sha256(repr(known).encode()).hexdigest()[:32]


def version_of(package: str) -> str:
    """The version of a package; some, as onnxruntime, are installed under other names too."""
    try:
        return version(package)
    except PackageNotFoundError:
        return import_module(package).__version__


def from_cache(name: str, make: Callable[[], bytes], load: Callable[[bytes], Form]) -> Form:
    """What `load` makes of a compiled form, which is made where the cache has none that loads."""
    path = forms_folder() / name
    try:
        form = load(path.read_bytes())
        os.utime(path)
        return form
    # A file that is damaged may raise anything.
    except Exception:
        made = make()
    keep(path, made)
    return load(made)


def keep(path: Path, form: bytes) -> None:
    """Write a compiled form to the cache, and delete those that were not used for longest.

    Nothing is lost but time where the cache can't be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(form)
        # What was measured is small, and stays.
        forms = [other for other in path.parent.iterdir() if not other.suffix]
        used_last = sorted(forms, key=lambda other: -other.stat().st_mtime)
        for other in used_last[MOST_FORMS:]:
            other.unlink()
    except (ActionrecError, OSError) as error:
        logger.warning("The compiled network is not kept for the next time: %s", error)
