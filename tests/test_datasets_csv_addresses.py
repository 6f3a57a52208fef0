"""CSV lists at addresses: what they list lies relative to them, and each failure is a sentence."""

import json
import tarfile
from pathlib import Path

import pytest
from local_server import serving
from local_storage import local_storage

from actionrec.cli.main import main
from actionrec.datasets.check import without_damaged_videos
from actionrec.datasets.csv import open_csv
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, UsageError
from actionrec.video import remote
from actionrec.video.address import Address
from actionrec.video.reader import VideoReader

ROWS = "path,label,split\nclips/a b#1.mp4,run,train\nclips/b.mp4,jump,train\n../c.mp4,run,val\n"
CLIPS = ("sets/clips/a b#1.mp4", "sets/clips/b.mp4", "c.mp4")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))
    forget()
    yield
    forget()


def forget():
    """As in a new process."""
    remote._states.clear()
    remote._recent._blocks.clear()


@pytest.fixture(scope="module")
def clip(tmp_path_factory, encode):
    return encode(tmp_path_factory.mktemp("clip") / "a.mp4", frames=12).read_bytes()


@pytest.fixture
def server(clip):
    with serving() as server:
        for name in CLIPS:
            server.files["/" + name.replace(" ", "%20").replace("#", "%23")] = clip
        server.files["/sets/data.csv"] = ROWS.encode()
        yield server


@pytest.mark.parametrize("query", ["", "?key=a/b&sign=1"])
def test_paths_are_relative_to_a_list_on_a_server(server, query):
    server.files[f"/sets/data.csv{query}"] = ROWS.encode()
    dataset = open_dataset("csv", f"{server.url}/sets/data.csv{query}")
    paths = [str(video.path).removeprefix(server.url) for video in dataset.train + dataset.val]
    assert paths == ["/sets/clips/a%20b%231.mp4", "/sets/clips/b.mp4", "/c.mp4"]
    assert dataset.train[0].path.name == "a b#1.mp4"
    assert [len(VideoReader(video.path)) for video in dataset.train + dataset.val] == [12] * 3


def test_a_list_in_a_bucket_trains_and_is_evaluated(clip, command):
    with local_storage("lake") as client:
        for name in CLIPS:
            client.put_object(Bucket="lake", Key=name, Body=clip)
        client.put_object(Bucket="lake", Key="sets/data.csv", Body=ROWS.encode())
        data = ["--dataset", "csv", "--root", "s3://lake/sets/data.csv", "--workers", "0"]
        small = "--backbone c3d_small --weights none --clip-length 4 --short-side 36 --crop 32"
        once = ["--epochs", "1", "--batch-size", "2", "--output", "run"]
        assert main(["train", *data, *small.split(), *once]) == 0
        assert "root: s3://lake/sets/data.csv" in Path("run/config.yaml").read_text()
        # The processes that read, too, must know the address and the key of the storage.
        words = ["evaluate", "--model", "run", *data, "--clips", "1", "--format", "json"]
        evaluation = command(*words)
        assert evaluation.returncode == 0, evaluation.stderr
        assert json.loads(evaluation.stdout)["video"]["n"] == 1
        for key, said in (("sets/no.csv", "sets/no.csv is not there"), ("sets", "is a folder")):
            with pytest.raises(ActionrecError, match=f"The CSV file can't be read: .*{said}"):
                open_csv(f"s3://lake/{key}")


