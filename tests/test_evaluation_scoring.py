"""From videos to logits and accuracies."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.errors import ActionrecError
from actionrec.evaluation.accuracy import evaluation_of
from actionrec.evaluation.scoring import (
    collect,
    describe_protocol,
    relative_names,
    score_dataset,
    score_videos,
)
from actionrec.models.inference import InferenceModel
from actionrec.prediction.videos import predict_video
from actionrec.video.clips import ClipReader


@pytest.fixture(scope="module")
def model(small_recognizer):
    return InferenceModel(small_recognizer, "cpu", "float32")


def evaluate(*arguments, **options):
    return evaluation_of(score_dataset(*arguments, **options))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, encode):
    """Three videos of 40, 60 and 4 frames; the classes are the model's in another order."""
    folder = tmp_path_factory.mktemp("evaluation")
    paths = [encode(folder / f"{frames}.avi", frames=frames) for frames in (40, 60, 4)]
    videos = [LabelledVideo(path, label) for path, label in zip(paths, (0, 1, 1), strict=True)]
    return VideoDataset("three", ("c", "a"), (), tuple(videos))


def test_the_figures_are_those_counted_from_predictions_one_by_one(dataset, model):
    result = evaluate(model, dataset, clips=4)
    clip_hits, video_hits = [], []
    for video in dataset.val:
        truth = dataset.labels[video.label]
        prediction = predict_video(model, video.path, clips=4)
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


def test_three_crops_are_averaged_within_their_clip(dataset, model):
    result = evaluate(model, dataset, clips=2, crops=3)
    assert result.clip.n == 5
    assert result.protocol["crops"] == 3


def test_workers_change_no_logit(dataset, model):
    one, two = (score_dataset(model, dataset, clips=3, workers=number) for number in (1, 2))
    np.testing.assert_array_equal(one.logits, two.logits)


def test_a_video_that_cannot_be_scored_is_listed_and_the_others_count(dataset, model, tmp_path):
    (tmp_path / "bad.avi").write_bytes(b"no video")
    bad = LabelledVideo(tmp_path / "bad.avi", 0)
    mixed = VideoDataset("mixed", dataset.labels, (), (*dataset.val, bad))
    result = evaluate(model, mixed, clips=2)
    assert result.video.n == 3
    [skipped] = result.skipped
    assert skipped.video == str(bad.path) and "could not be read" in skipped.error


class CrashingReader(ClipReader):
    """Ends its process while it reads the video of 60 frames."""

    def stream_together(self, sources, clips=None, crops=1):
        for clip in super().stream_together(sources, clips, crops):
            if sources[0].name == "60.avi":
                os.kill(os.getpid(), signal.SIGSEGV)
            yield clip


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_video_that_crashes_the_decoder_costs_its_own_result_only(dataset, small_recognizer):
    model = InferenceModel(small_recognizer, "cpu", "float32")
    model.clips = CrashingReader(model.clips.sampling, model.clips.preprocessing)
    result = evaluate(model, dataset, clips=2)
    [skipped] = result.skipped
    assert Path(skipped.video).name == "60.avi" and "crashes the decoder" in skipped.error
    assert result.video.n == 2


def test_nothing_but_bad_videos_is_an_error(model, tmp_path):
    (tmp_path / "bad.avi").touch()
    videos = (LabelledVideo(tmp_path / "bad.avi", 0),)
    with pytest.raises(ActionrecError, match="None of 1 videos could be scored: .* is empty"):
        evaluate(model, VideoDataset("bad", ("a",), (), videos))


def test_classes_that_the_model_does_not_know_are_named(dataset, model):
    other = VideoDataset("other", ("a", "jump", "walk"), (), dataset.val)
    with pytest.raises(ActionrecError, match="does not know 2 of the 3 classes of other, 'jump'"):
        evaluate(model, other)


def test_videos_scored_in_parts_give_the_figures_of_the_whole(dataset, model, tmp_path):
    (tmp_path / "bad.avi").touch()
    bad = LabelledVideo(tmp_path / "bad.avi", 0)
    mixed = VideoDataset("mixed", dataset.labels, (), (dataset.val[0], bad, *dataset.val[1:]))
    config = model.config
    paths = [video.path for video in mixed.val]
    parts = [score_videos(model, part, 3, 1, workers=1) for part in (paths[1::2], paths[::2])]
    protocol = describe_protocol(config, mixed, 3, 1)
    together = collect(parts[0] | parts[1], mixed, config.labels, protocol)
    whole = evaluate(model, mixed, clips=3)
    assert evaluation_of(together) == whole and len(whole.skipped) == 1


def test_videos_are_named_the_same_wherever_the_data_set_lies():
    def names(root):
        train = (LabelledVideo(Path(root, "train", "a", "1.avi"), 0),)
        val = tuple(LabelledVideo(Path(root, "val", "b", f"{n}.avi"), 1) for n in (2, 3))
        return relative_names(val, VideoDataset("set", ("a", "b"), train, val))

    expected = ("val/b/2.avi", "val/b/3.avi")
    assert names("data") == names("/disk/data") == names(".") == expected
