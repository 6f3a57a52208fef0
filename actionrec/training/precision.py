"""The numbers that a training computes with, and a remedy for wrong gradients in bfloat16.

    actionrec train --config demo.yaml --precision bfloat16

On a CPU that has bfloat16 a step takes about 0.6 times as long as in float32, which stays the
default there: kernels for bfloat16 are young, and some of them are wrong.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from actionrec.config import TrainConfig
from actionrec.devices import has_bfloat16
from actionrec.errors import UsageError

# Lightning's names; the weights are float32 in all of them.
LIGHTNING_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def resolved_precision(config: TrainConfig) -> str:
    """The precision of a training on this machine: float32, bfloat16 or float16.

    Raises:
        UsageError: the machine can't compute so, or not well.
    """
    precision = config.precision
    if torch.cuda.is_available():
        if precision == "auto":
            return "bfloat16" if has_bfloat16(torch.device("cuda")) else "float32"
        return precision
    if precision == "float16":
        raise UsageError("--precision float16 needs a GPU; use bfloat16 or auto.")
    if precision == "bfloat16" and not has_bfloat16(torch.device("cpu")):
        raise UsageError(
            "--precision bfloat16 needs a GPU or a processor with bfloat16 (AVX512-BF16 or AMX), "
            "and would be slower here; use --precision auto."
        )
    if precision == "bfloat16" and config.compile:
        raise UsageError(
            "--compile and --precision bfloat16 go together on a GPU only; leave out one of them."
        )
    if precision == "auto":
        # The recipe small was measured in bfloat16.
        fast = config.recipe == "small" and not config.compile
        return "bfloat16" if fast and has_bfloat16(torch.device("cpu")) else "float32"
    return precision


def sound_gradients(device: torch.device) -> AbstractContextManager[object]:
    """A context in which a network under autocast gets right gradients.

    Enter it inside autocast; without autocast it does nothing.
    """
    affected = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return FewTimeStepsInFloat32() if affected else nullcontext()


class FewTimeStepsInFloat32(TorchFunctionMode):
    """Takes 3D convolutions with fewer time steps than their kernel has out of autocast.

    On a CPU oneDNN (3.12 and 3.13, in torch 2.14 and 2.15) computes their weight gradients wrong in
    bfloat16, often by factors of 1e30, and writes out of bounds. I3D's last stage has such
    convolutions with clips of 16 frames: 2 time steps, kernels of 3.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv3d:
            clips, weight = args[:2]
            if clips.shape[2] < weight.shape[2]:
                with torch.autocast("cpu", enabled=False):
                    return func(clips.float(), weight.float(), *args[2:], **kwargs)
        return func(*args, **kwargs)
