"""Files: which are videos, written whole or not at all, by one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actionrec.errors import ActionrecError
from actionrec.files import cache_folder, exclusive, replacing


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "result.csv"
    with replacing(path) as temporary:
        assert temporary.suffix == ".csv" and not path.exists()
        temporary.write_text("first")
    assert path.read_text() == "first"
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "first" and os.listdir(path.parent) == ["result.csv"]


def test_a_folder_that_can_not_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ActionrecError, match="result.csv could not be written .*free some space"):
        with replacing(tmp_path / "file" / "result.csv"):
            pass


@pytest.mark.parametrize("name", ["a" * 241 + ".mp4", "a." + "b" * 243, "ä" * 120 + ".json"])
def test_names_as_long_as_a_file_system_allows_are_written(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("long")
    assert os.listdir(tmp_path) == [name]
    with exclusive(tmp_path / name, "busy"), pytest.raises(ActionrecError, match="busy"):
        with exclusive(tmp_path / name, "busy"):
            pass
    assert os.listdir(tmp_path) == [name]


def test_a_file_system_without_permissions_is_written_to(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with replacing(tmp_path / "result.csv") as temporary:
        temporary.write_text("there")
    assert (tmp_path / "result.csv").read_text() == "there"


def test_contents_are_synced_before_the_new_name_and_the_folder_after_it(tmp_path, monkeypatch):
    target, synced, fsync = tmp_path / "a.txt", [], os.fsync
    target.write_text("old")

    def noting(handle):
        synced.append((os.fstat(handle).st_ino, target.read_text()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert synced == [(target.stat().st_ino, "old"), (tmp_path.stat().st_ino, "new")]


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "disk.csv")
    with replacing(tmp_path / "link.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "disk.csv").read_text() == "new"
    with exclusive(tmp_path / "disk.csv", "busy"), pytest.raises(ActionrecError, match="busy"):
        with exclusive(tmp_path / "link.csv", "busy"):
            pass


def test_a_second_process_is_refused_until_the_first_is_done(tmp_path):
    script = (
        "import sys; from pathlib import Path; from actionrec.files import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'busy'): pass"
    )
    other = [sys.executable, "-c", script, str(tmp_path / "new" / "result.csv")]
    with exclusive(tmp_path / "new" / "result.csv", "busy"):
        run = subprocess.run(other, capture_output=True, text=True)
        assert run.returncode == 1 and "ActionrecError: busy" in run.stderr
    assert subprocess.run(other).returncode == 0


def test_without_a_home_folder_there_is_a_sentence(monkeypatch):
    monkeypatch.setenv("ACTIONREC_CACHE", "~nobody-of-that-name/cache")
    with pytest.raises(ActionrecError, match="no home folder to keep downloads in; set the"):
        cache_folder()
