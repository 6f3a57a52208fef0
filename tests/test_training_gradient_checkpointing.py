"""Gradient checkpointing changes memory and time, and not one bit of a training."""

import copy
from dataclasses import replace

import pytest
import torch

from actionrec.errors import UsageError
from actionrec.models.classifier import VideoClassifier
from actionrec.models.network import BlockConfig, ClassifierConfig, build_network
from actionrec.training.gradient_checkpointing import recomputed
from actionrec.training.precision import sound_gradients
from actionrec.training.run import train


def step(network, clips, dtype=None):
    """Loss, gradients, buffers after a step, and the bytes kept for the backward pass."""
    kept = []
    torch.manual_seed(1)
    own = {parameter.data_ptr() for parameter in network.parameters()}

    def note(x):
        if x.data_ptr() not in own:
            kept.append(x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            with sound_gradients(clips.device):
                logits = network(clips)
    loss = torch.nn.functional.cross_entropy(logits.float(), torch.arange(len(clips)))
    loss.backward()
    gradients = {name: value.grad for name, value in network.named_parameters()}
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    return {"loss": loss.detach()} | gradients | buffers | {"drawn": torch.rand(1)}, sum(kept)


@pytest.mark.parametrize(
    ("backbone", "block"),
    [("c3d_small", "snl"), ("i3d", "snl"), ("slowfast_r50", "nl"), ("swin3d_t", "none")],
)
def test_gradients_statistics_and_dropout_are_the_same_to_the_bit(backbone, block):
    """Batch norm with and without a scale, lists of maps, dropout and drop path."""
    torch.manual_seed(0)
    network = build_network(ClassifierConfig(("a", "b"), backbone, BlockConfig(block))).train()
    other = copy.deepcopy(network)
    other.call = recomputed
    clips = torch.rand(2, 3, 8, 64, 64)
    (expected, kept), (found, kept_less) = step(network, clips), step(other, clips)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert kept_less < 0.8 * kept


def test_bfloat16_has_its_sound_gradients_in_the_second_pass_too():
    torch.manual_seed(0)
    network = build_network(ClassifierConfig(("a", "b"), "c3d_small")).train()
    other = copy.deepcopy(network)
    other.call = recomputed
    # One time step, and kernels of three.
    clips = torch.rand(2, 3, 1, 32, 32)
    expected, _ = step(network, clips, torch.bfloat16)
    found, _ = step(other, clips, torch.bfloat16)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_run_with_it_has_the_weights_of_one_without(small_training, tmp_path):
    plain = replace(small_training, block="snl", ema=0.5, output=str(tmp_path / "plain"))
    train(plain)
    train(replace(plain, gradient_checkpointing=True, output=str(tmp_path / "less")))
    expected, found = (
        VideoClassifier.load(tmp_path / name / "last.safetensors").network.state_dict()
        for name in ("plain", "less")
    )
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_it_does_not_go_with_compile(small_training, tmp_path):
    config = replace(small_training, compile=True, gradient_checkpointing=True)
    with pytest.raises(UsageError, match="don't go together"):
        train(replace(config, output=str(tmp_path / "run")))
