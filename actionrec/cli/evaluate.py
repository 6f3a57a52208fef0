"""`actionrec evaluate` and `actionrec compare`: how good a model is, and whether one is better."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from actionrec.cli.parser import complain
from actionrec.cli.printing import EVALUATION_PRINTERS, Format, print_comparison
from actionrec.config import DatasetName, DecoderName
from actionrec.errors import UsageError
from actionrec.models.registry import PrecisionName


def evaluate(
    model: str,
    dataset: DatasetName,
    root: str | None = None,
    split: str = "1",
    clips: PositiveInt = 10,
    crops: Literal[1, 3] = 1,
    workers: NonNegativeInt = 2,
    precision: PrecisionName = "float32",
    decoder: DecoderName = "pyav",
    devices: PositiveInt = 1,
    nodes: PositiveInt = 1,
    output: str | None = None,
    save_logits: str | None = None,
    format: Format = "table",
) -> int:
    """Measure clip-level and video-level Top-1 and Top-5 on a data set's validation videos.

    Examples:
        actionrec evaluate --model runs/mine/model.safetensors --dataset ucf101 --root UCF-101
        actionrec evaluate --model model.safetensors --dataset demo --output report
        actionrec evaluate --model model.safetensors --dataset folder --root my_videos --format json

    Args:
        model: A model file, or the name of a pretrained model.
        dataset: Kind of data set.
        root: Its folder, or the CSV file.
        split: One of the data set's splits, which `actionrec data list` names.
        clips: Clips evenly spread over each video.
        crops: 1, the centre of the frame, or 3 along its longer side.
        workers: Processes that read videos.
        precision: Numbers that the network computes with: float32, on which published figures rest;
            bfloat16, faster where the hardware has it, but some clips are then ranked otherwise; or
            auto, bfloat16 where the hardware has it.
        decoder: Library that decodes videos; those but pyav are extras and less exact.
        devices: GPUs of this machine that share the work, a process each; without a GPU, processes.
            The figures are the same for any number.
        nodes: Machines that share it; start it with torchrun or Slurm.
        output: Folder for a report: results.json, per_class.csv, predictions.csv,
            confusion_matrix.png and per_class.png.
        save_logits: File, *.safetensors, for the logits of every clip and crop, which
            `actionrec compare` takes.
        format: What to print.
    """
    from actionrec.datasets.check import without_damaged_videos
    from actionrec.datasets.registry import open_dataset
    from actionrec.devices import is_first, join
    from actionrec.evaluation.report import require_same_evaluation, write_report
    from actionrec.evaluation.scoring import describe_protocol, score_dataset, summarise
    from actionrec.models.inference import InferenceModel

    if save_logits is not None and not save_logits.endswith(".safetensors"):
        raise UsageError(f"--save-logits {save_logits} must end in .safetensors, its format.")
    device = join(devices, nodes)
    ready = InferenceModel.load(model, device, precision, decoder)
    data = open_dataset(dataset, root, split)
    data, known_bad = without_damaged_videos(data, sides=("val",))
    named = {"model": model, "split": split}
    # What has no precision in its protocol is float32, also what was written before there were two.
    if ready.precision != "float32":
        named["precision"] = ready.precision
    if output is not None:
        protocol = describe_protocol(ready.config, data, clips, crops) | named
        require_same_evaluation(Path(output), protocol)
    scored = score_dataset(ready, data, clips, crops, workers)
    if not is_first():
        return 0
    scored.protocol.update(named)
    scored.skipped.extend(known_bad)
    result = summarise(scored)
    for failure in result.skipped:
        complain(failure.error)
    # Neither shall a full disk cost the figures, nor a closed pipe, as of `head`, the files.
    try:
        if save_logits is not None:
            scored.save(Path(save_logits))
        if output is not None:
            write_report(Path(output), scored, result)
    finally:
        EVALUATION_PRINTERS[format](result)
    return 1 if result.skipped else 0


def compare(
    files: list[str],
    a: list[str] = [],  # noqa: B006
    b: list[str] = [],  # noqa: B006
    format: Literal["table", "json"] = "table",
) -> int:
    """Tell whether one model is better than another, or whether that may be chance.

    The files are what `actionrec evaluate --save-logits` wrote for the same videos. With several a
    side, which differ by the seed of the training, each side stands for the mean of its files. Two
    tests at the level of 5 %: a paired bootstrap of the difference in Top-1, and McNemar's test of
    each pair of files.

    Examples:
        actionrec compare a.safetensors b.safetensors
        actionrec compare --a a1.safetensors a2.safetensors --b b1.safetensors b2.safetensors

    Args:
        files: Logits of model A and of model B.
        a: Logits of several trainings of A.
        b: Logits of as many trainings of B, with the same seeds in the same order.
        format: What to print.
    """
    if files and (a or b) or len(files) not in (0, 2) or not files and len(a) != len(b):
        raise UsageError("Name two files, or as many with --a as with --b.")
    if not files and not a:
        raise UsageError("Name two files of logits, or several with --a and --b.")

    from actionrec.evaluation.compare import compare as run
    from actionrec.evaluation.compare import load_comparable

    paths = [Path(name) for name in files or [*a, *b]]
    loaded = load_comparable(paths)
    result = run(loaded[: len(paths) // 2], loaded[len(paths) // 2 :])
    if format == "json":
        print(json.dumps(asdict(result), indent=2))
    else:
        print_comparison(result)
    return 0
