"""`actionrec timeline --render`: upright, every frame at its time, the sound copied, and
no file that is not whole."""

import os
import signal
import struct
import subprocess
import sys
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from actionrec.errors import ActionrecError, VideoError
from actionrec.prediction.rendering import LONGEST_SIDE, Drawing, render, require_rendering
from actionrec.prediction.timeline import Step, Timeline
from actionrec.prediction.videos import LabelScore
from actionrec.video.index import opened
from actionrec.video.reader import VideoReader


def timeline_of(path, seconds=2.0):
    """A made-up timeline: "first", then "second"."""
    half = seconds / 2
    steps = [
        Step(0.0, half, [LabelScore("first", 0.9), LabelScore("second", 0.1)]),
        Step(half, seconds, [LabelScore("second", 0.5), LabelScore("first", 0.4)]),
    ]
    return Timeline(str(path), "m", [], [], [], seconds, seconds, None, steps)


def add_sound(silent, path, codec="aac", seconds=2.0):
    """Copy the video and add a tone."""
    with av.open(str(silent)) as source, av.open(str(path), "w") as container:
        video = source.streams.video[0]
        picture = container.add_stream_from_template(video)
        sound = container.add_stream(codec, rate=44100, layout="mono")
        sound.bit_rate = 64000
        for packet in source.demux(video):
            if packet.size:
                packet.stream = picture
                container.mux(packet)
        wanted = sound.codec_context.format.name
        tone = np.sin(np.arange(int(44100 * seconds)) / 20).astype(np.float32)[None] / 3
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        parts = av.AudioResampler(wanted, "mono", 44100, sound.frame_size or None)
        for part in (*parts.resample(frame), *parts.resample(None)):
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    return path


def packets(path, kind):
    with av.open(str(path)) as container:
        return [
            (float(packet.pts * packet.time_base), bytes(packet))
            for packet in container.demux(**{kind: 0})
            if packet.dts is not None
        ]


def pictures(path):
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in frames]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_keep_their_times_and_the_sound_is_copied(encode, tmp_path, suffix):
    times = np.cumsum([0, *(np.arange(39) % 4 * 20 + 20)]).tolist()
    silent = encode(tmp_path / "s.mkv", "libx264", 40, (160, 120), options={"bf": "0"}, times=times)
    source = add_sound(silent, tmp_path / "v.mkv")
    output = tmp_path / f"out.{suffix}"
    require_rendering(source, output)
    assert render(timeline_of(source), output) is None
    drawn = pictures(output)
    np.testing.assert_allclose([seconds for seconds, _ in drawn], np.array(times) / 1000, atol=2e-3)
    before, after = packets(source, "audio"), packets(output, "audio")
    assert [data for _, data in before] == [data for _, data in after]
    np.testing.assert_allclose([t for t, _ in before], [t for t, _ in after], atol=2e-3)
    # What is between corner and edge is the picture as it was.
    original = VideoReader(source).read(range(40))
    for (_, picture), frame in zip(drawn, original, strict=True):
        assert np.abs(picture[70:100].astype(int) - frame[70:100]).mean() < 6
    assert not list(tmp_path.glob(".*"))


def test_the_video_of_a_turned_phone_is_upright(encode, tmp_path):
    path = encode(tmp_path / "v.mp4", "libx264", frames=10, size=(128, 96))
    data = bytearray(path.read_bytes())
    quarter_turn = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *quarter_turn)
    path.write_bytes(data)
    render(timeline_of(path, 0.4), tmp_path / "out.mp4")
    drawn = [picture for _, picture in pictures(tmp_path / "out.mp4")]
    assert drawn[0].shape == (128, 96, 3)
    assert VideoReader(tmp_path / "out.mp4").size == (128, 96)
    original = VideoReader(path).read(range(10))
    # Bit b of the index is a white row now.
    assert np.abs(drawn[9][64:112].astype(int) - original[9][64:112]).mean() < 6


@pytest.mark.parametrize(
    ("size", "expected"), [((66, 50), (50, 66)), ((4000, 1000), (480, LONGEST_SIDE))]
)
def test_large_frames_are_scaled_down(encode, tmp_path, size, expected):
    path = encode(tmp_path / "v.mp4", "libx264", frames=3, size=size)
    render(timeline_of(path, 0.12), tmp_path / "out.mp4")
    assert [picture.shape[:2] for _, picture in pictures(tmp_path / "out.mp4")] == [expected] * 3


def test_odd_sides_lose_a_line(encode, tmp_path):
    path = encode(tmp_path / "v.mkv", "ffv1", frames=3, size=(67, 51))
    render(timeline_of(path, 0.12), tmp_path / "out.mp4")
    assert pictures(tmp_path / "out.mp4")[0][1].shape == (50, 66, 3)


