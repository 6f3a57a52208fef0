"""Saving to and loading from folders and repositories as the Hugging Face Hub has them."""

import copy
import importlib.util
import json
import re
import shutil
import sys

import pytest
import torch

from actionrec.errors import ActionrecError, UsageError
from actionrec.models import hub
from actionrec.models.classifier import VideoClassifier

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path, small_recognizer):
    small_recognizer.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


def require_same(loaded: VideoClassifier, recognizer: VideoClassifier) -> None:
    clips = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    assert loaded.config == recognizer.config
    assert loaded.training_record == recognizer.training_record
    assert torch.equal(loaded.eval()(clips), recognizer(clips))


def test_a_folder_gives_back_what_was_saved(folder, small_recognizer):
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["labels"] == ["a", "b", "c"] and config["block"]["name"] == "snl"
    assert "library_name: actionrec" in (folder / "README.md").read_text()
    require_same(VideoClassifier.from_pretrained(folder), small_recognizer)
    require_same(VideoClassifier.load(folder / "model.safetensors"), small_recognizer)


def test_the_program_on_the_model_card_runs(folder, tmp_path, encode, monkeypatch, capsys):
    card = (folder / "README.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    encode(tmp_path / "video.mp4")
    monkeypatch.chdir(tmp_path)
    exec(program.replace("owner/name", str(folder)), {})
    assert capsys.readouterr().out.strip() in ("a", "b", "c")


def test_a_repository_is_loaded_by_its_name(folder, tmp_path, small_recognizer):
    # The Hub's own cache, as a download would leave it: no network is needed.
    repository = tmp_path / "cache" / "models--owner--name"
    shutil.copytree(folder, repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    loaded = VideoClassifier.from_pretrained(
        "owner/name", cache_dir=tmp_path / "cache", local_files_only=True
    )
    require_same(loaded, small_recognizer)
    assert loaded.name == "owner/name"


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ActionrecError, match="no model .*model.safetensors"):
        VideoClassifier.from_pretrained(tmp_path)


def test_a_copy_is_still_a_recognizer_that_can_be_saved(tmp_path, small_recognizer):
    copy.deepcopy(small_recognizer).save_pretrained(tmp_path)
    require_same(VideoClassifier.from_pretrained(tmp_path), small_recognizer)


def test_without_the_extra_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    specification = importlib.util.spec_from_file_location("hub_without_extra", hub.__file__)
    bare = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(bare)

    class Model(torch.nn.Module, bare.ModelHubMixin, library_name="x", tags=["y"]):
        pass

    for call in (Model().save_pretrained, Model().push_to_hub, Model.from_pretrained):
        with pytest.raises(UsageError, match=r"pip install 'actionrec\[hub\]'"):
            call("name")
