"""Frames are exact, or there is an error: on healthy files of every kind, and on broken ones."""

import gc
import json
import os
import re
import struct
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import PictureType
from PIL import Image
from torchvision.transforms.v2 import functional

from actionrec.errors import VideoError
from actionrec.video import index
from actionrec.video.index import ANNOUNCED_SHARE
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling

SHARED = Path(
    os.environ.get("ACTIONREC_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
)
PACKED = SHARED / "clips" / "packed_bframes.avi"
needs_packed = pytest.mark.skipif(not PACKED.is_file(), reason=f"{PACKED} is not here")

X264 = {"bf": "3", "x264-params": "b-adapt=0:scenecut=0:keyint=12"}
# File name, codec, its options, and whether the file must have B-frames to be a test.
HEALTHY = {
    "XviD-like AVI, one key frame": ("v.avi", "mpeg4", {"bf": "2", "g": "600"}, True),
    "mpeg4 AVI, no B-frames": ("v.avi", "mpeg4", {"g": "12"}, False),
    "mpeg4 AVI, no B-frames, one key frame": ("v.avi", "mpeg4", {"g": "600"}, False),
    "mpeg4 AVI, B-frames, short groups": ("v.avi", "mpeg4", {"bf": "2", "g": "8"}, True),
    "H.264 AVI": ("v.avi", "libx264", X264, True),
    "H.264 mp4": ("v.mp4", "libx264", X264, True),
    "H.264 mov": ("v.mov", "libx264", X264, True),
    "H.264 mkv": ("v.mkv", "libx264", X264, True),
    "H.264 flv": ("v.flv", "libx264", X264, True),
    "H.264 mpegts": ("v.ts", "libx264", X264, True),
    "MPEG-2 program stream": ("v.mpg", "mpeg2video", {"bf": "2"}, True),
    "H.264 mp4, open groups": (
        "v.mp4",
        "libx264",
        {"bf": "3", "x264-params": "b-adapt=0:scenecut=0:keyint=12:open-gop=1"},
        True,
    ),
    "HEVC mkv, open groups": (
        "v.mkv",
        "libx265",
        {"x265-params": "log-level=none:bframes=3:b-adapt=0:keyint=12:open-gop=1"},
        True,
    ),
    "MPEG-4 mp4": ("v.mp4", "mpeg4", {"bf": "2", "g": "12"}, True),
    "HEVC mp4": ("v.mp4", "libx265", {"x265-params": "log-level=none:bframes=3"}, True),
    "VP8 webm": ("v.webm", "libvpx", {"lag-in-frames": "8"}, False),
    "VP9 webm": ("v.webm", "libvpx-vp9", {"lag-in-frames": "8", "cpu-used": "5"}, False),
    "AV1 mp4": ("v.mp4", "libsvtav1", {"preset": "10", "svtav1-params": "lp=1"}, False),
}


def decode(path, size=None):
    """The reference: every frame of the file, one after the other, by PyAV alone."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames) if size is None else scale(np.stack(frames), size)


def scale(frames, short_side):
    """Frames (T, H, W, 3) scaled all at once."""
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    factor = short_side / min(frames.shape[1:3])
    size = [round(side * factor) for side in frames.shape[1:3]]
    return functional.resize(pictures, size, antialias=True).permute(0, 2, 3, 1).numpy()


def indices_shown(frames):
    """The index that each frame carries in its eight columns, see conftest.encode."""
    columns = frames.mean(axis=(1, 3)).reshape(len(frames), 8, -1)
    middle = columns.shape[2] // 2
    return ((columns[:, :, middle] > 125) << np.arange(8)).sum(axis=1).tolist()


def needs(codec):
    try:
        av.codec.Codec(codec, "w")
    except av.error.FFmpegError:
        pytest.skip(f"this PyAV has no encoder {codec}")


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request, monkeypatch):
    """The threads of this process: with two, one of them decodes while the other one converts."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


def assert_exact(path, clips=ClipSampling(length=8, stride=3)):  # noqa: B008
    """Whole, scaled, and in clips from several starts, the reader gives the reference's frames."""
    video, reference = VideoReader(path), decode(path)
    assert len(video) == len(reference)
    assert video.size == reference.shape[1:3]
    np.testing.assert_array_equal(video.read(range(len(video))), reference)
    scaled = decode(path, size=32)
    for start in range(0, len(video), 7):
        clip = clips.clip(start, len(video))
        np.testing.assert_array_equal(video.read(clip), reference[clip])
        np.testing.assert_array_equal(video.read(clip, size=32), scaled[clip])
    for length, step in ((1, 9), (3, 10), (4, 17), (2, 1)):
        starts = range(0, len(video) - length, step)
        chosen = [list(range(start, start + length)) for start in starts]
        for clip, frames in zip(chosen, video.clips(chosen), strict=True):
            np.testing.assert_array_equal(frames, reference[clip])
    return reference


@needs_packed
def test_real_packed_avi_is_exact_from_every_start():
    reference, video = decode(PACKED), VideoReader(PACKED)
    assert len(video) == len(reference) == 164
    assert (video.size, video.fps) == ((240, 320), 25.0)
    for start in range(len(video)):
        clip = ClipSampling(length=16).clip(start, len(video))
        np.testing.assert_array_equal(video.read(clip), reference[clip])


@needs_packed
def test_clips_of_the_real_packed_avi_far_apart_in_one_pass_are_exact():
    reference, video = decode(PACKED), VideoReader(PACKED)
    for length, gap in ((16, 5), (16, 40), (5, 3), (1, 2), (1, 50), (40, 1)):
        starts = range(0, 164 - length, length + gap)
        clips = [list(range(start, start + length)) for start in starts]
        for clip, frames in zip(clips, video.clips(clips), strict=True):
            np.testing.assert_array_equal(frames, reference[clip])


@needs_packed
def test_real_packed_avi_scaled_and_in_one_pass_is_exact():
    reference, video = decode(PACKED, size=128), VideoReader(PACKED)
    clips = [ClipSampling(length=16, stride=2).clip(start, 164) for start in range(164)]
    for clip, frames in zip(clips, video.clips(clips, size=128), strict=True):
        np.testing.assert_array_equal(frames, reference[clip])


def test_clips_out_of_order_are_given_all_the_same(encode, tmp_path):
    video = VideoReader(encode(tmp_path / "v.avi", frames=40))
    clips = [range(20, 30), range(5, 8), range(7, 25), range(0, 1)]
    found = [indices_shown(frames) for frames in video.clips(clips)]
    assert found == [list(clip) for clip in clips]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", HEALTHY)
def test_frames_are_those_of_a_sequential_decode(encode, tmp_path, kind):
    name, codec, options, b_frames = HEALTHY[kind]
    needs(codec)
    path = encode(tmp_path / name, codec, frames=40, options=options)
    if b_frames:
        with av.open(str(path)) as container:
            types = {frame.pict_type for frame in container.decode(video=0)}
        assert PictureType.B in types
    # So that a wrong reference, or frames too alike to tell apart, can't pass.
    assert indices_shown(assert_exact(path)) == list(range(40))
    assert VideoReader(path).fps == 25.0
    assert VideoReader(path).duration == 40 / 25


@pytest.mark.parametrize(
    "kind", ["XviD-like AVI, one key frame", "H.264 mp4", "H.264 mkv", "HEVC mkv, open groups"]
)
def test_a_clip_needs_no_counting_from_the_start_where_there_is_a_shortcut(
    encode, tmp_path, monkeypatch, kind
):
    name, codec, options, _ = HEALTHY[kind]
    needs(codec)
    path = encode(tmp_path / name, codec, frames=100, options=options)
    monkeypatch.delattr(VideoReader, "_decode_counting")
    clips = [range(0, 8), range(30, 62, 2), range(94, 100)]
    for clip, frames in zip(clips, VideoReader(path).clips(clips), strict=True):
        assert indices_shown(frames) == list(clip)


def test_key_frames_that_are_none_are_seen_through(encode, tmp_path):
    """The index of an AVI may have the key frame flag on every frame."""
    path = encode(tmp_path / "v.avi", frames=40, options={"g": "600"})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"idx1") + 8
    for entry in range(place, len(data) - 15, 16):
        data[entry + 4] |= 0x10
    path.write_bytes(data)
    assert indices_shown(assert_exact(path)) == list(range(40))


