"""The command line: `actionrec --help`.

One function a verb: its signature is its flags, its docstring its help. What a verb needs is
imported inside it, so that help and wrong usage answer at once. Exit codes: 0 done, 1 something
of the input failed, 2 wrong usage.
"""

import csv
import inspect
import json
import logging
import os
import shlex
import sys
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace

from actionrec.config import (
    BackboneName,
    BlockName,
    DatasetName,
    DecoderName,
    PrecisionName,
    TrainConfig,
)
from actionrec.errors import ActionrecError, UsageError
from actionrec.printing import (
    DATASET_PRINTERS,
    EVALUATION_PRINTERS,
    PREDICTION_PRINTERS,
    TIMELINE_PRINTERS,
    Format,
    print_rows,
)

if TYPE_CHECKING:
    from actionrec.prediction import Failure, Prediction
    from actionrec.timeline import Timeline


def predict(
    paths: list[str],
    model: str = "kinetics400-i3d",
    topk: int = 5,
    clips: int | None = None,
    precision: PrecisionName = "auto",
    decoder: DecoderName = "pyav",
    timeline: bool = False,
    hop: float | None = None,
    min_score: float = 0.2,
    output: Sequence[str] = (),
    render: str | None = None,
    source: str | None = None,
    files_from: str | None = None,
    workers: int | None = None,
    shard: str | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    format: Format = "table",
) -> int:
    """Name the actions in videos.

    With --output, any number of videos are predicted in processes of their own, and each result is
    written the moment it is known; the same command goes on where it was stopped.

    With --timeline, a clip slides over the whole video, of any length, and what follows is which
    action begins and ends when. Ctrl-C keeps what was scored until then.

    With --source, a camera or stream is watched instead: the newest clip is scored again and again,
    and each time a line of JSON is printed.

    Examples:
        actionrec predict video.mp4
        actionrec predict holiday/ 'more/*.avi' --format csv > actions.csv
        actionrec predict video.mp4 --model runs/mine/model.safetensors --topk 3
        actionrec predict --files-from videos.txt --output actions.jsonl --workers 8
        find . -name '*.mp4' | actionrec predict --files-from - --output actions.parquet
        actionrec predict match.mp4 --timeline --output match.srt match.json --render drawn.mp4
        actionrec predict --source rtsp://192.168.1.20/stream1

    Args:
        paths: Video files, folders with videos, or patterns in quotes.
        model: A pretrained model (see `actionrec weights list`) or a model file.
        topk: How many of the best classes to print.
        clips: Clips spread over each video; by default as many as cover it, ten at most.
        precision: Numbers that the network computes with: float32; bfloat16, which moves scores by
            up to 0.02 and is slow on hardware without it; or auto, bfloat16 where the hardware has
            it.
        decoder: Library that decodes videos; those but pyav are extras and less exact.
        timeline: Tell which action begins and ends when.
        hop: Seconds from one clip of the timeline, or of a source, to the next; by default half a
            clip.
        min_score: Where the best class of the timeline scores less, from 0 to 1, nothing is said.
        output: File for the results, *.jsonl or *.parquet; with --timeline files for that of one
            video: *.json, *.csv, *.vtt (WebVTT) or *.srt.
        render: File, *.mp4, *.mov or *.mkv, for the video with its timeline drawn on it.
        source: Watch camera:0, a URL (rtsp, rtmp, http, tcp, udp, srt) or -, standard input.
        files_from: Text file with the path of a video on each line, or - for standard input.
        workers: Processes that predict for --output, about 1 GB of memory each; by default one a
            GPU or, without one, one a core, four at most.
        shard: Predict only this part for --output, such as 3/8 on the third of eight machines.
        timeout: Seconds after which a video is given up, with --output; by default 300.
        memory: MiB that a video may take before it is given up, with --output and without a GPU;
            by default 4096.
        format: What to print.
    """
    if topk < 1 or (clips is not None and clips < 1):
        raise UsageError("--topk and --clips must be at least 1.")
    if (not output or timeline) and (workers, shard, timeout, memory) != (None,) * 4:
        raise UsageError(
            "--workers, --shard, --timeout and --memory need --output with a *.jsonl or *.parquet."
        )
    if source is not None:
        named = paths or files_from is not None
        if named or timeline or clips is not None or output or render is not None:
            raise UsageError(
                "--source is watched alone, clip by clip; leave out videos, --clips, --timeline, "
                "--output and --render."
            )
        return predict_source(source, model, topk, precision, hop)
    if not paths and files_from is None:
        raise UsageError("No paths are given; name videos or folders, or a list with --files-from.")
    if timeline and (clips is not None or decoder != "pyav"):
        raise UsageError(
            "--timeline sees all of a video and reads it with pyav; leave out --clips and "
            "--decoder."
        )
    if not timeline and (hop is not None or render is not None):
        raise UsageError("--hop and --render need --timeline.")
    if output and not timeline and format != "table":
        raise UsageError("--output writes to a file and prints nothing; leave out --format.")

    from actionrec.batch_prediction import WHOLE, Shard, VideoList, predict_to_file, require_output
    from actionrec.workers import STANDARD_LIMITS, Limits

    videos = VideoList(paths, files_from, WHOLE if shard is None else Shard.parse(shard))
    if timeline:
        outputs, rendered = [Path(name) for name in output], render and Path(render)
        return predict_timelines(
            list(videos), model, topk, precision, hop, min_score, outputs, rendered, format
        )
    if output:
        limits = Limits(
            STANDARD_LIMITS.timeout if timeout is None else timeout,
            STANDARD_LIMITS.memory if memory is None else memory,
        )
        path = require_output(output)
        totals = predict_to_file(
            videos, path, model, topk, clips, precision, decoder, workers, limits, complain
        )
        return 1 if totals.failed else 0
    return predict_and_print(list(videos), model, topk, clips, precision, decoder, format)


