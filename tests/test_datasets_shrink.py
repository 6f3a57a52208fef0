"""A shrunk data set is the same data set, only smaller; nothing is lost or replaced in silence."""

import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from actionrec.datasets import shrink as module
from actionrec.datasets.registry import open_dataset
from actionrec.datasets.shrink import shrink
from actionrec.errors import ActionrecError, UsageError
from actionrec.files import exclusive
from actionrec.video.reader import VideoReader
from actionrec.video.writer import CONTAINERS

SIDE = 48


@pytest.fixture(scope="module")
def large(tmp_path_factory, encode):
    """A data set in folders with what people have: containers, sizes, frame rates."""
    root = tmp_path_factory.mktemp("large")
    for name, codec, options in (
        ("train/walk/a.avi", "mpeg4", {"frames": 30, "size": (160, 120)}),
        ("train/walk/Phone Video.MP4", "libx264", {"frames": 25, "size": (120, 162), "fps": 30}),
        ("train/walk/deep/er.mkv", "libx264", {"frames": 10, "size": (160, 120)}),
        ("train/run/a.webm", "libvpx", {"frames": 12, "size": (160, 120)}),
        ("train/run/small.webm", "libvpx", {"frames": 12, "size": (64, 48)}),
        ("train/run/variable.mp4", "libx264", {"size": (160, 120), "times": uneven(30)}),
        ("val/walk/a.mov", "mpeg4", {"frames": 9, "size": (321, 201), "fps": 12}),
        ("val/run/a.m4v", "mpeg4", {"frames": 9, "size": (160, 120)}),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.with_suffix(".mp4") if path.suffix == ".m4v" else path
        encode(target, codec, **options)
        target.rename(path)
    (root / "labels.txt").write_text("walk\nrun\n")
    (root / "actionrec_check.json").write_text("{}")
    (root / "huge.rar").write_bytes(b"archive")
    return root


def uneven(frames):
    """Times in ms, 20 and 60 apart in turn."""
    return [40 * index + 20 * (index % 2) for index in range(frames)]


@pytest.fixture(scope="module")
def shrunk(large, tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs") / "shrunk"
    return shrink("folder", large, output, SIDE)


def copies(large, shrunk):
    """Pairs of readers, original and copy."""
    for path in sorted(large.rglob("*.*")):
        if path.suffix.lower() in CONTAINERS or path.suffix == ".webm":
            copy = shrunk / path.relative_to(large)
            if path.suffix == ".webm" and path.name != "small.webm":
                copy = copy.with_suffix(".mp4")
            yield VideoReader(path), VideoReader(copy)


def scaled(frames, size):
    """Frames (T, H, W, 3) scaled to (height, width), by another library than the copies'."""
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return functional.resize(pictures, list(size), antialias=True).permute(0, 2, 3, 1).numpy()


def psnr(one, other):
    """Peak signal-to-noise ratio in dB."""
    return 10 * np.log10(255**2 / max(np.mean((one.astype(float) - other) ** 2), 1e-9))


def test_names_numbers_of_frames_rates_and_pictures_stay(large, shrunk):
    pairs = list(copies(large, shrunk.root))
    assert len(pairs) == shrunk.videos == 8
    for video, copy in pairs:
        assert len(copy) == len(video), video.path
        assert copy.fps == pytest.approx(video.fps, rel=1e-6 if video.index.is_regular else 1e-3)
        shown = [each.times[:-1] - each.times[0] for each in (video, copy)]
        np.testing.assert_allclose(*shown, atol=0.001, err_msg=str(video.path))
        scale = SIDE / min(video.size)
        assert copy.size == tuple(round(side * scale) for side in video.size), video.path
        copy.verify()
        frames = video.read(range(len(video)))
        assert psnr(scaled(frames, copy.size), copy.read(range(len(copy)))) > 30, video.path


def test_labels_and_sides_stay_and_lists_come_along(large, shrunk):
    before, after = open_dataset("folder", large), open_dataset("folder", shrunk.root)
    assert after.labels == before.labels
    for side in ("train", "val"):
        for video, copy in zip(getattr(before, side), getattr(after, side), strict=True):
            assert replace(video, path=None) == replace(copy, path=None)
            assert video.path.stem == copy.path.stem
    files = {path.relative_to(shrunk.root).as_posix() for path in shrunk.root.rglob("[!.]*.*")}
    assert {"labels.txt", "actionrec_shrink.json"} <= files
    assert not {"actionrec_check.json", "huge.rar"} & files
    assert len(files) == 8 + 2
    assert shrunk.failures == []
    assert shrunk.before == sum(video.path.stat().st_size for video in before.train + before.val)
    assert shrunk.after == sum(video.path.stat().st_size for video in after.train + after.val)


def test_copies_have_no_b_frames_and_a_key_frame_every_twelve(large, shrunk):
    with av.open(str(shrunk.root / "train" / "walk" / "a.avi")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "mpeg4" and not stream.codec_context.has_b_frames
        keys = [p.is_keyframe for p in container.demux(stream) if p.size]
    assert keys == [index % 12 == 0 for index in range(30)]


def test_a_video_that_is_small_already_is_copied_as_it_is(large, shrunk):
    name = Path("train", "run", "small.webm")
    assert (shrunk.root / name).read_bytes() == (large / name).read_bytes()


def test_a_phone_video_is_turned_upright(encode, tmp_path):
    path = encode(tmp_path / "phone.mp4", "libx264", frames=10, size=(128, 96))
    data = bytearray(path.read_bytes())
    quarter = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *quarter)
    path.write_bytes(data)
    video = VideoReader(path)
    assert video.size == (128, 96)
    copy = module.shrink_video(path, tmp_path, tmp_path / "small", SIDE)
    upright = VideoReader(tmp_path / "small" / copy.file)
    assert upright.size == (64, 48)
    assert psnr(scaled(video.read(range(10)), (64, 48)), upright.read(range(10))) > 30


@pytest.fixture
def ucf(encode, tmp_path):
    """A few videos named like UCF-101's, with the list files beside them."""
    root = tmp_path / "source" / "UCF-101"
    for label, label_in_name in (("Archery", "Archery"), ("HandstandPushups", "HandStandPushups")):
        (root / label).mkdir(parents=True)
        for group in ("01", "09", "11"):
            name = f"v_{label_in_name}_g{group}_c01.avi"
            encode(root / label / name, frames=5, size=(80, 60))
    lists = tmp_path / "source" / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    return root


def test_ucf101_keeps_the_names_that_its_splits_go_by(ucf, tmp_path, command):
    output = tmp_path / "a folder"
    run = command(
        "data", "shrink", "ucf101", "--root", ucf, "--output", output, "--short-side", SIDE
    )
    assert run.returncode == 0, run.stderr
    assert "6 videos," in run.stdout and "MB before" in run.stdout
    assert f"actionrec train --dataset ucf101 --root '{output}'" in run.stdout
    assert (output / "ucfTrainTestlist" / "testlist01.txt").is_file()
    for split in ("1", "paper"):
        before, after = (open_dataset("ucf101", root, split) for root in (ucf, output))
        for side in ("train", "val"):
            places = [
                [(video.path.relative_to(root), video.label, video.group) for video in videos]
                for root, videos in ((ucf, getattr(before, side)), (output, getattr(after, side)))
            ]
            assert places[0] == places[1]
    assert before.labels == after.labels


def test_a_csv_file_is_written_anew_with_the_paths_of_the_copies(encode, tmp_path):
    (tmp_path / "data").mkdir()
    encode(tmp_path / "data" / "a.avi", frames=5, size=(80, 60))
    encode(tmp_path / "data" / "b.webm", "libvpx", frames=5, size=(80, 60))
    elsewhere = encode(tmp_path / "c, d.avi", frames=5, size=(80, 60))
    listing = tmp_path / "data" / "videos.csv"
    listing.write_text(
        "path, label, group, split\n"
        f'a.avi, walk, g1, train\nb.webm, "walk, fast", g2, train\n"{elsewhere}", walk, g3, val\n'
        "missing.avi, walk, g4, test\n",
        encoding="utf-8-sig",
    )
    # Beside the original, as long as it has another name: the list says which videos there are.
    result = shrink("csv", listing, tmp_path / "data" / "small", SIDE)
    assert result.root == tmp_path / "data" / "small" / "videos.csv"
    assert len(result.failures) == 1 and "missing.avi is not a file" in result.failures[0]
    with result.root.open() as file:
        rows = list(csv.DictReader(file))
    outside = elsewhere.relative_to(elsewhere.anchor).as_posix()
    assert [row["path"] for row in rows] == ["a.avi", "b.mp4", outside, "missing.avi"]
    assert rows[1] == {"path": "b.mp4", "label": "walk, fast", "group": "g2", "split": "train"}
    before, after = open_dataset("csv", listing), open_dataset("csv", result.root)
    assert before.labels == after.labels
    for video, copy in zip(before.train + before.val, after.train + after.val, strict=True):
        assert (copy.label, copy.group) == (video.label, video.group)
        assert len(VideoReader(copy.path)) == 5


def test_hmdb51_brings_the_split_files_that_lie_beside_it(encode, tmp_path):
    from actionrec.datasets.hmdb51 import LABELS, SPLITS

    root = tmp_path / "source" / "hmdb51"
    lists = tmp_path / "source" / "testTrainMulti_7030_splits"
    root.mkdir(parents=True)
    lists.mkdir()
    for label in LABELS:
        names = [f"Film_{label}_f_cm_np1_fr_med_{number}.avi" for number in range(100)]
        for split in SPLITS:
            # The videos of a split's test are others in each.
            sides = ["2" if number % 3 == int(split) - 1 else "1" for number in range(90)]
            sides += ["1"] * 10
            text = "".join(f"{name} {side}\n" for name, side in zip(names, sides, strict=True))
            (lists / f"{label}_test_split{split}.txt").write_text(text)
    for number in range(3):
        name = f"Film_wave_f_cm_np1_fr_med_{number}.avi"
        encode(root / name, frames=5, size=(80, 60))
    result = shrink("hmdb51", root, tmp_path / "small", SIDE)
    assert result.videos == 3 and not result.failures
    for split in SPLITS:
        dataset = open_dataset("hmdb51", tmp_path / "small", split)
        assert len(dataset.train) == 2 and len(dataset.val) == 1


@pytest.fixture
def folders(class_folders, tmp_path):
    """A copy of the small data set in folders that may be damaged: 8 videos train, 4 validate."""
    return Path(shutil.copytree(class_folders, tmp_path / "videos"))


def test_a_broken_video_is_named_and_left_out(folders, tmp_path, command):
    (folders / "train" / "first" / "first0.avi").write_bytes(b"")
    output = tmp_path / "small"
    arguments = ["data", "shrink", "folder", "--root", folders, "--output", output]
    run = command(*arguments, "--short-side", 32)
    assert run.returncode == 1
    assert "first0.avi is empty" in run.stderr and "Traceback" not in run.stderr
    assert "11 videos," in run.stdout and "left out: 1" in run.stdout
    assert not (output / "train" / "first" / "first0.avi").exists()
    assert len(open_dataset("folder", output).train) == 7


def test_what_is_finished_is_kept_and_what_has_changed_is_done_anew(
    folders, encode, tmp_path, caplog
):
    caplog.set_level("INFO")
    output = tmp_path / "small"
    shrink("folder", folders, output, 32)
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.avi")}
    caplog.clear()
    assert shrink("folder", folders, output, 32).videos == 12
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.avi")} == times
    assert "12 of 12 videos are in" in caplog.text
    encode(folders / "train" / "first" / "first0.avi", frames=7)
    (folders / "train" / "first" / "first1.avi").write_bytes(b"")
    (output / "val" / "first" / "first0.avi").unlink()
    result = shrink("folder", folders, output, 32)
    assert result.videos == 11 and len(result.failures) == 1
    assert "2 videos have changed since" in caplog.text
    assert len(VideoReader(output / "train" / "first" / "first0.avi")) == 7
    # A copy of what it was before must not be trained on.
    assert not (output / "train" / "first" / "first1.avi").exists()
    assert (output / "val" / "first" / "first0.avi").exists()
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*.avi")}
    assert sum(after[path] == times[path] for path in after) == 9


# A video called slow takes as long as one that hangs, when its copy is half-written.
SLOW = """
import time
from actionrec.datasets import shrink
from actionrec.files import replacing

original = shrink.shrink_video

def shrink_unless_slow(path, folder, output, short_side):
    if path.stem == "slow":
        with replacing(output / shrink.path_in_copy(path, folder)) as temporary:
            temporary.write_text("half of it")
            time.sleep(600)
    return original(path, folder, output, short_side)
"""
SCRIPT = """
import sys
import slow
from actionrec.__main__ import main
from actionrec.datasets import shrink

if __name__ == "__main__":
    shrink.shrink_video = slow.shrink_unless_slow
    sys.exit(main())
"""


@pytest.fixture
def slow_command(folders, tmp_path):
    """The command line, on a data set in which a video called slow hangs."""
    (folders / "val" / "second" / "second1.avi").rename(folders / "val" / "second" / "slow.avi")
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py", "data", "shrink", "folder"]
    command += ["--root", folders, "--output", tmp_path / "small", "--short-side", "32"]
    return [str(word) for word in command]


def test_a_video_that_hangs_is_given_up_and_leaves_nothing_behind(slow_command, tmp_path):
    run = subprocess.run(
        [*slow_command, "--timeout", "2"], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 1 and "slow.avi was given up after 2 s" in run.stderr
    assert "11 videos," in run.stdout
    files = [path.name for path in (tmp_path / "small").rglob("[!.]*") if path.is_file()]
    assert len(files) == 11 + 1 and not any("slow" in name for name in files)


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a group of processes")
def test_control_c_keeps_what_is_done_and_the_next_run_goes_on(
    slow_command, folders, tmp_path, command
):
    output = tmp_path / "small"
    process = subprocess.Popen(
        [*slow_command, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while not list(output.rglob(".slow.*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    # As a terminal does: to the command and to all of its workers.
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and not out
    assert "interrupted" in errors and "Traceback" not in errors
    assert not list(output.rglob(".slow.*"))
    record = json.loads((output / "actionrec_shrink.json").read_text())
    assert len(record["videos"]) == 11 and "val/second/slow.avi" not in record["videos"]
    run = command(*slow_command[2:])
    assert run.returncode == 0 and "11 of 12 videos are in" in run.stderr
    assert len(open_dataset("folder", output).val) == 4


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_full_disk_stops_the_copy_with_one_sentence(encode, tmp_path):
    import resource

    for side, label in (("train", "a"), ("val", "a")):
        (tmp_path / "videos" / side / label).mkdir(parents=True)
        encode(tmp_path / "videos" / side / label / "v.avi", frames=200, size=(320, 240))
    command = [sys.executable, "-m", "actionrec", "data", "shrink", "folder", "--root"]
    run = subprocess.run(
        [*command, str(tmp_path / "videos"), "--output", str(tmp_path / "small")],
        capture_output=True,
        text=True,
        timeout=300,
        # Not a full disk, but a write that fails in the same way.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
        env=os.environ | {"ACTIONREC_CACHE": str(tmp_path / "cache")},
    )
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "v.avi could not be written (File too large); free some space" in last
    assert "Traceback" not in run.stderr
    assert not list((tmp_path / "small").rglob("*.avi"))


def test_an_output_in_the_data_set_is_refused(folders):
    for output in (folders, folders / "train" / "small", folders / ".." / folders.name):
        with pytest.raises(UsageError, match="lies in the data set itself"):
            shrink("folder", folders, output)


def test_files_that_are_not_ours_are_never_touched(folders, tmp_path):
    output = tmp_path / "precious"
    output.mkdir()
    (output / "thesis.txt").write_text("precious")
    with pytest.raises(ActionrecError, match="holds files that are not from"):
        shrink("folder", folders, output)
    with pytest.raises(UsageError, match="is not a folder"):
        shrink("folder", folders, output / "thesis.txt")
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]


def test_only_one_shrinks_into_a_folder_and_hidden_copies_of_a_user_stay(folders, tmp_path):
    output = tmp_path / "small"
    shrink("folder", folders, output, 32)
    mine = output / "train" / ".clip.20240101.mp4"
    left = output / "train" / ".clip.actionrec.a1b2c3d4.avi"
    mine.touch(), left.touch()
    (tmp_path / "link").symlink_to(output)
    with exclusive(output / module.RECORD, "busy"):
        with pytest.raises(ActionrecError, match="Another `data shrink` is writing"):
            shrink("folder", folders, tmp_path / "link", 32)
    shrink("folder", folders, output, 32)
    assert mine.exists() and not left.exists()


def test_a_copy_of_something_else_is_refused(folders, class_folders, tmp_path):
    output = tmp_path / "small"
    shrink("folder", folders, output, 32)
    with pytest.raises(ActionrecError, match="made with short side 32, not 40"):
        shrink("folder", folders, output, 40)
    with pytest.raises(ActionrecError, match="made with source"):
        shrink("folder", class_folders, output, 32)
    (output / "actionrec_shrink.json").write_text("{")
    with pytest.raises(ActionrecError, match="choose another --output"):
        shrink("folder", folders, output, 32)


def test_two_videos_that_would_get_one_name_are_refused(folders, tmp_path):
    for name in ("same.mp4", "same.webm"):
        (folders / "train" / "first" / name).touch()
    with pytest.raises(ActionrecError, match="would both become train/first/same.mp4"):
        shrink("folder", folders, tmp_path / "small", 32)
    assert not (tmp_path / "small").exists()


def test_a_side_of_nothing_is_wrong_usage(folders, tmp_path):
    with pytest.raises(UsageError, match="--short-side 0 is too small"):
        shrink("folder", folders, tmp_path / "small", 0)
