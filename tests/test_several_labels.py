"""Videos with several labels, from the CSV file to training, evaluation and prediction."""

import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from two_motions import write_dataset

from actionrec.cli.main import main
from actionrec.config import TrainConfig
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, UsageError
from actionrec.evaluation.accuracy import evaluation_of
from actionrec.evaluation.compare import load_comparable
from actionrec.evaluation.logits import ClipLogits, ranks
from actionrec.models.classifier import ClassifierConfig, VideoClassifier
from actionrec.models.decision import Decision
from actionrec.models.inference import InferenceModel
from actionrec.prediction.live import LivePrediction
from actionrec.prediction.timeline import Step, merge, score_timeline
from actionrec.prediction.videos import LabelScore
from actionrec.training.head import logistic_regression
from actionrec.training.module import binary_cross_entropy, with_thresholds
from actionrec.training.run import train


@pytest.fixture(scope="module")
def motions(tmp_path_factory):
    """A CSV file of 24 training and 12 validation videos with up to two labels each."""
    return write_dataset(tmp_path_factory.mktemp("motions"), 24, 12)


def settings(motions, output, **others):
    given = {
        "dataset": "csv",
        "root": str(motions),
        "multi_label": True,
        "recipe": "paper",
        "block": "none",
        "backbone": "c3d_small",
        "weights": "none",
        "clip_length": 8,
        "short_side": 36,
        "crop": 32,
        "flip": False,
        "epochs": 2,
        "batch_size": 8,
        "workers": 0,
        "output": str(output),
    }
    return TrainConfig(**given | others)


@pytest.fixture(scope="module")
def run(motions, tmp_path_factory):
    """The folder of a training with several labels."""
    output = tmp_path_factory.mktemp("several") / "run"
    train(settings(motions, output))
    return output


def write(folder, *rows):
    path = folder / "videos.csv"
    path.write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    for row in rows:
        (folder / row.split(",")[0]).touch()
    return path


# The CSV file.


def test_labels_of_a_cell_are_parted_and_an_empty_cell_has_none(tmp_path):
    path = write(tmp_path, "a.mp4,run | jump,train", "b.mp4,,train", "c.mp4,jump,val")
    dataset = open_dataset("csv", path, multi_label=True)
    assert dataset.labels == ("jump", "run") and dataset.multi_label
    assert [video.all_labels for video in dataset.train] == [(1, 0), ()]
    assert [video.all_labels for video in dataset.val] == [(0,)]


def test_several_labels_without_the_flag_are_refused_with_its_name(tmp_path):
    path = write(tmp_path, "a.mp4,run|jump,train", "b.mp4,jump,val")
    with pytest.raises(ActionrecError, match="line 2 has several labels .*--multi-label true"):
        open_dataset("csv", path, multi_label=False)
    # Programs that don't train take the file as it is.
    assert open_dataset("csv", path).multi_label


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("run|run", "line 2 has the label 'run' twice"),
        ("run||jump", "line 2 has an empty label"),
        ("|", "line 2 has an empty label"),
    ],
)
def test_a_cell_that_is_no_list_of_labels_is_refused(tmp_path, cell, words):
    path = write(tmp_path, f"a.mp4,{cell},train", "b.mp4,jump,train", "c.mp4,jump,val")
    with pytest.raises(ActionrecError, match=words):
        open_dataset("csv", path, multi_label=True)


def test_an_empty_cell_is_an_error_with_one_label_a_video(tmp_path):
    path = write(tmp_path, "a.mp4,,train", "b.mp4,jump,train", "c.mp4,jump,val")
    for multi_label in (False, None):
        with pytest.raises(ActionrecError, match="line 2 has no label"):
            open_dataset("csv", path, multi_label=multi_label)


def test_a_label_that_no_training_video_has_is_named(tmp_path):
    path = write(tmp_path, "a.mp4,run,train", "b.mp4,run|jump,val")
    with pytest.raises(ActionrecError, match="line 3: no training video shows 'jump'"):
        open_dataset("csv", path, multi_label=True)


def test_only_a_data_set_that_can_have_several_labels_takes_the_flag(class_folders):
    with pytest.raises(UsageError, match="folder has one label a video; several .* csv"):
        open_dataset("folder", class_folders, multi_label=True)


def test_one_label_needs_videos_without_it(tmp_path, encode):
    for name in ("a", "b", "c", "d"):
        encode(tmp_path / f"{name}.mp4", frames=12)
    lines = [
        "path,label,split",
        "a.mp4,run,train",
        "b.mp4,run,train",
        "c.mp4,run,val",
        "d.mp4,,val",
    ]
    path = tmp_path / "videos.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(ActionrecError, match="have the only label, 'run'; add videos without it"):
        train(settings(path, tmp_path / "run"))
    path.write_text("\n".join([*lines, ""]).replace("b.mp4,run", "b.mp4,"))
    result = train(settings(path, tmp_path / "run", epochs=1))["last"]["clip"]
    assert result["average_precision"].keys() == {"run"} and 0 <= result["map"] <= 1