def predict_and_print(
    found: "list[Path | Failure]",
    model: str,
    topk: int,
    clips: int | None,
    precision: PrecisionName,
    decoder: DecoderName,
    format: Format,
) -> int:
    """`predict` without --output: print one video's result after the other."""
    from rich.console import Console
    from rich.progress import track

    from actionrec import load
    from actionrec.models.inference import for_inference
    from actionrec.prediction import Failure, predict_all

    recognizer = for_inference(load(model), precision)
    failures: list[Failure] = []

    def results() -> "Iterable[Prediction | Failure]":
        all_results = predict_all(recognizer, found, model, topk, clips, decoder)
        console = Console(stderr=True)
        for result in track(all_results, "predicting", total=len(found), console=console):
            if isinstance(result, Failure):
                failures.append(result)
                complain(result.error)
            yield result

    PREDICTION_PRINTERS[format](results())
    return 1 if failures else 0


def predict_source(
    source: str, model: str, topk: int, precision: PrecisionName, hop: float | None
) -> int:
    """`predict --source`: print a line of JSON for each clip, until the source ends."""
    from actionrec import load
    from actionrec.live import watch
    from actionrec.models.inference import for_inference

    recognizer = for_inference(load(model), precision)
    for prediction in watch(recognizer, source, topk, hop):
        print(json.dumps(asdict(prediction)), flush=True)
    return 0


def predict_timelines(
    found: "list[Path | Failure]",
    model: str,
    topk: int,
    precision: PrecisionName,
    hop: float | None,
    min_score: float,
    outputs: list[Path],
    render: Path | None,
    format: Format,
) -> int:
    """`predict --timeline`: score one video after the other, print and write what comes out."""
    from actionrec import load
    from actionrec.models.inference import for_inference
    from actionrec.prediction import Failure
    from actionrec.timeline import INTERRUPTED, require_outputs, score_timeline, write_timeline
    from actionrec.video.reader import VideoError

    if not 0 <= min_score <= 1:
        raise UsageError(f"--min-score {min_score} is not possible; it must be from 0 to 1.")
    if hop is not None and not 0 < hop < float("inf"):
        raise UsageError(f"--hop {hop} is not possible; it must be above 0.")
    if len(found) > 1 and (outputs or render):
        raise UsageError(f"--output and --render are for one video; here are {len(found)}.")
    require_outputs(outputs)
    if render is not None:
        from actionrec.rendering import render as draw
        from actionrec.rendering import require_rendering

        if not isinstance(found[0], Failure):
            require_rendering(found[0], render)
    recognizer = for_inference(load(model), precision)
    problems: list[str] = []
    scored: list[Timeline] = []
    interrupted = False

    def results() -> "Iterable[Timeline | Failure]":
        nonlocal interrupted
        for video in found:
            try:
                if isinstance(video, Failure):
                    raise VideoError(video.error)
                result = score_timeline(recognizer, video, model, topk, hop, min_score)
            except VideoError as error:
                problems.append(str(error))
                complain(str(error))
                yield Failure(video.video if isinstance(video, Failure) else str(video), str(error))
                continue
            for path in outputs:
                # A full disk shall not cost what hours have computed.
                try:
                    write_timeline(result, path)
                except ActionrecError as error:
                    problems.append(str(error))
                    complain(str(error))
            if render is not None:
                scored.append(result)
            yield result
            interrupted = result.incomplete == INTERRUPTED
            if interrupted:
                complain(
                    f"interrupted at {result.scored_until:.0f} of {result.duration:.0f} s of "
                    f"{result.video}; what was scored until then is complete."
                )
                return
            if result.incomplete is not None:
                problems.append(result.incomplete)
                complain(result.incomplete)

    TIMELINE_PRINTERS[format](results())
    if render is not None and scored and not interrupted:
        sys.stdout.flush()
        reason = draw(scored[0], render, min_score)
        interrupted = reason == INTERRUPTED
        if reason is not None:
            problems.append(reason)
            complain(f"{reason}; {render} holds what was drawn until then.")
    return 130 if interrupted else 1 if problems else 0


