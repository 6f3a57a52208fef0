"""Write a model in 8 bits (INT8), which processors with VNNI compute two to three times as fast.

    actionrec export --quantize int8 --calibrate videos/ --output i3d-int8.onnx
    actionrec predict video.mp4 --model i3d-int8.onnx

Convolutions compute in 8 bits, all else in float32. What they see is made ready as in
`models.ranges`, their weights are rounded as in `models.rounding`. NNCF chooses the range of each
feature map, the largest of the calibration clips: a cut of the largest values cost most of the
agreement. The file gets its name once its answers have been compared with float32's on clips that
calibrated nothing.
"""

import logging
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from actionrec.errors import ActionrecError, Failure, UsageError, VideoError, reason_of
from actionrec.export import resized
from actionrec.files import replacing, require_free
from actionrec.models.classifier import VideoClassifier
from actionrec.models.exported import ExportedModel, import_openvino
from actionrec.models.graph import folded, trace_prediction
from actionrec.models.inference import InferenceModel
from actionrec.models.model_file import METADATA_KEY, describe
from actionrec.models.onnx_graph import require_onnx, to_onnx
from actionrec.models.ranges import equalize_channels, scale_pixels
from actionrec.models.rounding import round_weights
from actionrec.progress import track, waiting
from actionrec.text import json_text
from actionrec.video.clips import ClipReader
from actionrec.video.sources import find_videos

logger = logging.getLogger(__name__)

# One clip of a video; as many calibrate as are compared, up to these numbers.
MOST_CALIBRATING = 20
MOST_COMPARED = 100
FEWEST_VIDEOS = 4
# What stays in float32, as OpenVINO and ONNX call it: pooling and head, and the blocks' products.
FLOAT_OPERATIONS = ["AveragePool", "AvgPool", "Gemm", "MatMul", "ReduceMean"]
SUFFIXES = (".onnx", ".xml")
# torch.export takes an axis with a single position for a constant.
TRACED_BATCH = 2
# A score of float32 from which on it is sure of a clip.
SURE = 0.5


@dataclass(frozen=True)
class Disagreement:
    """A clip whose best label changed, with the scores of both."""

    video: str
    float32: str
    float32_score: float
    int8: str
    int8_score: float


@dataclass(frozen=True)
class Comparison:
    """A quantised file beside float32 on clips that did not calibrate it.

    Attributes:
        clips: Their number, one of each video.
        agreement: The share of clips with the same best label.
        sure_clips, sure_agreement: The same where float32's best score is SURE or more; None
            without such clips.
        mean_difference, worst_difference: Of a clip, the largest change of a score.
        per_class: By the label that float32 gives, the mean of that change; the largest first.
        disagreements: The clips whose best label changed.
        float32_seconds, int8_seconds: For a clip, the medians here.
        float32_bytes, int8_bytes: Sizes of the weights and of the file.
    """

    clips: int
    agreement: float
    sure_clips: int
    sure_agreement: float | None
    mean_difference: float
    worst_difference: float
    per_class: dict[str, float]
    disagreements: list[Disagreement]
    float32_seconds: float
    int8_seconds: float
    float32_bytes: int
    int8_bytes: int


class TooLittleAgreement(ActionrecError):
    """A file that differs too much from float32, with the comparison."""

    def __init__(self, message: str, comparison: Comparison) -> None:
        super().__init__(message)
        self.comparison = comparison


