"""`actionrec timeline`: windows as predict reads them, segments that follow from their
scores, files that are whole whatever happens, and memory that does not grow with the video."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from actionrec.cli.main import main
from actionrec.errors import ActionrecError, UsageError, VideoError
from actionrec.explanation.clip import candidate_clips
from actionrec.models.classifier import VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.prediction.timeline import (
    Segment,
    Step,
    find_segments,
    merge,
    score_timeline,
    smoothed,
    step_scores,
)
from actionrec.prediction.timeline_settings import (
    TimelineSettings,
    store_settings,
    stored_settings,
)
from actionrec.prediction.videos import LabelScore
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling

B_FRAMES = {"bf": "2", "g": "12"}


@pytest.fixture(scope="module")
def ready(small_recognizer):
    return InferenceModel(small_recognizer, precision="float32")


@pytest.fixture(scope="module")
def video(tmp_path_factory, encode):
    return encode(tmp_path_factory.mktemp("video") / "clip.mp4", "libx264", frames=60)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("packed.avi", "mpeg4", {"options": B_FRAMES}),
        ("v.mp4", "libx264", {"options": B_FRAMES}),
        ("v.ts", "libx264", {"options": B_FRAMES}),
        ("varying.mkv", "libx264", {"times": np.cumsum(np.arange(60) % 5 * 20 + 10).tolist()}),
    ],
)
@pytest.mark.parametrize("sampling", [ClipSampling(4, 2), ClipSampling(7, 0.4)])
def test_windows_are_streamed_with_exactly_the_frames_that_are_read_one_by_one(
    encode, tmp_path, name, codec, options, sampling
):
    reader = VideoReader(encode(tmp_path / name, codec, frames=60, **options))
    windows = list(sampling.sliding(60, range(0, 60, 3)))
    crop = (2, 10, 43, 43)
    streamed = list(reader.stream(iter(windows), (32, 32), crop))
    assert len(streamed) == len(windows)
    for window, pixels in zip(windows, streamed, strict=True):
        np.testing.assert_array_equal(pixels, reader.read(window, (32, 32), crop))


def test_a_window_is_asked_for_only_when_it_is_due_and_given_when_it_is_complete(video):
    asked = []
    windows = (asked.append(start) or [start, start + 1] for start in range(0, 58, 2))
    streamed = VideoReader(video).stream(windows, 32)
    for number in range(5):
        next(streamed)
        assert len(asked) <= number + 2 + (1 << 20) // (3 * 48 * 64) // 2 + 1
    with pytest.raises(IndexError, match="60"):
        list(VideoReader(video).stream([[58, 60]]))


def test_scores_and_segments_are_those_of_windows_scored_one_by_one(ready, video):
    timeline = score_timeline(ready, video, TimelineSettings(0.12, min_score=0))
    reader, preprocessing = VideoReader(video), ready.config.preprocessing
    starts = [*range(0, 53, 3), 53]
    scores = []
    for start in starts:
        clip = reader.read(range(start, start + 7, 2), (32, 32), preprocessing.square(reader.size))
        pixels = as_input(clip)
        scores.append(ready.scores(pixels)[0])
    for clip, start, row in zip(timeline.clips, starts, scores, strict=True):
        assert (clip.start, clip.end) == (round(start / 25, 3), round((start + 7) / 25, 3))
        found = {entry.label: entry.score for entry in clip.top}
        np.testing.assert_allclose([found[name] for name in "abc"], row, atol=1e-5)
    assert np.allclose(
        sorted((entry.score for entry in timeline.top), reverse=True),
        sorted(np.mean(scores, axis=0), reverse=True),
        atol=1e-5,
    )
    labels = []
    for step, begin in zip(timeline.steps, range(0, 60, 3), strict=True):
        over = [
            row
            for start, row in zip(starts, scores, strict=True)
            if start <= begin + 1.5 < start + 7
        ]
        mean = np.mean(over, axis=0)
        labels.append("abc"[mean.argmax()])
        assert step.top[0].label == labels[-1]
        assert step.top[0].score == pytest.approx(mean.max(), abs=1e-5)
    changes = 1 + sum(one != other for one, other in zip(labels, labels[1:], strict=False))
    assert len(timeline.segments) == changes
    assert (timeline.segments[0].start, timeline.segments[-1].end) == (0.0, 2.4)
    assert (timeline.duration, timeline.scored_until, timeline.incomplete) == (2.4, 2.4, None)


def as_input(clip):
    return torch.from_numpy(clip.copy()).permute(3, 0, 1, 2)[None]


@pytest.mark.parametrize("hop", [1, 2, 3, 5, 7, 8, 20])
@pytest.mark.parametrize("frames", [1, 4, 7, 8, 50, 53])
def test_each_step_gets_the_mean_of_the_windows_that_contain_its_middle(hop, frames):
    span = 7
    clips = list(ClipSampling(4, 2).sliding(frames, range(0, frames, hop)))
    starts, ends = [clip[0] for clip in clips], [clip[-1] + 1 for clip in clips]
    rows = np.random.default_rng(0).random((len(starts), 3))
    windows = zip(starts, ends, rows, strict=True)
    steps = list(step_scores(windows, [*range(0, frames, hop), frames]))
    assert [begin for begin, _, _ in steps] == list(range(0, frames, hop))
    assert [end for _, end, _ in steps] == [*range(hop, frames, hop), frames]
    for begin, end, scores in steps:
        middle = (begin + end) / 2
        over = [n for n, start in enumerate(starts) if start <= middle < start + span]
        over = over or [starts.index(begin)]
        np.testing.assert_allclose(scores, rows[over].mean(axis=0))


def steps_of(*best, seconds=1.0):
    return [
        Step(n * seconds, (n + 1) * seconds, [LabelScore(label, score)])
        for n, (label, score) in enumerate(best)
    ]


def test_equal_neighbours_merge_and_what_scores_too_little_says_nothing():
    steps = steps_of(("a", 0.5), ("a", 0.7), ("b", 0.9), ("a", 0.8), ("a", 0.2), ("a", 0.6))
    assert list(merge(steps, 0.3)) == [
        Segment("a", 0.0, 2.0, 0.6),
        Segment("b", 2.0, 3.0, 0.9),
        Segment("a", 3.0, 4.0, 0.8),
        Segment("a", 5.0, 6.0, 0.6),
    ]
    assert list(merge(steps, 0.95)) == []
    assert len(list(merge(steps, 0.0))) == 3


def test_a_short_last_step_weighs_less_in_the_mean_score():
    steps = [Step(0, 3, [LabelScore("a", 0.4)]), Step(3, 4, [LabelScore("a", 0.8)])]
    assert list(merge(steps, 0)) == [Segment("a", 0, 4, 0.5)]


def test_times_are_those_at_which_a_player_shows_the_frames(ready, encode, tmp_path):
    times = [n * 40 if n < 20 else 800 + (n - 20) * 200 for n in range(40)]
    path = encode(tmp_path / "v.mkv", "libx264", frames=40, times=times)
    timeline = score_timeline(ready, path, TimelineSettings(1e-9, min_score=0))
    assert [clip.start for clip in timeline.clips] == [time / 1000 for time in times[:34]]
    assert [step.start for step in timeline.steps] == [time / 1000 for time in times]
    assert timeline.clips[-1].end == timeline.duration == timeline.segments[-1].end
    assert timeline.duration == pytest.approx(4.6 + 1 / VideoReader(path).fps, abs=0.002)


def test_at_a_target_rate_all_outputs_see_and_say_the_same_moments(
    small_recognizer, encode, tmp_path, monkeypatch
):
    # 50 frames a second, then 10: by their numbers, windows would be too long, then too short.
    times = [*range(0, 2000, 20), *range(2000, 6000, 100)]
    path = encode(tmp_path / "v.mp4", "libx264", len(times), size=(48, 48), times=times)
    config = replace(small_recognizer.config, sampling=ClipSampling(5, 2, fps=10))
    monkeypatch.setattr(small_recognizer, "config", config)
    model, seen = InferenceModel(small_recognizer, precision="float32"), []
    monkeypatch.setattr(model, "scores", lambda clips: seen.extend(clips) or even(clips))
    timeline = score_timeline(model, path, TimelineSettings(0.4, min_score=0))
    assert [clip.start for clip in timeline.clips] == pytest.approx(
        [*np.arange(0, 5.1, 0.4), 5.1], abs=0.051
    )
    for clip, pixels in zip(timeline.clips, seen, strict=True):
        frames = [index_in(picture) for picture in pixels.permute(1, 2, 3, 0)]
        wanted = clip.start + np.arange(5) * 0.2
        assert np.array(times)[frames] / 1000 == pytest.approx(wanted, abs=0.051)
        assert times[frames[0]] / 1000 == clip.start
        assert ([*times, 6000][frames[-1] + 1]) / 1000 == pytest.approx(clip.end, abs=0.1)
    steps = [step.start for step in timeline.steps]
    assert steps == pytest.approx(np.arange(0, 6, 0.4)[: len(steps)], abs=0.051)
    assert timeline.steps[-1].end == timeline.duration == timeline.scored_until
    predicted = model.clips.read(path, clips=4).seconds
    explained = [
        clip.seconds
        for start in (0.4, 2.5)
        for clip in candidate_clips(path, model.clips, start, None)
    ]
    for start, end in (*predicted, *explained):
        assert end - start == pytest.approx(0.9, abs=0.16)
    assert [start for start, _ in explained] == pytest.approx([0.4, 2.5], abs=0.051)


def even(clips):
    return np.full((len(clips), 3), 1 / 3)


def index_in(picture):
    """The index of a frame of `encode`, 48 pixels wide, of which the middle 43 are seen."""
    row = picture.float().mean(dim=(0, 2)).numpy()
    bits = (2 + (np.arange(len(row)) + 0.5) * 43 / len(row)) * 8 // 48
    return sum(int(row[bits == bit].mean() > 128) << bit for bit in range(8))


@pytest.mark.parametrize("frames", [1, 5])
def test_a_video_shorter_than_a_clip_is_one_window(ready, encode, tmp_path, frames):
    path = encode(tmp_path / "v.mp4", "libx264", frames=frames)
    timeline = score_timeline(ready, path)
    assert [(clip.start, clip.end) for clip in timeline.clips] == [(0.0, frames / 25)]
    [segment] = timeline.segments
    assert (segment.start, segment.end) == (0.0, frames / 25)
    assert segment.score == timeline.top[0].score


def timeline_command(*arguments):
    try:
        return main(["timeline", *map(str, arguments), "--precision", "float32"])
    except SystemExit as refused:
        return refused.code


def test_the_command_prints_and_writes_the_same(model, video, tmp_path, capsys):
    output = tmp_path / "t.json"
    assert timeline_command(video, "--model", model, "--format", "json", "--output", output) == 0
    printed = capsys.readouterr().out
    assert printed == output.read_text()
    [result] = json.loads(printed)
    assert set(result) >= {"video", "model", "top", "clips", "segments"}
    assert timeline_command(video, "--model", model, "--format", "csv") == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [float(row["end"]) for row in rows] == [part["end"] for part in result["segments"]]
    assert timeline_command(video, "--model", model, "--min-score", 1) == 0
    assert "the highest is" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_done(model, video, tmp_path, capsys, monkeypatch, number):
    score, calls = InferenceModel.scores, []

    def interrupted(recognizer, clips):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return score(recognizer, clips)

    monkeypatch.setattr(InferenceModel, "scores", interrupted)
    before = signal.getsignal(number)
    output = tmp_path / "t.json"
    rendered = tmp_path / "t.mp4"
    arguments = ["--model", model, "--hop", 0.04, "--output", output, "--render", rendered]
    assert timeline_command(video, *arguments) == 130
    assert signal.getsignal(number) == before
    [result] = json.loads(output.read_text())
    assert len(result["clips"]) == 12
    # Twelve windows, a frame apart, of seven frames.
    assert result["scored_until"] == result["segments"][-1]["end"] == 18 / 25
    assert result["incomplete"] == "interrupted"
    printed = capsys.readouterr()
    assert "clips)" in printed.out and "interrupted at 1 of 2 s" in printed.err
    assert not rendered.exists()


def test_what_was_scored_before_the_damage_is_kept(model, video, tmp_path, capsys, monkeypatch):
    whole = VideoReader.stream

    def breaks_off(reader, *arguments):
        read = whole(reader, *arguments)
        for _ in range(10):
            yield next(read)
        raise VideoError("it breaks off")

    monkeypatch.setattr(VideoReader, "stream", breaks_off)
    output = tmp_path / "t.json"
    assert timeline_command(video, "--model", model, "--output", output) == 1
    [result] = json.loads(output.read_text())
    # What had been read of the third batch is lost with it.
    assert len(result["clips"]) == 8
    assert result["incomplete"] == "it breaks off" and result["scored_until"] < result["duration"]
    assert "it breaks off" in capsys.readouterr().err


def test_a_bad_video_is_told_and_the_others_go_on(model, video, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    bad = tmp_path / "text.mp4"
    assert timeline_command(bad, video, "--model", model, "--format", "json") == 1
    failure, result = json.loads(capsys.readouterr().out)
    assert "could not be read" in failure["error"] and result["segments"]


def test_a_file_that_can_not_be_written_costs_neither_the_other_nor_what_is_printed(
    model, video, tmp_path, capsys
):
    (tmp_path / "no_folder").touch()
    outputs = [tmp_path / "no_folder" / "t.json", tmp_path / "t.srt"]
    assert timeline_command(video, "--model", model, "--output", *outputs) == 1
    printed = capsys.readouterr()
    assert "could not be written" in printed.err and "clips)" in printed.out
    assert "-->" in outputs[1].read_text()


def test_what_can_not_work_is_refused_before_anything_is_scored(
    model, video, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(InferenceModel, "scores", None)
    occupied = tmp_path / "there.srt"
    occupied.write_text("mine")
    for words, code, arguments in (
        ("is there already", 2, ["--output", occupied]),
        ("must end in", 2, ["--output", tmp_path / "t.txt"]),
        ("must end in", 2, ["--render", tmp_path / "t.avi"]),
        ("hop is 0", 2, ["--hop", 0]),
        ("min_score is 20", 2, ["--min-score", 20]),
        ("for one video", 2, [tmp_path / "another.avi", "--output", tmp_path / "t.srt"]),
    ):
        assert timeline_command(video, *arguments, "--model", model) == code
        assert words in capsys.readouterr().err
    assert occupied.read_text() == "mine"


PEAK = """
import resource, sys
from actionrec.models.inference import InferenceModel
from actionrec.prediction.timeline import score_timeline
from actionrec.prediction.timeline_settings import TimelineSettings
model = InferenceModel.load(sys.argv[1])
for video in sys.argv[2:]:
    timeline = score_timeline(model, video, TimelineSettings(0.28, min_score=0))
    print(timeline.duration, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(model, encode, tmp_path):
    videos = [
        encode(tmp_path / f"{n}.mp4", "libx264", n, options={"preset": "ultrafast", "g": "250"})
        for n in (1000, 10_000)
    ]
    run = subprocess.run(
        [sys.executable, "-c", PEAK, model, *map(str, videos)],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    [(_, short), (duration, long)] = [map(float, line.split()) for line in run.stdout.splitlines()]
    assert duration == 400
    # The 9000 frames more, as the network sees them, are 26 MiB, as they are 79 MiB.
    assert long - short < 10


def test_scores_are_smoothed_by_the_mean_of_the_steps_near_in_time_as_soon_as_they_are_known():
    generator = np.random.default_rng(0)
    edges = np.cumsum(generator.uniform(0.1, 1, 31))
    rows = generator.random((30, 3))
    steps = list(zip(edges[:-1], edges[1:], rows, strict=True))
    middles, lengths = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    for seconds in (0.0, 0.5, 2.0, 100.0):
        found = list(smoothed(iter(steps), seconds))
        assert [(start, end) for start, end, _ in found] == [(a, b) for a, b, _ in steps]
        for index, (_, _, row) in enumerate(found):
            near = np.abs(middles - middles[index]) <= seconds / 2 + 1e-6
            expected = (rows[near] * lengths[near, None]).sum(axis=0) / lengths[near].sum()
            np.testing.assert_allclose(row, expected)
    taken = []
    source = smoothed((taken.append(step) or step for step in steps), 2.0)
    next(source)
    assert len(taken) < 10


def test_gaps_are_bridged_and_short_segments_left_out():
    steps = steps_of(
        *(("a", 0.8), ("a", 0.1), ("a", 0.6), ("b", 0.9), ("a", 0.8), ("a", 0.8), ("b", 0.1)),
        *(("c", 0.7), ("c", 0.7)),
    )
    # The gap of a second first, then b is too short, and the rest of a is one.
    assert find_segments(steps, TimelineSettings(None, 0, 0.3, min_length=1.5, bridge=1)) == [
        Segment("a", 0.0, 6.0, 0.76),
        Segment("c", 7.0, 9.0, 0.7),
    ]
    assert find_segments(steps, TimelineSettings(None, 0, 0.3)) == list(merge(steps, 0.3))


@pytest.mark.parametrize(
    "wrong", [{"hop": 0}, {"smoothing": -1}, {"min_length": float("inf")}, {"bridge": -0.1}]
)
def test_settings_out_of_bounds_are_wrong_usage(wrong):
    with pytest.raises(UsageError, match="is not possible"):
        TimelineSettings(**wrong)


def test_stored_settings_are_those_of_this_model_only(small_recognizer, tmp_path, caplog):
    path = tmp_path / "model.safetensors"
    small_recognizer.save(path)
    assert stored_settings(path) is None
    assert stored_settings("kinetics400-i3d") is None
    settings = TimelineSettings(0.16, 1, 0.4, 0.5, 0.25)
    file = store_settings(tmp_path, settings, "2 segments")
    assert file == tmp_path / "model.timeline.json"
    assert stored_settings(path) == stored_settings(tmp_path) == settings
    labels = ("a", "b", "d")
    VideoClassifier(replace(small_recognizer.config, labels=labels)).save(path)
    assert stored_settings(path) is None
    assert "was chosen for another model" in caplog.text
    file.write_text("{")
    with pytest.raises(ActionrecError, match="can't be read as settings of a timeline"):
        stored_settings(path)
