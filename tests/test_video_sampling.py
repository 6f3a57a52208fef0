"""Which frames make a clip: in bounds, evenly spread, nothing unseen, short videos held."""

import numpy as np
import pytest

from actionrec.errors import UsageError
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling, FrameGrid

SAMPLINGS = [ClipSampling(16, 1), ClipSampling(8, 4), ClipSampling(64, 1), ClipSampling(1, 1)]


def test_a_clip_is_length_frames_stride_apart():
    assert ClipSampling(length=4, stride=3).clip(5, 100) == [5, 8, 11, 14]
    assert ClipSampling(length=4, stride=3).span == 10
    assert ClipSampling(length=1, stride=7).span == 1


def test_the_default_is_the_papers_16_consecutive_frames():
    assert ClipSampling().clip(0, 16) == list(range(16))


def test_past_the_end_the_last_frame_is_repeated():
    assert ClipSampling(length=6).clip(0, 4) == [0, 1, 2, 3, 3, 3]
    assert ClipSampling(length=4, stride=2).clip(5, 8) == [5, 7, 7, 7]
    assert ClipSampling(length=3).clip(0, 1) == [0, 0, 0]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 29, 30, 164])
def test_every_way_gives_whole_clips_of_frames_that_exist(sampling, frames):
    generator = np.random.default_rng(0)
    chosen = [sampling.random(frames, generator) for _ in range(20)]
    for clips in (1, 2, 3, 10):
        chosen += sampling.uniform(frames, clips) + sampling.covering(frames, at_most=clips)
    for clip in chosen:
        assert len(clip) == sampling.length
        assert clip == sorted(clip)
        assert 0 <= clip[0] and clip[-1] < frames
        assert all(type(index) is int for index in clip)
        if frames >= sampling.span:
            assert set(np.diff(clip)) <= {sampling.stride}


def test_a_random_clip_starts_anywhere_it_fits_equally_often():
    sampling = ClipSampling(length=4, stride=2)
    generator = np.random.default_rng(0)
    starts = np.bincount([sampling.random(11, generator)[0] for _ in range(5000)])
    assert len(starts) == 5  # frames 0 to 4, for a clip of 7
    assert np.abs(starts - 1000).max() < 120  # four standard deviations


