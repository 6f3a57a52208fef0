"""Write a model for programs without actionrec: as ONNX, or as a graph of torch.export.

    actionrec export --model kinetics400-i3d --output i3d.onnx
    python examples/onnx_predict.py i3d.onnx video.mp4

The file holds one function: clips, uint8 RGB (B, 3, T, H, W), cropped and scaled but not
normalised, to logits (B, classes). Gamma and normalisation are inside; softmax is left to the
caller, who averages the softmax scores of a video's clips. Labels, clip length, frame rate and crop
are in the file as JSON, under "actionrec" in ONNX's metadata and in the extra file
"actionrec.json" of torch.export.

B is always free. Which of T, H and W are free too is found out (`free_axes`) and stated:

    i3d                        none: "SAME" padding depends on the remainders of T, H and W
    r3d50, i3d_r50, c3d_small  those along which the last feature map has two positions or more

The nonlocal blocks choose at the clip's size whether to form their N x N matrix. Where T, H or W is
free, so is N, and they never form it: the results are the same to rounding, and for a small N it
takes more multiply-adds, 2 Cs / N times as many in the A z of SNL.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import replacing
from actionrec.models.classifier import ClassifierConfig, VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.models.model_file import METADATA_KEY, describe
from actionrec.video.clips import ClipReader

EXTRA_FILE = "actionrec.json"
AXES = {0: "batch", 2: "time", 3: "height", 4: "width"}
# Of the largest logit. Float32 in another order of summation differs by some 1e-6 of it.
TOLERANCE = 1e-4
# The graph is traced with one batch size and checked with others: a size that was taken for a
# constant would show.
TRACED_BATCH = 3
CHECKED_BATCHES = (1, 2)
# Newton's iteration squares the error each time, once it is below 1; until then it doubles the
# smallest singular value. This reaches float32 up to a squared condition number of 10^7.
INVERSE_STEPS = 30


@dataclass(frozen=True)
class Exported:
    """What was written.

    `clip` is (T, H, W); `free` names the axes of the input that may have other sizes;
    `differences` are the largest difference of a logit from PyTorch's, over the largest logit, at
    each input shape that was checked.
    """

    path: Path
    clip: tuple[int, int, int]
    free: tuple[str, ...]
    differences: dict[str, float]


def export(
    model: VideoClassifier, output: Path, clip: str | None = None, video: Path | None = None
) -> Exported:
    """Write a model to `output`, *.onnx or *.pt2, once its logits on the CPU agree with
    PyTorch's on a clip of `video` (or a generated one) at several batch sizes, and at another
    clip size where that is free.

    `clip` is TxHxW, by default what the model was trained for.

    Raises:
        UsageError: another suffix, a file that is there, a clip that is not possible, or a library
            that is not installed.
        ActionrecError: the video can't be read, the file can't be written, the network can't be
            exported, or the logits differ by more than TOLERANCE.
    """
    write = {".onnx": write_onnx, ".pt2": write_torch}.get(output.suffix)
    if write is None:
        raise UsageError(f"{output} must end in .onnx or .pt2 (torch.export), which is the format.")
    if write is write_onnx:
        require_onnx()
    if output.exists():
        raise UsageError(f"{output} is there already; choose another name or remove it.")
    original = copy.deepcopy(model).cpu().eval()
    if clip is not None:
        original.config = resized(original.config, clip)
    length, size = original.config.sampling.length, original.config.preprocessing.crop
    if video is None:
        pixels = generated_clip(length, size)
    else:
        reader = ClipReader(original.config.sampling, original.config.preprocessing)
        pixels = reader.read(video, clips=1).pixels
    free = free_axes(original, pixels)
    description = describe(original.config, original.training_record) | {
        "model": Path(model.name).name,
        "clip": [length, size, size],
        "free": list(free.values()),
    }
    differences: dict[str, float] = {}
    # The file is opened first, so that an unwritable folder is known before the work is done.
    with (
        replacing(output) as temporary,
        Console(stderr=True).status("tracing") as status,
        warnings.catch_warnings(),
    ):
        # Whatever the exporters warn of, the check would find.
        warnings.simplefilter("ignore")
        try:
            program = trace(original, pixels, free)
            status.update("writing the graph")
            run = write(program, free, json.dumps(description), temporary)
            for clips in checked_inputs(pixels, free):
                shape = "x".join(map(str, clips.shape))
                status.update(f"checking {shape} against PyTorch")
                with torch.no_grad():
                    differences[shape] = relative_difference(run(clips), original(clips))
        except OSError:
            raise
        # The errors of torch.export, its ONNX exporter and onnxruntime have no base in common.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".:")
            raise ActionrecError(
                f"{output} was not written: torch {torch.__version__} can't export this network "
                f"({reason}); report it, or try the other format."
            ) from error
        for shape, difference in differences.items():
            # NaN is no agreement either.
            if not difference <= TOLERANCE:
                raise ActionrecError(
                    f"{output} was not written: at {shape} its logits differ from PyTorch's by "
                    f"{difference:.1e} of the largest one, and {TOLERANCE:.0e} is allowed; "
                    "report it, or try the other format."
                )
    return Exported(output, (length, size, size), tuple(free.values()), differences)


def require_onnx() -> None:
    """Raise UsageError if what writing and checking ONNX takes is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"ONNX can't be written ({error}); `pip install 'actionrec[onnx]'`, or choose a name "
            "that ends in .pt2."
        ) from error


