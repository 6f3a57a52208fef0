"""Videos are found in folders, by patterns and at addresses, each once."""

import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from actionrec.errors import Failure
from actionrec.video.address import Address
from actionrec.video.reader import VideoReader
from actionrec.video.sources import find_videos


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


def test_an_address_of_http_is_no_pattern_and_is_named_once():
    address = "https://example.org/a.mp4?b=*"
    assert find_videos([address, address]) == [Address(address)]
    [path] = find_videos(["file:///tmp/a%20b.mp4"])
    assert path == Path("/tmp/a b.mp4")


def test_linked_folders_are_followed_and_loops_are_not(tmp_path, caplog):
    for name in ("root/b/x.mp4", "elsewhere/y.MTS", "root/notes.txt", "root/b/cover.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "root"
    links = {"a": "b", "z": "../elsewhere", "b/loop": "..", "b/lost.mp4": "nowhere.mp4"}
    links["b/itself"] = "itself"
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    with caplog.at_level("INFO"):
        found = find_videos([root])
    assert found == [root / "b/lost.mp4", root / "b/x.mp4", root / "z/y.MTS"]
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"Files in {root} that are no videos by their names are passed over: 3,")


def test_a_video_named_twice_is_one_in_its_first_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    assert find_videos(["./a.mp4", "a.mp4", ".", tmp_path / "a.mp4"]) == [Path("a.mp4")]
    (tmp_path / "b.mp4").touch()
    assert find_videos(["b.mp4", "."]) == [Path("b.mp4"), Path("a.mp4")]


def test_archives_are_found_by_patterns_and_at_home_and_a_folder_may_be_called_like_one(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "folder.tar" / "a.mp4").touch()
    for name in ("1", "2"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(tmp_path / "folder.tar" / "a.mp4", f"{name}.mp4")
    first, second = (Address(f"tar://{n}.mp4::{tmp_path / f'{n}.tar'}") for n in (1, 2))
    assert find_videos(["~/1.tar"]) == [first]
    assert find_videos(["~/?.tar"]) == find_videos([f"{tmp_path}/[0-9].tar"]) == [first, second]
    assert find_videos([tmp_path / "folder.tar"]) == [tmp_path / "folder.tar" / "a.mp4"]


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
