"""Logits of clips: files, scores and ranks."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from actionrec.errors import ActionrecError, Failure
from actionrec.evaluation.accuracy import evaluation_of
from actionrec.evaluation.logits import ClipLogits, ranks


def test_a_tie_counts_against_the_truth():
    scores = np.array([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.4, 0.4, 0.2], [0.2, 0.2, 0.6]])
    assert ranks(scores, np.array([0, 0, 0, 0])).tolist() == [0, 1, 1, 2]


def test_a_network_that_gives_nan_is_never_right():
    scores = np.full((2, 7), np.nan, dtype=np.float32)
    assert ranks(scores, np.array([0, 6])).tolist() == [6, 6]


@pytest.mark.parametrize("crops", [1, 3])
def test_saved_logits_give_the_same_evaluation_to_the_last_digit(tmp_path, crops):
    values = np.random.default_rng(0).normal(size=(3, 4, crops, 3)).astype(np.float32)
    values[2, 1:] = np.nan
    scored = ClipLogits(
        logits=values,
        counts=np.array([4, 4, 1]),
        truths=np.array([2, 0, 0]),
        videos=("40.avi", "60.avi", "4.avi"),
        labels=("a", "b", "c"),
        protocol={"clips": 4, "crops": crops, "fps": None},
        skipped=[Failure("bad.avi", "bad.avi is empty.")],
    )
    scored.save(tmp_path / "logits.safetensors")
    loaded = ClipLogits.load(tmp_path / "logits.safetensors")
    assert loaded.logits.dtype == np.float32
    np.testing.assert_array_equal(loaded.logits, values)
    for name in ("counts", "truths"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(scored, name))
    for name in ("videos", "labels", "protocol", "skipped"):
        assert getattr(loaded, name) == getattr(scored, name)
    assert json.dumps(asdict(evaluation_of(loaded))) == json.dumps(asdict(evaluation_of(scored)))


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


def test_a_file_without_logits_is_an_error_that_says_where_they_come_from(
    small_recognizer, tmp_path
):
    small_recognizer.save(tmp_path / "model.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    for name in ("model", "text"):
        with pytest.raises(ActionrecError, match="is not a file of logits; give a file"):
            ClipLogits.load(tmp_path / f"{name}.safetensors")
    with pytest.raises(ActionrecError, match="There is no file .*--save-logits"):
        ClipLogits.load(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("tensor", "change"),
    [
        ("counts", lambda values: values + 9),
        ("counts", lambda values: values[:1]),
        ("truths", lambda values: values - 9),
        ("logits", lambda values: values * np.float32("nan")),
        ("logits", lambda values: values[..., :2]),
        ("logits", lambda values: values.astype(np.float64)),
    ],
)
def test_tensors_that_do_not_fit_are_no_logits(tmp_path, tensor, change):
    logits = np.zeros((2, 3, 1, 4), np.float32)
    arguments = {"logits": logits, "counts": np.array([3, 2]), "truths": np.array([0, 1])}
    arguments[tensor] = np.ascontiguousarray(change(arguments[tensor]))
    ClipLogits(**arguments, videos=("x", "y"), labels=tuple("abcd"), protocol={}).save(
        tmp_path / "logits.safetensors"
    )
    with pytest.raises(ActionrecError, match="is not a file of logits"):
        ClipLogits.load(tmp_path / "logits.safetensors")
