"""Tries settings out before a long run: `actionrec tune lr` and `actionrec tune batch_size`.

The searches are Lightning's own; nothing is kept but what they find.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from matplotlib.figure import Figure
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader

from actionrec.config import TrainConfig
from actionrec.datasets.check import without_damaged_videos
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, UsageError
from actionrec.files import replacing
from actionrec.training.clips import Batch, loaders, reader_of
from actionrec.training.module import Training
from actionrec.training.run import build_recognizer, quiet_lightning, resolve
from actionrec.video.decoders import require_decoder

LOWEST_LR, HIGHEST_LR = 1e-5, 1.0
STEPS = 100
# On a CPU no error tells that memory is used up; and there larger batches gain nothing.
MOST_CLIPS_ON_CPU = 64


@dataclass(frozen=True)
class LearningRateSearch:
    """The losses at rising learning rates, smoothed, and the rate where they fall most steeply."""

    suggestion: float
    rates: list[float]
    losses: list[float]

    def save_figure(self, path: Path) -> None:
        """Draw loss over learning rate, the suggestion marked.

        Raises:
            ActionrecError: the file can't be written.
        """
        figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses, color="#3d7ab5")
        axes.axvline(self.suggestion, color="#c0392b", label=f"{self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss, smoothed")
        axes.legend(title="falls most steeply at", frameon=False)
        with replacing(path) as temporary:
            figure.savefig(temporary)


class Trial(Training):
    """A training that keeps no figures and writes nothing."""

    def __init__(self, config: TrainConfig) -> None:
        require_decoder(config.decoder)
        dataset = open_dataset(config.dataset, config.root, config.split)
        self.dataset, _ = without_damaged_videos(dataset)
        lightning.seed_everything(config.seed, workers=True, verbose=False)
        model = build_recognizer(config, self.dataset)
        super().__init__(model, config, Path(config.output), len(self.dataset.train))
        self.lr = config.lr
        self.batch_size = config.batch_size
        self.largest = 0

    def train_dataloader(self) -> DataLoader:
        return self.loaders()[0]

    def val_dataloader(self) -> DataLoader:
        return self.loaders()[1]

    def loaders(self) -> tuple[DataLoader, DataLoader]:
        flip = self.dataset.flip if self.config.flip is None else self.config.flip
        config = replace(self.config, batch_size=self.batch_size)
        return loaders(config, self.dataset, reader_of(self.model, config), flip)

    def training_step(self, batch: Batch, index: int) -> torch.Tensor | None:
        loss = self.loss_of(batch, index) if batch.videos else None
        if loss is not None and not torch.isfinite(loss):
            self.trainer.should_stop = True
            return None
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.largest = max(self.largest, min(self.batch_size, self.videos))

    def on_train_epoch_end(self) -> None:
        for metric in self.epoch_metrics.values():
            metric.reset()


def find_learning_rate(config: TrainConfig) -> LearningRateSearch:
    """Train for 100 steps while the learning rate rises from 1e-5 to 1 (Smith 2017).

    Raises:
        UsageError: settings don't fit each other.
        ActionrecError: data or weights can't be used, or the losses tell nothing.
    """
    trial = Trial(alone(config))
    with tuner(trial) as search:
        found = search.lr_find(
            trial, min_lr=LOWEST_LR, max_lr=HIGHEST_LR, num_training=STEPS, update_attr=False
        )
    points = zip(found.results["lr"], found.results["loss"], strict=False)
    finite = [(rate, loss) for rate, loss in points if math.isfinite(loss)]
    suggestion = found.suggestion() if finite else None
    if suggestion is None:
        raise ActionrecError(
            "No learning rate can be suggested: the loss was not finite from the start; check the "
            "videos and the weights."
        )
    rates, losses = zip(*finite, strict=True)
    return LearningRateSearch(suggestion, list(rates), list(losses))


def find_batch_size(config: TrainConfig) -> int:
    """The largest power of two of clips that memory holds; at most the training videos, and on a
    CPU at most 64.

    Raises:
        UsageError: settings don't fit each other.
        ActionrecError: data or weights can't be used.
    """
    trial = Trial(alone(config))
    trials = 16 if torch.cuda.is_available() else round(math.log2(MOST_CLIPS_ON_CPU))
    with tuner(trial) as search:
        search.scale_batch_size(trial, init_val=2, max_trials=trials)
    # What Lightning returns is wrong where all videos in one batch were too many.
    if not trial.largest:
        raise ActionrecError("Not even a clip fits into memory; use a smaller --crop or backbone.")
    return trial.largest


def alone(config: TrainConfig) -> TrainConfig:
    """The settings, complete, of a trial in one process."""
    if config.devices * config.nodes > 1:
        raise UsageError("Tuning takes one device; leave out --devices and --nodes.")
    return resolve(config)


@contextmanager
def tuner(trial: Trial) -> Iterator[Tuner]:
    """Lightning's, whose files go to a folder that is removed."""
    quiet_lightning()
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=-1,
            accumulate_grad_batches=trial.config.accumulate,
            gradient_clip_val=trial.config.clip_gradient,
            accelerator="auto",
            devices=1,
            precision=trial.config.precision,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        yield Tuner(trainer)


def picture_path(config: TrainConfig) -> Path:
    """Where the curve goes: beside the folder that a run of these settings would have.

    Raises:
        UsageError: there is a file of that name.
    """
    folder = Path(alone(config).output)
    path = folder.with_name(f"{folder.name}-lr.png")
    if path.exists():
        raise UsageError(f"{path} is there already; remove it or choose another --output.")
    return path
