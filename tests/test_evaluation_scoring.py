"""Clip-level and video-level accuracy."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from actionrec.cli.main import main
from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.errors import ActionrecError
from actionrec.evaluation.scoring import (
    RESAMPLES,
    ClipLogits,
    EvaluationVideos,
    accuracy,
    describe_protocol,
    evaluate,
    gather,
    ranks,
    relative_names,
    score_dataset,
    score_videos,
    summarise,
)
from actionrec.prediction.videos import Failure, predict_video


def test_a_tie_counts_against_the_truth():
    scores = np.array([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.4, 0.4, 0.2], [0.2, 0.2, 0.6]])
    assert ranks(scores, np.array([0, 0, 0, 0])).tolist() == [0, 1, 1, 2]


def test_a_network_that_gives_nan_is_never_right():
    scores = np.full((2, 7), np.nan, dtype=np.float32)
    assert ranks(scores, np.array([0, 6])).tolist() == [6, 6]


def test_top_1_and_top_5_count_the_best_and_the_best_five():
    result = accuracy(np.array([0, 0, 1, 4, 5]))
    assert (result.top1, result.top5, result.n) == (0.4, 0.8, 5)


def test_an_interval_is_that_of_videos_drawn_with_all_their_clips():
    generator = np.random.default_rng(3)
    videos = np.repeat(np.arange(30), generator.integers(1, 11, size=30))
    ranks_of_truth = generator.integers(8, size=len(videos))

    # The obvious way: write down the clips of the drawn videos one after the other.
    draws = np.random.default_rng(0)
    top1, top5 = [], []
    for _ in range(RESAMPLES):
        drawn = [ranks_of_truth[videos == video] for video in draws.integers(30, size=30)]
        clips = np.concatenate(drawn)
        top1.append((clips < 1).mean(dtype=np.float64))
        top5.append((clips < 5).mean(dtype=np.float64))

    result = accuracy(ranks_of_truth, videos)
    assert result.top1_interval == pytest.approx(np.percentile(top1, [2.5, 97.5]), abs=1e-12)
    assert result.top5_interval == pytest.approx(np.percentile(top5, [2.5, 97.5]), abs=1e-12)


def test_the_interval_of_independent_videos_is_the_binomial_one():
    right = np.arange(2000) % 10 < 7
    low, high = accuracy(np.where(right, 0, 1)).top1_interval
    half = 1.96 * np.sqrt(0.7 * 0.3 / 2000)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.1 * half)


def test_clips_that_repeat_their_video_make_no_interval_narrower():
    ranks_of_videos = np.arange(50) % 3
    videos = np.repeat(np.arange(50), 10)
    by_clip = accuracy(ranks_of_videos[videos], videos)
    assert by_clip.n == 500
    assert by_clip.top1_interval == accuracy(ranks_of_videos).top1_interval


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


@pytest.mark.parametrize("crops", [1, 3])
def test_saved_logits_give_the_same_evaluation_to_the_last_digit(
    dataset, small_recognizer, tmp_path, crops
):
    scored = score_dataset(small_recognizer, dataset, clips=4, crops=crops, workers=0)
    scored.skipped.append(Failure("bad.avi", "bad.avi is empty."))
    scored.save(tmp_path / "logits.safetensors")
    loaded = ClipLogits.load(tmp_path / "logits.safetensors")
    assert loaded.logits.dtype == np.float32 and loaded.logits.shape == (3, 4, crops, 3)
    assert loaded.counts.tolist() == [4, 4, 1]
    # The video of four frames gives one clip; the places of the others are empty.
    assert np.isnan(loaded.logits[2, 1:]).all() and not np.isnan(loaded.logits[2, 0]).any()
    assert loaded.videos == ("40.avi", "60.avi", "4.avi")
    assert loaded.labels == ("a", "b", "c") and loaded.truths.tolist() == [2, 0, 0]
    assert summarise(loaded) == summarise(scored)
    assert json.dumps(asdict(summarise(loaded))) == json.dumps(asdict(summarise(scored)))


def test_evaluation_is_that_of_the_logits(dataset, small_recognizer):
    scored = score_dataset(small_recognizer, dataset, clips=3, workers=0)
    assert summarise(scored) == evaluate(small_recognizer, dataset, clips=3, workers=0)


def test_scores_are_the_softmax_averaged_over_crops_and_then_over_clips():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 3, 2, 4)).astype(np.float32)
    logits[1, 2:] = np.nan
    counts, truths = np.array([3, 2]), np.array([0, 1])
    scored = ClipLogits(logits, counts, truths, ("x", "y"), tuple("abcd"), {})
    for video, count in enumerate(counts):
        powers = np.exp(logits[video, :count].astype(np.float64))
        clips = (powers / powers.sum(axis=-1, keepdims=True)).mean(axis=1)
        np.testing.assert_allclose(scored.clip_scores[video, :count], clips, atol=1e-6)
        np.testing.assert_allclose(scored.video_scores[video], clips.mean(axis=0), atol=1e-6)


def test_videos_scored_in_parts_give_the_figures_of_the_whole(dataset, small_recognizer, tmp_path):
    (tmp_path / "bad.avi").touch()
    bad = LabelledVideo(tmp_path / "bad.avi", 0)
    mixed = VideoDataset("mixed", dataset.labels, (), (dataset.val[0], bad, *dataset.val[1:]))
    config = small_recognizer.config
    videos = EvaluationVideos(mixed.val, config, clips=3, crops=1)
    parts = [score_videos(small_recognizer, videos, part, 0) for part in ((1, 3), (0, 2))]
    protocol = describe_protocol(config, mixed, 3, 1)
    together = gather(parts[0] | parts[1], mixed, config.labels, protocol)
    whole = evaluate(small_recognizer, mixed, clips=3, workers=0)
    assert summarise(together) == whole and len(whole.skipped) == 1


def test_videos_are_named_the_same_wherever_the_data_set_lies():
    def names(root):
        train = (LabelledVideo(Path(root, "train", "a", "1.avi"), 0),)
        val = tuple(LabelledVideo(Path(root, "val", "b", f"{n}.avi"), 1) for n in (2, 3))
        return relative_names(val, VideoDataset("set", ("a", "b"), train, val))

    expected = ("val/b/2.avi", "val/b/3.avi")
    assert names("data") == names("/disk/data") == names(".") == expected


def test_a_file_without_logits_is_an_error_that_says_where_they_come_from(
    small_recognizer, tmp_path
):
    small_recognizer.save(tmp_path / "model.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    for name in ("model", "text"):
        with pytest.raises(ActionrecError, match="is no file of logits; give one that"):
            ClipLogits.load(tmp_path / f"{name}.safetensors")
    with pytest.raises(ActionrecError, match="There is no file .*--save-logits"):
        ClipLogits.load(tmp_path / "nowhere.safetensors")


def test_a_file_for_logits_of_another_format_is_wrong_usage(capsys):
    arguments = ["evaluate", "--model", "x", "--dataset", "demo", "--save-logits", "x.npz"]
    assert main(arguments) == 2
    assert "--save-logits x.npz must end in .safetensors" in capsys.readouterr().err


@pytest.fixture
def folder_flags(small_recognizer, tmp_path, encode):
    """The flags that evaluate a small model on two videos in folders."""
    small_recognizer.save(tmp_path / "model.safetensors")
    for side, label in (("train", "a"), ("val", "a"), ("train", "b"), ("val", "b")):
        (tmp_path / "videos" / side / label).mkdir(parents=True)
        encode(tmp_path / "videos" / side / label / "one.avi", frames=20)
    return [
        *("evaluate", "--model", str(tmp_path / "model.safetensors"), "--dataset", "folder"),
        *("--root", str(tmp_path / "videos"), "--clips", "2", "--workers", "0"),
    ]


def test_the_command_saves_the_logits_of_what_it_prints(folder_flags, tmp_path, capsys):
    file = tmp_path / "new" / "logits.safetensors"
    assert main([*folder_flags, "--save-logits", str(file), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert asdict(summarise(ClipLogits.load(file))) == printed
    assert ClipLogits.load(file).videos == ("val/a/one.avi", "val/b/one.avi")
    assert printed["protocol"]["model"] == str(tmp_path / "model.safetensors")


def test_the_table_shows_the_intervals(folder_flags, capsys):
    assert main(folder_flags) == 0
    [clip] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("clip-l")]
    assert "100.00% to 100.00%" in clip


def test_figures_are_printed_even_if_a_file_cannot_be_written(folder_flags, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*folder_flags, "--save-logits", str(tmp_path / "file" / "x.safetensors")]) == 1
    output = capsys.readouterr()
    assert "clip-level" in output.out and "could not be written" in output.err


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
    figures = {"top1", "top5", "n", "top1_interval", "top5_interval"}
    assert set(result["clip"]) == set(result["video"]) == figures
    low, high = result["clip"]["top1_interval"]
    assert 0 <= low <= result["clip"]["top1"] <= high <= 1
    assert result["video"]["n"] == 1 and result["clip"]["n"] == 2
    assert [set(item) for item in result["skipped"]] == [{"video", "error"}]
    assert torch.tensor(result["clip"]["top1"]).item() in (0.0, 0.5, 1.0)
