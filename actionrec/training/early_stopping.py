"""When a run ends before its last epoch.

    actionrec train --dataset folder --root my_videos --epochs 100 --patience 10

The reason follows from the results so far, so a continued run needs no other memory, and one with
more patience goes on.
"""

from collections.abc import Mapping
from typing import Any

from actionrec.config import TrainConfig


def figure_of_best(config: TrainConfig) -> tuple[str, str]:
    """The figure by which the best epoch is chosen: its key in `results.json`, and its name."""
    return ("map", "mAP") if config.multi_label else ("top1", "Top-1")


def reason_to_stop(results: Mapping[str, Any], config: TrainConfig) -> str | None:
    """A sentence on why no further epoch is trained, or None.

    Args:
        results: Of the run so far, as in `results.json`.
        config: The run's settings.
    """
    if config.patience is None or not results:
        return None
    best, last = results["best"], results["last"]
    waited = last["epoch"] - best["epoch"]
    if waited < config.patience or last["epoch"] >= config.epochs:
        return None
    key, name = figure_of_best(config)
    return (
        f"The run ended after epoch {last['epoch']} of {config.epochs}: validation {name} was best "
        f"in epoch {best['epoch']} ({best['clip'][key]:.1%}) and has not risen in the "
        f"{config.patience} since (--patience); a larger --patience, or none, with --resume auto "
        "goes on."
    )
