"""The folder of a job's results: whole parts, one run, one kind of settings, and no row lost."""

import numpy as np
import pytest

from actionrec.errors import ActionrecError, UsageError
from actionrec.prediction import parquet
from actionrec.prediction import parts as module
from actionrec.prediction.journal import FeatureSettings, Settings
from actionrec.prediction.parts import Parts, recorded_settings, resolved
from actionrec.prediction.tasks import Features, Predictions
from actionrec.storage import Folder

pyarrow = pytest.importorskip("pyarrow")
TASK = Predictions(Settings("model", precision="float32"))


@pytest.fixture(params=["memory", "disk"])
def folder(request, tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    if request.param == "disk":
        return Folder.at(str(tmp_path / "results"))
    return Folder.at(f"memory://{request.node.name}")


def rows(name):
    top = [{"label": "yoga", "score": 0.5}]
    clips = [{"start": 0.0, "end": 1.0, "top": top}]
    row = parquet.row({"video": name, "model": "model", "top": top, "clips": clips})
    return pyarrow.RecordBatch.from_pylist([row], TASK.schema()).serialize().to_pybytes()


def test_a_later_run_knows_what_is_done_and_adds_to_it(folder):
    first = Parts(folder, TASK)
    first.append(rows("a.mp4"))
    first.append(TASK.failed("b\udcff.mp4", "b.mp4 is empty."), failed=True)
    first.write()
    first.append(rows("lost.mp4"))  # which is killed before the next part
    second = Parts(folder, TASK)
    assert second.videos == {"a.mp4", "b\\udcff.mp4"}
    assert (second.done, second.failed) == (2, 1)
    second.append(rows("c.mp4"))
    second.write()
    assert Parts(folder, TASK).videos == {"a.mp4", "b\\udcff.mp4", "c.mp4"}


def test_a_part_is_written_when_rows_are_many_or_wait_for_long(folder, monkeypatch):
    monkeypatch.setattr(module, "MOST_VIDEOS", 3)
    parts = Parts(folder, TASK)
    for number in range(7):
        parts.append(rows(f"{number}.mp4"))
    assert len([n for n in folder.names() if n.startswith("part-")]) == 2
    monkeypatch.setattr(module, "SOONEST", 0.0)
    monkeypatch.setattr(module, "SHARE", 0.0)
    parts.write_when_due()
    assert len(Parts(folder, TASK).videos) == 7


def test_other_settings_and_other_folders_are_refused(folder):
    assert recorded_settings(folder) is None
    Parts(folder, TASK)
    recorded = recorded_settings(folder)
    assert recorded["precision"] == "float32"
    # auto is what the results were made with.
    automatic = Predictions(Settings("kinetics400-i3d"))
    assert resolved(automatic, recorded).settings.precision == "float32"
    with pytest.raises(UsageError, match="was made with topk 5, not 3"):
        Parts(folder, Predictions(Settings("model", topk=3, precision="float32")))
    with pytest.raises(UsageError, match="holds predictions, not features"):
        Parts(folder, Features(FeatureSettings("model", precision="float32")))
    folder.write("part-x.parquet", b"no Parquet")
    with pytest.raises(UsageError, match="is not of actionrec"):
        Parts(folder, TASK)
    other = Folder.at(f"{folder.address}/other")
    other.write("notes.txt", b"mine")
    with pytest.raises(UsageError, match="was not written by actionrec"):
        Parts(other, TASK)


def test_rows_that_a_store_refuses_are_kept_and_added_by_the_next_run(
    tmp_path, request, monkeypatch
):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "WAITS", ())
    folder = Folder.at(f"memory://{request.node.name}")
    parts = Parts(folder, TASK)
    parts.append(rows("a.mp4"))

    def refuse(self, path, data):
        raise PermissionError("the token has expired")

    with monkeypatch.context() as patch:
        patch.setattr(type(folder.filesystem), "pipe_file", refuse)
        with pytest.raises(ActionrecError, match="expired.*the last 1 results are kept"):
            parts.write()
    assert Parts(folder, TASK).videos == {"a.mp4"}
    assert not list(tmp_path.rglob("*.parquet"))


def test_rows_that_wait_never_enter_the_results_of_another_model(
    tmp_path, request, monkeypatch, caplog
):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    folder = Folder.at(f"memory://{request.node.name}")
    parts = Parts(folder, TASK)
    waiting = parts._unsaved / "part-1.parquet"
    waiting.parent.mkdir(parents=True)
    other = Parts(Folder.at(f"{folder.address}/other"), Predictions(Settings("other")))
    for contents, reason in (
        (module._parquet_bytes(TASK.table([rows("a.mp4")]), other._metadata), "with model other"),
        (b"half a file", "not a parquet file"),
    ):
        waiting.write_bytes(contents)
        caplog.clear()
        assert Parts(folder, TASK).videos == set()
        assert f"Results in {waiting} are not added" in caplog.text and reason in caplog.text
        assert waiting.read_bytes() == contents


def test_an_earlier_run_ends_when_a_later_one_writes_to_the_same_bucket(request):
    folder = Folder.at(f"memory://{request.node.name}")
    earlier = Parts(folder, TASK)
    later = Parts(folder, TASK)
    earlier.append(rows("a.mp4"))
    with pytest.raises(ActionrecError, match="Another actionrec has begun to write"):
        earlier.write()
    later.append(rows("a.mp4"))
    later.write()
    assert Parts(folder, TASK).done == 1


def test_a_video_with_several_rows_counts_once(folder):
    task = Features(FeatureSettings("model", precision="float32"))
    clips, features = [(0.0, 1.0), (0.5, 1.5)], np.arange(6, dtype=np.float32).reshape(2, 3)
    first = Parts(folder, task)
    for video in ("a.mp4", "b.mp4"):
        rows = parquet.feature_rows(video, "model", clips, features)
        first.append(rows.serialize().to_pybytes())
    first.append(task.failed("c.mp4", "c.mp4 is empty."), failed=True)
    first.write()
    second = Parts(folder, task)
    assert second.videos == {"a.mp4", "b.mp4", "c.mp4"}
    assert (second.done, second.failed) == (3, 1)


def test_a_part_of_large_rows_is_written_early(folder, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 1)
    parts = Parts(folder, TASK)
    parts.append(rows("a.mp4"))
    assert Parts(folder, TASK).videos == {"a.mp4"}
