"""Every script begins: its imports exist and its help is printed."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").rglob("*.py"))
WITH_ARGUMENTS = [path for path in SCRIPTS if "argparse" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_ARGUMENTS, ids=lambda path: path.name)
def test_a_script_prints_its_help(path, monkeypatch, capsys):
    # In this process, which has imported PyTorch already.
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(path.parent)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert not ended.value.code and "usage:" in capsys.readouterr().out
