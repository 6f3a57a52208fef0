"""The one writer of video files: frames, times, shape of a pixel, and errors of the disk."""

from fractions import Fraction

import av
import numpy as np
import pytest

from actionrec.video.reader import VideoReader
from actionrec.video.writer import CONTAINERS, VideoWriter


def grey(level):
    return np.full((48, 64, 3), level, np.uint8)


def times_of(path):
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode()]


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_every_picture_is_written_at_its_place(tmp_path, suffix, codec):
    path = tmp_path / f"v{suffix}"
    with VideoWriter(path, (48, 64), Fraction(30_000, 1001), codec, {}) as writer:
        for index in range(20):
            writer.write(grey(20 + 10 * index))
    assert writer.written == 20
    video = VideoReader(path)
    assert len(video) == 20 and video.fps == pytest.approx(30_000 / 1001)
    levels = video.read(range(20)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, 20 + 10 * np.arange(20), atol=4.9)


def test_pictures_are_shown_at_times_of_their_own_and_scaled(tmp_path):
    path = tmp_path / "v.mp4"
    times = [0, 0.04, 0.5, 0.54]
    ratio = Fraction(4, 3)
    unit = Fraction(1, 90_000)
    with VideoWriter(path, (24, 32), 25, time_base=unit, aspect_ratio=ratio) as writer:
        for index, seconds in enumerate(times):
            writer.write(grey(50 * index), seconds)
    assert times_of(path) == pytest.approx(times)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, stream.sample_aspect_ratio) == (24, 32, ratio)
    # A browser begins to play when it has the index.
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_disk_that_can_not_be_written_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        with VideoWriter(tmp_path / "nowhere" / "v.mp4", (48, 64), 25) as writer:
            writer.write(grey(0))