def train(config: TrainConfig) -> int:
    """Train a recognizer.

    Examples:
        actionrec train --dataset demo --config demo.yaml
        actionrec train --dataset ucf101 --root UCF-101 --split 1
        actionrec train --dataset folder --root my_videos --freeze-batchnorm true --epochs 24
        actionrec train --config runs/mine/config.yaml --output runs/again
    """
    from actionrec import distributed
    from actionrec.training import train as run

    results = run(config)
    if not distributed.is_first():
        return 0
    output = results["output"]
    for name in ("best", "last"):
        result = results[name]
        clip = result["clip"]
        print(
            f"{name} epoch ({result['epoch']}): clip-level Top-1 {clip['top1']:.1%}, "
            f"Top-5 {clip['top5']:.1%}, one clip of each of {clip['n']} validation videos"
        )
    print(f"model: {output}/model.safetensors")
    print(f"report: {output}/report.html")
    return 1 if results["bad_videos"] else 0


def tune(what: str, config: TrainConfig) -> int:
    """Find a learning rate or a batch size before training, with the settings of `train`.

    lr trains for 100 steps while the learning rate rises from 1e-5 to 1, prints the rate at which
    the loss falls most steeply and draws the curve beside the --output folder; batch_size doubles
    the clips of a step until memory is used up. Both are Lightning's searches: a place to start
    from. The run itself is not begun.

    Examples:
        actionrec tune lr --config demo.yaml
        actionrec tune batch_size --dataset ucf101 --root UCF-101 --block snl
    """
    from actionrec.training.tuning import find_batch_size, find_learning_rate, picture_path

    if what == "batch_size":
        print(f"batch_size: {find_batch_size(config)}")
        return 0
    path = picture_path(config)
    found = find_learning_rate(config)
    print(f"lr: {found.suggestion:.2g}")
    found.save_figure(path)
    print(f"curve: {path}")
    return 0


