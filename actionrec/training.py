"""Train a recognizer: `actionrec train --dataset demo --config demo.yaml`.

A run's folder holds `config.yaml` (repeats the run), `model.safetensors` (the best epoch by
clip-level Top-1 on the validation videos), `last.safetensors` (the last epoch), `results.json`
(both epochs' figures), `last.ckpt` (to resume from), `logs/` (CSV and TensorBoard) and, where
videos could not be read, `bad_videos.json`.
"""

import json
import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as lightning
import torch
import yaml
from pytorch_lightning.callbacks import Checkpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR, StepLR
from torch.utils.data import DataLoader, Dataset, Sampler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from actionrec.config import TrainConfig
from actionrec.datasets import LabelledVideo, VideoDataset, open_dataset
from actionrec.datasets.check import without_bad
from actionrec.errors import ActionrecError, Stopped, UsageError
from actionrec.files import replacing
from actionrec.models import checkpoints
from actionrec.models.recognizer import BlockConfig, Recognizer, RecognizerConfig
from actionrec.prediction import Failure, read_clips
from actionrec.video.reader import VideoError, open_video, require_decoder
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import (
    Preprocessing,
    augment,
    channels_first,
    random_area,
    stack_clips,
)

log = logging.getLogger(__name__)

SAVED_EVERY = 600.0  # seconds
SECONDS_FOR_A_STEP = 10
# Settings that a run may be continued without, since they change nothing of its result.
NO_RESULT = ("resume", "workers")


class Progress(NamedTuple):
    """How far a run has come: whole epochs, and clips of the one after them."""

    epoch: int
    clips: int


class EpochSampler(Sampler):
    """Yields (epoch, index) in an order that only seed and epoch decide.

    The epoch travels with the index, so that a clip's random choices can depend on nothing else:
    not on the number of workers, nor on which of them reads it. Lightning calls `set_epoch`.

    In the epoch `resumed.epoch`, as many indices are left out as its batches had before the run
    was stopped.
    """

    def __init__(self, size: int, seed: int, resumed: "Progress | None" = None) -> None:
        self.size = size
        self.seed = seed
        # Worker processes fetch the first batches before Lightning has set the epoch.
        self.epoch = resumed.epoch if resumed else 0
        self.resumed = resumed

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        if self.resumed and self.resumed.epoch == self.epoch:
            order = order[self.resumed.clips :]
        return ((self.epoch, int(index)) for index in order)


class Sample(NamedTuple):
    """A clip, uint8 (3, T, H, W), its label and the video that it is from."""

    clip: torch.Tensor
    label: int
    video: str


class TrainingClips(Dataset):
    """One random clip of each video; a bad video as a Failure."""

    def __init__(
        self,
        videos: tuple[LabelledVideo, ...],
        recognizer: RecognizerConfig,
        config: TrainConfig,
        flip: bool,
    ) -> None:
        self.videos = videos
        self.recognizer = recognizer
        self.config = config
        self.flip = flip

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Sample | Failure:
        epoch, index = key
        generator = np.random.default_rng((self.config.seed, epoch, index))
        path = self.videos[index].path
        preprocessing = self.recognizer.preprocessing
        try:
            video = open_video(path, self.config.decoder)
            indices = self.recognizer.sampling.at(video.fps).random(len(video), generator)
            if self.config.crop_area:
                crop = random_area(video.size, tuple(self.config.crop_area), generator)
            else:
                crop = preprocessing.random_square(video.size, generator)
            frames = video.read(indices, (preprocessing.crop,) * 2, crop)
        except VideoError as error:
            return Failure(str(path), str(error))
        if self.flip and generator.random() < 0.5:
            frames = frames[:, :, ::-1]
        return Sample(channels_first(frames), self.videos[index].label, str(path))


class ValidationClips(Dataset):
    """The middle clip of each video; a bad video as a Failure."""

    def __init__(
        self, videos: tuple[LabelledVideo, ...], recognizer: RecognizerConfig, decoder: str
    ) -> None:
        self.videos = videos
        self.recognizer = recognizer
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Sample | Failure:
        path = self.videos[index].path
        try:
            read = read_clips(path, self.recognizer, clips=1, decoder=self.decoder)
        except VideoError as error:
            return Failure(str(path), str(error))
        return Sample(read.pixels[0], self.videos[index].label, str(path))


