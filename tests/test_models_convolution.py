"""Fast convolutions of a CPU are the plain ones, to rounding."""

import copy
import platform

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actionrec.models.convolution import (
    DirectConv3d,
    PointwiseConv3d,
    WinogradConv3d,
    WinogradInTime,
    fastest_form,
    speed_up,
    winograd,
)
from actionrec.models.i3d import I3D

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="only x86 has fast convolutions"
)


@pytest.mark.parametrize("taps", [3, 4])
@pytest.mark.parametrize("outputs", [2, 4])
def test_winograds_transforms_convolve(taps, outputs):
    torch.manual_seed(0)
    numbers = torch.randn(outputs + taps - 1, dtype=torch.float64)
    weights = torch.randn(taps, dtype=torch.float64)
    of_inputs, of_weights, of_outputs = (each.double() for each in winograd(outputs, taps))
    result = of_outputs @ ((of_inputs @ numbers) * (of_weights @ weights))
    torch.testing.assert_close(result, numbers.unfold(0, taps, 1) @ weights, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("taps", "pad", "size"),
    [
        (3, 1, (1, 8, 12)),
        (3, 1, (9, 7, 14)),
        (3, 1, (40, 28, 56)),
        (1, 0, (5, 12, 31)),
        (3, 0, (5, 16, 4)),
        (3, 2, (2, 7, 7)),
        (3, 1, (3, 5, 5)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_winograd_is_the_convolution_to_rounding(taps, pad, size, bias):
    torch.manual_seed(0)
    padding = (pad, 1, 1)
    plain = nn.Conv3d(32, 48, (taps, 3, 3), padding=padding, bias=bias)
    x = torch.randn(2, 32, *size).to(memory_format=torch.channels_last_3d)
    weights = [None if each is None else each.double() for each in (plain.weight, plain.bias)]
    with torch.inference_mode():
        expected = F.conv3d(x.double(), *weights, padding=padding)
        result = WinogradConv3d(plain)(x)
    assert result.shape == expected.shape
    assert (result - expected).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    ("size", "padding"),
    [
        ((69, 21, 30), 0),
        ((21, 13, 13), 0),
        ((22, 12, 15), 0),
        ((16, 20, 20), 3),
        ((17, 9, 9), (2, 0, 1)),
        ((29, 9, 9), 0),
        ((7, 9, 9), 0),
        ((1, 9, 9), 3),
        ((9, 9, 9), 3),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_winograd_in_time_is_the_convolution_to_rounding(size, padding, bias):
    torch.manual_seed(0)
    plain = nn.Conv3d(3, 24, 7, stride=2, padding=padding, bias=bias)
    x = torch.randn(2, 3, *size).to(memory_format=torch.channels_last_3d)
    weights = [None if each is None else each.double() for each in (plain.weight, plain.bias)]
    with torch.inference_mode():
        expected = F.conv3d(x.double(), *weights, stride=2, padding=padding)
        result = WinogradInTime(plain)(x)
    assert result.shape == expected.shape
    assert (result - expected).abs().max() < 5e-5 * expected.std()


@pytest.mark.parametrize(
    ("convolution", "form"),
    [
        (nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)), WinogradConv3d),
        (nn.Conv3d(256, 256, 3, padding=1, stride=(1, 2, 2)), DirectConv3d),
        (nn.Conv3d(256, 256, 3, padding=1, stride=(2, 1, 1)), DirectConv3d),
        (nn.Conv3d(256, 256, 3, padding=(1, 0, 0)), DirectConv3d),
        (nn.Conv3d(256, 256, 3, padding=(1, 2, 2), dilation=(1, 2, 2)), DirectConv3d),
        (nn.Conv3d(256, 256, (3, 1, 1), padding=(1, 0, 0)), DirectConv3d),
        (nn.Conv3d(256, 256, 5, padding=2), DirectConv3d),
        (nn.Conv3d(16, 256, 3, padding=1), DirectConv3d),
        (nn.Conv3d(3, 64, 7, stride=(2, 1, 2)), WinogradInTime),
        (nn.Conv3d(3, 64, 7, stride=(1, 2, 2)), DirectConv3d),
        (nn.Conv3d(3, 64, 7, stride=2, dilation=2), DirectConv3d),
        (nn.Conv3d(3, 64, 7, stride=2).bfloat16(), DirectConv3d),
    ],
)
def test_the_form_of_a_convolution_is_the_fastest_for_its_weights(convolution, form):
    assert type(fastest_form(convolution)) is form


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_direct_convolution_keeps_stride_padding_and_bias(kernel, stride):
    torch.manual_seed(0)
    plain = nn.Conv3d(16, 24, kernel, stride, padding=kernel // 2)
    x = torch.randn(1, 16, 5, 9, 8)
    with torch.inference_mode():
        torch.testing.assert_close(DirectConv3d(plain)(x), plain(x), atol=1e-5, rtol=1e-5)


def test_a_pointwise_convolution_trains_as_a_convolution_and_keeps_the_memory_format(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    torch.manual_seed(0)
    layout = {"memory_format": torch.channels_last_3d}
    pointwise = PointwiseConv3d(6, 10).double().train()
    values = torch.randn(2, 6, 3, 4, 5, dtype=torch.float64)
    results = []
    for function in (pointwise, lambda x: F.conv3d(x, pointwise.weight)):
        x = values.to(**layout).requires_grad_()
        y = function(x)
        y.square().sum().backward()
        results.append((y, x.grad, pointwise.weight.grad))
        pointwise.weight.grad = None
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, atol=1e-12, rtol=1e-12)
    assert results[0][0].is_contiguous(**layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_fast_network_shares_its_weights_and_leaves_the_plain_one_alone(dtype):
    torch.manual_seed(0)
    network = I3D(classes=5).eval().to(dtype)
    before = copy.deepcopy(network.state_dict())
    fast = speed_up(network)
    clips = torch.randn(1, 3, 8, 64, 64, dtype=dtype)
    with torch.inference_mode():
        expected, result = network(clips), fast(clips)
    torch.testing.assert_close(result, expected, atol=1e-3 * expected.std().item(), rtol=1e-3)
    assert fast.head.weight is network.head.weight
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    kinds = {type(module) for module in fast.modules()}
    assert ({WinogradConv3d, WinogradInTime} <= kinds) == (dtype == torch.float32)
    assert not any(isinstance(module, DirectConv3d) for module in network.modules())


def test_a_fast_network_takes_clips_of_other_sizes_than_the_last():
    """The size decides whether Winograd's algorithm gains: it is looked at in each call."""
    torch.manual_seed(0)
    network = I3D(classes=5).eval()
    fast = speed_up(network)
    with torch.inference_mode():
        for size in ((1, 3, 16, 112, 96), (2, 3, 5, 33, 62), (1, 3, 1, 32, 32)):
            clips = torch.randn(size)
            expected = network(clips)
            torch.testing.assert_close(
                fast(clips), expected, atol=1e-3 * expected.std().item(), rtol=1e-3
            )
