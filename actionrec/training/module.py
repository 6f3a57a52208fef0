"""The training step, the figures of an epoch, and the files that a run keeps of them."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from actionrec import devices
from actionrec.config import TrainConfig
from actionrec.errors import ActionrecError, Failure
from actionrec.evaluation.several_labels import (
    average_precisions,
    best_thresholds,
    mean_average_precision,
)
from actionrec.files import write_whole
from actionrec.models.classifier import ClassifierConfig, VideoClassifier
from actionrec.text import json_text
from actionrec.training.block_activity import BlockActivity
from actionrec.training.clips import Batch
from actionrec.training.diagnosis import diagnose_blocks
from actionrec.training.early_stopping import figure_of_best, reason_to_stop
from actionrec.training.figures import EpochFigures, mean_class_accuracy
from actionrec.training.gradient_checkpointing import recomputed
from actionrec.training.loss import ClipLoss
from actionrec.training.optimizers import batch_factor, build_optimizer, parameter_groups
from actionrec.training.precision import sound_gradients
from actionrec.video.transforms import augment, mix

log = logging.getLogger(__name__)


class Training(lightning.LightningModule):
    """Minimises the loss of clips; keeps the best model in the run's folder.

    The random choices of a step depend on seed, epoch, batch and process alone, so that a continued
    run makes the same ones.

    Args:
        model: The model to train, in place.
        config: The complete settings.
        output: The run's folder.
        videos: Number of training videos.
        weights: Weights (classes,) of the classes in the loss, see `loss.class_weights`.
    """

    def __init__(
        self,
        model: VideoClassifier,
        config: TrainConfig,
        output: Path,
        videos: int,
        weights: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = ClipLoss(weights, config.focal_gamma, config.label_smoothing)
        # Lightning's EMAWeightAveraging has the average in place during the validation only, before
        # the model is saved.
        self.average = None
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)
            self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
            self.average.requires_grad_(False)
        self.activity = BlockActivity(self.evaluated_model.network)
        if config.gradient_checkpointing:
            model.network.call = recomputed
        self.config = config
        self.output = output
        self.videos = videos
        self.unreadable: dict[str, str] = {}
        # Training videos among them: those that all processes know of, and what this one has found
        # since.
        self.unreadable_training: set[str] = set()
        self.found_unreadable: set[str] = set()
        self.results: dict[str, Any] = {}
        # What a run that goes on must find again.
        self.data: dict[str, int | str] = {}
        self.epochs: list[EpochFigures] = []
        self.epoch_metrics = nn.ModuleDict(epoch_metrics(model.config))
        # A checkpoint in the middle of an epoch holds its metrics.
        for metric in self.epoch_metrics.values():
            metric.persistent(True)
        # True and predicted classes of the validation clips of this epoch, (n, 2); with several
        # labels a video, whether each has each label, and the scores, (n, 2 * classes).
        self.validated: list[torch.Tensor] = []
        self.learning_rate = 0.0
        self.waited = self.worked = 0.0
        self.clips = 0
        self.clock = self.started = time.perf_counter()
        self.first_epoch = 0

    @property
    def evaluated_model(self) -> VideoClassifier:
        """The model that is validated and saved: the average of the weights, if there is one."""
        return self.average.module if self.average else self.model

    def on_train_start(self) -> None:
        self.started, self.first_epoch = time.perf_counter(), self.current_epoch
        if not devices.is_first():
            # A checkpoint holds the sums over all processes; the first one has them now.
            for metric in self.epoch_metrics.values():
                metric.reset()

    def on_train_epoch_start(self) -> None:
        self.waited = self.worked = 0.0
        self.clips = 0
        self.clock = time.perf_counter()
        self.learning_rate = self.optimizers().param_groups[0]["lr"] / self.groups[0].factor
        self.validated = []
        # Those of the nonlocal blocks are new and have no statistics yet.
        for module in self.model.network.units.modules():
            if isinstance(module, _BatchNorm):
                # I3D's normalisation has no scale, but always a shift.
                if self.config.freeze_batchnorm or not module.bias.requires_grad:
                    module.eval()

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        self.waited += self.seconds()

    def on_train_batch_end(self, *_: Any) -> None:
        self.worked += self.seconds()

    def seconds(self) -> float:
        """Seconds since the last call, or since the epoch began."""
        before, self.clock = self.clock, time.perf_counter()
        return self.clock - before

    def configure_optimizers(self) -> dict[str, Any]:
        config = self.config
        self.groups = parameter_groups(self.model.network, config)
        optimizer = build_optimizer(self.groups, config.lr * batch_factor(config), config)
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

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.activity.note_gradients(self.model.network)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.average:
            self.average.update_parameters(self.model)

    def training_step(self, batch: Batch, index: int) -> torch.Tensor | None:
        self.record_failures(batch.failures)
        failed = {failure.video for failure in batch.failures}
        self.found_unreadable |= failed - self.unreadable_training
        loss = None
        # A process without clips takes part all the same: the others wait for its gradients.
        if batch.videos or devices.world_size() > 1:
            loss = self.loss_of(batch, index)
        finite = loss is None or bool(torch.isfinite(loss))
        own = [len(batch.videos), len(self.found_unreadable), int(not finite)]
        counts = devices.total(torch.tensor(own, device=self.device))
        clips, found, infinite = counts.tolist()
        self.clips += clips
        # Several processes may have found the same video, so there can be fewer.
        if len(self.unreadable_training) + found > self.config.max_bad * self.videos:
            self.gather_failures()
            self.stop_if_too_many_are_unreadable()
        if infinite:
            reason = None if finite else f"the loss of {', '.join(batch.videos)} is {loss.item()}"
            reasons = filter(None, devices.gather(reason))
            self.stop_as_diverged(f"step {index + 1}: {'; '.join(reasons)}")
        if loss is None:
            return None
        # The mean of the gradients over processes is to be their mean over clips.
        return loss * (len(batch.videos) * devices.world_size() / max(1, clips))

    def stop_if_too_many_are_unreadable(self) -> None:
        """End all processes where more training videos can't be read than --max-bad allows."""
        unreadable = len(self.unreadable_training)
        if unreadable > self.config.max_bad * self.videos:
            devices.stop_together(
                ActionrecError(
                    f"Training stopped: {unreadable} of {self.videos} training videos could not "
                    f"be read, more than the {self.config.max_bad:.1%} that --max-bad allows; "
                    f"{self.output / 'bad_videos.json'} lists them and the reasons."
                )
            )

    def stop_as_diverged(self, symptom: str) -> None:
        """End all processes; the saved models stay those of the epochs before."""
        best = self.results.get("best")
        saved = f"the model of epoch {best['epoch']} is kept" if best else "no model is saved"
        devices.stop_together(
            ActionrecError(
                f"Training diverged in epoch {self.current_epoch + 1}, {symptom}; {saved}: train "
                "again into another --output with a smaller --lr, a longer --warmup, "
                "--clip-gradient or --freeze-batchnorm true."
            )
        )

    def loss_of(self, batch: Batch, index: int) -> torch.Tensor:
        """The mean loss of a batch, or the loss of a black clip if the batch is empty."""
        key = (self.config.seed, self.current_epoch, index, devices.rank())
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.manual_seed(seed)
        if not batch.videos:
            length, side = self.config.clip_length, self.config.crop
            clips = torch.zeros(1, 3, length, side, side, device=self.device)
            return self.mean_loss(self.model(clips), self.no_labels())
        clips, labels = batch.clips, batch.labels
        if self.config.augment != "none":
            clips = augment(clips, self.config.augment, seed)
        targets, classes = labels, len(self.model.config.labels)
        if self.config.mix != "none":
            clips, targets = mix(clips, labels, self.config.mix, classes, seed)
        with sound_gradients(clips.device):
            logits = self.model(clips)
        if self.config.multi_label:
            loss = binary_cross_entropy(logits, targets, self.config.label_smoothing)
        else:
            loss = self.loss(logits, targets)
        self.epoch_metrics["train_loss"].update(loss, len(labels))
        self.update_accuracy("train_top1", logits, labels)
        self.log("loss", loss, prog_bar=True, logger=False, batch_size=len(labels))
        return loss

    def mean_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean over clips of the cross-entropy or, with several labels, of the sum of the
        labels' binary cross-entropies."""
        if self.config.multi_label:
            return binary_cross_entropy(logits, targets)
        return F.cross_entropy(logits, targets)

    def no_labels(self) -> torch.Tensor:
        """The target of a black clip."""
        if self.config.multi_label:
            return torch.zeros(1, len(self.model.config.labels), device=self.device)
        return torch.zeros(1, dtype=torch.long, device=self.device)

    def update_accuracy(self, name: str, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add clips to a Top-1 or Top-5; with several labels, one of them must be among the best,
        and clips without a label don't count."""
        if self.config.multi_label:
            has_label = labels.any(dim=1)
            places = min(5, labels.shape[1]) if name == "val_top5" else 1
            best = logits.topk(places, dim=1).indices
            self.epoch_metrics[name].update(labels.gather(1, best).amax(dim=1)[has_label])
        else:
            self.epoch_metrics[name].update(logits, labels)

    def on_validation_start(self) -> None:
        # Each process has its own batch statistics; the first one's are saved.
        devices.copy_from_first(list(self.evaluated_model.buffers()))

    def validation_step(self, batch: Batch, _: int) -> None:
        self.record_failures(batch.failures)
        if not batch.videos:
            return
        logits = self.evaluated_model(batch.clips)
        loss = self.mean_loss(logits, batch.labels)
        self.epoch_metrics["val_loss"].update(loss, len(batch.labels))
        self.update_accuracy("val_top1", logits, batch.labels)
        self.update_accuracy("val_top5", logits, batch.labels)
        if self.config.multi_label:
            noted = torch.cat([batch.labels, logits.float().sigmoid()], dim=1)
        else:
            noted = torch.stack([batch.labels, logits.argmax(dim=1)], dim=1)
        self.validated.append(noted.cpu())

    def on_train_epoch_end(self) -> None:
        self.gather_failures()
        self.validated = [part for parts in devices.gather(self.validated) for part in parts]
        if not self.validated:
            devices.stop_together(
                ActionrecError(
                    "Not one validation video could be read; see "
                    f"{self.output / 'bad_videos.json'} for the reasons."
                )
            )
        figures = {
            name: round(metric.compute().item(), 6) for name, metric in self.epoch_metrics.items()
        }
        seconds = self.waited + self.worked
        figures["data_wait"] = round(self.waited / seconds, 4)
        # Such a network answers nothing, whatever its Top-1 by chance.
        if not math.isfinite(figures["val_loss"]):
            self.stop_as_diverged(f"its validation: the loss is {figures['val_loss']}")
        precisions = None
        if self.config.multi_label:
            precisions = self.choose_thresholds()
            figures["val_map"] = round(mean_average_precision(precisions), 6)
        blocks = self.activity.end_epoch(self.evaluated_model.network)
        of_blocks = {
            f"block_{name}_{figure}": value
            for name, of_block in blocks.items()
            for figure, value in asdict(of_block).items()
        }
        # At once: Lightning's `log_dict` comes after the checkpoint, with which a run may end.
        values = figures | {"clips_per_second": self.clips / seconds} | of_blocks
        for logger in self.loggers:
            logger.log_metrics(values | {"epoch": self.current_epoch}, self.global_step - 1)
            logger.save()
        epoch = EpochFigures(
            self.current_epoch + 1, learning_rate=self.learning_rate, blocks=blocks, **figures
        )
        self.epochs.append(epoch)
        mean_class = 0.0
        if not self.config.multi_label:
            mean_class = mean_class_accuracy(*torch.cat(self.validated).numpy().T)
        log.info(
            f"epoch {epoch.epoch} of {self.config.epochs}: training loss {epoch.train_loss:.3f}, "
            f"Top-1 {100 * epoch.train_top1:.1f} %; validation, one clip a video: "
            f"loss {epoch.val_loss:.3f}, Top-1 {100 * epoch.val_top1:.1f} %, "
            f"Top-5 {100 * epoch.val_top5:.1f} %, "
            + (
                f"mean class accuracy {100 * mean_class:.1f} %"
                if epoch.val_map is None
                else f"mAP {100 * epoch.val_map:.1f} %"
            )
            + f"; {self.clips / seconds:.1f} clips/s, "
            f"waited for data {100 * epoch.data_wait:.1f} % of the time; {self.time_left()} left"
        )
        for name, of_block in blocks.items():
            log.info("%s before %s: %s", self.config.block, name, of_block)
        for metric in self.epoch_metrics.values():
            metric.reset()
        clips = sum(len(part) for part in self.validated)
        accuracies = {"top1": epoch.val_top1, "top5": epoch.val_top5, "n": clips}
        if precisions is None:
            accuracies["mean_class"] = mean_class
        else:
            accuracies |= precision_figures(self.model.config.labels, precisions)
        self.save_models({"epoch": epoch.epoch, "clip": accuracies})
        if reason := reason_to_stop(self.results, self.config):
            log.info("%s", reason)
            self.trainer.should_stop = True
        if reason or epoch.epoch == self.config.epochs:
            for sentence in diagnose_blocks(self.epochs):
                log.warning("%s", sentence)

    def choose_thresholds(self) -> np.ndarray:
        """Give the model the thresholds with the best F1 on the validation clips; returns the
        average precisions (classes,)."""
        truths, scores = np.split(torch.cat(self.validated).numpy(), 2, axis=1)
        self.evaluated_model.config = with_thresholds(self.evaluated_model.config, truths, scores)
        return average_precisions(truths, scores)

    def time_left(self) -> timedelta:
        """The time for the remaining epochs, at the mean pace of this process."""
        done = self.current_epoch + 1 - self.first_epoch
        pace = (time.perf_counter() - self.started) / done
        return timedelta(seconds=round(pace * (self.config.epochs - self.current_epoch - 1)))

    def save_models(self, result: dict[str, Any]) -> None:
        """Save the model as the last one and, if it is the best so far, as the best one."""
        best = self.results.get("best")
        figure, _ = figure_of_best(self.config)
        better = best is None or result["clip"][figure] > best["clip"][figure]
        self.results = {
            "best": result if better else best,
            "last": result,
            "blocks": {
                name: [epoch.of_block(name) for epoch in self.epochs if epoch.blocks]
                for name in self.activity.names
            },
        }
        if not devices.is_first():
            return
        model = self.evaluated_model
        model.training_record = {"config": asdict(self.config), "result": result}
        model.save(self.output / "last.safetensors")
        if better:
            model.save(self.output / "model.safetensors")
        write_json(self.output / "results.json", self.results)

    def record_failures(self, failures: list[Failure]) -> None:
        """Report each unreadable video once, on the spot and in the run's folder."""
        for failure in failures:
            if failure.video not in self.unreadable:
                self.unreadable[failure.video] = failure.error
                if devices.is_first():
                    log.warning("left out: %s", failure.error)
                    report = [asdict(Failure(*item)) for item in self.unreadable.items()]
                    write_json(self.output / "bad_videos.json", report)

    def gather_failures(self) -> None:
        """Let every process, and so the report, know the unreadable videos of all of them."""
        for unreadable, found in devices.gather((self.unreadable, self.found_unreadable)):
            self.record_failures([Failure(*item) for item in unreadable.items()])
            self.unreadable_training |= found
        self.found_unreadable = set()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # All processes save together, and what the first one knows goes into the file.
        self.gather_failures()
        loop = self.trainer.fit_loop
        batches = loop.epoch_loop.batch_progress.current.processed
        whole = batches == loop.max_batches
        progress = [self.current_epoch + whole, 0 if whole else batches * self.config.batch_size]
        checkpoint["actionrec"] = {
            "results": self.results,
            "bad": self.unreadable,
            "bad_for_training": sorted(self.unreadable_training),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "progress": progress,
            "block_gradients": [self.activity.gradients, self.activity.steps],
            "validated": list(self.validated),
            "data": self.data,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = checkpoint["actionrec"]
        self.results = ours["results"]
        self.unreadable = ours["bad"]
        self.unreadable_training = set(ours["bad_for_training"])
        self.epochs = [EpochFigures.of(figures) for figures in ours["epochs"]]
        # A checkpoint of an earlier version has none.
        if "block_gradients" in ours:
            for sums, saved in zip(
                (self.activity.gradients, self.activity.steps), ours["block_gradients"], strict=True
            ):
                sums.copy_(saved)


def epoch_metrics(config: ClassifierConfig) -> dict[str, Metric]:
    """The metrics of an epoch by name."""
    places = {"train_top1": 1, "val_top1": 1, "val_top5": min(5, len(config.labels))}

    def accuracy(top_k: int) -> Metric:
        if config.decision.multi_label:
            return Share()
        return MulticlassAccuracy(len(config.labels), average="micro", top_k=top_k)

    # By default it passes over NaN.
    losses = {name: MeanMetric(nan_strategy="disable") for name in ("train_loss", "val_loss")}
    return losses | {name: accuracy(top_k) for name, top_k in places.items()}


class Share(MeanMetric):
    """The mean of zeros and ones; 0 without any, as of torchmetrics' accuracies."""

    def update(self, hits: torch.Tensor) -> None:
        if len(hits):
            super().update(hits)

    def compute(self) -> torch.Tensor:
        return super().compute() if self.weight else torch.zeros((), device=self.device)


def binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """The mean over clips of the sum of the labels' binary cross-entropies, of logits (B, classes)
    and targets in [0, 1] (B, classes). A sum, so that the gradient of a logit is as large as that
    of the softmax's cross-entropy, whatever the number of labels."""
    targets = targets * (1 - label_smoothing) + label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return losses.sum(dim=1).mean()


def with_thresholds(
    config: ClassifierConfig, truths: np.ndarray, scores: np.ndarray
) -> ClassifierConfig:
    """The configuration with the thresholds of the best F1 on validation clips.

    Args:
        config: Of a model with several labels a video.
        truths: Whether a clip has a label, (n, classes).
        scores: In [0, 1], (n, classes).

    Raises:
        ActionrecError: no clip has a label, in all processes alike.
    """
    if not truths.any():
        devices.stop_together(
            ActionrecError(
                "Not one validation video with a label could be read, so nothing can be measured; "
                "bad_videos.json in the run's folder has the reasons."
            )
        )
    thresholds = tuple(best_thresholds(truths, scores).tolist())
    return replace(config, decision=replace(config.decision, thresholds=thresholds))


def precision_figures(labels: Sequence[str], precisions: np.ndarray) -> dict[str, Any]:
    """mAP and the average precision by label, None where no video has it."""
    by_label = {
        label: None if math.isnan(value) else round(float(value), 6)
        for label, value in zip(labels, precisions, strict=True)
    }
    return {
        "map": round(mean_average_precision(precisions), 6),
        "average_precision": by_label,
    }


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all."""
    write_whole(path, json_text(value, indent=2) + "\n")
