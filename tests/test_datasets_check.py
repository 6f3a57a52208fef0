"""Bad videos are named with the reason, once, and left out of training; nothing else is."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from actionrec.datasets import check as module
from actionrec.datasets import demo
from actionrec.datasets.check import FileState, Finding, Report, check, without_damaged_videos
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, UsageError
from actionrec.processes import Limits

QUICK = Limits(timeout=60)


@pytest.fixture
def folders(class_folders, tmp_path):
    """A copy of the small data set in folders that may be damaged: 8 videos train, 4 validate."""
    return Path(shutil.copytree(class_folders, tmp_path / "videos"))


def report_of(root):
    return json.loads((root / "actionrec_check.json").read_text())


def spy(monkeypatch):
    """The names of the videos that are decoded from now on."""
    decoded = []
    run = module.run_each_with_progress

    def watched(function, paths, *rest):
        decoded.extend(path.name for path in paths)
        return run(function, paths, *rest)

    monkeypatch.setattr(module, "run_each_with_progress", watched)
    return decoded


def damage(folder):
    """Make four files bad, each in its way; return a word of the reason by the file's name."""
    (folder / "first0.avi").write_bytes(b"")
    (folder / "first1.avi").write_text("This is no video.\n" * 100)
    data = (folder / "first2.avi").read_bytes()
    (folder / "first2.avi").write_bytes(data[: len(data) * 8 // 10])
    data = (folder / "first3.avi").read_bytes()
    flipped = bytes(byte ^ 255 for byte in data[12:300])
    (folder / "first3.avi").write_bytes(data[:12] + flipped + data[300:])
    return {
        "first0.avi": "is empty",
        "first1.avi": "could not be read as a video",
        "first2.avi": "cut off",
        "first3.avi": "has no video stream",
    }


def test_bad_videos_are_named_with_the_reason_and_the_others_are_good(command, folders):
    reasons = damage(folders / "train" / "first")
    run = command("data", "check", "folder", "--root", folders, "--format", "json")
    assert run.returncode == 1, run.stderr
    printed = json.loads(run.stdout)
    assert printed == report_of(folders)
    assert printed["version"] == 1 and printed["dataset"] == "folder" and printed["checked"] == 12
    assert printed["bad"].keys() == {f"train/first/{name}" for name in reasons}
    for name, reason in reasons.items():
        path = folders / "train" / "first" / name
        bad = printed["bad"][f"train/first/{name}"]
        assert bad["reason"].startswith(str(path)) and reason in bad["reason"]
        assert bad["size"] == path.stat().st_size and bad["mtime_ns"] == path.stat().st_mtime_ns
    good = folders / "val" / "second" / "second1.avi"
    stamp = good.stat()
    assert printed["good"]["val/second/second1.avi"] == [stamp.st_size, stamp.st_mtime_ns, 21]
    assert len(printed["good"]) == 8


def test_table_and_csv_tell_the_same_and_good_videos_exit_with_0(command, folders):
    arguments = ["data", "check", "folder", "--root", folders]
    run = command(*arguments)
    assert run.returncode == 0
    report = folders / "actionrec_check.json"
    assert run.stdout == f"folder: 12 videos checked, 0 bad\nreport: {report}\n"
    (folders / "train" / "first" / "first0.avi").write_bytes(b"")
    run = command(*arguments)
    assert run.returncode == 1 and "11 of 12 videos have not changed" in run.stderr
    assert "12 videos checked, 1 bad\n  " in run.stdout and "first0.avi is empty" in run.stdout
    rows = list(csv.DictReader(command(*arguments, "--format", "csv").stdout.splitlines()))
    assert len(rows) == 12
    assert rows[0]["video"] == "train/first/first0.avi" and "is empty" in rows[0]["error"]
    assert rows[1] == {"video": "train/first/first1.avi", "frames": "21", "error": ""}


def test_only_what_is_new_or_changed_is_decoded_again(folders, encode, monkeypatch):
    (folders / "train" / "first" / "first0.avi").write_bytes(b"")
    check("folder", folders, limits=QUICK)
    decoded = spy(monkeypatch)
    assert len(check("folder", folders, limits=QUICK).report.bad) == 1
    assert decoded == []
    encode(folders / "train" / "first" / "first0.avi")
    encode(folders / "train" / "first" / "new.avi")
    (folders / "train" / "first" / "first3.avi").unlink()
    report = check("folder", folders, limits=QUICK).report
    assert sorted(decoded) == ["first0.avi", "new.avi"]
    assert not report.bad and report.findings["train/first/first0.avi"].frames == 30
    assert len(report_of(folders)["good"]) == 12
    check("folder", folders, limits=QUICK, again=True)
    assert len(decoded) == 2 + 12


def test_a_split_alone_leaves_what_the_report_says_of_the_others(tmp_path, encode, monkeypatch):
    (tmp_path / "videos.csv").write_text(
        "path,label,split\n"
        "a.avi,one,train\nb.avi,two,train\nc.avi,one,val\nd.avi,two,val\ne.avi,two,test\n"
    )
    for name in "abcde":
        encode(tmp_path / f"{name}.avi", frames=5)
    listing = tmp_path / "videos.csv"
    assert len(check("csv", listing, limits=QUICK).report.findings) == 5
    (tmp_path / "a.avi").write_bytes(b"")
    checked = check("csv", listing, split="1", limits=QUICK)
    assert sorted(checked.report.findings) == ["a.avi", "b.avi", "c.avi", "d.avi"]
    assert checked.file == tmp_path / "videos.check.json"
    saved = Report.load(checked.file)
    assert sorted(saved.findings) == [f"{name}.avi" for name in "abcde"]
    assert list(saved.bad) == ["a.avi"]
    decoded = spy(monkeypatch)
    check("csv", listing, split="1", limits=QUICK, again=True)
    assert len(decoded) == 4 and len(Report.load(checked.file).findings) == 5


def test_videos_that_lie_elsewhere_or_nowhere_are_in_the_report_too(tmp_path, encode, monkeypatch):
    (tmp_path / "lists").mkdir()
    encode(tmp_path / "outside.avi", frames=5)
    encode(tmp_path / "lists" / "inside.avi", frames=5)
    listing = tmp_path / "lists" / "videos.csv"
    listing.write_text(
        "path,label,split\n"
        f"{tmp_path}/outside.avi,one,train\ninside.avi,one,val\nmissing.avi,one,val\n"
    )
    monkeypatch.chdir(tmp_path)
    check("csv", Path("lists/videos.csv"), limits=QUICK)
    saved = json.loads((tmp_path / "lists" / "videos.check.json").read_text())
    assert saved["good"].keys() == {"inside.avi", f"{tmp_path}/outside.avi"}
    missing = saved["bad"]["missing.avi"]
    assert "is not a file" in missing["reason"] and missing["size"] is missing["mtime_ns"] is None
    kept, failures = without_damaged_videos(open_dataset("csv", listing))
    assert [failure.video for failure in failures] == [str(tmp_path / "lists" / "missing.avi")]
    assert len(kept.train) == len(kept.val) == 1


def test_a_folder_that_cannot_be_written_costs_the_report_but_not_the_check(
    folders, monkeypatch, caplog
):
    def refuse(path, text):
        raise ActionrecError(f"{path} could not be written (Read-only file system).")

    monkeypatch.setattr(module, "write_whole", refuse)
    checked = check("folder", folders, limits=QUICK)
    assert checked.file is None and len(checked.report.findings) == 12
    assert "Read-only file system" in caplog.text and "only printed" in caplog.text


# A video called slow takes as long as one that hangs.
SLOW = """
import time
from pathlib import Path
from actionrec.datasets.check import count_frames

def count_unless_slow(path):
    if path.stem == "slow":
        Path(__file__).with_name("hanging").touch()
        time.sleep(600)
    return count_frames(path)
"""
SCRIPT = """
import sys
import slow
from actionrec.__main__ import main
from actionrec.datasets import check

if __name__ == "__main__":
    check.count_frames = slow.count_unless_slow
    sys.exit(main())
"""


@pytest.fixture
def slow_command(tmp_path):
    """The command line, on which a video called slow hangs."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "script.py").write_text(SCRIPT)
    return [sys.executable, str(tmp_path / "script.py"), "data", "check", "folder", "--root"]


def test_a_video_that_hangs_is_given_up_and_tried_again_next_time(slow_command, folders, command):
    (folders / "train" / "first" / "first0.avi").rename(folders / "train" / "first" / "slow.avi")
    run = subprocess.run(
        [*slow_command, str(folders), "--timeout", "2"], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 1 and "slow.avi was given up after 2 s" in run.stdout, run.stderr
    report = report_of(folders)
    assert report["bad"]["train/first/slow.avi"]["given_up"] is True
    assert len(report["good"]) == 11
    _, failures = without_damaged_videos(open_dataset("folder", folders))
    assert [Path(failure.video).name for failure in failures] == ["slow.avi"]
    run = command("data", "check", "folder", "--root", folders)
    assert run.returncode == 0 and "11 of 12 videos have not changed" in run.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a group of processes")
def test_control_c_keeps_what_is_done_and_the_next_run_goes_on(
    slow_command, folders, tmp_path, command
):
    (folders / "val" / "second" / "second1.avi").rename(folders / "val" / "second" / "slow.avi")
    process = subprocess.Popen(
        [*slow_command, str(folders), "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "hanging").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    # As a terminal does: to the command and to all of its workers.
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and not out
    assert "interrupted" in errors and "Traceback" not in errors
    done = report_of(folders)
    assert len(done["good"]) == 11 and not done["bad"]
    run = command("data", "check", "folder", "--root", folders)
    assert run.returncode == 0 and "11 of 12 videos have not changed" in run.stderr
    assert report_of(folders)["checked"] == 12


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory")
def test_a_video_that_needs_too_much_memory_is_not_called_damaged(encode, folders, command):
    """The decoder itself calls it invalid."""
    encode(folders / "train" / "first" / "huge.mp4", "libx264", frames=5, size=(3840, 2160))
    run = command("data", "check", "folder", "--root", folders, "--memory", "20")
    assert run.returncode == 1 and "huge.mp4 needs more than 20 MiB of memory" in run.stdout
    assert "13 videos checked, 1 bad" in run.stdout
    run = command("data", "check", "folder", "--root", folders)
    assert run.returncode == 0 and "12 of 13 videos have not changed" in run.stderr


def put_report(root, **reasons):
    """Write a report that calls these videos of class `first` bad."""
    report = Report("folder")
    for name, reason in reasons.items():
        key = f"train/first/{name}.avi"
        report.findings[key] = Finding(FileState.of(root / key), reason=reason)
    report.findings["val/second/second0.avi"] = Finding(FileState(1, 1), frames=20)
    report.save(root / "actionrec_check.json")


def test_training_goes_without_exactly_the_bad_videos_that_have_not_changed(
    folders, encode, caplog
):
    put_report(folders, first0="It is cut off.", first2="It is empty.")
    encode(folders / "train" / "first" / "first2.avi", frames=7)
    dataset = open_dataset("folder", folders)
    kept, failures = without_damaged_videos(dataset)
    bad = folders / "train" / "first" / "first0.avi"
    assert [(failure.video, failure.error) for failure in failures] == [
        (str(bad), "It is cut off.")
    ]
    assert set(dataset.train) - set(kept.train) == {
        video for video in dataset.train if video.path == bad
    }
    assert kept.val == dataset.val and kept.labels == dataset.labels
    [record] = caplog.records
    assert "1 of 12 videos are left out" in record.message
    assert str(folders / "actionrec_check.json") in record.message


def test_evaluation_does_not_care_for_bad_training_videos(folders, caplog):
    put_report(folders, first0="Bad.", first1="Bad.", first2="Bad.", first3="Bad.")
    dataset = open_dataset("folder", folders)
    assert without_damaged_videos(dataset, sides=["val"]) == (dataset, [])
    assert not caplog.records


def test_without_a_report_a_data_set_stays_as_it_is(folders, caplog):
    dataset = open_dataset("folder", folders)
    assert without_damaged_videos(dataset) == (dataset, [])
    assert not caplog.records


def test_a_class_without_a_good_training_video_is_an_error(folders):
    put_report(folders, first0="Bad.", first1="Bad.", first2="Bad.", first3="Bad.")
    with pytest.raises(ActionrecError, match="All training videos of first are bad"):
        without_damaged_videos(open_dataset("folder", folders))


def test_no_good_validation_video_is_an_error(folders):
    report = Report("folder")
    for path in (folders / "val").rglob("*.avi"):
        report.findings[path.relative_to(folders).as_posix()] = Finding(
            FileState.of(path), reason="Bad."
        )
    report.save(folders / "actionrec_check.json")
    with pytest.raises(ActionrecError, match="All validation videos are bad"):
        without_damaged_videos(open_dataset("folder", folders))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2}',
        '{"version": 1, "dataset": "folder", "good": {"a.avi": [1]}, "bad": {}}',
        '{"version": 1, "dataset": "folder", "good": {}, "bad": {"a.avi": "reason"}}',
        "\xff",
    ],
)
def test_a_damaged_report_is_one_sentence_that_says_what_to_do(folders, text):
    (folders / "actionrec_check.json").write_text(text, encoding="latin-1")
    for use in (without_damaged_videos, lambda dataset: check("folder", dataset.root)):
        with pytest.raises(ActionrecError, match="delete it and check again") as caught:
            use(open_dataset("folder", folders))
        assert "\n" not in str(caught.value)
        assert str(folders / "actionrec_check.json") in str(caught.value)


def test_the_demo_without_a_root_has_its_report_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    monkeypatch.setattr(demo, "MOTIONS", {"MoveUp": (0, -1, 0, 0)})
    monkeypatch.setattr(demo, "GROUPS", 8)
    monkeypatch.setattr(demo, "CLIPS", 1)
    assert check("demo", None, limits=QUICK).file == tmp_path / "demo" / "actionrec_check.json"


def test_wrong_numbers_are_wrong_usage(folders):
    with pytest.raises(UsageError, match="--workers 0"):
        check("folder", folders, workers=0)


def test_damaged_videos_that_can_be_read_are_told_and_kept(command, folders):
    path = folders / "val" / "second" / "second1.avi"
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        largest = max(container.demux(video=0), key=lambda packet: packet.size)
        middle = largest.pos + 8 + largest.size // 2
    for place in range(middle, middle + 40):
        data[place] ^= 0x55
    path.write_bytes(data)
    arguments = ["data", "check", "folder", "--root", folders]
    for _ in range(2):  # The second run takes it from the report.
        run = command(*arguments)
        assert run.returncode == 0, run.stdout
        assert "12 videos checked, 0 bad" in run.stdout
        assert "val/second/second1.avi is damaged but readable: the decoder" in run.stdout
    report = report_of(folders)
    assert list(report["damaged"]) == ["val/second/second1.avi"] and not report["bad"]
    assert "val/second/second1.avi" in report["good"]
    data, left_out = without_damaged_videos(open_dataset("folder", folders))
    assert len(data.val) == 4 and not left_out
