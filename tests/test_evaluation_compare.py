"""Paired comparison of two models, and `actionrec compare`."""

import json
from dataclasses import replace

import numpy as np
import pytest

from actionrec.cli.main import main
from actionrec.errors import ActionrecError
from actionrec.evaluation.accuracy import RESAMPLES
from actionrec.evaluation.compare import compare, load_comparable, mcnemar
from actionrec.evaluation.logits import ClipLogits


def logits(right, model="m", counts=None):
    """Logits of as many videos as `right` (videos, clips) has rows; the truth is class 1."""
    right = np.asarray(right, dtype=bool)
    scores = np.zeros((*right.shape, 1, 3), dtype=np.float32)
    scores[..., 0, 1] = np.where(right, 1, -1)
    counts = np.full(len(right), right.shape[1]) if counts is None else np.asarray(counts)
    for row, count in zip(scores, counts, strict=True):
        row[count:] = np.nan
    return ClipLogits(
        logits=scores,
        counts=counts,
        truths=np.ones(len(right), dtype=np.int64),
        videos=tuple(f"{index}.avi" for index in range(len(right))),
        labels=("a", "b", "c"),
        protocol={"model": model, "clips": right.shape[1], "crops": 1},
    )


# By hand: (|150 - 86| - 1)^2 / 236 = 16.818, whose upper tail with one degree of freedom is
# 4.115e-5; 2 (1 + 20 + 190 + 1140 + 4845 + 15504) / 2^20 and 2 (1 + 10) / 2^10 for the exact ones.
@pytest.mark.parametrize(
    ("only_a", "only_b", "p", "test"),
    [
        (150, 86, 4.115e-05, "chi-square"),
        (5, 15, 0.04138947, "exact"),
        (1, 9, 0.02148438, "exact"),
        (12, 12, 1.0, "exact"),
        (0, 0, 1.0, "exact"),
        (13, 12, 1.0, "chi-square"),
    ],
)
def test_mcnemar_gives_the_values_computed_by_hand(only_a, only_b, p, test):
    found = mcnemar(only_a, only_b)
    assert found.p == pytest.approx(p, rel=1e-3) and found.test == test
    assert mcnemar(only_b, only_a).p == found.p


def test_mcnemar_counts_the_videos_that_one_model_alone_has_right():
    a, b = (np.array([right]).T for right in ([1, 1, 1, 0, 0, 0, 1], [1, 0, 0, 1, 0, 1, 0]))
    [test] = compare([logits(a)], [logits(b)]).mcnemar
    assert (test.only_a, test.only_b) == (3, 2)


def test_the_interval_is_that_of_videos_drawn_for_both_models_at_once():
    generator = np.random.default_rng(5)
    counts = generator.integers(1, 5, size=25)
    a, b = (generator.random((25, 4)) < share for share in (0.4, 0.6))
    result = compare([logits(a, "a", counts)], [logits(b, "b", counts)])

    # The obvious way: write down the clips of the drawn videos one after the other.
    draws = np.random.default_rng(0)
    differences = []
    for _ in range(RESAMPLES):
        drawn = draws.integers(25, size=25)
        of_a, of_b = (
            np.concatenate([right[video, : counts[video]] for video in drawn]) for right in (a, b)
        )
        differences.append(of_b.mean(dtype=np.float64) - of_a.mean(dtype=np.float64))
    expected = np.percentile(differences, [2.5, 97.5])
    assert result.clip_top1.interval == pytest.approx(expected, abs=1e-12)
    every_a, every_b = (
        np.concatenate([row[:count] for row, count in zip(right, counts, strict=True)])
        for right in (a, b)
    )
    assert result.clip_top1.a == pytest.approx(every_a.mean())
    assert result.clip_top1.difference == pytest.approx(every_b.mean() - every_a.mean())


def test_a_model_is_level_with_itself():
    right = np.random.default_rng(0).random((30, 4)) < 0.5
    result = compare([logits(right)], [logits(right)])
    assert result.clip_top1.difference == 0 and result.clip_top1.interval == [0, 0]
    assert not result.clip_top1.outside_chance and result.mcnemar[0].p == 1
    assert "B is level with A in clip-level Top-1" in result.verdict
    assert "may be chance" in result.verdict


@pytest.mark.parametrize(("share", "words"), [(0.9, "ahead of A"), (0.1, "behind A")])
def test_a_large_difference_is_outside_chance_in_both_directions(share, words):
    generator = np.random.default_rng(1)
    a, b = (generator.random((120, 3)) < each for each in (0.5, share))
    result = compare([logits(a)], [logits(b)])
    assert result.clip_top1.outside_chance and result.video_top1.outside_chance
    assert result.mcnemar[0].p < 1e-4
    assert result.verdict.count("outside chance") == 2 and result.verdict.count(words) == 2