def test_frames_that_the_decoder_had_to_make_up_are_found_by_verifying(encode, tmp_path):
    path = encode(tmp_path / "v.avi", frames=40, size=(320, 240), options={"bf": "2"})
    assert VideoReader(path).verify() == ""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size > 200]
        for packet in packets[3::9]:
            place = packet.pos + 8 + packet.size // 2
            data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    damage = VideoReader(path).verify()
    assert re.fullmatch(r"the decoder had to make up parts of \d+ of its 40 frames", damage)


def test_variable_frame_rate_is_read_by_index_not_by_time(encode, tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(10, 200, 40)).tolist()
    path = encode(tmp_path / "v.mp4", "libx264", frames=40, options=X264, times=times)
    with av.open(str(path)) as container:
        shown = [round(frame.time * 1000) for frame in container.decode(video=0)]
    assert np.diff(shown).tolist() == np.diff(times).tolist()
    assert indices_shown(assert_exact(path)) == list(range(40))


def test_frames_that_an_edit_list_cuts_off_do_not_exist(encode, tmp_path):
    path = encode(tmp_path / "v.mp4", "libx264", frames=40, options=X264)
    with av.open(str(path)) as container:
        a_frame = int(1 / 25 / container.streams.video[0].time_base)
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 16
    [start] = struct.unpack_from(">i", data, place)
    struct.pack_into(">i", data, place, start + 5 * a_frame)
    path.write_bytes(data)
    assert indices_shown(assert_exact(path)) == list(range(5, 40))


