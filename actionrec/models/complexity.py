"""The cost of a network without running it (parameters, multiply-adds, positions), and the parts
of it that a training run trains.

    actionrec info --backbone r3d50 --block snl --clip 16x112x112
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from actionrec.errors import UsageError
from actionrec.models.backbone import Backbone
from actionrec.models.network import ClassifierConfig, build_network
from actionrec.text import plain_table

# torch's counter knows fused attention on a GPU only.
UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    )
}
PARTS_HEAD = ("part", "parameters", "training", "batch norm")


@dataclass(frozen=True)
class BlockComplexity:
    """The cost of a nonlocal block before `unit` with C1 channels and N positions.

    `macs` counts the convolutions and the products with the affinity, in the form (with the N x N
    matrix or without) that the block takes at this size; `conv_macs` counts the convolutions alone,
    as the paper's Table 7 does.
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

    torch.utils.flop_counter counts convolutions, matrix products and fused attention, but not
    normalisation, activation, pooling, softmax and the linear solver of the block cayley.
    """

    params: int
    macs: int
    block: dict[str, int]
    clip: str
    classes: int
    blocks: list[BlockComplexity] = field(default_factory=list)


def measure(config: ClassifierConfig, clip: str) -> Complexity:
    """The complexity of the network of `config` for a clip of TxHxW, such as 16x112x112.

    Raises:
        UsageError: the clip is not of that form or too small for the network, or no network has
            the settings of `config`.
    """
    try:
        frames, height, width = (int(size) for size in clip.split("x"))
    except ValueError as error:
        raise UsageError(f"--clip {clip} is not of the form TxHxW, such as 16x112x112.") from error
    # Fake tensors have shapes and no content, so nothing is computed. The network's are real: some
    # initialisations look at numbers.
    network = build_network(config).eval()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        clips = torch.empty(1, 3, frames, height, width)
    positions: dict[str, int] = {}
    for unit, block in network.blocks.items():
        block.register_forward_pre_hook(
            lambda _, inputs, unit=unit: positions.update({unit: inputs[0][0, 0].numel()})
        )
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    try:
        with fake, counter, torch.no_grad():
            network(clips)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"A clip of {clip} is not possible for {config.backbone} ({reason})."
        ) from error
    blocks = []
    for unit, block in network.blocks.items():
        operations = counter.get_flop_counts()[f"{type(network).__name__}.blocks.{unit}"]
        channels = network.units.get_submodule(unit).in_channels
        costs = parameters(block), macs(operations), macs(operations, "convolution")
        blocks.append(BlockComplexity(unit, channels, positions[unit], *costs))
    return Complexity(
        params=parameters(network),
        macs=counter.get_total_flops() // 2,
        block={
            cost: sum(getattr(block, cost) for block in blocks)
            for cost in ("params", "macs", "conv_macs")
        },
        clip=clip,
        classes=len(config.labels),
        blocks=blocks,
    )


def parameters(module: torch.nn.Module) -> int:
    """The number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(operations: dict, kind: str = "") -> int:
    """Multiply-adds of the operations whose name contains `kind`; the counter counts two each."""
    return sum(flops for operation, flops in operations.items() if kind in str(operation)) // 2


@dataclass(frozen=True)
class TrainedPart:
    """A part of a network, with the number of its parameters and of the trained ones.

    `batchnorm` says whether it has batch normalisation of the backbone, which can be frozen, or of
    a nonlocal block, which is new and never frozen.
    """

    name: str
    parameters: int
    trained: int
    batchnorm: Literal["none", "backbone", "block"] = "none"

    def training(self) -> str:
        """The word trained or frozen, or the number of trained parameters."""
        if self.trained == self.parameters:
            return "trained"
        return f"{self.trained:,} trained" if self.trained else "frozen"

    def normalisation(self, freeze_batchnorm: bool) -> str:
        """Whether its batch normalisation is updated, or frozen: keeps its statistics.

        An untrained part keeps them, and with the setting `freeze_batchnorm` the whole backbone.
        """
        if self.batchnorm == "backbone" and (freeze_batchnorm or not self.trained):
            return "frozen"
        return "-" if self.batchnorm == "none" else "updated"


def trained_parts(network: Backbone) -> list[TrainedPart]:
    """The stem, the stages, each nonlocal block after its stage, and the head, in that order.

    A unit between two stages belongs to the one before it. Every parameter is in one part.
    """
    first_units = {names[0]: f"stage {stage}" for stage, names in network.stages.items()}
    units: dict[str, dict[str, torch.nn.Module]] = {"stem": {}}
    for name, unit in network.units.named_children():
        if name in first_units:
            units[first_units[name]] = {}
        units[next(reversed(units))][name] = unit
    parts = []
    for part, members in units.items():
        names = [name for name, unit in members.items() if parameters(unit)]
        if len(names) > 1:
            names = [f"{names[0]} to {names[-1]}"]
        title = part if names == [part] else f"{part}: {names[0]}"
        parts.append(_part(title, "backbone", *members.values()))
        parts += [
            _part(f"block before {name}", "block", network.blocks[name])
            for name in members
            if name in network.blocks
        ]
    return [*parts, _part("head", "backbone", network.head)]


def _part(
    name: str, normalisation: Literal["backbone", "block"], *modules: torch.nn.Module
) -> TrainedPart:
    part = torch.nn.ModuleList(modules)
    trained = sum(value.numel() for value in part.parameters() if value.requires_grad)
    has_norm = any(isinstance(layer, torch.nn.BatchNorm3d) for layer in part.modules())
    return TrainedPart(name, parameters(part), trained, normalisation if has_norm else "none")


def parts_rows(parts: Sequence[TrainedPart], freeze_batchnorm: bool) -> list[list[str]]:
    """A row for each part, and one for the whole network, under the columns `PARTS_HEAD`."""
    whole, trained = sum(part.parameters for part in parts), sum(part.trained for part in parts)
    rows = [
        [part.name, f"{part.parameters:,}", part.training(), part.normalisation(freeze_batchnorm)]
        for part in parts
    ]
    return [*rows, ["all", f"{whole:,}", f"{trained:,} trained", ""]]


def parts_table(parts: Sequence[TrainedPart], freeze_batchnorm: bool) -> str:
    """The parts as plain text in aligned columns."""
    return plain_table(parts_rows(parts, freeze_batchnorm), PARTS_HEAD)
