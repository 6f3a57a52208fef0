"""Networks and nonlocal blocks by name, with the place of their code; and what they compute with.

    actionrec info --backbone r3d50 --block snl

A new network is a module in `actionrec/models/` and a line in `BACKBONES`; a new nonlocal block is
a function in `nonlocal_blocks.py` and a line in `BLOCKS`. Help texts and error messages follow from
these lines. Nothing here imports PyTorch, so that help answers at once.
"""

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any, Literal

from actionrec.errors import UsageError

# A function from `classes`, the number of classes, to a `Backbone`.
BACKBONES = {
    "i3d": "actionrec.models.i3d:I3D",
    "r3d50": "actionrec.models.resnet3d:r3d50",
    "i3d_r50": "actionrec.models.resnet3d:i3d_r50",
    "c3d_small": "actionrec.models.c3d_small:c3d_small",
}

# A function from the channels, the reduced channels and the number of units to a `NonlocalBlock`.
BLOCKS = {
    name: f"actionrec.models.nonlocal_blocks:{name}"
    for name in (
        *("nl", "nl_dot", "ns", "a2", "cgnl", "cc", "dnl"),
        *("snl", "snl_a1", "snl_a2", "gsnl", "cheb", "cayley"),
    )
}

# Numbers that a network computes with to predict; auto is bfloat16 where the hardware has it.
PrecisionName = Literal["auto", "float32", "bfloat16"]


def find(registry: Mapping[str, str], name: str, what: str) -> Callable[..., Any]:
    """The function that builds the network or block `name`.

    Args:
        registry: `BACKBONES` or `BLOCKS`.
        name: One of its keys.
        what: What the user calls it, for the message.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in registry:
        raise UsageError(f"There is no {what} {name!r}; choose from {', '.join(registry)}.")
    return resolve_name(registry[name])