def resized(config: ClassifierConfig, clip: str) -> ClassifierConfig:
    """`config` for clips of another size, TxHxW, that show the same part of a frame.

    Raises:
        UsageError: the clip is not of that form, empty, or not square.
    """
    try:
        length, height, width = (int(size) for size in clip.split("x"))
    except ValueError as error:
        raise UsageError(f"--clip {clip} is not of the form TxHxW, such as 16x112x112.") from error
    if height != width or min(length, height) < 1:
        raise UsageError(f"--clip {clip} is not possible; choose squares, such as 16x112x112.")
    preprocessing = config.preprocessing
    short_side = round(preprocessing.short_side * height / preprocessing.crop)
    return replace(
        config,
        sampling=replace(config.sampling, length=length),
        preprocessing=replace(preprocessing, short_side=short_side, crop=height),
    )


def generated_clip(length: int, size: int) -> Tensor:
    """Clouds of colour that move: uint8 (1, 3, length, size, size), the same every time."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, length // 4 + 2, 8, 8, generator=generator)
    clip = F.interpolate(coarse, (length, size, size), mode="trilinear")
    return (clip * 255).round().to(torch.uint8)


def free_axes(model: VideoClassifier, pixels: Tensor) -> dict[int, str]:
    """The axes of a clip (1, 3, T, H, W) that may have other sizes in the graph, and their names.

    torch.export takes an axis with a single position for one that always has just one. I3D's
    padding is asymmetric or not by the remainders of its input's sizes.

    Raises:
        UsageError: the clip is too small for the network.
    """
    normalised = model.config.preprocessing.normalise(pixels)
    try:
        with torch.no_grad():
            left = model.network.feature_map(normalised).shape
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"A clip of {'x'.join(map(str, pixels.shape[2:]))} is not possible for "
            f"{model.config.backbone} ({reason})."
        ) from error
    fixed = model.config.backbone == "i3d"
    return {
        axis: name for axis, name in AXES.items() if axis == 0 or (left[axis] > 1 and not fixed)
    }


def trace(model: VideoClassifier, pixels: Tensor, free: dict[int, str]) -> ExportedProgram:
    """The graph of `model`, batch norms folded into convolutions, for clips of the size of
    `pixels` but for the axes that are free."""
    clips = pixels.repeat(TRACED_BATCH, 1, 1, 1, 1)
    shapes = ({axis: Dim.DYNAMIC for axis in free},)
    folded = InferenceModel(model, "cpu", "float32").model
    return torch.export.export(folded, (clips,), dynamic_shapes=shapes)


def checked_inputs(pixels: Tensor, free: dict[int, str]) -> list[Tensor]:
    """Clips to check with: several batch sizes, and one that is larger along each free axis."""
    # The second clip of a batch runs backwards; were clips mixed up, it would show.
    pair = torch.cat([pixels, pixels.flip(2)])
    inputs = [pair[:batch] for batch in CHECKED_BATCHES]
    if len(free) > 1:
        sizes = [
            size + size // 4 + 1 if axis in free else size
            for axis, size in enumerate(pixels.shape[2:], start=2)
        ]
        inputs.append(F.interpolate(pair.float(), sizes, mode="trilinear").to(torch.uint8))
    return inputs


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """The largest difference of two tensors over the largest magnitude in `expected`.

    Relative, because rounding grows with the logits: an untrained network's are below 0.1, and
    1e-4 would prove nothing; those of I3D reach 30.
    """
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((logits - expected).abs().max() / scale)


def write_torch(
    program: ExportedProgram, free: dict[int, str], description: str, path: Path
) -> Callable[[Tensor], Tensor]:
    """Save the graph as torch.export does, and return the function that is in the file."""
    # Neither the clip that it was traced with nor our paths are anybody's business.
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path, extra_files={EXTRA_FILE: description})
    return torch.export.load(path).module()


def write_onnx(
    program: ExportedProgram, free: dict[int, str], description: str, path: Path
) -> Callable[[Tensor], Tensor]:
    """Save the graph as ONNX, and return the function that is in the file, by onnxruntime."""
    import onnxruntime

    # The exporter logs at length what it could not do, which its exception says as well.
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    converted = torch.onnx.export(
        program,
        input_names=["clips"],
        output_names=["logits"],
        dynamic_shapes=(free,),
        dynamo=True,
        external_data=False,
        verbose=False,
        custom_translation_table={
            torch.ops.aten.linalg_inv_ex.default: inverse,
            torch.ops.aten._linalg_solve_ex.default: solve,
        },
    )
    converted.model.metadata_props[METADATA_KEY] = description
    for node in converted.model.graph:
        node.metadata_props.clear()
    converted.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0])


# ONNX has no linear algebra; the block cayley needs an inverse, or a solve, of a matrix a clip.
# PyTorch's functions have results more, which nothing uses.


def inverse(matrix: Any, check_errors: bool = False) -> tuple[Any, ...]:
    """In ONNX operators, the inverse of (B, n, n) by Newton's iteration x <- 2 x - x (matrix x).

    It starts from the transpose over the 1-norm and the infinity norm, from where it converges for
    every matrix that has an inverse (Ben-Israel & Cohen 1966).
    """
    from onnxscript import opset18 as op

    size = op.Abs(matrix)
    columns = op.ReduceMax(op.ReduceSum(size, [-2], keepdims=1), [-1], keepdims=1)
    rows = op.ReduceMax(op.ReduceSum(size, [-1], keepdims=1), [-2], keepdims=1)
    x = op.Div(op.Transpose(matrix, perm=[0, 2, 1]), op.Mul(columns, rows))
    for _ in range(INVERSE_STEPS):
        x = op.Sub(op.Add(x, x), op.MatMul(x, op.MatMul(matrix, x)))
    return x, op.Identity(x)


def solve(
    matrix: Any, right: Any, left: bool = True, check_errors: bool = False
) -> tuple[Any, ...]:
    """In ONNX operators, the x of matrix x = right, both (B, n, n)."""
    from onnxscript import opset18 as op

    x = op.MatMul(inverse(matrix)[0], right)
    return x, op.Identity(x), op.Identity(x), op.Identity(x)
