"""Train a model: `actionrec train --dataset demo --config demo.yaml`.

A run's folder holds:

    config.yaml                       repeats the run
    model.safetensors                 the epoch with the best clip-level Top-1 on the validation
                                      videos; with several labels a video, the best mAP
    last.safetensors                  the last epoch
    results.json                      the figures of both epochs
    report.html                       curves, confusion matrix, classes; at the end
    last.ckpt, previous.ckpt          to resume from
    logs/                             CSV, and TensorBoard where that is installed
    bad_videos.json                   videos that could not be read, if any
"""

import hashlib
import json
import logging
import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
import yaml
from pytorch_lightning.callbacks import LambdaCallback, RichProgressBar
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from actionrec import devices
from actionrec.config import TrainConfig, read_yaml
from actionrec.datasets.check import without_damaged_videos
from actionrec.datasets.dataset import VideoDataset, absent_classes
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, Failure, UsageError
from actionrec.evaluation.several_labels import multi_hot
from actionrec.files import exclusive, remove_leftovers, write_whole
from actionrec.models import conversion
from actionrec.models.catalogue import MODELS
from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.models.complexity import parts_table, trained_parts
from actionrec.models.decision import Decision
from actionrec.processes import reader_failures_as_errors
from actionrec.recipes import (
    FOR_THE_PAPER,
    HEAD_ALONE,
    OF_CLIPS,
    OF_STEPS,
    RECIPES,
    VERY_FEW_VIDEOS,
    choose_recipe,
    recipe_settings,
)
from actionrec.training.clips import are_dark, loaders
from actionrec.training.early_stopping import reason_to_stop
from actionrec.training.figures import EpochFigures
from actionrec.training.head import LEAST_PENALTY_TO_START, fit_head, train_head
from actionrec.training.loggers import build_loggers, require_logger
from actionrec.training.loss import class_weights, require_videos
from actionrec.training.module import Training
from actionrec.training.precision import LIGHTNING_PRECISION, resolved_precision
from actionrec.training.report import as_flag, write_training_report
from actionrec.training.resume import Checkpoints, newest_progress, saved_state
from actionrec.video.decoders import require_decoder
from actionrec.video.pictures import FRAME_RATE
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

log = logging.getLogger(__name__)

# A run may be continued with other values of these: they change its result by roundings only, or
# say how long it goes on and who hears of it.
MAY_DIFFER = ("resume", "workers", "devices", "nodes", "gradient_checkpointing")
MAY_DIFFER += ("patience", "logger")
# Machines that train together may differ in these.
OF_A_MACHINE = ("root", "output", "workers", "resume", "decoder")


def train(config: TrainConfig) -> dict[str, Any]:
    """Run the training that `config` describes.

    Returns the figures of `results.json`, the run's `output` folder, and its `bad_videos` with
    their reasons.

    Raises:
        UsageError: the output folder holds another run, or settings don't fit each other.
        ActionrecError: data or weights can't be used, or too many videos are unreadable.
    """
    quiet_lightning()
    devices.expect(config.devices * config.nodes)
    if not devices.is_first():
        logging.getLogger("actionrec").setLevel(logging.ERROR)
    listed = open_listed_data(config)
    dataset, damaged = without_damaged_videos(listed)
    config = resolve(config, dataset)
    output, checkpoint = Path(config.output), Path(config.output, "last.ckpt")
    if devices.is_first():
        check_output(config, output)
    resume_from, resumed = newest_progress(checkpoint)
    saved = saved_state(resume_from) if resume_from else {}
    data = data_facts(listed)
    require_same_data(data, saved, output)
    check_dataset(dataset, config)
    if resumed and resumed.epoch and devices.is_first():
        require_best_model(output)
    reason = reason_to_stop(saved.get("results", {}), config)
    if resumed and (reason or resumed.epoch >= config.epochs):
        log.info("%s is finished: nothing is left to train. %s", output, reason or "")
        if devices.is_first() and not (output / "report.html").is_file():
            write_missing_report(config, dataset, saved, output)
        results = read_results(output / "results.json")
        return results | {"output": str(output), "bad_videos": saved["bad"]}
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    warn_of_random_layers(config)
    model = build_classifier(config, dataset.labels)
    busy = (
        f"Another training is writing {output}; wait until it is done, or choose another --output."
    )
    with exclusive(output / "run", busy) if devices.is_first() else nullcontext():
        return _fit(config, dataset, damaged, model, output, data)


