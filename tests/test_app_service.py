"""The service behind the page converts videos for browsers and explains the best clip."""

import struct

import numpy as np
import pytest

from actionrec.app import service
from actionrec.errors import ActionrecError
from actionrec.prediction.timeline import score_timeline
from actionrec.recognizer import Recognizer
from actionrec.video.reader import VideoReader


@pytest.fixture(scope="module")
def video(tmp_path_factory, encode):
    return encode(tmp_path_factory.mktemp("video") / "clip.mp4", "libx264", frames=60)


@pytest.mark.parametrize("name", ["packed.avi", "sideways.mkv"])
def test_what_browsers_do_not_play_is_converted_with_every_frame_at_its_time(
    encode, tmp_path, name
):
    times = np.cumsum(np.arange(60) % 5 * 20 + 10).tolist() if name.endswith("mkv") else None
    path = encode(tmp_path / name, "mpeg4", frames=60, times=times)
    source = VideoReader(path)
    assert not service.plays_in_browsers(path)
    service.convert(source, tmp_path / "converted.mp4", lambda _: None)
    converted = VideoReader(tmp_path / "converted.mp4")
    assert service.plays_in_browsers(converted.path)
    assert len(converted) == 60
    shown, clock = converted.clock(), source.clock()
    start = clock(0)
    for index in (0, 1, 7, 30, 59):
        assert shown(index) == pytest.approx(clock(index) - start, abs=0.001)
        [before], [after] = source.read([index]), converted.read([index])
        assert np.abs(before.astype(int) - after).mean() < 8


def test_the_clip_explained_is_the_one_of_the_timeline_that_scores_highest(
    small_recognizer, video, tmp_path
):
    recognizer = Recognizer(small_recognizer, "cpu", "float32", topk=3)
    timeline = score_timeline(recognizer, video)
    label = timeline.top[0].label
    score, start = max(
        (next(entry.score for entry in clip.top if entry.label == label), -clip.start)
        for clip in timeline.clips
    )
    explanation = service.explain_best_clip(recognizer, VideoReader(video), timeline)
    assert (explanation.label, explanation.start) == (label, pytest.approx(-start))
    assert explanation.score == pytest.approx(score, abs=1e-5)


def test_results_come_in_order_with_progress_and_their_files_go_with_the_iterator(
    small_recognizer, encode, tmp_path
):
    path = encode(tmp_path / "clip.avi", frames=60)
    recognizer = Recognizer(small_recognizer, "cpu", "float32")
    worker = service.Service(recognizer, max_seconds=10, folder=tmp_path)
    files, kinds = [], []
    for result in worker.results(path):
        kinds.append(type(result))
        if isinstance(result, service.Playable | service.Explained) and result.video:
            files.append(result.video)
            assert result.video.is_file()
    worker.close()
    order = [service.Playable, service.Timeline, service.Playable, service.Explained]
    assert [kind for kind in kinds if kind is not service.Progress] == order
    assert [path.name for path in files] == ["video.mp4", "explanation.mp4"]
    assert not any(file.exists() for file in files)


def test_frames_larger_than_8k_are_refused_before_one_is_decoded(
    small_recognizer, tmp_path, monkeypatch
):
    # A GIF of 200 bytes: 11000 x 11000 pixels, of which it draws two.
    screen = b"GIF89a" + struct.pack("<HHBBB", 11_000, 11_000, 0x80, 0, 0) + bytes(6)
    picture = b"," + struct.pack("<HHHHB", 0, 0, 2, 1, 0) + b"\x02\x02\x04\x0a\x00"
    path = tmp_path / "huge.gif"
    path.write_bytes(screen + 3 * picture + b";")
    worker = service.Service(Recognizer(small_recognizer, "cpu", "float32"), 10, tmp_path)
    monkeypatch.setattr(service, "VideoReader", None)
    with pytest.raises(ActionrecError, match=r"huge.gif has frames of 11000x11000 pixels"):
        list(worker.results(path))
    worker.close()


def test_the_scoring_tells_how_many_clips_are_done(small_recognizer, video):
    recognizer = Recognizer(small_recognizer, "cpu", "float32")
    clips, told = len(service.windows_of(recognizer, VideoReader(video))), []
    score_timeline(service.with_progress(recognizer, clips, told.append), video)
    assert [told[0].share, told[-1].share] == [0, 1]
    assert told[0].words == f"Clip 1 of {clips}" and told[-1].words == f"Clip {clips} of {clips}"
    assert told == sorted(told, key=lambda progress: progress.share)
