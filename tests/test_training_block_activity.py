"""What training notes of its nonlocal blocks, and that noting it changes nothing."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from actionrec.models.c3d_small import c3d_small
from actionrec.models.classifier import VideoClassifier
from actionrec.models.nonlocal_blocks import build_block
from actionrec.training.block_activity import BlockActivity
from actionrec.training.diagnosis import diagnose_blocks
from actionrec.training.figures import EpochFigures
from actionrec.training.module import Training
from actionrec.training.run import train


@pytest.fixture(autouse=True)
def log_level(caplog):
    caplog.set_level("INFO", "actionrec")


@pytest.fixture
def config(small_training, tmp_path):
    return replace(small_training, block="snl", output=str(tmp_path / "run"))


def network_with(name="snl", scale=0.5, **options):
    """A small network whose block before conv4 has a norm scale other than 0."""
    torch.manual_seed(0)
    network = c3d_small(2)
    network.blocks["conv4"] = build_block(name, 64, **options)
    for unit in network.blocks["conv4"].units:
        nn.init.constant_(unit.norm.weight, scale)
    return network


CLIPS = torch.rand(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", [{}, {"units": 3}, {"name": "cgnl"}])
def test_the_term_is_what_the_block_adds_and_the_scale_that_of_its_norms(options):
    network = network_with(**options)
    activity = BlockActivity(network)
    network.train()
    network(CLIPS).sum().backward()
    activity.note_gradients(network)
    network.eval()
    network(CLIPS[:3])
    network(CLIPS[3:])
    found = activity.end_epoch(network)["conv4"]

    block = network.blocks["conv4"]
    x = nn.Sequential(*list(network.units)[:3])(CLIPS)
    gradients = [parameter.grad.flatten() for parameter in block.parameters()]
    assert found.term == pytest.approx(((block(x) - x).norm() / x.norm()).item(), rel=1e-3)
    assert found.gradient == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-3)
    assert found.scale == 0.5
    network(CLIPS)
    assert activity.end_epoch(network)["conv4"].term == pytest.approx(found.term, rel=1e-3)


def test_a_step_whose_gradients_overflow_does_not_count():
    network = network_with()
    activity = BlockActivity(network)
    weights = list(network.blocks["conv4"].parameters())
    for value in (1.0, float("inf"), 3.0):
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        weights[0].grad.view(-1)[0] = value
        activity.note_gradients(network)
    network.eval()(CLIPS)
    assert activity.end_epoch(network)["conv4"].gradient == 2


def without_activity(monkeypatch):
    monkeypatch.setattr(BlockActivity, "_hook", lambda *_: lambda *_: None)
    monkeypatch.setattr(BlockActivity, "note_gradients", lambda *_: None)


@pytest.mark.parametrize(
    "settings",
    [{}, {"ema": 0.5, "units": 2, "stages": [3, 4]}, {"train_from": "block", "accumulate": 2}],
    ids=str,
)
def test_a_run_has_the_weights_of_one_that_is_not_watched(config, tmp_path, monkeypatch, settings):
    config = replace(config, **settings)
    train(config)
    without_activity(monkeypatch)
    train(replace(config, output=str(tmp_path / "other")))
    first, second = (
        VideoClassifier.load(tmp_path / name / "last.safetensors").network.state_dict()
        for name in ("run", "other")
    )
    assert all(torch.equal(second[name], value) for name, value in first.items())


def test_log_results_csv_and_report_show_every_block_by_epoch(config, tmp_path, caplog):
    config = replace(config, stages=[3, 4], epochs=3, lr=0.1)
    results = train(config)
    assert list(results["blocks"]) == ["conv3", "conv4"]
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["blocks"] == results["blocks"]
    with (tmp_path / "run" / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, epochs in results["blocks"].items():
        assert [each["epoch"] for each in epochs] == [1, 2, 3]
        assert all(0 < each["term"] < 1 and each["gradient"] > 0 for each in epochs)
        for row, each in zip(rows, epochs, strict=True):
            for figure in ("term", "gradient", "scale"):
                logged = float(row[f"block_{name}_{figure}"])
                assert logged == pytest.approx(each[figure], rel=1e-5)
        assert f"snl before {name}: adds {epochs[-1]['term']:.2%} of its input" in caplog.text
    network = VideoClassifier.load(tmp_path / "run" / "last.safetensors").network
    scale = network.blocks["conv4"].units[0].norm.weight.abs().mean().item()
    assert results["blocks"]["conv4"][-1]["scale"] == pytest.approx(scale, rel=1e-3)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What the nonlocal blocks add" in page


def test_a_block_that_sleeps_is_told_in_the_log_and_in_the_report(config, tmp_path, caplog):
    train(replace(config, lr=1e-6))
    sentence = "The nonlocal block before conv4 sleeps: it adds 0.00% of its input"
    assert sum(sentence in record.message for record in caplog.records) == 1
    assert sentence in (tmp_path / "run" / "report.html").read_text()


def test_a_network_without_blocks_has_no_figures_of_blocks(config, tmp_path, caplog):
    results = train(replace(config, block="none"))
    assert results["blocks"] == {}
    assert "sleeps" not in caplog.text
    assert "nonlocal blocks add" not in (tmp_path / "run" / "report.html").read_text()


def epoch_with(term):
    figures = (1, 1.0, 0.5, 1.0, 0.5, 1.0, 0.01, 0.0)
    blocks = {"Mixed_4f": {"term": term, "gradient": 0.1, "scale": 0.1}}
    names = list(EpochFigures.__dataclass_fields__)
    return EpochFigures.of(dict(zip(names, figures, strict=False)) | {"blocks": blocks})


@pytest.mark.parametrize(
    ("term", "word"),
    [
        (0.005, "sleeps"),
        (0.3, None),
        (1.0, None),
        (2.5, "overwhelms"),
        (float("inf"), "overwhelms"),
    ],
)
def test_a_sentence_names_a_block_that_sleeps_or_overwhelms_its_input(term, word):
    sentences = diagnose_blocks([epoch_with(0.0), epoch_with(term)])
    assert [word in sentence for sentence in sentences] == [True] * bool(word)


def test_a_figure_that_is_not_finite_is_null_in_json():
    assert epoch_with(float("nan")).of_block("Mixed_4f")["term"] is None


def test_the_epoch_figures_survive_a_checkpoint():
    epoch = epoch_with(0.25)
    assert EpochFigures.of(asdict(epoch)) == epoch
    earlier = {name: value for name, value in asdict(epoch).items() if name != "blocks"}
    assert EpochFigures.of(earlier) == replace(epoch, blocks={})


def test_a_run_that_goes_on_within_an_epoch_has_the_figures_of_one_that_did_not_stop(
    config, tmp_path, monkeypatch
):
    config = replace(config, epochs=3, batch_size=2)
    whole = train(replace(config, output=str(tmp_path / "whole")))["blocks"]
    loss_of, step = Training.loss_of, iter(range(100))

    def failing(self, batch, index):
        if next(step) == 6:
            raise RuntimeError("power cut")
        return loss_of(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr("actionrec.training.resume.SAVED_EVERY", 0.0)
        patch.setattr(Training, "loss_of", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            train(config)
    assert train(replace(config, resume="auto"))["blocks"] == whole


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from(config, tmp_path):
    train(replace(config, epochs=1, lr_step=5))
    path = tmp_path / "run" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["actionrec"]["block_gradients"], checkpoint["actionrec"]["epochs"][0]["blocks"]
    torch.save(checkpoint, path)
    settings = tmp_path / "run" / "config.yaml"
    settings.write_text(settings.read_text().replace("epochs: 1", "epochs: 2"))
    results = train(replace(config, epochs=2, lr_step=5, resume="auto"))
    assert [each["epoch"] for each in results["blocks"]["conv4"]] == [2]


def test_a_compiled_network_notes_what_one_does_that_is_not_and_is_compiled_once():
    figures = []
    for compiled in (False, True):
        torch.compiler.reset()
        network = network_with()
        activity = BlockActivity(network)
        if compiled:
            network.compile(backend="aot_eager")
        for _ in range(2):
            network.train()(CLIPS).sum().backward()
            activity.note_gradients(network)
            with torch.inference_mode():
                network.eval()(CLIPS)
            if compiled:
                torch.compiler.set_stance("fail_on_recompile")
        torch.compiler.set_stance("default")
        figures.append(asdict(activity.end_epoch(network)["conv4"]))
    # Dropout draws other masks.
    del figures[0]["gradient"], figures[1]["gradient"]
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)


@pytest.mark.slow
def test_two_processes_have_the_figures_of_one(config, tmp_path, monkeypatch):
    config = replace(config, sync_batchnorm=True)
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import json, sys, torch\n"
        "from actionrec.config import TrainConfig\n"
        "from actionrec.training.run import train\n"
        "torch.nn.Dropout.forward = lambda self, x: x\n"
        "train(TrainConfig(**json.loads(sys.argv[1])))\n"
    )
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    one, two = (replace(config, devices=n, output=str(tmp_path / str(n))) for n in (1, 2))
    train(one)
    words = [sys.executable, driver, json.dumps(asdict(two))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(words, check=True, timeout=300, env=environment)
    figures = [
        json.loads(Path(run.output, "results.json").read_text())["blocks"]["conv4"]
        for run in (one, two)
    ]
    for one, two in zip(*figures, strict=True):
        # The running variance has no Bessel's correction where PyTorchVideo's layer stands in.
        assert two == pytest.approx(one, rel=0.05)


@pytest.mark.slow
def test_the_command_line_tells_of_a_block_that_sleeps_and_ends_well(command, config, tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text(json.dumps(asdict(replace(config, epochs=1, lr=1e-6))))
    run = command("train", "--config", settings)
    assert run.returncode == 0
    assert "The nonlocal block before conv4 sleeps" in run.stderr
