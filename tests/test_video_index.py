"""The index of a file's frames: how they are found, and that a file is scanned once."""

import os
import sqlite3
import struct
import subprocess
import sys
import time
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from actionrec.errors import VideoError
from actionrec.video import container, index
from actionrec.video.index import FrameIndex, Orientation, index_of, scan
from actionrec.video.reader import VideoReader

X264 = {"bf": "3", "x264-params": "b-adapt=0:scenecut=0:keyint=12"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("ACTIONREC_CACHE", str(folder))
    return folder


@pytest.fixture
def scans(monkeypatch):
    """The paths that were scanned, in order."""
    paths = []

    def counted(path):
        paths.append(path)
        return scan(path)

    monkeypatch.setattr(index, "scan", counted)
    return paths


def long_ago(path):
    """The file, changed so long ago that its index may be kept."""
    os.utime(path, (time.time() - 100,) * 2)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options", "access"),
    [
        ("v.avi", "mpeg4", {"bf": "2", "g": "600"}, "skip"),
        ("v.avi", "mpeg4", {}, "skip"),
        ("v.avi", "libx264", X264, "count"),
        ("v.ts", "libx264", X264, "count"),
        ("v.flv", "libx264", X264, "count"),
        ("v.mp4", "libx264", X264, "time"),
        ("v.mkv", "libx264", X264, "time"),
    ],
)
def test_shortcuts_are_taken_only_where_they_were_found_exact(
    encode, tmp_path, name, codec, options, access
):
    found = scan(encode(tmp_path / name, codec, frames=40, options=options))
    assert (found.frames, found.fps, found.size, found.access) == (40, 25.0, (48, 64), access)
    if access == "time":
        assert len(found.pts) == 40 and list(found.pts) == sorted(set(found.pts))
        assert len(found.keys) == 4
    else:
        assert found.keys == ()


def test_an_index_survives_being_written_and_read():
    plain = FrameIndex(164, 25.0, (240, 320), Orientation(), "skip")
    timed = FrameIndex(
        3, 29.97, (48, 64), Orientation(True, False, True), "time", (-7, 5, 2**40), ((-7, -9),)
    )
    for found in (plain, timed):
        assert FrameIndex.from_bytes(found.to_bytes()) == found
    hours = replace(timed, frames=200_000, pts=tuple(range(0, 200_000 * 512, 512)))
    assert len(hours.to_bytes()) < 5000
    assert FrameIndex.from_bytes(hours.to_bytes()) == hours


def test_a_file_is_scanned_once_and_again_when_it_changed(encode, tmp_path, cache, scans):
    path = long_ago(encode(tmp_path / "v.avi", frames=10))
    for _ in range(3):
        assert len(VideoReader(path)) == 10
    assert scans == [path]
    long_ago(encode(path, frames=20))
    assert len(VideoReader(path)) == 20
    assert scans == [path, path]


