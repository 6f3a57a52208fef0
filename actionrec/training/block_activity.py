"""What the nonlocal blocks of a network do while it trains: the size of what they add, their
gradient and the scale of their norm, by epoch.

A block starts as the identity. Figures of a whole run that stay near those of the start say that
the run compared a network with itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actionrec import devices
from actionrec.models.backbone import Backbone


@dataclass(frozen=True)
class BlockFigures:
    """A nonlocal block in one epoch.

    Args:
        term: ||block(x) - x|| / ||x|| over the validation clips, as the next unit sees it: 16-bit
            numbers round it to steps of about half a percent.
        gradient: Norm of the gradient of all its parameters, the mean over the epoch's steps,
            before any clipping.
        scale: Mean absolute scale of its norms, 0 at the start.
    """

    term: float
    gradient: float
    scale: float

    def __str__(self) -> str:
        return (
            f"adds {self.term:.2%} of its input, gradient {self.gradient:.2g}, "
            f"norm scale {self.scale:.2g}"
        )


class BlockActivity(nn.Module):
    """Notes what the blocks of `validated` do to validation clips, and the gradients of training.

    It computes beside the network and changes nothing in it. Its sums are buffers, so that they
    lie on the network's device, but are no part of the training module's state.
    """

    def __init__(self, validated: Backbone) -> None:
        super().__init__()
        self.names = tuple(validated.blocks)
        # Sums of squares of every block's term and input, and the sum of its gradient's norms.
        self.register_buffer("squares", torch.zeros(len(self.names), 2), persistent=False)
        self.register_buffer("gradients", torch.zeros(len(self.names)), persistent=False)
        self.register_buffer("steps", torch.zeros(()), persistent=False)
        for index, block in enumerate(validated.blocks.values()):
            block.register_forward_hook(self._hook(index))

    def _hook(self, index: int) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def note_term(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            if not block.training:
                [x] = inputs
                norms = [torch.linalg.vector_norm(y, dtype=torch.float32) for y in (output - x, x)]
                self.squares[index] += torch.stack(norms).square()

        return note_term

    def note_gradients(self, trained: Backbone) -> None:
        """Add the gradients of a step. Where float16 overflows, the step is not taken."""
        if not self.names:
            return
        norms = [
            nn.utils.get_total_norm([w.grad for w in block.parameters() if w.grad is not None])
            for block in trained.blocks.values()
        ]
        norms = torch.stack(norms).to(self.gradients)
        finite = norms.isfinite().all()
        self.gradients += norms.where(finite, 0)
        self.steps += finite

    def end_epoch(self, validated: Backbone) -> dict[str, BlockFigures]:
        """The figures of the epoch by block, over all processes; the sums begin anew."""
        terms, inputs = devices.total(self.squares).sqrt().T
        scales = [
            torch.cat([unit.norm.weight.detach().abs() for unit in block.units]).mean()
            for block in validated.blocks.values()
        ]
        columns = (terms / inputs, self.gradients / self.steps, scales)
        figures = {
            name: BlockFigures(*(float(f"{value.item():.4g}") for value in values))
            for name, *values in zip(self.names, *columns, strict=True)
        }
        for sums in self.buffers():
            sums.zero_()
        return figures
