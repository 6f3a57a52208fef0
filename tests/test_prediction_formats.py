"""The files of `actionrec timeline --output`, and how one more format is added."""

import csv
import json
from dataclasses import asdict

import pytest

from actionrec.cli.main import main
from actionrec.prediction.formats import PREDICTION_FORMATS, TIMELINE_FORMATS, write_timeline
from actionrec.prediction.timeline import Segment, Timeline
from actionrec.prediction.videos import LabelScore


def timeline_of(segments, incomplete=None):
    return Timeline("v.mp4", "m", [LabelScore("a", 1.0)], [], segments, 9.0, 9.0, incomplete, [])


def test_the_files_hold_the_segments_in_their_formats(tmp_path):
    segments = [
        Segment("a\n--> <b> & c", 0.0, 3661.5, 0.5),
        Segment('d, "e"', 3661.5, 3662.0004, 0.25),
    ]
    timeline = timeline_of(segments, "cut off")
    for suffix in ("json", "csv", "vtt", "srt"):
        write_timeline(timeline, tmp_path / f"t.{suffix}")
    assert (tmp_path / "t.vtt").read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 01:01:01.500\na --&gt; &lt;b&gt; &amp; c (50%)\n"
        '\n01:01:01.500 --> 01:01:02.000\nd, "e" (25%)\n'
    )
    assert (tmp_path / "t.srt").read_text() == (
        "1\n00:00:00,000 --> 01:01:01,500\na --› ‹b› & c (50%)\n\n"
        '2\n01:01:01,500 --> 01:01:02,000\nd, "e" (25%)\n\n'
    )
    expected = asdict(timeline)
    del expected["steps"]
    assert json.loads((tmp_path / "t.json").read_text()) == [expected]
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["a\\n--> <b> & c", segments[1].label, ""]
    assert rows[2]["error"] == "cut off"


def test_a_timeline_without_segments_gives_valid_files(tmp_path):
    for suffix, text in (("vtt", "WEBVTT\n"), ("srt", "")):
        write_timeline(timeline_of([]), tmp_path / f"t.{suffix}")
        assert (tmp_path / f"t.{suffix}").read_text() == text
    write_timeline(timeline_of([]), tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())[0]["segments"] == []


@pytest.mark.parametrize(
    ("verb", "formats"), [("predict", PREDICTION_FORMATS), ("timeline", TIMELINE_FORMATS)]
)
def test_help_and_the_error_name_every_format(verb, formats, command, capsys):
    said = command(verb, "--help").stdout
    assert f"FILE{{{','.join(formats)}}}" in said
    assert main([verb, "a.avi", "--output", "a.txt"]) == 2
    error = capsys.readouterr().err
    assert all(suffix in error for suffix in formats)


def test_one_line_adds_a_format(monkeypatch, tmp_path):
    monkeypatch.setitem(TIMELINE_FORMATS, ".txt", lambda timeline: [timeline.video])
    write_timeline(timeline_of([]), tmp_path / "t.TXT")
    assert (tmp_path / "t.TXT").read_text() == "v.mp4"
