"""Folders of numbered pictures are read as videos, or say what is missing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actionrec.cli.main import main
from actionrec.datasets.csv import open_csv
from actionrec.errors import ActionrecError, UsageError, VideoError
from actionrec.evaluation.scoring import relative_names
from actionrec.files import are_frames
from actionrec.video.address import Address
from actionrec.video.decoders import open_source, open_video
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
    rated = ["predict", "data/0", "--model", model, "--output", "a.jsonl"]
    assert main(rated) == 0 and main([*rated, "--frame-rate", "25"]) == 2
    assert "made with frame_rate 50.0, not None" in capsys.readouterr().err
    assert main(["timeline", "data/0", "--model", model, "--render", "x.mp4"]) == 1
    assert "needs a video file" in capsys.readouterr().err
    assert main(["data", "check", "csv", "--root", "data.csv"]) == 0
    small = "--backbone c3d_small --weights none --clip-length 4 --short-side 28 --crop 24"
    arguments = [*small.split(), "--epochs", "1", "--batch-size", "2", "--workers", "0"]
    run = ["train", "--dataset", "csv", "--root", "data.csv", *arguments, "--output", "run"]
    assert main([*run, "--frame-rate", "12.5"]) == 0
    assert "frame_rate: 12.5" in Path("run/config.yaml").read_text()
    assert main(["train", "--config", "run/config.yaml", "--output", "again"]) == 0
    first, again = (Path(name, "results.json").read_text() for name in ("run", "again"))
    assert json.loads(first)["last"]["clip"] == json.loads(again)["last"]["clip"]


def listed(*rows, columns="path,label,split,fps"):
    Path("data.csv").write_text("\n".join([columns, *rows]))
    return "data.csv"


def test_each_folder_of_frames_has_the_rate_of_its_row(tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACTIONREC_FRAME_RATE", "50")
    for name in "abc":
        write(tmp_path / name, pictures)
    root = listed("a,run,train,12.5", "b,run,train,", f"{tmp_path}/c,run,val,30")
    dataset = open_csv(root)
    readers = [VideoReader(video.path) for video in dataset.train + dataset.val]
    assert [reader.fps for reader in readers] == [12.5, 50, 30]
    assert [str(video.path) for video in dataset.train] == ["frames://12.5::a", "b"]
    assert np.array_equal(readers[0].read(range(12)), pictures)
    assert relative_names(dataset.val, dataset) == (f"frames://30.0::{tmp_path}/c",)


def test_segments_of_a_folder_of_frames_are_in_its_own_time(tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a", pictures)
    write(tmp_path / "b", pictures)
    columns = "path,label,split,start,end,fps"
    root = listed("a,run,train,0.2,0.4,10", "a,run,train,0.4,1,10", "b,run,val,,,", columns=columns)
    source = open_csv(root).train[0].source
    assert np.array_equal(open_source(source).read([0, 1]), pictures[2:4])
    again = Path(root).read_text().replace("0.4,1,10", "0.4,1,20")
    Path(root).write_text(again)
    with pytest.raises(ActionrecError, match="a has 10 fps in line 2 and 20 fps in line 3; give"):
        open_csv(root)
    Path(root).write_text(again.replace("0.4,1,20", "0.4,1,"))
    with pytest.raises(ActionrecError, match="a has 10 fps in line 2 and no fps in line 3"):
        open_csv(root)


@pytest.mark.parametrize("rate", ["0", "-25", "nan", "inf", "fast", "1_0", "30 fps", "30000/1001"])
def test_a_rate_that_is_none_is_refused_with_its_line(tmp_path, pictures, monkeypatch, rate):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a", pictures)
    with pytest.raises(ActionrecError, match=f"data.csv, line 3: the fps '{rate}' is no rate"):
        open_csv(listed("a,run,train,25", f"a,run,val,{rate}"))


def test_the_rate_of_a_video_file_is_its_own(tmp_path, encode, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "a.mp4")
    rows = ["a.mp4,run,train,", "https://example.org/b.mp4,run,train,9", "s3://c/d.mp4,run,val,9"]
    dataset = open_csv(listed(*rows))
    assert VideoReader(dataset.train[0].path).fps == 25
    assert "line 3: the fps of https://example.org/b.mp4 is not used" in caplog.text
    assert "(2 such lines)" in caplog.text


def test_an_address_of_frames_says_what_is_wrong_with_it(tmp_path, pictures):
    folder = write(tmp_path / "a", pictures)
    assert find_videos([f"frames://5::{folder}"])[0].name == "a"
    assert Address("frames://5::a").absolute() == Address(f"frames://5.0::{Path('a').absolute()}")
    assert VideoReader(f"frames://5::{folder}").duration == 12 / 5
    for wrong, said in (
        (f"frames://0::{folder}", "is no folder of frames with its rate; write frames://30::"),
        (f"frames://{folder}", "is no folder of frames with its rate"),
        ("frames://5::https://example.org/a", "is no folder of frames with its rate"),
        (f"frames://5::{tmp_path}/b", "b is not a folder of frames"),
    ):
        with pytest.raises(VideoError, match=said):
            VideoReader(wrong)


def test_a_list_with_rates_is_checked_shrunk_predicted_and_trained(
    tmp_path, pictures, model, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        write(tmp_path / "data" / str(number), pictures)
    rates = ["20", "10", "25", "30", "25", "30"]
    rows = [f"data/{n},{'ab'[n % 2]},{'train' if n < 4 else 'val'},{rates[n]}" for n in range(6)]
    root = listed(*rows)
    (tmp_path / "data/1/frame_000012.png").unlink()
    (tmp_path / "data/1/frame_000007.png").unlink()
    assert main(["data", "check", "csv", "--root", root, "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert list(report["bad"]) == ["frames://10.0::data/1"] and len(report["good"]) == 5
    write(tmp_path / "new", pictures)
    (tmp_path / "data/1").rename(tmp_path / "old")
    (tmp_path / "new").rename(tmp_path / "data/1")
    assert main(["data", "shrink", "csv", "--root", root, "--output", "small"]) == 0
    shrunk = open_csv("small/data.csv")
    assert [VideoReader(video.path).fps for video in shrunk.train] == [20, 10, 25, 30]
    evaluate = ["evaluate", "--model", model, "--dataset", "csv", "--root", root, "--workers", "1"]
    assert main([*evaluate, "--clips", "1", "--output", "report"]) == 0
    assert "frames://25.0::data/4" in Path("report/predictions.csv").read_text()
    Path("list.txt").write_text("frames://10::data/1\n")
    predict = ["predict", "--files-from", "list.txt", "--model", model, "--format", "json"]
    capsys.readouterr()
    assert main(predict) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["video"] == "frames://10::data/1" and row["clips"][-1]["end"] == 1.2
    small = "--backbone c3d_small --weights none --clip-length 4 --short-side 28 --crop 24"
    arguments = [*small.split(), "--epochs", "1", "--batch-size", "2", "--workers", "1"]
    assert main(["train", "--dataset", "csv", "--root", root, *arguments, "--output", "run"]) == 0