def _fit(
    config: TrainConfig,
    dataset: VideoDataset,
    damaged: list[Failure],
    model: VideoClassifier,
    output: Path,
    data: dict[str, int | str],
) -> dict[str, Any]:
    """Train `model` in the folder `output`, which no other process writes to."""
    if devices.is_first():
        # Again, because another training may have come first.
        check_output(config, output)
        # A killed process leaves half a checkpoint, as large as a whole one.
        remove_leftovers(output)
        write_whole(output / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
    parts = trained_parts(model.network)
    table = parts_table(parts, config.freeze_batchnorm)
    log.info("%s with block %s:", config.backbone, config.block)
    for line in table.splitlines():
        log.info("%s", line)
    if config.train_from == "head":
        results, unreadable = train_head(model, config, dataset, damaged, output)
        return results | {"output": str(output), "bad_videos": unreadable}
    checkpoint = output / "last.ckpt"
    several = config.devices * config.nodes > 1
    if config.sync_batchnorm and several:
        devices.synchronise_batchnorm(model.network)
    resume_from, resumed = newest_progress(checkpoint)
    if config.fit_head and devices.is_first() and not resumed:
        # The others get it with the first one's weights.
        fit_head(model, config, dataset.train, LEAST_PENALTY_TO_START)
    elif config.multi_label and not Path(config.weights).is_file() and not resumed:
        begin_with_frequencies(model.network.head, dataset)
    weights = loss_weights(config, dataset)
    training = Training(model, config, output, len(dataset.train), weights)
    training.record_failures(damaged)
    training.data = data
    if config.compile:
        model.network.compile()
    # Another machine may see other files. The processes have met in `setup`.
    facts = dataset.facts() | {"place to go on from": resumed}
    settings = asdict(config).items()
    facts |= {f"setting {key}": value for key, value in settings if key not in OF_A_MACHINE}
    comparison = LambdaCallback(setup=lambda *_, stage: devices.require_same(facts))
    trainer = build_trainer(
        config,
        max_epochs=config.epochs,
        # Statistics of batches are copied once an epoch, before the validation, not every step.
        strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
        logger=build_loggers(config, output, resumed.epoch if resumed else 0),
        callbacks=[
            RichProgressBar(console_kwargs={"stderr": True}),
            Checkpoints(checkpoint),
            comparison,
        ],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    batches = loaders(config, dataset, model.config, resumed)
    try:
        with reader_failures_as_errors(), devices.lost_processes_as_errors():
            trainer.fit(training, *batches, ckpt_path=resume_from, weights_only=True)
    except BaseException as error:
        # The processes that Lightning has started would wait for this one forever.
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        if isinstance(error, torch.OutOfMemoryError):
            raise ActionrecError(
                f"The GPU's memory can't hold a step of {config.batch_size} clips; use a smaller "
                "--batch-size, with --accumulate for the same step (`actionrec tune batch_size` "
                "finds the largest), or --gradient-checkpointing true."
            ) from error
        raise
    if devices.is_first():
        write_report(config, dataset, model, training.epochs, training.validated, output)
    return training.results | {"output": str(output), "bad_videos": training.unreadable}


def warn_of_random_layers(config: TrainConfig) -> None:
    """Warn if what stays frozen has never been trained."""
    flags = {
        f"--train-from {config.train_from}": config.train_from != "all",
        "--freeze-batchnorm true": config.freeze_batchnorm,
    }
    given = " and ".join(flag for flag, freezes in flags.items() if freezes)
    if config.weights == "none" and given:
        log.warning(
            "The network begins with random weights, and what %s freezes stays random; start from "
            "--weights, or train everything.",
            given,
        )


def write_report(
    config: TrainConfig,
    dataset: VideoDataset,
    model: VideoClassifier,
    epochs: Sequence[EpochFigures],
    validated: Sequence[torch.Tensor],
    output: Path,
) -> None:
    """Write report.html; `validated` are the truths and predictions that the last epoch noted."""
    noted = torch.cat(list(validated)).numpy()
    truths, predictions = np.split(noted, 2, axis=1) if config.multi_label else noted.T
    videos = None if config.multi_label else dataset.train_counts()
    parts = trained_parts(model.network)
    write_training_report(output, epochs, truths, predictions, dataset.labels, parts, videos=videos)


def write_missing_report(
    config: TrainConfig, dataset: VideoDataset, saved: Mapping[str, Any], output: Path
) -> None:
    """Write the report of a finished run that was killed before it, or had no room for it."""
    # A checkpoint of an earlier version has none.
    if saved.get("validated"):
        epochs = [EpochFigures.of(figures) for figures in saved["epochs"]]
        model = build_classifier(config, dataset.labels)
        write_report(config, dataset, model, epochs, saved["validated"], output)


def data_facts(listed: VideoDataset) -> dict[str, int | str]:
    """What a run that goes on must find again, of the data set with its damaged videos, in any
    order."""
    counts = {name: fact for name, fact in listed.facts().items() if isinstance(fact, int)}
    videos = sorted(
        repr((side, video.path.name, video.all_labels, video.segment))
        for side in ("train", "val")
        for video in getattr(listed, side)
    )
    names = hashlib.sha256(repr((listed.labels, videos)).encode()).hexdigest()
    return counts | {"names of videos and classes": names}


def require_same_data(now: Mapping[str, int | str], saved: Mapping[str, Any], output: Path) -> None:
    """Raise UsageError if the run that saved its state in `output` had other videos or labels."""
    for name, before in saved.get("data", {}).items():
        if now[name] != before:
            told = "are others" if isinstance(before, str) else f"is {now[name]}, not {before}"
            raise UsageError(
                f"{output} holds a run on other data, of which the {name} {told}; "
                "choose another folder with --output, or continue it with the data of its start."
            )


def resolve(config: TrainConfig, dataset: VideoDataset | None = None) -> TrainConfig:
    """The settings with everything filled in that they leave to recipe, machine or each other.

    Args:
        config: The settings as given.
        dataset: The data set, where it is open already.

    Raises:
        UsageError: settings don't fit each other or this machine.
        ActionrecError: the recipe depends on the data set, and it can't be opened.
    """
    config = fill_in(config, dataset)
    processes = config.devices * config.nodes
    if config.train_from == "head" and (config.block != "none" or processes > 1):
        raise UsageError(
            "--train-from head fits the head of the pretrained network alone, in one process; "
            "leave out --block, --devices and --nodes, or train from block."
        )
    if config.train_from == "head":
        require_no_steps(config)
    balanced = config.class_weights != "none" or config.balanced_sampling or config.focal_gamma
    if config.multi_label and balanced:
        raise UsageError(
            "--class-weights, --balanced-sampling and --focal-gamma are for one label a video; "
            "leave them out with --multi-label true."
        )
    if config.warmup >= config.epochs:
        raise UsageError(
            f"warmup is {config.warmup}; it must be less than the {config.epochs} epochs."
        )
    devices.require_devices(config.devices)
    if config.batch_size % processes:
        raise UsageError(
            f"A batch_size of {config.batch_size} can't be shared by {config.devices} devices on "
            f"each of {config.nodes} nodes; choose a multiple of {processes}."
        )
    area = config.crop_area
    if area is not None and (len(area) != 2 or area[0] > area[1]):
        raise UsageError(f"crop_area is {area}; it must be two shares in (0, 1], the least first.")
    require_decoder(config.decoder)
    require_logger(config.logger)
    if config.compile and config.gradient_checkpointing:
        raise UsageError("--compile and --gradient-checkpointing don't go together; leave out one.")
    if config.batch_size % config.repeated_augmentation:
        raise UsageError(
            f"A batch_size of {config.batch_size} can't hold {config.repeated_augmentation} clips "
            "of each of its videos; choose a multiple, or another --repeated-augmentation."
        )
    name = "head" if config.train_from == "head" else config.block
    output = config.output or f"runs/{config.dataset}-{config.backbone}-{name}"
    return replace(config, precision=resolved_precision(config), output=output)


def fill_in(config: TrainConfig, dataset: VideoDataset | None = None) -> TrainConfig:
    """The settings with the recipe's values for those that are not given."""
    # Of the processes that read videos, too.
    os.environ[FRAME_RATE] = str(config.frame_rate)
    name = config.recipe
    # A network without weights has nothing to keep.
    if name == "auto" and (config.dataset in FOR_THE_PAPER or config.weights == "none"):
        name = "paper"
    if name != "paper":
        dataset = dataset or open_training_data(config)[0]
    if name == "auto":
        name = choose_recipe(len(dataset.train))
    if config.backbone is None and config.weights in MODELS:
        config = replace(config, backbone=MODELS[config.weights].backbone)
    recipe = recipe_settings(name, config.optimizer)
    if_very_few, if_dark = RECIPES[name].if_very_few, RECIPES[name].if_dark
    if if_very_few and len(dataset.train) < VERY_FEW_VIDEOS:
        recipe = recipe | if_very_few
    if if_dark and config.gamma is None and are_dark(dataset.train, config.decoder):
        recipe = recipe | if_dark
    if config.train_from == "head":
        # Where only one of the two is given, the other of a head alone may not fit it.
        sized = config.short_side is not None or config.crop is not None
        sizes = {key: recipe[key] for key in ("short_side", "crop")} if sized else {}
        recipe = recipe | HEAD_ALONE | sizes
    filled = {key: value for key, value in recipe.items() if getattr(config, key) is None}
    config = replace(config, recipe=name, **filled)
    title = f"recipe {name}, for {RECIPES[name].description}"
    if config.train_from == "head":
        # It has no steps to tell of.
        title = "clips for a head alone"
        filled = {key: value for key, value in filled.items() if key in OF_CLIPS}
    if filled:
        log.info(f"{title}: {', '.join(f'{key} {as_flag(x)}' for key, x in filled.items())}")
    return config


def require_no_steps(config: TrainConfig) -> None:
    """Raise UsageError if a setting of steps is given for a head that is fitted without any."""
    defaults = {each.name: each.default for each in fields(config)} | RECIPES[
        config.recipe
    ].settings
    if steps := [name for name in OF_STEPS if getattr(config, name) != defaults[name]]:
        flag = f"--{steps[0].replace('_', '-')}"
        raise UsageError(
            f"--train-from head fits the head without steps; leave out {flag}, or train from block."
        )


def check_output(config: TrainConfig, output: Path) -> None:
    """Check that the output folder is free, or holds this very run and may be continued.

    Raises:
        UsageError: it is not, or its config.yaml is damaged.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; choose another folder with --output.")
    # A run that was killed while it wrote its first file has left a hidden one.
    if not output.exists() or all(path.name.startswith(".") for path in output.iterdir()):
        return
    saved = output / "config.yaml"
    if not saved.is_file():
        one = max(path.name for path in output.iterdir())
        raise UsageError(
            f"{output} holds no run but files such as {one}; choose a new folder with --output."
        )
    other = read_yaml(saved)
    mine = asdict(config)
    # A setting that is newer than the run had the value that is its default now.
    paper = RECIPES["paper"].settings
    its = asdict(TrainConfig(config.dataset, recipe="paper", **paper)) | other
    differing = [key for key in mine if key not in MAY_DIFFER and its[key] != mine[key]]
    if config.resume == "never" or differing:
        why = f" with another {differing[0]}" if differing else ""
        hint = "" if differing else ", or continue it with --resume auto"
        raise UsageError(
            f"{output} already holds a run{why}; choose another folder with --output{hint}."
        )


def require_best_model(output: Path) -> None:
    """Raise ActionrecError if a run that has finished an epoch lacks the model of its best one."""
    if not (output / "model.safetensors").is_file():
        raise ActionrecError(
            f"{output} has lost its model.safetensors, the best epoch's, which no checkpoint "
            "holds; use its last.safetensors, or delete the folder's *.ckpt to train anew."
        )


def read_results(path: Path) -> dict[str, Any]:
    """The figures of a finished run.

    Raises:
        ActionrecError: they are missing or damaged.
    """
    try:
        results = dict(json.loads(path.read_text(encoding="utf-8")))
        for name in ("best", "last"):
            clip = results[name]["clip"]
            int(results[name]["epoch"]), float(clip["top1"]), float(clip["top5"]), int(clip["n"])
        return results
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ActionrecError(
            f"{path} of the finished run is missing or damaged ({error}); its model.safetensors "
            "can still be evaluated."
        ) from error


def open_training_data(config: TrainConfig) -> tuple[VideoDataset, list[Failure]]:
    """The data set without its videos that are known to be damaged, and these.

    Raises:
        UsageError, ActionrecError: as `open_dataset` and `without_damaged_videos`.
    """
    return without_damaged_videos(open_listed_data(config))


def open_listed_data(config: TrainConfig) -> VideoDataset:
    """The data set with all of its videos.

    Raises:
        UsageError, ActionrecError: as `open_dataset`.
    """
    dataset = open_dataset(
        config.dataset, config.root, config.split, multi_label=config.multi_label
    )
    return dataset if config.flip is None else replace(dataset, flip=config.flip)


def check_dataset(dataset: VideoDataset, config: TrainConfig) -> None:
    """Tell the size of the data set, and warn of classes and steps without enough videos.

    Raises:
        ActionrecError: the data set has one class only.
        UsageError: there are fewer videos than processes, or settings name classes that there are
            not, or that have no training videos.
    """
    what = "segments" if dataset.has_segments else "videos"
    log.info(
        f"{dataset.name}: {len(dataset.train)} training and {len(dataset.val)} validation {what} "
        f"of {len(dataset.labels)} classes{'' if dataset.flip else ', not mirrored'}"
    )
    if dataset.multi_label:
        check_several_labels(dataset)
    elif len(dataset.labels) < 2:
        raise ActionrecError(
            f"{dataset.name} has one class only, {dataset.labels[0]!r}; training needs two."
        )
    for side, videos in (("training", dataset.train), ("validation", dataset.val)):
        present = {label for video in videos for label in video.all_labels}
        absent = absent_classes(dataset.labels, present)
        if absent:
            log.warning("%d %s videos%s", len(videos), side, absent)
    clips = len(dataset.train) * config.repeated_augmentation
    if config.batch_size > clips and config.train_from != "head":
        log.warning(
            f"a step has {clips} clips, not {config.batch_size}: there are no more training videos"
        )
    loss_weights(config, dataset)
    if config.balanced_sampling:
        require_videos("--balanced-sampling true", dataset.labels, dataset.train_counts())
    fewest, processes = min(len(dataset.train), len(dataset.val)), config.devices * config.nodes
    if fewest < processes:
        raise UsageError(
            f"{processes} processes can't share {fewest} videos; use fewer --devices and --nodes."
        )


def loss_weights(config: TrainConfig, dataset: VideoDataset) -> torch.Tensor | None:
    """The weights (classes,) of the classes in the loss; None and errors as of `class_weights`."""
    if config.multi_label:
        return None
    return class_weights(config.class_weights, dataset.labels, dataset.train_counts())


def check_several_labels(dataset: VideoDataset) -> None:
    """Tell how many videos have several labels or none, and warn of labels that all have.

    Raises:
        ActionrecError: all training videos have the only label, or no validation video has any.
    """
    counts = [len(video.labels) for video in dataset.train + dataset.val]
    log.info(
        f"{sum(count > 1 for count in counts)} videos have several labels, "
        f"{counts.count(0)} have none"
    )
    everywhere = set.intersection(*(set(video.labels) for video in dataset.train))
    if everywhere and len(dataset.labels) == 1:
        raise ActionrecError(
            f"All training videos of {dataset.name} have the only label, {dataset.labels[0]!r}; "
            "add videos without it, with an empty label."
        )
    if everywhere:
        names = ", ".join(dataset.labels[label] for label in sorted(everywhere))
        log.warning("All training videos have the label %s, which can't be learnt so.", names)
    if not any(video.labels for video in dataset.val):
        raise ActionrecError(
            f"No validation video of {dataset.name} has a label, so nothing can be measured; put "
            "some that have one on the side val."
        )


def begin_with_frequencies(head: nn.Linear, dataset: VideoDataset) -> None:
    """Let a new head's scores begin near the labels' frequencies, not at a half, so that the first
    gradients of rare labels don't drown all others (Lin et al. 2017, Sec. 3.3)."""
    counts = multi_hot([video.labels for video in dataset.train], head.out_features).sum(axis=0)
    share = torch.from_numpy((counts + 0.5) / (len(dataset.train) + 1))
    with torch.no_grad():
        head.bias.copy_(share.logit())


def build_classifier(config: TrainConfig, labels: tuple[str, ...]) -> VideoClassifier:
    """A model of the classes `labels` that starts from the weights of `config`.

    Raises:
        UsageError: settings don't fit each other, or there are no such weights.
        ActionrecError: the weights can't be read or don't fit the backbone.
    """
    checkpoint = None
    if config.weights != "none":
        checkpoint = conversion.load(config.weights, config.backbone)
    statistics = {"mean": checkpoint.mean, "std": checkpoint.std} if checkpoint else {}
    model = VideoClassifier(
        ClassifierConfig(
            labels=labels,
            backbone=config.backbone,
            block=BlockConfig(
                name=config.block,
                stages=tuple(config.stages),
                per_stage=config.blocks_per_stage,
                reduction=config.reduction,
                order=config.order,
                groups=config.groups,
                passes=config.passes,
                units=config.units,
            ),
            sampling=ClipSampling(config.clip_length, config.stride, config.fps),
            preprocessing=Preprocessing(
                config.short_side, config.crop, gamma=config.gamma, **statistics
            ),
            decision=Decision(config.multi_label),
        )
    )
    if checkpoint:
        report = model.load_pretrained(checkpoint.tensors, config.weights)
        log.info("weights %s: %s", config.weights, report)
    if config.drop_path is not None:
        model.network.set_drop_path(config.drop_path)
    if config.train_from != "all":
        model.network.freeze_before(config.train_from)
    return model


def build_trainer(config: TrainConfig, **options: Any) -> lightning.Trainer:
    """Lightning's trainer for the optimisation, devices and precision of `config`."""
    alone = None
    if config.devices * config.nodes == 1:
        # Lightning, too, would take its rank from the environment, and write nothing but as first.
        alone = LightningEnvironment()
        alone.set_global_rank(0)
    return lightning.Trainer(
        plugins=alone,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_gradient,
        accelerator="auto",
        devices=config.devices,
        num_nodes=config.nodes,
        precision=LIGHTNING_PRECISION[config.precision],
        use_distributed_sampler=False,
        enable_model_summary=False,
        **options,
    )


def quiet_lightning() -> None:
    """Silence the framework's hints: they are about code that the user didn't write."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)
    # Of kernels of one pixel, whose strides mean nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
