"""A run's `last.ckpt`: written while it trains and when Ctrl-C or a cluster ends it.

`previous.ckpt`, the one before it, takes its place where it turns out to be damaged.
"""

import logging
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Checkpoint

from actionrec import devices
from actionrec.errors import ActionrecError, Stopped
from actionrec.files import replacing
from actionrec.signals import stop_requests
from actionrec.training.clips import Progress

log = logging.getLogger(__name__)

PREVIOUS = "previous.ckpt"
SAVED_EVERY = 600.0  # seconds
# Several processes must agree on whether to save or stop, which costs a little time.
STEPS_BETWEEN_AGREEMENTS = 8


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt` after every epoch, every ten minutes and when the run is asked to stop.

    The file is always whole and from between two steps: a run that continues from it makes the
    same choices as a run that was never stopped, and on a CPU ends with the very same weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved = time.monotonic()
        self.handlers = ExitStack()

    def on_train_start(self, *_: Any) -> None:
        # From here on in place of Lightning's handler, which ends the run within a step.
        message = "Stopping after this step; Ctrl-C again stops at once."
        self.requested_signal = self.handlers.enter_context(stop_requests(message))

    def on_train_end(self, *_: Any) -> None:
        self.handlers.close()

    on_exception = on_train_end

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        # Gradients that are still being added up are in no checkpoint, and an epoch's last step is
        # saved after the validation.
        steps = STEPS_BETWEEN_AGREEMENTS if trainer.world_size > 1 else 1
        batches = steps * trainer.accumulate_grad_batches
        if progress.is_last_batch or progress.current.processed % batches:
            return
        stop_signal, due = self.agreement()
        if stop_signal or due:
            self.save(trainer)
        self.stop_if(stop_signal, trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        stop_signal, _ = self.agreement()
        self.save(trainer)
        # The last epoch, also one that --patience ends the run after, is followed by the report.
        if trainer.current_epoch + 1 < trainer.max_epochs and not trainer.should_stop:
            self.stop_if(stop_signal, trainer)

    def agreement(self) -> tuple[int, bool]:
        """The stop signal of any process, 0 for none; and whether a checkpoint is due in any."""
        due = time.monotonic() > self.saved + SAVED_EVERY
        signals, dues = zip(*devices.gather((self.requested_signal(), due)), strict=True)
        return max(signals), any(dues)

    def save(self, trainer: lightning.Trainer) -> None:
        """Write the checkpoint; all processes take part, the first one writes."""
        with ExitStack() as stack:
            for metric in trainer.lightning_module.epoch_metrics.values():
                stack.enter_context(metric.sync_context())
            if devices.is_first():
                with replacing(self.path) as temporary:
                    trainer.save_checkpoint(temporary)
                    # A damaged one must not take the place of the whole one before it.
                    with suppress(ActionrecError):
                        read_progress(self.path)
                        self.path.replace(self.path.with_name(PREVIOUS))
            else:
                trainer.save_checkpoint(self.path)
        self.saved = time.monotonic()

    def stop_if(self, stop_signal: int, trainer: lightning.Trainer) -> None:
        if stop_signal:
            devices.stop_together(
                Stopped(
                    f"Training was stopped in epoch {trainer.current_epoch + 1} of "
                    f"{trainer.max_epochs}; the same command with --resume auto continues it.",
                    exit_code=128 + stop_signal,
                )
            )


def newest_progress(checkpoint: Path) -> tuple[Path | None, Progress | None]:
    """The newest whole checkpoint of a run, and its progress; None where there is none yet.

    Raises:
        ActionrecError: every one is damaged or from another version.
    """
    errors = []
    for path in (checkpoint, checkpoint.with_name(PREVIOUS)):
        try:
            progress = read_progress(path)
        except ActionrecError as error:
            errors += [error] if path.exists() else []
            continue
        if path != checkpoint:
            log.warning("%s is damaged or missing; the run goes on from %s.", checkpoint, path)
        return path, progress
    if errors:
        raise errors[0]
    return None, None


def saved_state(checkpoint: Path) -> dict[str, Any]:
    """What `Training` keeps of itself in a whole checkpoint, beside its weights."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["actionrec"]


def read_progress(checkpoint: Path) -> Progress:
    """The progress of the run that wrote this checkpoint, all of whose checksums are right."""
    try:
        with ZipFile(checkpoint) as parts:
            if damaged := parts.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        ours = state["actionrec"]
        if len(ours["epochs"]) != ours["progress"][0]:
            raise ValueError("figures of an epoch are missing")
        return Progress(*ours["progress"])
    # Damage shows itself in a dozen ways.
    except Exception as error:
        raise ActionrecError(
            f"{checkpoint} can't be resumed from ({type(error).__name__}), nor from one before it; "
            "choose another --output, or delete the folder's *.ckpt to begin the run anew."
        ) from error