def evaluate(
    model: str,
    dataset: DatasetName,
    root: str | None = None,
    split: str = "1",
    clips: int = 10,
    crops: Literal[1, 3] = 1,
    workers: int = 2,
    precision: PrecisionName = "float32",
    decoder: DecoderName = "pyav",
    devices: int = 1,
    nodes: int = 1,
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
        split: ucf101: 1, 2, 3 or paper; hmdb51: 1, 2 or 3; csv without a split column: fold 1 to 5
            by group.
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
            scripts/compare.py takes.
        format: What to print.
    """
    from actionrec import distributed
    from actionrec.datasets import open_dataset
    from actionrec.datasets.check import without_bad
    from actionrec.evaluation import describe_protocol, score_dataset, summarise
    from actionrec.models.inference import for_inference
    from actionrec.models.recognizer import Recognizer
    from actionrec.reports import require_same_evaluation, write_report

    if clips < 1:
        raise UsageError(f"--clips {clips} is too few: at least one is needed.")
    if save_logits is not None and not save_logits.endswith(".safetensors"):
        raise UsageError(f"--save-logits {save_logits} must end in .safetensors, its format.")
    device = distributed.join(devices, nodes)
    recognizer = for_inference(Recognizer.load(model).to(device), precision)
    data = open_dataset(dataset, root, split)
    data, known_bad = without_bad(data, root and Path(root), sides=("val",))
    named = {"model": model, "split": split}
    # What has no precision in its protocol is float32, also what was written before there were two.
    if recognizer.precision != "float32":
        named["precision"] = recognizer.precision
    if output is not None:
        protocol = describe_protocol(recognizer.config, data, clips, crops) | named
        require_same_evaluation(Path(output), protocol)
    scored = score_dataset(recognizer, data, clips, crops, workers, decoder)
    if not distributed.is_first():
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


def info(
    backbone: BackboneName = "i3d",
    block: BlockName = "none",
    stages: Sequence[int] = (4,),
    blocks_per_stage: int = 1,
    reduction: int = 2,
    order: int | None = None,
    groups: int | None = None,
    stage_num: int = 1,
    clip: str = "16x124x124",
    classes: int = 400,
    format: Format = "table",
) -> int:
    """Count the parameters and multiply-adds of a network and its nonlocal blocks.

    Counted are convolutions and matrix products; not normalisation, activations and pooling.

    Examples:
        actionrec info --backbone r3d50 --block snl --clip 16x112x112
        actionrec info --block nl --stages 3 4 --format json

    Args:
        backbone: Network.
        block: Nonlocal block.
        stages: Stages that get a block.
        blocks_per_stage: Blocks of a stage, before its last units.
        reduction: Channels of the feature map over those in the block: 1, 2 or 4.
        order: Order of the filter, for gsnl, cheb and cayley.
        groups: Groups of channels, for cgnl.
        stage_num: Units of a block that share one affinity.
        clip: Frames, height and width of the clip.
        classes: Classes of the head.
        format: What to print.
    """
    from actionrec.complexity import measure
    from actionrec.models.recognizer import BlockConfig, RecognizerConfig

    labels = tuple(map(str, range(classes)))
    settings = BlockConfig(
        block, tuple(stages), blocks_per_stage, reduction, order, groups, stage_num
    )
    result = measure(RecognizerConfig(labels, backbone, settings), clip)
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
    """Write a model for programs without actionrec: as ONNX or by torch.export.

    The file takes uint8 RGB clips (batch, 3, T, H, W), normalises them and gives logits; labels,
    sampling and crop are in it as JSON. It gets its name only when its logits are PyTorch's.

    Examples:
        actionrec export --output i3d.onnx
        actionrec export --model runs/mine/model.safetensors --output mine.pt2 --clip 32x124x124

    Args:
        output: File to write, *.onnx or *.pt2 (torch.export).
        model: A pretrained model (see `actionrec weights list`) or a model file.
        clip: Frames, height and width of a clip; by default what the model was trained for.
        video: Video to check with; by default a generated clip.
    """
    from actionrec.export import export as run
    from actionrec.models.recognizer import Recognizer

    checked_video = Path(video) if video is not None else None
    exported = run(Recognizer.load(model), Path(output), clip, checked_video)
    print(f"{output}: clips of {'x'.join(map(str, exported.clip))}, any {', '.join(exported.free)}")
    for shape, difference in exported.differences.items():
        print(f"  {shape}: differs from PyTorch by at most {difference:.1e} of the largest logit")
    return 0


def app(
    model: str = "kinetics400-i3d",
    port: int = 7860,
    max_seconds: float = 600,
    max_megabytes: float = 500,
    precision: PrecisionName = "auto",
    open: bool = False,
) -> int:
    """Serve a local web page to drop a video on and see what people do in it.

    Its address is printed once it is there; Ctrl-C ends it. Only this machine reaches it, and what
    was uploaded is deleted within half an hour, or when it ends.

    Examples:
        actionrec app
        actionrec app --model runs/mine/model.safetensors --port 8000

    Args:
        model: A pretrained model (see `actionrec weights list`) or a model file.
        port: Port of 127.0.0.1 for the page.
        max_seconds: Longer videos are refused.
        max_megabytes: Larger files are refused.
        precision: Numbers that the network computes with: float32; bfloat16; or auto, bfloat16
            where the hardware has it.
        open: Open the page in the browser.
    """
    from actionrec.app import serve

    serve(model, port, max_seconds, max_megabytes, precision, open)
    return 0


def explain(
    video: str,
    model: str = "kinetics400-i3d",
    compare: str | None = None,
    method: Literal["auto", "affinity", "features", "gradcam"] = "auto",
    label: str | None = None,
    start: float | None = None,
    point: Sequence[int] | None = None,
    at: float | None = None,
    block: str | None = None,
    decoder: DecoderName = "pyav",
    output: str = ".",
) -> int:
    """Show where in a video a model looked, as heat maps over its frames.

    Examples:
        actionrec explain video.mp4
        actionrec explain video.mp4 --label archery --output archery.png
        actionrec explain video.mp4 --model snl.safetensors --compare nl.safetensors
        actionrec explain video.mp4 --model snl.safetensors --point 160 90 --at 2.5

    Args:
        video: Video file.
        model: A pretrained model (see `actionrec weights list`) or a model file.
        compare: Another model, shown with the first one for the same clip and point.
        method: What is shown: affinity, from where a nonlocal block takes the features of a point;
            features, how strong those are that the block receives and gives (without a block, of
            the last stage); gradcam, what speaks for the class; or auto, affinity where the models
            have a block, else gradcam.
        label: Class to explain; by default the predicted one.
        start: Where the clip begins, in seconds; by default the clip that scores highest is shown.
        point: Column and row, in pixels of the video, whose affinity is shown; by default where the
            features are strongest.
        at: Time of that point in seconds; by default the middle of the clip.
        block: Which block, by the unit that it stands before (see `actionrec info`); by default
            the last one.
        decoder: Library that decodes videos; those but pyav are extras and less exact.
        output: File to write, *.png (a sheet of frames) or *.mp4 (the clip), or a folder for both.
    """
    from actionrec import load
    from actionrec.explanation import default_method, explain_same_moment, explain_video
    from actionrec.overlays import picture_paths, write_picture

    paths = picture_paths(output, video)
    recognizers = [load(name) for name in (model, compare) if name is not None]
    if method == "auto":
        method = default_method(*recognizers)
    moment = {"start": start, "point": point and tuple(point), "at": at}
    shared = {"label": label, "block": block, "decoder": decoder}
    explanations = [explain_video(recognizers[0], video, method, **moment, **shared)]
    for other in recognizers[1:]:
        explanations.append(explain_same_moment(explanations[0], other, **shared))
    for explanation in explanations:
        print(
            f"{explanation.model}: {explanation.label} {explanation.score:.2%} "
            f"from {explanation.start:.2f} to {explanation.end:.2f} s"
        )
    if (marked := explanations[0].point) is not None:
        print(f"point: column {marked.x}, row {marked.y} at {marked.seconds:.2f} s")
    for path in paths:
        write_picture(explanations, path)
        print(path)
    return 0


def weights_list(format: Format = "table") -> int:
    """List the pretrained weights and whether they are in the cache.

    Example:
        actionrec weights list

    Args:
        format: What to print.
    """
    from actionrec.models.weights import cache_folder, list_weights

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
        name: Which (see `actionrec weights list`).
    """
    from actionrec.models.weights import fetch

    print(fetch(name))
    return 0


DATASETS: dict[DatasetName, tuple[str, str]] = {
    "ucf101": (
        "13,320 clips of 101 actions, three official splits and the paper's own",
        "ROOT/Class/v_Class_gNN_cNN.avi, or ROOT/UCF-101/Class/...; list files are not needed",
    ),
    "hmdb51": (
        "6,766 clips of 51 actions from films and the web, three official splits",
        "ROOT/class/*.avi, and the official CLASS_test_splitN.txt files in ROOT, beside it or in a "
        "folder testTrainMulti_7030_splits there",
    ),
    "kinetics": (
        "Kinetics-400, -600 or -700: ten-second clips from YouTube, or a part of them",
        "ROOT/train/ID_TTTTTT_TTTTTT.mp4, ROOT/val/..., with or without class folders, and "
        "ROOT/annotations/train.csv and val.csv",
    ),
    "folder": (
        "videos of your own, in one folder a class",
        "ROOT/train/CLASS/video.mp4 and ROOT/val/CLASS/video.mp4",
    ),
    "csv": (
        "videos of your own, listed in a CSV file",
        "ROOT is the file; columns path,label and, if known, group and split (train, val)",
    ),
    "demo": (
        "400 small generated clips of 8 motions, made on first use",
        "nothing is needed; ROOT is a new or empty folder, or left out for the cache",
    ),
}


def data_list(
    dataset: DatasetName | None = None,
    root: str | None = None,
    split: str = "1",
    format: Format = "table",
) -> int:
    """Count the videos of a data set by class, or list the data sets that there are.

    Examples:
        actionrec data list
        actionrec data list ucf101 --root UCF-101 --split paper
        actionrec data list folder --root my_videos --format json

    Args:
        dataset: Kind of data set; without it all kinds are listed.
        root: Its folder, or the CSV file.
        split: ucf101: 1, 2, 3 or paper; hmdb51: 1, 2 or 3; csv without a split column: fold 1
            to 5 by group.
        format: What to print.
    """
    if dataset is None:
        rows = [
            {"dataset": name, "what": what, "layout": at} for name, (what, at) in DATASETS.items()
        ]
        if format != "table":
            print_rows(rows, format)
        else:
            for row in rows:
                print(f"{row['dataset']:10}{row['what']}: {row['layout']}")
        return 0

    from actionrec.datasets import open_dataset

    data = open_dataset(dataset, root, split)
    per_class = {name: {"train": 0, "val": 0} for name in data.labels}
    for side, videos in (("train", data.train), ("val", data.val)):
        for video in videos:
            per_class[data.labels[video.label]][side] += 1
    groups = {video.group for video in data.train + data.val} - {None}
    DATASET_PRINTERS[format](
        {
            "dataset": dataset,
            "root": root,
            "split": split,
            "classes": len(data.labels),
            "train": len(data.train),
            "val": len(data.val),
            "flip": data.flip,
            "groups": len(groups) or None,
            "per_class": per_class,
        }
    )
    return 0


def data_download(dataset: Literal["ucf101"], root: str) -> int:
    """Download a data set and unpack it.

    Example:
        actionrec data download ucf101 --root data

    Args:
        dataset: Which.
        root: Folder for it, on a disk with room: UCF-101 has 7 GB.
    """
    from actionrec.datasets.download import download

    count = download(dataset, Path(root))
    print(f"{count.folder}: {count.videos} videos of {count.classes} classes")
    print(
        f"train with: actionrec train --dataset {dataset} --root {shlex.quote(str(count.folder))}"
    )
    return 0


def data_check(
    dataset: DatasetName,
    root: str | None = None,
    split: str | None = None,
    workers: int | None = None,
    timeout: float = 300,
    memory: int = 4096,
    again: bool = False,
    format: Format = "table",
) -> int:
    """Decode every video of a data set and name the bad ones with the reason.

    The findings are kept in a report beside the videos: an interrupted check goes on where it was,
    and training and evaluation leave out what is bad.

    Examples:
        actionrec data check ucf101 --root UCF-101
        actionrec data check folder --root my_videos --workers 8 --format json > report.json

    Args:
        dataset: Kind of data set.
        root: Its folder, or the CSV file.
        split: Only the videos of this split; by default all.
        workers: Processes that decode; by default one a processor core.
        timeout: Seconds after which a video is given up.
        memory: MiB that a video may take before it is given up.
        again: Decode also what was found good or bad before and has not changed since.
        format: What to print.
    """
    from actionrec.datasets.check import check
    from actionrec.workers import Limits

    folder = Path(root) if root is not None else None
    result = check(dataset, folder, split, workers, Limits(timeout, memory), again)
    judged, bad = result.report.judged, result.report.bad
    if format == "json":
        print(json.dumps(result.report.to_json(), indent=2))
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["video", "frames", "error"])
        for video, found in sorted(judged.items()):
            writer.writerow([video, found.frames, found.reason])
    else:
        print(f"{dataset}: {len(judged)} videos checked, {len(bad)} bad")
        for _, found in sorted(bad.items()):
            print(f"  {found.reason}")
        if result.file is not None:
            print(f"report: {result.file}")
    return 1 if bad else 0


