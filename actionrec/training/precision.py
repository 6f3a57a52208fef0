"""Which numbers a training computes with, and a way round wrong gradients.

    actionrec train --config demo.yaml --precision bf16-mixed

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


def resolved_precision(config: TrainConfig) -> str:
    """What --precision stands for on this machine: 32-true, bf16-mixed or 16-mixed.

    Raises:
        UsageError: the machine can't compute so, or not well.
    """
    precision = config.precision
    if torch.cuda.is_available():
        if precision == "auto":
            return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
        return precision
    if precision == "16-mixed":
        raise UsageError("--precision 16-mixed needs a GPU; use bf16-mixed or auto.")
    if precision == "bf16-mixed" and not has_bfloat16(torch.device("cpu")):
        raise UsageError(
            "--precision bf16-mixed needs a GPU or a processor with bfloat16 (AVX512-BF16 or AMX), "
            "and would be slower here; use --precision auto."
        )
    if precision == "bf16-mixed" and config.compile:
        raise UsageError(
            "--compile and --precision bf16-mixed go together on a GPU only; leave out one of them."
        )
    return "32-true" if precision == "auto" else precision


def sound_gradients(device: torch.device) -> AbstractContextManager[object]:
    """Within it, a network under autocast is computed so that its gradients are right.

    Enter it after autocast: without that there is nothing to do.
    """
    in_question = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return FewTimeStepsInFloat32() if in_question else nullcontext()


class FewTimeStepsInFloat32(TorchFunctionMode):
    """Takes 3D convolutions with fewer time steps than their kernel has out of autocast.

    On a CPU oneDNN (3.12 and 3.13, in torch 2.14 and 2.15) gives them weight gradients in bfloat16
    that are wrong, often by factors of 1e30, and writes where it must not: of 2 time steps with
    kernels of 3, which the last stage of I3D has with clips of 16 frames.
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
