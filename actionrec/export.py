"""Write a model for programs without actionrec: as ONNX, or as a graph of torch.export.

    actionrec export --model kinetics400-i3d --output i3d.onnx
    python examples/onnx_predict.py i3d.onnx video.mp4

The file holds one function: from clips, uint8 RGB (B, 3, T, H, W), cropped and scaled but not
normalised, to logits (B, classes). Gamma and normalisation are inside; softmax is left to the
caller, who averages the softmax scores of a video's clips. Labels, clip length, frame rate and crop
are in the file as JSON: under "actionrec" in ONNX's metadata, in the extra file "actionrec.json"
of torch.export.

B is always free. `free_axes` finds out which of T, H and W are free too:

    i3d                        none: "SAME" padding depends on the remainders of T, H and W
    swin3d_*                   none: windows and their padding depend on the sizes
    r3d50, i3d_r50, c3d_small  those along which the last feature map has two positions or more

The nonlocal blocks choose at the clip's size whether to form their N x N matrix. Where T, H or W is
free, so is N, and they never form it: the results are the same to rounding, and for a small N it
takes more multiply-adds, 2 Cs / N times as many in the A z of SNL.
"""

import copy
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from actionrec.errors import ActionrecError, UsageError, reason_of
from actionrec.files import replacing, require_free
from actionrec.models.classifier import ClassifierConfig, VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.models.model_file import METADATA_KEY, describe
from actionrec.models.onnx_graph import require_onnx, to_onnx
from actionrec.text import json_text
from actionrec.video.address import VideoPath
from actionrec.video.clips import ClipReader

EXTRA_FILE = "actionrec.json"
AXES = {0: "batch", 2: "time", 3: "height", 4: "width"}
# Of the largest logit. Float32 in another order of summation differs by some 1e-6 of it.
TOLERANCE = 1e-4
# The graph is traced with one batch size and checked with others, to find sizes that became
# constants.
TRACED_BATCH = 3
CHECKED_BATCHES = (1, 2)


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    `clip` is (T, H, W); `free` names the axes of the input that may have other sizes;
    `differences` has, for each input shape that was checked, the largest difference of a logit
    from PyTorch's, over the largest logit.
    """

    clip: tuple[int, int, int]
    free: tuple[str, ...]
    differences: dict[str, float]


def export(
    model: VideoClassifier, output: Path, clip: str | None = None, video: VideoPath | None = None
) -> Exported:
    """Write a model to `output`, *.onnx or *.pt2, once its logits on the CPU agree with
    PyTorch's on a clip of `video` (or a generated one) at several batch sizes, and at another
    clip size where that is free.

    `clip` is TxHxW, by default the size that the model was trained for.

    Raises:
        UsageError: another suffix, an existing file, an impossible clip, or a missing library.
        ActionrecError: the video can't be read, the file can't be written, the network can't be
            exported, or the logits differ by more than TOLERANCE.
    """
    write = {".onnx": write_onnx, ".pt2": write_torch}.get(output.suffix)
    if write is None:
        raise UsageError(f"{output} must end in .onnx or .pt2 (torch.export), its format.")
    if write is write_onnx:
        require_onnx()
    require_free(output)
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
    # The file is opened first: an unwritable folder is known before the work is done.
    with (
        replacing(output) as temporary,
        Console(stderr=True).status("tracing") as status,
        warnings.catch_warnings(),
    ):
        # The check finds whatever the exporters warn of.
        warnings.simplefilter("ignore")
        try:
            program = trace(original, pixels, free)
            status.update("writing the graph")
            run = write(program, free, json_text(description), temporary)
            for clips in checked_inputs(pixels, free):
                shape = "x".join(map(str, clips.shape))
                status.update(f"checking {shape} against PyTorch")
                with torch.no_grad():
                    differences[shape] = relative_difference(run(clips), original(clips))
        except OSError:
            raise
        # The errors of torch.export, its ONNX exporter and onnxruntime have no base in common.
        except Exception as error:
            raise ActionrecError(
                f"{output} was not written: torch {torch.__version__} can't export this network "
                f"({reason_of(error)}); report it, or try the other format."
            ) from error
        for shape, difference in differences.items():
            # NaN is no agreement either.
            if not difference <= TOLERANCE:
                raise ActionrecError(
                    f"{output} was not written: at {shape} its logits differ from PyTorch's by "
                    f"{difference:.1e} of the largest one, and {TOLERANCE:.0e} is allowed; "
                    "report it, or try the other format."
                )
    return Exported((length, size, size), tuple(free.values()), differences)


def resized(config: ClassifierConfig, clip: str) -> ClassifierConfig:
    """`config` for clips of another size, TxHxW, that show the same part of a frame."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x\2", clip)
    if match is None:
        raise UsageError(
            f"--clip {clip} is not possible; give frames and a square, such as 16x112x112."
        )
    length, crop = map(int, match.groups())
    preprocessing = config.preprocessing
    short_side = round(preprocessing.short_side * crop / preprocessing.crop)
    return replace(
        config,
        sampling=replace(config.sampling, length=length),
        preprocessing=replace(preprocessing, short_side=short_side, crop=crop),
    )


