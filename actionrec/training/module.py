"""One training step, one epoch's figures, and what a run keeps of them."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from actionrec import devices
from actionrec.config import TrainConfig
from actionrec.errors import ActionrecError, Failure
from actionrec.files import replacing
from actionrec.models.classifier import VideoClassifier
from actionrec.training.clips import Batch, Progress
from actionrec.training.precision import sound_gradients
from actionrec.training.report import EpochFigures
from actionrec.video.transforms import augment, mix

log = logging.getLogger(__name__)


class Training(lightning.LightningModule):
    """Cross-entropy on clips by SGD; keeps the best model in the run's folder.

    Whatever a step draws at random depends on the seed, the epoch, the batch and the process
    alone, so that a run that is continued draws the same.
    """

    def __init__(self, model: VideoClassifier, config: TrainConfig, output: Path, videos: int):
        super().__init__()
        self.model = model
        self.average = None
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)
            self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
            self.average.requires_grad_(False)
        self.config = config
        self.output = output
        self.videos = videos
        self.bad: dict[str, str] = {}
        self.bad_for_training: set[str] = set()
        self.results: dict[str, Any] = {}
        self.epochs: list[EpochFigures] = []
        classes = len(model.config.labels)
        top5 = min(5, classes)
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
        # True and predicted classes of the validation clips of this epoch, (n, 2).
        self.validated: list[torch.Tensor] = []
        self.learning_rate = 0.0
        self.waited = self.worked = 0.0
        self.clips = 0
        self.clock = self.started = time.perf_counter()
        self.first_epoch = 0

    @property
    def judged(self) -> VideoClassifier:
        """What is validated and saved: the average of the weights, where there is one."""
        return self.average.module if self.average else self.model

    def on_train_start(self) -> None:
        self.started, self.first_epoch = time.perf_counter(), self.current_epoch
        if not devices.is_first():
            # A checkpoint holds the sums over all processes, which the first one has now.
            for metric in self.epoch_metrics.values():
                metric.reset()

    def on_train_epoch_start(self) -> None:
        self.waited = self.worked = 0.0
        self.clips = 0
        self.clock = time.perf_counter()
        self.learning_rate = self.optimizers().param_groups[0]["lr"]
        self.validated = []
        # Not those of the nonlocal blocks: they are new and have no statistics yet.
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
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        lr = config.lr
        if config.lr_for_batch:
            lr *= config.batch_size * config.accumulate / config.lr_for_batch
        optimizer = torch.optim.SGD(trained, lr, config.momentum, weight_decay=config.weight_decay)
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

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.average:
            self.average.update_parameters(self.model)

    def training_step(self, batch: Batch, index: int) -> torch.Tensor | None:
        self.note_bad(batch.failures)
        self.bad_for_training.update(failure.video for failure in batch.failures)
        loss = None
        # A process that has no clips takes part all the same: the others wait for its gradients.
        if batch.videos or devices.world_size() > 1:
            loss = self.loss_of(batch, index)
        finite = loss is None or bool(torch.isfinite(loss))
        own = [len(batch.videos), len(self.bad_for_training), int(not finite)]
        found = devices.total(torch.tensor(own, device=self.device))
        clips, bad, infinite = found.tolist()
        self.clips += clips
        if bad > self.config.max_bad * self.videos:
            self.share_bad()
            devices.stop_together(
                ActionrecError(
                    f"Training stopped: {bad} of {self.videos} training videos could not "
                    f"be read, more than the {self.config.max_bad:.1%} that --max-bad allows; "
                    f"{self.output / 'bad_videos.json'} lists them and the reasons."
                )
            )
        if infinite:
            said = devices.gather(
                None if finite else f"the loss of {', '.join(batch.videos)} is {loss.item()}"
            )
            devices.stop_together(
                ActionrecError(
                    f"Training stopped in epoch {self.current_epoch + 1}: "
                    f"{'; '.join(filter(None, said))}; use a smaller --lr."
                )
            )
        if loss is None:
            return None
        # The mean over processes, which is taken of the gradients, is to be that over clips.
        return loss * (len(batch.videos) * devices.world_size() / max(1, clips))

    def loss_of(self, batch: Batch, index: int) -> torch.Tensor:
        """The mean loss of a batch; that of a black clip if it is empty."""
        key = (self.config.seed, self.current_epoch, index, devices.rank())
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.manual_seed(seed)
        clips, labels = batch.clips, batch.labels
        if not batch.videos:
            length, side = self.config.clip_length, self.config.crop
            clips = torch.zeros(1, 3, length, side, side, device=self.device)
            return F.cross_entropy(self.model(clips), clips.new_zeros(1, dtype=torch.long))
        if self.config.augment != "none":
            clips = augment(clips, self.config.augment, seed)
        targets = labels
        if self.config.mix != "none":
            clips, targets = mix(
                clips, labels, self.config.mix, len(self.model.config.labels), seed
            )
        with sound_gradients(clips.device):
            logits = self.model(clips)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
        self.epoch_metrics["train_loss"].update(loss, len(labels))
        self.epoch_metrics["train_top1"].update(logits, labels)
        self.log("loss", loss, prog_bar=True, logger=False, batch_size=len(labels))
        return loss

    def on_validation_start(self) -> None:
        # Each process has batch statistics of its own; those of the first are saved.
        devices.copy_from_first(list(self.judged.buffers()))

    def validation_step(self, batch: Batch, _: int) -> None:
        self.note_bad(batch.failures)
        if not batch.videos:
            return
        logits = self.judged(batch.clips)
        self.epoch_metrics["val_top1"].update(logits, batch.labels)
        self.epoch_metrics["val_top5"].update(logits, batch.labels)
        self.epoch_metrics["val_loss"].update(
            F.cross_entropy(logits, batch.labels), len(batch.labels)
        )
        self.validated.append(torch.stack([batch.labels, logits.argmax(dim=1)], dim=1).cpu())

    def on_train_epoch_end(self) -> None:
        self.share_bad()
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
        # Where it is large, more workers or smaller videos (`actionrec data shrink`) help.
        seconds = self.waited + self.worked
        figures["data_wait"] = round(self.waited / seconds, 4)
        self.log_dict(figures | {"clips_per_second": self.clips / seconds})
        epoch = EpochFigures(self.current_epoch + 1, learning_rate=self.learning_rate, **figures)
        self.epochs.append(epoch)
        log.info(
            "epoch %d of %d: training loss %.3f, Top-1 %.1f %%; validation, one clip a video: "
            "loss %.3f, Top-1 %.1f %%, Top-5 %.1f %%; %.1f clips/s, waited for data %.1f %% "
            "of the time; %s left",
            epoch.epoch,
            self.config.epochs,
            epoch.train_loss,
            100 * epoch.train_top1,
            epoch.val_loss,
            100 * epoch.val_top1,
            100 * epoch.val_top5,
            self.clips / seconds,
            100 * epoch.data_wait,
            self.time_left(),
        )
        result = {
            "epoch": epoch.epoch,
            "clip": {
                "top1": epoch.val_top1,
                "top5": epoch.val_top5,
                "n": sum(len(part) for part in self.validated),
            },
        }
        for metric in self.epoch_metrics.values():
            metric.reset()
        self.keep(result)

    def time_left(self) -> str:
        """How long the epochs to come will take, as long as those of this process did."""
        done = self.current_epoch + 1 - self.first_epoch
        taken = (time.perf_counter() - self.started) / done
        minutes, seconds = divmod(round(taken * (self.config.epochs - self.current_epoch - 1)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}"

    def keep(self, result: dict[str, Any]) -> None:
        """Save the model as the last one and, if it is, as the best one."""
        best = self.results.get("best")
        better = best is None or result["clip"]["top1"] > best["clip"]["top1"]
        self.results = {"best": result if better else best, "last": result}
        if not devices.is_first():
            return
        self.judged.training_record = {"config": asdict(self.config), "result": result}
        self.judged.save(self.output / "last.safetensors")
        if better:
            self.judged.save(self.output / "model.safetensors")
        write_json(self.output / "results.json", self.results)

    def note_bad(self, failures: list[Failure]) -> None:
        """Report each unreadable video once, on the spot and in the run's folder."""
        for failure in failures:
            if failure.video not in self.bad:
                self.bad[failure.video] = failure.error
                if devices.is_first():
                    log.warning("left out: %s", failure.error)
                    report = [asdict(Failure(*item)) for item in self.bad.items()]
                    write_json(self.output / "bad_videos.json", report)

    def share_bad(self) -> None:
        """Let every process, and so the report, know the unreadable videos of all of them."""
        for bad in devices.gather(self.bad):
            self.note_bad([Failure(*item) for item in bad.items()])

    @contextmanager
    def metrics_of_all(self) -> Iterator[None]:
        """While it lasts, the metrics of each process are those of all of them."""
        several = devices.world_size() > 1
        for metric in self.epoch_metrics.values() if several else ():
            metric.sync()
        try:
            yield
        finally:
            for metric in self.epoch_metrics.values() if several else ():
                metric.unsync()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["actionrec"] = {
            "results": self.results,
            "bad": self.bad,
            "bad_for_training": sorted(self.bad_for_training),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "progress": list(self.progress()),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = checkpoint["actionrec"]
        self.results = ours["results"]
        self.bad = ours["bad"]
        self.bad_for_training = set(ours["bad_for_training"])
        self.epochs = [EpochFigures(**figures) for figures in ours["epochs"]]

    def progress(self) -> Progress:
        """How far the run has come."""
        loop = self.trainer.fit_loop
        batches = loop.epoch_loop.batch_progress.current.processed
        if batches == loop.max_batches:
            return Progress(self.current_epoch + 1, 0)
        return Progress(self.current_epoch, batches * self.config.batch_size)


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that the file is never half there."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")
