"""A job on a cluster: every video gets one row, whatever dies, in a bucket as on disk."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest
from local_server import serving
from local_storage import local_storage

from actionrec.cli.main import main
from actionrec.errors import ActionrecError
from actionrec.models.inference import InferenceModel
from actionrec.prediction.videos import predict_video

PROJECT = Path(__file__).parents[1]
FAULTY_DECODER = PROJECT / "scripts" / "faulty_decoder"


@pytest.fixture(scope="module")
def ray():
    return pytest.importorskip("ray")


@pytest.fixture(scope="module")
def bucket():
    """The address of a bucket of a local S3."""
    with local_storage("lake"):
        yield "s3://lake"


@pytest.fixture(scope="module")
def cluster(ray, bucket):
    """Two nodes with a core each, on which some videos break the decoder."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", f"{FAULTY_DECODER}{os.pathsep}{PROJECT}")
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Else the workers wait for whatever else this machine does.
    patch.setenv("RAY_worker_niceness", "0")
    # Nor are they killed for the memory that it takes.
    patch.setenv("RAY_memory_monitor_refresh_ms", "0")
    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def videos(tmp_path_factory, encode):
    """The names of 24 good videos and of six bad ones, and their folder."""
    folder = tmp_path_factory.mktemp("cluster")
    clip = encode(folder / "clip.avi", frames=30)
    names = [f"{number}.avi" for number in range(24)]
    for name in [*names, "crash.avi", "hang.avi", "fatal.avi"]:
        (folder / name).hardlink_to(clip)
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.avi").touch()
    return folder, [*names, "crash.avi", "text.mp4", "hang.avi", "empty.avi", "fatal.avi", "no.mp4"]


REASONS = {
    "crash.avi": "crash.avi crashes the decoder (signal 11)",
    "hang.avi": "hang.avi was given up after 3 s",
    "fatal.avi": "fatal.avi was given up, because it ended two workers",
    "text.mp4": "text.mp4 could not be read",
    "empty.avi": "empty.avi is empty",
    "no.mp4": "no.mp4 is not a file",
}