def test_the_check_of_a_list_at_an_address_is_kept_in_the_cache(server, clip, capsys):
    server.files["/sets/data.csv"] = f"{ROWS}clips/a.mp4,jump,train\n".encode()
    server.files["/sets/clips/a.mp4"] = clip[: len(clip) // 2]
    root = f"{server.url}/sets/data.csv"
    assert main(["data", "check", "csv", "--root", root]) == 1
    assert f"report: {Path('cache/checks').resolve()}" in capsys.readouterr().out
    left, failures = without_damaged_videos(open_dataset("csv", root))
    assert len(left.train) == 2 and failures[0].video.endswith("/sets/clips/a.mp4")
    assert main(["data", "shrink", "csv", "--root", root, "--output", "small"]) == 1
    assert len(open_csv("small/data.csv").train) == 3


def test_a_list_in_an_archive_lists_what_lies_beside_it(clip):
    Path("clips").mkdir()
    Path("clips/a.mp4").write_bytes(clip)
    Path("data.csv").write_text("path,label,split\na.mp4,run,train\n../clips/./a.mp4,run,val\n")
    with tarfile.open("all.tar", "w") as tar:
        tar.add("clips/a.mp4")
        tar.add("data.csv", "clips/data.csv")
    with pytest.raises(ActionrecError, match="line 3: ../clips/./a.mp4 is already in line 2"):
        open_csv("tar://clips/data.csv::all.tar")
    assert (Address("simplecache::s3://b/sets/data.csv").parent / "a.mp4").url == (
        "simplecache::s3://b/sets/a.mp4"
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/data/a.mp4", "line 2: /data/a.mp4 is a path on one machine, and the list stands at an"),
        ("~/a.mp4", "line 2: ~/a.mp4 is a path on one machine"),
        ("C:\\videos\\a.mp4", "line 2: C:/videos/a.mp4 is a path on one machine"),
        ("../../../a.mp4", "line 2: ../../../a.mp4 leads out of http"),
        ("clips\\b.mp4", None),
        ("s3://elsewhere/a.mp4", None),
    ],
)
def test_a_path_that_has_no_place_beside_the_list_is_refused(server, path, said):
    server.files["/sets/data.csv"] = f"path,label,split\n{path},run,train\nc.mp4,run,val".encode()
    if said is None:
        assert "\\" not in str(open_csv(f"{server.url}/sets/data.csv").train[0].path)
        return
    with pytest.raises(ActionrecError, match=said):
        open_csv(f"{server.url}/sets/data.csv")


def test_rates_of_frames_are_not_used_in_a_list_at_an_address(server, caplog):
    rows = "path,label,split,fps\na.mp4,run,train,30\nb.mp4,run,val,\n"
    server.files["/sets/data.csv"] = rows.encode()
    assert open_csv(f"{server.url}/sets/data.csv").train[0].path.url.endswith("/sets/a.mp4")
    assert "line 2: the fps of a.mp4 is not used" in caplog.text


def test_what_is_wrong_with_a_list_at_an_address_is_a_sentence(server, monkeypatch, capsys):
    def refusal(name="/sets/data.csv"):
        forget()
        with pytest.raises(ActionrecError) as caught:
            open_csv(f"{server.url}{name}")
        return str(caught.value)

    assert "no.csv is not there (404)" in refusal("/no.csv")
    server.files["/page/"] = b"<html>"
    assert "is a web page, not a" in refusal("/page/")
    server.files["/video.csv"] = bytes(range(256))
    assert "can't be read as a CSV file in UTF-8" in refusal("/video.csv")
    server.files["/empty.csv"] = b""
    assert "No column path and no column label" in refusal("/empty.csv")
    with monkeypatch.context() as patch:
        patch.setattr("actionrec.datasets.csv.MOST_BYTES", 20)
        assert "and so is no CSV file; check the address" in refusal()
    server.password = "secret"
    assert "may not be read (401); the address has expired or needs a key" in refusal()
    server.password = None
    server.statuses = [500] * 3
    assert "could not be read" in refusal()
    monkeypatch.setattr(remote, "TIMEOUT", (0.3, 0.3))
    monkeypatch.setattr(remote, "PAUSES", ())
    server.hangs = True
    assert "could not be read" in refusal()
    server.hangs = False
    server.released.set()
    for root in ("https://", "nothing://a/data.csv"):
        assert main(["data", "list", "csv", "--root", root]) in (1, 2)
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    with pytest.raises(UsageError, match="is a folder; give the CSV file"):
        open_csv(".")


def test_a_list_that_changes_while_it_is_read_is_an_error(server, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 32)
    url = f"{server.url}/sets/data.csv"
    remote.state_of(url, Address(url).source())
    server.tag = '"second"'
    with pytest.raises(ActionrecError, match="has changed while it was read"):
        open_csv(url)
    assert open_csv(url).labels == ("jump", "run")
