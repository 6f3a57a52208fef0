"""Train a model: `actionrec train --dataset demo --config demo.yaml`.

A run's folder holds `config.yaml` (repeats the run), `model.safetensors` (the best epoch by
clip-level Top-1 on the validation videos), `last.safetensors` (the last epoch), `results.json`
(both epochs' figures), `report.html` (curves, confusion matrix, classes; at the end), `last.ckpt`
(to resume from), `logs/` (CSV and TensorBoard) and, where videos could not be read,
`bad_videos.json`.
"""

import json
import logging
import signal
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
import yaml
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy

from actionrec import devices
from actionrec.config import TrainConfig
from actionrec.datasets.check import without_damaged_videos
from actionrec.datasets.dataset import VideoDataset, absent_classes
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, UsageError
from actionrec.files import replacing
from actionrec.models import conversion
from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.models.complexity import parts_table, trained_parts
from actionrec.processes import reader_failures_as_errors
from actionrec.training.clips import loaders, reader_of
from actionrec.training.module import Training
from actionrec.training.precision import resolved_precision
from actionrec.training.report import write_training_report
from actionrec.training.resume import Checkpoints, read_progress
from actionrec.video.decoders import require_decoder
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

log = logging.getLogger(__name__)

# Settings that a run may be continued without, since they change nothing of its result but
# roundings.
NO_RESULT = ("resume", "workers", "devices", "nodes")


