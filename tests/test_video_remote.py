"""Videos at addresses give the frames of the same file here, or an error; never another file's."""

import json
import os
import re
import shutil
import socket
import tarfile
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from local_server import serving
from local_storage import local_storage

from actionrec.cli.main import main
from actionrec.errors import UsageError, VideoError
from actionrec.video import block_cache, remote
from actionrec.video.address import Address, beside
from actionrec.video.block_cache import BlockCache, cache_size
from actionrec.video.container import opened
from actionrec.video.reader import VideoReader
from actionrec.video.sources import find_videos

SMALL_BLOCK = 16384


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """A cache of its own with small blocks, and no memory of other tests; no waiting."""
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    for module in (remote, block_cache):
        monkeypatch.setattr(module, "BLOCK", SMALL_BLOCK)
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))
    forget()
    yield tmp_path / "cache" / "remote"
    forget()


def forget():
    """As in a new process."""
    remote._states.clear()
    remote._recent._blocks.clear()
    block_cache._cache_in.cache_clear()
    remote._tell_no_parts.cache_clear()


def encode_noise(path, frames, seed):
    """A video of some ten blocks with many key frames: noise does not compress."""
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            picture = generator.integers(256, size=(48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return encode_noise(tmp_path_factory.mktemp("video") / "a.mp4", 60, seed=0)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return encode_noise(tmp_path_factory.mktemp("video") / "b.mp4", 50, seed=1)


@pytest.fixture
def server(video):
    with serving() as server:
        server.files["/a.mp4"] = video.read_bytes()
        yield server


@pytest.fixture
def url(server):
    return f"{server.url}/a.mp4"


def frames_of(path):
    reader = VideoReader(path)
    return reader.read(range(len(reader)))


# HTTP


def test_frames_are_those_of_the_file_and_every_byte_is_fetched_once(video, server, url):
    assert video.stat().st_size > 2 * SMALL_BLOCK
    here, there = VideoReader(video), VideoReader(url)
    assert there.index == here.index
    assert np.array_equal(there.read(range(60)), frames_of(video))
    assert video.stat().st_size <= server.sent < video.stat().st_size + 100
    sent = server.sent
    forget()
    assert np.array_equal(frames_of(url), frames_of(video))
    # Whether it has changed is asked with a byte.
    assert server.sent == sent + 1


def test_a_clip_needs_only_the_blocks_around_it(server, tmp_path, empty_cache):
    video = encode_noise(tmp_path / "long.mp4", 300, seed=2)
    server.files["/long.mp4"] = video.read_bytes()
    reader = VideoReader(f"{server.url}/long.mp4")
    assert reader.index.access == "time"
    for block in empty_cache.iterdir():
        block.unlink()
    remote._recent._blocks.clear()
    sent = server.sent
    assert np.array_equal(reader.read([250]), VideoReader(video).read([250]))
    assert server.sent - sent < video.stat().st_size / 4


def test_redirects_are_followed_and_circles_are_an_error(video, server, url):
    server.moved = {"/short": url, "/circle": f"{server.url}/circle"}
    assert np.array_equal(frames_of(f"{server.url}/short"), frames_of(video))
    with pytest.raises(VideoError, match="redirects in a circle"):
        VideoReader(f"{server.url}/circle")


def test_an_answer_that_breaks_off_is_asked_for_again(video, server, url):
    server.statuses = [503, 500]
    server.break_after = 3000
    with pytest.raises(VideoError, match="/a.mp4 could not be read .*the connection broke"):
        VideoReader(url)
    server.break_after = None
    server.statuses = [429]
    assert np.array_equal(frames_of(url), frames_of(video))


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "is not there"), (410, "is not there"), (403, "expired or needs a key"), (500, "500")],
)
def test_refusals_are_a_sentence(server, url, status, said):
    server.statuses = [status] * 3
    with pytest.raises(VideoError, match=said) as caught:
        VideoReader(f"{url}?signature=secret")
    assert "secret" not in str(caught.value)


