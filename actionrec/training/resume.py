"""Keeps a run's `last.ckpt`, and ends the run when Ctrl-C or a cluster asks for it."""

import logging
import signal
import threading
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Checkpoint

from actionrec import devices
from actionrec.errors import ActionrecError, Stopped
from actionrec.files import replacing
from actionrec.training.clips import Progress

log = logging.getLogger(__name__)

SAVED_EVERY = 600.0  # seconds
# Several processes must agree on whether to save or stop; asking the others costs a little time.
STEPS_BETWEEN_QUESTIONS = 8


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
        often = STEPS_BETWEEN_QUESTIONS if trainer.world_size > 1 else 1
        batches = often * trainer.accumulate_grad_batches
        if progress.is_last_batch or progress.current.processed % batches:
            return
        asked, due = self.agree()
        if asked or due:
            self.save(trainer)
        self.stop_if(asked, trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        asked, _ = self.agree()
        self.save(trainer)
        if trainer.current_epoch + 1 < trainer.max_epochs:
            self.stop_if(asked, trainer)

    def agree(self) -> tuple[int, bool]:
        """The signal that any process was sent, 0 if none was; and whether it is time to save."""
        due = time.monotonic() > self.saved + SAVED_EVERY
        signals, dues = zip(*devices.gather((self.asked or 0, due)), strict=True)
        return max(signals), any(dues)

    def save(self, trainer: lightning.Trainer) -> None:
        """Write the checkpoint; all processes take part, the first one writes."""
        with trainer.lightning_module.metrics_of_all():
            if devices.is_first():
                with replacing(self.path) as temporary:
                    trainer.save_checkpoint(temporary)
            else:
                trainer.save_checkpoint(self.path)
        self.saved = time.monotonic()

    def stop_if(self, asked: int, trainer: lightning.Trainer) -> None:
        if asked:
            devices.stop_together(
                Stopped(
                    f"Training was stopped in epoch {trainer.current_epoch + 1} of "
                    f"{trainer.max_epochs}; the same command with --resume auto continues it.",
                    exit_code=128 + asked,
                )
            )


def read_progress(checkpoint: Path) -> Progress:
    """How far the run had come that wrote this checkpoint.

    Raises:
        ActionrecError: it is damaged or from another version.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        ours = state["actionrec"]
        if len(ours["epochs"]) != ours["progress"][0]:
            raise ValueError("figures of an epoch are missing")
        return Progress(*ours["progress"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, UnpicklingError) as error:
        raise ActionrecError(
            f"{checkpoint} can't be resumed from ({type(error).__name__}); delete it to begin the "
            "run anew, or choose another --output."
        ) from error
