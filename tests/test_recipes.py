"""Recipes: which one is chosen, what it fills in, and what it leaves."""

from dataclasses import replace

import av
import numpy as np
import pytest

from actionrec.config import TrainConfig
from actionrec.recipes import FEW_VIDEOS, RECIPES, choose_recipe
from actionrec.training.run import fill_in


@pytest.fixture
def folders(class_folders):
    return TrainConfig("folder", root=str(class_folders))


def test_few_videos_of_ones_own_have_another_recipe_than_the_papers(folders, caplog):
    caplog.set_level("INFO", "actionrec")
    config = fill_in(folders)
    assert config.recipe == "small"
    [line] = [line for line in caplog.messages if line.startswith("recipe small")]
    assert f"epochs {config.epochs}" in line and f"lr {config.lr}" in line
    assert choose_recipe(FEW_VIDEOS) == "paper"


def test_a_given_setting_is_kept(folders):
    config = fill_in(replace(folders, lr=0.123, epochs=3, gamma=0.7))
    assert (config.lr, config.epochs, config.gamma) == (0.123, 3, 0.7)
    assert config.schedule == RECIPES["small"].settings["schedule"]


def test_very_few_videos_are_trained_on_for_more_epochs(folders, monkeypatch):
    assert fill_in(folders).epochs == 24
    assert fill_in(replace(folders, epochs=5)).epochs == 5
    assert fill_in(replace(folders, recipe="paper")).epochs == 100
    monkeypatch.setattr("actionrec.training.run.VERY_FEW_VIDEOS", 1)
    assert fill_in(folders).epochs == 16


@pytest.mark.parametrize("name", ["ucf101", "demo"])
def test_public_data_and_networks_without_weights_have_the_papers(name, folders):
    assert fill_in(TrainConfig(name)).recipe == "paper"
    assert fill_in(replace(folders, weights="none")).recipe == "paper"


def test_every_recipe_fills_in_everything(folders):
    ours = {"root", "fps", "crop_area", "flip", "clip_gradient", "lr_for_batch", "lr_step"}
    ours |= {"order", "groups", "passes", "output", "drop_path", "patience"}
    for name in RECIPES:
        config = fill_in(replace(folders, recipe=name))
        unset = {key for key, value in vars(config).items() if value is None}
        assert unset <= ours, name


@pytest.mark.parametrize(("grey", "chosen"), [(15, (0.4, "stage4")), (90, (1.0, "all"))])
def test_videos_filmed_in_the_dark_are_brightened_and_train_less(grey, chosen, tmp_path):
    for side in ("train", "val"):
        for label in ("a", "b"):
            folder = tmp_path / side / label
            folder.mkdir(parents=True)
            with av.open(str(folder / "video.avi"), "w") as container:
                stream = container.add_stream("mpeg4", rate=25)
                stream.width, stream.height = 64, 48
                for _ in range(10):
                    picture = np.full((48, 64, 3), grey, np.uint8)
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
    config = TrainConfig("folder", root=str(tmp_path))
    filled = fill_in(config)
    assert (filled.gamma, filled.train_from) == chosen
    filled = fill_in(replace(config, train_from="block"))
    assert (filled.gamma, filled.train_from) == (chosen[0], "block")


def test_a_head_alone_sees_larger_frames_unless_a_size_is_given(folders):
    alone = fill_in(replace(folders, train_from="head"))
    assert (alone.short_side, alone.crop) == (184, 160)
    given = fill_in(replace(folders, train_from="head", crop=112))
    assert (given.short_side, given.crop) == (128, 112)
