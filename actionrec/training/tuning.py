"""Tries settings out before a long run: `actionrec tune lr` and `actionrec tune batch_size`.

The searches are Lightning's own; only their results are kept.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from matplotlib.figure import Figure
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader

from actionrec.config import TrainConfig
from actionrec.errors import ActionrecError, UsageError
from actionrec.files import replacing, require_free, short_enough
from actionrec.training.clips import Batch, loaders
from actionrec.training.module import Training
from actionrec.training.optimizers import batch_factor
from actionrec.training.run import (
    build_classifier,
    build_trainer,
    check_dataset,
    loss_weights,
    open_training_data,
    quiet_lightning,
    resolve,
)

LOWEST_LR, HIGHEST_LR = 1e-5, 1.0
STEPS = 100
# On a CPU no error tells that memory is used up, and larger batches gain nothing.
MOST_CLIPS_ON_CPU = 64


class Trial(Training):
    """A training that keeps no figures and writes nothing.

    Lightning's searches set `lr` and `batch_size` and ask for the batches again.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.dataset, _ = open_training_data(config)
        check_dataset(self.dataset, config)
        lightning.seed_everything(config.seed, workers=True, verbose=False)
        model = build_classifier(config, self.dataset.labels)
        weights = loss_weights(config, self.dataset)
        super().__init__(model, config, Path(config.output), len(self.dataset.train), weights)
        self.lr = config.lr
        self.batch_size = config.batch_size
        self.largest = 0

    def train_dataloader(self) -> DataLoader:
        return self.loaders()[0]

    def val_dataloader(self) -> DataLoader:
        return self.loaders()[1]

    def loaders(self) -> tuple[DataLoader, DataLoader]:
        config = replace(self.config, batch_size=self.batch_size)
        return loaders(config, self.dataset, self.model.config)

    def training_step(self, batch: Batch, index: int) -> torch.Tensor | None:
        loss = self.loss_of(batch, index) if batch.videos else None
        if loss is not None and not torch.isfinite(loss):
            self.trainer.should_stop = True
            return None
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # The search gives all parameters the same rate, anew for every step.
        for group, own in zip(optimizer.param_groups, self.groups, strict=True):
            group["lr"] *= own.factor

    def on_train_batch_end(self, *_: Any) -> None:
        self.largest = max(self.largest, min(self.batch_size, self.videos))

    def on_train_epoch_end(self) -> None:
        for metric in self.epoch_metrics.values():
            metric.reset()


def find_learning_rate(config: TrainConfig) -> tuple[float, Path]:
    """Train for 100 steps while the learning rate rises from 1e-5 to 1 (Smith 2017).

    Returns the rate where the smoothed loss falls most steeply, as `lr` takes it, and a picture of
    the curve, which lies beside the folder that a run of these settings would have.

    Raises:
        UsageError: settings don't fit each other, or the picture is there already.
        ActionrecError: data or weights can't be used, no loss was finite, or the picture can't be
            written.
    """
    config = resolved_for_one_process(config)
    output = Path(config.output)
    curve = output.with_name(short_enough(f"{output.name}-lr.png"))
    require_free(curve)
    trial = Trial(config)
    with tuner(trial) as search:
        found = search.lr_find(
            trial, min_lr=LOWEST_LR, max_lr=HIGHEST_LR, num_training=STEPS, update_attr=False
        )
    suggestion = found.suggestion()
    if suggestion is None:
        raise ActionrecError(
            "No learning rate can be suggested: the loss was not finite from the start; check the "
            "videos and the weights."
        )
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    found.plot(suggest=True, ax=figure.add_subplot())
    with replacing(curve) as temporary:
        figure.savefig(temporary)
    return suggestion / batch_factor(config), curve


def find_batch_size(config: TrainConfig) -> int:
    """The largest batch that fits into memory: a power of two, or all training videos; on a CPU
    64 clips at most.

    Raises:
        UsageError: settings don't fit each other.
        ActionrecError: data or weights can't be used.
    """
    trial = Trial(resolved_for_one_process(config))
    trials = 16 if torch.cuda.is_available() else round(math.log2(MOST_CLIPS_ON_CPU))
    with tuner(trial) as search:
        search.scale_batch_size(trial, init_val=2, max_trials=trials)
    # Lightning returns a wrong number where all videos in one batch were too many.
    if not trial.largest:
        raise ActionrecError("Not even a clip fits into memory; use a smaller --crop or backbone.")
    return trial.largest


def resolved_for_one_process(config: TrainConfig) -> TrainConfig:
    """The complete settings of a trial.

    Raises:
        UsageError: they ask for several processes, or don't fit each other.
    """
    if config.devices * config.nodes > 1:
        raise UsageError("Tuning takes one device; leave out --devices and --nodes.")
    return resolve(config)


@contextmanager
def tuner(trial: Trial) -> Iterator[Tuner]:
    """Lightning's tuner, whose files go to a folder that is removed."""
    quiet_lightning()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            trial.config,
            max_epochs=-1,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        yield Tuner(trainer)
