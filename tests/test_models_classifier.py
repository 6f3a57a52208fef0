"""The classifier that trains: what it takes from pretrained weights, and its logits."""

import dataclasses

import pytest
import torch

from actionrec.errors import ActionrecError
from actionrec.models.classifier import VideoClassifier
from actionrec.models.network import BlockConfig, build_network


def clips() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8, generator=generator)


def test_a_model_that_does_not_exist_is_named_with_the_nearest():
    for name, hint in (("i4d", "see `actionrec weights list`"), ("x3ds", "did you mean x3d_s")):
        with pytest.raises(ActionrecError, match=f"'{name}', neither a file nor a name; {hint}"):
            VideoClassifier.load(name)


def test_fine_tuning_keeps_every_weight_but_those_of_new_classes_and_blocks(small_recognizer):
    config = dataclasses.replace(
        small_recognizer.config, labels=("x", "y"), block=BlockConfig("snl", (3, 4))
    )
    other = VideoClassifier(config)
    report = other.load_pretrained(small_recognizer.network.state_dict(), "before.safetensors")
    own = other.network.state_dict()
    for name, value in small_recognizer.network.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(own[name], value), name
    assert report.unused == ("head.weight", "head.bias")
    new = {name for name in report.new if not name.startswith("blocks.conv3.")}
    assert new == {"head.weight", "head.bias"}
    assert "block before conv3, head" in str(report)


@pytest.mark.parametrize("change", ["lacks", "has too much", "another shape"])
def test_weights_that_are_unexplained_are_an_error(small_recognizer, change):
    tensors = dict(small_recognizer.network.state_dict())
    if change == "lacks":
        del tensors["units.conv2.conv.weight"]
    elif change == "has too much":
        tensors["units.conv9.conv.weight"] = torch.zeros(1)
    else:
        tensors["units.conv2.conv.weight"] = torch.zeros(32, 16, 1, 1, 1)
    other = VideoClassifier(small_recognizer.config)
    with pytest.raises(ActionrecError, match="does not fit the backbone c3d_small: units.conv"):
        other.load_pretrained(tensors, "other.safetensors")


def test_channels_last_changes_no_logit(small_recognizer):
    plain = build_network(small_recognizer.config).eval()
    plain.load_state_dict(small_recognizer.network.state_dict())
    expected = plain(small_recognizer.config.preprocessing.normalise(clips()))
    torch.testing.assert_close(small_recognizer(clips()), expected, atol=1e-5, rtol=1e-5)