def test_an_address_that_expires_on_the_way_is_an_error(server, url):
    state = Address(url).stat()
    file = Address(url).open()
    assert len(file.read(10)) == 10
    server.statuses = [403]
    file.seek(state.st_size - 10)
    with pytest.raises(VideoError, match="expired"):
        file.read(10)


def test_a_server_that_hangs_is_given_up(server, url, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", (1, 0.2))
    server.hangs = True
    with pytest.raises(VideoError, match="no answer in time"):
        VideoReader(url)


def test_a_server_that_drips_is_given_up(server, url, monkeypatch):
    state = Address(url).stat()
    monkeypatch.setattr(remote, "SLOWEST", 0.05)
    monkeypatch.setattr(remote, "CHUNK", 1000)
    server.pause = 0.1
    with pytest.raises(VideoError, match="no answer in time"):
        Address(url).source().part(0, state.st_size, state)


@pytest.mark.parametrize("tag", ['"strong"', 'W/"weak"', None])
def test_a_server_without_parts_gives_the_whole_file_once(video, server, url, tag, caplog):
    server.ranges, server.tag = False, tag
    assert np.array_equal(frames_of(url), frames_of(video))
    assert caplog.text.count("gives no parts of files") == 1
    if tag:
        sent = server.sent
        forget()
        assert np.array_equal(frames_of(url), frames_of(video))
        assert server.sent == sent


def test_a_whole_file_that_another_process_deletes_is_fetched_anew(server, url, video, monkeypatch):
    def deleted(path):
        raise FileNotFoundError(path)

    server.ranges = False
    assert np.array_equal(frames_of(url), frames_of(video))
    forget()
    monkeypatch.setattr(os, "utime", deleted)
    assert np.array_equal(frames_of(url), frames_of(video))


def test_a_server_that_says_no_length_gives_the_whole_file(video, server, url):
    server.ranges = server.length = False
    assert np.array_equal(frames_of(url), frames_of(video))


def test_a_whole_file_needs_room_in_the_cache(server, url, monkeypatch):
    server.ranges = False
    monkeypatch.setenv("ACTIONREC_CACHE_SIZE", "0.00001")
    with pytest.raises(VideoError, match="doesn't fit into the cache"):
        VideoReader(url)


@pytest.mark.parametrize("tag", ['"second"', '"first"'], ids=["tag", "length"])
def test_a_file_that_changes_meanwhile_is_an_error_and_then_the_new_one(server, url, other, tag):
    file = Address(url).open()
    file.read(10)
    server.files["/a.mp4"], server.tag = other.read_bytes(), tag
    file.seek(2 * SMALL_BLOCK)
    with pytest.raises(VideoError, match="has changed while it was read"):
        file.read(SMALL_BLOCK)
    # Nothing of the old one is left.
    assert np.array_equal(frames_of(url), frames_of(other))


def test_a_reader_reads_the_version_that_it_has_counted_and_no_other(server, url, video, other):
    reader = VideoReader(url)
    server.files["/a.mp4"], server.tag = other.read_bytes(), '"second"'
    # As after a minute.
    forget()
    with pytest.raises(VideoError, match="has changed while it was read"):
        reader.read([0])
    assert len(VideoReader(url)) == 50


def test_a_file_that_has_changed_since_is_read_anew(server, url, video, other):
    assert np.array_equal(frames_of(url), frames_of(video))
    server.files["/a.mp4"], server.tag = other.read_bytes(), '"second"'
    forget()
    assert np.array_equal(frames_of(url), frames_of(other))


def test_without_a_tag_the_ends_of_a_file_tell_its_version(server, url, video, other):
    server.tag = None
    assert np.array_equal(frames_of(url), frames_of(video))
    sent = server.sent
    forget()
    assert np.array_equal(frames_of(url), frames_of(video))
    assert server.sent - sent < 2 * remote.SAMPLE + 10
    server.files["/a.mp4"] = other.read_bytes()
    forget()
    assert np.array_equal(frames_of(url), frames_of(other))


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_server_that_lies_about_the_length_is_an_error(server, url, video, factor):
    server.announced = int(factor * video.stat().st_size)
    with pytest.raises(VideoError):
        VideoReader(url)


def test_a_web_page_and_an_empty_file_are_no_videos(server):
    server.files |= {"/watch/": b"<html>", "/empty.mp4": b""}
    with pytest.raises(VideoError, match="is a web page, not a video"):
        VideoReader(f"{server.url}/watch/")
    with pytest.raises(VideoError, match="is empty"):
        VideoReader(f"{server.url}/empty.mp4")


def test_an_error_in_the_middle_of_a_file_is_not_taken_for_its_end(server, url):
    with pytest.raises(VideoError, match="is not there"):
        with opened(Address(url)) as (container, stream):
            frames = container.decode(stream)
            next(frames)
            server.files.clear()
            assert len(list(frames)) < 60


def test_other_decoders_say_that_they_need_files(url):
    pytest.importorskip("decord")
    from actionrec.video.decoders import open_video

    with pytest.raises(VideoError, match="decord, which needs a file"):
        open_video(url, "decord")


# The cache


def test_a_torn_block_is_fetched_anew(server, url, video, empty_cache):
    frames_of(url)
    for block in empty_cache.iterdir():
        block.write_bytes(block.read_bytes()[:-1] + b"?")
    forget()
    assert np.array_equal(frames_of(url), frames_of(video))


def test_the_cache_keeps_its_size_and_the_blocks_used_last(tmp_path):
    kept = BlockCache(tmp_path, 100_000)
    for number in range(300):
        kept.put("file", number, bytes(1000))
        assert kept.get("file", 0) == bytes(1000)
        # The first one was used a moment ago, whatever the clock's steps.
        os.utime(tmp_path / "file-0", (2e9, 2e9))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 100_000 + 1100
    assert kept.get("file", 299) and not kept.get("file", 100)


def test_several_processes_share_the_cache(server, url, video, model, tmp_path):
    copies = []
    for number in range(4):
        server.files[f"/{number}.mp4"] = video.read_bytes()
        copies.append(f"{server.url}/{number}.mp4")
    arguments = ["predict", *copies, "--model", model, "--workers", "2", "--output"]
    assert main([*arguments, str(tmp_path / "first.jsonl")]) == 0
    sent = server.sent
    assert main([*arguments, str(tmp_path / "second.jsonl")]) == 0
    assert server.sent == sent + len(copies)


def test_a_full_disk_costs_the_cache_and_nothing_else(server, url, video, caplog, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(block_cache.tempfile, "NamedTemporaryFile", full)
    assert np.array_equal(frames_of(url), frames_of(video))
    assert caplog.text.count("are read without a cache from here on") == 1
    forget()
    server.ranges = False
    with pytest.raises(VideoError, match="doesn't fit into the cache; free some space"):
        frames_of(url)


def test_the_last_gigabyte_of_the_disk_is_left_to_others(
    server, url, video, caplog, monkeypatch, empty_cache
):
    left = type(shutil.disk_usage("/"))(10**10, 10**10 - 10**8, 10**8)
    monkeypatch.setattr(block_cache.shutil, "disk_usage", lambda _: left)
    assert np.array_equal(frames_of(url), frames_of(video))
    assert "less than 1 GB of the disk is free" in caplog.text
    assert not list(empty_cache.iterdir())


@pytest.mark.parametrize("size", ["-1", "much", "nan"])
def test_a_size_that_is_no_number_of_gigabytes_is_refused(monkeypatch, size):
    monkeypatch.setenv("ACTIONREC_CACHE_SIZE", size)
    with pytest.raises(UsageError, match="in GB|to GB"):
        cache_size()


def test_threads_read_one_file_together(server, url, video):
    expected, found = frames_of(video), []
    threads = [threading.Thread(target=lambda: found.append(frames_of(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(each, expected) for each in found)


# All other storage


def test_other_storage_is_read_through_fsspec(video, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/clips/a.mp4", video.read_bytes())
    memory.pipe("/clips/notes.txt", b"no video")
    assert np.array_equal(frames_of("memory://clips/a.mp4"), frames_of(video))
    assert find_videos(["memory://clips/"]) == [Address("memory:///clips/a.mp4")]
    assert find_videos(["memory://clips/*.mp4"]) == [Address("memory:///clips/a.mp4")]
    [nothing] = find_videos(["memory://clips/*.avi"])
    assert "has no videos in it" in nothing.error
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(video, "a.mp4")
    memory.pipe("/shards/1.tar", (tmp_path / "shard.tar").read_bytes())
    for archive in ("memory://shards/1.tar", "memory://shards/*.tar"):
        [found] = find_videos([archive])
        assert found.url.startswith("tar://a.mp4::memory://")
        assert np.array_equal(frames_of(found), frames_of(video))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://clips/missing.mp4", "is not there"),
        ("nonsense://a/b.mp4", "could not be read"),
        ("http://127.0.0.1:1/a.mp4", "no connection"),
        ("http://[::1/a.mp4", "is no address"),
        ("http:///a.mp4", "no address"),
    ],
)
def test_addresses_that_lead_nowhere_are_a_sentence(url, said):
    with pytest.raises(VideoError, match=said):
        VideoReader(url)


def test_a_missing_library_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(VideoError, match="pip install gcsfs"):
        VideoReader("gs://bucket/a.mp4")


@pytest.fixture(scope="module")
def bucket(video):
    with local_storage("clips") as client:
        client.put_object(Bucket="clips", Key="sub/a.mp4", Body=video.read_bytes())
        yield client


def test_a_bucket_is_read_listed_and_watched_for_changes(bucket, video, other):
    assert np.array_equal(frames_of("s3://clips/sub/a.mp4"), frames_of(video))
    assert find_videos(["s3://clips/"]) == [Address("s3://clips/sub/a.mp4")]
    with pytest.raises(VideoError, match="is not there"):
        VideoReader("s3://clips/sub/b.mp4")
    file = Address("s3://clips/sub/a.mp4").open()
    remote._recent._blocks.clear()
    bucket.put_object(Bucket="clips", Key="sub/a.mp4", Body=other.read_bytes())
    for block in Path(os.environ["ACTIONREC_CACHE"], "remote").iterdir():
        block.unlink()
    with pytest.raises(VideoError, match="has changed while it was read"):
        file.read()
    assert np.array_equal(frames_of("s3://clips/sub/a.mp4"), frames_of(other))


def test_storage_that_hangs_is_given_up(monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "a")
        monkeypatch.setattr(remote, "SLOWEST", 0.5)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(VideoError, match="no answer in time"):
            VideoReader("s3://clips/hangs.mp4")
    s3fs.S3FileSystem.clear_instance_cache()


# Archives


def test_the_videos_of_a_shard_are_read_where_they_lie(server, video, other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tarfile.open("shard.tar", "w") as tar:
        tar.add(video, "one/a.mp4")
        tar.add(other, "b.mp4")
    Path("one.json").write_text("{}")
    server.files["/shard.tar"] = Path("shard.tar").read_bytes()
    for archive in ("shard.tar", f"{server.url}/shard.tar"):
        first, second = find_videos([archive])
        assert str(first) == f"tar://one/a.mp4::{archive}" and first.name == "a.mp4"
        assert np.array_equal(frames_of(first), frames_of(video))
        assert np.array_equal(frames_of(str(second)), frames_of(other))
        assert find_videos([f"tar://b*::{archive}"]) == [second]
        with pytest.raises(VideoError, match="has no file c.mp4"):
            VideoReader(f"tar://c.mp4::{archive}")
    size = Path("shard.tar").stat().st_size
    assert server.sent < size + 10 * SMALL_BLOCK
    # A list elsewhere names it from its own place.
    assert beside(Path("list"), "tar://b.mp4::../shard.tar") == Address(
        "tar://b.mp4::list/../shard.tar"
    )


def test_archives_that_are_none_are_a_sentence(tmp_path, video):
    (tmp_path / "text.tar").write_text("no archive, but long enough to be one" * 100)
    (tmp_path / "cut.tar").write_bytes(b"")
    for name, said in (
        ("text", "can't be read as a tar"),
        ("cut", "archive|no videos"),
        ("no", "not"),
    ):
        [failure] = find_videos([tmp_path / f"{name}.tar"])
        assert re.search(said, failure.error), failure
    with pytest.raises(VideoError, match="is compressed"):
        VideoReader(f"tar://a.mp4::{video}.tar.gz")
    with pytest.raises(VideoError, match="names no archive"):
        VideoReader("tar://a.mp4")


def test_a_shard_that_changes_meanwhile_is_an_error(video, other, tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(video, "a.mp4")
    [address] = find_videos([path])
    file = address.open()
    file.read(10)
    with tarfile.open(path, "w") as tar:
        tar.add(other, "a.mp4")
    file.seek(2 * SMALL_BLOCK)
    with pytest.raises(VideoError, match="has changed"):
        file.read(SMALL_BLOCK)
    assert np.array_equal(frames_of(address), frames_of(other))


# The command line


def test_a_list_with_addresses_and_paths_gives_every_one_a_row(
    server, url, video, model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    missing = f"{server.url}/missing.mp4"
    Path("list.txt").write_text(f"{url}\n{missing}\n{video}\nfile://{video}\n")
    arguments = ["predict", "--files-from", "list.txt", "--model", model, "--output", "all.jsonl"]
    assert main(arguments) == 1
    rows = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    rows = {row["video"]: row for row in rows}
    assert set(rows) == {url, missing, str(video)}
    assert "is not there (404)" in rows[missing]["error"]
    assert rows[url]["clips"] == rows[str(video)]["clips"]
    server.files["/list.txt"] = url.encode()
    listed = ["--files-from", f"{server.url}/list.txt", "--model", model]
    assert main(["predict", *listed, "--format", "json"]) == 0
    assert main(["predict", "--files-from", f"{missing}.txt", "--model", model]) == 2
    assert main(["timeline", url, "--model", model, "--output", "a.srt"]) == 0
    assert main(["explain", url, "--model", model, "--output", "a.png"]) == 0
    assert main(["features", url, "--model", model, "--output", "features"]) == 0
    assert Path("features/a.npy").is_file()


def test_the_command_line_sets_the_size_of_the_cache(url, model, monkeypatch, capsys):
    monkeypatch.setenv("ACTIONREC_CACHE_SIZE", "")
    assert main(["predict", url, "--model", model, "--cache-size", "much"]) == 2
    assert "'much'" in capsys.readouterr().err
    assert main(["predict", url, "--model", model, "--cache-size", "0"]) == 0
    assert not Path(os.environ["ACTIONREC_CACHE"], "remote").exists()


def test_a_data_set_of_addresses_is_checked_and_trained_on(
    server, video, other, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows = ["path,label,split"]
    for number in range(6):
        file = (video, other)[number % 2]
        server.files[f"/{number}.mp4"] = file.read_bytes()
        split = "train" if number < 3 else "val"
        rows.append(f"{server.url}/{number}.mp4,{file.stem},{split}")
    Path("data.csv").write_text("\n".join([*rows, f"{server.url}/gone.mp4,a,val"]))
    assert main(["data", "check", "csv", "--root", "data.csv"]) == 1
    report = json.loads(Path("data.check.json").read_text())
    assert list(report["bad"]) == [f"{server.url}/gone.mp4"]
    assert report["good"][f"{server.url}/0.mp4"][2] == 60
    # Nothing has changed.
    sent = server.sent
    assert main(["data", "check", "csv", "--root", "data.csv"]) == 1
    assert server.sent - sent < 100
    small = "--backbone c3d_small --weights none --clip-length 4 --short-side 36 --crop 32"
    arguments = [*small.split(), "--epochs", "1", "--batch-size", "4", "--workers", "0"]
    assert main(["train", "--dataset", "csv", "--root", "data.csv", *arguments]) == 0
    assert main(["data", "shrink", "csv", "--root", "data.csv", "--output", "here"]) == 1
    assert len(list(Path("here").rglob("*.mp4"))) == 6
