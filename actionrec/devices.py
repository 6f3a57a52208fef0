"""The device to compute on, and the processes that train or evaluate together, one a GPU, on one
machine or many.

    actionrec train --dataset ucf101 --root UCF-101 --devices 4
    actionrec evaluate --model model.safetensors --dataset ucf101 --root UCF-101 --devices 4
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        -m actionrec train --dataset ucf101 --root UCF-101 --devices 4 --nodes 2

Lightning starts the processes, or finds that torchrun or Slurm did. A single process is the first
of one, so that no code needs a special case for it. A process is alone unless --devices and --nodes
say otherwise: within Slurm or torchrun, too, each of several may do work of its own.
"""

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from actionrec.errors import ActionrecError, UsageError

Value = TypeVar("Value")

# Set by torchrun, Lightning, Slurm and LSF.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
for name in RANK_VARIABLES:
    # Lightning and torchmetrics fail while they are imported where it is no number.
    if not os.environ.get(name, "0").isdecimal():
        del os.environ[name]


def fastest_device() -> str:
    """The first GPU, if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, about twice as fast as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older versions of PyTorch can't tell.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


# Processes that work together.

_are_several = False


def expect(processes: int) -> None:
    """Say how many processes are to work together, before they meet."""
    global _are_several
    _are_several = processes > 1
    if _are_several:
        atexit.register(_part)


def _part() -> None:
    """Leave the other processes before Python ends.

    Otherwise a thread of Gloo may outlive what it uses, which aborted one process of 50 after its
    work. Of NCCL Lightning takes care.
    """
    if _have_met() and distributed.get_backend() == distributed.Backend.GLOO:
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0 on; also before the processes have met."""
    if _have_met():
        return distributed.get_rank()
    names = RANK_VARIABLES if _are_several else ()
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def is_first() -> bool:
    """Whether this is the process that writes files and speaks to the user."""
    return rank() == 0


def world_size() -> int:
    """The number of processes that work together; 1 before they have met."""
    return distributed.get_world_size() if _have_met() else 1


def _have_met() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def gather(value: Value) -> list[Value]:
    """The values of all processes, in the order of their ranks; the same list in all of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def total(counts: torch.Tensor) -> torch.Tensor:
    """The sum of `counts` over the processes, in all of them."""
    if world_size() > 1:
        counts = counts.clone()
        distributed.all_reduce(counts)
    return counts


def copy_from_first(tensors: list[torch.Tensor]) -> None:
    """Overwrite the tensors of all processes with those of the first."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def stop_together(error: ActionrecError) -> None:
    """End all processes because of `error`, which all of them have found at the same time.

    The first one raises it, so that the user reads it once. The others end as if all were well: a
    launcher that saw one of them fail would kill the first one before it has spoken.
    """
    if is_first():
        raise error
    raise SystemExit(0)


@contextmanager
def lost_processes_as_errors() -> Iterator[None]:
    """Turn what a process meets when another one has died into an ActionrecError."""
    try:
        yield
    except RuntimeError as error:
        if not _have_met() or not (
            isinstance(error, distributed.DistError) or "gloo" in str(error)
        ):
            raise
        raise ActionrecError(
            f"Process {rank()} lost another one, which was killed or failed before; see what that "
            "one said, or whether its machine ran out of memory. A training goes on with "
            "--resume auto."
        ) from error


def require_same(facts: dict[str, Any]) -> None:
    """Check that the `facts`, by name, are the same in all processes, which call this together.

    Raises:
        ActionrecError: they are not, and the processes would wait for each other for ever.
    """
    of_all = gather(facts)
    for name, value in of_all[0].items():
        others = [number for number, each in enumerate(of_all) if each[name] != value]
        if others:
            both = "" if isinstance(value, bytes) else f": {value} and {of_all[others[0]][name]}"
            stop_together(
                ActionrecError(
                    f"Process 0 and process {others[0]} differ in the {name}{both}; give all "
                    "machines the same data and settings."
                )
            )


def require_devices(devices: int) -> None:
    """Check that this machine has so many devices; without a GPU any number of processes will do.

    Raises:
        UsageError: there are fewer GPUs.
    """
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise UsageError(
            f"--devices {devices} is more than this machine has: {torch.cuda.device_count()} GPUs."
        )


def join(devices: int, nodes: int) -> torch.device:
    """Start the other processes, or meet those that torchrun or Slurm started.

    Returns the device of this one.

    Raises:
        UsageError: there are fewer GPUs.
    """
    require_devices(devices)
    expect(devices * nodes)
    if devices * nodes == 1:
        return torch.device(fastest_device())
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    fabric = Fabric(accelerator="auto", devices=devices, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return fabric.device


def synchronise_batchnorm(network: nn.Module) -> None:
    """Let batch normalisation take its statistics over the clips of all processes.

    On the CPU, where PyTorch's layer does not work, PyTorchVideo's computes them.
    """
    from pytorchvideo.layers.batch_norm import NaiveSyncBatchNorm3d

    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            # Only the way of computing changes: the weights and their names stay.
            on_gpu = torch.cuda.is_available()
            module.__class__ = nn.SyncBatchNorm if on_gpu else NaiveSyncBatchNorm3d
            module.process_group = None
            # Both need a scale; I3D's normalisation has none.
            if module.weight is None:
                del module.weight
                scale = torch.ones_like(module.running_var)
                module.register_buffer("weight", scale, persistent=False)
