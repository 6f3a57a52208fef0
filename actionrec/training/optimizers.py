"""What a step does to each parameter: the optimizer, the learning rates, the weight decay.

    actionrec train --dataset folder --root my_videos --optimizer adamw --lr-layer-decay 0.75

What pretrained layers know is most general near the input. Layer-wise decay of the learning rate
(Clark et al. 2020; BEiT, Bao et al. 2022) lets them change less there. Head and nonlocal blocks are
new and take no part in it.
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from actionrec.config import TrainConfig
from actionrec.models.backbone import Backbone

# Parts of the names of embeddings of positions: MViT's, Swin's.
POSITIONS = ("pos_", "position_bias", "class_token")


@dataclass
class ParameterGroup:
    """Parameters with the same learning rate, `factor` times that of the run, and weight decay."""

    factor: float
    decayed: bool
    parameters: list[nn.Parameter] = field(default_factory=list)


def parameter_groups(network: Backbone, config: TrainConfig) -> list[ParameterGroup]:
    """The trained parameters in the order of the network."""
    factors = unit_factors(network, config.lr_layer_decay)
    groups: dict[tuple[float, bool], ParameterGroup] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        part, _, rest = name.partition(".")
        if part == "blocks" or (part == "head" and not config.fit_head):
            factor = config.lr_new
        else:
            # A fitted head is no longer new.
            factor = 1.0 if part == "head" else factors[rest.partition(".")[0]]
        # SGD decays all of them, as it did in the runs that are recorded.
        decayed = config.optimizer == "sgd" or is_decayed(name, parameter)
        group = groups.setdefault((factor, decayed), ParameterGroup(factor, decayed))
        group.parameters.append(parameter)
    return list(groups.values())


def unit_factors(network: Backbone, decay: float) -> dict[str, float]:
    """The factor of the learning rate of each unit: `decay` for the last one that has parameters,
    `decay` squared for the one before it, and so on."""
    named = network.units.named_children()
    units = [name for name, unit in named if next(unit.parameters(), None) is not None]
    return {name: decay**distance for distance, name in enumerate(reversed(units), start=1)}


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether AdamW decays a parameter: not biases, scales and shifts of norms, which have one
    dimension, nor embeddings of positions."""
    return parameter.ndim > 1 and not any(part in name for part in POSITIONS)


def batch_factor(config: TrainConfig) -> float:
    """The factor of the learning rate for the clips of a step, 1 without `lr_for_batch`."""
    if config.lr_for_batch is None:
        return 1.0
    return config.batch_size * config.accumulate / config.lr_for_batch


def build_optimizer(
    groups: list[ParameterGroup], lr: float, config: TrainConfig
) -> torch.optim.Optimizer:
    """The optimizer of `config` with the learning rate `lr`."""
    settings = [
        {
            "params": group.parameters,
            "lr": lr * group.factor,
            "weight_decay": config.weight_decay if group.decayed else 0.0,
        }
        for group in groups
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(settings, lr)
    return torch.optim.SGD(settings, lr, config.momentum)
