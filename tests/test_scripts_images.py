"""The scripts for images: the paper's costs of blocks, and recipes that run."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).parents[1] / "scripts" / "images"
sys.path.insert(0, str(FOLDER))
import classify  # noqa: E402
import complexity  # noqa: E402
import segment  # noqa: E402
from checkpoint import Checkpoint  # noqa: E402


def run(name, *words):
    command = [sys.executable, FOLDER / name, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("table", "row"), [(table, row) for table in complexity.TABLES for row in table.rows]
)
def test_a_block_costs_what_the_paper_prints(table, row):
    options, params, operations = table.rows[row]
    found = complexity.cost(table, options)
    assert abs(found.params / 1e6 - float(params)) < 0.01
    # The paper takes NS's weights twice, and counts a little more than convolutions.
    if (table.before, row) != ("classifier.3", "NS"):
        assert abs(found.conv_macs / 1e9 - float(operations)) < 0.02


def test_images_are_classified_with_a_block_in_each_stage(tmp_path):
    results = tmp_path / "results.csv"
    words = ("--data", "generated", "--stages", 1, 2, 3, "--workers", 0, "--results", results)
    for _ in range(2):
        done = run("classify.py", *words)
        assert done.returncode == 0, done.stderr
        assert "epoch 1: loss " in done.stdout
    first, second = csv.DictReader(results.open())
    assert first == second and first["stages"] == "1 2 3" and first["block"] == "snl"


def test_a_classifier_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch, capsys):
    words = "--data generated --workers 0 --epochs 2 --checkpoint".split()
    stopped, whole = tmp_path / "stopped.pt", tmp_path / "whole.pt"
    monkeypatch.setattr(sys, "argv", ["classify.py", *words, str(whole)])
    assert classify.main() == 0
    monkeypatch.setattr(sys, "argv", ["classify.py", *words, str(stopped)])
    save = Checkpoint.save

    def save_and_stop(self, rounds):
        save(self, rounds)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            classify.main()
    assert classify.main() == 0
    expected, found = (torch.load(path, weights_only=True)["network"] for path in (whole, stopped))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    # What is finished or of another training isn't trained over.
    assert classify.main() == 2 and "has all 2 epochs" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["classify.py", *words, str(stopped), "--block", "nl"])
    assert classify.main() == 2 and "with block snl, not nl" in capsys.readouterr().err
    stopped.write_bytes(b"torn")
    assert classify.main() == 1 and "is no checkpoint of this script" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "words", "code", "sentence"),
    [
        (classify, "--network resnet50 --stages 1", 2, "no place for a block in stage 1"),
        (classify, "--epochs 0", 2, "--epochs must be at least 1"),
        (classify, "--data generated --block snk", 2, "did you mean snl?"),
        (classify, "--data generated --reduction 3", 2, "A reduction of 3 is not possible"),
        (classify, "--data imagenet --root nowhere", 1, "imagenet can't be opened in nowhere ("),
        (segment, "--iterations 0", 2, "--iterations must be at least 1"),
        (segment, "--root nowhere", 1, "nowhere is not Cityscapes as torchvision reads it ("),
        (segment, "--batch-size 9", 2, "There are 8 images, fewer than a batch of 9"),
    ],
)
def test_what_is_wrong_is_a_sentence(monkeypatch, capsys, script, words, code, sentence):
    monkeypatch.setattr(sys, "argv", ["script.py", *words.split()])
    try:
        found = script.main()
    except SystemExit as error:
        found = error.code
    assert found == code and sentence in capsys.readouterr().err


def test_scenes_are_segmented_and_classes_that_do_not_count_are_ignored(tmp_path):
    done = run("segment.py", "--iterations", 1, "--batch-size", 2, "--workers", 0)
    assert done.returncode == 0 and "mIoU " in done.stdout, done.stderr

    ids = np.zeros((64, 128), np.uint8)
    ids[:, :64] = 7  # road
    for kind, end, pixels in (
        ("leftImg8bit", "leftImg8bit", np.zeros((64, 128, 3), np.uint8)),
        ("gtFine", "gtFine_labelIds", ids),
    ):
        folder = tmp_path / kind / "train" / "town"
        folder.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / f"town_0_0_{end}.png")
        (tmp_path / kind / "val").mkdir()
    data, _ = segment.open_data(str(tmp_path))
    image, classes = data[0]
    assert image.shape == (3, *segment.CROP) and classes.shape == segment.CROP
    assert set(torch.unique(classes).tolist()) <= {0, segment.IGNORED}