def rows_at(address):
    """The rows of all parts that are there, read as others read them."""
    from fsspec.core import url_to_fs
    from pyarrow import parquet

    filesystem, root = url_to_fs(address)
    filesystem.invalidate_cache()
    parts = filesystem.glob(f"{root}/part-*.parquet")
    return [
        row for part in parts for row in parquet.read_table(part, filesystem=filesystem).to_pylist()
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_every_video_has_one_row_whatever_dies(
    cluster, bucket, videos, model, monkeypatch, capsys, caplog
):
    folder, names = videos
    import s3fs

    # Bad ones in the middle, two of them and a good one twice.
    listed = [*names[:10], *names[24:], *names[10:24], "./text.mp4", "0.avi"]
    with s3fs.S3FileSystem().open(f"{bucket}/videos.txt", "w") as file:
        file.write("\n".join(listed))
    output = f"{bucket}/actions"
    arguments = ["--files-from", f"{bucket}/videos.txt", "--model", model, "--output", output]
    where = ["--cluster", "ray", "--address", cluster.address, "--timeout", "3"]
    # Which engine is the fastest is measured, and may be another one each time.
    exact = ["--engine", "torch", "--precision", "float32"]
    command = [sys.executable, "-m", "actionrec", "predict", *arguments, *where, *exact]
    run = subprocess.Popen(command, cwd=folder)
    try:
        while not rows_at(output):
            assert run.poll() is None, "the command has ended already"
            time.sleep(0.2)
    finally:
        run.kill()
        run.wait()
    before = {row["video"] for row in rows_at(output)}
    assert len(before) < len(names)
    again = subprocess.run([*command, "--workers", "1:1"], cwd=folder, capture_output=True)
    said = again.stderr.decode()
    assert again.returncode == 1, said
    assert f"{len(before)} of {len(names)} videos are done already." in said
    assert "Traceback" not in said and not again.stdout
    rows = {row["video"]: row for row in rows_at(output)}
    assert len(rows_at(output)) == len(names) and set(rows) == set(names)
    reasons = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert set(reasons) == set(REASONS)
    for name, reason in REASONS.items():
        assert reason in reasons[name]
    ready = InferenceModel.load(model, precision="float32", engine="torch")
    alone = asdict(predict_video(ready, folder / "3.avi"))
    assert rows["3.avi"]["labels"] == [entry["label"] for entry in alone["top"]]
    scores = [entry["score"] for entry in alone["top"]]
    assert rows["3.avi"]["scores"] == pytest.approx(scores, abs=2e-6)

    # What is done is not done again, and what was made by other settings is not mixed with it.
    monkeypatch.chdir(folder)
    words = [*command[3:], "--address", "127.0.0.1:1"]
    assert main(words) == 1 and len(rows_at(output)) == len(names)
    assert f"All {len(names)} videos are in {output} already" in caplog.text
    assert main([*words, "--topk", "2"]) == 2
    assert f"{output} was made with topk 5, not 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dataset_has_the_columns_of_the_file(cluster, videos, model, ray, monkeypatch):
    import actionrec
    from actionrec.prediction import parquet

    folder, _ = videos
    monkeypatch.chdir(folder)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    given = ray.data.from_items([{"path": name} for name in ("./0.avi", "text.mp4", "./0.avi")])
    result = actionrec.predict_dataset(given, model, topk=2, workers=(1, 1), column="path")
    assert isinstance(result, ray.data.Dataset)
    rows = result.take_all()
    ray.shutdown()
    assert set(rows[0]) == set(parquet.schema().names)
    assert sorted(row["video"] for row in rows) == ["./0.avi", "./0.avi", "text.mp4"]
    for row in rows:
        assert (row["error"] is None) == (row["video"] == "./0.avi")
        assert row["error"] or len(row["labels"]) == 2


# What is refused


@pytest.fixture
def here(videos, model, tmp_path, monkeypatch):
    """The words of a command that predicts a video."""
    monkeypatch.chdir(tmp_path)
    folder, _ = videos
    return ["predict", str(folder / "0.avi"), "--model", model]


def test_without_ray_a_sentence_says_what_to_install(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("actionrec.prediction.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    assert main([*here, "--output", "out", "--cluster", "ray"]) == 1
    assert "pip install 'actionrec[ray]'" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cluster", "ray"], "--cluster needs --output with a folder"),
        (["--cluster", "ray", "--output", "a.parquet"], "--cluster needs --output with a folder"),
        (["--cluster", "ray", "--output", "a", "--shard", "1/2"], "leave out --shard"),
        (["--cluster", "ray", "--output", "a", "--workers", "4:2"], "workers is 4:2"),
        (["--cluster", "ray", "--output", "a", "--workers", "0"], "workers is 0"),
        (["--cluster", "ray", "--output", "a", "--workers", "0:0"], "workers is 0:0"),
        (["--output", "s3://lake/a.jsonl"], "is an address, which needs --cluster ray"),
        (["--output", "a.jsonl", "--workers", "1:2"], "a range, needs --cluster ray"),
        (["--output", "a.jsonl", "--address", "auto"], "need --cluster ray"),
        (["--output", "a.jsonl", "--gpus-per-worker", "1"], "need --cluster ray"),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(here, capsys, words, told):
    assert main([*here, *words]) == 2
    assert told in capsys.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_features_are_those_without_a_cluster_to_the_bit(
    cluster, bucket, videos, model, monkeypatch, capsys, caplog
):
    from pyarrow import parquet

    monkeypatch.chdir(videos[0])
    names = ["0.avi", "text.mp4", "1.avi", "no.mp4", "./0.avi"]
    exact = ["--engine", "torch", "--precision", "float32", "--hop", "0.2", "--model", model]
    command = ["features", *names, *exact]
    assert main([*command, "--output", "alone.parquet"]) == 1
    where = ["--cluster", "ray", "--address", cluster.address, "--workers", "1"]
    output = f"{bucket}/features"
    assert main([*command, "--output", output, *where]) == 1
    alone = parquet.read_table("alone.parquet").to_pylist()

    def place(row):
        return row["video"], row["start"] or 0

    assert sorted(rows_at(output), key=place) == sorted(alone, key=place)
    assert len(alone) > 6 and {row["video"] for row in alone} == {*names[:4]}

    # Another address: a cluster is not asked for what is there.
    nowhere = ["--cluster", "ray", "--address", "127.0.0.1:1"]
    assert main([*command, "--output", output, *nowhere]) == 1
    assert f"All 4 videos are in {output} already" in caplog.text
    assert main([*command[:-3], "0.5", "--model", model, "--output", output, *nowhere]) == 2
    assert f"{output} was made with hop 0.2, not 0.5" in capsys.readouterr().err
    assert main(["predict", "0.avi", "--model", model, "--output", output, *nowhere]) == 2
    assert f"{output} holds features, not predictions" in capsys.readouterr().err


def test_a_port_of_something_else_is_told_at_once(cluster, here, capsys, monkeypatch):
    from actionrec.prediction import cluster_connection

    monkeypatch.setattr(cluster_connection, "ANSWER_TIMEOUT", 1.0)
    with serving() as server, socket.create_server(("127.0.0.1", 0)) as silent:
        ports = server.server_port, silent.getsockname()[1]
        places = [f"127.0.0.1:{port}" for port in ports]
        for address in [*places, *(f"ray://{place}" for place in places)]:
            assert main([*here, "--output", "a", "--cluster", "ray", "--address", address]) == 1
            told = f"no Ray cluster at {address} (the port is open, and what answers there is no"
            assert told in capsys.readouterr().err
    # The port of Ray for machines of the cluster is not that for those outside.
    address = f"ray://{cluster.address}"
    assert main([*here, "--output", "a", "--cluster", "ray", "--address", address]) == 1
    assert "has `ray://` to be added or left out?" in capsys.readouterr().err
    assert not Path("a").exists()


def test_an_address_without_a_cluster_is_told_at_once(ray, here, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        assert main([*here, "--output", "a", "--cluster", "ray", "--address", address]) == 1
    assert f"There is no Ray cluster at {address}" in capsys.readouterr().err
    for wrong in ("somewhere", "host:0", "host:99999", "http://host:6379", ":6379", "host:x"):
        assert main([*here, "--output", "a", "--cluster", "ray", "--address", wrong]) == 2
        assert "write auto, host:6379" in capsys.readouterr().err
    assert not Path("a").exists()


def test_a_folder_of_other_things_is_refused(ray, here, capsys):
    Path("a").mkdir()
    Path("a/notes.txt").write_text("mine")
    assert main([*here, "--output", "a", "--cluster", "ray"]) == 2
    assert "was not written by actionrec" in capsys.readouterr().err
    assert os.listdir("a") == ["notes.txt"]


def test_a_bucket_that_does_not_exist_is_told_before_a_cluster_is_asked(ray, bucket, here, capsys):
    nowhere = ["--cluster", "ray", "--address", "127.0.0.1:1"]
    assert main([*here, "--output", "s3://nowhere/actions", *nowhere]) == 1
    assert "s3://nowhere/actions names a bucket that does not exist" in capsys.readouterr().err


def test_more_gpus_than_there_are_is_a_sentence(cluster, here, capsys):
    where = ["--cluster", "ray", "--address", cluster.address]
    assert main([*here, "--output", "a", *where, "--gpus-per-worker", "1"]) == 1
    assert "--gpus-per-worker 1 is more than any machine" in capsys.readouterr().err


def test_machines_of_another_version_are_told(ray):
    from actionrec.prediction.cluster_workers import Place, require_same_versions

    mine = version("actionrec")
    python = "3.{}.0".format
    require_same_versions(Place("1", "host", mine, sys.version.split()[0]))
    with pytest.raises(ActionrecError, match="The machine host has actionrec 9.9, and this one"):
        require_same_versions(Place("1", "host", "9.9", python(sys.version_info.minor)))
    with pytest.raises(ActionrecError, match="The machine host has Python 3.5.0, and this one"):
        require_same_versions(Place("1", "host", mine, python(5)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_video_that_only_the_driver_sees_is_the_clusters_fault(cluster, here, videos, capsys):
    folder = os.open(videos[0], os.O_RDONLY)
    # The number of an open folder means nothing to another process.
    seen = f"/proc/self/fd/{os.dup2(folder, 200)}/0.avi"
    where = ["--cluster", "ray", "--address", cluster.address, "--workers", "1"]
    try:
        assert main(["predict", seen, *here[2:], "--output", "a", *where]) == 1
    finally:
        os.close(folder)
        os.close(200)
    assert f"does not see {seen}, which is here" in capsys.readouterr().err
    assert not list(Path("a").glob("part-*"))