def quantize(
    model: VideoClassifier,
    output: Path,
    videos: Path,
    clip: str | None = None,
    min_agreement: float = 0.98,
) -> Comparison:
    """Write a model in INT8 to `output`, *.onnx or *.xml (OpenVINO, with a *.bin beside it).

    Args:
        model: The classifier.
        output: The file.
        videos: A folder; a clip of each of some of its videos calibrates, the others are compared.
        clip: As for `export`.
        min_agreement: The share of compared clips whose best label must stay.

    Raises:
        UsageError: another suffix, an existing file, too few videos, or a missing library.
        TooLittleAgreement: fewer best labels stay than `min_agreement` asks for.
        ActionrecError: the network can't be quantised, or the file can't be written. Then, too,
            there is no file.
    """
    if output.suffix not in SUFFIXES:
        raise UsageError(f"{output} must end in .onnx or .xml (OpenVINO), for INT8.")
    missing = [name for name in ("openvino", "nncf") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"INT8 needs {', '.join(missing)}; `pip install 'actionrec[int8]'` installs them."
        )
    if output.suffix == ".onnx":
        require_onnx()
    for path in written_files(output):
        require_free(path)
    original = folded(model).cpu()
    if clip is not None:
        original.config = resized(original.config, clip)
    clips = read_clips(original, videos)
    # Every other one, so that both have videos of all folders.
    calibrating = list(clips.values())[::2][:MOST_CALIBRATING]
    compared = dict(list(clips.items())[1::2][:MOST_COMPARED])
    plain = InferenceModel(original, "cpu", "float32")
    description = describe(original.config, original.training_record)
    quantization: dict[str, Any] = {"type": "int8", "calibration_clips": len(calibrating)}

    with ExitStack() as stack:
        # Opened first: an unwritable folder is known before the work is done.
        targets = [stack.enter_context(replacing(path)) for path in written_files(output)]
        draft = Path(stack.enter_context(TemporaryDirectory()), output.name)
        save = quantized(original, calibrating, output)
        save(draft, json_text(description))
        found = compare(plain, draft, compared)
        if found.agreement < min_agreement:
            raise TooLittleAgreement(
                f"{output} was not written: its best label is float32's for "
                f"{found.agreement:.1%} of {found.clips} clips, and --min-agreement is "
                f"{min_agreement:.1%}; {advice(found)}.",
                found,
            )
        quantization["comparison"] = asdict(found)
        save(draft, json_text(description | {"quantization": quantization}))
        for written, target in zip(written_files(draft), targets, strict=True):
            shutil.copyfile(written, target)
    return found


def written_files(output: Path) -> list[Path]:
    """The files of a model; OpenVINO keeps weights beside the graph."""
    return [output] if output.suffix == ".onnx" else [output, output.with_suffix(".bin")]


def advice(found: Comparison) -> str:
    """What to do about too little agreement."""
    if found.sure_agreement == 1:
        return (
            f"it is for all {found.sure_clips} clips of which float32 is sure, so calibrate with "
            "clips that show the model's classes, or allow less"
        )
    return "calibrate with more clips that show the model's classes, or allow less"


def read_clips(model: VideoClassifier, folder: Path) -> dict[str, Tensor]:
    """A clip, uint8 (1, 3, T, H, W), from the middle of some videos of a folder, the same each
    time; videos that can't be read are told and passed over.

    Raises:
        UsageError: there are fewer than FEWEST_VIDEOS that can be read.
    """
    if not folder.is_dir():
        raise UsageError(f"--calibrate {folder} is no folder; name one with videos.")
    videos = [video for video in find_videos([folder]) if not isinstance(video, Failure)]
    Random(0).shuffle(videos)
    reader = ClipReader(model.config.sampling, model.config.preprocessing)
    clips: dict[str, Tensor] = {}
    for video in track(videos[: MOST_CALIBRATING + MOST_COMPARED], "reading clips"):
        try:
            clips[str(video)] = reader.read(video, clips=1).pixels
        except VideoError as error:
            logger.warning("%s", error)
    if len(clips) < FEWEST_VIDEOS:
        raise UsageError(
            f"--calibrate {folder} has {len(clips)} readable videos, and at least {FEWEST_VIDEOS} "
            "are needed; some dozens that show all classes are better."
        )
    return clips


def quantized(
    model: VideoClassifier, calibrating: Sequence[Tensor], output: Path
) -> Callable[[Path, str], None]:
    """A function that writes the quantised graph of a folded model, with a description in it, to a
    path; `model` is changed.

    Raises:
        ActionrecError: the network can't be quantised.
    """
    scale_pixels(model)
    equalize_channels(model, track(calibrating, "equalizing channels"))
    round_weights(model, track(calibrating, "rounding weights"))
    # Only a range of all 256 levels has steps that are the pixels' own.
    calibrating = [with_all_levels(calibrating[0]), *calibrating[1:]]
    clips = torch.cat([calibrating[0]] * TRACED_BATCH)
    try:
        with waiting("writing the graph"):
            program = trace_prediction(model, clips, {0: Dim.DYNAMIC})
            if output.suffix == ".onnx":
                return _onnx(program, calibrating)
            return _openvino(program, calibrating)
    # The errors of torch.export and NNCF have no base in common.
    except Exception as error:
        raise ActionrecError(
            f"{output} was not written: this network can't be quantised ({reason_of(error)}); "
            "report it, or export it without --quantize."
        ) from error


