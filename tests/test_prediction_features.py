"""`actionrec features`: what the head sees of each clip, in three forms, whatever ends the run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actionrec import Recognizer
from actionrec.cli.main import main
from actionrec.errors import UsageError

GOOD = ["a.avi", "b.avi", "more/a.avi"]
BAD = ["empty.avi", "missing.mp4"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory, encode):
    return encode(tmp_path_factory.mktemp("video") / "clip.avi", frames=40)


@pytest.fixture
def videos(tmp_path, clip, monkeypatch):
    """The names of good videos, two of them with one name in two folders, and of bad ones."""
    monkeypatch.chdir(tmp_path)
    Path("more").mkdir()
    for name in GOOD:
        Path(name).symlink_to(clip)
    Path("empty.avi").touch()
    return [*GOOD, *BAD]


@pytest.fixture(scope="module")
def recognizer(model):
    return Recognizer.load(model)


def rows_of(folder):
    return [json.loads(line) for line in Path(folder, "index.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("way", [{}, {"clips": 2}, {"hop": 0.3}], ids=str)
def test_all_forms_hold_the_features_of_the_recognizer_to_the_bit(videos, model, recognizer, way):
    flags = [word for name, value in way.items() for word in (f"--{name}", str(value))]
    for output in ("all.npz", "all.parquet", "all"):
        assert main(["features", *videos, "--model", model, "--output", output, *flags]) == 1
    expected = recognizer.features("a.avi", **way)
    assert expected.dtype == np.float32 and expected.shape[1] == 96
    assert len(expected) == (2 if "clips" in way else 6)

    rows = {row["video"]: row for row in rows_of("all")}
    table = pq.read_table("all.parquet").to_pandas()
    with np.load("all.npz", allow_pickle=False) as npz:
        for video in GOOD:
            assert np.array_equal(np.load(Path("all", rows[video]["file"])), expected)
            assert np.array_equal(npz["features"][npz["video"] == video], expected)
            mine = table[table["video"] == video]
            assert np.array_equal(np.stack(mine["features"]), expected)
            seconds = [(part["start"], part["end"]) for part in rows[video]["clips"]]
            assert seconds[0][0] == 0 and seconds[-1][1] == 1.6
            assert list(zip(mine["start"], mine["end"], strict=True)) == seconds
            at = npz["video"] == video
            assert list(zip(npz["start"][at], npz["end"][at], strict=True)) == seconds
        assert sorted(npz["failed"]) == BAD and "is not a file" in "".join(npz["errors"])
        settings = json.loads(npz["settings"].item())
        assert npz["model"] == model and settings["model"] == model
        assert {name: settings[name] for name in way} == way
    assert json.loads(pq.read_schema("all.parquet").metadata[b"actionrec"]) == settings
    assert json.loads(Path("all/index.jsonl.settings.json").read_text()) == settings
    assert sorted(table["video"][table["error"].notna()]) == BAD
    assert len({row["file"] for row in rows.values() if "file" in row}) == len(GOOD)
    assert not list(Path().glob("*.parts"))


@pytest.mark.skipif(sys.platform != "linux", reason="kills without a word")
def test_after_kill_9_the_same_command_goes_on_and_keeps_what_is_done(videos, model, clip):
    names = [f"{number}.avi" for number in range(40)]
    for name in names:
        Path(name).symlink_to(clip)
    Path("list.txt").write_text("\n".join([*names, "missing.mp4"]))
    arguments = ["--files-from", "list.txt", "--model", model, "--output", "all.npz"]
    run = subprocess.Popen([sys.executable, "-m", "actionrec", "features", *arguments])
    index = Path("all.npz.parts/index.jsonl")
    deadline = time.monotonic() + 60
    while not (index.exists() and index.read_bytes().count(b"\n") > 3):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.01)
    run.kill()
    run.wait()
    with index.open("ab") as file:
        file.write(b'{"video": "torn')
    done = [row for row in index.read_text().splitlines()[:-1]]
    assert main(["features", *arguments]) == 1
    with np.load("all.npz") as npz:
        assert set(npz["video"]) == set(names) and len(npz["video"]) == 6 * len(names)
        assert npz["failed"].tolist() == ["missing.mp4"]
        # Those of the first run come first, as they were.
        first = [name for row in done if "error" not in (name := json.loads(row))]
        assert list(dict.fromkeys(npz["video"]))[: len(first)] == [row["video"] for row in first]


@pytest.mark.parametrize("output", ["all.npz", "all.parquet"])
def test_a_finished_file_is_not_made_again_and_not_added_to(videos, model, output, caplog):
    caplog.set_level("INFO")
    arguments = ["--model", model, "--output", output]
    assert main(["features", *GOOD, *arguments]) == 0
    before = Path(output).read_bytes()
    # As a power cut between the two last steps leaves it.
    Path(f"{output}.parts").mkdir()
    assert main(["features", "b.avi", *arguments]) == 0
    assert "already" in caplog.text and not Path(f"{output}.parts").exists()
    assert main(["features", *videos, *arguments]) == 2
    assert main(["features", *GOOD, *arguments, "--hop", "1"]) == 2
    assert Path(output).read_bytes() == before


def test_settings_are_not_mixed_and_no_folder_of_others_is_written_to(videos, model, capsys):
    assert main(["features", "a.avi", "--model", model, "--output", "all/"]) == 0
    assert main(["features", "b.avi", "--model", model, "--output", "all", "--clips", "3"]) == 2
    assert "made with clips None, not 3" in capsys.readouterr().err
    assert main(["features", "b.avi", "--model", model, "--output", "more"]) == 2
    assert "holds a.avi" in capsys.readouterr().err and len(list(Path("more").iterdir())) == 1
    assert main(["features", "b.avi", "--model", model, "--output", "b.csv"]) == 2
    Path("file").touch()
    assert main(["features", "b.avi", "--model", model, "--output", "file"]) == 2
    assert main(["features", "b.avi", "--model", model, "--output", "c", "--clips=1", "--hop=1"])
    assert not Path("c").exists()
    assert [row["video"] for row in rows_of("all")] == ["a.avi"]


def test_clips_and_a_hop_are_not_both_possible(videos, recognizer):
    with pytest.raises(UsageError, match="not both"):
        recognizer.features("a.avi", clips=2, hop=1)
    with pytest.raises(UsageError, match="must be above 0"):
        recognizer.features("a.avi", hop=0)


def test_windows_far_apart_are_those_of_a_long_video_read_throughout(tmp_path, encode, recognizer):
    path = encode(tmp_path / "long.avi", frames=300)
    far = list(recognizer.clips.windows(path, 2.0))
    near = list(recognizer.clips.windows(path, 0.04))
    by_start = {clip.seconds: clip for clip in near}
    assert len(far) == 7 and [clip.last for clip in far] == [False] * 6 + [True]
    for clip in far:
        assert np.array_equal(clip.pixels, by_start[clip.seconds].pixels)
