"""The optimizer of a run: which parameter learns how fast, and which decays."""

import re
from dataclasses import replace

import pytest
import torch
from torchvision.models.video import mvit_v2_s
from torchvision.models.video.swin_transformer import SwinTransformer3d
from torchvision.ops import StochasticDepth

from actionrec.errors import UsageError
from actionrec.models.network import BlockConfig, ClassifierConfig, build_network
from actionrec.models.registry import BACKBONES
from actionrec.recipes import recipe_settings
from actionrec.training.optimizers import (
    build_optimizer,
    is_decayed,
    parameter_groups,
    unit_factors,
)
from actionrec.training.run import fill_in

# Numbers cost time and nothing here looks at them.
NOWHERE = torch.device("meta")


def network_of(backbone, block="none"):
    return build_network(ClassifierConfig(("a", "b"), backbone, BlockConfig(block)))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_layer_decay_slows_every_unit_of_every_network_by_its_place(backbone, small_training):
    config = replace(small_training, lr_layer_decay=0.5, lr_new=3.0)
    with NOWHERE:
        network = network_of(backbone)
    factor_of = {
        id(parameter): group.factor
        for group in parameter_groups(network, config)
        for parameter in group.parameters
    }
    assert len(factor_of) == len(list(network.parameters()))
    expected = 1.0
    assert {factor_of[id(parameter)] for parameter in network.head.parameters()} == {3.0}
    for _, unit in reversed(list(network.units.named_children())):
        if own := {factor_of[id(parameter)] for parameter in unit.parameters()}:
            expected /= 2
            assert own == {expected}
    assert expected == min(unit_factors(network, 0.5).values())


def test_blocks_are_new_and_take_no_part_in_layer_decay(small_training):
    network = network_of("c3d_small", "snl")
    config = replace(small_training, lr_layer_decay=0.5, lr_new=2.0)
    [group] = [group for group in parameter_groups(network, config) if group.factor == 2.0]
    new = [*network.blocks.parameters(), *network.head.parameters()]
    assert set(map(id, group.parameters)) == set(map(id, new))


def test_a_fitted_head_is_no_longer_new(small_training):
    network = network_of("c3d_small", "snl")
    config = replace(small_training, lr_layer_decay=0.5, lr_new=10.0, fit_head=True)
    groups = {group.factor: group.parameters for group in parameter_groups(network, config)}
    assert set(map(id, groups[10.0])) == set(map(id, network.blocks.parameters()))
    assert set(map(id, groups[1.0])) == set(map(id, network.head.parameters()))


@pytest.mark.parametrize("backbone", ["c3d_small", "i3d", "x3d_s", "slowfast_r50"])
def test_adamw_decays_weights_but_neither_norms_nor_biases(backbone):
    with NOWHERE:
        network = network_of(backbone, "cayley")
    kept = {name for name, value in network.named_parameters() if not is_decayed(name, value)}
    norms = {
        f"{name}.{parameter}"
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.BatchNorm3d)
        for parameter, _ in module.named_parameters(recurse=False)
    }
    biases = {name for name, _ in network.named_parameters() if name.endswith(".bias")}
    # The scale of a block's norm wakes it; the zoom of its filter is a number.
    zoom = {name for name, _ in network.named_parameters() if name.endswith(".zoom")}
    assert zoom and any(name.startswith("blocks.") for name in norms)
    assert kept == norms | biases | zoom


@pytest.mark.parametrize("backbone", ["mvit_v1_b", "mvit_v2_s", "swin3d_t"])
def test_adamw_does_not_decay_where_a_transformer_learns_positions(backbone):
    with NOWHERE:
        network = network_of(backbone)
    kept = {name for name, value in network.named_parameters() if not is_decayed(name, value)}
    many = {name for name, value in network.named_parameters() if value.ndim > 1}
    positions = r"rel_pos_[thw]|(spatial|temporal)_pos|relative_position_bias_table"
    assert kept & many == {name for name in many if re.search(positions, name)} != set()


