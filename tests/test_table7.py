"""scripts/table7.py: every row and seed is run once, whatever happens, and gathered as it is."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest

from actionrec.cli import main as cli
from actionrec.config import TrainConfig
from actionrec.datasets.registry import open_dataset
from actionrec.training.run import fill_in

SCRIPT = Path(__file__).parents[1] / "scripts" / "table7.py"
if not SCRIPT.exists():
    pytest.skip("not run from a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def table7():
    """The script as a module."""
    return import_module("table7")


def words(root, output, *rows):
    """The command that runs rows on tiny videos with a tiny network for an epoch.

    Among the blocks here, only gsnl takes an order.
    """
    command = [sys.executable, SCRIPT, "--dataset", "folder", "--root", root, "--output", output]
    command += ["--rows", *rows, "--clips", "1", "--"]
    command += "--backbone c3d_small --weights none --clip-length 8 --short-side 36".split()
    command += "--crop 32 --epochs 1 --batch-size 4 --workers 0 --order 2".split()
    return [str(word) for word in command]


@pytest.fixture(scope="module")
def groups(tmp_path_factory, encode):
    """A CSV file of ten short videos of two classes, in five groups."""
    folder = tmp_path_factory.mktemp("groups")
    rows = ["path,label,group"]
    for group in ("anna", "bert", "c/d", "dora", "emil"):
        for label in ("first", "second"):
            path = encode(folder / f"{group.replace('/', '')}{label}.avi", frames=20)
            rows.append(f"{path.name},{label},{group}")
    (folder / "people.csv").write_text("\n".join(rows))
    return folder / "people.csv"


def grouped(listing, output, *options, epochs=1):
    """The command that runs a row on all groups of a CSV file."""
    flags = words(listing, output, "snl")
    flags[flags.index("folder")] = "csv"
    flags[flags.index("--order") :] = []
    flags[flags.index("--epochs") + 1] = str(epochs)
    at = flags.index("--")
    return [*flags[:at], "--split", "group", *map(str, options), *flags[at:]]


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def run(*arguments, **options):
    """Run such a command to its end."""
    return subprocess.run(words(*arguments, **options), capture_output=True, text=True, timeout=600)


def modified(folder):
    """When each file below a folder was last written, but for the lock."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and "seed" in str(path.relative_to(folder))
    }


def line(folder, row):
    """A row's line of table7.csv."""
    with (folder / "table7.csv").open() as file:
        return next(line for line in csv.DictReader(file) if line["row"] == row)


@pytest.fixture(scope="module")
def first_call(class_folders, tmp_path_factory):
    """The folder of a call with three rows, and the finished process."""
    output = tmp_path_factory.mktemp("table7") / "undisturbed"
    return output, run(class_folders, output, "i3d", "snl", "gsnl")


@pytest.fixture(scope="module")
def second_call(first_call, class_folders):
    """A call with the rows that didn't fail; all files before it, and the finished process."""
    output, _ = first_call
    before = modified(output)
    return before, run(class_folders, output, "i3d", "gsnl")


