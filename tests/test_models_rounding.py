"""Weights on 8-bit levels change a convolution's outputs less than the nearest levels would."""

import copy

import pytest
import torch
from torch import nn

from actionrec.models.classifier import ClassifierConfig, VideoClassifier
from actionrec.models.graph import folded
from actionrec.models.rounding import LEVELS, PLACES, round_weights, rounded, sampled_inputs
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing


def nearest(weights: torch.Tensor) -> torch.Tensor:
    scale = weights.abs().amax(dim=1, keepdim=True) / LEVELS
    return (weights / scale).round() * scale


def neighbours(places: int, inputs: int) -> torch.Tensor:
    """Inputs that are alike, as pixels beside each other are."""
    torch.manual_seed(0)
    return torch.randn(places, inputs).cumsum(dim=1) + torch.randn(places, 1)


@pytest.mark.parametrize("sizes", [[200], [150, 50]])
def test_rounded_weights_change_the_products_less_than_the_nearest_levels(sizes):
    x = neighbours(1000, 200)
    weights = torch.randn(16, 200)
    moments = [part.T @ part for part in x.split(sizes, dim=1)]
    found = rounded(weights, moments)

    scale = weights.abs().amax(dim=1, keepdim=True) / LEVELS
    levels = (found / scale).double()
    assert (levels - levels.round()).abs().max() < 1e-4
    # Whoever quantises by the largest magnitude finds the same levels.
    assert torch.allclose(found.abs().amax(dim=1), weights.abs().amax(dim=1), rtol=1e-6)

    def error(each):
        return ((each - weights).double() @ x.T.double()).norm()

    assert error(found) < 0.3 * error(nearest(weights))


def test_weights_that_see_nothing_and_rows_of_zeros_stay_numbers():
    weights = torch.randn(3, 10)
    weights[1] = 0
    found = rounded(weights, [torch.zeros(10, 10)])
    assert torch.isfinite(found).all() and (found[1] == 0).all()
    torch.testing.assert_close(found, nearest(weights).nan_to_num())


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (1, 3, 5), "stride": (1, 2, 2), "padding": (0, 1, 2)},
        {"kernel_size": 3, "dilation": (1, 2, 1), "padding": (1, 2, 1)},
        {"kernel_size": 1},
    ],
)
def test_the_sampled_inputs_are_those_that_the_kernel_sees(settings):
    convolution = nn.Conv3d(4, 6, bias=False, **settings)
    x = torch.randn(1, 4, 5, 8, 9)
    seen = sampled_inputs(convolution, x, torch.Generator().manual_seed(0))
    outputs = convolution(x).flatten(2)[0].T
    found = seen @ convolution.weight.flatten(1).T
    assert len(found) == PLACES
    # Each of them is an output, and nearly all outputs were met.
    met = torch.cdist(found.double(), outputs.double()).argmin(dim=1)
    torch.testing.assert_close(found, outputs[met], atol=1e-5, rtol=1e-5)
    assert len(met.unique()) > 0.9 * min(len(outputs), PLACES / 5)


def test_a_network_with_rounded_weights_says_nearly_the_same():
    torch.manual_seed(0)
    config = ClassifierConfig(
        ("a", "b", "c"), "c3d_small", sampling=ClipSampling(8), preprocessing=Preprocessing(36, 32)
    )
    model = folded(VideoClassifier(config).eval())
    coarse = torch.rand(6, 3, 3, 4, 4)
    clips = (255 * nn.functional.interpolate(coarse, (8, 32, 32), mode="trilinear")).byte()
    by_nearest, by_rounding = copy.deepcopy(model), copy.deepcopy(model)
    for module in by_nearest.modules():
        if isinstance(module, nn.Conv3d):
            weight = module.weight.data
            module.weight.data = nearest(weight.flatten(1)).view_as(weight)
    round_weights(by_rounding, clips[:3].split(1))
    with torch.no_grad():
        expected = model(clips[3:])
        worse, better = ((each(clips[3:]) - expected).norm() for each in (by_nearest, by_rounding))
    assert 0 < better < 0.7 * worse
