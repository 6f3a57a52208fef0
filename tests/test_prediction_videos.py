"""`actionrec predict`: the right frames, the documented output, and no fall for one bad file."""

import csv
import io
import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from actionrec.errors import Failure, VideoError
from actionrec.models.classifier import KINETICS400_LABELS, VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.prediction.videos import best, predict_video, predict_videos
from actionrec.video.reader import VideoReader, read_ahead


@pytest.fixture(scope="module")
def ready(small_recognizer):
    return InferenceModel(small_recognizer, precision="float32")


@pytest.fixture(scope="module")
def video(tmp_path_factory, encode):
    return encode(tmp_path_factory.mktemp("video") / "clip.avi", frames=50)


def test_the_scores_are_those_of_clips_cut_and_averaged_by_hand(ready, small_recognizer, video):
    prediction = predict_video(ready, video, clips=3)
    # Of 48 rows, as many as become 32 when 48 become 36, from the middle.
    frames = VideoReader(video).read(range(50), size=(32, 32), crop=(2, 10, 43, 43))
    by_hand = []
    # 4 frames, 2 apart, span 7: the last start is 43, the middle one 21.5, rounded to 22.
    for start in (0, 22, 43):
        clip = frames[start : start + 7 : 2]
        pixels = torch.from_numpy(clip.copy()).permute(3, 0, 1, 2)[None].float()
        network = small_recognizer.network
        with torch.inference_mode():
            by_hand.append(network((pixels / 255 - 0.5) / 0.5).softmax(dim=1)[0])
    mean = torch.stack(by_hand).mean(dim=0)
    scores = {entry.label: entry.score for entry in prediction.top}
    np.testing.assert_allclose([scores[name] for name in "abc"], mean, atol=1e-5)
    assert [(clip.start, clip.end) for clip in prediction.clips] == [
        (0.0, 0.28),
        (0.88, 1.16),
        (1.72, 2.0),
    ]


def test_without_a_number_the_clips_cover_the_video_but_are_ten_at_most(
    ready, video, tmp_path, encode
):
    assert len(predict_video(ready, video).clips) == 8
    long = encode(tmp_path / "long.avi", frames=120)
    assert len(predict_video(ready, long).clips) == 10


def test_a_video_shorter_than_a_clip_is_one_clip(ready, tmp_path, encode):
    short = encode(tmp_path / "short.avi", frames=5)
    [clip] = predict_video(ready, short, clips=10).clips
    assert (clip.start, clip.end) == (0.0, 0.2)


def test_best_orders_by_score_and_keeps_the_labels_order_in_a_tie():
    top = best(np.array([0.2, 0.5, 0.2, 0.1]), ("a", "b", "c", "d"), 3)
    assert [entry.label for entry in top] == ["b", "a", "c"]


