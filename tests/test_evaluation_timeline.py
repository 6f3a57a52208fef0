"""Segments in the whole way: trained on, evaluated, reported, found in time, and tuned for."""

import csv
import json
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from test_evaluation_detection import slow_average_precision

from actionrec.cli.main import main
from actionrec.config import TrainConfig
from actionrec.datasets.check import without_damaged_videos
from actionrec.datasets.csv import open_csv
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError
from actionrec.evaluation.detection import THRESHOLDS, Detection
from actionrec.evaluation.timeline import (
    detections,
    figures,
    gain_over_defaults,
    hops_of,
    parts_of,
    score_files,
    tune,
)
from actionrec.models.classifier import VideoClassifier
from actionrec.models.decision import Decision
from actionrec.models.inference import InferenceModel
from actionrec.prediction.timeline import score_timeline
from actionrec.prediction.timeline_settings import (
    DEFAULTS,
    TimelineSettings,
    store_settings,
    stored_settings,
)
from actionrec.training.run import train

FRAMES = {"left": 25, "right": 30, "up": 35}


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Clips of a bright square that moves, and the same clips joined in one video a side, with a
    second of rest after each; a CSV file for either."""
    folder = tmp_path_factory.mktemp("footage")
    rows = {"cut": [], "joined": []}
    generator = np.random.default_rng(0)
    for side, rounds in (("train", 3), ("val", 1)):
        with Recorder(folder / f"{side}.mp4") as joined:
            for number in range(rounds):
                for label, frames in FRAMES.items():
                    start = joined.frames
                    name = f"{side}_{label}{number}.mp4"
                    with Recorder(folder / name) as cut:
                        for picture in moving_square(label, frames, generator):
                            cut.write(picture)
                            joined.write(picture)
                    end = joined.frames
                    for _ in range(25):
                        joined.write(picture)
                    rows["cut"].append([name, label, side])
                    times = [f"{start / 25:g}", f"{end / 25:g}"]
                    rows["joined"].append([f"{side}.mp4", label, side, *times])
    for name, lines in rows.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            head = ["path", "label", "split", "start", "end"][: len(lines[0])]
            csv.writer(file).writerows([head, *lines])
    return folder


class Recorder:
    def __init__(self, path):
        self.container = av.open(str(path), "w")
        options = {"qp": "0", "preset": "ultrafast", "g": "25"}
        self.stream = self.container.add_stream("libx264", rate=25, options=options)
        self.stream.width, self.stream.height, self.stream.pix_fmt = 64, 48, "yuv420p"
        self.frames = 0

    def write(self, picture):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, self.frames = self.frames, self.frames + 1
        self.container.mux(self.stream.encode(frame))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.container.mux(self.stream.encode(None))
        self.container.close()


def moving_square(label, frames, generator):
    x, y = generator.integers(16, 40), generator.integers(8, 32)
    dx, dy = {"left": (-1, 0), "right": (1, 0), "up": (0, -1)}[label]
    for number in range(frames):
        picture = np.full((48, 64, 3), 40, np.uint8)
        rows = (np.arange(8) + y + dy * number) % 48
        columns = (np.arange(8) + x + dx * number) % 64
        picture[np.ix_(rows, columns)] = 220
        yield picture


def settings_for(root, output):
    return TrainConfig(
        "csv",
        root=str(root),
        recipe="paper",
        backbone="c3d_small",
        weights="none",
        clip_length=8,
        short_side=36,
        crop=32,
        epochs=2,
        batch_size=3,
        workers=0,
        flip=False,
        output=str(output),
    )


def test_training_on_segments_is_training_on_the_cut_clips(footage, tmp_path, losses):
    results = []
    for name in ("joined", "cut"):
        results.append(train(settings_for(footage / f"{name}.csv", tmp_path / name)))
        results[-1].pop("output")
    half = len(losses) // 2
    assert losses[:half] == losses[half:] and half == 6
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def run(footage, tmp_path_factory):
    """A model trained on the joined footage, in a folder of its own."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train(settings_for(footage / "joined.csv", folder))
    return folder


