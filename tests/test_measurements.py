"""scripts/measurements.py: rows are appended whole, and nothing that is there changes."""

import errno
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from actionrec.errors import ActionrecError

if not (Path(__file__).parents[1] / "scripts").exists():
    pytest.skip("not run from a checkout", allow_module_level=True)
measurements = import_module("measurements")


def test_rows_are_appended_with_date_and_machine_and_read_back(tmp_path):
    path = tmp_path / "new" / "speeds.csv"
    assert measurements.read(path) == []
    measurements.append(path, {"what": "a, b", "ms": 1.5, "note": None}, "cpu")
    before = path.read_bytes()
    # A row need not fill all columns.
    measurements.append(path, {"what": "c"}, "cpu")
    assert path.read_bytes().startswith(before)
    first, second = measurements.read(path)
    assert (first["what"], first["ms"], first["note"]) == ("a, b", "1.5", "")
    assert (second["what"], second["ms"]) == ("c", "")
    assert measurements.machine("cpu").items() <= first.items() and first["date"]


def test_a_row_that_a_power_cut_tore_is_told_and_keeps_the_next_one_whole(tmp_path, capsys):
    path = tmp_path / "speeds.csv"
    measurements.append(path, {"what": "a"}, "cpu")
    path.write_bytes(path.read_bytes() + b"2026-01-02,hal")
    measurements.append(path, {"what": "b"}, "cpu")
    assert [row["what"] for row in measurements.read(path)] == ["a", "b"]
    assert f"{path}, line 3, is not whole and is left out" in capsys.readouterr().err


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "speeds.csv"
    measurements.append(path, {"what": "a"}, "cpu")
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(measurements.os, "fsync", full)
    with pytest.raises(ActionrecError, match=r"could not be written \(No space left"):
        measurements.append(path, {"what": "b"}, "cpu")
    assert path.read_bytes() == before


def test_another_measurements_file_is_left_as_it_was(tmp_path):
    path = tmp_path / "speeds.csv"
    measurements.append(path, {"what": "a"}, "cpu")
    before = path.read_bytes()
    with pytest.raises(ActionrecError, match="has other columns than what was measured"):
        measurements.append(path, {"top1": 1}, "cpu")
    assert path.read_bytes() == before


def test_rows_that_are_appended_at_once_are_all_kept(tmp_path):
    path = tmp_path / "speeds.csv"
    with ThreadPoolExecutor(8) as pool:
        for number in range(40):
            pool.submit(measurements.append, path, {"number": number}, "cpu")
    assert sorted(int(row["number"]) for row in measurements.read(path)) == list(range(40))
