"""`actionrec info`, `export`, `calibrate` and `weights`: networks, models and their weights."""

from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, OpenUnitInterval, PositiveInt

from actionrec.cli.parser import complain
from actionrec.cli.printing import (
    Format,
    print_calibration,
    print_csv,
    print_json,
    print_quantization,
    print_rows,
    print_table,
)
from actionrec.config import BackboneName, BlockName, DatasetName
from actionrec.errors import UsageError
from actionrec.files import require_free, require_suffix
from actionrec.video.address import video_path


def info(
    backbone: BackboneName = "i3d",
    block: BlockName = "none",
    stages: Sequence[int] = (4,),
    blocks_per_stage: PositiveInt = 1,
    reduction: int = 2,
    order: PositiveInt | None = None,
    groups: PositiveInt | None = None,
    passes: PositiveInt | None = None,
    units: PositiveInt = 1,
    clip: str = "16x124x124",
    classes: PositiveInt = 400,
    format: Format = "table",
) -> int:
    """Count the parameters and multiply-adds of a network.

    Nonlocal blocks are also counted separately. Convolutions and matrix products count;
    normalisation, activations and pooling do not.

    Examples:
        actionrec info --backbone r3d50 --block snl --clip 16x112x112
        actionrec info --block nl --stages 3 4 --format json

    Args:
        backbone: Network.
        block: Type of nonlocal block.
        clip: Frames, height and width of a clip.
        classes: Number of classes.
    """
    from actionrec.models.classifier import BlockConfig, ClassifierConfig
    from actionrec.models.complexity import measure

    labels = tuple(map(str, range(classes)))
    settings = BlockConfig(
        block, tuple(stages), blocks_per_stage, reduction, order, groups, passes, units
    )
    result = measure(ClassifierConfig(labels, backbone, settings), clip)
    if format == "json":
        print_json(asdict(result))
    elif format == "csv":
        rows = [[backbone, "", "", result.params, result.macs, ""]]
        rows += [[f"block before {each.unit}", *astuple(each)[1:]] for each in result.blocks]
        print_csv(["part", "channels", "positions", "params", "macs", "conv_macs"], rows)
    else:
        print(f"clip {clip}, {classes} classes; parameters in M, multiply-adds in G")
        rows = [[backbone, "", "", f"{result.params / 1e6:.3f}", f"{result.macs / 1e9:.3f}", ""]]
        for each in result.blocks:
            macs = f"{each.macs / 1e9:.3f}", f"{each.conv_macs / 1e9:.3f}"
            part, params = f"{block} before {each.unit}", f"{each.params / 1e6:.4f}"
            rows.append([part, each.channels, each.positions, params, *macs])
        counted = ["parameters", "multiply-adds", "in convolutions"]
        print_table(rows, ["part", "channels", "positions", *counted])
    return 0


def export(
    output: str,
    model: str = "kinetics400-i3d",
    clip: str | None = None,
    video: str | None = None,
    quantize: Literal["int8"] | None = None,
    calibrate: str | None = None,
    min_agreement: ClosedUnitInterval = 0.98,
) -> int:
    """Export a model to ONNX, torch.export or OpenVINO, for programs without actionrec.

    The exported network takes uint8 RGB clips (batch, 3, T, H, W) and returns logits; the file also
    holds labels, sampling and crop as JSON. It is kept only if its logits equal PyTorch's; one in
    INT8 only if enough best labels stay. `--model` of other verbs takes *.onnx and *.xml.

    Examples:
        actionrec export --output i3d.onnx
        actionrec export --model runs/mine/model.safetensors --output mine.pt2 --clip 32x124x124
        actionrec export --quantize int8 --calibrate videos/ --output i3d-int8.onnx

    Args:
        output: Output file, *.onnx or *.pt2 (torch.export), with --quantize *.onnx or *.xml.
        clip: Frames, height and width of a clip; by default as in training.
        video: Video for the check of the logits; by default a generated clip.
        quantize: Number format of the convolutions; by default float32.
        calibrate: Folder with videos, of which one half calibrates INT8 and the other checks it.
        min_agreement: Lowest share of checked clips whose best label is that of float32.
    """
    if (quantize is None) != (calibrate is None):
        raise UsageError("--quantize and --calibrate go together: INT8 needs a folder of videos.")
    if quantize is not None and video is not None:
        raise UsageError("--video is for exports in float32; INT8 is checked on --calibrate.")

    from actionrec.models.classifier import VideoClassifier

    if calibrate is not None:
        from actionrec.quantize import TooLittleAgreement
        from actionrec.quantize import quantize as write_int8

        classifier = VideoClassifier.load(model)
        try:
            found = write_int8(classifier, Path(output), Path(calibrate), clip, min_agreement)
        except TooLittleAgreement as error:
            print_quantization(output, error.comparison)
            raise
        print_quantization(output, found)
        return 0

    from actionrec.export import export as run

    checked_video = video_path(video) if video is not None else None
    exported = run(VideoClassifier.load(model), Path(output), clip, checked_video)
    print(f"{output}: clips of {'x'.join(map(str, exported.clip))}, any {', '.join(exported.free)}")
    for shape, difference in exported.differences.items():
        print(f"  {shape}: differs from PyTorch by at most {difference:.1e} of the largest logit")
    return 0