def test_the_best_class_of_the_moment_is_drawn_and_a_line_moves_through_the_strip():
    drawing = Drawing(timeline_of("v.mp4"), (240, 320), min_score=0.6)
    early, late, again = (np.full((240, 320, 3), 200, np.uint8) for _ in range(3))
    drawing.draw(early, 0.5)
    drawing.draw(late, 1.5)
    drawing.draw(again, 0.9)
    for picture, column in ((early, 80), (late, 240), (again, 144)):
        assert (picture[225, column] == 255).all()
        assert not (picture[225, column + 4] == 255).all()
    # Corner: the same for a step, another for the next; the rest is left alone.
    np.testing.assert_array_equal(early[:80], again[:80])
    assert (early[:80] != late[:80]).any()
    assert (early[100:200] == 200).all()
    # The strip: the first class in its colour, 90 % high; the second one, too low, in grey, half.
    blue, grey = early[226, 20].astype(int), early[238, 200]
    assert blue[2] > blue[0] + 50
    assert grey[0] == grey[1] == grey[2]
    assert early[226, 200].max() < 100 > early[221, 20].max()


def test_any_frame_size_and_label_can_be_drawn():
    for size in ((2, 2), (8, 2000), (600, 10)):
        picture = np.zeros((*size, 3), np.uint8)
        steps = [Step(0.0, 1.0, [LabelScore("a very long\nlabel " * 20, 1.0)] * 3)]
        timeline = Timeline("v", "m", [], [], [], 1.0, 1.0, None, steps)
        Drawing(timeline, size, 0.5).draw(picture, 5.0)


def test_ctrl_c_leaves_a_whole_file_of_what_was_drawn(encode, tmp_path, monkeypatch):
    silent = encode(tmp_path / "s.mp4", "libx264", 100, size=(160, 120), options={"bf": "0"})
    source = add_sound(silent, tmp_path / "v.mp4", seconds=4.0)
    draw, calls = Drawing.draw, []

    def interrupted(drawing, picture, seconds):
        calls.append(None)
        if len(calls) == 30:
            os.kill(os.getpid(), signal.SIGINT)
        draw(drawing, picture, seconds)

    monkeypatch.setattr(Drawing, "draw", interrupted)
    output = tmp_path / "out.mp4"
    assert render(timeline_of(source, 4.0), output) == "interrupted"
    assert len(VideoReader(output)) == len(pictures(output)) == 30
    last_sound, _ = packets(output, "audio")[-1]
    assert last_sound == pytest.approx(29 / 25, abs=0.05)


def test_damage_in_the_middle_ends_the_file_there_and_is_told(encode, tmp_path, monkeypatch):
    source = encode(tmp_path / "v.mp4", "libx264", 30)
    whole = VideoReader.stream

    def breaks_off(reader, *arguments):
        read = whole(reader, *arguments)
        for _ in range(good):
            yield next(read)
        raise VideoError("it breaks off")

    monkeypatch.setattr(VideoReader, "stream", breaks_off)
    good = 12
    assert render(timeline_of(source), tmp_path / "out.mp4") == "it breaks off"
    assert len(pictures(tmp_path / "out.mp4")) == 12
    good = 0
    with pytest.raises(VideoError, match="it breaks off"):
        render(timeline_of(source), tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_damaged_sound_is_not_taken_for_a_full_disk(encode, tmp_path, monkeypatch):
    silent = encode(tmp_path / "s.mp4", "libx264", 50, size=(160, 120), options={"bf": "0"})
    source = add_sound(silent, tmp_path / "v.mp4")

    class Damaged:
        """An open file whose sound breaks off after 20 packets."""

        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return getattr(self.container, name)

        def demux(self, streams):
            yield from islice(self.container.demux(streams), 20)
            raise av.error.InvalidDataError(1, "Invalid data")

    @contextmanager
    def damaged(path):
        with opened(path) as (container, stream):
            yield Damaged(container), stream

    monkeypatch.setattr("actionrec.prediction.rendering.opened", damaged)
    reason = render(timeline_of(source), tmp_path / "out.mp4")
    assert "sound that could not be read (Invalid data)" in reason
    assert 5 <= len(pictures(tmp_path / "out.mp4")) < 20


def test_sound_that_the_file_can_not_hold_is_told_before(encode, tmp_path):
    silent = encode(tmp_path / "s.avi", frames=50)
    source = add_sound(silent, tmp_path / "v.avi", codec="wmav2")
    with pytest.raises(ActionrecError, match=r"sound of .*v.avi \(wmav2\) can't be copied.*AAC"):
        require_rendering(source, tmp_path / "out.mp4")
    require_rendering(silent, tmp_path / "out.mp4")


def test_a_source_that_is_missing_or_empty_is_told_before(tmp_path):
    with pytest.raises(VideoError, match="missing.mp4 is not a file"):
        require_rendering(tmp_path / "missing.mp4", tmp_path / "out.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match="empty.mp4 is empty"):
        require_rendering(tmp_path / "empty.mp4", tmp_path / "out.mp4")


FULL = """
import resource, sys
from pathlib import Path
from test_prediction_rendering import timeline_of
from actionrec.errors import ActionrecError
from actionrec.prediction.rendering import render
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    render(timeline_of(sys.argv[1]), Path(sys.argv[2]))
except ActionrecError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_leaves_nothing(encode, tmp_path):
    source = encode(tmp_path / "v.mp4", "libx264", 50, size=(320, 240))
    folder = tmp_path / "full"
    folder.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(source), str(folder / "out.mp4")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parent,
    )
    assert run.returncode == 1
    assert "could not be written (File too large); free some space" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert not list(folder.iterdir())