def test_segments_are_evaluated_as_cut_clips_and_reported_with_their_times(
    footage, run, tmp_path, capsys
):
    shown = {}
    for name in ("joined", "cut"):
        arguments = ["evaluate", "--model", str(run), "--dataset", "csv", "--clips", "3"]
        arguments += ["--root", str(footage / f"{name}.csv"), "--workers", "1", "--format", "json"]
        output, logits = tmp_path / name, tmp_path / f"{name}.safetensors"
        assert main([*arguments, "--output", str(output), "--save-logits", str(logits)]) == 0
        shown[name] = json.loads(capsys.readouterr().out)
        assert "timeline" not in shown[name]
    for key in ("clip", "video", "per_class"):
        assert shown["joined"][key] == shown["cut"][key]
    with (tmp_path / "joined" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["start"], row["end"], row["label"]) for row in rows] == [
        ("val.mp4", "0", "1", "left"),
        ("val.mp4", "2", "3.2", "right"),
        ("val.mp4", "4.2", "5.6", "up"),
    ]
    with (tmp_path / "cut" / "predictions.csv").open() as file:
        [plain, *_] = csv.DictReader(file)
    assert "start" not in plain and plain["score"] == rows[0]["score"]
    files = [str(tmp_path / f"{name}.safetensors") for name in ("joined", "cut")]
    assert main(["compare", *files]) == 1
    assert "their videos differ" in capsys.readouterr().err
    assert main(["compare", files[0], files[0]]) == 0


