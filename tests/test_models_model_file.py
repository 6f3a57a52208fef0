"""Model files: the content comes back as it was stored, and a bad file is refused with a reason."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from actionrec.errors import ActionrecError
from actionrec.models.classifier import VideoClassifier
from actionrec.models.model_file import METADATA_KEY, read_description


@pytest.fixture
def path(tmp_path, small_recognizer):
    small_recognizer.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_saved_classifier_comes_back_as_it_was(path, small_recognizer):
    loaded = VideoClassifier.load(path)
    assert loaded.config == small_recognizer.config
    assert loaded.training_record == {"note": "untrained"}
    before, after = small_recognizer.network.state_dict(), loaded.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_metadata_tells_everything_that_predicting_needs(path):
    description = read_description(path)
    assert description["config"]["labels"] == ["a", "b", "c"]
    assert description["config"]["sampling"] == {"length": 4, "stride": 2, "fps": None}
    assert description["config"]["preprocessing"]["crop"] == 32
    # The keys of the first files that were written.
    assert description["config"]["block"]["stage_num"] == 1
    assert set(description["versions"]) == {"actionrec", "torch", "python"}


def test_a_failed_save_leaves_the_old_file(path, small_recognizer, monkeypatch):
    before = path.read_bytes()

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(ActionrecError, match="could not be written .No space left"):
        small_recognizer.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


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


def test_tensors_of_another_network_under_the_metadata_are_refused(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["head.weight"] = torch.zeros(5, 96)
    del tensors["head.bias"]
    save_file(tensors, path, metadata)
    with pytest.raises(ActionrecError, match="2 tensors are missing, extra or of another shape"):
        VideoClassifier.load(path)


def test_a_configuration_of_another_version_is_refused(path):
    description = read_description(path)
    description["config"]["colour"] = "red"
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(description)})
    with pytest.raises(ActionrecError, match="another version of actionrec"):
        VideoClassifier.load(path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("sampling", "length", 1e12),
        ("sampling", "length", 10**12),
        ("sampling", "stride", "fast"),
        ("preprocessing", "mean", [0.5]),
        ("preprocessing", "std", [[1], 1, 1]),
        ("preprocessing", "gamma", float("nan")),
        ("block", "stages", {"4": 1}),
        ("block", "per_stage", 10**9),
    ],
)
def test_values_that_no_training_writes_are_refused(path, part, name, value):
    description = read_description(path)
    description["config"][part][name] = value
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(description)})
    with pytest.raises(ActionrecError, match=name):
        VideoClassifier.load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "3", "null", '{"config": 3, "training": {}}'])
def test_metadata_of_another_form_is_no_model(path, text):
    save_file(load_file(path), path, {METADATA_KEY: text})
    with pytest.raises(ActionrecError, match="is no model file of actionrec"):
        VideoClassifier.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(path, value):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["head.weight"][0, 0] = value
    save_file(tensors, path, metadata)
    with pytest.raises(ActionrecError, match="head.weight that are no finite numbers"):
        VideoClassifier.load(path)


def test_a_folder_stands_for_the_model_in_it(path, tmp_path):
    assert VideoClassifier.load(path.parent).name == str(path.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ActionrecError, match="There is no model .*empty/model.safetensors"):
        VideoClassifier.load(tmp_path / "empty")