def test_the_cache_serves_other_processes(encode, tmp_path, cache):
    path = long_ago(encode(tmp_path / "v.avi", frames=10))
    index_of(path)
    program = (
        "import sys; from actionrec.video import index; index.scan = None; "
        "print(index.index_of(sys.argv[1]).frames)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr


def test_a_file_that_was_changed_this_moment_is_not_kept(encode, tmp_path, cache, scans):
    path = encode(tmp_path / "v.avi", frames=10)
    index_of(path)
    index_of(path)
    assert scans == [path, path]


def test_a_broken_file_is_named_every_time_and_found_when_it_is_whole(encode, tmp_path, cache):
    path = tmp_path / "v.avi"
    path.write_bytes(b"RIFF")
    for _ in range(2):
        with pytest.raises(VideoError):
            index_of(long_ago(path))
    assert index_of(long_ago(encode(path, frames=10))).frames == 10


@pytest.mark.parametrize("damage", ["no database", "damaged row", "a file for a folder"])
def test_a_cache_that_cannot_be_used_does_no_harm(encode, tmp_path, cache, damage):
    path = long_ago(encode(tmp_path / "v.avi", frames=10))
    if damage == "no database":
        cache.mkdir()
        (cache / "frame_indices.sqlite").write_bytes(b"no database" * 1000)
    elif damage == "damaged row":
        index_of(path)
        with sqlite3.connect(cache / "frame_indices.sqlite") as database:
            database.execute("UPDATE frame_indices SET data=x'00'")
        database.close()
    else:
        cache.write_text("")
    assert index_of(path).frames == 10
    assert len(VideoReader(path).read(range(10))) == 10


def test_a_user_without_a_home_folder_reads_without_a_cache(encode, tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONREC_CACHE", "~nobody-of-that-name/cache")
    path = encode(tmp_path / "video.avi", frames=10)
    os.utime(path, (1, 1))
    assert [index_of(path).frames for _ in range(2)] == [10] * 2


def test_a_locked_cache_is_not_waited_for_and_a_damaged_one_is_begun_anew(
    encode, tmp_path, cache, scans
):
    path = long_ago(encode(tmp_path / "v.avi", frames=10))
    cache.mkdir()
    file = cache / "frame_indices.sqlite"
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    assert [index_of(path).frames for _ in range(5)] == [10] * 5
    # SQLite itself would wait for five.
    assert time.monotonic() - begin < 4
    database.close()
    file.write_bytes(b"no database" * 1000)
    scans.clear()
    assert [index_of(path).frames for _ in range(3)] == [10] * 3
    assert scans == [path]


def test_many_processes_may_write_at_once(encode, tmp_path, cache):
    paths = [long_ago(encode(tmp_path / f"{number}.avi", frames=5)) for number in range(40)]
    program = "import sys; from actionrec.video.index import *; [index_of(p) for p in sys.argv[1:]]"
    writers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", program, *paths]) for _ in range(3)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    with sqlite3.connect(cache / "frame_indices.sqlite") as database:
        assert database.execute("SELECT count(*) FROM frame_indices").fetchone() == (40,)
    database.close()


def not_coded(number):
    """An MPEG-4 picture that says: the same as before (vop_coded 0; ISO/IEC 14496-2, 6.2.5).

    The time of 25 ticks a second is 5 bits long.
    """
    bits = "01" + "0" + "1" + f"{number % 25:05b}" + "1" + "0"
    bits += "0" + "1" * (-(len(bits) + 1) % 8)
    return b"\0\0\1\xb6" + int(bits, 2).to_bytes(len(bits) // 8)


def test_frames_that_the_encoder_left_out_of_an_avi_do_not_exist(encode, tmp_path):
    """XviD writes a few bytes where nothing moved; the decoder gives no frame for them."""
    source = encode(tmp_path / "source.avi", frames=30)
    path = tmp_path / "dropped.avi"
    with av.open(str(source)) as shown, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(shown.streams.video[0])
        number = 0
        for packet in shown.demux(video=0):
            for data in [bytes(packet)] + [not_coded(number + 1)] * (number in (7, 20, 23)):
                if data:
                    copy = av.Packet(data)
                    copy.pts = copy.dts = number
                    copy.time_base, copy.stream = stream.time_base or packet.time_base, stream
                    copy.is_keyframe = packet.is_keyframe
                    container.mux(copy)
                    number += 1
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 33
    with av.open(str(path)) as container:
        decoded = sum(1 for _ in container.decode(video=0))
    video = VideoReader(path)
    assert len(video) == decoded == 30
    assert video.index.access == "count"
    video.verify()
    assert len(video.read(range(30))) == 30


def test_what_is_missing_says_so(tmp_path):
    with pytest.raises(VideoError, match="is not a file; check the path"):
        index_of(tmp_path / "no.avi")
    with pytest.raises(VideoError, match="is not a file; check the path"):
        index_of("nul\0.avi")


@pytest.mark.skipif(av.library_versions["libavcodec"][0] < 62, reason="FFmpeg ignores EXIF")
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_side_data_without_a_name_in_pyav_is_read_past(tmp_path, orientation):
    """MJPEG of a camera, whose EXIF says which way is up."""
    columns = np.linspace(40, 200, 64, dtype=np.uint8)[None, :, None]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "camera.mjpeg"
    Image.fromarray(np.tile(columns, (48, 1, 3))).save(path, "JPEG", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)), dtype=int)
    path.write_bytes(path.read_bytes() * 5)
    with av.open(str(path)) as file, pytest.raises(ValueError, match="is not a valid Type"):
        next(file.decode(video=0)).side_data.get("DISPLAYMATRIX")
    video = VideoReader(path)
    assert (len(video), video.size) == (5, shown.shape[:2])
    assert np.abs(video.read([4])[0] - shown).mean() < 3


@pytest.mark.parametrize("verb", ["predict", "timeline", "check"])
def test_a_picture_larger_than_any_camera_gives_takes_no_memory(tmp_path, model, verb):
    """A GIF of 45 bytes that announces 11000 x 11000 pixels, half a gigabyte a frame."""
    huge = tmp_path / "huge.gif"
    Image.new("P", (1, 1)).save(huge)
    data = bytearray(huge.read_bytes())
    data[6:10] = struct.pack("<HH", 11000, 11000)
    huge.write_bytes(data)
    (tmp_path / "videos.csv").write_text("path,label,split\nhuge.gif,a,val\n")
    words = {"check": ["data", "check", "csv", "--root", tmp_path / "videos.csv"]}
    words = words.get(verb, [verb, huge, "--model", model])
    script = (
        "import resource as r; from actionrec.cli.main import main; code = main();"
        "assert max(r.getrusage(who).ru_maxrss for who in (0, -1)) < 1.5e6; raise SystemExit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True
    )
    assert run.returncode == 1, run.stderr
    assert "has frames of 11000x11000 pixels, more than 12K (12288x8192)" in run.stdout + run.stderr


def test_frames_that_grow_too_large_in_the_middle_are_refused(encode, tmp_path, monkeypatch):
    small = encode(tmp_path / "small.h264", "libx264", frames=5)
    large = encode(tmp_path / "large.h264", "libx264", frames=5, size=(640, 480))
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    assert scan(both).frames == 10
    monkeypatch.setattr(container, "MOST_PIXELS", 320 * 240)
    with pytest.raises(VideoError, match="both.h264 could not be read as a video"):
        scan(both)
