"""Folders of numbered pictures are read as videos, or say what is missing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actionrec.cli.main import main
from actionrec.errors import UsageError, VideoError
from actionrec.files import are_frames
from actionrec.video.decoders import open_video
from actionrec.video.pictures import frame_rate
from actionrec.video.reader import VideoReader
from actionrec.video.sources import find_videos


@pytest.fixture(autouse=True)
def standard_rate(monkeypatch):
    monkeypatch.setenv("ACTIONREC_FRAME_RATE", "")


@pytest.fixture
def pictures():
    """Uint8 RGB (T, H, W, 3), all of them different."""
    return np.random.default_rng(0).integers(256, size=(12, 30, 40, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, pictures):
    return write(tmp_path / "clip", pictures)


def write(folder, pictures, name="frame_{:06}.png", first=1):
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures, first):
        Image.fromarray(picture).save(folder / name.format(number))
    return folder


@pytest.mark.parametrize(
    ("name", "first"), [("frame_{:06}.png", 1), ("{}.png", 0), ("b-{}.PNG", 7)]
)
def test_frames_are_the_pictures_in_the_order_of_their_numbers(tmp_path, pictures, name, first):
    video = VideoReader(write(tmp_path / "clip", pictures, name, first))
    assert (len(video), video.fps, video.size) == (12, 25, (30, 40))
    assert np.array_equal(video.read(range(12)), pictures)
    assert np.array_equal(video.read([3, 3, 10]), pictures[[3, 3, 10]])
    assert np.array_equal(np.stack(list(video.stream([[2, 3], [9, 11]]))[1]), pictures[[9, 11]])
    assert video.verify() == "" and video.duration == 12 / 25


def test_the_rate_is_what_is_set(folder, monkeypatch):
    monkeypatch.setenv("ACTIONREC_FRAME_RATE", "10")
    assert VideoReader(folder).duration == 1.2
    for rate in ("0", "-1", "inf", "fast"):
        monkeypatch.setenv("ACTIONREC_FRAME_RATE", rate)
        with pytest.raises(UsageError, match="can't have a rate"):
            frame_rate()


@pytest.mark.parametrize("gone", [2, 7])
def test_a_gap_in_the_numbers_is_an_error(folder, gone):
    (folder / f"frame_{gone:06}.png").unlink()
    with pytest.raises(VideoError, match="numbers with a gap between them"):
        VideoReader(folder)


def test_a_number_that_is_there_twice_is_an_error(folder):
    (folder / "frame_3.png").write_bytes((folder / "frame_000003.png").read_bytes())
    with pytest.raises(VideoError, match="frame_000003.png and frame_3.png have one number"):
        VideoReader(folder)


def test_a_damaged_picture_and_one_of_another_size_are_errors(folder, pictures):
    Image.fromarray(pictures[0, :20]).save(folder / "frame_000005.png")
    cut = folder / "frame_000009.png"
    cut.write_bytes(cut.read_bytes()[:1000])
    video = VideoReader(folder)
    assert np.array_equal(video.read([3]), pictures[[3]])
    with pytest.raises(VideoError, match="frame_000005.png has 40x20 pixels"):
        video.read([4])
    with pytest.raises(VideoError, match="frame_000009.png is damaged"):
        video.read([8])
    with pytest.raises(VideoError):
        video.verify()


def test_pictures_of_other_kinds_are_shown_in_colour(tmp_path, pictures):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, mode in enumerate(("L", "RGBA", "P", "CMYK")):
        Image.fromarray(pictures[0]).convert(mode).save(folder / f"{number}.tif")
    assert VideoReader(folder).read(range(4)).shape == (4, 30, 40, 3)


def test_a_picture_that_lies_on_its_side_is_turned(tmp_path, pictures):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(2):
        image = Image.fromarray(pictures[0])
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(folder / f"{number}.png", exif=exif)
    video = VideoReader(folder)
    assert video.size == (40, 30)
    assert np.array_equal(video.read([0])[0], np.rot90(pictures[0], -1))


def test_what_frames_are_and_what_they_are_not():
    assert are_frames(["f1.jpg", "f2.jpg", "notes.txt"])
    assert not are_frames(["f1.jpg"])
    assert not are_frames(["f1.jpg", "f2.jpg", "video.mp4"])
    assert not are_frames(["f1.jpg", "f2.jpg", "cover.png"])
    assert not are_frames(["rgb_1.jpg", "rgb_2.jpg", "flow_1.jpg"])


def test_folders_of_frames_are_found_among_videos(tmp_path, pictures, encode):
    write(tmp_path / "a" / "clip1", pictures)
    write(tmp_path / "b" / "clip2", pictures)
    found = [tmp_path / "a/clip1", tmp_path / "b/clip2"]
    encode(tmp_path / "x.mp4")
    assert find_videos([tmp_path]) == [*found, tmp_path / "x.mp4"]
    assert find_videos([tmp_path / "a/clip1", f"{tmp_path}/b/*"]) == found


def test_other_decoders_and_files_of_video_are_told_apart(folder):
    pytest.importorskip("decord")
    with pytest.raises(VideoError, match="needs a file"):
        open_video(folder, "decord")


def test_the_command_line_predicts_and_trains_on_folders_of_frames(
    tmp_path, pictures, model, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows = ["path,label,split"]
    for number in range(6):
        write(tmp_path / "data" / str(number), pictures[::1] // (1 + number % 2))
        rows.append(f"data/{number},{'ab'[number % 2]},{'train' if number < 4 else 'val'}")
    Path("data.csv").write_text("\n".join(rows))
    arguments = ["data/0", "--model", model, "--format", "json", "--frame-rate", "50"]
    assert main(["predict", *arguments]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["clips"][-1]["end"] == 0.24 and os.environ["ACTIONREC_FRAME_RATE"] == "50"
    assert main(["timeline", "data/0", "--model", model, "--format", "json"]) == 0
    assert main(["timeline", "data/0", "--model", model, "--render", "x.mp4"]) == 1
    assert "needs a video file" in capsys.readouterr().err
    assert main(["data", "check", "csv", "--root", "data.csv"]) == 0
    small = "--backbone c3d_small --weights none --clip-length 4 --short-side 28 --crop 24"
    arguments = [*small.split(), "--epochs", "1", "--batch-size", "2", "--workers", "0"]
    assert main(["train", "--dataset", "csv", "--root", "data.csv", *arguments]) == 0