def generated_clip(length: int, size: int) -> Tensor:
    """Moving clouds of colour: uint8 (1, 3, length, size, size), the same every time."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, length // 4 + 2, 8, 8, generator=generator)
    clip = F.interpolate(coarse, (length, size, size), mode="trilinear")
    return (clip * 255).round().to(torch.uint8)


def free_axes(model: VideoClassifier, pixels: Tensor) -> dict[int, str]:
    """The axes of a clip (1, 3, T, H, W) that may have other sizes in the graph, with their names.

    torch.export takes an axis with a single position for a constant. I3D's padding depends on the
    remainders of its input's sizes, and so do Swin's windows.
    """
    normalised = model.config.preprocessing.normalise(pixels)
    try:
        with torch.no_grad():
            positions = model.network.feature_map(normalised).shape
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"A clip of {'x'.join(map(str, pixels.shape[2:]))} is not possible for "
            f"{model.config.backbone} ({reason})."
        ) from error
    # Swin divides its maps into windows and pads them; its equations of free sizes have no end.
    fixed = model.config.backbone == "i3d" or model.config.backbone.startswith("swin3d")
    free = [axis for axis in AXES if axis == 0 or (positions[axis] > 1 and not fixed)]
    return {axis: AXES[axis] for axis in free}


def trace(model: VideoClassifier, pixels: Tensor, free: dict[int, str]) -> ExportedProgram:
    """The graph of the folded `model`, for clips of the size of `pixels` except along free axes."""
    clips = pixels.repeat(TRACED_BATCH, 1, 1, 1, 1)
    shapes = ({axis: Dim.DYNAMIC for axis in free},)
    folded = InferenceModel(model, "cpu", "float32").model
    return torch.export.export(folded, (clips,), dynamic_shapes=shapes)


def checked_inputs(pixels: Tensor, free: dict[int, str]) -> list[Tensor]:
    """Clips to check with: several batch sizes, and one that is larger along each free axis."""
    # The second clip of a batch runs backwards, to find clips that are mixed up.
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

    Rounding grows with the logits: an untrained network's are below 0.1, I3D's reach 30.
    """
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((logits - expected).abs().max() / scale)


def write_torch(
    program: ExportedProgram, free: dict[int, str], description: str, path: Path
) -> Callable[[Tensor], Tensor]:
    """Save the graph as torch.export does, and return the function in the file."""
    # The traced clip and the paths of our source files are nobody's business.
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    # Where the disk is full, PyTorch's own writer ends the process.
    contents = io.BytesIO()
    torch.export.save(program, contents, extra_files={EXTRA_FILE: description})
    path.write_bytes(contents.getbuffer())
    return torch.export.load(path).module()


def write_onnx(
    program: ExportedProgram, free: dict[int, str], description: str, path: Path
) -> Callable[[Tensor], Tensor]:
    """Save the graph as ONNX, and return the function in the file, run by onnxruntime."""
    import onnxruntime

    converted = to_onnx(program, free, ["logits"])
    converted.model.metadata_props[METADATA_KEY] = description
    converted.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0])