def test_an_advantage_in_few_videos_may_be_chance_however_many_clips_they_have():
    a, b = np.zeros((20, 10)), np.zeros((20, 10))
    b[:2] = 1
    result = compare([logits(a)], [logits(b)])
    assert result.clip_top1.difference == pytest.approx(0.1)
    assert not result.clip_top1.outside_chance


def test_seeds_that_differ_more_than_the_models_are_chance():
    """One lucky pair is outside chance; the same with an unlucky pair beside it is not."""
    generator = np.random.default_rng(2)
    low, high = (generator.random((200, 2)) < share for share in (0.4, 0.7))
    lucky = compare([logits(low)], [logits(high)])
    both = compare([logits(low), logits(high)], [logits(high), logits(low)])
    assert lucky.clip_top1.outside_chance
    assert not both.clip_top1.outside_chance and both.clip_top1.difference == 0
    assert [test.only_a for test in both.mcnemar] == [test.only_b for test in both.mcnemar[::-1]]
    assert "in 2 of 2 pairs" in both.verdict


@pytest.mark.parametrize(
    ("runs", "start", "limits"),
    [
        (
            1,
            "Of these two models, B is 50.00 points ahead",
            "One run a side says nothing of two ways",
        ),
        (2, "On the mean of 2 runs, B is", "2 runs a side show little"),
        (5, "On the mean of 5 runs, B is", ""),
    ],
)
def test_the_verdict_claims_no_more_than_its_runs_can_show(runs, start, limits, tmp_path, capsys):
    low, high = np.tile([1, 0], (100, 2)), np.ones((100, 4))
    sides = {"--a": low, "--b": high}
    words = []
    for flag, right in sides.items():
        words.append(flag)
        for run in range(runs):
            words.append(str(tmp_path / f"{flag[2:]}{run}.safetensors"))
            logits(right, model=words[-1]).save(words[-1])
    assert main(["compare", *words]) == 0
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert verdict.startswith(start)
    assert limits in verdict and ("seeds" in verdict) == bool(limits)


def refused(tmp_path, other):
    logits(np.ones((3, 2))).save(tmp_path / "a.safetensors")
    other.save(tmp_path / "b.safetensors")
    with pytest.raises(ActionrecError) as error:
        load_comparable([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    return str(error.value)


def test_only_the_same_videos_classes_and_protocol_are_compared(tmp_path):
    same = logits(np.ones((3, 2)), model="another model")
    other_videos = replace(same, videos=("0.avi", "1.avi", "7.avi"))
    assert "only in one of them: 2.avi" in refused(tmp_path, other_videos)
    other_crops = replace(same, protocol=same.protocol | {"crops": 3})
    words = "crops is 1 in the first and 3 in the second"
    assert words in refused(tmp_path, other_crops)
    assert "their classes differ" in refused(tmp_path, replace(same, labels=("a", "b", "d")))
    other_truths = replace(same, truths=np.array([1, 1, 0]))
    assert "other labels" in refused(tmp_path, other_truths)
    other_counts = logits(np.ones((3, 2)), counts=[2, 2, 1])
    assert "other numbers of clips" in refused(tmp_path, other_counts)
    same.save(tmp_path / "b.safetensors")
    assert load_comparable([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def test_the_table_and_json_of_files_tell_the_same(tmp_path, capsys):
    generator = np.random.default_rng(1)
    files = [str(tmp_path / f"{name}.safetensors") for name in ("a1", "a2", "b1", "b2")]
    for file, share in zip(files, (0.4, 0.5, 0.6, 0.7), strict=True):
        logits(generator.random((40, 2)) < share, model=file).save(file)
    flags = ["--a", *files[:2], "--b", *files[2:]]
    assert main(["compare", *flags, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["mcnemar"]) == 2 and result["videos"] == 40
    assert main(["compare", *flags]) == 0
    table = capsys.readouterr().out
    assert f"{result['clip_top1']['a']:.2%}" in table and result["verdict"] in table


@pytest.mark.parametrize(
    "words", ["", "a", "a b c", "--a x y --b z", "--a x", "a b --a x --b y", "--a x y"]
)
def test_unequal_numbers_of_files_are_wrong_usage(words, capsys):
    assert main(["compare", *words.split()]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_file_is_one_sentence(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("actionrec: There is no file") and error.count("\n") == 1
