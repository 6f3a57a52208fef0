"""A block in any network: the identity at first, trained after, and no pretrained key renamed."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from trained_models import randomised

import actionrec
from actionrec.errors import UsageError
from actionrec.models.nonlocal_blocks import build_block
from actionrec.models.registry import BLOCKS


class SmallNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.unused = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_of_an_image_is_that_of_a_clip_of_one_frame(name):
    torch.manual_seed(0)
    block = randomised(build_block(name, 16)).double().eval()
    images = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(block(images), block(images.unsqueeze(2)).squeeze(2))


@pytest.mark.parametrize("shape", [(2, 16, 5), (2, 8, 5, 7), (2, 8, 3, 5, 7)])
def test_a_block_says_which_feature_maps_it_takes(shape):
    with pytest.raises(UsageError, match=r"takes \(B, 16, H, W\) or \(B, 16, T, H, W\), not \(2, "):
        build_block("snl", 16)(torch.zeros(shape))


def test_resnet50_answers_to_the_bit_as_before_and_keeps_its_keys():
    torch.manual_seed(0)
    network = torchvision.models.resnet50().eval()
    before = dict(network.state_dict())
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        answers = network(images)
        block = actionrec.insert_block(network, "layer3.5", "snl")
        assert torch.equal(network(images), answers)
    assert sum(parameter.numel() for parameter in block.parameters()) == 2_623_488
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(name.startswith("layer3.5.nonlocal_block.") for name in after.keys() - before.keys())


@pytest.mark.parametrize(
    ("network", "before", "size"),
    [
        (torchvision.models.video.r3d_18, "layer3.1", (3, 4, 32, 32)),
        (torchvision.models.mobilenet_v3_small, "features.9", (3, 64, 64)),
        (torchvision.models.densenet121, "features.transition2", (3, 64, 64)),
    ],
)
def test_a_block_stands_in_networks_of_images_and_of_video(network, before, size):
    torch.manual_seed(0)
    network = network().eval()
    example = torch.randn(1, *size)
    with torch.inference_mode():
        answers = network(example)
        randomised(actionrec.insert_block(network, before, example=example)).eval()
        assert not torch.allclose(network(example), answers)


def test_a_block_learns_and_a_copy_has_a_block_of_its_own():
    torch.manual_seed(0)
    network = SmallNetwork()
    block = actionrec.insert_block(network, "second", "snl")
    twin = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    images = torch.randn(4, 3, 16, 16)
    before = block.projection.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        network(images).square().sum().backward()
        optimizer.step()
    assert not torch.equal(block.projection.weight, before)
    assert torch.equal(twin.second[0].nonlocal_block.projection.weight, before)
    assert not torch.allclose(twin(images), network(images))
    # A trained network is loaded into one with the block inserted.
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin.eval()(images), network.eval()(images))


def test_a_network_with_a_block_is_exported_as_it_computes():
    torch.manual_seed(0)
    network = SmallNetwork()
    randomised(actionrec.insert_block(network, "second"))
    network.eval()
    images = torch.randn(2, 3, 16, 16)
    program = torch.export.export(network, (images,))
    torch.testing.assert_close(program.module()(images), network(images))


def test_an_insertion_leaves_modes_and_type_of_the_network():
    network = SmallNetwork().to(torch.bfloat16)
    network.second.eval()
    network.first.train()
    block = actionrec.insert_block(network, "second")
    assert block.projection.weight.dtype == torch.bfloat16 and not block.training
    assert network.training and network.first.training and not network.second.training


@pytest.mark.parametrize(
    ("before", "options", "message"),
    [
        ("secnd", {}, "SmallNetwork has no module 'secnd'; the nearest is 'second'."),
        ("", {}, "has no module ''"),
        ("unused", {}, "does not call its module unused"),
        ("head", {}, r"head of SmallNetwork takes \(1, 32\), no feature map"),
        ("second", {"block": "snk"}, "no nonlocal block 'snk'"),
        ("second", {"reduction": 3}, "choose from 1, 2, 4, 8"),
        ("second", {"example": torch.zeros(1, 4, 16, 16)}, "can't compute an example of"),
    ],
)
def test_what_is_not_possible_is_a_sentence_and_leaves_the_network_alone(before, options, message):
    network = SmallNetwork()
    keys = list(network.state_dict())
    with pytest.raises(UsageError, match=message):
        actionrec.insert_block(network, before, **options)
    assert list(network.state_dict()) == keys
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_second_block_in_the_same_place_and_a_network_of_tokens_are_refused():
    network = SmallNetwork()
    actionrec.insert_block(network, "second")
    with pytest.raises(UsageError, match="a block before second.0 of SmallNetwork already"):
        actionrec.insert_block(network, "second.0")
    transformer = torchvision.models.vit_b_16()
    with pytest.raises(UsageError, match=r"takes \(1, 197, 768\), no feature map"):
        actionrec.insert_block(transformer, "encoder.layers.encoder_layer_3")
    with pytest.raises(UsageError, match="no convolution that tells what it takes"):
        actionrec.insert_block(nn.Sequential(nn.Linear(3, 3)), "0")