@pytest.mark.slow
def test_rows_are_trained_evaluated_and_gathered_though_one_fails(first_call):
    output, done = first_call
    assert done.returncode == 1
    assert "table7: snl seed 0 could not be trained: actionrec: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "[2/3] snl seed 0" in done.stderr and "min left" in done.stderr
    assert done.stdout == (output / "table7.md").read_text()
    assert "- Not finished: snl seed 0." in done.stdout and "- snl: not measured." in done.stdout
    assert "c3d_small from random weights, clips of 8x32x32; 1 epoch, figures" in done.stdout
    for row in ("i3d", "gsnl"):
        evaluation = json.loads((output / f"{row}-seed0/evaluation_1x1.json").read_text())
        assert evaluation["protocol"]["model"].endswith("last.safetensors")
        measured = line(output, row)
        assert float(measured["clip_top1_mean"]) == 100 * evaluation["clip"]["top1"]
        assert measured["clip_top1_std"] == "" and measured["videos"] == "4"
    assert line(output, "gsnl")["clip_top1_difference_n"] == "1"
    assert (output / "table7.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_second_call_skips_what_is_finished(first_call, second_call):
    output, _ = first_call
    before, done = second_call
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs are finished already" in done.stderr
    assert modified(output) == before


@pytest.mark.slow
def test_another_configuration_in_the_folder_is_one_sentence(
    table7, first_call, class_folders, capsys
):
    output, _ = first_call
    before = modified(output)
    assert table7.main(words(class_folders, output, "i3d")[2:] + ["--lr", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "i3d-seed0 already holds a run with another lr; choose another folder" in error
    assert error.count("\n") == 1 and modified(output) == before


@pytest.mark.slow
def test_a_killed_script_goes_on_and_gives_the_table_of_an_undisturbed_one(
    first_call, second_call, class_folders, tmp_path
):
    process = subprocess.Popen(
        words(class_folders, tmp_path, "i3d", "gsnl"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # In the middle: the first row is finished, the second one's training has begun.
    while not (tmp_path / "gsnl-seed0").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "i3d-seed0" / "evaluation_1x1.json").exists()
    assert not (tmp_path / "gsnl-seed0" / "evaluation_1x1.json").exists()
    finished = modified(tmp_path / "i3d-seed0")
    done = run(class_folders, tmp_path, "i3d", "gsnl")
    assert done.returncode == 0, done.stderr
    assert modified(tmp_path / "i3d-seed0") == finished
    output, _ = first_call
    _, undisturbed = second_call
    assert done.stdout == undisturbed.stdout
    for name in ("table7.csv", "table7_runs.csv", "table7.md"):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes()


@pytest.fixture
def in_this_process(table7, monkeypatch):
    """Let the script call the command line without starting Python for it."""

    def actionrec(run, words, workplace):
        printed = StringIO()
        with redirect_stdout(printed):
            cli.main(words)
        return printed.getvalue()

    monkeypatch.setattr(table7, "actionrec", actionrec)


def test_each_group_is_left_out_and_every_run_is_one_row_of_results(
    table7, groups, tmp_path, capsys, in_this_process
):
    results, first, second = (tmp_path / name for name in ("runs.csv", "first", "second"))

    def call(output, *options):
        code = table7.main(grouped(groups, output, "--results", results, *options)[2:])
        return code, *capsys.readouterr()

    assert call(first, "--minutes", "0.0001")[0] == 3 and not results.exists()
    code, printed, error = call(first)
    assert code == 0, error
    rows = rows_of(results)
    assert [row["split"] for row in rows] == ["anna", "bert", "c%2Fd", "dora", "emil"]
    listed = rows_of(first / "groups" / "c%2Fd.csv")
    assert [Path(row["path"]).name[:2] for row in listed if row["split"] == "val"] == ["cd", "cd"]
    assert len(listed) == 10 and {row["split"] for row in listed} == {"train", "val"}
    for row in rows:
        folder = first / f"snl-split{row['split']}-seed0"
        evaluation = json.loads((folder / "evaluation_1x1.json").read_text())
        assert float(row["clip_top1"]) == 100 * evaluation["clip"]["top1"]
        assert (row["data"], row["division"]) == ("people", "group left out")
        assert row["block"] == "snl"
        assert (row["seed"], row["videos"], row["epoch"]) == ("0", "2", "last")
        assert row["recipe"].startswith("c3d_small from random weights, 8x32x32, stride 1, 1 epoch")
        assert row["device"] and row["torch"] and row["python"] and row["date"]
    # Another folder, as on a machine that has the results only: nothing is run again.
    code, again, error = call(second)
    assert code == 0 and "5 of 5 runs are finished already" in error
    assert again == printed and rows_of(results) == rows


def test_a_head_and_a_training_that_patience_ends_are_finished_runs(
    table7, groups, tmp_path, capsys, in_this_process
):
    # Without a step that changes anything, the first epoch stays the best.
    flags = ["--patience", "1", "--lr", "1e-30"]
    for row, more in (("head", []), ("i3d", flags)):
        command = grouped(groups, tmp_path / row, epochs=9)[2:]
        command[command.index("snl")] = row
        command[command.index("--split") : command.index("--")] = []
        code = table7.main([*command, *more])
        assert code == 0, capsys.readouterr().err
        results = json.loads((tmp_path / row / f"{row}-seed0" / "results.json").read_text())
        assert results["last"]["epoch"] == (1 if row == "head" else 2)


def test_segments_and_several_labels_stay_what_they_are_in_the_lists_of_groups(
    table7, groups, tmp_path
):
    listing = groups.with_name("segments.csv")
    listing.write_text(
        "path,label,group,start,end\n"
        "annafirst.avi,run|wave,ann,0,0.3\nannafirst.avi,wave,ann,0.3,0.6\n"
        "bertfirst.avi,run|wave,ben,,\nbertsecond.avi,,ben,,\n"
    )
    config = TrainConfig("csv", str(listing), multi_label=True)
    lists = table7.lists_by_group(config, tmp_path)
    dataset = open_dataset("csv", lists["ann"], multi_label=True)
    assert [(video.segment, video.labels) for video in dataset.val] == [
        ((0.0, 0.3), (0, 1)),
        ((0.3, 0.6), (1,)),
    ]
    assert [(video.segment, video.labels) for video in dataset.train] == [
        (None, (0, 1)),
        (None, ()),
    ]


@pytest.mark.slow
def test_a_training_that_the_minutes_end_goes_on_in_the_next_call(groups, tmp_path):
    log = tmp_path / "snl-splitanna-seed0.log"
    stops = []
    # A slow machine needs more than the first ones to begin.
    for minutes in (0.2, 0.2, 0.4, 0.4, 1, 2, 4, 8):
        command = grouped(groups, tmp_path, "--minutes", minutes, epochs=100_000)
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
        said = log.read_text() if log.exists() else ""
        stops = re.findall(r"Training was stopped in epoch (\d+) of", said)
        if len(stops) == 2:
            break
    assert 1 <= int(stops[0]) < int(stops[1])

    # SIGTERM, which reaches the script alone, ends its training too.
    begun = len(log.read_text())
    command = grouped(groups, tmp_path, epochs=100_000)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "epoch" not in log.read_text()[begun:]:
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and "interrupted; the same command goes on" in said
    assert "Training was stopped in epoch" in log.read_text()[begun:]


def test_a_folder_that_another_process_works_in_is_left_alone(table7, tmp_path, capsys):
    with table7.alone(tmp_path):
        assert table7.main(["--dataset", "demo", "--output", str(tmp_path)]) == 1
    assert "is being worked on by another" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rows", "nll"], "nll"),
        (["--jobs", "0"], "--jobs"),
        (["--minutes", "0"], "--minutes"),
        (["--split", "group", "1"], "--split group stands alone"),
        (["--split", "group"], "--split group needs --dataset csv"),
        (["--", "--block", "snl"], "--block can't stand after --"),
        (["--", "--split", "2"], "--split can't stand after --"),
        (["--", "--typo", "1"], "typo"),
    ],
)
def test_wrong_usage_exits_with_2_before_anything_is_run(table7, tmp_path, capsys, flags, words):
    ours = ["--dataset", "demo", "--output", str(tmp_path)]
    try:
        code = table7.main([*ours, *flags])
    except SystemExit as error:
        code = error.code
    assert code == 2 and words in capsys.readouterr().err
    assert not list(tmp_path.glob("*-seed*"))


def test_any_block_can_be_a_row_and_none_is_the_base_row(table7):
    arguments, train_flags = table7.parse_arguments(
        "--rows none i3d cheb snl --seeds 0 0 1 -- --epochs 3".split()
    )
    assert arguments.rows == ["i3d", "cheb", "snl"] and arguments.seeds == [0, 1]
    assert train_flags == ["--epochs", "3"]


def test_what_a_kill_left_in_a_folder_does_not_make_it_anothers(table7, tmp_path):
    folder = tmp_path / "i3d-seed0"
    folder.mkdir()
    (folder / ".config.a1b2c3_d.yaml").touch()
    arguments, _ = table7.parse_arguments(
        ["--dataset", "demo", "--rows", "i3d", "--output", str(tmp_path)]
    )
    [planned] = table7.plan(arguments, [])
    assert planned.config.block == "none" and not list(folder.iterdir())


# Gathering made-up results; the expected figures were worked out by hand.

MADE_UP = {
    ("i3d", 0): (0.80, 0.95, 0.90, 1.0),
    ("i3d", 1): (0.82, 0.95, 0.90, 1.0),
    ("i3d", 2): (0.84, 0.95, 0.90, 1.0),
    ("snl", 0): (0.85, 0.97, 0.95, 1.0),
    ("snl", 1): (0.86, 0.97, 0.95, 1.0),
    ("snl", 2): (0.90, 0.97, 0.95, 1.0),
    ("nl", 0): (0.79, 0.95, 0.90, 1.0),
    ("nl", 1): (0.84, 0.95, 0.90, 1.0),
    ("nl", 2): (0.83, 0.95, 0.90, 1.0),
    ("gsnl", 0): (0.81, 0.95, 0.90, 1.0),
    ("gsnl", 3): (0.99, 0.95, 0.90, 1.0),
    ("a2", 0): None,
}


@pytest.fixture
def gathered(table7, tmp_path):
    """The table of made-up results, written into a folder."""
    runs = []
    for (row, seed), figures in MADE_UP.items():
        config = fill_in(TrainConfig("demo", output=str(tmp_path / f"{row}-seed{seed}"), epochs=7))
        run = table7.Run(row, None, seed, config, (), clips=10, crops=3)
        runs.append(run)
        if figures:
            clip1, clip5, video1, video5 = figures
            run.folder.mkdir()
            evaluation = {
                "clip": {"top1": clip1, "top5": clip5, "n": 1120},
                "video": {"top1": video1, "top5": video5, "n": 112},
                "skipped": [],
            }
            run.evaluation.write_text(json.dumps(evaluation))
    table = table7.Table.of(runs)
    table7.write_all(table, tmp_path)
    return tmp_path


def test_mean_deviation_and_paired_difference_are_those_worked_out_by_hand(gathered):
    base, snl = line(gathered, "i3d"), line(gathered, "snl")
    assert base["clip_top1_mean"] == "82.0" and base["clip_top1_std"] == "2.0"
    assert (snl["clip_top1_mean"], snl["clip_top1_std"]) == ("87.0", "2.6458")
    # 5, 4 and 6 points, run by run.
    assert snl["clip_top1_difference_mean"] == "5.0" and snl["clip_top1_difference_std"] == "1.0"
    assert snl["video_top1_difference_mean"] == "5.0" and snl["video_top1_difference_std"] == "0.0"
    text = (gathered / "table7.md").read_text()
    assert (
        "| snl | 3 | 112 | 87.00 ± 2.65 | 97.00 ± 0.00 | +5.00 ± 1.00 | 95.00 ± 0.00 "
        "| 100.00 ± 0.00 | +5.00 ± 0.00 | 84.39 | 97.66 | +2.82 |"
    ) in text


def test_a_difference_takes_only_seeds_that_both_rows_have(gathered):
    gsnl = line(gathered, "gsnl")
    assert (gsnl["clip_top1_mean"], gsnl["clip_top1_n"]) == ("90.0", "2")
    assert (gsnl["clip_top1_difference_mean"], gsnl["clip_top1_difference_n"]) == ("1.0", "1")


def test_splits_are_runs_of_their_own_and_compared_with_those_of_the_same_split(table7, tmp_path):
    words = ["--dataset", "demo", "--rows", "i3d", "snl", "--split", "2", "1", "2", "--seeds", "4"]
    arguments, _ = table7.parse_arguments([*words, "--output", str(tmp_path)])
    runs = table7.plan(arguments, [])
    names = [f"{row}-split{split}-seed4" for split in "21" for row in ("i3d", "snl")]
    assert [run.folder.name for run in runs] == names
    assert [run.config.split for run in runs] == ["2", "2", "1", "1"]
    for run, top1 in zip(runs, (0.5, 0.6, 0.7, 0.9), strict=True):
        run.folder.mkdir()
        figures = {"top1": top1, "top5": 1.0, "n": 39}
        run.evaluation.write_text(json.dumps({"clip": figures, "video": figures, "skipped": []}))
    table7.write_all(table7.Table.of(runs), tmp_path)
    snl = line(tmp_path, "snl")
    # 10 and 20 points.
    assert (snl["clip_top1_difference_mean"], snl["clip_top1_difference_std"]) == ("15.0", "7.0711")
    assert (snl["split"], snl["seeds"], snl["clip_top1_n"]) == ("2 1", "4", "2")
    text = (tmp_path / "table7.md").read_text()
    assert "Measured: demo, splits 2 1;" in text and "| snl split 1 seed 4 | 90.00 |" in text
    with (tmp_path / "table7_runs.csv").open() as file:
        assert [run["split"] for run in csv.DictReader(file)] == ["2", "1", "2", "1"]


def test_nothing_that_was_not_measured_is_printed(gathered):
    text = (gathered / "table7.md").read_text()
    assert "| a2 | - | - | - | - | - | - | - | - | 82.68 | 95.85 | +1.11 |" in text
    assert "- Not finished: a2 seed 0." in text and "a2: not measured." in text
    filled = {key for key, value in line(gathered, "a2").items() if value and "_top" in key}
    assert filled == {"paper_clip_top1", "paper_clip_top5"}
    # One difference has no deviation, and a block that the paper's table lacks none of its figures.
    assert "+1.00 | 90.00 ± 0.00 | 100.00 ± 0.00 | +0.00 | - | - | - |" in text
    assert line(gathered, "gsnl")["clip_top1_difference_std"] == ""
    assert "nan" not in text.lower() and "None" not in text


def test_a_sentence_tells_whether_a_difference_is_more_than_the_spread(gathered):
    text = (gathered / "table7.md").read_text()
    # 5, 4 and 6 points, and -1, 2 and -1; Student's t of two degrees of freedom is 4.303.
    assert (
        "- snl: clip-level Top-1 differs from i3d's by +5.00 ± 1.00 points over 3 runs, 95 % "
        "interval of the mean +2.52 to +7.48: more than the spread between runs explains." in text
    )
    assert (
        "i3d's by +0.00 ± 1.73 points over 3 runs, 95 % interval of the mean -4.30 to +4.30: not "
        "more than the spread between runs explains." in text
    )
    assert "i3d's by +1.00 points; with 1 run it can't be told whether" in text


@pytest.mark.parametrize(("runs", "t"), [(2, 12.7062), (3, 4.3027), (11, 2.2281), (30, 2.0452)])
def test_the_interval_is_students(table7, runs, t):
    low, high = table7.Spread(mean=1.0, std=2.0, n=runs).interval
    assert (high - low) / 2 == pytest.approx(t * 2.0 / runs**0.5, rel=1e-4)
    assert (high + low) / 2 == pytest.approx(1.0)


def test_the_protocol_stands_beside_the_figures(gathered):
    text = (gathered / "table7.md").read_text()
    assert "Measured: demo, split 1; i3d from kinetics400, clips of 16x124x124; 7 epochs" in text
    assert "figures of the last" in text and "10 clips x 3 crops of every video" in text
    assert "seeds 0, 1, 2, 3." in text
    assert "Paper: Table 7 of" in text and "7912 training and 1625 test videos" in text
    protocol = line(gathered, "snl")
    assert (protocol["dataset"], protocol["split"], protocol["backbone"]) == ("demo", "1", "i3d")
    assert (protocol["clips"], protocol["crops"], protocol["videos"]) == ("10", "3", "112")
    assert (protocol["epochs"], protocol["epoch_reported"]) == ("7", "last")
    assert (protocol["seeds"], protocol["initialisation"]) == ("0 1 2", "kinetics400")