def test_validation_without_any_label_is_refused(tmp_path):
    path = write(tmp_path, "a.mp4,run,train", "b.mp4,,train", "c.mp4,,val")
    with pytest.raises(ActionrecError, match="No validation video of csv has a label"):
        train(settings(path, tmp_path / "run", gamma=1.0))


# Training.


def test_the_loss_is_the_sum_of_the_labels_cross_entropies():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    plain = -(targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log())
    torch.testing.assert_close(binary_cross_entropy(logits, targets), plain.sum(1).mean())
    smooth = 0.8 * targets + 0.1
    expected = F.binary_cross_entropy_with_logits(logits, smooth) * 4
    torch.testing.assert_close(binary_cross_entropy(logits, targets, 0.2), expected)


def test_a_run_keeps_thresholds_and_average_precisions(run):
    results = json.loads((run / "results.json").read_text())
    model = VideoClassifier.load(run)
    best = results["best"]["clip"]
    assert set(best) == {"top1", "top5", "n", "map", "average_precision"}
    assert best["map"] == pytest.approx(np.mean(list(best["average_precision"].values())), abs=1e-5)
    assert best["map"] >= results["last"]["clip"]["map"]
    assert model.config.decision.multi_label and len(model.config.decision.thresholds) == 4
    page = (run / "report.html").read_text()
    assert "mAP" in page and "Confusion matrix" not in page


def test_without_a_labelled_validation_video_there_is_a_sentence_and_no_threshold(scored):
    config = ClassifierConfig(scored.labels, decision=scored.decision)
    with pytest.raises(ActionrecError, match="Not one validation video with a label could be"):
        with_thresholds(config, np.zeros((3, 3), int), scored.video_scores)


def test_a_stopped_run_goes_on_to_the_bit(motions, run, tmp_path, monkeypatch):
    from actionrec.training.module import Training

    class Crash(Exception):
        pass

    with monkeypatch.context() as patch:
        ended = Training.on_train_epoch_end

        def crash(self):
            if self.current_epoch == 1:
                raise Crash
            ended(self)

        patch.setattr(Training, "on_train_epoch_end", crash)
        with pytest.raises(Crash):
            train(settings(motions, tmp_path / "run"))
    train(settings(motions, tmp_path / "run", resume="auto"))
    whole, resumed = (VideoClassifier.load(folder / "last.safetensors") for folder in
                      (run, tmp_path / "run"))  # fmt: skip
    assert whole.config == resumed.config
    tensors = resumed.network.state_dict()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


def test_the_head_of_each_label_is_its_own_logistic_regression():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(40, 6)).astype(np.float32)
    labels = (values[:, :2] + generator.normal(size=(40, 2)) > 0).astype(np.float64)
    weight, bias = logistic_regression(values, labels, 2, 0.01)
    for label in (0, 1):
        alone = logistic_regression(values, labels[:, label : label + 1], 1, 0.01)
        torch.testing.assert_close(weight[label], alone[0][0], atol=1e-3, rtol=1e-2)
        torch.testing.assert_close(bias[label], alone[1][0], atol=1e-3, rtol=1e-2)


def test_the_head_alone_is_fitted_to_several_labels(motions, run, tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    weights = str(run / "model.safetensors")
    result = train(settings(motions, tmp_path / "head", train_from="head", weights=weights))
    assert 0 <= result["last"]["clip"]["map"] <= 1 and result["cross_validation"]
    assert len(VideoClassifier.load(tmp_path / "head").config.decision.thresholds) == 4


# Evaluation.


@pytest.fixture
def scored():
    """Three videos, of which the last has no label, and three labels, the last of which is never
    true."""
    logits = np.array([[3, 1, -2], [-1, 2, 0], [0, -3, -1]], dtype=np.float32)[:, None, None]
    return ClipLogits(
        logits=logits,
        counts=np.array([1, 1, 1]),
        truths=np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]]),
        videos=("a.mp4", "b.mp4", "c.mp4"),
        labels=("run", "jump", "sit"),
        protocol={"model": "m", "dataset": "csv"},
        decision=Decision(multi_label=True, thresholds=(0.4, 0.5, 0.9)),
    )


def test_figures_of_several_labels_are_those_of_the_definitions(scored):
    found = evaluation_of(scored)
    # Ranked for run: a (true), c, b (true): precision 1 at recall 1/2, 2/3 at recall 1.
    assert found.per_class["run"].average_precision == pytest.approx((1 + 2 / 3) / 2)
    # For jump: b, a (true).
    assert found.per_class["jump"].average_precision == pytest.approx(0.5)
    assert found.map == pytest.approx((5 / 6 + 1 / 2) / 2) and "sit" not in found.per_class
    # The best label of a is one of its own, that of b is not; c has none.
    assert found.video.n == 2 and found.video.top1 == 0.5
    run = found.per_class["run"]
    assert (run.threshold, run.precision, run.recall) == (0.4, 0.5, 0.5)
    assert json.dumps(asdict(found), allow_nan=False)


