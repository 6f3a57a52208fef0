"""decord and torchcodec behind the reader's interface: the same frames, or an error."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from actionrec.errors import UsageError, VideoError
from actionrec.video.clips import ClipReader
from actionrec.video.decoders import open_video, require_decoder
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_healthy_mp4_files_give_the_frames_that_pyav_gives(encode, tmp_path, decoder):
    try:
        require_decoder(decoder)
    except UsageError as error:
        pytest.skip(str(error))
    path = encode(tmp_path / "v.mp4", "libx264", frames=40, size=(96, 64))
    ours, theirs = VideoReader(path), open_video(path, decoder)
    assert (len(theirs), theirs.size, theirs.fps) == (40, (64, 96), 25.0)
    clips = [range(3, 19), range(10, 40, 3)]
    for size, crop in ((None, None), (32, None), ((20, 24), (4, 8, 40, 48))):
        for mine, other in zip(
            ours.clips(clips, size, crop), theirs.clips(clips, size, crop), strict=True
        ):
            # Colour conversions differ by a little.
            assert np.abs(mine.astype(int) - other).max() <= 4


class FakeVideo:
    """A decord.VideoReader that finds 12 frames in every file and fails at the last one."""

    def __init__(self, path, num_threads):
        self.path = path

    def __len__(self):
        return 12

    def get_batch(self, indices):
        if 11 in indices:
            raise RuntimeError("threaded_decoder.cc: failed\nStack trace:\n ...")
        return SimpleNamespace(asnumpy=lambda: np.zeros((len(indices), 48, 64, 3), np.uint8))


@pytest.fixture
def fake_decord(monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", SimpleNamespace(VideoReader=FakeVideo))


def test_a_library_that_counts_other_frames_is_an_error(encode, tmp_path, fake_decord):
    video = open_video(encode(tmp_path / "v.avi", frames=10), "decord")
    with pytest.raises(VideoError, match="has 10 frames, but decord finds 12; leave out"):
        video.read([0, 1])


def test_windows_too_are_read_by_the_library(encode, tmp_path, fake_decord, monkeypatch):
    black = SimpleNamespace(asnumpy=lambda: np.zeros((12, 48, 64, 3), np.uint8))
    monkeypatch.setattr(FakeVideo, "get_batch", lambda *_: black)
    path = encode(tmp_path / "v.avi", frames=12)
    reader = ClipReader(ClipSampling(4), Preprocessing(36, 32), "decord")
    for decoder, is_black in (("decord", True), ("pyav", False)):
        clips = list(replace(reader, decoder=decoder).windows(path, 0.08))
        assert len(clips) == 5
        assert all((clip.pixels.max() == 0) == is_black for clip in clips)


def test_what_a_library_says_of_a_file_becomes_one_sentence(encode, tmp_path, fake_decord):
    video = open_video(encode(tmp_path / "v.avi", frames=12), "decord")
    assert video.read([0, 5]).shape == (2, 48, 64, 3)
    with pytest.raises(VideoError, match=r"decord \(threaded_decoder.cc: failed\); leave out") as e:
        video.read([11])
    assert "\n" not in str(e.value)


def test_a_library_that_is_not_installed_is_wrong_usage(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UsageError, match="decord can't be loaded .*pip install decord"):
        require_decoder("decord")
    with pytest.raises(UsageError, match="There is no decoder 'ffmpeg'; choose pyav, decord"):
        open_video(tmp_path / "v.avi", "ffmpeg")
    require_decoder("pyav")
