"""`actionrec watch`: the newest clip and never an old one, streams that break off and
come back, pipes that end."""

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from fractions import Fraction
from itertools import islice, pairwise

import av
import numpy as np
import pytest
from PIL import Image

from actionrec.errors import ActionrecError
from actionrec.models.inference import InferenceModel
from actionrec.prediction.live import LONGEST_GAP, Backlog, NewestFrames, decode, watch
from actionrec.video.clips import ClipReader
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

FPS = 25
SIZE = 64


def picture(index):
    """A frame that carries its index, as those of the fixture `encode` do."""
    bits = (index >> np.arange(SIZE) * 8 // SIZE) & 1
    pixels = np.tile((30 + 190 * bits[:, None]).astype(np.uint8), (SIZE, 1, 3))
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    frame.pts, frame.time_base = index, Fraction(1, FPS)
    return frame


def index_of(pixels):
    """The index that a frame, uint8 (H, W, 3), carries."""
    width = pixels.shape[1]
    columns = pixels[:, width // 16 :: width // 8].mean(axis=(0, 2))
    return int((columns > 125) @ (1 << np.arange(8)))


class Camera(threading.Thread):
    """Serves frames by TCP as fast as a camera takes them, to one client after the other.

    Attributes:
        address: the source to watch.
        taken: the index of the newest frame.
    """

    def __init__(self, frames, clients=1, speed=1.0, pause=0.0):
        super().__init__(daemon=True)
        self.speed, self.pause = speed, pause
        self.frames, self.clients, self.taken = frames, clients, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.listening.getsockname()[1]}"
        self.start()

    def run(self):
        for _ in range(self.clients):
            connection, _ = self.listening.accept()
            # PyAV's own server would hold the interpreter while it waits for a client.
            file = connection.makefile("wb", buffering=0)
            with (
                connection,
                suppress(OSError, av.FFmpegError),
                av.open(file, "w", format="mpegts") as output,
            ):
                stream = output.add_stream("libx264", rate=FPS)
                stream.width = stream.height = SIZE
                stream.options = {"g": "5", "preset": "ultrafast", "tune": "zerolatency"}
                began = time.monotonic()
                for self.taken in range(self.frames):  # noqa: B020
                    if self.taken == self.frames // 2:
                        time.sleep(self.pause)
                        began += self.pause
                    due = began + self.taken / FPS / self.speed
                    time.sleep(max(0, due - time.monotonic()))
                    output.mux(stream.encode(picture(self.taken)))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (ClipSampling(4, 2), [33, 35, 37, 39]),
        (ClipSampling(4, 2, fps=10), [24, 29, 34, 39]),
        (ClipSampling(4, 1, fps=40), [37, 38, 38, 39]),
    ],
)
def test_a_clip_is_the_newest_frames_at_the_speed_that_the_network_knows(sampling, expected):
    newest = NewestFrames("camera:0", ClipReader(sampling))
    for index in range(40):
        newest.add(picture(index), came=index / FPS)
    clip = newest.wait()
    assert [index_of(frame.pixels) for frame in clip] == expected
    assert [round(frame.time * FPS) for frame in clip] == expected


def test_no_clip_spans_a_gap():
    newest = NewestFrames("camera:0", ClipReader(ClipSampling(4, 1)))
    for index in [*range(10), *range(100, 103)]:
        newest.add(picture(index), came=index / FPS)
    assert 90 / FPS > LONGEST_GAP
    assert [index_of(frame.pixels) for frame in newest.frames] == [100, 101, 102]


def test_a_frame_is_cut_and_scaled_as_a_file_is_read():
    preprocessing = Preprocessing(short_side=36, crop=32)
    newest = NewestFrames("camera:0", ClipReader(preprocessing=preprocessing))
    newest.add(av.VideoFrame(120, 80, "rgb24"), came=0)
    assert newest.frames[0].pixels.shape == (32, 32, 3)


