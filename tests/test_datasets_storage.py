"""Shards, folders and buckets become a CSV file that trains."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
from local_server import serving

from actionrec.cli.main import main
from actionrec.datasets.csv import open_csv
from actionrec.datasets.storage import index_storage
from actionrec.errors import ActionrecError, UsageError
from actionrec.video import remote
from actionrec.video.reader import VideoReader


@pytest.fixture(scope="module")
def videos(tmp_path_factory, encode):
    folder = tmp_path_factory.mktemp("videos")
    return [encode(folder / f"{n}.mp4", frames=12 + n) for n in range(4)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    remote._states.clear()


def shard(path, samples):
    """A tar archive with the texts or files by name."""
    with tarfile.open(path, "w") as tar:
        for name, content in samples.items():
            if isinstance(content, Path):
                tar.add(content, name)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content.encode())
                tar.addfile(info, io.BytesIO(content.encode()))
    return path


def rows_of(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("suffix", "text"),
    [("cls", "{}"), ("txt", "run {}\n"), ("json", '{{"label": "ä {}", "other": 1}}')],
)
def test_shards_of_webdataset_are_listed_and_train(videos, suffix, text):
    for side in ("train-000", "train-001", "val-000"):
        samples = {}
        for label in (0, 1):
            samples[f"s/{label}.mp4"] = videos[label]
            samples[f"s/{label}.{suffix}"] = text.format(label)
        shard(Path(f"{side}.tar"), samples)
    assert main(["data", "index", "train-{000..001}.tar", "val-*.tar", "--output", "l/d.csv"]) == 0
    rows = rows_of("l/d.csv")
    assert [row["split"] for row in rows] == ["train"] * 4 + ["val"] * 2
    assert rows[0]["path"].endswith("train-000.tar") and rows[0]["path"].startswith("tar://s/0.mp4")
    dataset = open_csv("l/d.csv")
    assert len(dataset.labels) == 2
    assert [len(VideoReader(video.path)) for video in dataset.val] == [12, 13]
    if suffix == "cls":
        small = "--backbone c3d_small --weights none --clip-length 4 --short-side 36 --crop 32"
        arguments = [*small.split(), "--epochs", "1", "--batch-size", "2", "--workers", "1"]
        assert main(["train", "--dataset", "csv", "--root", "l/d.csv", *arguments]) == 0


def test_shards_on_a_server_stay_there(videos):
    path = shard(Path("train-0.tar"), {"a.mp4": videos[0], "a.cls": "x"})
    with serving() as server:
        server.files["/train-0.tar"] = path.read_bytes()
        index_storage([f"{server.url}/train-{{0..0}}.tar"], Path("d.csv"))
        [row] = rows_of("d.csv")
        assert row["path"] == f"tar://a.mp4::{server.url}/train-0.tar"
        assert len(VideoReader(row["path"])) == 12


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ({"a.mp4": "x"}, "the sample a has no .cls, .txt or .json"),
        ({"a.mp4": "x", "a.json": '{"class": "b"}'}, "no 'label'; choose a --label-key of class"),
        ({"a.mp4": "x", "a.json": "no json"}, "no 'label'"),
        ({"a.mp4": "x", "a.json": '{"label": ["b"]}'}, "is no label"),
        ({"a.mp4": "x", "a.cls": " "}, "is no label"),
        ({"a.txt": "x"}, "has no videos"),
    ],
)
def test_what_is_wrong_with_a_shard_is_a_sentence(samples, said):
    shard(Path("a.tar"), samples)
    with pytest.raises(ActionrecError, match=said):
        index_storage(["a.tar"], Path("d.csv"))
    assert not Path("d.csv").exists()


def test_the_label_may_stand_under_another_key(videos):
    shard(Path("a.tar"), {"a.mp4": videos[0], "a.json": '{"class": 7}'})
    assert main(["data", "index", "a.tar", "--label-key", "class", "--output", "d.csv"]) == 0
    assert rows_of("d.csv") == [{"path": "tar://a.mp4::a.tar", "label": "7"}]
    with pytest.raises(UsageError, match="is there already"):
        index_storage(["a.tar"], Path("d.csv"))


@pytest.mark.parametrize("place", ["here", "storage"])
@pytest.mark.parametrize("metadata", [None, "metadata.csv", "metadata.jsonl"])
def test_folders_of_the_hub_are_listed_by_their_tables_or_names(videos, place, metadata):
    fsspec = pytest.importorskip("fsspec")
    files = {}
    for side in ("train", "validation"):
        table = []
        for number, label in enumerate(("run", "walk")):
            name = f"{label}/{number}.mp4" if metadata is None else f"{number}.mp4"
            files[f"{side}/{name}"] = videos[number].read_bytes()
            table.append({"file_name": name, "label": label})
        if metadata == "metadata.csv":
            lines = ["file_name,label", *(",".join(row.values()) for row in table)]
            files[f"{side}/{metadata}"] = "\n".join(lines).encode()
        elif metadata:
            files[f"{side}/{metadata}"] = "\n".join(map(json.dumps, table)).encode()
    if place == "here":
        for name, data in files.items():
            Path("data", name).parent.mkdir(parents=True, exist_ok=True)
            Path("data", name).write_bytes(data)
        source = "data"
    else:
        source = "memory://data"
        fsspec.filesystem("memory").store.clear()
        for name, data in files.items():
            fsspec.filesystem("memory").pipe(f"/data/{name}", data)
    index_storage([source], Path("d.csv"))
    rows = rows_of("d.csv")
    assert [(row["label"], row["split"]) for row in rows] == [
        *(("run", "train"), ("walk", "train"), ("run", "val"), ("walk", "val"))
    ]
    dataset = open_csv("d.csv")
    assert [len(VideoReader(video.path)) for video in dataset.train] == [12, 13]


def test_what_can_not_be_listed_is_a_sentence(videos):
    for sources, said in (
        (["https://example.org/videos/"], "HTTP has no folders"),
        (["nowhere"], "is not a folder"),
        (["*.tar"], "No file matches"),
        (["{0..999999999}.tar"], "check the numbers"),
    ):
        with pytest.raises(ActionrecError, match=said):
            index_storage(sources, Path("d.csv"))
    Path("train").mkdir()
    Path("train/a.mp4").write_bytes(videos[0].read_bytes())
    with pytest.raises(ActionrecError, match="lies in no folder that names its label"):
        index_storage(["train"], Path("d.csv"))
    shard(Path("train-0.tar"), {"a.mp4": videos[0], "a.cls": "x"})
    shard(Path("more.tar"), {"a.mp4": videos[0], "a.cls": "x"})
    with pytest.raises(ActionrecError, match="more.tar tells no split"):
        index_storage(["train-0.tar", "more.tar"], Path("d.csv"))
    Path("hub").mkdir()
    Path("hub/train-0.parquet").touch()
    with pytest.raises(ActionrecError, match="train-0.parquet can't be read as a Parquet file"):
        index_storage(["hub"], Path("d.csv"))