# As a player shows them: mirrored left to right, then quarter turns clockwise; and the matrix
# (a, b, c, d) of the track header.
@pytest.mark.parametrize(
    ("mirrored", "turns", "matrix"),
    [
        (False, 1, (0, 1, -1, 0)),
        (False, 2, (-1, 0, 0, -1)),
        (False, 3, (0, -1, 1, 0)),
        (True, 0, (-1, 0, 0, 1)),
        (True, 1, (0, -1, -1, 0)),
        (True, 2, (1, 0, 0, -1)),
        (True, 3, (0, 1, 1, 0)),
    ],
)
def test_frames_are_turned_and_mirrored_as_a_player_shows_them(
    encode, tmp_path, mirrored, turns, matrix
):
    path = encode(tmp_path / "v.mp4", "libx264", frames=10, size=(64, 32), options=X264)
    data = bytearray(path.read_bytes())
    a, b, c, d = (65536 * entry for entry in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    video = VideoReader(path)
    picture = decode(path)[:, :, ::-1] if mirrored else decode(path)
    upright = np.rot90(picture, -turns, axes=(1, 2))
    assert video.size == upright.shape[1:3] == ((64, 32) if turns % 2 else (32, 64))
    np.testing.assert_array_equal(video.read(range(10)), upright)
    np.testing.assert_array_equal(video.read(range(10), size=16), scale(upright, 16))


def test_hidden_reference_frames_of_vp8_are_not_counted(encode, tmp_path):
    needs("libvpx")
    source = encode(tmp_path / "shown.webm", "libvpx", frames=30)
    path = tmp_path / "hidden.webm"
    with av.open(str(source)) as shown, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(shown.streams.video[0])
        for number, packet in enumerate(shown.demux(video=0)):
            data = bytearray(bytes(packet))
            if number in (7, 15):
                data[0] &= ~0x10  # show_frame, RFC 6386 section 9.1
            if data:
                hidden = av.Packet(bytes(data))
                hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
                hidden.is_keyframe, hidden.stream = packet.is_keyframe, stream
                container.mux(hidden)
    assert len(assert_exact(path)) == 28


def test_a_recording_that_starts_between_key_frames_is_read_from_its_first_whole_one(
    encode, tmp_path
):
    path = encode(tmp_path / "v.ts", "libx264", frames=60, options=X264)
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 188 // 3 * 188 :])
    shown = indices_shown(assert_exact(path))
    assert 0 < shown[0] and shown == list(range(shown[0], 60))


def test_sound_that_outlasts_the_picture_is_no_cut(encode, tmp_path):
    source = encode(tmp_path / "silent.mkv", "libx264", frames=20, options=X264)
    path = tmp_path / "sound.mkv"
    with av.open(str(source)) as silent, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(silent.streams.video[0])
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for packet in silent.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
        mux_sound(container, sound, seconds=3)
    assert len(assert_exact(path)) == 20


def test_a_title_in_another_encoding_than_utf8_does_no_harm(encode, tmp_path):
    path = encode(tmp_path / "v.avi", frames=5)
    data = path.read_bytes()
    assert data.count(b"Lavf") == 1  # the value of the tag ISFT, the software
    path.write_bytes(data.replace(b"Lavf", "Früh".encode("latin-1")))
    assert len(VideoReader(path)) == 5


@pytest.mark.parametrize("name", ["12:30.avi", "http:v.avi", "v%03d.avi", "über 'v'.avi"])
def test_any_file_name_is_a_file_name(encode, tmp_path, monkeypatch, name):
    encode(tmp_path / "v.avi", frames=5).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(VideoReader(name)) == 5


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((64, 48), 24, (24, 32)),
        ((48, 64), 24, (32, 24)),
        ((64, 48), 96, (96, 128)),
        ((64, 64), 30, (30, 30)),
        ((170, 128), 124, (124, 165)),
    ],
)
def test_the_shorter_side_is_scaled_to_the_length_asked_for(
    encode, tmp_path, size, short_side, expected
):
    path = encode(tmp_path / "v.avi", frames=8, size=size)
    frames = VideoReader(path).read([0, 4, 7], short_side)
    assert (frames.shape, frames.dtype) == ((3, *expected, 3), np.uint8)
    np.testing.assert_array_equal(frames, decode(path, short_side)[[0, 4, 7]])


