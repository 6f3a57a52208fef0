"""Videos inside of Parquet files, as Hugging Face's `datasets` writes them, become a list that
trains."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from local_server import serving
from local_storage import local_storage

from actionrec.cli.main import main
from actionrec.datasets import parquet
from actionrec.datasets.csv import open_csv
from actionrec.datasets.storage import index_storage
from actionrec.errors import ActionrecError
from actionrec.video import remote
from actionrec.video.reader import VideoReader

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

# As `datasets` 5.2 writes features: Video is a struct of bytes and path, ClassLabel an int64.
VIDEO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = {"names": ["jump", "run"], "_type": "ClassLabel"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory, encode):
    folder = tmp_path_factory.mktemp("clips")
    return [encode(folder / f"{n}.mp4", frames=12 + n) for n in range(4)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    forget()


def forget():
    remote._states.clear()
    remote._recent._blocks.clear()
    parquet._told.clear()


def write(path, videos, labels, kind=None, feature=CLASSES, noise=0, video="video", **options):
    """A Parquet file of videos (bytes, path) and labels, with the metadata of `datasets`."""
    features = {video: {"_type": "Video"}, "label": feature}
    noted = {"huggingface": json.dumps({"info": {"features": features}})} if feature else None
    rows = [v if v is None else {"bytes": v[0], "path": v[1]} for v in videos]
    columns = {video: pa.array(rows, VIDEO), "label": pa.array(labels, kind or pa.int64())}
    if noise:
        columns["other"] = pa.array([np.random.default_rng(0).bytes(noise)] * len(rows))
    table = pa.table(columns).replace_schema_metadata(noted)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def rows_of(path="data.csv"):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read(clips):
    return [(clip.read_bytes(), clip.name) for clip in clips]


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_videos_and_class_labels_become_files_and_a_list(clips, compression, capsys):
    for side in ("train", "test"):
        name = f"data/{side}-00000-of-00001.parquet"
        write(name, read(clips), [1, 0, 1, 0], compression=compression, row_group_size=3)
    assert main(["data", "index", "data", "--output", "data.csv"]) == 0
    assert "8 videos of 2 labels (4 test, 4 train)" in capsys.readouterr().out
    rows = rows_of()
    assert [row["label"] for row in rows] == ["run", "jump"] * 4
    assert Path(rows[1]["path"]).name == "000001-1.mp4" and "data_videos" in rows[1]["path"]
    dataset = open_csv("data.csv")
    assert (len(dataset.train), len(dataset.val), dataset.labels) == (4, 4, ("jump", "run"))
    for video, clip in zip(dataset.train, clips, strict=True):
        assert video.path.read_bytes() == clip.read_bytes()


@pytest.mark.parametrize(
    ("kind", "labels", "feature", "cells"),
    [
        (
            pa.string(),
            ["run fast", " a "],
            {"dtype": "string", "_type": "Value"},
            ["run fast", "a"],
        ),
        (pa.int64(), [7, 0], {"dtype": "int64", "_type": "Value"}, ["7", "0"]),
        (pa.int64(), [7, 0], None, ["7", "0"]),
        (
            pa.list_(pa.int64()),
            [[0, 1], []],
            {"feature": CLASSES, "_type": "List"},
            ["jump|run", ""],
        ),
        (pa.list_(pa.int64()), [[1], [0]], [CLASSES], ["run", "jump"]),
        (pa.list_(pa.string()), [["a", "b"], ["a"]], None, ["a|b", "a"]),
        (pa.dictionary(pa.int32(), pa.string()), ["x", "y"], None, ["x", "y"]),
    ],
)
def test_labels_are_classes_texts_numbers_or_several(clips, kind, labels, feature, cells):
    write("a.parquet", read(clips[:2]), labels, kind, feature)
    index_storage(["a.parquet"], Path("data.csv"))
    assert [row["label"] for row in rows_of()] == cells


@pytest.mark.parametrize("place", ["http", "storage"])
def test_a_table_at_an_address_is_read_once_and_only_its_videos(clips, place):
    videos = read(clips) * 30
    path = Path(write("t.parquet", videos, [0, 1] * 60, noise=1 << 18, use_dictionary=False))
    wanted = sum(len(data) for data, _ in videos)
    if place == "storage":
        with local_storage("lake") as client:
            client.upload_file(str(path), "lake", "hub/data/train-0.parquet")
            index_storage(["s3://lake/hub"], Path("data.csv"))
        assert {row["split"] for row in rows_of()} == {"train"}
    else:
        with serving() as server:
            server.files["/train.parquet"] = path.read_bytes()
            index_storage([f"{server.url}/train.parquet"], Path("data.csv"))
            assert server.sent < wanted + 3 * remote.BLOCK < path.stat().st_size / 2
            # Again, after the list was lost: the videos are there.
            Path("data.csv").unlink()
            sent = server.sent
            forget()
            index_storage([f"{server.url}/train.parquet"], Path("data.csv"))
            assert server.sent - sent < 10
    rows = rows_of()
    assert len(rows) == 120 and len(VideoReader(rows[5]["path"])) == 13


def test_rows_without_a_video_or_label_are_left_out_and_told(clips, caplog):
    good, other, *_ = read(clips)
    videos = [good, None, (None, None), (b"", None), other, (None, "sub/c.mp4"), good]
    write("t/train.parquet", videos, [1, 1, 1, 1, -1, 0, None])
    index_storage(["t/train.parquet"], Path("data.csv"))
    assert [(row["label"], Path(row["path"]).name) for row in rows_of()] == [
        ("run", "000000-0.mp4"),
        ("jump", "c.mp4"),
    ]
    assert rows_of()[1]["path"] == "t/sub/c.mp4"
    assert "rows without a video are left out, the first is row 1." in caplog.text
    assert "rows without a label are left out, the first is row 4." in caplog.text


def test_a_name_in_a_table_leads_nowhere_else(clips):
    data = clips[0].read_bytes()
    names = ["../../x.avi", "/etc/passwd", "a\nb\\c d.MOV", "é" * 300, None, "..", "u\x00v.mp4"]
    write("t.parquet", [(data, name) for name in names], [0] * 7)
    index_storage(["t.parquet"], Path("data.csv"))
    listed = [Path(row["path"]) for row in rows_of()]
    assert [path.name for path in listed if len(path.name) < 60] == [
        *("000000-x.avi", "000001-passwd.mp4", "000002-c_d.mov", "000004.mp4", "000005.mp4"),
        "000006-u_v.mp4",
    ]
    assert len({path.parent for path in listed}) == 1 and all(path.is_file() for path in listed)


def test_an_interrupted_table_is_written_again_and_a_changed_one_anew(clips, monkeypatch, caplog):
    write("t.parquet", read(clips), [0, 1, 0, 1])
    written = []

    def fail(path):
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        return replacing(path)

    replacing = parquet.replacing
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "replacing", fail)
        with pytest.raises(KeyboardInterrupt):
            index_storage(["t.parquet"], Path("data.csv"))
    assert not Path("data.csv").exists()
    index_storage(["t.parquet"], Path("data.csv"))
    assert [len(VideoReader(row["path"])) for row in rows_of()] == [12, 13, 14, 15]
    write("t.parquet", read(clips)[::-1], [0, 1, 0, 1])
    index_storage(["t.parquet"], Path("new.csv"))
    Path("data.csv").unlink()
    index_storage(["t.parquet"], Path("data.csv"))
    assert "t.parquet has changed since it was unpacked" in caplog.text
    assert [len(VideoReader(row["path"])) for row in rows_of()] == [15, 14, 13, 12]


def test_what_is_wrong_with_a_table_is_a_sentence(clips, monkeypatch):
    def refusal(name="t.parquet", key="label"):
        with pytest.raises(ActionrecError) as caught:
            index_storage([name], Path("data.csv"), key)
        assert not Path("data.csv").exists()
        return str(caught.value)

    assert "nowhere.parquet is not there" in refusal("nowhere.parquet")
    Path("t.parquet").write_bytes(b"PAR1" + bytes(100))
    assert "can't be read as a Parquet file" in refusal()
    whole = Path(write("t.parquet", read(clips), [0, 1, 0, 1])).read_bytes()
    assert "has no column 'class'; choose a --label-key of video, label" in refusal(key="class")
    assert "is no label; choose a --label-key" in refusal(key="video")
    Path("t.parquet").write_bytes(whole[: len(whole) // 2])
    assert "can't be read as a Parquet file" in refusal()
    write("t.parquet", read(clips), [0, 1, 2, 1])
    assert "t.parquet, row 2: '2' is no label" in refusal()
    write("t.parquet", read(clips), [0.5] * 4, pa.float64(), None)
    assert "row 0: '0.5' is no label" in refusal()
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), "t.parquet")
    assert "has no column of videos, a struct of bytes and path, among text, label." in refusal()
    two = pa.table({name: pa.array([{"bytes": b"a", "path": "b"}], VIDEO) for name in "ab"})
    pq.write_table(two.append_column("label", [[0]]), "t.parquet")
    assert "has several columns of videos, a, b; rename the one to use to video" in refusal()
    write("t.parquet", [None], [0])
    assert "has no videos" in refusal()
    write("t.parquet", read(clips), [0, 1, 0, 1])
    full = type(parquet.shutil.disk_usage("/"))(10, 10, 0)
    monkeypatch.setattr(parquet.shutil, "disk_usage", lambda _: full)
    assert "GB free; free some space, or choose an --output on another disk" in refusal()
