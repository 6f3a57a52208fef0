"""When a run ends before its last epoch.

    actionrec train --dataset folder --root my_videos --epochs 100 --patience 10

The reason follows from the results so far, so a continued run needs no other memory, and one with
more patience goes on.
"""

from collections.abc import Mapping
from typing import Any

from actionrec.config import TrainConfig


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
    return (
        f"The run ended after epoch {last['epoch']} of {config.epochs}: validation Top-1 was best "
        f"in epoch {best['epoch']} ({best['clip']['top1']:.1%}) and has not risen in the "
        f"{config.patience} since (--patience); a larger --patience, or none, with --resume auto "
        "goes on."
    )
