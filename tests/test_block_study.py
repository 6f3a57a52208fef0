"""scripts/block_study.py: blocks in fine-tunings from stored inputs, each run once."""

import csv
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

SCRIPT = Path(__file__).parents[1] / "scripts" / "block_study.py"
if not SCRIPT.exists():
    pytest.skip("not run from a checkout", allow_module_level=True)
block_study = import_module("block_study")


@pytest.fixture(scope="module")
def words(class_folders, tmp_path_factory):
    """Arguments of the script for tiny clips and an untrained network."""
    network = tmp_path_factory.mktemp("network") / "network.safetensors"
    torch.manual_seed(0)
    VideoClassifier(
        ClassifierConfig(
            ("bright", "grey"),
            backbone="c3d_small",
            sampling=ClipSampling(8),
            preprocessing=Preprocessing(36, 32),
        )
    ).save(network)
    flags = {"dataset": "folder", "root": class_folders, "draws": 2, "backbone": "c3d_small"}
    flags |= {"weights": network, "clip-length": 8, "short-side": 36, "crop": 32}
    return [str(word) for name in flags for word in (f"--{name}", flags[name])]


def test_each_block_is_trained_beside_none_once_and_becomes_a_row(words, tmp_path):
    results = tmp_path / "rows.csv"
    settings = ("train_from=block", "train_from=stage4,lr_new=10", "train_from=block,stages=3")
    quick = "epochs=3,warmup=0,batch_size=2,ema=0,lr=0.05"
    flags = [word for setting in settings for word in ("--setting", f"{setting},{quick}")]
    command = [sys.executable, SCRIPT, *words, *flags, "--results", results, "--seeds", "0", "1"]
    command += ["--blocks", "none", "snl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Without a block its place makes no difference.
    assert len(rows) == 10
    for row in rows:
        terms = [float(term) for term in row["terms"].split()]
        if row["block"] == "none":
            assert not terms and row["stages"] == row["init"] == ""
        else:
            # It starts as the identity, and learns.
            assert len(terms) == 3 and 0 <= terms[0] < terms[-1]
            assert float(row["gradient"]) > 0 and float(row["scale"]) > 0
    assert done.stdout.count("| snl |") == 3 and done.stdout.count(" to ") >= 4
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0 and "12 of 12 runs are done already" in again.stderr
    with results.open(newline="") as file:
        assert list(csv.DictReader(file)) == rows


def test_a_block_before_the_first_trained_stage_gets_the_input_of_its_own_unit():
    network = VideoClassifier(ClassifierConfig(("a", "b"), block=BlockConfig("snl"))).network
    [unit] = network.blocks
    assert block_study.first_trained(network, "stage5") == unit
    assert block_study.first_trained(network, "block") == unit
    assert block_study.first_trained(network, "stage3") == network.units_of(3)[0]


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--setting", "train_from=all"], "train_from is all"),
        (["--setting", "train_from=head"], "train-from head"),
        (["--setting", "augment=color"], "'augment=color'"),
        (["--draws", "0"], "--draws"),
    ],
)
def test_what_can_not_be_studied_is_wrong_usage(words, capsys, flags, told):
    try:
        code = block_study.main([*words, *flags])
    except SystemExit as error:
        code = error.code
    assert code == 2 and told in capsys.readouterr().err
