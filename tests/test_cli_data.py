"""`actionrec data`: quick help, lists of every data set, and exit codes that tell."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from actionrec.cli.main import main
from actionrec.config import DatasetName
from actionrec.datasets import demo
from actionrec.datasets.hmdb51 import LABELS as HMDB51
from actionrec.datasets.hmdb51 import SPLITS
from actionrec.datasets.registry import DATASETS

SHARED = Path(
    os.environ.get("ACTIONREC_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_checking_does_not_wait_for_torch():
    script = (
        "import sys; import actionrec.datasets.check, actionrec.datasets.shrink\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("verb", ["list", "download", "check", "shrink"])
def test_the_help_of_every_verb_has_an_example_that_can_be_copied(capsys, verb):
    with pytest.raises(SystemExit) as exit:
        main(["data", verb, "--help"])
    assert exit.value.code == 0
    assert re.search(rf"^ +actionrec data {verb}", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "list,download,import,check,index"),
        (["check"], "dataset"),
        (["list", "ucf102"], "ucf101"),
        (["download", "kinetics", "--root", "x"], "ucf101"),
        (["download", "ucf101"], "root"),
        (["check", "folder", "--workers", "two"], "workers"),
        (["check", "folder", "--root", "nowhere", "--timeout", "0"], "timeout"),
        (["shrink", "folder", "--root", "x"], "output"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_culprit(capsys, arguments, words):
    with pytest.raises(SystemExit) as exit:
        main(["data", *arguments])
    out, errors = capsys.readouterr()
    assert exit.value.code == 2 and words in errors
    assert errors.count("\n") == 1 and not out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "ucf101"], 2, "add --root"),
        (["check", "ucf101", "--root", "nowhere", "--split", "7"], 2, "no split '7'"),
        (["check", "folder", "--root", "nowhere"], 1, "nowhere is not a folder"),
        (["list", "csv", "--root", "nowhere.csv"], 1, "nowhere.csv"),
        (["shrink", "folder", "--root", "nowhere", "--output", "x"], 1, "nowhere is not a folder"),
    ],
)
def test_what_can_not_be_done_is_one_sentence(
    capsys, tmp_path, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == code
    out, errors = capsys.readouterr()
    assert words in errors and errors.count("\n") == 1 and not out
    assert list(tmp_path.iterdir()) == []


def test_without_a_data_set_all_there_are_are_listed(capsys):
    assert list(DATASETS) == list(get_args(DatasetName))
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["dataset", *DATASETS]
    assert lines[1].endswith("1, 2, 3, paper")
    assert main(["data", "list", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["dataset"] for row in rows] == list(DATASETS)
    assert all(row["what"] and row["layout"] for row in rows)
    assert rows[0]["splits"] == "1, 2, 3, paper"
    assert main(["data", "list", "--format", "csv"]) == 0
    assert list(csv.DictReader(capsys.readouterr().out.splitlines())) == rows


def make_ucf101(root):
    for group in range(1, 26):
        touch(root, *(f"{name}/v_{name}_g{group:02d}_c01.avi" for name in ("Archery", "YoYo")))


def make_hmdb51(root):
    for label in HMDB51:
        names = [f"Film_{label}_f_cm_np1_fr_med_{number}.avi" for number in range(100)]
        lines = [f"{name} {1 if number < 70 else 2}" for number, name in enumerate(names)]
        (root / "splits").mkdir(exist_ok=True)
        for split in SPLITS:
            (root / "splits" / f"{label}_test_split{split}.txt").write_text("\n".join(lines))
        touch(root / "videos" / label, *names[60:80])


def make_kinetics(root):
    (root / "annotations").mkdir()
    for side, clips in (("train", 3), ("val", 2)):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for number in range(clips):
            rows.append(f"archery,{side}_____{number},10,20,{side}")
            touch(root, f"{side}/{side}_____{number}_000010_000020.mp4")
        (root / "annotations" / f"{side}.csv").write_text("\n".join(rows))


def make_folder(root):
    touch(root, "train/b/1.mp4", "train/a/1.mp4", "train/a/2.mp4", "val/a/1.mp4")


def make_csv(root):
    touch(root, "1.mp4", "2.mp4", "3.mp4")
    lines = ["path,label,group,split", "1.mp4,a,g,train", "2.mp4,a,h,train", "3.mp4,a,i,val"]
    (root / "videos.csv").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("ucf101", make_ucf101, {"classes": 101, "train": 36, "val": 14, "groups": 50}),
        ("hmdb51", make_hmdb51, {"classes": 51, "train": 510, "val": 510, "groups": 1}),
        ("kinetics", make_kinetics, {"classes": 1, "train": 3, "val": 2, "groups": 5}),
        ("folder", make_folder, {"classes": 2, "train": 3, "val": 1, "groups": None}),
        ("csv", make_csv, {"classes": 1, "train": 2, "val": 1, "groups": 3}),
    ],
)
def test_every_data_set_is_counted(capsys, tmp_path, name, make, expected):
    make(tmp_path)
    root = str(tmp_path / "videos.csv" if name == "csv" else tmp_path)
    assert main(["data", "list", name, "--root", root, "--format", "json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    per_class = counts.pop("per_class")
    assert counts == {"dataset": name, "root": root, "split": "1", "flip": True} | expected
    for side in ("train", "val"):
        assert sum(sides[side] for sides in per_class.values()) == expected[side]
    assert len(per_class) == expected["classes"]

    assert main(["data", "list", name, "--root", root, "--format", "csv"]) == 0
    total, *rows = csv.reader(capsys.readouterr().out.splitlines()[1:])
    assert total == ["(all)", str(expected["train"]), str(expected["val"])]
    assert rows == [[label, *map(str, sides.values())] for label, sides in per_class.items()]

    assert main(["data", "list", name, "--root", root]) == 0
    title, _, total, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{name}, split 1: {expected['classes']} classes")
    assert total.split()[1:] == [str(expected["train"]), str(expected["val"])]
    assert len(lines) == expected["classes"]


def test_a_class_that_a_mirror_would_change_is_told(capsys, tmp_path):
    root = str(tmp_path)
    (tmp_path / demo.MARKER).write_text(json.dumps({"version": demo.VERSION}))
    for label in demo.MOTIONS:
        numbers = [(group, clip) for group in range(1, 26) for clip in (1, 2)]
        touch(
            tmp_path / label, *(f"v_{label}_g{group:02}_c{clip:02}.avi" for group, clip in numbers)
        )
    assert main(["data", "list", "demo", "--root", root, "--format", "json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["flip"], counts["groups"]) == (False, 25)
    assert (counts["train"], counts["val"]) == (288, 112)


@pytest.mark.skipif(not (SHARED / "ucf101").is_dir(), reason="needs the lists of UCF-101")
def test_the_whole_of_ucf101_has_the_published_counts(capsys, tmp_path):
    for file in ("trainlist01.txt", "testlist01.txt"):
        lines = (SHARED / "ucf101" / file).read_text().splitlines()
        touch(tmp_path, *(line.split()[0] for line in lines if line.strip()))
    assert main(["data", "list", "ucf101", "--root", str(tmp_path), "--format", "json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["classes"], counts["train"], counts["val"]) == (101, 9537, 3783)


def test_a_download_tells_the_counts_and_how_to_go_on(capsys, tmp_path, monkeypatch):
    from actionrec.datasets import download

    asked = []

    def fake(root):
        asked.append(root)
        return root / "UCF-101"

    monkeypatch.setattr(download, "download", fake)
    assert main(["data", "download", "ucf101", "--root", str(tmp_path)]) == 0
    assert asked == [tmp_path]
    out = capsys.readouterr().out
    assert f"{tmp_path}/UCF-101: 13320 videos of 101 classes" in out
    assert f"actionrec train --dataset ucf101 --root {tmp_path}/UCF-101" in out


@pytest.mark.skipif(os.name != "posix", reason="needs a shell with pipes")
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "val" / "a" / "1.mp4").touch()
    script = f"{sys.executable} -m actionrec data list folder --root {tmp_path} | true"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert "Traceback" not in run.stderr and "Error" not in run.stderr


def test_limits_that_are_given_reach_the_processes_that_read(command, class_folders, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "data")
    checked = command(
        *("data", "check", "folder", "--root", root, "--timeout", 50.5, "--memory", 4000)
    )
    assert checked.returncode == 0, checked.stderr
    assert "Traceback" not in checked.stderr
