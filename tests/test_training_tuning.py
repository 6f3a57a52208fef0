"""`actionrec tune`: what it suggests, and that it leaves nothing else behind."""

from dataclasses import replace

import pytest

from actionrec.errors import ActionrecError, UsageError
from actionrec.training import tuning


@pytest.fixture
def config(small_training, tmp_path):
    output = str(tmp_path / "runs" / "mine")
    return replace(small_training, clip_length=4, batch_size=2, output=output)


@pytest.mark.slow
def test_the_learning_rate_rises_until_the_loss_does_and_the_curve_is_drawn(
    command, config, tmp_path
):
    words = ["--dataset", "folder", "--root", config.root, "--output", config.output]
    words += ["--backbone", "c3d_small", "--weights", "none", "--clip-length", 4]
    words += ["--short-side", 36, "--crop", 32, "--batch-size", 2, "--workers", 0]
    run = command("tune", "lr", *words, cwd=tmp_path, fresh=True)
    assert run.returncode == 0, run.stderr
    assert 1e-5 < float(run.stdout.split()[1]) < 1
    [picture] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert picture.name == "mine-lr.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = command("tune", "lr", *words, cwd=tmp_path)
    assert again.returncode == 2
    assert "mine-lr.png is there already" in again.stderr


def test_the_suggestion_is_one_of_the_rates_tried_and_the_curve_is_not_overwritten(
    config, monkeypatch
):
    monkeypatch.setattr(tuning, "STEPS", 24)
    suggestion, curve = tuning.find_learning_rate(config)
    assert tuning.LOWEST_LR < suggestion < tuning.HIGHEST_LR
    assert curve.read_bytes().startswith(b"\x89PNG")
    # As --lr takes it: a run would double it for its batches.
    scaled = replace(config, lr_for_batch=1, output=f"{config.output}-scaled")
    assert tuning.find_learning_rate(scaled)[0] == pytest.approx(suggestion / 2)
    with pytest.raises(UsageError, match="mine-lr.png is there already"):
        tuning.find_learning_rate(config)


def test_the_batch_grows_until_memory_is_used_up(config, monkeypatch):
    loss_of = tuning.Trial.loss_of

    def of_little_memory(self, batch, index):
        if len(batch.videos) > 4:
            raise RuntimeError("CUDA out of memory.")
        return loss_of(self, batch, index)

    assert tuning.find_batch_size(config) == 8, "all training videos fit"
    monkeypatch.setattr(tuning.Trial, "loss_of", of_little_memory)
    assert tuning.find_batch_size(config) == 4


def test_a_trial_has_the_loss_of_the_run_and_refuses_what_the_run_refuses(
    config, class_folders, tmp_path
):
    assert tuning.Trial(config).loss.weights is None
    weighted = tuning.Trial(replace(config, class_weights={"first": 3.0}))
    assert weighted.loss.weights.tolist() == [3, 1]
    for side in ("train", "val"):
        (tmp_path / "videos" / side).mkdir(parents=True)
        (tmp_path / "videos" / side / "first").symlink_to(class_folders / side / "first")
    with pytest.raises(ActionrecError, match="has one class only, 'first'; training needs two"):
        tuning.find_batch_size(replace(config, root=str(tmp_path / "videos")))


def test_tuning_takes_one_process(config):
    config.devices = 2
    with pytest.raises(UsageError, match="Tuning takes one device"):
        tuning.find_batch_size(config)
