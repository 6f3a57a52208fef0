"""What a network costs: parameters, multiply-adds and positions, without running it.

actionrec info --backbone r3d50 --block snl --clip 16x112x112
"""

from dataclasses import dataclass, field

import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from actionrec.errors import UsageError
from actionrec.models.recognizer import RecognizerConfig, build_network


@dataclass(frozen=True)
class BlockComplexity:
    """A nonlocal block before `unit`: its channels C1, its N positions, and what it costs.

    `macs` are those of the convolutions and of the products with the affinity, in the form (with
    the N x N matrix or without) that the block takes at this size; `conv_macs` are those of the
    convolutions alone, which is what the paper's Table 7 counts.
    """

    unit: str
    channels: int
    positions: int
    params: int
    macs: int
    conv_macs: int


@dataclass(frozen=True)
class Complexity:
    """Parameters, and multiply-adds for one clip, of a network and of its blocks together.

    Counted are convolutions and matrix products, as by torch.utils.flop_counter; not counted are
    normalisation, activation, pooling, softmax, and the linear solver of the block cayley.
    """

    params: int
    macs: int
    block: dict[str, int]
    clip: str
    classes: int
    blocks: list[BlockComplexity] = field(default_factory=list)


def measure(config: RecognizerConfig, clip: str) -> Complexity:
    """The complexity of the network of `config` for a clip, given as TxHxW such as 16x112x112.

    Raises:
        UsageError: the clip is not of that form or too small for the network, or `config` is of
            no possible network.
    """
    try:
        frames, height, width = (int(size) for size in clip.split("x"))
    except ValueError as error:
        raise UsageError(f"--clip {clip} is not of the form TxHxW, such as 16x112x112.") from error
    # Fake tensors have shapes and no content, so nothing is computed.
    fake = FakeTensorMode()
    with fake:
        network = build_network(config).eval()
        clips = torch.empty(1, 3, frames, height, width)
    positions: dict[str, int] = {}
    for unit, block in network.blocks.items():
        block.register_forward_pre_hook(
            lambda _, inputs, unit=unit: positions.update({unit: inputs[0][0, 0].numel()})
        )
    counter = FlopCounterMode(display=False)
    try:
        with fake, counter, torch.no_grad():
            network(clips)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"A clip of {clip} is not possible for {config.backbone} ({reason})."
        ) from error
    counts = counter.get_flop_counts()
    blocks = [
        BlockComplexity(
            unit=unit,
            channels=network.units.get_submodule(unit).in_channels,
            positions=positions[unit],
            params=parameters(block),
            macs=macs(counts[f"{type(network).__name__}.blocks.{unit}"]),
            conv_macs=macs(counts[f"{type(network).__name__}.blocks.{unit}"], "convolution"),
        )
        for unit, block in network.blocks.items()
    ]
    return Complexity(
        params=parameters(network),
        macs=counter.get_total_flops() // 2,
        block={
            "params": sum(block.params for block in blocks),
            "macs": sum(block.macs for block in blocks),
            "conv_macs": sum(block.conv_macs for block in blocks),
        },
        clip=clip,
        classes=len(config.labels),
        blocks=blocks,
    )


def parameters(module: torch.nn.Module) -> int:
    """How many trainable numbers a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(operations: dict, kind: str = "") -> int:
    """Multiply-adds of the operations whose name contains `kind`; the counter counts two each."""
    return sum(flops for operation, flops in operations.items() if kind in str(operation)) // 2
