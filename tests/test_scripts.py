"""Every script begins: its imports exist and its help is printed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").rglob("*.py"))
WITH_ARGUMENTS = [path for path in SCRIPTS if "argparse" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_ARGUMENTS, ids=lambda path: path.name)
def test_a_script_prints_its_help(path):
    run = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and "usage:" in run.stdout, run.stderr
