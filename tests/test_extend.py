"""docs/extend.md is true: what it adds to actionrec appears everywhere and works.

Its modules and lines go into a copy of the package, on which the command line is then run.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|py)\n# ([^\n]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SMALL = ["--clip-length=4", "--short-side=36", "--crop=32"]
# The registry of output formats is a module of its own.
HAS_FORMATS = importlib.util.find_spec("actionrec.prediction.formats") is not None
needs_formats = pytest.mark.skipif(not HAS_FORMATS, reason="there is no registry of formats yet")


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """Runs the command line of a copy of actionrec that is extended as the page says."""
    root = tmp_path_factory.mktemp("extended")
    shutil.copytree(PROJECT / "actionrec", root / "actionrec")
    shutil.copytree(PROJECT / "configs", root / "configs")
    page = (PROJECT / "docs" / "extend.md").read_text(encoding="utf-8")
    modules, lines = 0, 0
    for language, place, text in BLOCK.findall(page):
        if language == "python":
            (root / place).write_text(text)
            modules += 1
            continue
        registry, name = re.fullmatch(r"in (\w+) of (.+)", place).groups()
        lines += 1
        if (root / name).exists() or HAS_FORMATS:
            add_to_registry(root / name, registry, text)
    assert (modules, lines) == (4, 4)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "actionrec", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root), "COLUMNS": "200"},
            cwd=root,
        )

    return run


def add_to_registry(path: Path, registry: str, text: str) -> None:
    """Put the entry into the dictionary `registry`, and its import before it."""
    imports = [line for line in text.splitlines() if line.startswith("from ")]
    entry = [line for line in text.splitlines() if not line.startswith("from ")]
    source, count = re.subn(
        rf"^{registry}\b.*= \{{$",
        lambda found: "\n".join([*imports, found[0], *entry]),
        path.read_text(),
        flags=re.MULTILINE,
    )
    assert count == 1, f"{registry} is not in {path}"
    path.write_text(source)


@pytest.fixture
def halves(tmp_path, encode):
    for label in ("first", "second"):
        (tmp_path / "halves" / label).mkdir(parents=True)
        for index in range(4):
            encode(tmp_path / "halves" / label / f"{index}.avi", frames=12 + index)
    return tmp_path / "halves"


def test_help_and_lists_name_the_new_ones(extended):
    help_text = extended("train", "--help").stdout
    for name in ("cosine", "two_convolutions", "halves"):
        assert name in help_text
    assert re.search("halves .*halves of each class", extended("data", "list").stdout)


def test_the_new_block_and_network_are_counted(extended):
    run = extended(
        *("info", "--backbone=two_convolutions", "--block=cosine", "--clip=4x32x32"),
        "--format=csv",
    )
    assert run.returncode == 0, run.stderr
    assert [line.split(",")[0] for line in run.stdout.splitlines()] == [
        "part",
        "two_convolutions",
        "block before conv2",
    ]


def test_the_new_data_set_is_counted(extended, halves):
    run = extended("data", "list", "halves", "--root", halves, "--format=json")
    assert run.returncode == 0, run.stderr
    assert '"train": 4' in run.stdout and '"val": 4' in run.stdout


@pytest.mark.parametrize(
    ("flag", "name"),
    [("--block", "cosine"), ("--backbone", "two_convolutions"), ("--dataset", "halves")],
)
def test_error_messages_name_the_new_ones_among_the_choices(extended, flag, name):
    choices = {"--dataset": "demo", flag: "nonsense"}
    run = extended("train", *(f"{key}={value}" for key, value in choices.items()))
    assert run.returncode == 2 and name in run.stderr, run.stderr


@needs_formats
def test_error_messages_name_the_new_output_format(extended, halves):
    video = halves / "first" / "0.avi"
    run = extended("timeline", video, "--output", "timeline.nonsense")
    assert run.returncode == 2 and ".txt" in run.stderr, run.stderr


@needs_formats
def test_the_new_output_format_is_written(extended, halves, model, tmp_path):
    video = halves / "first" / "0.avi"
    output = tmp_path / "labels.txt"
    run = extended("timeline", video, "--model", model, "--min-score=0", "--output", output)
    assert run.returncode == 0, run.stderr
    start, end, label = output.read_text().splitlines()[0].split("\t")
    assert float(start) == 0 < float(end) and label in "abc"


@pytest.mark.slow
def test_a_training_with_all_of_them_ends_with_a_model_that_predicts(extended, halves, tmp_path):
    output = tmp_path / "run"
    run = extended(
        *("train", "--dataset=halves", f"--root={halves}", f"--output={output}", "--epochs=1"),
        *("--backbone=two_convolutions", "--block=cosine", "--weights=none", "--batch-size=2"),
        *("--workers=0", *SMALL),
    )
    assert run.returncode == 0, run.stderr
    model = output / "model.safetensors"
    run = extended("predict", halves / "first" / "0.avi", "--model", model, "--format=csv")
    assert run.returncode == 0 and "second" in run.stdout, run.stdout + run.stderr
