"""Tables, JSON and CSV on stdout."""

import csv
import json
import os
import subprocess
import sys

import pytest

from actionrec.cli.printing import print_predictions, print_table, print_timelines
from actionrec.errors import Failure
from actionrec.prediction.timeline import Segment, Step, Timeline
from actionrec.prediction.videos import ClipPrediction, LabelScore, Prediction

TOP = [LabelScore("[bold]jump[/bold] :smile:", 0.75), LabelScore('run, or "walk"', 0.125)]
CLIPS = [ClipPrediction(0.0, 1.5, TOP), ClipPrediction(1.5, 3.0, TOP)]
PREDICTION = Prediction("a.mp4", "m", TOP, CLIPS)
FAILURE = Failure("b.mp4", "b.mp4 is empty.")


def timeline(*segments):
    return Timeline(
        video="a.mp4",
        model="m",
        top=TOP,
        clips=CLIPS,
        segments=list(segments),
        duration=3.0,
        scored_until=3.0,
        incomplete=None,
        steps=[Step(0.0, 3.0, TOP)],
    )


def test_a_piped_table_is_plain_complete_and_aligned(capsys):
    print_table([["a" * 300, 7, "x"], ["b", 1234, ""]], ["name", "count", "note"])
    head, first, second = capsys.readouterr().out.splitlines()
    assert first == f"{'a' * 300}      7  x" and second == f"b{' ' * 299}   1234"
    assert head == f"name{' ' * 296}  count  note"


def test_labels_are_printed_as_they_are(capsys):
    print_predictions([FAILURE, PREDICTION], "table")
    assert capsys.readouterr().out.splitlines() == [
        "a.mp4  (3.0 s, 2 clips)",
        "  75.00%  [bold]jump[/bold] :smile:",
        '  12.50%  run, or "walk"',
    ]


def test_predictions_and_failures_are_a_json_list(capsys):
    print_predictions([PREDICTION, FAILURE], "json")
    first, second = json.loads(capsys.readouterr().out)
    assert first["top"][1] == {"label": 'run, or "walk"', "score": 0.125}
    assert second == {"video": "b.mp4", "error": "b.mp4 is empty."}


@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("show", [print_predictions, print_timelines])
def test_json_is_whole_though_it_is_interrupted(capsys, show, done):
    def results():
        yield from [PREDICTION if show is print_predictions else timeline(), FAILURE][:done]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        show(results(), "json")
    assert len(json.loads(capsys.readouterr().out)) == done


def test_csv_has_a_row_for_each_class_and_each_failure(capsys):
    print_predictions([PREDICTION, FAILURE], "csv")
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", ""]
    assert rows[0]["label"] == TOP[0].label and rows[2]["error"] == "b.mp4 is empty."


@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_each_result_is_through_a_pipe_before_the_next_one_comes(format, monkeypatch):
    end, beginning = os.pipe()
    os.set_blocking(end, False)
    arrived = []

    def results():
        for _ in range(3):
            yield PREDICTION
            arrived.append(os.read(end, 10_000).decode())

    with open(end), open(beginning, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        print_predictions(results(), format)
    assert [TOP[1].label.split()[0] in each for each in arrived] == [True] * 3


def test_csv_has_a_row_for_each_segment_and_each_failure(capsys):
    print_timelines([FAILURE, timeline(Segment("run", 0.5, 2.0, 0.9))], "csv")
    failed, segment = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (failed["video"], failed["error"]) == ("b.mp4", "b.mp4 is empty.")
    assert (segment["start"], segment["label"], segment["score"]) == ("0.5", "run", "0.9")


def test_a_timeline_is_a_line_a_segment_and_says_if_there_is_none(capsys):
    print_timelines([timeline(Segment("run", 0.5, 2.0, 0.9)), timeline()], "table")
    title, segment, _, none = capsys.readouterr().out.splitlines()
    assert title == "a.mp4  (00:00:03.000, 2 clips)"
    assert segment == "  00:00:00.500 - 00:00:02.000  90.00%  run"
    assert none == "  no class reaches --min-score; the highest is 75.00%"


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal")
def test_a_table_on_a_terminal_fits_its_width_and_loses_nothing():
    import fcntl
    import pty
    import struct
    import termios

    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    script = (
        "from actionrec.cli.printing import print_table\n"
        "print_table([['x' * 50, 12], ['[red]y', 3]], ['name', 'count'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    run = subprocess.run([sys.executable, "-c", script], stdout=writer, env=environment)
    os.close(writer)
    printed = os.read(reader, 10_000).decode()
    os.close(reader)
    assert run.returncode == 0
    assert printed.count("x") == 50 and "[red]y" in printed and "…" not in printed