class Batch(NamedTuple):
    """uint8 clips (B, 3, T, H, W), labels (B,), the videos they are from, and those that failed."""

    clips: torch.Tensor
    labels: torch.Tensor
    videos: list[str]
    failures: list[Failure]


def collate(items: list[Sample | Failure]) -> Batch:
    """A batch of the samples among `items`; it is empty where all failed."""
    good = [item for item in items if isinstance(item, Sample)]
    return Batch(
        clips=stack_clips([sample.clip for sample in good]) if good else torch.empty(0),
        labels=torch.tensor([sample.label for sample in good]),
        videos=[sample.video for sample in good],
        failures=[item for item in items if isinstance(item, Failure)],
    )


class Training(lightning.LightningModule):
    """Cross-entropy on clips by SGD; keeps the best recognizer in the run's folder."""

    def __init__(self, recognizer: Recognizer, config: TrainConfig, output: Path, videos: int):
        super().__init__()
        self.recognizer = recognizer
        self.config = config
        self.output = output
        self.videos = videos
        self.bad: dict[str, str] = {}
        self.bad_for_training: set[str] = set()
        self.results: dict[str, Any] = {}
        classes = len(recognizer.config.labels)
        top5 = min(5, classes)
        self.random_state: torch.Tensor | None = None
        self.epoch_metrics = nn.ModuleDict(
            {
                "train_loss": MeanMetric(),
                "train_top1": MulticlassAccuracy(classes, average="micro"),
                "val_loss": MeanMetric(),
                "val_top1": MulticlassAccuracy(classes, average="micro"),
                "val_top5": MulticlassAccuracy(classes, average="micro", top_k=top5),
            }
        )
        # What an epoch's metrics hold belongs to a checkpoint in its middle.
        for metric in self.epoch_metrics.values():
            metric.persistent(True)
        self.val_clips = 0
        self.waited = self.worked = 0.0
        self.clock = time.perf_counter()

    def on_train_start(self) -> None:
        if self.random_state is not None:
            torch.set_rng_state(self.random_state)

    def on_train_epoch_start(self) -> None:
        self.waited = self.worked = 0.0
        self.clock = time.perf_counter()
        # Not those of the nonlocal blocks: they are new and have no statistics yet.
        for module in self.recognizer.network.units.modules():
            if isinstance(module, nn.BatchNorm3d):
                # I3D's normalisation has no scale, but always a shift.
                if self.config.freeze_batchnorm or not module.bias.requires_grad:
                    module.eval()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waited += self.seconds()

    def on_train_batch_end(self, *_: Any) -> None:
        self.worked += self.seconds()

    def seconds(self) -> float:
        """Seconds since the last call, or since the epoch began."""
        before, self.clock = self.clock, time.perf_counter()
        return self.clock - before

    def configure_optimizers(self) -> dict[str, Any]:
        config = self.config
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(
            trained, config.lr, config.momentum, weight_decay=config.weight_decay
        )
        if config.schedule == "cosine":
            falling = CosineAnnealingLR(optimizer, max(1, config.epochs - config.warmup))
        else:
            step = config.lr_step or max(1, round(0.4 * config.epochs))
            falling = StepLR(optimizer, step, gamma=0.1)
        if not config.warmup:
            return {"optimizer": optimizer, "lr_scheduler": falling}
        rising = LinearLR(optimizer, 1 / (config.warmup + 1), total_iters=config.warmup)
        scheduler = SequentialLR(optimizer, [rising, falling], [config.warmup])
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def training_step(self, batch: Batch, _: int) -> torch.Tensor | None:
        self.note_bad(batch.failures)
        self.bad_for_training.update(failure.video for failure in batch.failures)
        bad = len(self.bad_for_training)
        if bad > self.config.max_bad * self.videos:
            raise ActionrecError(
                f"Training stopped: {bad} of {self.videos} training videos could not "
                f"be read, more than the {self.config.max_bad:.1%} that --max-bad allows; "
                f"{self.output / 'bad_videos.json'} lists them and the reasons."
            )
        if not batch.videos:
            return None
        clips = batch.clips
        if self.config.augment != "none":
            seed = np.random.SeedSequence((self.config.seed, self.global_step)).generate_state(1)
            clips = augment(clips, self.config.augment, int(seed[0]))
        logits = self.recognizer(clips)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.config.label_smoothing)
        if not torch.isfinite(loss):
            raise ActionrecError(
                f"Training stopped in epoch {self.current_epoch + 1}: the loss of "
                f"{', '.join(batch.videos)} is {loss.item()}; use a smaller --lr."
            )
        self.epoch_metrics["train_loss"].update(loss, len(batch.labels))
        self.epoch_metrics["train_top1"].update(logits, batch.labels)
        self.log("loss", loss, prog_bar=True, logger=False, batch_size=len(batch.labels))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        self.note_bad(batch.failures)
        if not batch.videos:
            return
        logits = self.recognizer(batch.clips)
        self.epoch_metrics["val_top1"].update(logits, batch.labels)
        self.epoch_metrics["val_top5"].update(logits, batch.labels)
        self.epoch_metrics["val_loss"].update(
            F.cross_entropy(logits, batch.labels), len(batch.labels)
        )
        self.val_clips += len(batch.labels)

    def on_train_epoch_end(self) -> None:
        if not self.val_clips:
            raise ActionrecError(
                "Not one validation video could be read; see "
                f"{self.output / 'bad_videos.json'} for the reasons."
            )
        figures = {
            name: round(metric.compute().item(), 6) for name, metric in self.epoch_metrics.items()
        }
        # Where it is large, more workers or smaller videos (`actionrec data shrink`) help.
        figures["data_wait"] = round(self.waited / (self.waited + self.worked), 4)
        self.log_dict(figures)
        log.info(
            "epoch %d of %d: training loss %.3f, Top-1 %.1f %%; validation, one clip a video: "
            "loss %.3f, Top-1 %.1f %%, Top-5 %.1f %%; waited for data %.1f %% of the time",
            self.current_epoch + 1,
            self.config.epochs,
            figures["train_loss"],
            100 * figures["train_top1"],
            figures["val_loss"],
            100 * figures["val_top1"],
            100 * figures["val_top5"],
            100 * figures["data_wait"],
        )
        result = {
            "epoch": self.current_epoch + 1,
            "clip": {
                "top1": figures["val_top1"],
                "top5": figures["val_top5"],
                "n": self.val_clips,
            },
        }
        self.val_clips = 0
        for metric in self.epoch_metrics.values():
            metric.reset()
        self.keep(result)

    def keep(self, result: dict[str, Any]) -> None:
        """Save the recognizer as the last one and, if it is, as the best one."""
        best = self.results.get("best")
        better = best is None or result["clip"]["top1"] > best["clip"]["top1"]
        self.results = {"best": result if better else best, "last": result}
        self.recognizer.training_record = {"config": asdict(self.config), "result": result}
        self.recognizer.save(self.output / "last.safetensors")
        if better:
            self.recognizer.save(self.output / "model.safetensors")
        write_json(self.output / "results.json", self.results)

    def note_bad(self, failures: list[Failure]) -> None:
        """Report each unreadable video once, on the spot and in the run's folder."""
        for failure in failures:
            if failure.video not in self.bad:
                self.bad[failure.video] = failure.error
                log.warning("left out: %s", failure.error)
                report = [asdict(Failure(*item)) for item in self.bad.items()]
                write_json(self.output / "bad_videos.json", report)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["actionrec"] = {
            "results": self.results,
            "bad": self.bad,
            "bad_for_training": sorted(self.bad_for_training),
            "random_state": torch.get_rng_state(),
            "progress": list(self.progress()),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = checkpoint["actionrec"]
        self.results = ours["results"]
        self.bad = ours["bad"]
        self.bad_for_training = set(ours["bad_for_training"])
        self.random_state = ours["random_state"]

    def progress(self) -> Progress:
        """How far the run has come."""
        loop = self.trainer.fit_loop
        batches = loop.epoch_loop.batch_progress.current.processed
        if batches == loop.max_batches:
            return Progress(self.current_epoch + 1, 0)
        return Progress(self.current_epoch, batches * self.config.batch_size)


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt` after every epoch, every ten minutes and when the run is asked to stop.

    It is never half-written, and always from between two steps: a run that continues from it ends
    with the very weights of one that was never stopped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved = time.monotonic()
        self.asked: int | None = None

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        # In place of Lightning's own for SIGTERM, which ends in the middle of what is done. It
        # puts back all handlers when it has ended.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.ask)

    def ask(self, number: int, _: Any) -> None:
        """Note the wish to stop after this step, or validation; the second one stops at once."""
        self.asked = number
        signal.signal(number, signal.default_int_handler)
        log.info("Stopping after this step; Ctrl-C again stops at once.")

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        # After its last step, an epoch is over only when its validation is; and gradients that
        # were added up so far are in no checkpoint.
        if progress.is_last_batch or progress.current.processed % trainer.accumulate_grad_batches:
            return
        if self.asked or time.monotonic() > self.saved + SAVED_EVERY:
            self.save(trainer)
        self.stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.save(trainer)
        if trainer.current_epoch + 1 < trainer.max_epochs:
            self.stop_if_asked(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        with replacing(self.path) as temporary:
            trainer.save_checkpoint(temporary)
        self.saved = time.monotonic()

    def stop_if_asked(self, trainer: lightning.Trainer) -> None:
        if self.asked:
            raise Stopped(
                f"Training was stopped in epoch {trainer.current_epoch + 1} of "
                f"{trainer.max_epochs}; the same command with --resume auto continues it.",
                exit_code=128 + self.asked,
            )


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
    checkpoint = prepare_output(config, output)
    dataset = open_dataset(config.dataset, config.root, config.split)
    dataset, known_bad = without_bad(dataset, config.root and Path(config.root))
    flip = dataset.flip if config.flip is None else config.flip
    log.info(
        "%s: %d training and %d validation videos of %d classes%s",
        dataset.name,
        len(dataset.train),
        len(dataset.val),
        len(dataset.labels),
        "" if flip else ", not mirrored",
    )
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    resumed = read_progress(checkpoint) if checkpoint else None
    if resumed and resumed.epoch >= config.epochs:
        log.info("%s is finished: nothing is left to train.", output)
        results = json.loads((output / "results.json").read_text())
        return results | {"output": str(output), "bad_videos": {}}
    recognizer = build_recognizer(config, dataset)
    with replacing(output / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    training = Training(recognizer, config, output, len(dataset.train))
    training.note_bad(known_bad)
    trainer = lightning.Trainer(
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_gradient,
        accelerator="auto",
        devices=1,
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
    train_loader, val_loader = loaders(config, dataset, recognizer.config, flip, resumed)
    trainer.fit(training, train_loader, val_loader, ckpt_path=checkpoint, weights_only=True)
    return training.results | {"output": str(output), "bad_videos": training.bad}


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
    areas = config.crop_area
    if areas is not None and not (len(areas) == 2 and 0 < areas[0] <= areas[1] <= 1):
        raise UsageError(f"crop_area is {areas}; it must be two shares in (0, 1], the least first.")
    precision = config.precision
    if precision == "auto":
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        precision = "bf16-mixed" if bf16 else "32-true"
    if precision != "32-true" and not torch.cuda.is_available():
        # oneDNN 3.13 in torch 2.15 gives 3x3x3 convolutions over two time steps, those of I3D's
        # last stage, weight gradients of 1e20 and more in bfloat16.
        raise UsageError(
            f"--precision {precision} needs a GPU: on the CPU the gradients of 3D convolutions in "
            "less than 32 bits are not reliable; use --precision auto."
        )
    output = config.output or f"runs/{config.dataset}-{config.backbone}-{config.block}"
    return replace(config, precision=precision, output=output)


def prepare_output(config: TrainConfig, output: Path) -> Path | None:
    """The checkpoint to resume from, or None for a new run in a new or empty folder.

    Raises:
        UsageError: the folder is not empty and the run there is another, or not to be resumed.
    """
    # A run that was killed while it wrote its first file has left a hidden one.
    if not output.exists() or all(path.name.startswith(".") for path in output.iterdir()):
        return None
    try:
        other = yaml.safe_load((output / "config.yaml").read_text())
    except OSError:
        other = None
    mine = asdict(config)
    differing = [
        key for key in mine if key not in NO_RESULT and (other or {}).get(key) != mine[key]
    ]
    if config.resume == "never" or other is None or differing:
        why = f" with another {differing[0]}" if other and differing else ""
        hint = "" if other is None or differing else ", or continue it with --resume auto"
        raise UsageError(
            f"{output} already holds a run{why}; choose another folder with --output{hint}."
        )
    checkpoint = output / "last.ckpt"
    return checkpoint if checkpoint.exists() else None


def read_progress(checkpoint: Path) -> Progress:
    """How far the run had come that wrote this checkpoint.

    Raises:
        ActionrecError: it is damaged or from another version.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return Progress(*state["actionrec"]["progress"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, UnpicklingError) as error:
        raise ActionrecError(
            f"{checkpoint} can't be resumed from ({type(error).__name__}); delete it to begin the "
            "run anew, or choose another --output."
        ) from error


def build_recognizer(config: TrainConfig, dataset: VideoDataset) -> Recognizer:
    """A recognizer of the data set's classes that starts from the weights `config` names.

    Raises:
        UsageError: settings don't fit each other, or there are no such weights.
        ActionrecError: the weights can't be read or don't fit the backbone.
    """
    checkpoint = None
    if config.weights != "none":
        checkpoint = checkpoints.load(config.weights, config.backbone)
    statistics = {"mean": checkpoint.mean, "std": checkpoint.std} if checkpoint else {}
    recognizer = Recognizer(
        RecognizerConfig(
            labels=dataset.labels,
            backbone=config.backbone,
            block=BlockConfig(
                name=config.block,
                stages=tuple(config.stages),
                per_stage=config.blocks_per_stage,
                reduction=config.reduction,
                order=config.order,
                groups=config.groups,
                stage_num=config.stage_num,
            ),
            sampling=ClipSampling(config.clip_length, config.stride, config.fps),
            preprocessing=Preprocessing(
                config.short_side, config.crop, gamma=config.gamma, **statistics
            ),
        )
    )
    if checkpoint:
        report = recognizer.load_pretrained(checkpoint.tensors, config.weights)
        log.info("weights %s: %s", config.weights, report)
    if config.train_from != "all":
        recognizer.network.freeze_before(config.train_from)
    sizes = [(value.numel(), value.requires_grad) for value in recognizer.parameters()]
    log.info(
        "%s with block %s: %.2f M parameters, of which %.2f M are trained",
        config.backbone,
        config.block,
        sum(size for size, _ in sizes) / 1e6,
        sum(size for size, trained in sizes if trained) / 1e6,
    )
    return recognizer


def loaders(
    config: TrainConfig,
    dataset: VideoDataset,
    recognizer: RecognizerConfig,
    flip: bool,
    resumed: Progress | None = None,
) -> tuple[DataLoader, DataLoader]:
    """The batches for training and for validation."""
    shared = {
        "batch_size": config.batch_size,
        "num_workers": config.workers,
        "collate_fn": collate,
        "persistent_workers": config.workers > 0,
        "worker_init_fn": outlast_signals,
        "pin_memory": torch.cuda.is_available(),
        # The loader draws from it once an iterator; from the global one, dropout would notice
        # how many workers there are.
        "generator": torch.Generator().manual_seed(config.seed),
    }
    return (
        DataLoader(
            TrainingClips(dataset.train, recognizer, config, flip),
            sampler=EpochSampler(len(dataset.train), config.seed, resumed),
            drop_last=len(dataset.train) > config.batch_size,
            **shared,
        ),
        DataLoader(ValidationClips(dataset.val, recognizer, config.decoder), **shared),
    )


def outlast_signals(_: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach all processes; those that read must not end before the
    one that trains has finished its step. It ends them by SIGTERM too, if all else fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_FOR_A_STEP))


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that the file is never half there."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def quiet_lightning() -> None:
    """Silence the framework's hints: they are about code that the user didn't write."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")
