"""A run that ends before its last epoch: when, how it says so, and how it goes on."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from actionrec.cli.main import main
from actionrec.models.classifier import VideoClassifier
from actionrec.training import module
from actionrec.training.early_stopping import reason_to_stop
from actionrec.training.run import train


def results(best, last):
    return {
        name: {"epoch": epoch, "clip": {"top1": 0.8, "map": 0.4}}
        for name, epoch in (("best", best), ("last", last))
    }


@pytest.mark.parametrize(
    ("best", "last", "ends"),
    [(1, 1, False), (1, 3, False), (1, 4, True), (2, 4, False), (2, 9, True), (7, 10, False)],
)
def test_it_ends_after_so_many_epochs_without_a_better_figure(small_training, best, last, ends):
    config = replace(small_training, epochs=10, patience=3)
    assert bool(reason_to_stop(results(best, last), config)) == ends
    assert reason_to_stop(results(best, last), replace(config, patience=None)) is None
    assert reason_to_stop({}, config) is None


def test_the_reason_names_the_figure_that_chose_the_best_epoch(small_training):
    config = replace(small_training, epochs=10, patience=3)
    assert "validation Top-1 was best in epoch 1 (80.0%)" in reason_to_stop(results(1, 4), config)
    several = replace(config, multi_label=True)
    assert "validation mAP was best in epoch 1 (40.0%)" in reason_to_stop(results(1, 4), several)


@pytest.fixture
def config(small_training, tmp_path):
    """Learning that is too slow to raise the Top-1 of the first epoch."""
    output = str(tmp_path / "run")
    return replace(small_training, lr=1e-9, epochs=4, patience=2, output=output)


def test_an_early_end_is_a_good_end_that_more_patience_continues(config, tmp_path, caplog, capsys):
    caplog.set_level("INFO", "actionrec")
    output = tmp_path / "run"
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(vars(config)))
    assert main(["train", "--config", str(settings)]) == 0
    assert "The run ended after epoch 3 of 4: validation Top-1 was best in epoch 1" in caplog.text
    assert json.loads((output / "results.json").read_text())["last"]["epoch"] == 3
    report = " ".join((output / "report.html").read_text().split())
    assert "<li>The run ended after epoch 3 of 4:" in report

    before = (output / "last.safetensors").stat().st_mtime_ns
    assert f"report: {output}/report.html" in capsys.readouterr().out
    # As of a run that was killed between its last checkpoint and its report.
    (output / "report.html").unlink()
    caplog.clear()
    assert main(["train", "--config", str(settings), "--resume", "auto"]) == 0
    assert f"report: {output}/report.html" in capsys.readouterr().out
    assert " ".join((output / "report.html").read_text().split()) == report
    assert "nothing is left to train. The run ended after epoch 3" in caplog.text
    assert (output / "last.safetensors").stat().st_mtime_ns == before

    assert main(["train", "--config", str(settings), "--resume=auto", "--patience=3"]) == 0
    whole = replace(config, patience=None, output=str(tmp_path / "whole"))
    assert train(whole)["last"]["epoch"] == 4
    expected, found = (
        VideoClassifier.load(Path(folder) / "last.safetensors").network.state_dict()
        for folder in (whole.output, output)
    )
    assert all(found[name].equal(value) for name, value in expected.items())


def test_a_request_to_stop_in_the_epoch_that_ends_the_run_leaves_it_its_report(
    config, tmp_path, monkeypatch
):
    def asked_to_stop(results, config):
        if reason := reason_to_stop(results, config):
            os.kill(os.getpid(), signal.SIGTERM)
        return reason

    monkeypatch.setattr(module, "reason_to_stop", asked_to_stop)
    assert train(config)["last"]["epoch"] == 3
    assert (tmp_path / "run" / "report.html").is_file()


def test_patience_needs_validation_videos(config, class_folders, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "train").symlink_to(class_folders / "train")
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(vars(replace(config, root=str(tmp_path / "videos")))))
    assert main(["train", "--config", str(settings)]) == 1
    assert "has no folder val" in capsys.readouterr().err
