"""scripts/measure_gpu.py, on a CPU with tiny sizes: everything is measured once, whatever fails."""

import csv
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "measure_gpu.py"
if not SCRIPT.exists():
    pytest.skip("not run from a checkout", allow_module_level=True)
measure_gpu = import_module("measure_gpu")
SLICES = ("tests", "precision", "blocks", "training", "prediction", "table7")


def call(output, *arguments):
    command = [sys.executable, SCRIPT, "--device", "cpu", "--output", output, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def data(tmp_path, encode):
    """A folder with weizmann and without the others: four tiny videos of two people."""
    folder = tmp_path / "data" / "weizmann"
    folder.mkdir(parents=True)
    rows = ["path,label,group"]
    for person in ("daria", "denis"):
        for label in ("bend", "jack"):
            rows.append(f"{encode(folder / f'{person}_{label}.avi').name},{label},{person}")
    (folder / "weizmann.csv").write_text("\n".join(rows))
    return folder.parent


@pytest.mark.slow
def test_calls_go_on_until_everything_is_measured_once_or_has_failed_with_its_reason(
    data, tmp_path
):
    output = tmp_path / "results"
    first = call(output, "--only", "precision")
    assert first.returncode == 0, first.stderr
    before = {path: path.read_bytes() for path in output.iterdir()}
    assert {path.name for path in before} == {"precision.csv", "measure_gpu.csv"}
    plan = call(output, "--dry-run").stdout.splitlines()
    states = {slice: [line for line in plan if line.startswith(slice)] for slice in SLICES}
    assert states["precision"] and all(line.endswith("over") for line in states["precision"])
    assert "about" in states["blocks"][0] and not states["table7"]
    for _ in range(5):
        done = call(output, "--data", data)
        if done.returncode != 3:
            break
        assert "the same command goes on from here" in done.stderr
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    for path, content in before.items():
        assert path.read_bytes().startswith(content)
    assert call(output, "--only", "precision").returncode == 0
    ended = [row for row in rows_of(output / "measure_gpu.csv") if row["outcome"] != "goes on"]
    failed = [row["part"] for row in ended if row["outcome"] == "failed"]
    assert sorted(failed) == 2 * ["arid6 seed 0"] + 2 * ["fights seed 0"]
    assert all("There is no" in row["remark"] for row in ended if row["outcome"] == "failed")
    parts = [row["part"] for row in ended if row["outcome"] == "done"]
    assert len(set(parts)) == len(parts) and "weizmann seed 0" in parts
    assert {row["slice"] for row in ended} == set(SLICES)
    [tests] = rows_of(output / "tests.csv")
    assert int(tests["passed"]) >= 1 and tests["failed"] == "0"
    distances = {
        (row["block"], row["dtype"]): float(row["logits"])
        for row in rows_of(output / "precision.csv")
    }
    assert len(distances) == 6
    assert all(value < {"float32": 1e-5}.get(dtype, 0.1) for (_, dtype), value in distances.items())
    for name in ("blocks", "training_steps", "training", "prediction", "matrix_products"):
        rows = rows_of(output / f"{name}.csv")
        assert rows and all(row["device"].startswith("CPU") and row["date"] for row in rows)
    assert float(rows_of(output / "training.csv")[0]["share_of_matrix_product"]) > 0
    runs = [(run["block"], run["split"]) for run in rows_of(output / "table7_runs.csv")]
    assert runs == [("snl", person) for person in ("daria", "denis")]


def part(measure, name="a part"):
    return measure_gpu.Part("blocks", name, 1, measure)


def sleep_long(seconds):
    time.sleep(600)


def test_a_part_that_crashes_or_hangs_or_raises_is_told_and_ended():
    # os._exit ends the process at once, with the seconds that are left as its exit code.
    crashed = measure_gpu.finish(part(os._exit), 120)
    assert crashed == ("failed", "the process ended with exit code 120")
    start = time.monotonic()
    assert measure_gpu.finish(part(sleep_long), 1)[0] == "stopped"
    assert time.monotonic() - start < 60
    outcome, reason = measure_gpu.finish(part(Path), 60)
    assert outcome == "failed" and "int" in reason and "\n" not in reason


def test_what_was_never_tried_comes_first_and_nothing_is_tried_three_times():
    names = ("done", "failed", "failed twice", "stopped and done", "new")
    parts = [part(sleep_long, name) for name in names]
    tried = {
        ("blocks", "done"): ["done"],
        ("blocks", "failed"): ["failed"],
        ("blocks", "failed twice"): ["failed", "stopped"],
        ("blocks", "stopped and done"): ["stopped", "done"],
    }
    assert [each.name for each in measure_gpu.pending(parts, tried)] == ["new", "failed"]


def test_no_part_begins_that_does_not_fit(tmp_path, capsys, monkeypatch):
    plan = measure_gpu.Plan("cuda", tmp_path, tmp_path, None)
    monkeypatch.setattr(measure_gpu.measurements, "machine", lambda device: {"device": "a GPU"})
    parts = [measure_gpu.Part("blocks", "long", 100, sleep_long)]
    assert measure_gpu.run_parts(plan, parts, time.monotonic() + 50) == 3
    assert "blocks: long waits for the next call" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--data", "nowhere"], "nowhere is not a folder"),
        (["--only", "speed"], "invalid choice: 'speed'"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_measured(words, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        measure_gpu.main([*words, "--device", "cpu"])
    assert exit_info.value.code == 2 and message in capsys.readouterr().err
