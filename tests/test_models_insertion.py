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


class Twice(nn.Module):
    """Calls `same` twice, and `different` with 8 and with 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.same, self.different = nn.Conv2d(8, 8, 1), nn.ReLU()
        self.alias = self.same
        self.keyword = nn.Identity()

    def forward(self, x):
        x = self.different(self.same(self.same(self.first(x))))
        return self.keyword(input=self.different(self.second(x)))


def test_a_module_that_is_called_twice_has_its_block_before_each_call():
    torch.manual_seed(0)
    network = Twice().eval()
    images = torch.randn(1, 3, 6, 6)
    before = network(images)
    block = actionrec.insert_block(network, "alias")
    assert torch.equal(network(images), before)
    calls = []
    block.register_forward_hook(lambda *_: calls.append(1))
    network(images)
    assert len(calls) == 2
    with pytest.raises(UsageError, match="calls different 2 times, with 8 and 4 channels"):
        actionrec.insert_block(network, "different")
    with pytest.raises(UsageError, match="keyword of Twice takes nothing but keywords"):
        actionrec.insert_block(network, "keyword")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_what_has_recorded_the_modules_of_a_network_is_refused():
    compiled_in_place = SmallNetwork()
    compiled_in_place.compile()
    scripted = torch.jit.script(SmallNetwork())
    wrapped = nn.Sequential(torch.compile(SmallNetwork()))
    for network, words in (
        (compiled_in_place, r"call compile\(\) then"),
        (scripted, "torch.jit.script"),
        (wrapped, "torch.compile"),
    ):
        with pytest.raises(UsageError, match=f"does not see a block .*{words}"):
            actionrec.insert_block(network, "second")


def test_a_block_stands_in_wrapped_half_precise_and_empty_networks():
    network = nn.DataParallel(SmallNetwork())
    with pytest.raises(UsageError, match="the nearest is 'module.second'"):
        actionrec.insert_block(network, "second")
    actionrec.insert_block(network, "module.second")
    half = SmallNetwork().half()
    assert actionrec.insert_block(half, "second").projection.weight.dtype == torch.float16
    with torch.device("meta"):
        network = SmallNetwork()
    assert actionrec.insert_block(network, "second").projection.weight.is_meta
    # Without parameters, and of inputs that are no tensor.
    network = nn.Sequential(nn.Identity(), nn.ReLU())
    assert actionrec.insert_block(network, "1", example=torch.zeros(1, 4, 5, 5)).training
    with pytest.raises(UsageError, match=r"an example of \[\(1, 3\), int\]"):
        actionrec.insert_block(SmallNetwork(), "second", example=[torch.zeros(1, 3), 1])


def test_a_network_whose_end_needs_another_size_than_the_example_has_a_block():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7, 2))
    inserted, built = actionrec.insert_block(network, "1"), build_block("snl", 8)
    assert inserted.projection.weight.shape == built.projection.weight.shape


def test_a_second_block_in_the_same_place_and_a_network_of_tokens_are_refused():
    network = SmallNetwork()
    actionrec.insert_block(network, "second")
    with pytest.raises(UsageError, match="a block before second.0 of SmallNetwork already"):
        actionrec.insert_block(network, "second.0")
    transformer = torchvision.models.VisionTransformer(224, 32, 2, 4, 64, 128)
    with pytest.raises(UsageError, match=r"takes \(1, 50, 64\), no feature map"):
        actionrec.insert_block(transformer, "encoder.layers.encoder_layer_1")
    with pytest.raises(UsageError, match="no convolution that tells what it takes"):
        actionrec.insert_block(nn.Sequential(nn.Linear(3, 3)), "0")