@pytest.mark.parametrize("turns", [0, 1])
def test_a_crop_is_cut_out_of_the_frame_as_it_is_shown_and_then_scaled(encode, tmp_path, turns):
    path = encode(tmp_path / "v.mp4", "libx264", frames=8, size=(64, 48))
    if turns:
        data = bytearray(path.read_bytes())
        place = data.index(b"tkhd") + 44
        struct.pack_into(">9i", data, place, 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
    shown = np.rot90(decode(path), -turns, axes=(1, 2))[[1, 2, 5]]
    cut = shown[:, 3:33, 7:47]
    video = VideoReader(path)
    np.testing.assert_array_equal(video.read([1, 2, 5], crop=(3, 7, 30, 40)), cut)
    scaled = video.read([1, 2, 5], size=(20, 16), crop=(3, 7, 30, 40))
    for frame, whole in zip(scaled, cut, strict=True):
        # Pillow, too, averages all pixels that fall into one.
        expected = Image.fromarray(whole).resize((16, 20), Image.Resampling.BILINEAR)
        assert np.abs(frame.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("crop", [(-1, 0, 8, 8), (0, 60, 8, 8), (44, 0, 8, 8), (0, 0, 0, 8)])
def test_a_crop_that_is_not_inside_the_frame_is_refused(encode, tmp_path, crop):
    video = VideoReader(encode(tmp_path / "v.avi", frames=3))
    with pytest.raises(ValueError, match="does not fit into frames of .48, 64."):
        video.read([0], crop=crop)


def test_repeated_indices_repeat_the_frame(encode, tmp_path):
    path = encode(tmp_path / "v.avi", frames=12, options={"bf": "2"})
    indices = [0, 0, 3, 3, 3, 11, 11]
    np.testing.assert_array_equal(VideoReader(path).read(indices), decode(path)[indices])


def test_clips_in_one_pass_are_those_read_one_by_one(encode, tmp_path, monkeypatch):
    path = encode(tmp_path / "v.mp4", "libx264", frames=60, options=X264)
    video = VideoReader(path)
    sampling = ClipSampling(length=6, stride=2)
    clips = [sampling.clip(start, 60) for start in (0, 3, 4, 4, 20, 49, 55, 59)]
    expected = [video.read(clip, size=32) for clip in clips]

    opened = []
    open_file = av.open

    def count(name, **options):
        opened.append(name)
        return open_file(name, **options)

    monkeypatch.setattr(index.av, "open", count)
    together = list(video.clips(clips, size=32))
    assert len(opened) == 1
    assert len(together) == len(clips)
    for clip, alone in zip(together, expected, strict=True):
        np.testing.assert_array_equal(clip, alone)


@pytest.mark.parametrize("indices", [[], [-1, 0], [0, 12], [12], [3, 2]])
def test_frames_that_do_not_exist_or_go_backwards_are_refused(encode, tmp_path, indices):
    video = VideoReader(encode(tmp_path / "v.avi", frames=12))
    with pytest.raises(IndexError, match="v.avi, which has 12"):
        video.read(indices)


def test_a_five_frame_file_gives_a_clip_that_ends_in_its_last_frame(encode, tmp_path):
    path = encode(tmp_path / "v.avi", frames=5, options={"bf": "2"})
    video, reference = VideoReader(path), decode(path)
    [clip] = ClipSampling(length=16).uniform(len(video), clips=10)
    frames = video.read(clip)
    np.testing.assert_array_equal(frames[:5], reference)
    np.testing.assert_array_equal(frames[5:], np.repeat(reference[4:], 11, axis=0))


def mux_sound(container, stream, seconds):
    for number in range(seconds * 16):
        samples = np.random.default_rng(number).normal(0, 0.1, (1, 1000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 1000 * number, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def audio_only(path):
    with av.open(str(path), "w") as container:
        mux_sound(container, container.add_stream("aac", rate=16000, layout="mono"), seconds=1)


def song_with_cover(path):
    """An mp3 with a picture in its ID3v2.3 tag, which FFmpeg presents as a video stream."""
    with av.open(str(path), "w", options={"id3v2_version": "0"}) as container:
        mux_sound(container, container.add_stream("mp3", rate=16000, layout="mono"), seconds=1)
    png = av.CodecContext.create("png", "w")
    png.width = png.height = 16
    png.pix_fmt, png.time_base = "rgb24", Fraction(1, 25)
    [picture] = png.encode(av.VideoFrame(16, 16, "rgb24")) or png.encode(None)
    body = b"\0image/png\0\3\0" + bytes(picture)
    frame = b"APIC" + struct.pack(">IH", len(body), 0) + body
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + size + frame + path.read_bytes())
    with av.open(str(path)) as container:
        assert container.streams.video


NOT_VIDEOS = {
    "missing": ("no.avi", lambda path: None, "is not a file"),
    "a folder": ("folder.avi", Path.mkdir, "is not a file"),
    "empty": ("empty.mp4", Path.touch, "is empty"),
    "text": ("text.mp4", lambda path: path.write_text("No video.\n" * 20), "could not be read"),
    "text, called AVI": ("text.avi", lambda path: path.write_text("RIFF\n"), "could not be read"),
    "noise": (
        "noise.avi",
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
        "could not be read",
    ),
    "audio only": ("sound.mp4", audio_only, "has no video stream"),
    "a picture": (
        "picture.jpg",
        lambda path: Image.new("RGB", (64, 48)).save(path),
        "is not a video",
    ),
    "a text that FFmpeg would draw": (
        "film.nfo",
        lambda path: path.write_text("No video.\n" * 20),
        "is not a video",
    ),
    "a list of other files": (
        "list.mp4",
        lambda path: path.write_text("ffconcat version 1.0\nfile /etc/hostname\n"),
        "could not be read",
    ),
    "a song with a cover": ("song.mp3", song_with_cover, "has no video stream"),
}


@pytest.mark.parametrize("kind", NOT_VIDEOS)
def test_what_is_no_video_gets_one_sentence_with_its_path_and_reason(tmp_path, kind):
    name, make, reason = NOT_VIDEOS[kind]
    make(tmp_path / name)
    with pytest.raises(VideoError) as caught:
        VideoReader(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and reason in message
    assert "\n" not in message and message.endswith(".")


def assert_error_or_exact(path, whole):
    """The cut file is refused, or lacks no more than a healthy one might, and its frames are those
    of the whole one. Its last three may not: a B-frame is stored after the frame it precedes, so
    one that was cut off lets later ones move up."""
    try:
        video = VideoReader(path)
        frames = video.read(range(len(video)))
    except VideoError as error:
        assert str(path) in str(error)
        return
    assert len(frames) >= ANNOUNCED_SHARE * len(whole) - 1
    sure = len(frames) if len(frames) == len(whole) else len(frames) - 3
    np.testing.assert_array_equal(frames[:sure], whole[:sure])


SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.93, 0.96, 0.98, 0.99, 0.999)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("v.avi", "mpeg4", {"bf": "2"}),
        ("v.avi", "libx264", X264),
        ("v.mp4", "libx264", X264),
        ("v.mkv", "libx264", X264),
        ("v.webm", "libvpx-vp9", {"cpu-used": "5"}),
        ("v.flv", "libx264", X264),
    ],
)
def test_a_cut_file_is_an_error_and_never_other_frames(encode, tmp_path, name, codec, options):
    needs(codec)
    path = encode(tmp_path / name, codec, frames=60, options=options)
    data, whole = path.read_bytes(), decode(path)
    for share in SHARES:
        path.write_bytes(data[: int(share * len(data))])
        assert_error_or_exact(path, whole)


def test_an_mp4_that_can_be_played_while_it_loads_is_an_error_when_cut(encode, tmp_path):
    source = encode(tmp_path / "v.mp4", "libx264", frames=60, options=X264)
    path = tmp_path / "fast.mp4"
    options = {"movflags": "faststart"}
    with av.open(str(source)) as v, av.open(str(path), "w", options=options) as container:
        stream = container.add_stream_from_template(v.streams.video[0])
        for packet in v.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert_exact(path)
    for share in SHARES:
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(VideoError):
            VideoReader(path)


def test_a_transport_stream_is_read_as_far_as_it_goes(encode, tmp_path):
    """It states no length: it is a recording, which ends when somebody stops it."""
    path = encode(tmp_path / "v.ts", "libx264", frames=60, options=X264)
    data, whole = path.read_bytes(), decode(path)
    for share in (0.3, 0.5, 0.7, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        try:
            frames = VideoReader(path).read(range(len(VideoReader(path))))
        except VideoError:  # the last packet is seen to be incomplete
            continue
        np.testing.assert_array_equal(frames[:-3], whole[: len(frames) - 3])


@needs_packed
def test_the_real_avi_is_an_error_when_cut(tmp_path):
    data, whole = PACKED.read_bytes(), decode(PACKED)
    path = tmp_path / "cut.avi"
    for share in SHARES:
        path.write_bytes(data[: int(share * len(data))])
        assert_error_or_exact(path, whole)


@pytest.mark.usefixtures("threads")
def test_a_file_that_gives_fewer_frames_than_it_has_is_an_error(encode, tmp_path):
    """As when it is being replaced, or a decoder drops damaged frames."""
    path = encode(tmp_path / "v.avi", frames=30)
    video = VideoReader(path)
    encode(path, frames=20)
    assert video.read([0, 19]).shape == (2, 48, 64, 3)
    with pytest.raises(VideoError, match="gave only 20 of its 30 frames"):
        video.read([0, 20])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError, match="gave only 0 of its 30 frames"):
        video.read([0, 20])


# In a process of its own: a decoder that hangs or crashes must not take the tests with it.
READ_ALL = """
import json, sys
from actionrec.video.index import ANNOUNCED_SHARE
from actionrec.errors import VideoError
from actionrec.video.reader import VideoReader
outcomes = {}
for path in sys.argv[1:]:
    try:
        video = VideoReader(path)
        frames = video.read(range(len(video)), size=32)
        right = frames.shape[0] == len(video) and min(frames.shape[1:3]) == 32
        outcomes[path] = "frames" if right else f"{frames.shape}"
    except VideoError:
        outcomes[path] = "error"
    except BaseException as error:
        outcomes[path] = repr(error)
print(json.dumps(outcomes))
"""


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("v.avi", "mpeg4", {"bf": "2"}),
        ("v.mp4", "libx264", X264),
        ("v.mkv", "libx264", X264),
        ("v.ts", "libx264", X264),
    ],
)
def test_flipped_bits_give_an_error_or_frames_and_nothing_else(
    encode, tmp_path, name, codec, options
):
    source = encode(tmp_path / name, codec, frames=20, options=options)
    data = np.frombuffer(source.read_bytes(), np.uint8)
    generator = np.random.default_rng(2)
    paths = []
    for variant in range(60):
        damaged = data.copy()
        # A third in the header, a third anywhere, a third badly damaged.
        end = 1000 if variant % 3 == 0 else len(data)
        places = generator.integers(0, end, 200 if variant % 3 == 2 else 8)
        np.bitwise_xor.at(damaged, places, 1 << generator.integers(0, 8, len(places)))
        paths.append(tmp_path / f"{variant}{source.suffix}")
        paths[-1].write_bytes(damaged.tobytes())
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, *paths], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == 60
    assert set(outcomes.values()) == {"frames", "error"}


@pytest.mark.usefixtures("threads")
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc to count descriptors in")
def test_no_descriptor_and_no_thread_is_left(encode, tmp_path):
    good = encode(tmp_path / "good.avi", frames=8)
    bad = tmp_path / "bad.avi"
    bad.write_bytes(good.read_bytes()[:-3000])
    VideoReader(good)  # The cache of indices stays open.
    gc.collect()  # What other tests left open closes now, not in between.
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(100):
        video = VideoReader(good)
        video.read([0, 1])
        next(video.clips([[0, 1], [6, 7]]))
        with pytest.raises(VideoError):
            VideoReader(bad)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