def test_a_step_of_adamw_is_that_of_its_definition(small_training):
    """In float64, with decoupled decay (Loshchilov & Hutter 2019, Algorithm 2)."""
    torch.manual_seed(0)
    network = network_of("c3d_small", "snl").double()
    config = replace(small_training, optimizer="adamw", weight_decay=0.1, lr_layer_decay=0.5)
    lr = 0.01
    optimizer = build_optimizer(parameter_groups(network, config), lr, config)
    factors = unit_factors(network, 0.5)
    expected, moments = {}, {}
    for step in (1, 2):
        for name, parameter in network.named_parameters():
            parameter.grad = gradient = torch.randn_like(parameter)
            rate = lr * (factors[name.split(".")[1]] if name.startswith("units.") else 1)
            first, second = moments.get(name, (0, 0))
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            moments[name] = first, second
            decay = 0.1 if parameter.ndim > 1 else 0
            move = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            expected[name] = parameter.detach() * (1 - rate * decay) - rate * move
        optimizer.step()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-12, atol=1e-14)


def test_sgd_keeps_its_groups_so_that_older_checkpoints_fit(small_training):
    network = network_of("c3d_small", "snl")
    [alone] = parameter_groups(network, small_training)
    assert list(map(id, alone.parameters)) == list(map(id, network.parameters()))
    old, new = parameter_groups(network, replace(small_training, lr_new=10.0))
    assert (old.factor, new.factor) == (1.0, 10.0) and old.decayed and new.decayed
    assert list(map(id, old.parameters)) == list(map(id, network.units.parameters()))


def test_what_is_frozen_is_in_no_group(small_training):
    network = network_of("c3d_small", "snl")
    network.freeze_before("block")
    [group] = parameter_groups(network, replace(small_training, lr_layer_decay=0.5))
    assert group.factor == 1.0
    assert not set(map(id, group.parameters)) & set(map(id, network.units.parameters()))


@pytest.mark.parametrize("recipe", ["paper", "small"])
def test_adamw_has_a_learning_rate_and_a_decay_of_its_own(recipe, small_training):
    open_ones = {"lr": None, "weight_decay": None, "recipe": recipe}
    sgd = fill_in(replace(small_training, **open_ones))
    adamw = fill_in(replace(small_training, **open_ones, optimizer="adamw"))
    assert (sgd.lr, sgd.weight_decay) == (recipe_settings(recipe, "sgd")["lr"], 1e-4)
    assert (adamw.lr, adamw.weight_decay) == (1e-4, 0.05)
    given = fill_in(replace(small_training, optimizer="adamw", lr=0.3, weight_decay=0.0))
    assert (given.lr, given.weight_decay) == (0.3, 0.0)


def librarys_swin3d_t(**options):
    sizes = {"patch_size": [2, 4, 4], "window_size": [8, 7, 7]}
    depths = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
    return SwinTransformer3d(**sizes, **depths, **options)


@pytest.mark.parametrize(
    ("backbone", "librarys"), [("mvit_v2_s", mvit_v2_s), ("swin3d_t", librarys_swin3d_t)]
)
def test_drop_path_is_the_librarys_own(backbone, librarys):
    with NOWHERE:
        network = network_of(backbone)
        expected = librarys(stochastic_depth_prob=0.35)
    network.set_drop_path(0.35)
    rates, own = (
        [layer.p for layer in each.modules() if isinstance(layer, StochasticDepth)]
        for each in (network, expected)
    )
    assert rates == pytest.approx(own) and max(rates) == 0.35


@pytest.mark.parametrize("backbone", ["c3d_small", "x3d_s"])
def test_drop_path_in_a_network_without_it_is_a_sentence(backbone):
    with NOWHERE:
        network = network_of(backbone)
    with pytest.raises(UsageError, match="no drop path, MViT and Swin have; leave out --drop-path"):
        network.set_drop_path(0.1)
    network.set_drop_path(0.0)
