"""The benchmark of pretrained models keeps each row at once, and goes on after a stop."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import benchmark_models
import pytest

from actionrec.errors import ActionrecError
from actionrec.models.catalogue import MODELS

COLUMNS = (Path(__file__).parents[1] / "results" / "models.csv").read_text().splitlines()[0]


@pytest.fixture
def asked(monkeypatch):
    """The models that are measured, in a thread and by a function that knows their figures."""
    asked = []

    def measured(work):
        asked.append(work.name)
        if work.name == "r3d_18":
            raise ActionrecError("r3d_18 is not computed here.")
        if len(asked) == 2:
            raise KeyboardInterrupt
        row = {"name": work.name, "clip": "4x8x8", "top1": 1.0, "protocol": "1 clip"}
        row |= {"params": 1, "macs": 2, "engine": work.engine, "threads": work.threads}
        return row | {"float32_seconds": 0.5, "bfloat16_seconds": 0.25, "gigabytes": 1.0}

    def executor(workers, mp_context):
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(benchmark_models, "measured", measured)
    monkeypatch.setattr(benchmark_models, "ProcessPoolExecutor", executor)
    return asked


def test_a_stopped_run_goes_on_and_a_model_that_fails_is_named(asked, tmp_path, capsys):
    path = tmp_path / "models.csv"
    words = ["--models", "x3d_xs", "kinetics400-i3d-imagenet", "r3d_18", "--results", str(path)]
    assert benchmark_models.main(words) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert benchmark_models.main(words) == 1
    assert asked == ["x3d_xs", *words[2:3], *words[2:4]]
    told = capsys.readouterr()
    assert "1/3 x3d_xs: measured today already" in told.err
    assert "3/3 r3d_18: could not be measured (r3d_18 is not computed here.)" in told.err
    assert "x3d_xs" in told.out and "kinetics400-i3d-imagenet" in told.out
    assert path.read_text().splitlines()[0] == COLUMNS
    assert [row["name"] for row in csv.DictReader(path.open())] == words[1:3]


def test_all_models_are_measured_by_default():
    assert benchmark_models.parse_arguments([]).models == list(MODELS)
    with pytest.raises(SystemExit):
        benchmark_models.parse_arguments(["--rounds", "0"])
