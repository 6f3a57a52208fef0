"""Gradient checkpointing: memory for time, with the same gradients.

    actionrec train --dataset folder --root my_videos --gradient-checkpointing true

The forward pass keeps the input of every unit alone, and the backward pass computes the inside of a
unit again (Chen et al. 2016, torch.utils.checkpoint).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from actionrec.training.precision import sound_gradients


def recomputed(module: nn.Module, x: Any) -> Any:
    """`module(x)`, whose inside is computed again for its gradients."""
    if not (module.training and torch.is_grad_enabled()):
        return module(x)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), second_pass(module)

    return checkpoint(module, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def second_pass(module: nn.Module) -> Iterator[None]:
    """A context for the second forward pass of a step.

    Batch normalisation has counted the batch in the first one: here it updates copies of its
    statistics.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    statistics = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    try:
        for norm, own in zip(norms, statistics, strict=True):
            for name, buffer in own.items():
                setattr(norm, name, buffer.clone())
        # The backward pass runs outside the context of the forward pass.
        with sound_gradients(next(module.parameters(), torch.empty(0)).device):
            yield
    finally:
        for norm, own in zip(norms, statistics, strict=True):
            for name, buffer in own.items():
                setattr(norm, name, buffer)