def test_lag_is_what_came_later_than_the_quickest_whatever_the_clocks_say():
    backlog = Backlog()
    assert backlog.lag(1000.0, 5.0, waited=0) == 0
    assert backlog.lag(1001.0, 5.5, waited=0) == 0  # what had waited comes faster
    assert backlog.lag(1002.0, 7.5, waited=0) == pytest.approx(1, abs=0.01)
    assert backlog.lag(1003.0, 7.6, waited=0) == pytest.approx(0.1, abs=0.01)
    assert backlog.lag(1004.0, 28.0, waited=20) == 0  # the source had paused
    assert backlog.lag(1005.0, 30.5, waited=0.1) == pytest.approx(1.5, abs=0.01)
    assert backlog.lag(0.0, 8.0, waited=0) == 0  # the camera's clock was set anew
    # A clock that is slow by a second in three hours is no lag.
    lags = [backlog.lag(second, 8 + second * (1 + 1e-4), 0) for second in range(1, 10_000)]
    assert max(lags) < 0.1


def mjpeg_over_http(fps, seconds):
    """The address of a server of pictures, which FFmpeg takes for 25 a second."""

    def serve():
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(
                b"HTTP/1.0 200 OK\r\n"
                b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
            )
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width = encoder.height = SIZE
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, FPS)
            for index in range(round(fps * seconds)):
                for packet in encoder.encode(picture(index).reformat(format="yuvj420p")):
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {packet.size}"
                    connection.sendall(head.encode() + b"\r\n\r\n" + bytes(packet) + b"\r\n")
                time.sleep(1 / fps)

    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/"


def test_a_camera_that_is_slower_than_it_says_is_not_left_out(caplog):
    indices = []
    with suppress(av.FFmpegError):  # the end
        for frame, _ in decode(mjpeg_over_http(12, 4)):
            indices.append(index_of(frame.to_ndarray(format="rgb24")))
    assert indices == list(range(48))
    assert not caplog.text


@pytest.mark.parametrize("change", [{"speed": 0.6}, {"pause": 2.0}])
def test_a_source_that_is_slow_or_pauses_goes_on(change, caplog):
    camera = Camera(frames=100, **change)
    indices = [index_of(frame.to_ndarray(format="rgb24")) for frame, _ in decode(camera.address)]
    assert indices == list(range(100))
    assert not caplog.text


def test_a_clock_that_is_set_back_costs_no_silence():
    newest = NewestFrames("camera:0", ClipReader(ClipSampling(4, 1)))
    # A minute of recording that comes at once, then a stream that begins anew.
    for index in [*range(1500), *range(50)]:
        newest.add(picture(index), came=0.0)
        if index == 1499:
            assert newest.wait()[-1].time == pytest.approx(1499 / FPS)
    assert newest.wait()[-1].time == pytest.approx((1499 + 49) / FPS)


def test_a_source_that_nobody_watches_any_more_is_not_opened_again(small_recognizer, caplog):
    camera = Camera(frames=40, clients=2)
    predictions = watch(InferenceModel(small_recognizer), camera.address)
    next(predictions)
    [reading] = [thread for thread in threading.enumerate() if camera.address in thread.name]
    predictions.close()
    reading.join(30)
    assert not reading.is_alive()
    assert "opened again" not in caplog.text


def test_a_reader_that_was_held_up_throws_away_what_is_old(caplog):
    camera = Camera(frames=200)
    frames = decode(camera.address)
    # What opening has read ahead comes at once.
    indices = [index_of(frame.to_ndarray(format="rgb24")) for frame, _ in islice(frames, 50)]
    assert indices == list(range(50))
    time.sleep(2.5)
    ages = [camera.taken - index_of(frame.to_ndarray(format="rgb24")) for frame, _ in frames]
    assert max(ages) < 2 * FPS  # 2.5 seconds waited; up to one counts as no lag
    assert len(ages) < 200 - 50 - FPS
    assert "faster than it is decoded" in caplog.text


