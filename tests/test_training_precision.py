"""`--precision`: what a machine can compute with, and gradients that are right in bfloat16."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from actionrec.config import TrainConfig
from actionrec.devices import has_bfloat16
from actionrec.errors import UsageError
from actionrec.models.registry import BACKBONES, find
from actionrec.training.precision import resolved_precision, sound_gradients
from actionrec.training.run import train

CPU = torch.device("cpu")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="precision is that of a CPU")
with_bfloat16 = pytest.mark.skipif(not has_bfloat16(CPU), reason="the processor has no bfloat16")


def far_off(gradient, expected):
    """Distance between two gradients over the length of the expected one."""
    return ((gradient.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize(
    ("kernel", "steps"), [((3, 3, 3), 1), ((3, 3, 3), 2), ((3, 1, 1), 2), ((5, 3, 3), 4)]
)
def test_fewer_time_steps_than_the_kernel_has_give_the_gradients_of_float32(kernel, steps):
    torch.manual_seed(0)
    clips = torch.randn(2, 32, steps, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    conv = nn.Conv3d(32, 48, kernel, padding=tuple(side // 2 for side in kernel))
    conv.to(memory_format=torch.channels_last_3d)
    towards = torch.randn_like(conv(clips))
    (conv(clips) * towards).sum().backward()
    expected = conv.weight.grad.clone()
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16), sound_gradients(CPU):
        given = conv(clips)
    (given * towards).sum().backward()
    assert far_off(conv.weight.grad, expected) < 0.02


def test_other_convolutions_are_left_to_autocast():
    conv = nn.Conv3d(3, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16), sound_gradients(CPU):
        assert conv(torch.rand(1, 3, 3, 8, 8)).dtype == torch.bfloat16
        assert conv(torch.rand(1, 3, 2, 8, 8)).dtype == torch.float32
    with sound_gradients(CPU):
        assert conv(torch.rand(1, 3, 3, 8, 8)).dtype == torch.float32


class Convolutions(TorchFunctionMode):
    """Notes what the 3D convolutions of a network are called with."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv3d:
            shapes = tuple(tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in args)
            self.calls[str(shapes)] = args
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@with_bfloat16
@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("mvit")])
def test_every_convolution_of_a_backbone_gets_the_gradients_of_float32(name):
    torch.manual_seed(0)
    network = (
        find(BACKBONES, name, "backbone")(classes=5).eval().to(memory_format=torch.channels_last_3d)
    )
    clips = torch.randn(2, 3, 16, 48, 48).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad(), Convolutions() as noted:
        network(clips)
    assert noted.calls
    for shapes, (x, weight, *rest) in noted.calls.items():
        gradients = []
        for enabled in (False, True):
            inputs = x.clone().requires_grad_(), weight.detach().clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled), sound_gradients(CPU):
                given = F.conv3d(*inputs, *rest)
            towards = torch.linspace(-1, 2, given.numel()).view_as(given)
            (given * towards).sum().backward()
            gradients += [each.grad for each in inputs]
        for expected, found in zip(gradients[:2], gradients[2:], strict=True):
            assert far_off(found, expected) < 0.02, shapes


@pytest.mark.parametrize(("hardware", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_that_only_emulates_bfloat16_trains_in_float32(hardware, expected, monkeypatch):
    def is_supported(including_emulation=True):
        return hardware or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert resolved_precision(TrainConfig("demo")) == expected
    assert resolved_precision(TrainConfig("demo", precision="bfloat16")) == "bfloat16"


@without_gpu
@with_bfloat16
def test_a_run_in_bfloat16_has_the_losses_of_one_in_float32(small_training, tmp_path, losses):
    for precision in ("float32", "bfloat16"):
        train(replace(small_training, precision=precision, output=str(tmp_path / precision)))
    assert len(losses) == 8
    assert losses[4:] == pytest.approx(losses[:4], rel=0.02)


@without_gpu
@pytest.mark.parametrize(
    ("precision", "compile", "bfloat16", "words"),
    [
        ("float16", False, True, "float16 needs a GPU"),
        ("bfloat16", False, False, "a processor with bfloat16"),
        ("bfloat16", True, True, "--compile"),
    ],
)
def test_what_the_machine_cannot_do_well_is_wrong_usage(
    precision, compile, bfloat16, words, monkeypatch
):
    monkeypatch.setattr("actionrec.training.precision.has_bfloat16", lambda _: bfloat16)
    with pytest.raises(UsageError, match=words):
        resolved_precision(TrainConfig("demo", precision=precision, compile=compile))
    assert resolved_precision(TrainConfig("demo", compile=compile)) == "float32"