def calibrate(
    model: str,
    dataset: DatasetName,
    output: str,
    root: str | None = None,
    split: str = "1",
    negatives: str | None = None,
    false_alarms: OpenUnitInterval = 0.05,
    workers: PositiveInt | None = None,
    format: Literal["table", "json"] = "table",
) -> int:
    """Let a model answer "none of these", and its scores be shares of right answers.

    Writes a new model file. The validation videos of the data set choose the temperature of the
    softmax and the confidence below which a video shows none of the labels. Videos that show none,
    --negatives, train a detector; without them the best score decides, which tells little of
    actions that look like nothing in training.

    Examples:
        actionrec calibrate model.safetensors --dataset csv --root my.csv --output new.safetensors
        actionrec calibrate runs/mine --dataset folder --root my_videos --negatives others/ \\
            --false-alarms 0.1 --output new.safetensors

    Args:
        output: New model file, *.safetensors.
        negatives: Folder with videos that show none of the labels, the more different the better.
        false_alarms: Share of the videos with a known label that may be taken for none of these.
        workers: Processes that read videos; by default one a core.
    """
    from actionrec.datasets.check import without_damaged_videos
    from actionrec.datasets.registry import open_dataset
    from actionrec.models.classifier import VideoClassifier
    from actionrec.models.exported import is_exported

    require_suffix(Path(output), [".safetensors"], "--output")
    require_free(Path(output))
    if is_exported(model):
        raise UsageError(
            f"{model} is an exported file; calibrate the model that it was made from, and export "
            "the new file."
        )

    from actionrec.training.calibration import calibrate as run
    from actionrec.training.calibration import negatives_in

    others = negatives_in(negatives) if negatives is not None else []
    classifier = VideoClassifier.load(model)
    data = open_dataset(dataset, root, split, to_train=False, multi_label=False)
    data, damaged = without_damaged_videos(data, sides=("val",))
    calibrated, figures, unreadable = run(classifier, data, others, false_alarms, workers)
    failures = damaged + unreadable
    for failure in failures:
        complain(failure.error)
    calibrated.save(Path(output))
    print_calibration(output, figures, format)
    return 1 if failures else 0


def weights_list(format: Format = "table") -> int:
    """List the pretrained weights and whether they are downloaded.

    Example:
        actionrec weights list
    """
    from actionrec.files import cache_folder
    from actionrec.models.catalogue import list_weights

    rows = list_weights()
    if format != "table":
        print_rows(rows, format)
        return 0
    print_table(
        [
            [
                row["name"],
                row["clip"],
                f"{row['top1']:.1f}",
                row["protocol"],
                *_cost(row),
                row["licence"].partition(",")[0],
                "yes" if row["cached"] else "no",
            ]
            for row in rows
        ],
        ["name", "clip", "Top-1", "of", "params, M", "GMAC", "s/clip", "licence", "cached"],
    )
    print("Top-1 on Kinetics-400 as published, in percent, with the clips of a video.")
    if measured_on := rows[0]["measured_on"]:
        print(f"Multiply-adds and seconds of a clip; seconds as measured on {measured_on}.")
    print(f"cache: {cache_folder()}")
    return 0


def _cost(row: dict[str, Any]) -> list[str]:
    """Parameters, multiply-adds and seconds of a model, empty where they were not measured."""
    if row["params"] is None:
        return ["", "", ""]
    return [f"{row['params'] / 1e6:.1f}", f"{row['macs'] / 1e9:.1f}", f"{row['seconds']:.2f}"]


def weights_download(name: str) -> int:
    """Download pretrained weights into the cache and print the path of the file.

    Example:
        actionrec weights download kinetics400-i3d

    Args:
        name: Name of the weights, from `actionrec weights list`.
    """
    from actionrec.models.catalogue import fetch

    print(fetch(name))
    return 0
