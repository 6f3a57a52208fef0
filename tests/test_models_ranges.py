"""What convolutions see is spread over 8 bits, and the network says the same."""

import copy

import pytest
import torch
from torch import nn

from actionrec.models.classifier import ClassifierConfig, VideoClassifier
from actionrec.models.graph import folded
from actionrec.models.ranges import equalize_channels, scale_pixels
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

SIZE = (4, 32, 32)


def classifier(backbone: str, **preprocessing) -> VideoClassifier:
    """Folded, in float64, with batch normalisations that are no identities."""
    torch.manual_seed(0)
    config = ClassifierConfig(
        ("a", "b", "c"),
        backbone,
        sampling=ClipSampling(SIZE[0]),
        preprocessing=Preprocessing(36, SIZE[1], **preprocessing),
    )
    model = VideoClassifier(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_var, 0.1, 10)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.bias)
    return folded(model).double()


def some_clips(count: int = 3) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8)


def feature_maps(model: VideoClassifier, clips: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each convolution sees, by its name."""
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.__setitem__(name, inputs[0])
            )
    with torch.no_grad():
        model(clips)
    return seen


def unevenness(feature_map: torch.Tensor) -> float:
    """How many times as large as the median the range of the widest channel is; without those that
    are always zero."""
    ranges = feature_map.abs().amax(dim=(0, 2, 3, 4))
    return float(ranges.max() / ranges[ranges > 0].median())


@pytest.mark.parametrize("backbone", ["i3d", "r3d50"])
def test_equal_channels_leave_features_as_they_are(backbone):
    # The head sees the last feature map, and in r3d50 sums see others: those keep their channels.
    model = classifier(backbone)
    equalized = copy.deepcopy(model)
    equalize_channels(equalized, some_clips().split(1))
    with torch.no_grad():
        expected, found = (
            each.network.features(each.pixels(some_clips())) for each in (model, equalized)
        )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    changed = [
        not torch.equal(before, after)
        for before, after in zip(model.parameters(), equalized.parameters(), strict=True)
    ]
    assert sum(changed) > 3


def test_channels_are_more_alike_wherever_only_convolutions_see_them():
    model = classifier("i3d")
    before = feature_maps(copy.deepcopy(model), some_clips())
    equalize_channels(model, some_clips().split(1))
    after = feature_maps(model, some_clips())
    first = "network.units.Conv3d_1a_7x7.conv"
    assert torch.equal(before.pop(first), after.pop(first))
    for name, feature_map in before.items():
        # The power of 0.5; pooled maps may lack the largest values.
        assert unevenness(after[name]) < 1.2 * unevenness(feature_map) ** 0.5, name


def test_a_convolution_that_is_used_twice_keeps_its_weights():
    model = classifier("c3d_small")
    units = model.network.units
    twice = nn.Conv3d(16, 16, 3, padding=1).double()
    units.conv2 = nn.Sequential(twice, nn.ReLU(), twice, nn.ReLU(), units.conv2)
    weight = twice.weight.detach().clone()
    with torch.no_grad():
        expected = model(some_clips())
        equalize_channels(model, some_clips().split(1))
        torch.testing.assert_close(model(some_clips()), expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(twice.weight, weight)


def test_channels_that_are_always_zero_stay_numbers():
    model = classifier("c3d_small")
    with torch.no_grad():
        first = model.network.units.conv1.conv
        first.weight[3], first.bias[3] = 0, 0
        expected = model(some_clips())
        equalize_channels(model, some_clips().split(1))
        torch.testing.assert_close(model(some_clips()), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backbone", ["c3d_small", "i3d"])
def test_pixels_are_whole_numbers_and_the_logits_change_at_padded_borders_only(backbone):
    mean, std = (0.45, 0.5, 0.4), (0.225, 0.5, 0.2)
    model = classifier(backbone, mean=mean, std=std)
    scaled = copy.deepcopy(model)
    scale_pixels(scaled)
    pixels = scaled.pixels(some_clips())
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-4, rtol=0)
    assert set(scaled.pixels(torch.zeros_like(some_clips())).unique().round().tolist()) == {
        -float(round(255 * each)) for each in mean
    }
    with torch.no_grad():
        expected, found = model(some_clips()), scaled(some_clips())
        assert (found - expected).norm() < 0.02 * expected.norm()
        for module in [*model.modules(), *scaled.modules()]:
            if isinstance(module, nn.Conv3d) and module.in_channels == 3:
                module.padding = (0, 0, 0)
        if backbone != "i3d":
            torch.testing.assert_close(
                scaled(some_clips()), model(some_clips()), rtol=1e-5, atol=1e-7
            )


def test_pixels_with_a_gamma_stay_as_they_are():
    model = classifier("c3d_small", gamma=0.4)
    before = copy.deepcopy(model)
    scale_pixels(model)
    assert model.config == before.config
    assert all(map(torch.equal, model.parameters(), before.parameters()))
