"""Segments give the frames that a cut clip has, and say where a video has no such part."""

import logging

import av
import numpy as np
import pytest
import torch

from actionrec.errors import VideoError
from actionrec.video import clips as clips_module
from actionrec.video.clips import ClipReader
from actionrec.video.decoders import open_source
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling
from actionrec.video.segments import MOST_LATE, VideoSegment, by_file
from actionrec.video.transforms import Preprocessing

LOSSLESS = {"qp": "0", "preset": "ultrafast", "g": "10"}


@pytest.fixture(scope="module")
def footage(tmp_path_factory, encode):
    """Three videos of 40, 25 and 60 frames that differ, and their join: frames 0 to 124."""
    folder = tmp_path_factory.mktemp("segments")
    parts = []
    joined = folder / "joined.mp4"
    with av.open(str(joined), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=LOSSLESS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        number = 0
        for frames in (40, 25, 60):
            part = folder / f"{frames}.mp4"
            encode(part, "libx264", frames, options=LOSSLESS | {"g": str(frames)})
            parts.append(part)
            with av.open(str(part)) as source:
                for frame in source.decode(video=0):
                    copy = av.VideoFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name)
                    copy.pts, number = number, number + 1
                    container.mux(stream.encode(copy))
        container.mux(stream.encode(None))
    return joined, parts


SEGMENTS = [(0, 1.6), (1.6, 2.6), (2.6, 5)]


def test_a_segment_has_the_frames_of_the_clip_that_was_cut_there(footage):
    joined, parts = footage
    for times, part in zip(SEGMENTS, parts, strict=True):
        segment, cut = open_source(VideoSegment(joined, *times)), VideoReader(part)
        assert len(segment) == len(cut)
        every = range(len(cut))
        np.testing.assert_array_equal(segment.read(every), cut.read(every))
        assert segment.has_constant_rate


def test_random_and_spread_clips_of_a_segment_are_those_of_the_cut_clip(footage):
    joined, parts = footage
    for fps in (None, 10):
        reader = ClipReader(ClipSampling(16, 1, fps), Preprocessing(32, 32))
        for times, part in zip(SEGMENTS, parts, strict=True):
            segment = VideoSegment(joined, *times)
            one, other = (
                reader.random(source, np.random.default_rng(1), flip=True)
                for source in (segment, part)
            )
            assert torch.equal(one, other)
            one, other = (reader.read(source, 3, crops=3) for source in (segment, part))
            assert torch.equal(one.pixels, other.pixels)
            moved = [(start + times[0], end + times[0]) for start, end in other.seconds]
            np.testing.assert_allclose(one.seconds, moved)


def test_many_segments_are_read_in_one_pass_with_the_same_clips(footage, monkeypatch):
    joined, _ = footage
    opened = []

    def open_once(path, decoder):
        opened.append(path)
        return VideoReader(path)

    monkeypatch.setattr(clips_module, "open_video", open_once)
    reader = ClipReader(preprocessing=Preprocessing(32, 32))
    sources = [VideoSegment(joined, *times) for times in [(2.6, 5), (0, 1.6), (1.2, 3), (9, 10)]]
    together = {number: [] for number in range(4)}
    for number, clip in reader.stream_together(sources, 4):
        together[number].append(clip)
    assert opened == [joined]
    assert [isinstance(clip, VideoError) for clip in together.pop(3)] == [True]
    for number, found in together.items():
        alone = list(reader.stream(sources[number], 4))
        assert [clip.last for clip in found] == [False, False, False, True]
        for one, other in zip(found, alone, strict=True):
            assert one.seconds == other.seconds
            assert torch.equal(one.pixels, other.pixels)


def test_times_rounded_to_milliseconds_mean_the_frame_beside_them(tmp_path, encode):
    for suffix in ("mp4", "mkv"):  # Matroska rounds its own times to milliseconds.
        file = encode(tmp_path / f"30.{suffix}", "libx264", frames=60, fps=30)
        for first in range(0, 40, 7):
            exact = (first / 30, (first + 11) / 30)
            for times in (exact, tuple(round(time, 3) for time in exact)):
                segment = open_source(VideoSegment(file, *times))
                assert (segment.first, segment.stop) == (first, first + 11)


def test_a_segment_of_a_variable_rate_goes_by_the_time_of_presentation(tmp_path, encode):
    times = [0, 40, 80, 500, 540, 1000, 1040, 1500]
    file = encode(tmp_path / "vfr.mkv", "libx264", frames=8, times=times)
    segment = open_source(VideoSegment(file, 0.08, 1.04))
    assert (segment.first, segment.stop) == (2, 6)
    assert not segment.has_constant_rate


def test_a_segment_shorter_than_a_clip_repeats_its_last_frame_not_the_next_ones(footage):
    joined, _ = footage
    clip = ClipReader(preprocessing=Preprocessing(32, 32)).read(VideoSegment(joined, 1.0, 1.2), 5)
    assert clip.pixels.shape == (1, 3, 16, 32, 32)
    assert torch.equal(clip.pixels[0, :, 4:].unique(dim=1), clip.pixels[0, :, 4:5])
    assert clip.seconds == [(1.0, pytest.approx(1.2))]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((5, 6), "has no part from 5 to 6 s, because it ends at 5.000 s"),
        ((4, 5 + MOST_LATE + 0.01), "has no part from 4 to 6.01 s"),
        ((1.01, 1.03), "shows no new frame from 1.01 to 1.03 s, at 25 frames a second"),
    ],
)
def test_a_segment_outside_of_the_video_or_between_two_frames_is_an_error(footage, times, message):
    with pytest.raises(VideoError, match=message):
        open_source(VideoSegment(footage[0], *times))


def test_an_end_rounded_up_is_the_videos_end_and_told(footage, caplog):
    segment = VideoSegment(footage[0], 4, 5.5)
    with caplog.at_level(logging.WARNING, "actionrec"):
        assert open_source(segment).stop == 125
    assert "joined.mp4#t=4,5.5 is read up to the end of the video, 5.000 s" in caplog.text


def test_segments_come_by_file_and_in_order_of_time(footage):
    joined, parts = footage
    segments = [VideoSegment(joined, start, start + 1) for start in (3, 1, 2)]
    found = list(by_file([segments[0], parts[0], *segments[1:]], most=2))
    assert [[getattr(s, "start", None) for s in each] for each in found] == [[1, 2], [3], [None]]