def with_all_levels(clip: Tensor) -> Tensor:
    """A copy of a clip, uint8 (1, 3, T, H, W), with a first pixel in black and a last in white."""
    changed = clip.clone()
    changed[..., 0, 0, 0], changed[..., -1, -1, -1] = 0, 255
    return changed


def _openvino(
    program: ExportedProgram, calibrating: Sequence[Tensor]
) -> Callable[[Path, str], None]:
    openvino = import_openvino()
    graph = _by_nncf(openvino.convert_model(program), [clip.numpy() for clip in calibrating])

    def save(path: Path, description: str) -> None:
        graph.set_rt_info(description, METADATA_KEY)
        openvino.save_model(graph, path, compress_to_fp16=False)

    return save


def _onnx(program: ExportedProgram, calibrating: Sequence[Tensor]) -> Callable[[Path, str], None]:
    import onnx

    plain = to_onnx(program, {0: "batch"}, ["logits", "features"]).model_proto
    graph = _by_nncf(plain, [{"clips": clip.numpy()} for clip in calibrating])

    def save(path: Path, description: str) -> None:
        del graph.metadata_props[:]
        onnx.helper.set_model_props(graph, {METADATA_KEY: description})
        onnx.save(graph, path)

    return save


def _by_nncf(graph: Any, inputs: Sequence[Any]) -> Any:
    """The graph with convolutions in 8 bits, their ranges those of some inputs."""
    # It looks for a GPU, and says at length that there is none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # Before NNCF, which would send statistics otherwise.
    import_openvino()
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    settings = nncf.AdvancedQuantizationParameters(
        # Rounded weights keep the means, and it would take them off their levels.
        disable_bias_correction=True,
        overflow_fix=nncf.OverflowFix.DISABLE,
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
    )
    # Its bar goes where results go.
    with redirect_stdout(sys.stderr):
        return nncf.quantize(
            graph,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            # Ranges with a zero of their own, where there are negative values.
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(types=FLOAT_OPERATIONS, validate=False),
            advanced_parameters=settings,
        )


def compare(plain: InferenceModel, path: Path, clips: Mapping[str, Tensor]) -> Comparison:
    """A quantised file beside the model in float32, clip by clip in turn."""
    small = InferenceModel(ExportedModel.read(path), precision="float32", engine="auto")
    seconds: dict[str, list[float]] = {"float32": [], "int8": []}
    scores: dict[str, list[np.ndarray]] = {"float32": [], "int8": []}
    for clip in track(clips.values(), "comparing with float32"):
        for name, model in (("float32", plain), ("int8", small)):
            begin = time.perf_counter()
            scores[name].append(model.scores(clip)[0])
            seconds[name].append(time.perf_counter() - begin)
    before, after = np.stack(scores["float32"]), np.stack(scores["int8"])
    labels = plain.labels
    best, best_after = before.argmax(axis=1), after.argmax(axis=1)
    same, sure = best == best_after, before.max(axis=1) >= SURE
    change = np.abs(after - before).max(axis=1)
    by_class = {
        labels[index]: round(float(change[best == index].mean()), 4) for index in np.unique(best)
    }
    return Comparison(
        clips=len(clips),
        agreement=float(same.mean()),
        sure_clips=int(sure.sum()),
        sure_agreement=float(same[sure].mean()) if sure.any() else None,
        mean_difference=float(change.mean()),
        worst_difference=float(change.max()),
        per_class=dict(sorted(by_class.items(), key=lambda entry: -entry[1])),
        disagreements=[
            Disagreement(
                video=video,
                float32=labels[best[row]],
                float32_score=round(float(before[row, best[row]]), 4),
                int8=labels[best_after[row]],
                int8_score=round(float(after[row, best_after[row]]), 4),
            )
            for row, video in enumerate(clips)
            if not same[row]
        ],
        float32_seconds=statistics.median(seconds["float32"]),
        int8_seconds=statistics.median(seconds["int8"]),
        float32_bytes=sum(4 * weight.numel() for weight in plain.network.parameters()),
        int8_bytes=sum(written.stat().st_size for written in written_files(path)),
    )