def train(config: TrainConfig) -> dict[str, Any]:
    """Run the training that `config` describes.

    Returns the figures of `results.json`, the run's `output` folder, and its `bad_videos` with
    their reasons.

    Raises:
        UsageError: the output folder holds another run, or settings don't fit each other.
        ActionrecError: data or weights can't be used, or too many videos are bad.
    """
    quiet_lightning()
    config = resolve(config)
    require_decoder(config.decoder)
    output = Path(config.output)
    if devices.is_first():
        checkpoint = prepare_output(config, output)
    else:
        logging.getLogger("actionrec").setLevel(logging.ERROR)
        checkpoint = find_checkpoint(output)
    dataset = open_dataset(config.dataset, config.root, config.split)
    dataset, known_bad = without_damaged_videos(dataset)
    flip = dataset.flip if config.flip is None else config.flip
    log.info(
        "%s: %d training and %d validation videos of %d classes%s",
        dataset.name,
        len(dataset.train),
        len(dataset.val),
        len(dataset.labels),
        "" if flip else ", not mirrored",
    )
    require_classes(dataset)
    warn_of_what_is_odd(dataset, config)
    require_videos_for_all(dataset, config.devices * config.nodes)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    resumed = read_progress(checkpoint) if checkpoint else None
    if resumed and resumed.epoch >= config.epochs:
        log.info("%s is finished: nothing is left to train.", output)
        results = json.loads((output / "results.json").read_text())
        return results | {"output": str(output), "bad_videos": {}}
    model = build_recognizer(config, dataset)
    if devices.is_first():
        with replacing(output / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    parts = trained_parts(model.network)
    table = parts_table(parts, config.freeze_batchnorm)
    log.info("%s with block %s:\n%s", config.backbone, config.block, table)
    several = config.devices * config.nodes > 1
    if config.sync_batchnorm and several:
        devices.synchronise_batchnorm(model.network)
    training = Training(model, config, output, len(dataset.train))
    training.note_bad(known_bad)
    if config.compile:
        model.network.compile()
    trainer = lightning.Trainer(
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_gradient,
        accelerator="auto",
        devices=config.devices,
        num_nodes=config.nodes,
        # Statistics of batches are copied once an epoch, before the validation, not every step.
        strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
        use_distributed_sampler=False,
        precision=config.precision,
        logger=[CSVLogger(output, "", "logs"), TensorBoardLogger(output, "", "logs")],
        callbacks=[
            RichProgressBar(console_kwargs={"stderr": True}),
            Checkpoints(output / "last.ckpt"),
        ],
        num_sanity_val_steps=0,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    train_loader, val_loader = loaders(config, dataset, reader_of(model, config), flip, resumed)
    try:
        with reader_failures_as_errors():
            trainer.fit(training, train_loader, val_loader, ckpt_path=checkpoint, weights_only=True)
    except BaseException as error:
        if several:
            end_others(trainer)
        if isinstance(error, torch.OutOfMemoryError):
            raise ActionrecError(
                f"The GPU's memory can't hold a step of {config.batch_size} clips; use a smaller "
                "--batch-size, with --accumulate for the same step (`actionrec tune batch_size` "
                "finds the largest)."
            ) from error
        raise
    if devices.is_first():
        truths, predictions = torch.cat(training.validated).numpy().T
        write_training_report(output, training.epochs, truths, predictions, dataset.labels, parts)
    return training.results | {"output": str(output), "bad_videos": training.bad}


def end_others(trainer: lightning.Trainer) -> None:
    """End the processes that Lightning has started; without the first they would wait forever."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(signal.SIGKILL)


def require_classes(dataset: VideoDataset) -> None:
    """Check that there is something to tell apart.

    Raises:
        ActionrecError: the data set has one class.
    """
    if len(dataset.labels) < 2:
        raise ActionrecError(
            f"{dataset.name} has one class only, {dataset.labels[0]!r}; training needs two."
        )


def warn_of_what_is_odd(dataset: VideoDataset, config: TrainConfig) -> None:
    """Tell of classes without videos, and of a batch that there are too few videos for."""
    for side, videos in (("training", dataset.train), ("validation", dataset.val)):
        absent = absent_classes(dataset.labels, {video.label for video in videos})
        if absent:
            log.warning("%d %s videos%s", len(videos), side, absent)
    if config.batch_size > len(dataset.train):
        log.warning(
            "a step has %d clips, not %d: there are no more training videos",
            len(dataset.train),
            config.batch_size,
        )


def require_videos_for_all(dataset: VideoDataset, processes: int) -> None:
    """Check that no process of several would be without a video.

    Raises:
        UsageError: there are too few.
    """
    fewest = min(len(dataset.train), len(dataset.val))
    if fewest < processes:
        raise UsageError(
            f"{processes} processes can't share {fewest} videos; use fewer --devices and --nodes."
        )


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in what `config` leaves to the machine or derives from other settings."""
    for name in ("epochs", "batch_size", "accumulate"):
        if getattr(config, name) < 1:
            raise UsageError(f"{name} is {getattr(config, name)}; it must be at least 1.")
    if not 0 <= config.label_smoothing < 1:
        raise UsageError(f"label_smoothing is {config.label_smoothing}; it must be in [0, 1).")
    if config.clip_gradient is not None and config.clip_gradient <= 0:
        raise UsageError(f"clip_gradient is {config.clip_gradient}; it must be above 0.")
    if not 0 <= config.warmup < config.epochs:
        raise UsageError(
            f"warmup is {config.warmup}; it must be at least 0 and less than the "
            f"{config.epochs} epochs."
        )
    if config.lr_for_batch is not None and config.lr_for_batch < 1:
        raise UsageError(f"lr_for_batch is {config.lr_for_batch}; it must be at least 1.")
    if config.ema is not None and not 0 < config.ema < 1:
        raise UsageError(f"ema is {config.ema}; it must be between 0 and 1.")
    devices.require_devices(config.devices, config.nodes)
    if config.batch_size % (config.devices * config.nodes):
        raise UsageError(
            f"A batch_size of {config.batch_size} can't be shared by {config.devices} devices on "
            f"each of {config.nodes} nodes; choose a multiple of {config.devices * config.nodes}."
        )
    areas = config.crop_area
    if areas is not None and not (len(areas) == 2 and 0 < areas[0] <= areas[1] <= 1):
        raise UsageError(f"crop_area is {areas}; it must be two shares in (0, 1], the least first.")
    output = config.output or f"runs/{config.dataset}-{config.backbone}-{config.block}"
    return replace(config, precision=resolved_precision(config), output=output)


def prepare_output(config: TrainConfig, output: Path) -> Path | None:
    """The checkpoint to resume from, or None for a new run in a new or empty folder.

    Raises:
        UsageError: the folder is not empty and the run there is another, or not to be resumed.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; choose another folder with --output.")
    # A run that was killed while it wrote its first file has left a hidden one.
    if not output.exists() or all(path.name.startswith(".") for path in output.iterdir()):
        return None
    try:
        other = yaml.safe_load((output / "config.yaml").read_text())
    except OSError:
        other = None
    mine = asdict(config)
    # A setting that there was not when the run began had what is its default now.
    its = asdict(TrainConfig(config.dataset)) | (other or {})
    differing = [key for key in mine if key not in NO_RESULT and its[key] != mine[key]]
    if config.resume == "never" or other is None or differing:
        why = f" with another {differing[0]}" if other and differing else ""
        hint = "" if other is None or differing else ", or continue it with --resume auto"
        raise UsageError(
            f"{output} already holds a run{why}; choose another folder with --output{hint}."
        )
    return find_checkpoint(output)


def find_checkpoint(output: Path) -> Path | None:
    """The checkpoint in a run's folder, None if there is none yet."""
    checkpoint = output / "last.ckpt"
    return checkpoint if checkpoint.exists() else None


def build_recognizer(config: TrainConfig, dataset: VideoDataset) -> VideoClassifier:
    """A model of the data set's classes that starts from the weights `config` names.

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
            labels=dataset.labels,
            backbone=config.backbone,
            block=BlockConfig(
                name=config.block,
                stages=tuple(config.stages),
                per_stage=config.blocks_per_stage,
                reduction=config.reduction,
                order=config.order,
                groups=config.groups,
                units=config.units,
            ),
            sampling=ClipSampling(config.clip_length, config.stride, config.fps),
            preprocessing=Preprocessing(
                config.short_side, config.crop, gamma=config.gamma, **statistics
            ),
        )
    )
    if checkpoint:
        report = model.load_pretrained(checkpoint.tensors, config.weights)
        log.info("weights %s: %s", config.weights, report)
    if config.train_from != "all":
        model.network.freeze_before(config.train_from)
    return model


def quiet_lightning() -> None:
    """Silence the framework's hints: they are about code that the user didn't write."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")
    # Of kernels of one pixel, whose strides mean nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
