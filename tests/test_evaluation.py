"""Clip-level and video-level accuracy."""

import json

import numpy as np
import pytest
import torch

from actionrec.datasets import LabelledVideo, VideoDataset
from actionrec.errors import ActionrecError
from actionrec.evaluation import accuracy, evaluate, ranks
from actionrec.prediction import predict_video


def test_a_tie_counts_against_the_truth():
    scores = np.array([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.4, 0.4, 0.2], [0.2, 0.2, 0.6]])
    assert ranks(scores, np.array([0, 0, 0, 0])).tolist() == [0, 1, 1, 2]


def test_top_1_and_top_5_count_the_best_and_the_best_five():
    result = accuracy(np.array([0, 0, 1, 4, 5]))
    assert (result.top1, result.top5, result.n) == (0.4, 0.8, 5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, encode):
    """Three videos of 40, 60 and 4 frames; the classes are the model's in another order."""
    folder = tmp_path_factory.mktemp("evaluation")
    paths = [encode(folder / f"{frames}.avi", frames=frames) for frames in (40, 60, 4)]
    videos = [LabelledVideo(path, label) for path, label in zip(paths, (0, 1, 1), strict=True)]
    return VideoDataset("three", ("c", "a"), (), tuple(videos))


def test_the_figures_are_those_counted_from_predictions_one_by_one(dataset, small_recognizer):
    result = evaluate(small_recognizer, dataset, clips=4, workers=0)
    clip_hits, video_hits = [], []
    for video in dataset.val:
        truth = dataset.labels[video.label]
        prediction = predict_video(small_recognizer, video.path, "model", 1, clips=4)
        clip_hits += [clip.top[0].label == truth for clip in prediction.clips]
        video_hits.append(prediction.top[0].label == truth)
    # The video of four frames is shorter than a clip and so is one clip.
    assert result.clip.n == len(clip_hits) == 9
    assert result.video.n == 3
    assert result.clip.top1 == np.mean(clip_hits)
    assert result.video.top1 == np.mean(video_hits)
    assert result.clip.top5 == result.video.top5 == 1.0
    assert {name: share.videos for name, share in result.per_class.items()} == {"a": 2, "c": 1}
    assert result.protocol["clips"] == 4 and result.protocol["crops"] == 1


def test_three_crops_are_averaged_within_their_clip(dataset, small_recognizer):
    result = evaluate(small_recognizer, dataset, clips=2, crops=3, workers=0)
    assert result.clip.n == 5
    assert result.protocol["crops"] == 3


def test_workers_change_no_figure(dataset, small_recognizer):
    one = evaluate(small_recognizer, dataset, clips=3, workers=0)
    assert evaluate(small_recognizer, dataset, clips=3, workers=2) == one


def test_a_video_that_cannot_be_scored_is_listed_and_the_others_count(
    dataset, small_recognizer, tmp_path
):
    (tmp_path / "bad.avi").write_bytes(b"no video")
    bad = LabelledVideo(tmp_path / "bad.avi", 0)
    mixed = VideoDataset("mixed", dataset.labels, (), (*dataset.val, bad))
    result = evaluate(small_recognizer, mixed, clips=2, workers=0)
    assert result.video.n == 3
    [skipped] = result.skipped
    assert skipped.video == str(bad.path) and "could not be read" in skipped.error


def test_nothing_but_bad_videos_is_an_error(small_recognizer, tmp_path):
    (tmp_path / "bad.avi").touch()
    videos = (LabelledVideo(tmp_path / "bad.avi", 0),)
    with pytest.raises(ActionrecError, match="Not one of 1 videos could be scored: .* is empty"):
        evaluate(small_recognizer, VideoDataset("bad", ("a",), (), videos), workers=0)


def test_classes_that_the_model_does_not_know_are_named(dataset, small_recognizer):
    other = VideoDataset("other", ("a", "jump", "walk"), (), dataset.val)
    with pytest.raises(ActionrecError, match="does not know 2 of the 3 classes of other, 'jump'"):
        evaluate(small_recognizer, other)


@pytest.mark.slow
def test_json_has_the_documented_keys(command, small_recognizer, tmp_path, encode):
    small_recognizer.save(tmp_path / "model.safetensors")
    for side in ("train", "val"):
        (tmp_path / side / "a").mkdir(parents=True)
        encode(tmp_path / side / "a" / "one.avi", frames=20)
    (tmp_path / "val" / "a" / "two.avi").write_bytes(b"no video")
    run = command(
        *("evaluate", "--model", tmp_path / "model.safetensors", "--dataset", "folder"),
        *("--root", tmp_path, "--clips", 2, "--format", "json"),
    )
    assert run.returncode == 1, run.stderr
    result = json.loads(run.stdout)
    assert set(result) == {"clip", "video", "per_class", "protocol", "skipped"}
    assert set(result["clip"]) == set(result["video"]) == {"top1", "top5", "n"}
    assert result["video"]["n"] == 1 and result["clip"]["n"] == 2
    assert [set(item) for item in result["skipped"]] == [{"video", "error"}]
    assert torch.tensor(result["clip"]["top1"]).item() in (0.0, 0.5, 1.0)
