"""Shortcuts are taken only where they proved to give the frames of a decode from the start.

What a file says of its order, key frames, number of frames, rate and length need not be true.
"""

import logging
import os
import struct
from fractions import Fraction
from itertools import chain

import av
import numpy as np
import pytest

from actionrec.errors import VideoError
from actionrec.video.clips import ClipReader
from actionrec.video.index import index_of, scan
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling

B_FRAMES = {"bf": "3", "x264-params": "b-adapt=0:scenecut=0:keyint=12"}


def decode(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def remux(source, target, change):
    """Copy the packets of a video without encoding them anew, each changed by `change`."""
    with av.open(str(source)) as file, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(file.streams.video[0])
        for number, packet in enumerate(p for p in file.demux(video=0) if p.size):
            change(number, packet)
            packet.stream = stream
            output.mux(packet)
    return target


def assert_exact_from_everywhere(path):
    expected = decode(path)
    video = VideoReader(path)
    assert len(video) == len(expected)
    for index in reversed(range(len(expected))):
        [picture] = video.read([index])
        assert np.abs(picture.astype(int) - expected[index]).mean() < 1.5, f"frame {index}"
    for start in range(0, len(expected) - 8, 5):
        clip = range(start, start + 8)
        difference = video.read(clip).astype(int) - expected[start : start + 8]
        assert np.abs(difference).mean() < 1.5, f"clip from {start}"


def stamp_as_decoded(_, packet):
    packet.pts = packet.dts


def call_a_key_frame(number, packet):
    packet.is_keyframe = number % 5 == 0


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("change", [stamp_as_decoded, call_a_key_frame])
def test_stamps_and_key_frames_that_lie_are_seen_through(encode, tmp_path, change, suffix):
    source = encode(tmp_path / "v.mp4", "libx264", frames=60, options=B_FRAMES)
    path = remux(source, tmp_path / f"changed.{suffix}", change)
    assert_exact_from_everywhere(path)


def test_a_healthy_file_keeps_its_shortcut(encode, tmp_path):
    path = encode(tmp_path / "v.mp4", "libx264", frames=60, options=B_FRAMES)
    assert scan(path).access == "time"
    assert_exact_from_everywhere(path)


@pytest.fixture
def long(encode, tmp_path, monkeypatch):
    """A video too long to be decoded whole before it is read."""
    monkeypatch.setattr("actionrec.video.index.MOST_PROVEN_PIXELS", 0)
    return encode(tmp_path / "v.mp4", "libx264", frames=160, options=B_FRAMES)


def test_a_long_file_is_read_with_checks(long):
    assert scan(long).access == "keys"
    assert_exact_from_everywhere(long)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_long_file_whose_parts_disprove_it_is_decoded_whole(long, tmp_path, suffix):
    path = remux(long, tmp_path / f"lies.{suffix}", stamp_as_decoded)
    assert scan(path).access == "count"
    assert_exact_from_everywhere(path)


def without_first_packets(source, path):
    """A copy that begins between two key frames."""
    with av.open(str(source)) as file, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(file.streams.video[0])
        for packet in [packet for packet in file.demux(video=0) if packet.size][5:]:
            packet.stream = stream
            output.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_long_recording_that_begins_between_two_key_frames_counts_what_can_be_shown(
    long, tmp_path, suffix
):
    path = without_first_packets(long, tmp_path / f"begun.{suffix}")
    assert_exact_from_everywhere(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_video_that_can_only_be_decoded_from_a_later_key_frame_says_so(encode, tmp_path, suffix):
    whole = encode(tmp_path / f"whole.{suffix}", "libvpx-vp9", frames=20, options={"g": "12"})
    path = without_first_packets(whole, tmp_path / f"begun.{suffix}")
    with pytest.raises(VideoError, match=f"begun.{suffix} begins between two key frames, so its"):
        VideoReader(path)


def test_colours_that_differ_behind_a_key_frame_are_seen(tmp_path):
    """Lossless video that grows in its middle, which the container does not say: the decoder gives
    the same brightness from a key frame on as from the start, and other colours."""
    generator = np.random.default_rng(4)
    for name, width, height in (("small", 64, 48), ("large", 128, 96)):
        with av.open(str(tmp_path / f"{name}.mkv"), "w") as output:
            stream = output.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            squares = generator.integers(0, 255, (height // 4, width // 4, 3), np.uint8)
            scene = squares.repeat(8, 0).repeat(8, 1)
            for top in range(0, 30):
                picture = np.ascontiguousarray(scene[top : top + height, top : top + width])
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            output.mux(stream.encode(None))
    path, number = tmp_path / "both.mkv", 0
    with (
        av.open(str(tmp_path / "small.mkv")) as small,
        av.open(str(tmp_path / "large.mkv")) as large,
        av.open(str(path), "w") as output,
    ):
        stream = output.add_stream_from_template(small.streams.video[0])
        for packet in chain(small.demux(video=0), large.demux(video=0)):
            if packet.size:
                packet.pts = packet.dts = number
                packet.time_base, packet.stream = Fraction(1, 25), stream
                output.mux(packet)
                number += 1
    assert_exact_from_everywhere(path)


def test_a_frame_that_refers_to_a_lost_chunk_of_an_avi_is_not_counted(encode, tmp_path):
    path = encode(tmp_path / "v.avi", frames=60, options={"bf": "2", "g": "12"})
    avi = bytearray(path.read_bytes())
    places, movi = avi.rindex(b"idx1") + 8, avi.index(b"movi")
    for frame in range(4, 60, 9):
        offset, size = struct.unpack_from("<II", avi, places + 16 * frame + 8)
        # Filler from here on: the chunk itself has no bytes.
        filler = struct.pack("<I4sI", 0, b"JUNK", size + size % 2 - 8)
        avi[movi + offset + 4 : movi + offset + 4 + len(filler)] = filler
        struct.pack_into("<I", avi, places + 16 * frame + 12, 0)
    path.write_bytes(avi)
    assert_exact_from_everywhere(path)


@pytest.mark.parametrize("size", [(16, 16), (18, 34)])
def test_frames_of_a_tiny_video_are_all_counted(encode, tmp_path, size):
    path = encode(tmp_path / "v.avi", frames=100, size=size)
    assert len(VideoReader(path)) == len(decode(path)) == 100


def test_hidden_frames_are_not_counted(encode, tmp_path):
    options = {"auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "5"}
    path = encode(tmp_path / "v.webm", "libvpx-vp9", frames=50, options=options)
    assert_exact_from_everywhere(path)


def test_rate_and_duration_follow_the_time_stamps(encode, tmp_path):
    times = [0, 40, 80, 1000, 1040, 1080, 3000, 3040]
    video = VideoReader(encode(tmp_path / "v.mp4", "libx264", frames=8, times=times))
    assert video.fps == pytest.approx(7 / 3.04, rel=0.15)
    assert [round(video.clock()(index), 2) for index in range(8)] == [t / 1000 for t in times]
    assert 3.04 < video.duration < 3.6


def test_a_target_rate_takes_frames_by_their_times(encode, tmp_path):
    """The same second of video at 25 frames a second, and with every other frame left out later."""
    times = [40 * i for i in range(50)] + [2000 + 80 * i for i in range(25)]
    path = encode(tmp_path / "v.mp4", "libx264", frames=75, times=times)
    reader = ClipReader(ClipSampling(length=10, stride=5, fps=25))
    [clip] = reader.stream(path, clips=1)
    start, end = clip.seconds
    assert end - start == pytest.approx(9 * 0.2, abs=0.15)


def test_a_lost_packet_of_a_transport_stream_is_told_and_read_over(encode, tmp_path, caplog):
    path = encode(tmp_path / "v.ts", "libx264", frames=50, size=(160, 120), options={"g": "10"})
    data = path.read_bytes()
    # A packet in the middle of a frame, of the stream with the picture.
    places = [p for p in range(0, len(data), 188) if data[p + 1 : p + 3] == b"\x01\x00"]
    lost = places[len(places) // 2]
    path.write_bytes(data[:lost] + data[lost + 188 :])
    with caplog.at_level(logging.WARNING):
        assert len(VideoReader(path)) == len(decode(path))
    assert f"{path} is read although it is damaged" in caplog.text


def test_a_header_that_announces_too_much_is_no_cut(encode, tmp_path):
    path = encode(tmp_path / "v.avi", "ffv1", frames=30)
    data = bytearray(path.read_bytes())
    for name, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        struct.pack_into("<I", data, data.index(name) + offset, 90)
    path.write_bytes(data)
    assert len(VideoReader(path)) == 30
    path.write_bytes(data[: 2 * len(data) // 3])
    with pytest.raises(VideoError, match="cut off"):
        VideoReader(path)


@pytest.mark.parametrize(("start", "seconds"), [(0, 0.4), (17, 1.2), (30, 0.2)])
def test_a_video_that_a_phone_has_trimmed_is_no_cut_one(encode, tmp_path, start, seconds):
    """Trimming keeps all frames in the file and shows a part of them, by an edit list."""
    path = encode(tmp_path / "v.mp4", "libx264", frames=60, options=B_FRAMES)
    data = bytearray(path.read_bytes())
    edit = data.index(b"elst") + 12
    unit = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    [begin] = struct.unpack_from(">i", data, edit + 4)
    struct.pack_into(">Ii", data, edit, round(1000 * seconds), begin + start * unit // 25)
    path.write_bytes(data)
    assert_exact_from_everywhere(path)


def test_other_content_under_the_same_size_and_time_is_noticed(encode, tmp_path):
    path = encode(tmp_path / "v.avi", frames=30)
    os.utime(path, (1, 1))
    index_of(path)
    other = encode(tmp_path / "other.avi", frames=20).read_bytes()
    size = path.stat().st_size
    path.write_bytes(other + bytes(size - len(other)))
    os.utime(path, (1, 1))
    assert index_of(path).frames == 20
