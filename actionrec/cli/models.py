"""`actionrec info`, `actionrec export` and `actionrec weights`: networks and their weights."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jsonargparse.typing import PositiveInt

from actionrec.cli.printing import Format, print_rows
from actionrec.config import BackboneName, BlockName


def info(
    backbone: BackboneName = "i3d",
    block: BlockName = "none",
    stages: Sequence[int] = (4,),
    blocks_per_stage: PositiveInt = 1,
    reduction: int = 2,
    order: PositiveInt | None = None,
    groups: PositiveInt | None = None,
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
        stages: Stages with a block.
        blocks_per_stage: Number of blocks in each stage, before its last units.
        reduction: Factor by which the block reduces the channels: 1, 2 or 4.
        order: Order of the filter (gsnl, cheb and cayley).
        groups: Number of channel groups (cgnl).
        units: Number of filters in a block that share one affinity.
        clip: Frames, height and width of a clip.
        classes: Number of classes.
        format: Format of the output.
    """
    from actionrec.models.classifier import BlockConfig, ClassifierConfig
    from actionrec.models.complexity import measure

    labels = tuple(map(str, range(classes)))
    settings = BlockConfig(block, tuple(stages), blocks_per_stage, reduction, order, groups, units)
    result = measure(ClassifierConfig(labels, backbone, settings), clip)
    rows = [asdict(row) for row in result.blocks]
    if format == "json":
        print(json.dumps(asdict(result), indent=2))
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["part", "channels", "positions", "params", "macs", "conv_macs"])
        writer.writerow([backbone, "", "", result.params, result.macs, ""])
        writer.writerows([f"block before {row['unit']}", *list(row.values())[1:]] for row in rows)
    else:
        print(f"{backbone}, clip {clip}, {classes} classes")
        print(f"{result.params / 1e6:.3f} M parameters, {result.macs / 1e9:.3f} G multiply-adds")
        for row in result.blocks:
            print(
                f"{block} before {row.unit}: {row.channels} channels, {row.positions} positions, "
                f"{row.params / 1e6:.4f} M parameters, {row.macs / 1e9:.3f} G multiply-adds "
                f"({row.conv_macs / 1e9:.3f} G in convolutions)"
            )
    return 0


def export(
    output: str,
    model: str = "kinetics400-i3d",
    clip: str | None = None,
    video: str | None = None,
) -> int:
    """Export a model to ONNX or torch.export, for programs without actionrec.

    The exported network takes uint8 RGB clips (batch, 3, T, H, W) and returns logits; the file also
    holds labels, sampling and crop as JSON. It is kept only if its logits equal PyTorch's.

    Examples:
        actionrec export --output i3d.onnx
        actionrec export --model runs/mine/model.safetensors --output mine.pt2 --clip 32x124x124

    Args:
        output: Output file, *.onnx or *.pt2 (torch.export).
        model: A model file, or a name from `actionrec weights list`.
        clip: Frames, height and width of a clip; by default as in training.
        video: Video for the check of the logits; by default a generated clip.
    """
    from actionrec.export import export as run
    from actionrec.models.classifier import VideoClassifier

    checked_video = Path(video) if video is not None else None
    exported = run(VideoClassifier.load(model), Path(output), clip, checked_video)
    print(f"{output}: clips of {'x'.join(map(str, exported.clip))}, any {', '.join(exported.free)}")
    for shape, difference in exported.differences.items():
        print(f"  {shape}: differs from PyTorch by at most {difference:.1e} of the largest logit")
    return 0


def weights_list(format: Format = "table") -> int:
    """List the pretrained weights and whether they are downloaded.

    Example:
        actionrec weights list

    Args:
        format: Format of the output.
    """
    from actionrec.files import cache_folder
    from actionrec.models.catalogue import list_weights

    rows = list_weights()
    if format != "table":
        print_rows(rows, format)
    else:
        for row in rows:
            state = "in the cache" if row["cached"] else "not downloaded yet"
            print(f"{row['name']}  {row['backbone']}, {row['dataset']}, {state}")
        print(f"cache: {cache_folder()}")
    return 0


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
