"""How far logits and gradients of the networks are from those in float64 on the CPU.

    python scripts/check_precision.py
    python scripts/check_precision.py --device cuda --backbones i3d --blocks none snl

The same weights and clips are computed in float64 on the CPU, in float32, and under autocast in
bfloat16 and float16. Distances are relative: the length of the difference over the length of the
float64 result. Gradients are of the cross entropy, with the loss scaled for float16 as in a
training. A network is random, its batch normalisations keep the scale of the signal, and the scale
of a block's is 1, so that the block takes part. (If they took out the means, too, a random network
would multiply every rounding by thousands; a trained one does not.)
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

import torch
from rich.console import Console
from rich.table import Table
from stopwatch import device_name
from torch import Tensor, nn

from actionrec.devices import fastest_device
from actionrec.models.network import BlockConfig, ClassifierConfig, build_network
from actionrec.models.registry import BACKBONES
from actionrec.training.precision import sound_gradients

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOAT16_SCALE = 2.0**10


@dataclass(frozen=True)
class PrecisionRow:
    """Distances of one network in one type of number from the same in float64.

    `worst_gradient` is the largest distance of a single parameter, whose name follows.
    """

    backbone: str
    block: str
    clip: str
    batch: int
    dtype: str
    logits: float
    gradients: float
    worst_gradient: float
    worst_parameter: str


def prepared_network(backbone: str, block: str, clips: Tensor) -> nn.Module:
    """A random network in float64, as it is used between its first and its last step."""
    torch.manual_seed(0)
    labels = tuple(f"class {index}" for index in range(10))
    network = build_network(ClassifierConfig(labels, backbone, BlockConfig(block))).double()
    for each in network.blocks.values():
        for unit in each.units:
            nn.init.ones_(unit.norm.weight)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
    hooks = [norm.register_forward_pre_hook(keep_scale) for norm in norms]
    with torch.no_grad():
        network.eval()(clips)
    for hook in hooks:
        hook.remove()
    return network


def keep_scale(norm: nn.BatchNorm3d, inputs: tuple[Tensor, ...]) -> None:
    """Let a batch normalisation divide by the root mean square of its input."""
    norm.running_mean.zero_()
    norm.running_var.fill_(inputs[0].square().mean())


def logits_and_gradients(
    network: nn.Module, clips: Tensor, dtype: torch.dtype | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Those of one step, in float64 on the CPU."""
    device = clips.device
    scale = FLOAT16_SCALE if dtype == torch.float16 else 1.0
    targets = torch.arange(len(clips), device=device)
    with torch.autocast(device.type, dtype, enabled=dtype is not None), sound_gradients(device):
        logits = network(clips)
        loss = nn.functional.cross_entropy(logits, targets)
    (scale * loss).backward()
    gradients = {
        name: parameter.grad.double().cpu() / scale
        for name, parameter in network.named_parameters()
    }
    return logits.detach().double().cpu(), gradients


def distance(found: Tensor, expected: Tensor) -> float:
    """The length of the difference over the length of what is expected, or over 1 for zero."""
    return ((found - expected).norm() / (expected.norm() or 1)).item()


def measure_precision(
    backbone: str, block: str, clip: str, batch: int, device: torch.device
) -> list[PrecisionRow]:
    """A row for each type of number."""
    clips = torch.randn(batch, 3, *map(int, clip.split("x")), dtype=torch.float64)
    network = prepared_network(backbone, block, clips)
    reference = copy.deepcopy(network)
    logits, gradients = logits_and_gradients(reference, clips, None)
    rows = []
    for name, dtype in DTYPES.items():
        layout = {"memory_format": torch.channels_last_3d}
        own = copy.deepcopy(network).float().to(device, **layout)
        pixels = clips.float().to(device).contiguous(**layout)
        found, its = logits_and_gradients(own, pixels, dtype)
        far = {key: distance(its[key], gradients[key]) for key in gradients}
        worst = max(far, key=far.__getitem__)
        whole = [torch.cat([each[key].flatten() for key in gradients]) for each in (its, gradients)]
        distances = distance(found, logits), distance(*whole), far[worst]
        rows.append(PrecisionRow(backbone, block, clip, batch, name, *distances, worst))
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--blocks", nargs="+", default=["none", "snl"])
    parser.add_argument("--clip", default="16x112x112")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device(fastest_device()))
    options = parser.parse_args(words)
    print(f"{device_name(options.device)}, PyTorch {torch.__version__}")
    table = Table("backbone", "block", "type", "logits", "gradients", "worst", "of")
    for backbone, block in product(options.backbones, options.blocks):
        for row in measure_precision(backbone, block, options.clip, options.batch, options.device):
            values = asdict(row)
            figures = [f"{values[key]:.2e}" for key in ("logits", "gradients", "worst_gradient")]
            table.add_row(row.backbone, row.block, row.dtype, *figures, row.worst_parameter)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
