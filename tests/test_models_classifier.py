"""Model files: what is stored comes back, and what doesn't fit is refused with a reason."""

import dataclasses
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import actionrec
from actionrec.errors import ActionrecError, UsageError
from actionrec.models.classifier import (
    METADATA_KEY,
    BlockConfig,
    ClassifierConfig,
    VideoClassifier,
    build_network,
)
from actionrec.models.registry import BACKBONES


def clips(number: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, 4, 32, 32), dtype=torch.uint8, generator=generator)


def test_a_saved_recognizer_comes_back_as_it_was(tmp_path, small_recognizer):
    small_recognizer.save(tmp_path / "model.safetensors")
    loaded = actionrec.load(tmp_path / "model.safetensors")
    assert loaded.config == small_recognizer.config
    assert loaded.training_record == {"note": "untrained"}
    assert torch.equal(loaded.scores(clips()), small_recognizer.scores(clips()))


def test_the_metadata_tells_what_predicting_needs(tmp_path, small_recognizer):
    small_recognizer.save(tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()[METADATA_KEY])
    assert description["config"]["labels"] == ["a", "b", "c"]
    assert description["config"]["sampling"] == {"length": 4, "stride": 2, "fps": None}
    assert description["config"]["preprocessing"]["crop"] == 32
    assert set(description["versions"]) == {"actionrec", "torch", "python"}


def test_scores_are_a_distribution_over_the_classes(small_recognizer):
    scores = small_recognizer.scores(clips(3))
    assert scores.shape == (3, 3)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(3))


def test_a_failed_save_leaves_the_old_file(tmp_path, small_recognizer, monkeypatch):
    path = tmp_path / "model.safetensors"
    small_recognizer.save(path)
    before = path.read_bytes()

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("actionrec.models.classifier.save_file", full_disk)
    with pytest.raises(ActionrecError, match="could not be written .No space left"):
        small_recognizer.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({"weight": 1})])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ActionrecError, match="model.safetensors is no model file of actionrec"):
        VideoClassifier.load(path)


def test_safetensors_of_another_program_are_no_model(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ActionrecError, match="is no model file of actionrec"):
        VideoClassifier.load(tmp_path / "other.safetensors")


def test_a_model_that_does_not_exist_is_named_with_the_choices():
    with pytest.raises(ActionrecError, match="no model 'i4d': neither a file nor one of kinetics"):
        VideoClassifier.load("i4d")


def test_tensors_of_another_network_under_the_metadata_are_refused(tmp_path, small_recognizer):
    path = tmp_path / "model.safetensors"
    small_recognizer.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["head.weight"] = torch.zeros(5, 96)
    del tensors["head.bias"]
    save_file(tensors, path, metadata)
    with pytest.raises(ActionrecError, match="2 tensors are missing, extra or of another shape"):
        VideoClassifier.load(path)


def test_a_configuration_of_another_version_is_refused(tmp_path, small_recognizer):
    path = tmp_path / "model.safetensors"
    small_recognizer.save(path)
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()[METADATA_KEY])
    description["config"]["colour"] = "red"
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(description)})
    with pytest.raises(ActionrecError, match="another version of actionrec"):
        VideoClassifier.load(path)


def test_every_backbone_is_built_with_blocks_in_every_stage():
    for backbone in BACKBONES:
        stages = tuple(build_network(ClassifierConfig(("a",), backbone)).stages)
        config = ClassifierConfig(("a", "b"), backbone, BlockConfig("snl", stages))
        assert len(build_network(config).blocks) == len(stages)


def test_an_unknown_backbone_is_named_with_the_choices():
    with pytest.raises(UsageError, match="no backbone 'i4d'; choose from i3d"):
        build_network(ClassifierConfig(("a",), "i4d"))


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


def test_channels_last_changes_no_score(small_recognizer):
    plain = build_network(small_recognizer.config).eval()
    plain.load_state_dict(small_recognizer.network.state_dict())
    expected = plain(small_recognizer.config.preprocessing.normalise(clips())).softmax(dim=1)
    torch.testing.assert_close(small_recognizer.scores(clips()), expected, atol=1e-5, rtol=1e-5)