def test_the_rank_with_several_labels_is_among_the_labels_that_are_not_its_own():
    scores = np.array([[0.9, 0.8, 0.7], [0.5, 0.5, 0.1], [0.1, 0.2, 0.3]])
    truths = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]])
    assert ranks(scores, truths).tolist() == [1, 1]


def test_logits_of_several_labels_come_back_and_are_not_compared(scored, tmp_path):
    scored.save(tmp_path / "a.safetensors")
    loaded = ClipLogits.load(tmp_path / "a.safetensors")
    assert loaded.decision == scored.decision and evaluation_of(loaded) == evaluation_of(scored)
    with pytest.raises(ActionrecError, match="has several labels a video"):
        load_comparable([tmp_path / "a.safetensors"] * 2)


def test_the_command_evaluates_and_reports_every_label(motions, run, tmp_path, capsys):
    words = ["evaluate", "--model", str(run), "--dataset", "csv", "--root", str(motions)]
    words += ["--clips", "1", "--workers", "1"]
    assert main([*words, "--output", str(tmp_path / "report"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    trained = json.loads((run / "results.json").read_text())["best"]["clip"]
    assert found["map"] == pytest.approx(trained["map"], abs=1e-4)
    with (tmp_path / "report" / "predictions.csv").open(newline="") as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    with motions.open(newline="") as file:
        truths = {row["path"]: row["label"] for row in csv.DictReader(file)}
    assert all(row["labels"] == truths[name] for name, row in rows.items())
    assert main([*words, "--format", "table"]) == 0
    assert "mAP:" in capsys.readouterr().out


def test_a_model_of_other_labels_is_refused(motions, run, tmp_path, capsys):
    text = motions.read_text().replace("left", "sideways")
    path = motions.with_name("renamed.csv")
    path.write_text(text)
    assert main(["evaluate", "--model", str(run), "--dataset", "csv", "--root", str(path)]) == 1
    assert "does not know 1 of the 4 classes of csv, 'sideways'" in capsys.readouterr().err


# Prediction.


@pytest.fixture(scope="module")
def decided(small_recognizer):
    """A network with thresholds that a and c always reach, b never."""
    decision = Decision(multi_label=True, thresholds=(1e-6, 1 - 1e-6, 1e-6))
    model = VideoClassifier(replace(small_recognizer.config, decision=decision))
    model.network.load_state_dict(small_recognizer.network.state_dict())
    return model.eval()


@pytest.fixture(scope="module")
def video(tmp_path_factory, encode):
    return encode(tmp_path_factory.mktemp("video") / "video.mp4", frames=40)


def test_every_label_above_its_threshold_is_given(decided, video, tmp_path, capsys):
    decided.save(tmp_path / "model.safetensors")
    words = ["predict", str(video), "--model", str(tmp_path / "model.safetensors")]
    assert main([*words, "--format", "json", "--topk", "1"]) == 0
    [result] = json.loads(capsys.readouterr().out)
    assert len(result["top"]) == 1 and {entry["label"] for entry in result["labels"]} == {"a", "c"}
    assert result["none_of_these"] is False and 0 <= result["uncertainty"] <= 1
    assert main(words) == 0
    marked = [line for line in capsys.readouterr().out.splitlines() if "*" in line]
    assert [line.split()[-1] for line in sorted(marked, key=lambda line: line[-1])] == ["a", "c"]


def test_segments_of_two_labels_overlap(decided, video):
    timeline = score_timeline(InferenceModel(decided, "cpu", "float32"), video)
    assert {segment.label for segment in timeline.segments} == {"a", "c"}
    assert all(segment.start == 0 for segment in timeline.segments)


def test_a_label_below_its_threshold_ends_its_own_segment_only():
    a, b = LabelScore("a", 0.9), LabelScore("b", 0.4)
    steps = [Step(0, 1, [a], [a, b]), Step(1, 2, [a], [a]), Step(2, 3, [a], [a, b])]
    spans = [(each.label, each.start, each.end) for each in merge(steps, 0)]
    assert spans == [("a", 0, 3), ("b", 0, 1), ("b", 2, 3)]
    assert [each.label for each in merge(steps, 0.5)] == ["a"]


def test_a_stream_gives_every_label_above_its_threshold(decided):
    assert {"labels", "none_of_these"} <= set(LivePrediction.__slots__)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_thresholds_are_kept_by_export(decided, tmp_path, suffix, capsys):
    decided.save(tmp_path / "model.safetensors")
    path = tmp_path / f"exported{suffix}"
    words = ["export", "--model", str(tmp_path / "model.safetensors"), "--output", str(path)]
    assert main(words) == 0, capsys.readouterr().err
    if suffix == ".onnx":
        exported = InferenceModel.load(path)
        assert exported.decision == decided.config.decision
        clips = torch.randint(256, (2, 3, 4, 32, 32), dtype=torch.uint8)
        plain = InferenceModel(decided, "cpu", "float32")
        np.testing.assert_allclose(exported.scores(clips), plain.scores(clips), atol=1e-4)