def test_a_segment_outside_of_its_video_is_left_out_and_the_rest_counts(
    footage, run, tmp_path, capsys, caplog
):
    for name in ("train.mp4", "val.mp4"):
        shutil.copy(footage / name, tmp_path)
    text = (footage / "joined.csv").read_text()
    root = tmp_path / "data.csv"
    root.write_text(text + "val.mp4,up,val,6.5,9\nval.mp4,right,val,0.5,0.9\n")
    arguments = ["--dataset", "csv", "--root", str(root), "--workers", "1", "--format", "json"]
    assert main(["evaluate", "--model", str(run), *arguments]) == 1
    printed, told = capsys.readouterr()
    assert (
        "with another label are kept (1); the first are lines 11, left, and 15, right"
        in caplog.text
    )
    result = json.loads(printed)
    assert [each["video"] for each in result["skipped"]] == [f"{tmp_path}/val.mp4#t=6.5,9"]
    assert "has no part from 6.5 to 9 s, because it ends at 6.600 s" in told
    assert result["video"]["n"] == 4
    assert main(["data", "check", "csv", "--root", str(root), "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert list(report["bad"]) == ["val.mp4#t=6.5,9"] and list(report["good"])
    # Evaluation and training leave it out unread.
    _, failures = without_damaged_videos(open_dataset("csv", root))
    assert [each.video for each in failures] == [f"{tmp_path}/val.mp4#t=6.5,9"]
    # The next check finds it anew, and forgets it when it is corrected.
    root.write_text(text)
    assert main(["data", "check", "csv", "--root", str(root)]) == 0


def test_timelines_are_measured_and_their_settings_kept_for_the_timeline(
    footage, run, tmp_path, capsys, caplog
):
    caplog.set_level("INFO", "actionrec")
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    root, report = str(footage / "joined.csv"), tmp_path / "report"
    arguments = ["evaluate", "--timeline", "--model", str(copy), "--dataset", "csv"]
    arguments += ["--root", root, "--clips", "1", "--workers", "1"]
    assert main([*arguments, "--output", str(report), "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)["timeline"]
    assert list(result["mean_ap"]) == [f"{threshold:g}" for threshold in THRESHOLDS]
    assert result["mean"] == pytest.approx(np.mean(list(result["mean_ap"].values())), abs=2e-6)
    assert result["frames"] == 165 and result["segments"]["annotated"] == 3
    assert result["tuned_on"] == "9 training segments of 1 videos"
    stored = stored_settings(copy)
    assert vars(stored) == result["settings"]
    assert "model.timeline.json: `actionrec timeline` uses these settings" in caplog.text
    assert (report / "segments.csv").is_file()

    # Without training videos, the stored settings are measured, here others.
    stored = TimelineSettings(0.16, 0.3, 0.0, 0.0, 0.1)
    store_settings(copy, stored, "by hand")
    video = str(footage / "val.mp4")
    rows = (footage / "joined.csv").read_text().splitlines()
    kept = [row.replace("val.mp4", video) for row in rows if "train" not in row]
    alone = tmp_path / "test.csv"
    alone.write_text("\n".join(kept) + "\n")
    arguments[arguments.index("--root") + 1] = str(alone)
    assert main([*arguments, "--output", str(tmp_path / "alone")]) == 0
    assert f"timeline, not tuned now: {stored}" in capsys.readouterr().out
    with (tmp_path / "alone" / "segments.csv").open() as file:
        found = list(csv.DictReader(file))
    assert {each["video"] for each in found} == {"val.mp4"}

    # The timeline of the file has just these segments.
    assert main(["timeline", video, "--model", str(copy), "--format", "json"]) == 0
    [timeline] = json.loads(capsys.readouterr().out)
    assert f"tuned for this model: {stored}" in caplog.text
    assert [(each["label"], each["start"], each["end"]) for each in timeline["segments"]] == [
        (each["label"], float(each["start"]), float(each["end"])) for each in found
    ]
    # A flag wins.
    assert main(["timeline", video, "--model", str(copy), "--hop", "0.2"]) == 0
    assert "hop 0.2 s" in caplog.text


def test_accuracies_are_not_lost_where_timelines_fail(
    footage, model, tmp_path, capsys, monkeypatch
):
    def fail(*_):
        raise ActionrecError("No timeline today.")

    monkeypatch.setattr("actionrec.evaluation.timeline.evaluate_timelines", fail)
    rows = (footage / "joined.csv").read_text().replace("train.mp4", f"{footage}/train.mp4")
    rows = rows.replace("\nval.mp4", f"\n{footage}/val.mp4")
    for label, known in zip(FRAMES, "abc", strict=True):
        rows = rows.replace(f",{label},", f",{known},")
    (tmp_path / "data.csv").write_text(rows)
    arguments = ["evaluate", "--timeline", "--model", model, "--dataset", "csv", "--clips", "1"]
    arguments += ["--root", str(tmp_path / "data.csv"), "--workers", "1"]
    assert main(arguments) == 1
    printed, told = capsys.readouterr()
    assert "clip-level" in printed and "No timeline today." in told


def test_timelines_need_segments(class_folders, model, capsys):
    arguments = ["--dataset", "demo", "--model", model]
    assert main(["evaluate", "--timeline", *arguments, "--devices", "2"]) == 2
    assert "--timeline works in one process" in capsys.readouterr().err
    arguments = ["--dataset", "folder", "--root", str(class_folders), "--model", model]
    assert main(["evaluate", "--timeline", *arguments]) == 2
    assert "has none: give a CSV file with the columns start and end" in capsys.readouterr().err


def test_tuning_finds_settings_that_are_better_than_the_defaults(footage, small_recognizer):
    model = InferenceModel(small_recognizer, precision="float32")
    dataset = open_csv(footage / "joined.csv")
    labels = model.labels
    clip = model.config.sampling.span / 25
    hops = [*hops_of(clip), None]
    scored, failures = score_files(model, dataset.train, labels, hops, "scoring")
    assert failures == []
    [video] = scored
    # Scores that are right where an action is, and unsure elsewhere.
    for frames in video.rows:
        middle = video.video.times[(frames[0] + frames[-1]) // 2]
        row = np.full(3, 0.34)
        for truth in video.truths:
            if truth.start <= middle < truth.end:
                row[labels.index(truth.label)] = 0.6
        video.rows[frames] = row
    settings = tune(scored, model, clip)
    tuned, plain = (figures(scored, model, each) for each in (settings, DEFAULTS))
    assert settings.min_score > 0.3
    assert tuned.frame_accuracy > 0.9 > 0.7 > plain.frame_accuracy
    assert tuned.mean > 0.9 > plain.mean
    found = detections(video, model, settings)
    assert [each.label for each in found] == [each.label for each in video.truths]


def test_once_computed_scores_give_the_segments_of_the_timeline(footage, small_recognizer):
    model = InferenceModel(small_recognizer, precision="float32")
    dataset = open_dataset("csv", footage / "joined.csv")
    hops = [0.16, 0.28, None]
    [video], _ = score_files(model, dataset.val, dataset.labels, hops, "scoring")
    for hop in hops:
        settings = TimelineSettings(hop, smoothing=0.5, min_score=0.3, bridge=0.2)
        timeline = score_timeline(model, video.name, settings)
        expected = [
            Detection(video.name, each.label, each.start, each.end, each.score)
            for each in timeline.segments
        ]
        assert detections(video, model, settings) == expected
    # A model that may answer "none of these" has gaps in both.
    decision = Decision(
        least_confidence=float(np.median([row.max() for row in video.rows.values()]))
    )
    unsure = VideoClassifier(replace(small_recognizer.config, decision=decision)).eval()
    unsure.network.load_state_dict(small_recognizer.network.state_dict())
    model, settings = InferenceModel(unsure, precision="float32"), TimelineSettings(0.16, 0, 0)
    timeline = score_timeline(model, video.name, settings)
    found = [(each.start, each.end) for each in detections(video, model, settings)]
    assert found == [(each.start, each.end) for each in timeline.segments]
    assert sum(end - start for start, end in found) < 0.9 * timeline.duration


def test_several_labels_are_found_in_time_as_a_slow_reference_finds_them(
    footage, small_recognizer, tmp_path, capsys
):
    rows = ["a,val,0,1", "b|c,val,2,3.2", "a|b,val,3,4", ",val,4,4.2", "c|a,val,4.2,5.6"]
    root = tmp_path / "data.csv"
    lines = [f"{footage}/val.mp4,{row}" for row in rows]
    root.write_text("\n".join(["path,label,split,start,end", *lines]))
    plain = InferenceModel(small_recognizer, precision="float32")
    hop = plain.config.sampling.span // 2  # frames
    clips = list(plain.clips.windows(footage / "val.mp4", hop / 25))
    sigmoid = Decision(multi_label=True)
    network = VideoClassifier(replace(small_recognizer.config, decision=sigmoid)).eval()
    network.network.load_state_dict(small_recognizer.network.state_dict())
    scores = InferenceModel(network, precision="float32").scores(
        torch.cat([clip.pixels for clip in clips])
    )
    sigmoid = replace(sigmoid, thresholds=tuple(np.quantile(scores, 0.45, axis=0).tolist()))
    model = VideoClassifier(replace(network.config, decision=sigmoid)).eval()
    model.network.load_state_dict(network.network.state_dict())
    model.save(tmp_path / "model.safetensors")

    # Steps of one hop, each with the mean score of the windows around its middle.
    steps, found = [(first, min(first + hop, 165)) for first in range(0, 165, hop)], []
    for number, label in enumerate("abc"):
        run = []
        for first, stop in [*steps, (165, 166)]:
            middle = (first + stop) / 2
            inside = [
                row[number]
                for row, clip in zip(scores, clips, strict=True)
                if round(25 * clip.seconds[0]) <= middle < round(25 * clip.seconds[1])
            ]
            if first < 165 and np.mean(inside) >= sigmoid.thresholds[number]:
                run.append((first, stop, np.mean(inside)))
            elif run:
                mean = np.average([r[2] for r in run], weights=[r[1] - r[0] for r in run])
                found.append(Detection("v", label, run[0][0] / 25, run[-1][1] / 25, mean))
                run = []
    truths = [
        Detection("v", label, float(row.split(",")[2]), float(row.split(",")[3]))
        for row in rows
        for label in filter(None, row.split(",")[0].split("|"))
    ]
    expected = {}
    for label in "abc":
        mine, others = ([e for e in each if e.label == label] for each in (truths, found))
        expected[label] = np.mean([slow_average_precision(mine, others, t) for t in THRESHOLDS])
    right = 0
    for frame in range(165):
        shown = [
            {
                each.label
                for each in side
                if each.start <= frame / 25 + 1e-6 < each.end - 1e-6 + 2e-6
            }
            for side in (truths, found)
        ]
        right += shown[0] == shown[1]

    arguments = ["evaluate", "--timeline", "--model", str(tmp_path / "model.safetensors")]
    arguments += ["--dataset", "csv", "--root", str(root), "--workers", "1", "--clips", "1"]
    report = tmp_path / "report"
    assert main([*arguments, "--format", "json", "--output", str(report)]) == 0
    result = json.loads(capsys.readouterr().out)
    timeline = result["timeline"]["with_defaults"]
    assert timeline["segments"] == {"annotated": 7, "found": len(found)}
    assert timeline["per_class"] == pytest.approx(expected, abs=2e-6) and max(expected.values()) > 0
    assert timeline["frame_accuracy"] == pytest.approx(right / 165, abs=2e-6)
    assert 0 < timeline["frame_accuracy"] < 1 and 0 <= result["map"] <= 1
    with (report / "segments.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(found)
    assert main(arguments) == 0
    assert "frames with just the right labels" in capsys.readouterr().out


def test_several_labels_are_tuned_without_a_common_lowest_score(
    footage, small_recognizer, tmp_path, capsys
):
    text = (footage / "joined.csv").read_text()
    for name in ("train.mp4", "val.mp4"):
        text = text.replace(f"\n{name}", f"\n{footage}/{name}")
    for label, labels in (("left", "a|b"), ("right", "b"), ("up", "c")):
        text = text.replace(f",{label},", f",{labels},")
    (tmp_path / "data.csv").write_text(text)
    decision = Decision(multi_label=True)
    model = VideoClassifier(replace(small_recognizer.config, decision=decision))
    model.network.load_state_dict(small_recognizer.network.state_dict())
    model.eval().save(tmp_path / "model.safetensors")
    arguments = ["evaluate", "--timeline", "--model", str(tmp_path / "model.safetensors")]
    arguments += ["--dataset", "csv", "--root", str(tmp_path / "data.csv"), "--workers", "1"]
    assert main([*arguments, "--clips", "1", "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)["timeline"]
    assert result["tuned_on"] == "12 training segments of 1 videos"
    assert result["settings"]["min_score"] == 0
    assert stored_settings(tmp_path / "model.safetensors").min_score == 0
    # Segments without any label: nothing could be found.
    empty = text.replace(",a|b,", ",,").replace(",b,", ",,").replace(",c,val", ",,val")
    (tmp_path / "data.csv").write_text(empty)
    assert main([*arguments, "--clips", "1"]) in (1, 2)
    assert "has a label" in capsys.readouterr().err


def test_settings_whose_gain_may_be_luck_are_not_taken(
    footage, small_recognizer, caplog, monkeypatch
):
    caplog.set_level("INFO", "actionrec")
    model = InferenceModel(small_recognizer, precision="float32")
    dataset = open_csv(footage / "joined.csv")
    clip = model.config.sampling.span / 25
    scored, _ = score_files(model, dataset.train, model.labels, hops_of(clip), "scoring")
    generator = np.random.default_rng(0)
    for frames in scored[0].rows:
        scored[0].rows[frames] = generator.dirichlet(np.ones(3))
    with monkeypatch.context() as patch:
        patch.setattr("actionrec.evaluation.timeline.gain_over_defaults", lambda *_: (0.05, 0.04))
        assert tune(scored, model, clip) == DEFAULTS
    assert "The default settings of the timeline stay: the best ones" in caplog.text
    settings = TimelineSettings(hops_of(clip)[0], min_score=0.9)
    gain, error = gain_over_defaults(scored, model, settings, hops_of(clip)[0])
    assert abs(gain) < 1 and error > 0
    # A part is never less than a segment, nor is anything in two of them.
    parts = parts_of(scored)
    assert len(parts) == 9 and {part.video for part in parts} == {scored[0].name}
    for truth in scored[0].truths:
        assert sum(part.has(truth) for part in parts) == 1
        assert any(part.start <= truth.start and truth.end <= part.end for part in parts)
    assert len(parts_of([scored[0]] * 12)) == 12
    # One segment tells nothing of luck.
    scored[0].truths = scored[0].truths[:1]
    assert gain_over_defaults(scored, model, settings, hops_of(clip)[0])[1] == float("inf")
