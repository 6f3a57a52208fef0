"""Top-1 and Top-5 with their intervals."""

import numpy as np
import pytest

from actionrec.evaluation.accuracy import RESAMPLES, accuracy


def test_top_1_and_top_5_count_the_best_and_the_best_five():
    result = accuracy(np.array([0, 0, 1, 4, 5]), np.arange(5))
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
    low, high = accuracy(np.where(right, 0, 1), np.arange(2000)).top1_interval
    half = 1.96 * np.sqrt(0.7 * 0.3 / 2000)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.1 * half)


def test_clips_that_repeat_their_video_make_no_interval_narrower():
    ranks_of_videos = np.arange(50) % 3
    videos = np.repeat(np.arange(50), 10)
    by_clip = accuracy(ranks_of_videos[videos], videos)
    assert by_clip.n == 500
    assert by_clip.top1_interval == accuracy(ranks_of_videos, np.arange(50)).top1_interval
