"""Files: which are videos, written whole or not at all, by one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from actionrec.errors import ActionrecError, Failure
from actionrec.files import cache_folder, exclusive, find_videos, replacing
from actionrec.video.reader import VideoReader


def test_files_folders_and_patterns_are_found_and_misses_are_told(tmp_path):
    for name in ("a.mp4", "deep/er/b.AVI", "deep/notes.txt", "deep/.hidden.mp4", "odd.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "odd.bin", tmp_path / "deep", f"{tmp_path}/*.mp4"]
    assert find_videos(paths) == [
        tmp_path / "odd.bin",
        tmp_path / "deep/er/b.AVI",
        tmp_path / "a.mp4",
    ]
    [empty, nothing] = find_videos([tmp_path / "empty", f"{tmp_path}/*.mkv"])
    assert isinstance(empty, Failure) and "has no videos" in empty.error
    assert isinstance(nothing, Failure) and "No file matches" in nothing.error


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "result.csv"
    with replacing(path) as temporary:
        assert temporary.suffix == ".csv" and not path.exists()
        temporary.write_text("first")
    assert path.read_text() == "first"
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "first" and os.listdir(path.parent) == ["result.csv"]


def test_a_folder_that_can_not_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ActionrecError, match="result.csv could not be written .*free some space"):
        with replacing(tmp_path / "file" / "result.csv"):
            pass


@pytest.mark.parametrize("name", ["a" * 241 + ".mp4", "a." + "b" * 243, "ä" * 120 + ".json"])
def test_names_as_long_as_a_file_system_allows_are_written(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("long")
    assert os.listdir(tmp_path) == [name]
    with exclusive(tmp_path / name, "busy"), pytest.raises(ActionrecError, match="busy"):
        with exclusive(tmp_path / name, "busy"):
            pass
    assert os.listdir(tmp_path) == [name]


def test_a_file_system_without_permissions_is_written_to(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with replacing(tmp_path / "result.csv") as temporary:
        temporary.write_text("there")
    assert (tmp_path / "result.csv").read_text() == "there"


def test_contents_are_synced_before_the_new_name_and_the_folder_after_it(tmp_path, monkeypatch):
    target, synced, fsync = tmp_path / "a.txt", [], os.fsync
    target.write_text("old")

    def noting(handle):
        synced.append((os.fstat(handle).st_ino, target.read_text()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert synced == [(target.stat().st_ino, "old"), (tmp_path.stat().st_ino, "new")]


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "disk.csv")
    with replacing(tmp_path / "link.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "disk.csv").read_text() == "new"
    with exclusive(tmp_path / "disk.csv", "busy"), pytest.raises(ActionrecError, match="busy"):
        with exclusive(tmp_path / "link.csv", "busy"):
            pass


def test_addresses_are_failures_of_their_own(tmp_path):
    [failure] = find_videos(["https://example.org/a.mp4?b=*"])
    assert "remote videos can't be read yet" in failure.error


def test_a_second_process_is_refused_until_the_first_is_done(tmp_path):
    script = (
        "import sys; from pathlib import Path; from actionrec.files import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'busy'): pass"
    )
    other = [sys.executable, "-c", script, str(tmp_path / "new" / "result.csv")]
    with exclusive(tmp_path / "new" / "result.csv", "busy"):
        run = subprocess.run(other, capture_output=True, text=True)
        assert run.returncode == 1 and "ActionrecError: busy" in run.stderr
    assert subprocess.run(other).returncode == 0


def test_linked_folders_are_followed_and_loops_are_not(tmp_path, caplog):
    for name in ("root/b/x.mp4", "elsewhere/y.MTS", "root/notes.txt", "root/b/cover.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "root"
    links = {"a": "b", "z": "../elsewhere", "b/loop": "..", "b/lost.mp4": "nowhere.mp4"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    with caplog.at_level("INFO"):
        found = find_videos([root])
    assert found == [root / "b/lost.mp4", root / "b/x.mp4", root / "z/y.MTS"]
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"Files in {root} that are no videos by their names are passed over: 2,")


def test_a_video_named_twice_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    assert find_videos(["./a.mp4", "a.mp4", ".", tmp_path / "a.mp4"]) == [Path("a.mp4")]


@pytest.mark.parametrize(
    ("name", "codec", "kind", "pixels"),
    [
        ("v.mts", "mpeg2video", "mpegts", "yuv420p"),
        ("v.m2v", "mpeg2video", None, "yuv420p"),
        ("v.vob", "mpeg2video", "vob", "yuv420p"),
        ("v.mxf", "mpeg2video", "mxf", "yuv420p"),
        ("v.asf", "msmpeg4v2", "asf", "yuv420p"),
        ("v.gif", "gif", None, "rgb8"),
        ("v.y4m", "wrapped_avframe", "yuv4mpegpipe", "yuv420p"),
        ("v.dv", "dvvideo", None, "yuv420p"),
    ],
)
def test_videos_of_cameras_and_discs_are_found_and_read(tmp_path, name, codec, kind, pixels):
    with av.open(str(tmp_path / name), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = (720, 576) if codec == "dvvideo" else (64, 48)
        stream.pix_fmt = pixels
        for index in range(10):
            picture = np.full((stream.height, stream.width, 3), 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    [path] = find_videos([tmp_path])
    shades = VideoReader(path).read(range(10)).mean((1, 2, 3))
    assert len(shades) == 10 and (np.diff(shades) > 10).all()


def test_without_a_home_folder_there_is_a_sentence(monkeypatch):
    monkeypatch.setenv("ACTIONREC_CACHE", "~nobody-of-that-name/cache")
    with pytest.raises(ActionrecError, match="no home folder to keep downloads in; set the"):
        cache_folder()
