"""The lines of a run: whole after a full disk, and never of two settings."""

import json
import os
from dataclasses import asdict

import pytest

from actionrec.errors import ActionrecError, UsageError
from actionrec.prediction.journal import Journal, Settings

SETTINGS = Settings("model", None, 5, None, "float32", "pyav", "1/1")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_full_disk_leaves_whole_lines_and_the_next_run_appends_to_them(tmp_path):
    import resource

    path = tmp_path / "lines.jsonl"
    journal = Journal(path, SETTINGS)
    line = json.dumps({"video": "a" * 100})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ActionrecError, match="could not be written .* 8 results"):
            for _ in range(20):
                journal.append(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == (line + "\n") * 8
    journal.close()
    journal = Journal(path, SETTINGS)
    journal.append(line)
    journal.close()
    assert path.read_text() == (line + "\n") * 9


def test_what_was_made_otherwise_or_is_not_ours_is_refused_and_stays(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("mine\n")
    with pytest.raises(UsageError, match="is there already"):
        Journal(path, SETTINGS)
    assert path.read_text() == "mine\n"
    path.unlink()
    Journal(path, SETTINGS).append('{"video": "a.avi"}')
    for name, value in {"model": "other", "sha256": "0", "topk": 3, "clips": 1}.items():
        other = Settings(**asdict(SETTINGS) | {name: value})
        with pytest.raises(UsageError, match="was made with"):
            Journal(path, other)
    with path.open("a") as file:
        file.write("mine\n")
    with pytest.raises(UsageError, match="Line 2 of .* is no result"):
        Journal(path, SETTINGS)
    assert path.read_text() == '{"video": "a.avi"}\nmine\n'
