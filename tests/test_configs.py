"""The configurations that we ship: each loads by its name and is what its comment says."""

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from actionrec.cli.main import build_parser
from actionrec.cli.parser import configs_folder
from actionrec.config import TrainConfig

PROJECT = Path(__file__).parents[1]
NAMES = sorted(
    path.relative_to(configs_folder()).as_posix() for path in configs_folder().rglob("*.yaml")
)
TABLE7 = {"i3d": "none", "nl": "nl", "ns": "ns", "a2": "a2", "cgnl": "cgnl", "snl": "snl"}
ABLATIONS = {
    "channels_c1": {"reduction": 1},
    "channels_c1_4": {"reduction": 4},
    "stage2": {"stages": [2]},
    "stage3": {"stages": [3]},
    "three_blocks": {"stages": [2, 3, 4]},
}


def parsed(words: list[str]) -> TrainConfig:
    """The settings that `actionrec train` takes from these words."""
    values = vars(build_parser().parse_args(["train", *words]).train)
    del values["config"]
    return TrainConfig(**values)


def differences(one: TrainConfig, other: TrainConfig) -> dict:
    """The settings of `one` that differ from those of `other`."""
    return {key: value for key, value in asdict(one).items() if value != asdict(other)[key]}


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_configuration_is_found_by_its_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed(["--config", name]).dataset


@pytest.mark.parametrize("name", NAMES)
def test_the_first_command_of_the_comment_names_the_file_and_is_taken(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    comment = re.match(r"(#.*\n)+", (configs_folder() / name).read_text())
    [program, *words], *_ = [
        shlex.split(line[1:])
        for line in comment[0].splitlines()
        if line.startswith(("#   actionrec ", "#   python "))
    ]
    assert words[words.index("--config") + 1] == name
    if program == "actionrec":
        assert parsed(words[1:]).dataset
    else:
        assert (PROJECT / words[0]).is_file() or not (PROJECT / "pyproject.toml").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_comment_tells_duration_and_expected_result(name):
    comment = re.match(r"(#.*\n)+", (configs_folder() / name).read_text())[0]
    assert "xpected" in comment
    assert "Duration: not measured" in comment or "minutes" in comment


@pytest.mark.parametrize(("row", "block"), TABLE7.items())
def test_the_rows_of_table_7_differ_in_nothing_but_the_block(row, block):
    base = parsed(["--config", "table7/i3d.yaml"])
    own = parsed(["--config", f"table7/{row}.yaml"])
    assert differences(own, base) == ({} if row == "i3d" else {"block": block})


@pytest.mark.parametrize(("name", "changes"), ABLATIONS.items())
def test_an_ablation_differs_from_table_7_in_one_setting(name, changes):
    snl = parsed(["--config", "table7/snl.yaml"])
    assert differences(parsed(["--config", f"ablation/{name}.yaml"]), snl) == changes


@pytest.mark.parametrize("name", ["table7/i3d.yaml", "ucf101_i3d_snl.yaml"])
def test_the_protocol_is_the_papers(name):
    config = parsed(["--config", name])
    assert (config.clip_length, config.crop, config.epochs) == (16, 124, 100)
    assert (config.lr, config.lr_step, config.momentum) == (0.01, 40, 0.9)
    assert config.weight_decay == 1e-4


def test_every_configuration_of_the_lists_above_is_shipped_and_no_other():
    expected = {"demo.yaml", "ucf101_i3d_snl.yaml"}
    expected |= {f"table7/{name}.yaml" for name in ("demo", "weizmann", "fights", "arid6")}
    expected |= {f"table7/{row}.yaml" for row in TABLE7}
    expected |= {f"ablation/{name}.yaml" for name in ABLATIONS}
    assert set(NAMES) == expected
