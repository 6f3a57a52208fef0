""" "None of these": temperature, threshold and detector, from the numbers to the command line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actionrec.cli.main import main
from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.errors import ActionrecError
from actionrec.models.classifier import VideoClassifier
from actionrec.models.decision import Decision
from actionrec.models.inference import InferenceModel
from actionrec.training.calibration import (
    Outputs,
    best_temperature,
    calibrate,
    calibration_error,
    detector,
    least_confidence,
    negatives_in,
    separation,
)


def test_the_temperature_is_that_of_the_labels():
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(size=(4000, 5)).astype(np.float32) * 3)
    truths = torch.multinomial((logits / 2.5).softmax(1), 1, generator=torch.manual_seed(0))[:, 0]
    videos = Outputs(list(logits[:, None]), [])
    assert best_temperature(videos, truths.numpy()) == pytest.approx(2.5, rel=0.05)


def test_the_threshold_keeps_the_promise_on_other_videos():
    generator = np.random.default_rng(0)
    rejected = []
    for _ in range(2000):
        confidence = generator.random(41)
        rejected.append(confidence[0] < least_confidence(confidence[1:], 0.1))
    assert np.mean(rejected) == pytest.approx(0.1, abs=0.02)
    # The lowest of 19 and the second of 39 are the ones that 5 % allow.
    assert least_confidence(np.arange(1, 20) / 20, 0.05) == pytest.approx(1 / 20, abs=1e-5)
    assert least_confidence(np.arange(1, 40) / 40, 0.05) == pytest.approx(2 / 40, abs=1e-5)


def test_auroc_and_fpr_are_those_of_the_definitions():
    known, others = np.array([0.9, 0.8, 0.7, 0.2]), np.array([0.75, 0.1, 0.2])
    pairs = [(k > o) + 0.5 * (k == o) for k in known for o in others]
    found = separation(known, others)
    assert found["auroc"] == pytest.approx(np.mean(pairs))
    # All known videos are accepted from 0.2 on, and so are two of three others.
    assert found["fpr95"] == pytest.approx(2 / 3)
    assert separation(known, np.array([])) == {}


def test_the_calibration_error_is_the_mean_gap_of_the_bins():
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.65, 0.35], [0.35, 0.65]])
    truths = np.array([0, 1, 0, 1])
    expected = (2 * abs(0.9 - 0.5) + 2 * abs(0.65 - 1)) / 4
    assert calibration_error(scores, truths) == pytest.approx(expected, abs=1e-6)


def test_a_detector_is_judged_on_videos_that_it_was_not_fitted_to():
    generator = np.random.default_rng(0)
    is_known = np.arange(60) < 30
    folds = np.arange(60) % 5
    told = [generator.normal(2.0 * known, 1, (3, 8)).astype(np.float32) for known in is_known]
    found, row = detector(told, is_known, folds)
    assert separation(found[is_known], found[~is_known])["auroc"] > 0.9
    assert row.shape == (9,) and ((found >= 0) & (found <= 1)).all()
    noise = [generator.normal(0, 1, (3, 8)).astype(np.float32) for _ in is_known]
    found, _ = detector(noise, is_known, folds)
    assert 0.25 < separation(found[is_known], found[~is_known])["auroc"] < 0.75


# Decisions.


def test_scores_with_a_detector_add_up_to_its_probability():
    decision = Decision(temperature=2.0, detector=True, least_confidence=0.3)
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 4.0, -3.0]])
    scores = decision.scores(logits).numpy()
    np.testing.assert_allclose(scores.sum(1), torch.sigmoid(logits[:, 2]), rtol=1e-6)
    np.testing.assert_allclose(
        scores / scores.sum(1, keepdims=True), (logits[:, :2] / 2).softmax(1), rtol=1e-5
    )
    assert decision.given(scores[0]).tolist() == [0] and decision.given(scores[1]).tolist() == []


def test_uncertainty_is_highest_where_the_answer_hangs_in_the_balance():
    one = Decision()
    assert one.uncertainty(np.array([0.5, 0.5])) == 1 and one.uncertainty(np.array([1.0, 0])) == 0
    assert one.uncertainty(np.array([0.7, 0.2, 0.1])) == pytest.approx(0.5)
    # Half of it may be none of these.
    assert Decision(detector=True).uncertainty(np.array([0.5, 0.0])) == pytest.approx(1)
    several = Decision(multi_label=True, thresholds=(0.2, 0.5))
    assert several.uncertainty(np.array([0.2, 0.0])) == 1
    assert several.uncertainty(np.array([1.0, 0.0])) == 0
    assert several.uncertainty(np.array([0.6, 0.25])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"thresholds": [0.5, 1.5, 0.5]},
        {"thresholds": [0.5]},
        {"thresholds": "abc"},
        {"least_confidence": -0.1},
        {"detector": 3},
        {"multi_label": True, "detector": True},
        {"colour": "red"},
    ],
)
def test_a_file_with_an_impossible_decision_is_refused(small_recognizer, tmp_path, values):
    from safetensors.torch import load_file, save_file

    from actionrec.models.model_file import METADATA_KEY, read_description

    path = tmp_path / "model.safetensors"
    small_recognizer.save(path)
    description = read_description(path)
    description["config"]["decision"] |= values
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(description)})
    with pytest.raises(ActionrecError, match="another version of actionrec"):
        VideoClassifier.load(path)


def test_a_file_of_an_earlier_version_has_one_label_a_video(small_recognizer, tmp_path):
    from safetensors.torch import load_file, save_file

    from actionrec.models.model_file import METADATA_KEY, read_description

    path = tmp_path / "model.safetensors"
    small_recognizer.save(path)
    description = read_description(path)
    del description["config"]["decision"]
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(description)})
    assert VideoClassifier.load(path).config.decision == Decision()


# The command line.


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_recognizer, encode):
    """A folder with model.safetensors, its videos a, b and c, and others/ with negatives."""
    place = tmp_path_factory.mktemp("calibration")
    small_recognizer.save(place / "model.safetensors")
    for label in "abc":
        folder = place / "videos" / "val" / label
        folder.mkdir(parents=True)
        for number in range(3):
            encode(folder / f"{label}{number}.mp4", frames=16 + number)
    (place / "others").mkdir()
    for number in range(6):
        options = {"size": (48, 96), "frames": 40 + number}
        encode(place / "others" / f"{number}.mp4", **options)
    return place


def words(place, output, *more):
    return [
        *("calibrate", str(place / "model.safetensors"), "--dataset", "folder"),
        *("--root", str(place / "videos"), "--false-alarms", "0.2", "--workers", "1"),
        *("--output", str(output), *map(str, more)),
    ]


def test_a_calibrated_model_gives_the_scores_that_its_threshold_is_for(place, tmp_path, capsys):
    output = tmp_path / "new.safetensors"
    assert main(words(place, output, "--format", "json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["videos"] == 9 and found["negatives"] == 0 and found["auroc"] is None
    assert 0 <= found["rejected"] <= 0.2
    model = VideoClassifier.load(output)
    decision = model.config.decision
    assert decision.temperature == pytest.approx(found["temperature"]) and not decision.detector
    assert model.training_record["calibration"]["least_confidence"] == found["least_confidence"]
    assert model.training_record["note"] == "untrained"
    # The network is the same.
    plain = VideoClassifier.load(place / "model.safetensors").network.state_dict()
    assert all(torch.equal(x, plain[name]) for name, x in model.network.state_dict().items())
    assert main(words(place, output)) == 2
    assert "is there already" in capsys.readouterr().err


def test_negatives_train_a_detector_that_predict_obeys(place, tmp_path, capsys):
    output = tmp_path / "new.safetensors"
    assert main(words(place, output, "--negatives", place / "others", "--format", "json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["negatives"] == 6 and found["detector"] and found["auroc"] > found["auroc_before"]
    assert 0 <= found["accepted"] <= 1
    known, other = place / "videos" / "val" / "a" / "a0.mp4", place / "others" / "3.mp4"
    answers = {}
    assert (
        main(["predict", str(known), str(other), "--model", str(output), "--format", "json"]) == 0
    )
    for answer in json.loads(capsys.readouterr().out):
        answers[Path(answer["video"]).name] = answer
    assert answers["3.mp4"]["none_of_these"] and answers["3.mp4"]["labels"] == []
    assert len(answers["3.mp4"]["top"]) == 3
    total = {name: sum(entry["score"] for entry in each["top"]) for name, each in answers.items()}
    assert total["3.mp4"] < found["least_confidence"] <= total["a0.mp4"] + 1e-5
    assert main(["predict", str(other), "--model", str(output)]) == 0
    assert "none of these; the nearest:" in capsys.readouterr().out
    # Accuracy is that of the labels, with or without the detector.
    flags = ["--dataset", "folder", "--root", str(place / "videos"), "--clips", "1"]
    figures = []
    for model in (place / "model.safetensors", output):
        assert main(["evaluate", "--model", str(model), *flags, "--format", "json"]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0]["video"]["top1"] == figures[1]["video"]["top1"]
    assert "temperature" in figures[1]["protocol"]["clip_score"]
    # A second calibration begins anew.
    again = tmp_path / "again.safetensors"
    command = words(place, again)
    command[1] = str(output)
    assert main(command) == 0
    assert not VideoClassifier.load(again).config.decision.detector
    # Exported, it decides the same.
    exported = tmp_path / "new.onnx"
    assert main(["export", "--model", str(output), "--output", str(exported)]) == 0
    clips = InferenceModel.load(output).clips.read(other, clips=1).pixels
    scores = [InferenceModel.load(path, precision="float32").scores(clips)
              for path in (output, exported)]  # fmt: skip
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_a_broken_negative_is_told_and_left_out(place, tmp_path, capsys):
    others = shutil.copytree(place / "others", tmp_path / "others")
    (others / "broken.mp4").write_bytes(b"no video")
    output = tmp_path / "new.safetensors"
    assert main(words(place, output, "--negatives", others)) == 1
    written = capsys.readouterr()
    assert "broken.mp4" in written.err and "of 6 negatives" in written.out
    assert VideoClassifier.load(output).config.decision.least_confidence > 0


def test_negatives_that_tell_nothing_are_refused(place, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for number in range(6):
        (tmp_path / "broken" / f"{number}.mp4").write_bytes(b"no video")
    output = tmp_path / "new.safetensors"
    for folder, status, sentence in (
        (tmp_path / "empty", 2, "has no videos in it"),
        (tmp_path / "nowhere", 2, "nowhere is no folder"),
        (tmp_path / "broken", 1, "0 of 6 negatives can be read"),
        (place / "videos" / "val" / "a", 1, "is among the negatives and has a label in folder"),
    ):
        assert main(words(place, output, "--negatives", folder)) == status
        assert sentence in capsys.readouterr().err
    assert not output.exists()
    with pytest.raises(ActionrecError, match="no folder"):
        negatives_in(tmp_path / "nowhere")


def test_too_few_videos_for_so_few_false_alarms_are_refused(place, tmp_path, capsys):
    command = words(place, tmp_path / "new.safetensors")
    command[command.index("0.2")] = "0.05"
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "9 validation videos are too few" in error and "0.05 need 19" in error


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "nan"])
def test_a_share_of_false_alarms_is_between_0_and_1(place, tmp_path, share):
    command = words(place, tmp_path / "new.safetensors")
    command[command.index("0.2")] = share
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2


def test_models_that_can_not_be_calibrated_say_why(place, small_recognizer, tmp_path, capsys):
    several = replace(small_recognizer.config, decision=Decision(multi_label=True))
    VideoClassifier(several).save(tmp_path / "several.safetensors")
    (tmp_path / "exported.onnx").touch()
    for name, sentence in (
        ("several.safetensors", "has several labels a video, each with a threshold"),
        ("exported.onnx", "is an exported file; calibrate the model that it was made from"),
    ):
        command = words(place, tmp_path / "new.safetensors")
        command[1] = str(tmp_path / name)
        assert main(command) == 2
        assert sentence in capsys.readouterr().err


def test_labels_that_the_model_does_not_know_are_named(small_recognizer):
    video = LabelledVideo(Path("x.mp4"), 0)
    dataset = VideoDataset("folder", ("sing",), (), (video,))
    with pytest.raises(ActionrecError, match="does not know 1 of the 1 classes of folder, 'sing'"):
        calibrate(small_recognizer, dataset)