@pytest.fixture(scope="module")
def mixed_videos(tmp_path_factory, encode):
    """A good video among every kind of bad one."""
    folder = tmp_path_factory.mktemp("mixed")
    good = encode(folder / "m_good.avi", frames=30)
    (folder / "a_empty.avi").touch()
    (folder / "b_text.mp4").write_text("not a video\n" * 100)
    (folder / "c_cut.avi").write_bytes(good.read_bytes()[: good.stat().st_size * 8 // 10])
    encode(folder / "d_short.avi", frames=5)
    return folder


@pytest.mark.slow
def test_json_holds_an_object_a_video_also_for_those_that_fail(command, model, mixed_videos):
    missing = mixed_videos / "z_missing.mp4"
    run = command("predict", mixed_videos, missing, "--model", model, "--format", "json")
    assert run.returncode == 1
    results = {item["video"].rsplit("/")[-1]: item for item in json.loads(run.stdout)}
    assert list(results) == [
        "a_empty.avi",
        "b_text.mp4",
        "c_cut.avi",
        "d_short.avi",
        "m_good.avi",
        "z_missing.mp4",
    ]
    for name, words in {
        "a_empty.avi": "is empty",
        "b_text.mp4": "could not be read as a video",
        "c_cut.avi": "was cut off",
        "z_missing.mp4": "is not a file",
    }.items():
        assert set(results[name]) == {"video", "error"}
        assert words in results[name]["error"]
        assert results[name]["error"] in run.stderr
    good = results["m_good.avi"]
    given = {"labels", "none_of_these", "uncertainty"}
    assert set(good) == {"video", "model", "top", "clips"} | given
    assert good["labels"] == good["top"][:1] and good["none_of_these"] is False
    assert sum(entry["score"] for entry in good["top"]) == pytest.approx(1, abs=1e-5)
    assert set(good["clips"][0]) == {"start", "end", "top"}
    assert len(results["d_short.avi"]["clips"]) == 1


def test_mistyped_paths_are_told_before_the_network_is_made_ready(model, monkeypatch, capsys):
    from actionrec.cli.main import main

    # To choose an engine, it would compute for seconds.
    monkeypatch.setattr("actionrec.models.inference.InferenceModel.__init__", None)
    assert main(["predict", "no.mp4", "*.none", "--model", model, "--format", "json"]) == 1
    printed = capsys.readouterr()
    errors = [item["error"] for item in json.loads(printed.out)]
    assert errors == [
        "no.mp4 is not a file; check the path.",
        "No file matches *.none; check the pattern.",
    ]
    assert all(error in printed.err for error in errors)


@pytest.mark.slow
def test_csv_and_table_show_the_same_best_class(command, model, video):
    table = command("predict", video, "--model", model, "--topk", 1)
    rows = command("predict", video, "--model", model, "--topk", 1, "--format", "csv")
    assert table.returncode == rows.returncode == 0
    [row] = csv.DictReader(io.StringIO(rows.stdout))
    assert row["rank"] == "1" and not row["error"]
    assert row["label"] == table.stdout.split()[-1]


@pytest.mark.slow
@pytest.mark.network
def test_the_default_model_loads_the_published_classes():
    from actionrec.errors import ActionrecError

    try:
        recognizer = VideoClassifier.load("kinetics400-i3d")
    except ActionrecError as error:
        pytest.skip(f"the published weights can't be had here: {error}")
    assert len(recognizer.config.labels) == 400
    assert recognizer.config.labels[0] == "abseiling"
    assert recognizer.config.labels[-1] == "zumba"


def test_several_videos_are_predicted_as_each_alone_is(ready, video, tmp_path, encode):
    short = encode(tmp_path / "short.avi", frames=5)
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    missing = Failure("nothing/*.avi", "No file matches.")
    videos = [video, missing, tmp_path / "text.mp4", short, video]
    results = list(predict_videos(ready, videos))
    alone = predict_video(ready, video)
    assert results[0] == results[4] == alone
    assert results[1] is missing
    assert isinstance(results[2], Failure) and "could not be read" in results[2].error
    assert results[3] == predict_video(ready, short)


def test_clips_of_a_video_that_breaks_off_are_not_those_of_the_next(
    ready, video, tmp_path, encode, monkeypatch
):
    broken = encode(tmp_path / "broken.avi", frames=40)
    whole = VideoReader.clips

    def breaks_off(reader, clips, *options):
        read = whole(reader, clips, *options)
        yield next(read)
        if reader.path == broken:
            raise VideoError("it breaks off")
        yield from read

    monkeypatch.setattr(VideoReader, "clips", breaks_off)
    failure, prediction = predict_videos(ready, [broken, video])
    assert failure == Failure(str(broken), "it breaks off")
    assert prediction == predict_video(ready, video)


def test_the_next_item_is_made_while_the_one_before_is_in_use():
    second_is_made = threading.Event()

    def items():
        yield 1
        second_is_made.set()
        yield 2
        raise VideoError("no third")

    read = read_ahead(items())
    assert next(read) == 1
    assert second_is_made.wait(timeout=60)
    assert next(read) == 2
    with pytest.raises(VideoError, match="no third"):
        next(read)


def test_who_stops_early_leaves_no_thread_that_reads_on():
    before = set(threading.enumerate())  # libraries have some of their own
    made = []
    read = read_ahead(made.append(number) or number for number in range(100))
    assert next(read) == 0
    read.close()
    count = len(made)
    assert count <= 2
    assert set(threading.enumerate()) <= before


def test_predicting_needs_no_torchvision_which_takes_as_long_to_import_as_pytorch():
    script = "import sys, actionrec.prediction.videos; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=600).returncode == 0


def test_the_labels_of_kinetics_are_those_of_torchvision():
    from torchvision.models.video import R3D_18_Weights

    labels = KINETICS400_LABELS.read_text(encoding="utf-8").splitlines()
    assert labels == R3D_18_Weights.KINETICS400_V1.meta["categories"]
