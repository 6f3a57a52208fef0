"""The loss of a batch: cross-entropy, with weights of the classes or as a focal loss.

actionrec train --dataset folder --root my_videos --class-weights inverse --focal-gamma 2
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionrec.errors import UsageError

# Of the effective number (1 - beta^n) / (1 - beta) of n videos, one of the values of Cui et al.: at
# 100 videos it is 95, at 1,000 it is 632.
BETA = 0.999


class ClipLoss(nn.Module):
    """The mean loss of clips from logits (B, classes), and labels (B,) or shares (B, classes).

    With p the softmax, t the target (smoothed) and w the weights of the classes, a clip's loss is
    - sum_c w_c t_c (1 - p_c)^gamma log p_c. It is divided by the number of clips alone, so that the
    weights count across batches too, and processes that share a batch agree with a single one.
    """

    def __init__(
        self, weights: Tensor | None = None, gamma: float = 0.0, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        # They follow from data set and settings; a checkpoint needs no copy.
        self.register_buffer("weights", weights, persistent=False)
        self.gamma = gamma
        self.smoothing = smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if not self.gamma and self.weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        log_p = logits.float().log_softmax(dim=1)
        classes = log_p.shape[1]
        if targets.ndim == 1:
            targets = F.one_hot(targets, classes)
        shares = targets * (1 - self.smoothing) + self.smoothing / classes
        if self.weights is not None:
            shares = shares * self.weights
        if self.gamma:
            # The derivative of x^gamma has no limit at 0 where gamma is below 1.
            shares = shares * (-torch.expm1(log_p)).clamp(min=1e-7) ** self.gamma
        return -(shares * log_p).sum(dim=1).mean()


def class_weights(
    setting: str | Mapping[str, float], labels: Sequence[str], videos: Sequence[int]
) -> Tensor | None:
    """The weights (classes,) of the classes in the loss; None without weights.

    Those of inverse and effective have the mean 1 over the training videos, so that the learning
    rate keeps its meaning.

    Args:
        setting: none, inverse, effective, or weights by label, 1 for the others.
        labels: Names of the classes.
        videos: Number of training videos of each.

    Raises:
        UsageError: a weight is for a class that there is not, or a class without videos would need
            an infinite one.
    """
    if setting == "none":
        return None
    if not isinstance(setting, str):
        for label in setting:
            if label not in labels:
                nearest = get_close_matches(label, labels, n=1)
                hint = f"did you mean {nearest[0]}?" if nearest else f"there are {len(labels)}."
                raise UsageError(f"class_weights names {label!r}, which is no class; {hint}")
        return torch.tensor([float(setting.get(label, 1.0)) for label in labels])
    require_videos(f"--class-weights {setting}", labels, videos)
    counts = torch.tensor(videos, dtype=torch.float64)
    weights = 1 / counts if setting == "inverse" else (1 - BETA) / (1 - BETA**counts)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def require_videos(flag: str, labels: Sequence[str], videos: Sequence[int]) -> None:
    """Raise UsageError if a class has no training video, which `flag` can't do without."""
    absent = [label for label, number in zip(labels, videos, strict=True) if not number]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UsageError(
            f"{flag} needs training videos of every class, and {absent[0]!r}{more} has none; add "
            f"videos, take the class out of the data set, or leave out {flag.split()[0]}."
        )
