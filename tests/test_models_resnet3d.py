"""The shapes of the 3D ResNets; their logits are compared in test_models_conversion.py."""

import pytest
import torch

from actionrec.models.pytorchvideo_networks import i3d_r50
from actionrec.models.resnet3d import r3d50


def shape_before(network, unit, clip):
    """The shape (C, T, H, W) that enters `unit` for a clip (T, H, W)."""
    shapes = []
    network.units.get_submodule(unit).register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape[1:]))
    )
    network.to("meta").eval()(torch.empty(1, 3, *clip, device="meta"))
    return shapes[0]


def test_stage_4_of_r3d50_has_98_positions_at_the_papers_size():
    assert shape_before(r3d50(), "layer3_5", (16, 112, 112)) == (1024, 2, 7, 7)


@pytest.mark.parametrize("build", [r3d50, i3d_r50])
def test_channels_that_enter_a_unit_are_those_that_are_stated(build):
    for stage in (2, 3, 4, 5):
        network = build(classes=3)
        for unit, channels in network.block_sites(stage, 3).items():
            assert shape_before(build(classes=3), unit, (8, 64, 64))[0] == channels
