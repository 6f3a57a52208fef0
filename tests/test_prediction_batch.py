"""Many videos: every one gets one line, whatever ends the run, and the next run goes on."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock

from actionrec.cli.main import main
from actionrec.errors import UsageError
from actionrec.models.inference import InferenceModel
from actionrec.prediction.batch import list_videos
from actionrec.prediction.videos import predict_video

linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@pytest.fixture(scope="module")
def video(tmp_path_factory, encode):
    return encode(tmp_path_factory.mktemp("video") / "clip.avi", frames=30)


@pytest.fixture
def videos(tmp_path, video, monkeypatch):
    """The names of three good videos and of three bad ones, in the current folder."""
    monkeypatch.chdir(tmp_path)
    names = ["a.avi", "text.mp4", "b [1].avi", "empty.avi", "c.avi", "missing.mp4"]
    for name in ("a.avi", "b [1].avi", "c.avi"):
        Path(name).symlink_to(video)
    Path("text.mp4").write_text("no video")
    Path("empty.avi").touch()
    Path("videos.txt").write_text("\n".join([*names[:3], "", *names[3:]]))
    return names


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def whole_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


# Lists


def test_a_list_is_taken_line_by_line_and_literally_after_the_paths(videos, monkeypatch):
    Path("list.txt").write_bytes("\ufeffä.avi\r\n\n *.avi\n".encode() + b"\xff.avi")
    listed = ["ä.avi", " *.avi", os.fsdecode(b"\xff.avi")]
    assert list_videos([], "list.txt") == listed
    assert list_videos(["c.avi"], "list.txt") == ["c.avi", *listed]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"./a.avi\nc.avi\n")))
    assert list_videos([], "-") == ["a.avi", "c.avi"]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_shards_together_are_the_list_and_share_nothing(videos, count):
    shards = [
        list_videos(["a.avi"], "videos.txt", f"{number}/{count}") for number in range(1, count + 1)
    ]
    whole = list_videos(["a.avi"], "videos.txt")
    # a.avi is named twice.
    assert len(whole) == 6
    assert sum(len(shard) for shard in shards) == 6
    for number, shard in enumerate(shards):
        assert shard == whole[number::count]


def test_a_video_is_listed_once_whatever_its_spelling(videos, tmp_path):
    here = Path.cwd()
    spellings = [f"{here}/a.avi", "./a.avi", "more/../a.avi", "a.avi", f"file://{here}/a.avi"]
    Path("list.txt").write_text(
        "\n".join([*spellings, "b.avi/", "b.avi", "sub//c.avi", "sub/c.avi"])
    )
    assert list_videos([], "list.txt") == [f"{here}/a.avi", "b.avi", "sub/c.avi"]


def test_a_list_without_videos_is_wrong_usage(videos):
    Path("list.txt").write_text(" \n\n")
    with pytest.raises(UsageError, match="--files-from list.txt names no video"):
        list_videos([], "list.txt")
    assert list_videos(["a.avi"], "list.txt") == ["a.avi"]


# The whole command


@pytest.mark.slow
@linux
def test_after_kill_9_the_same_command_goes_on_and_every_video_has_one_line(videos, model, video):
    names = videos + [f"{number}.avi" for number in range(60)]
    for name in names[len(videos) :]:
        Path(name).symlink_to(video)
    Path("videos.txt").write_text("\n".join([*names, "a.avi"]))
    output = Path("actions.jsonl")
    arguments = ["--files-from", "videos.txt", "--model", model, "--output", output]
    command = [sys.executable, "-m", "actionrec", "predict", *map(str, arguments)]
    run = subprocess.Popen(command)
    try:
        wait_for_lines(run, output, 5)
    finally:
        run.kill()
        run.wait()
    before = output.read_bytes()
    done = before.count(b"\n")
    assert 5 <= done < len(names)
    with output.open("ab") as file:
        file.write(b'{"video": "torn')
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert f"{done} of {len(names)} videos are done already." in again.stderr
    assert output.read_bytes().startswith(before)
    rows = {row["video"]: row for row in rows_of(output)}
    assert len(rows_of(output)) == len(names) and set(rows) == set(names)
    assert {name for name, row in rows.items() if "error" in row} == {
        "text.mp4",
        "empty.avi",
        "missing.mp4",
    }
    assert rows["missing.mp4"]["error"] in again.stderr or b'"missing.mp4"' in before
    alone = asdict(predict_video(InferenceModel.load(model), "b [1].avi"))
    assert_same_prediction(rows["b [1].avi"], alone)


@pytest.mark.slow
@linux
def test_a_video_whose_worker_is_killed_from_outside_is_tried_again(videos, model, video):
    for number in range(60):
        Path(f"{number}.avi").symlink_to(video)
    arguments = ["[0-9]*.avi", "--model", model, "--output", "actions.jsonl", "--workers", "1"]
    run = subprocess.Popen(
        [sys.executable, "-m", "actionrec", "predict", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_lines(run, Path("actions.jsonl"), 1)
        [worker] = [pid for server in children(run.pid) for pid in children(server)]
        os.kill(worker, signal.SIGKILL)
        _, said = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 0, said
    rows = rows_of("actions.jsonl")
    assert len(rows) == 60 and not any("error" in row for row in rows)
    names = [row["video"] for row in rows]
    assert set(names) == {f"{number}.avi" for number in range(60)}
    # The one that was being read when its process ended comes last.
    assert names[-1] != max(names)


@pytest.mark.slow
@linux
def test_sigterm_ends_the_workers_and_says_how_to_go_on(videos, model, video):
    for number in range(60):
        Path(f"{number}.avi").symlink_to(video)
    run = subprocess.Popen(
        [sys.executable, "-m", "actionrec", "predict", "[0-9]*.avi", "--model", model]
        + ["--output", "actions.parquet", "--workers", "1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_lines(run, Path("actions.parquet.jsonl"), 1)
        workers = [pid for server in children(run.pid) for pid in children(server)]
        run.terminate()
        _, said = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 130
    held = len(rows_of("actions.parquet.jsonl"))
    assert f"actions.parquet.jsonl holds {held} results, and the same command goes on" in said
    assert "Traceback" not in said
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)


def wait_for_lines(run, output, count):
    while whole_lines(output) < count:
        assert run.poll() is None, "the command has ended already"
        time.sleep(0.01)


def children(parent):
    """The processes that a process has started and that still run."""
    tasks = Path(f"/proc/{parent}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


@pytest.mark.slow
def test_shards_as_lines_and_as_parquet_hold_the_same_results_as_each_video_alone(
    videos, model, capsys, caplog
):
    parquet = pytest.importorskip("pyarrow.parquet")
    arguments = ["predict", "--files-from", "videos.txt", "--model", model, "--topk", "2"]
    first = [*arguments, "--output", "new/one.jsonl", "--shard", "1/2"]
    second = [*arguments, "--output", "two.parquet", "--shard", "2/2"]
    assert main(first) == 0
    assert main(second) == 1
    assert "3 videos are done, 3 of them failed" in caplog.text
    lines = rows_of("new/one.jsonl")
    ready = InferenceModel.load(model, topk=2)
    # Clips of several videos share a batch: which video is finished first is not promised.
    assert sorted(row["video"] for row in lines) == ["a.avi", "b [1].avi", "c.avi"]
    for row in lines:
        alone = asdict(predict_video(ready, row["video"]))
        assert_same_prediction(row, alone)
    table = parquet.read_table("two.parquet").to_pylist()
    assert {row["video"] for row in table} == {"text.mp4", "empty.avi", "missing.mp4"}
    assert all(row["error"] and row["clips"] is None for row in table)
    assert sorted(path.name for path in Path().glob("two*")) == ["two.parquet"]

    # Finished ones are left as they are, also by an errant command.
    before = Path("two.parquet").read_bytes()
    assert main(second) == 1
    assert "All 3 videos are in two.parquet already" in caplog.text
    assert main([*arguments, "--output", "two.parquet", "--shard", "2/2", "--topk", "3"]) == 2
    assert "two.parquet was made with topk 2, not 3" in capsys.readouterr().err
    assert main(["predict", "other.avi", *second[1:]]) == 2
    assert "lacks 3 of these 3 videos" in capsys.readouterr().err
    assert Path("two.parquet").read_bytes() == before


def assert_same_prediction(row, expected):
    given = {"labels", "none_of_these", "uncertainty"}
    assert set(row) == {"video", "model", "top", "clips"} | given
    assert (row["video"], row["model"]) == (expected["video"], expected["model"])
    for ours, other in zip([row, *row["clips"]], [expected, *expected["clips"]], strict=True):
        assert ours.get("start") == other.get("start") and ours.get("end") == other.get("end")
        scores = {entry["label"]: entry["score"] for entry in ours["top"]}
        # Another number of threads may add up in another order.
        assert scores == pytest.approx({e["label"]: e["score"] for e in other["top"]}, abs=2e-6)


def test_two_commands_do_not_write_to_one_file(videos, model, capsys):
    with FileLock(".actions.jsonl.lock"):
        assert main(["predict", "a.avi", "--model", model, "--output", "actions.jsonl"]) == 1
    assert "Another actionrec is writing actions.jsonl" in capsys.readouterr().err
    assert not Path("actions.jsonl").exists()


@pytest.mark.parametrize("output", ["link.jsonl", "folder/a.jsonl", "a.parquet"])
def test_one_file_by_another_name_is_not_written_twice(videos, model, capsys, output):
    Path("link.jsonl").symlink_to("a.jsonl")
    Path("folder").symlink_to(".")
    locked = "a.parquet.jsonl" if output == "a.parquet" else "a.jsonl"
    with FileLock(f".{locked}.lock"):
        assert main(["predict", "a.avi", "--model", model, "--output", output]) == 1
    assert "Another actionrec is writing" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_may_have_the_longest_name_that_there_is(videos, model, suffix):
    words = [*videos[:1], "--model", str(model), "--workers", "1"]
    output = "n" * (255 - len(suffix)) + suffix
    assert main(["predict", *words, "--output", output]) == 0
    assert main(["predict", *words, "--output", output]) == 0
    assert Path(output).stat().st_size > 0


def test_without_parquet_is_refused_before_any_work(videos, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["predict", "a.avi", "--output", "new.parquet"]) == 1
    assert "pip install 'actionrec[parquet]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "No paths are given"),
        (["a.avi", "--workers", "2"], "need --output"),
        (["a.avi", "--shard", "1/2"], "need --output"),
        (["a.avi", "--output", "x.csv"], "x.csv must end in .jsonl or .parquet"),
        (["a.avi", "--output", "x.jsonl", "--format", "csv"], "leave out --format"),
        (["a.avi", "--output", "x.jsonl", "--workers", "0"], "workers is 0"),
        (["a.avi", "--output", "x.jsonl", "--timeout", "0"], "timeout is 0"),
        (["a.avi", "--output", "x.jsonl", "--shard", "3"], "write 3/8"),
        (["a.avi", "--output", "x.jsonl", "--shard", "0/2"], "write 3/8"),
        (["a.avi", "--output", "x.jsonl", "--shard", "3/2"], "write 3/8"),
        (["--files-from", "nowhere.txt"], "--files-from nowhere.txt is not a file"),
        (["--files-from", "zero.txt", "--output", "x.jsonl"], "holds zero bytes"),
    ],
)
def test_wrong_usage_is_told_and_writes_nothing(videos, model, capsys, arguments, words):
    Path("zero.txt").write_bytes(b"a.avi\0b.avi")
    before = set(os.listdir())
    try:
        code = main(["predict", *arguments, "--model", model])
    except SystemExit as refused:
        code = refused.code
    assert code == 2
    assert words in capsys.readouterr().err
    visible = {name for name in os.listdir() if not name.startswith(".")}
    assert visible <= before
