"""The head alone: fitted to frozen features, judged by groups, a model file like any other."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from actionrec.config import TrainConfig
from actionrec.datasets.dataset import LabelledVideo
from actionrec.errors import UsageError
from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.training.head import (
    ClipFeatures,
    FeatureCache,
    clip_features,
    cross_validate,
    fit_head,
    logistic_regression,
)
from actionrec.training.run import train
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing


@pytest.fixture
def features():
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=60)
    values = generator.normal(size=(60, 8)) + np.eye(3, 8)[labels] * 2
    return (5 + 3 * values).astype(np.float32), labels


@pytest.fixture
def network_file(tmp_path):
    """A small untrained network whose features the head is fitted to."""
    torch.manual_seed(0)
    config = ClassifierConfig(
        ("first", "second"),
        backbone="c3d_small",
        sampling=ClipSampling(8),
        preprocessing=Preprocessing(36, 32),
    )
    path = tmp_path / "network.safetensors"
    VideoClassifier(config).save(path)
    return str(path)


@pytest.fixture
def words(class_folders, network_file, tmp_path):
    """The command line of a head on its features, and an environment with a cache of its own."""
    flags = {"dataset": "folder", "root": class_folders, "backbone": "c3d_small"}
    flags |= {"weights": network_file, "clip-length": 8, "short-side": 36, "crop": 32}
    flags |= {"train-from": "head", "workers": 0}
    environment = os.environ | {"ACTIONREC_CACHE": str(tmp_path / "cache")}
    return [word for name, value in flags.items() for word in (f"--{name}", value)], environment


def objective(weight, bias, values, labels, penalty):
    """The stated objective, written out: the penalty is on the weights of features with mean 0 and
    variance 1 / C."""
    x = torch.from_numpy(values).double()
    scale = x.std(dim=0, correction=0) * x.shape[1] ** 0.5
    loss = F.cross_entropy(x @ weight.T + bias, torch.from_numpy(labels))
    return loss + penalty / 2 * (weight * scale).square().sum()


@pytest.mark.parametrize("penalty", [0.1, 0.001])
def test_the_logistic_regression_is_the_minimum_of_its_objective(features, penalty):
    values, labels = features
    weight, bias = logistic_regression(values, labels, 3, penalty)
    weight.requires_grad_()
    bias.requires_grad_()
    objective(weight, bias, values, labels, penalty).backward()
    assert weight.grad.abs().max() < 1e-4 and bias.grad.abs().max() < 1e-5
    # The objective is convex: another start leads to the same place.
    other = torch.ones(3, 8, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    again, _ = logistic_regression(values, labels, 3, penalty, other)
    torch.testing.assert_close(again, weight.detach(), atol=1e-3, rtol=1e-2)


def test_a_feature_that_never_changes_has_no_weight(features):
    values, labels = features
    values[:, 2] = 7
    weight, bias = logistic_regression(values, labels, 3, 0.01)
    assert torch.isfinite(weight).all() and torch.isfinite(bias).all()
    assert (weight[:, 2] == 0).all()


def test_a_head_that_knows_the_recordings_is_no_better_than_chance_across_them():
    generator = np.random.default_rng(1)
    groups = np.arange(120) % 10
    # A recording has one class only, and the features tell the recording.
    labels = groups % 2
    values = np.eye(10)[groups] + 0.01 * generator.normal(size=(120, 10))
    clips = ClipFeatures(values.astype(np.float32), np.arange(120))

    def videos(known):
        return [
            LabelledVideo(Path(f"{n}.avi"), int(labels[n]), str(groups[n]) if known else None)
            for n in range(120)
        ]

    by_group = cross_validate(clips, videos(True), 2)
    at_random = cross_validate(clips, videos(False), 2)
    assert max(at_random.top1) == 1
    assert by_group.top1[by_group.best] < 0.7
    assert by_group.groups and not at_random.groups
    assert "no signal" in by_group.sentence() and "no signal" not in at_random.sentence()


def test_there_is_no_cross_validation_of_one_recording(features):
    values, labels = features
    videos = [LabelledVideo(Path(f"{n}.avi"), int(labels[n]), "one") for n in range(60)]
    assert cross_validate(ClipFeatures(values, np.arange(60)), videos, 3) is None


def test_unreadable_recordings_have_no_part_in_cross_validation(features):
    values, labels = features
    groups = [str(n // 20) for n in range(60)]
    videos = [LabelledVideo(Path(f"{n}.avi"), int(labels[n]), groups[n]) for n in range(60)]
    assert cross_validate(ClipFeatures(values[:20], np.arange(20)), videos, 3) is None
    found = cross_validate(ClipFeatures(values[:40], np.arange(40)), videos, 3)
    assert (found.folds, found.videos) == (2, 40) and np.isfinite(found.losses).all()


def test_videos_of_unknown_recordings_are_never_judged(features):
    values, labels = features
    groups = [None if n % 2 else str(n) for n in range(60)]
    videos = [LabelledVideo(Path(f"{n}.avi"), int(labels[n]), groups[n]) for n in range(60)]
    assert cross_validate(ClipFeatures(values, np.arange(60)), videos, 3).videos == 30


def test_a_head_is_a_model_like_any_other_and_its_features_are_kept(command, words, tmp_path):
    flags, environment = words
    first = command("train", *flags, "--output", tmp_path / "run", env=environment)
    assert first.returncode == 0, first.stderr
    assert "computing features" in first.stderr and "cross-validation" in first.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    root = flags[flags.index("--root") + 1]
    model = tmp_path / "run" / "model.safetensors"
    evaluated = command(
        *("evaluate", "--model", model, "--dataset", "folder", "--root", root),
        *("--clips", 1, "--format", "json"),
    )
    assert json.loads(evaluated.stdout)["clip"]["top1"] == results["last"]["clip"]["top1"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "fitted head" in page and "Cross-validation" in page

    again = command("train", *flags, "--output", tmp_path / "again", env=environment)
    assert again.returncode == 0 and "computing features" not in again.stderr
    assert json.loads((tmp_path / "again" / "results.json").read_text()) == results

    # Its settings alone repeat it.
    repeated = command(
        *("train", "--config", tmp_path / "run" / "config.yaml"),
        *("--output", tmp_path / "repeated"),
        env=environment,
    )
    assert repeated.returncode == 0, repeated.stderr
    assert json.loads((tmp_path / "repeated" / "results.json").read_text()) == results


def test_another_video_under_the_same_name_has_features_of_its_own(
    class_folders, network_file, tmp_path, monkeypatch, encode
):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    path = encode(tmp_path / "video.avi", frames=20)
    model = VideoClassifier.load(network_file)
    config = TrainConfig("folder", precision="float32", workers=0)
    videos = [LabelledVideo(path, 0), LabelledVideo(encode(tmp_path / "b.avi", frames=9), 1)]
    before, _, _ = fit_head(model, config, videos)
    encode(path, frames=31, size=(48, 64))
    after, _, _ = fit_head(model, config, videos)
    assert not np.array_equal(before.values[:3], after.values[:3])


def test_folders_of_frames_have_features_for_each_rate(class_folders, tmp_path, monkeypatch):
    for number in range(2):
        Image.new("RGB", (36, 36)).save(tmp_path / f"{number}.png")
    file = next(class_folders.glob("train/*/*"))

    def keys(rate):
        monkeypatch.setenv("ACTIONREC_FRAME_RATE", str(rate))
        return FeatureCache.key(file), FeatureCache.key(tmp_path)

    (of_file, of_folder), (same, other) = keys(25), keys(50)
    assert of_file == same and of_folder != other
    # A frame that is overwritten, which its folder's own state does not show.
    Image.new("RGB", (36, 36), "red").save(tmp_path / "1.png")
    assert keys(50) == (same, keys(50)[1]) and keys(50)[1] != other


def test_a_block_that_has_learnt_is_a_part_of_the_network_that_the_head_is_fitted_to(
    class_folders, network_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    plain = VideoClassifier.load(network_file)
    torch.manual_seed(0)
    model = VideoClassifier(replace(plain.config, block=BlockConfig("snl", stages=(4,)))).eval()
    [block] = model.network.blocks.values()
    config = TrainConfig("folder", precision="float32", workers=0)
    videos = [LabelledVideo(next(class_folders.glob("train/first/*")), 0)]
    without, _ = clip_features(model, config, videos)
    torch.nn.init.constant_(block.units[0].norm.weight, 2)
    found, _ = clip_features(model, config, videos)
    assert not np.allclose(found.values, without.values, rtol=0.01)
    pixels = InferenceModel(model, precision="float32").clips.read(videos[0].path, 3).pixels
    with torch.no_grad():
        expected = model.network.features(model.pixels(pixels))
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-5)


def test_features_are_computed_without_a_home_folder_to_keep_them_in(
    class_folders, network_file, monkeypatch, caplog
):
    monkeypatch.setenv("ACTIONREC_CACHE", "~nobody-of-that-name/cache")
    config = TrainConfig("folder", precision="float32", workers=0)
    videos = [LabelledVideo(next(class_folders.glob("train/first/*")), 0)]
    found, failures = clip_features(VideoClassifier.load(network_file), config, videos)
    assert len(found.values) == 3 and not failures
    assert "Features are not kept for the next time: There is no home folder" in caplog.text


def test_a_damaged_file_of_features_costs_time_only(command, words, tmp_path):
    flags, environment = words
    command("train", *flags, "--output", tmp_path / "run", env=environment)
    [kept] = (tmp_path / "cache" / "features").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    again = command("train", *flags, "--output", tmp_path / "again", env=environment)
    assert again.returncode == 0 and "computing features" in again.stderr


def test_a_new_block_can_not_be_fitted_with_the_head(class_folders, network_file):
    config = TrainConfig(
        "folder",
        root=str(class_folders),
        weights=network_file,
        backbone="c3d_small",
        train_from="head",
        block="snl",
    )
    with pytest.raises(UsageError, match="leave out --block"):
        train(config)