def data_shrink(
    dataset: DatasetName,
    output: str,
    root: str | None = None,
    short_side: int = 128,
    workers: int | None = None,
    timeout: float = 300,
    memory: int = 4096,
) -> int:
    """Copy a data set with smaller videos, which are read about twice as fast.

    Names, numbers of frames and frame rates stay; sound is left out. An interrupted copy goes on
    where it was.

    Examples:
        actionrec data shrink ucf101 --root UCF-101 --output UCF-101-small
        actionrec data shrink csv --root my_videos.csv --output small --short-side 256

    Args:
        dataset: Kind of data set.
        output: Folder for the copy, new or from an interrupted run.
        root: The data set's folder, or the CSV file.
        short_side: Pixels of the short side; smaller videos are copied as they are. Training
            scales to 128 to 160 pixels unless told otherwise.
        workers: Processes that read and write videos; by default one a processor core.
        timeout: Seconds after which a video is given up.
        memory: MiB that a video may take before it is given up.
    """
    from actionrec.datasets.shrink import shrink
    from actionrec.workers import Limits

    folder = Path(root) if root is not None else None
    limits = Limits(timeout, memory)
    result = shrink(dataset, folder, Path(output), short_side, workers, limits)
    for failure in result.failures:
        complain(failure)
    print(
        f"{result.root}: {result.videos} videos, {result.before / 1e6:.1f} MB before, "
        f"{result.after / 1e6:.1f} MB now"
    )
    if result.failures:
        print(f"left out: {len(result.failures)}")
    print(f"train with: actionrec train --dataset {dataset} --root {shlex.quote(str(result.root))}")
    return 1 if result.failures else 0


