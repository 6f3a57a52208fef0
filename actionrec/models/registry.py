"""Networks and nonlocal blocks by name, with the place of their code.

    actionrec info --backbone r3d50 --block snl

A new network or block is a module and a line here: help and error messages follow from it, see
docs/extend.md. Nothing here imports PyTorch, so that help answers at once.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Any, Literal

from actionrec.errors import UsageError

# Functions from `classes`, the number of classes, to a `Backbone`.
BACKBONES = {
    "i3d": "actionrec.models.i3d:I3D",
    "r3d50": "actionrec.models.resnet3d:r3d50",
    "i3d_r50": "actionrec.models.pytorchvideo_networks:i3d_r50",
    "slow_r50": "actionrec.models.pytorchvideo_networks:slow_r50",
    "slowfast_r50": "actionrec.models.pytorchvideo_networks:slowfast_r50",
    "slowfast_r101": "actionrec.models.pytorchvideo_networks:slowfast_r101",
    "slowfast_16x8_r101_50_50": ("actionrec.models.pytorchvideo_networks:slowfast_16x8_r101_50_50"),
    "x3d_xs": "actionrec.models.pytorchvideo_networks:x3d_xs",
    "x3d_s": "actionrec.models.pytorchvideo_networks:x3d_s",
    "x3d_m": "actionrec.models.pytorchvideo_networks:x3d_m",
    "x3d_l": "actionrec.models.pytorchvideo_networks:x3d_l",
    "r2plus1d_r50": "actionrec.models.pytorchvideo_networks:r2plus1d_r50",
    "csn_r101": "actionrec.models.pytorchvideo_networks:csn_r101",
    "r3d_18": "actionrec.models.torchvision_networks:r3d_18",
    "mc3_18": "actionrec.models.torchvision_networks:mc3_18",
    "r2plus1d_18": "actionrec.models.torchvision_networks:r2plus1d_18",
    "s3d": "actionrec.models.torchvision_networks:s3d",
    "mvit_v1_b": "actionrec.models.torchvision_networks:mvit_v1_b",
    "mvit_v2_s": "actionrec.models.torchvision_networks:mvit_v2_s",
    "swin3d_t": "actionrec.models.torchvision_networks:swin3d_t",
    "swin3d_s": "actionrec.models.torchvision_networks:swin3d_s",
    "swin3d_b": "actionrec.models.torchvision_networks:swin3d_b",
    "c3d_small": "actionrec.models.c3d_small:c3d_small",
}

# Functions from the channels, the reduced channels and the number of units to a `NonlocalBlock`;
# further parameters are options of the block.
BLOCKS = {
    "nl": "actionrec.models.nonlocal_blocks:nl",
    "nl_dot": "actionrec.models.nonlocal_blocks:nl_dot",
    "ns": "actionrec.models.nonlocal_blocks:ns",
    "a2": "actionrec.models.nonlocal_blocks:a2",
    "cgnl": "actionrec.models.nonlocal_blocks:cgnl",
    "cc": "actionrec.models.nonlocal_blocks:cc",
    "dnl": "actionrec.models.nonlocal_blocks:dnl",
    "snl": "actionrec.models.nonlocal_blocks:snl",
    "snl_a1": "actionrec.models.nonlocal_blocks:snl_a1",
    "snl_a2": "actionrec.models.nonlocal_blocks:snl_a2",
    "gsnl": "actionrec.models.nonlocal_blocks:gsnl",
    "cheb": "actionrec.models.nonlocal_blocks:cheb",
    "cayley": "actionrec.models.nonlocal_blocks:cayley",
}

# Number formats of prediction; auto is bfloat16 where the hardware has it.
PrecisionName = Literal["auto", "float32", "bfloat16"]

# What computes a network that predicts; auto is the fastest that is installed.
EngineName = Literal["auto", "torch", "compile", "openvino", "onnxruntime"]


def find(registry: Mapping[str, str], name: str, kind: str) -> Callable[..., Any]:
    """The function that builds the network or block `name`.

    Args:
        registry: `BACKBONES` or `BLOCKS`.
        name: One of its keys.
        kind: The user's word for an entry, for the message.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in registry:
        nearest = get_close_matches(name.lower(), registry, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(registry)}."
        raise UsageError(f"There is no {kind} {name!r}; {hint}")
    return resolve_name(registry[name])