def test_a_random_clip_is_that_of_its_seed():
    sampling = ClipSampling()
    drawn = [
        [sampling.random(164, np.random.default_rng((seed, epoch, 3))) for epoch in range(9)]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({clip[0] for clip in drawn[0]}) > 1


def test_uniform_clips_reach_from_the_first_frame_to_the_last_at_equal_distances():
    clips = ClipSampling(length=16).uniform(164, clips=5)
    assert [clip[0] for clip in clips] == [0, 37, 74, 111, 148]
    assert clips[-1][-1] == 163
    for number in range(2, 20):
        starts = [clip[0] for clip in ClipSampling(length=16).uniform(164, number)]
        assert (len(starts), starts[0], starts[-1]) == (number, 0, 148)
        assert np.ptp(np.diff(starts)) <= 1


def test_one_uniform_clip_is_in_the_middle():
    assert ClipSampling(length=4).uniform(10, clips=1) == [[3, 4, 5, 6]]
    [clip] = ClipSampling(length=8, stride=2).uniform(100, clips=1)
    assert clip[0] + clip[-1] in (98, 99, 100)


@pytest.mark.parametrize("frames", [1, 5, 15, 16])
def test_a_video_no_longer_than_a_clip_gives_one_clip(frames):
    for clips in (1, 3, 10):
        [clip] = ClipSampling(length=16).uniform(frames, clips)
        assert clip == [min(index, frames - 1) for index in range(16)]
    assert len(ClipSampling(length=16).covering(frames, at_most=10)) == 1


@pytest.mark.parametrize("sampling", [ClipSampling(16), ClipSampling(5), ClipSampling(4, 4)])
def test_covering_clips_are_as_few_as_leave_no_gap(sampling):
    for frames in range(1, 400):
        clips = sampling.covering(frames, at_most=1000)
        assert len(clips) == max(1, -(-frames // sampling.span))
        assert clips[0][0] == 0
        ends = [clip[0] + sampling.span for clip in clips]
        assert all(later[0] <= end for end, later in zip(ends, clips[1:], strict=False))
        assert ends[-1] >= frames


def test_covering_takes_no_more_clips_than_allowed_and_then_spreads_them():
    clips = ClipSampling(length=16).covering(3000, at_most=10)
    assert len(clips) == 10
    assert (clips[0][0], clips[-1][-1]) == (0, 2999)
    assert np.ptp(np.diff([clip[0] for clip in clips])) <= 1


def test_a_rate_makes_videos_of_all_rates_pass_at_the_same_speed():
    sampling = ClipSampling(length=5, stride=2, fps=25)
    assert sampling.at(25).clip(0, 100) == [0, 2, 4, 6, 8]
    assert sampling.at(50).clip(0, 100) == [0, 4, 8, 12, 16]
    assert sampling.at(30).clip(0, 100) == [0, 2, 5, 7, 10]
    assert sampling.at(10).clip(0, 100) == [0, 1, 2, 2, 3]
    for video_fps in (10, 23.976, 25, 29.97, 60, 240):
        clip = sampling.at(video_fps).clip(0, 10**6)
        seconds = np.array(clip) / video_fps
        assert np.abs(seconds - np.arange(5) * 2 / 25).max() <= 0.5 / video_fps + 1e-9


def test_without_a_rate_frames_are_taken_as_they_are():
    sampling = ClipSampling(length=5, stride=2)
    assert sampling.at(60) is sampling


@pytest.mark.parametrize("video_fps", [7.5, 25, 29.97, 60])
@pytest.mark.parametrize("frames", [1, 20, 31, 300])
def test_clips_at_a_rate_exist_and_reach_both_ends(video_fps, frames):
    sampling = ClipSampling(length=16, stride=1, fps=25).at(video_fps)
    clips = sampling.uniform(frames, 4) + list(sampling.sliding(frames, range(0, frames, 5)))
    assert all(0 <= clip[0] and clip[-1] < frames and clip == sorted(clip) for clip in clips)
    assert clips[0][0] == 0 and clips[-1][-1] == frames - 1


@pytest.mark.parametrize("frames", [1, 4, 15, 16, 17, 24, 25, 100])
@pytest.mark.parametrize("hop", [1, 3, 8, 16])
def test_sliding_clips_leave_no_frame_out_and_start_hop_apart(frames, hop):
    clips = list(ClipSampling(length=16).sliding(frames, range(0, frames, hop)))
    assert {index for clip in clips for index in clip} == set(range(frames))
    starts = [clip[0] for clip in clips]
    assert set(np.diff(starts[:-1])) <= {hop}
    assert starts[-1] == max(frames - 16, 0)
    assert len(set(starts)) == len(starts)


def test_a_rate_that_is_not_possible_is_wrong_usage():
    with pytest.raises(UsageError, match="A rate of 0 frames a second"):
        ClipSampling(fps=0)


# A phone in good and bad light, then a pause: the frame's index tells when it is shown.
VARYING = [
    *range(0, 1000, 20),
    *range(1000, 3000, 100),
    *range(3000, 3400, 40),
    *range(9000, 9400, 40),
]


@pytest.fixture(scope="module", params=["v.mp4", "v.mkv"])
def varying(request, tmp_path_factory, encode):
    path = tmp_path_factory.mktemp("varying") / request.param
    return VideoReader(encode(path, "libx264", frames=len(VARYING), times=VARYING))


@pytest.mark.parametrize("sampling", [ClipSampling(8, 1, fps=25), ClipSampling(5, 2, fps=10)])
def test_a_target_rate_is_kept_in_time_through_a_variable_rate(varying, sampling):
    times = np.array(VARYING) / 1000
    gaps = np.diff(times, append=times[-1] + 0.1)
    grid = FrameGrid(sampling, varying)
    generator = np.random.default_rng(0)
    for clip in (
        *grid.sampling.uniform(grid.positions, 9),
        *grid.sampling.covering(grid.positions, at_most=10),
        *grid.sampling.sliding(grid.positions, grid.apart(4)),
        *(grid.sampling.random(grid.positions, generator) for _ in range(20)),
    ):
        frames = grid.frames(clip)
        moments = clip[0] / sampling.fps + np.arange(len(clip)) * sampling.stride / sampling.fps
        # Each is the frame nearest in time.
        nearest_frames = np.abs(times[:, None] - moments).argmin(axis=0)
        off = np.abs(times[frames] - moments) - np.abs(times[nearest_frames] - moments)
        assert off.max() < 1e-6
        assert np.abs(times[frames] - moments).max() <= gaps.max() / 2
    for frame in range(len(times)):
        position = grid.position(frame)
        assert abs(position / sampling.fps - times[frame]) <= 0.5 / sampling.fps + 1e-9


def test_a_pause_of_years_costs_no_more_than_one_of_seconds(varying):
    class Paused:
        times = np.append(varying.times[:70], varying.times[70:] + 1e9)
        fps, has_constant_rate = 1e-7, False

    grid = FrameGrid(ClipSampling(16, 1, fps=25), Paused())
    clips = [grid.frames(clip) for clip in grid.sampling.sliding(grid.positions, grid.apart(8))]
    assert len(clips) < 40
    assert [69, 70] == sorted({frame for clip in clips for frame in clip if 69 <= frame <= 70})
    assert any(69 in clip and 70 in clip for clip in clips)
