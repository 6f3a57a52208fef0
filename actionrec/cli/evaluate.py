"""`actionrec evaluate` and `actionrec compare`: the accuracy of models, and their difference."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from actionrec.cli.parser import complain
from actionrec.cli.printing import Format, print_comparison, print_evaluation
from actionrec.config import DatasetName, DecoderName
from actionrec.errors import ActionrecError, UsageError
from actionrec.files import require_free, require_suffix
from actionrec.models.registry import EngineName, PrecisionName

if TYPE_CHECKING:
    from actionrec.evaluation.detection import Detection
    from actionrec.prediction.timeline_settings import TimelineSettings

logger = logging.getLogger("actionrec")


def evaluate(
    model: str,
    dataset: DatasetName,
    root: str | None = None,
    split: str = "1",
    clips: PositiveInt = 10,
    crops: Literal[1, 3] = 1,
    workers: NonNegativeInt = 2,
    precision: PrecisionName = "float32",
    engine: EngineName = "auto",
    decoder: DecoderName = "pyav",
    devices: PositiveInt = 1,
    nodes: PositiveInt = 1,
    output: str | None = None,
    save_logits: str | None = None,
    timeline: bool = False,
    format: Format = "table",
) -> int:
    """Measure the accuracy of a model on the validation videos of a data set.

    Prints Top-1 and Top-5 of clips and videos, and with several labels a video mAP.

    Examples:
        actionrec evaluate --model runs/mine/model.safetensors --dataset ucf101 --root UCF-101
        actionrec evaluate --model model.safetensors --dataset demo --output report
        actionrec evaluate --model model.safetensors --dataset folder --root my_videos --format json

    Args:
        clips: Clips of each video, evenly spread.
        crops: Crops of each clip: the centre, or 3 along the longer side.
        workers: Number of processes that read videos.
        precision: Number format; published results are in float32, auto is bfloat16 on hardware
            that supports it.
        devices: GPUs or, without one, processes of this machine; no result depends on it.
        nodes: Number of machines; start the command with torchrun or Slurm.
        output: Folder for a report: figures, tables, report.html with the mistakes.
        save_logits: File, *.safetensors, for the logits of all clips, for `actionrec compare`.
        timeline: Find the segments too, and tune `actionrec timeline` for the model.
    """
    from actionrec.datasets.check import without_damaged_videos
    from actionrec.datasets.registry import open_dataset
    from actionrec.devices import is_first, join
    from actionrec.evaluation.accuracy import evaluation_of
    from actionrec.evaluation.report import require_same_evaluation, write_report
    from actionrec.evaluation.scoring import describe_protocol, score_dataset
    from actionrec.evaluation.timeline import evaluate_timelines, in_time
    from actionrec.models.inference import InferenceModel
    from actionrec.prediction.timeline_settings import stored_settings

    if save_logits is not None:
        require_suffix(Path(save_logits), [".safetensors"], "--save-logits")
        require_free(Path(save_logits))
    if timeline and devices * nodes > 1:
        raise UsageError("--timeline works in one process; leave out --devices and --nodes.")
    device = join(devices, nodes)
    ready = InferenceModel.load(model, device, precision, decoder, engine=engine)
    several = ready.decision.multi_label
    data = open_dataset(dataset, root, split, to_train=False, multi_label=several)
    if timeline and not data.has_segments:
        raise UsageError(
            f"--timeline needs segments, and {data.root} has none: give a CSV file with the "
            "columns start and end."
        )
    stored = stored_settings(model) if timeline else None
    sides = ("train", "val") if timeline and data.train else ("val",)
    good, known_bad = without_damaged_videos(data, sides)
    request = {"model": model, "split": split}
    # Protocols without a precision are float32, as all were before there was a choice.
    if ready.precision != "float32":
        request["precision"] = ready.precision
    if ready.engine.name != "torch":
        request["engine"] = ready.engine.name
    if output is not None:
        protocol = describe_protocol(ready.config, data, clips, crops) | request
        protocol |= {"timeline": True} if timeline else {}
        require_same_evaluation(Path(output), protocol)
    logits = score_dataset(ready, data, clips, crops, workers, known_bad)
    if not is_first():
        return 0
    logits.protocol.update(request)
    result = evaluation_of(logits)
    found: list[Detection] = []
    incomplete = False
    if timeline:
        # The accuracies are known already and are not lost.
        try:
            evaluated, found, failures = evaluate_timelines(ready, good, stored)
            result = in_time(result, evaluated, failures)
            if evaluated.tuned_on:
                store_timeline_settings(model, evaluated.settings, evaluated.tuned_on)
            if evaluated.tuned_on and evaluated.with_defaults.mean > evaluated.mean:
                logger.warning(
                    "On the validation videos the default settings are better: more training "
                    "videos may help, or delete the file of the tuned ones."
                )
        except ActionrecError as error:
            complain(str(error))
            incomplete = True
    for failure in result.skipped:
        complain(failure.error)
    # A full disk must not cost the printed accuracies.
    try:
        if save_logits is not None:
            logits.save(Path(save_logits))
        if output is not None:
            skipped = {failure.video for failure in result.skipped}
            sources = [each.source for each in data.val if str(each.source) not in skipped]
            write_report(Path(output), logits, result, sources, found)
    finally:
        print_evaluation(result, format)
    return 1 if result.skipped or incomplete else 0


def store_timeline_settings(model: str, settings: "TimelineSettings", tuned_on: str) -> None:
    """Keep settings for `actionrec timeline` and tell where; figures are not lost if that fails."""
    from actionrec.prediction.timeline_settings import store_settings

    try:
        file = store_settings(model, settings, tuned_on)
    except ActionrecError as error:
        complain(f"The settings of the timeline are not kept: {error}")
        return
    if file is None:
        logger.info("%s is no file, so the settings of its timeline are not kept.", model)
    else:
        logger.info("%s: `actionrec timeline` uses these settings from now on", file)


def compare(
    files: list[str],
    a: list[str] = [],  # noqa: B006
    b: list[str] = [],  # noqa: B006
    format: Literal["table", "json"] = "table",
) -> int:
    """Test whether the difference between two models is more than chance.

    Takes files of `actionrec evaluate --save-logits` for the same videos. A model trained with
    several seeds has several files and is judged by their mean. Two tests at the 5 % level: a
    paired bootstrap of the difference in Top-1, and McNemar's test of each pair of files. One file
    a side compares two models; to compare two ways to train, name five seeds or more of each.

    Examples:
        actionrec compare a.safetensors b.safetensors
        actionrec compare --a a1.safetensors a2.safetensors --b b1.safetensors b2.safetensors

    Args:
        files: Logits of model A and of model B.
        a: Logits of model A, one file for each seed.
        b: Logits of model B, with the same seeds in the same order.
    """
    side_a, side_b = (files[:1], files[1:]) if files else (a, b)
    if files and (a or b) or not side_a or len(side_a) != len(side_b):
        raise UsageError("Name two files of logits, or as many with --a as with --b.")

    from actionrec.evaluation.compare import compare as compare_logits
    from actionrec.evaluation.compare import load_comparable

    logits = load_comparable([Path(name) for name in [*side_a, *side_b]])
    print_comparison(compare_logits(logits[: len(side_a)], logits[len(side_a) :]), format)
    return 0
