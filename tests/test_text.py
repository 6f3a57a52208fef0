"""Text of others: labels and file names on the terminal, in files and in pictures."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actionrec import text
from actionrec.prediction.rendering import load_font
from actionrec.text import (
    VisibleFormatter,
    csv_row,
    fonts_for,
    json_text,
    lacking_in,
    own_font,
    visible,
)

HOSTILE = "\x1b[31mred\nline\u202egnp\x9b"
SHOWN = r"\x1b[31mred\nline\u202egnp\x9b"


def test_what_a_terminal_would_obey_is_visible_and_writing_of_all_languages_is_left():
    assert visible(HOSTILE) == SHOWN and visible("a\udce9\r\t\u2028") == r"a\udce9\r\t\u2028"
    others = "Straße, 跳舞, קפיצה, 👩‍🚀, 'نمی‌دانم'"
    assert visible(others) == others


def test_log_messages_are_one_visible_line():
    record = logging.LogRecord("actionrec", 20, "", 0, "%s is bad.", (HOSTILE,), None)
    assert VisibleFormatter().format(record) == f"{SHOWN} is bad."


def test_no_cell_of_a_csv_file_is_a_formula():
    cells = ["=1+1", "+1", "-v.mp4", "@x", "\tx", "a=b", "", -0.5, None]
    defused = ["'=1+1", "'+1", "'-v.mp4", "'@x", r"'\tx", "a=b", "", -0.5, None]
    assert csv_row([*cells, HOSTILE]) == [*defused, SHOWN]


def test_json_is_strict_and_null_stands_for_what_is_no_number():
    value = {"a": [1.5, np.float64("nan"), (float("inf"), "NaN")], "b": {"c": -float("inf")}}
    strict = json.loads(json_text(value, indent=2), parse_constant=pytest.fail)
    assert strict == {"a": [1.5, None, [None, "NaN"]], "b": {"c": None}}
    package = Path(text.__file__).parent
    writers = {path.name for path in package.rglob("*.py") if "json.dump" in path.read_text()}
    assert writers == {"text.py"}


@pytest.mark.skipif(os.name != "posix", reason="needs names that are no UTF-8")
@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict", "utf-8"])
def test_any_name_is_printed_in_any_locale(command, encode, model, tmp_path, encoding):
    source = encode(tmp_path / "a.mp4", frames=8)
    for name in (b"latin\xe9.mp4", "跳\n\x1b[2J.mp4".encode(), b"=SUM(1).mp4"):
        shutil.copy(source, os.path.join(os.fsencode(tmp_path), name))
    source.unlink()
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    options = {"cwd": tmp_path, "env": environment}
    printed = {}
    for format in ("table", "csv", "json"):
        run = command(
            *("predict", "latin\udce9.mp4", "跳\n\x1b[2J.mp4", "=SUM(1).mp4", "missing\n.mp4"),
            *("--model", model, "--format", format, "--clips", 1),
            **options,
        )
        assert run.returncode == 1 and "Traceback" not in run.stderr
        assert r"actionrec: missing\n.mp4 is not a file" in run.stderr
        printed[format] = run.stdout
    assert r"latin\udce9.mp4  (" in printed["table"]
    assert r"跳\n\x1b[2J.mp4  (" in printed["table"]
    videos = {row["video"] for row in csv.DictReader(printed["csv"].splitlines(True))}
    assert {r"latin\udce9.mp4", r"跳\n\x1b[2J.mp4", "'=SUM(1).mp4"} <= videos
    assert json.loads(printed["json"])[0]["video"] == "latin\udce9.mp4"


@pytest.fixture
def han_font(tmp_path, monkeypatch):
    """A font that has 跳, as if it were installed."""
    from fontTools.ttLib import TTFont
    from matplotlib.font_manager import FontEntry, fontManager

    font = TTFont(own_font())
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap[ord("跳")] = "A"
    font.save(tmp_path / "han.ttf")
    entry = FontEntry(fname=str(tmp_path / "han.ttf"), name="Test Han")
    monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist, entry])
    text._fonts_for.cache_clear()
    load_font.cache_clear()
    yield entry
    text._fonts_for.cache_clear()
    load_font.cache_clear()


def test_pictures_use_an_installed_font_for_what_matplotlibs_lacks(han_font, caplog):
    assert lacking_in(own_font(), "jump 跳") == "跳"
    assert fonts_for("jump") == {"DejaVu Sans": own_font()}
    assert "Test Han" in fonts_for("jump 跳") or not lacking_in(load_font(9, "跳").path, "跳")
    assert not lacking_in(load_font(9, "jump 跳").path, "jump 跳") and not caplog.records


def test_pictures_say_once_what_no_font_has(tmp_path, monkeypatch, caplog):
    from matplotlib.font_manager import fontManager

    from actionrec.evaluation.plots import per_class_figure

    own = [font for font in fontManager.ttflist if font.fname == own_font()]
    monkeypatch.setattr(fontManager, "ttflist", own)
    text._fonts_for.cache_clear()
    for _ in range(2):
        labels = ["跳", HOSTILE, "舞\udce9 🕺"]
        figure = per_class_figure(np.arange(3), np.arange(3), labels)
        figure.savefig(tmp_path / "p.png")
    text._fonts_for.cache_clear()
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("No installed font has 舞 跳 🕺, so pictures show boxes")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_closed_stdout_or_stderr_is_no_traceback():
    shell = f"{sys.executable} -m actionrec data list"
    run = subprocess.run(f"{shell} >&-", shell=True, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    run = subprocess.run(f"{shell} csv 2>&-", shell=True, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
@pytest.mark.parametrize("verb", ["data check", "predict", "evaluate"])
def test_warnings_of_the_processes_that_read_are_visible(command, encode, model, tmp_path, verb):
    whole = encode(tmp_path / "v.ts", "libx264", frames=50, size=(160, 120), options={"g": "10"})
    data = whole.read_bytes()
    # Without a packet in the middle of a frame it is read, with a warning.
    places = [p for p in range(0, len(data), 188) if data[p + 1 : p + 3] == b"\x01\x00"]
    lost = places[len(places) // 2]
    name = "\x1b[31m\u202egnp".encode() + b"\xe9.ts"
    for label in ("a", "b"):
        damaged = os.path.join(os.fsencode(tmp_path), b"val", label.encode(), name)
        os.makedirs(os.path.dirname(damaged))
        Path(os.fsdecode(damaged)).write_bytes(data[:lost] + data[lost + 188 :])
    root = ["--dataset", "folder", "--root", tmp_path]
    words = {
        "data check": ["data", "check", "folder", "--root", tmp_path],
        "predict": ["predict", tmp_path / "val", "--model", model, "--workers", 2]
        + ["--output", tmp_path / "out.jsonl"],
        "evaluate": ["evaluate", "--model", model, *root, "--workers", 1],
    }[verb]
    run = command(*words, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert r"/\x1b[31m\u202egnp\udce9.ts is read although it is damaged" in run.stderr
    assert "\x1b" not in run.stderr and "\u202e" not in run.stderr