DATA_VERBS: dict[str, Callable[..., int]] = {
    "list": data_list,
    "download": data_download,
    "check": data_check,
    "shrink": data_shrink,
}


def complain(message: str) -> None:
    """Tell the user of a problem, on stderr."""
    print(f"actionrec: {message}", file=sys.stderr, flush=True)


class Parser(ArgumentParser):
    """Offers --batch-size for a setting named batch_size, and takes either; says what is wrong
    in one sentence, without the page of usage."""

    def add_argument(self, *names: Any, **options: Any) -> Any:
        dashed = [n.replace("_", "-") for n in names if isinstance(n, str) and n.startswith("--")]
        return super().add_argument(*dict.fromkeys([*dashed, *names]), **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        verb = parser.prog.replace(" [options]", "")
        complain(f"{' '.join(message.split())} (`{verb} --help` lists the choices)")
        self.exit(2)


class ConfigFile(ActionConfigFile):
    """Takes a path or, where there is no such file, the name of one that we ship."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        shipped = configs_folder() / str(value)
        if not Path(value).exists() and shipped.is_file():
            value = str(shipped)
        super().__call__(parser, namespace, value, option)


def configs_folder() -> Path:
    """The YAML files that we ship: inside an installed package, beside it in a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def build_parser() -> Parser:
    """The parser of the whole command line, a subcommand a verb."""
    parser = Parser(
        prog="actionrec",
        description="Recognise human actions in video.",
        epilog="`actionrec VERB --help` has examples; --debug shows where an error arose.",
        version=f"actionrec {version('actionrec')}",
        formatter_class=HelpFormatter,
    )
    verbs = parser.add_subcommands(dest="verb", metavar="VERB")

    predict_parser = verb_parser(predict)
    predict_parser.add_argument(
        "paths",
        nargs="*",
        default=[],
        help="Video files, folders with videos, or patterns in quotes.",
    )
    predict_parser.add_argument(
        "--timeline", action="store_true", help="Tell which action begins and ends when."
    )
    predict_parser.add_argument(
        "--output",
        nargs="+",
        default=[],
        metavar="FILE",
        help="File for the results, *.jsonl or *.parquet; with --timeline files for that of one "
        "video: *.json, *.csv, *.vtt (WebVTT) or *.srt.",
    )
    predict_parser.add_function_arguments(predict, skip={"paths", "timeline", "output"})
    verbs.add_subcommand("predict", predict_parser, help=summary(predict))

    train_parser = verb_parser(train)
    add_train_settings(train_parser)
    verbs.add_subcommand("train", train_parser, help=summary(train))

    tune_parser = verb_parser(tune)
    tune_parser.add_argument("what", type=Literal["lr", "batch_size"], help="What to find.")
    add_train_settings(tune_parser)
    verbs.add_subcommand("tune", tune_parser, help=summary(tune))

    evaluate_parser = verb_parser(evaluate)
    evaluate_parser.add_function_arguments(evaluate)
    verbs.add_subcommand("evaluate", evaluate_parser, help=summary(evaluate))

    info_parser = verb_parser(info)
    info_parser.add_function_arguments(info, skip={"stages"})
    add_stages(info_parser)
    verbs.add_subcommand("info", info_parser, help=summary(info))

    explain_parser = verb_parser(explain)
    explain_parser.add_argument("video", help="Video file.")
    explain_parser.add_argument(
        "--point",
        nargs=2,
        type=int,
        metavar=("X", "Y"),
        help="Column and row, in pixels of the video, whose affinity is shown; by default where "
        "the features are strongest.",
    )
    explain_parser.add_function_arguments(explain, skip={"video", "point"})
    verbs.add_subcommand("explain", explain_parser, help=summary(explain))

    export_parser = verb_parser(export)
    export_parser.add_function_arguments(export)
    verbs.add_subcommand("export", export_parser, help=summary(export))

    app_parser = verb_parser(app)
    app_parser.add_argument("--open", action="store_true", help="Open the page in the browser.")
    app_parser.add_function_arguments(app, skip={"open"})
    verbs.add_subcommand("app", app_parser, help=summary(app))

    weights_parser = Parser(description="Pretrained weights.")
    verbs.add_subcommand("weights", weights_parser, help=weights_parser.description)
    weights_verbs = weights_parser.add_subcommands(dest="weights_verb", metavar="VERB")
    for name, function in (("list", weights_list), ("download", weights_download)):
        subparser = verb_parser(function)
        subparser.add_function_arguments(function, as_positional=True)
        weights_verbs.add_subcommand(name, subparser, help=summary(function))

    data_parser = Parser(description="Data sets: count, download, check and shrink them.")
    verbs.add_subcommand("data", data_parser, help=data_parser.description)
    data_verbs = data_parser.add_subcommands(dest="data_verb", metavar="VERB")
    for name, function in DATA_VERBS.items():
        subparser = verb_parser(function)
        names = {"type": Literal["ucf101"] if function is data_download else DatasetName}
        if function is data_list:
            names["nargs"] = "?"
        subparser.add_argument("dataset", help="Kind of data set.", **names)
        if function is data_check:
            help = "Decode also what was judged before and has not changed since."
            subparser.add_argument("--again", action="store_true", help=help)
        subparser.add_function_arguments(function, skip={"dataset", "again"})
        data_verbs.add_subcommand(name, subparser, help=summary(function))
    return parser


def verb_parser(function: Callable[..., int]) -> Parser:
    """A parser with the docstring of `function`, but for its arguments, as its description."""
    return Parser(
        description=inspect.getdoc(function).partition("\n\nArgs:")[0],
        print_config="--print-config",
    )


def add_train_settings(parser: Parser) -> None:
    """Add --config and a flag for every field of TrainConfig."""
    parser.add_argument(
        "--config", action=ConfigFile, help="YAML file with any of these settings; flags win."
    )
    parser.add_class_arguments(TrainConfig, skip={"stages", "crop_area"})
    add_stages(parser)
    parser.add_argument(
        "--crop_area",
        nargs=2,
        type=float,
        default=None,
        metavar=("LEAST", "MOST"),
        help="Share of the frame's area that a training crop takes, such as 0.3 1 (Inception's "
        "way, sides 3:4 to 4:3); by default squares by short_side.",
    )


def add_stages(parser: Parser) -> None:
    """Add --stages 3 4, which a list in a signature would only take as --stages=[3,4]."""
    parser.add_argument(
        "--stages",
        nargs="+",
        type=int,
        default=[4],
        help="Stages that get a block before their last unit.",
    )


def summary(function: Callable[..., int]) -> str:
    """The first line of a verb's docstring."""
    return inspect.getdoc(function).splitlines()[0]


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the line ends of descriptions alone, so that examples can be copied; says nothing of
    Python's types, of defaults only those that are something, and each name in one spelling."""

    def _format_action_invocation(self, action: Action) -> str:
        action = copy(action)
        action.option_strings = [name for name in action.option_strings if "_" not in name]
        return super()._format_action_invocation(action)

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action)
        for type_of_value in ("type: %(type)s, ", ", type: %(type)s", " (type: %(type)s)"):
            text = text.replace(type_of_value, "")
        is_switch = action.nargs == 0
        if is_switch or action.default in (None, []):
            text = text.removesuffix(" (default: %(default)s)")
        return text


def run(options: Namespace) -> int:
    """Call the verb that was asked for."""
    if options.verb == "weights":
        verb = {"list": weights_list, "download": weights_download}[options.weights.weights_verb]
        return verb(**vars(options.weights[options.weights.weights_verb]))
    if options.verb == "data":
        return DATA_VERBS[options.data.data_verb](**vars(options.data[options.data.data_verb]))
    values = vars(options[options.verb])
    if options.verb == "train":
        del values["config"]
        return train(TrainConfig(**values))
    if options.verb == "tune":
        del values["config"]
        return tune(values.pop("what"), TrainConfig(**values))
    verbs = {
        "predict": predict,
        "evaluate": evaluate,
        "info": info,
        "explain": explain,
        "export": export,
        "app": app,
    }
    return verbs[options.verb](**values)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    options = build_parser().parse_args([word for word in arguments if word != "--debug"])
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("actionrec").setLevel(logging.INFO)
    try:
        return run(options)
    except ActionrecError as error:
        if debug:
            raise
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if debug:
            raise
        complain(f"{error.filename or 'A file'} could not be used: {error.strerror}.")
        return 1
    except KeyboardInterrupt:
        complain("interrupted; what was printed or saved until now is complete.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