def test_a_slow_network_scores_less_often_and_not_late(small_recognizer, monkeypatch):
    quick = InferenceModel.scores

    def slow(self, clips):
        time.sleep(1)
        return quick(self, clips)

    monkeypatch.setattr(InferenceModel, "scores", slow)
    camera = Camera(frames=250)
    predictions = watch(InferenceModel(small_recognizer), camera.address)
    next(predictions)
    late = [camera.taken / FPS - next(predictions).end for _ in range(4)]
    # The second that scoring takes, and what a busy machine adds; the fourth of the old clips would
    # be late by four seconds.
    assert min(late[1:]) < 2


@pytest.mark.slow
def test_a_stream_that_breaks_off_and_comes_back_is_watched_on(model):
    camera = Camera(frames=75, clients=2)
    with subprocess.Popen(
        [sys.executable, "-m", "actionrec", "watch", camera.address] + ["--model", model],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        lines = []
        for line in watching.stdout:
            lines.append(json.loads(line))
            if lines[-1]["end"] - lines[0]["start"] > 4:
                break
        watching.terminate()
        told = watching.stderr.read()
    assert "broke off" in told and "opened again in 1 s" in told
    gaps = [after["start"] - before["end"] for before, after in pairwise(lines)]
    assert max(gaps) > 0.9
    assert all(0 < line["end"] - line["start"] < 1 for line in lines)
    assert set(lines[0]) == {
        *("source", "time", "start", "end", "delay", "top", "labels", "none_of_these")
    }


def test_a_pipe_is_watched_to_its_end(encode, tmp_path, model):
    video = encode(tmp_path / "clip.ts", "mpeg2video", frames=60)
    ended = watch_pipe(video.read_bytes(), model)
    assert ended.returncode == 0, ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    assert last["source"] == "-"
    assert last["end"] == pytest.approx(59 / FPS, abs=0.2)
    assert {entry["label"] for entry in last["top"]} == {"a", "b", "c"}


def watch_pipe(data, model):
    return subprocess.run(
        [sys.executable, "-m", "actionrec", "watch", "-", "--model", model],
        input=data,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("frames", [0, 6])
def test_a_pipe_without_a_clip_is_a_sentence(encode, tmp_path, model, frames):
    data = encode(tmp_path / "clip.ts", "mpeg2video", frames=6).read_bytes() if frames else b"text"
    ended = watch_pipe(data, model)
    assert ended.returncode == 1
    assert ended.stdout == b""
    told = ended.stderr.decode()
    assert ("less than a clip of 4 frames" if frames else "Standard input gives no video (") in told
    assert "Traceback" not in told


def test_a_packet_that_cannot_be_decoded_costs_its_frames_alone(encode, tmp_path):
    path = encode(tmp_path / "clip.mkv", "mpeg4", frames=60, options={"g": "5"})
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    data[places[30] + 2 : places[30] + 9] = bytes(7)
    path.write_bytes(data)
    indices = [index_of(frame.to_ndarray(format="rgb24")) for frame, _ in decode(str(path))]
    assert set(range(60)) - set(indices) == {30}


def test_a_source_of_pictures_that_are_too_large_takes_no_memory(tmp_path):
    huge = tmp_path / "huge.gif"
    Image.new("P", (1, 1)).save(huge)
    data = bytearray(huge.read_bytes())
    data[6:10] = struct.pack("<HH", 11000, 11000)
    huge.write_bytes(data)
    with pytest.raises(ActionrecError, match="huge.gif has frames of 11000x11000 pixels, more"):
        next(decode(str(huge)))


def test_a_source_without_pictures_is_a_sentence(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ActionrecError, match="has no pictures"):
        next(decode(str(tmp_path / "sound.wav")))


@pytest.mark.parametrize(
    ("source", "told"),
    [("camera:77", "camera:77 gives no video ("), ("tcp://127.0.0.1:9", "Connection refused")],
)
def test_a_source_that_is_not_there_is_a_sentence(command, model, source, told):
    done = command("watch", source, "--model", model)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and told in done.stderr
