"""`actionrec evaluate` and `actionrec compare`: the accuracy of models, and their difference."""

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
    """Measure the accuracy of a model on the validation videos of a data set.

    Prints clip-level and video-level Top-1 and Top-5, and the accuracy of every class.

    Examples:
        actionrec evaluate --model runs/mine/model.safetensors --dataset ucf101 --root UCF-101
        actionrec evaluate --model model.safetensors --dataset demo --output report
        actionrec evaluate --model model.safetensors --dataset folder --root my_videos --format json

    Args:
        model: A model file, or a name from `actionrec weights list`.
        dataset: Name of the data set, from `actionrec data list`.
        root: Folder of the data set, or the CSV file.
        split: 1, 2, 3 or paper for ucf101; 1 to 3 for hmdb51; the fold, 1 to 5, for a CSV file
            without a split column.
        clips: Clips of each video, evenly spread.
        crops: Crops of each clip: 1 (the centre) or 3 (along the longer side).
        workers: Number of processes that read videos.
        precision: Number format of the network: float32, as for published results; bfloat16, which
            may rank a few clips differently; or auto: bfloat16 on hardware that supports it.
        decoder: Decoding library; decord and torchcodec are extras and less exact.
        devices: GPUs (or, without a GPU, processes) of this machine; the results do not depend on
            the number.
        nodes: Number of machines; start the command with torchrun or Slurm.
        output: Folder for a report: results.json, per_class.csv, predictions.csv and pictures.
        save_logits: File, *.safetensors, for the logits of all clips, for `actionrec compare`.
        format: Format of the output.
    """
    from actionrec.datasets.check import without_bad
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
    data, known_bad = without_bad(data, root and Path(root), sides=("val",))
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
    """Test whether the difference between two models is more than chance.

    Takes files of `actionrec evaluate --save-logits` for the same videos. A model trained with
    several seeds has several files and is judged by their mean. Two tests at the 5 % level: a
    paired bootstrap of the difference in Top-1, and McNemar's test of each pair of files.

    Examples:
        actionrec compare a.safetensors b.safetensors
        actionrec compare --a a1.safetensors a2.safetensors --b b1.safetensors b2.safetensors

    Args:
        files: Logits of model A and of model B.
        a: Logits of model A, one file for each seed.
        b: Logits of model B, with the same seeds in the same order.
        format: Format of the output.
    """
    if files and (a or b) or len(files) not in (0, 2) or not files and len(a) != len(b):
        raise UsageError("Give two files, or equally many with --a and with --b.")
    if not files and not a:
        raise UsageError("Give two files of logits, or several with --a and --b.")

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
