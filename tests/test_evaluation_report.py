"""Report files and pictures."""

import csv
import json
from dataclasses import asdict

import numpy as np
import pytest

from actionrec.cli.main import main
from actionrec.errors import UsageError
from actionrec.evaluation.accuracy import evaluation_of
from actionrec.evaluation.logits import ClipLogits
from actionrec.evaluation.report import require_same_evaluation, write_report

NAMES = ["confusion_matrix.png", "per_class.csv", "per_class.png", "predictions.csv", "report.html"]


@pytest.fixture
def scored():
    """Four videos of two clips among seven classes: a right, a wrong, a right, fourth best."""
    logits = np.zeros((4, 2, 1, 7), dtype=np.float32)
    for video, order in enumerate(([0, 1, 2, 3], [1, 2, 3, 4], [2, 1, 0, 5], [6, 5, 4, 3])):
        logits[video, ..., order] = np.array([9, 8, 7, 6])[:, None, None]
    return ClipLogits(
        logits=logits,
        counts=np.array([2, 2]).repeat(2),
        truths=np.array([0, 0, 2, 3]),
        videos=("a/1.avi", "a/2.avi", "c/1.avi", "d/1.avi"),
        labels=tuple("abcdefg"),
        protocol={"model": "m", "crops": 1, "stride": 1.0, "fps": None},
    )


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_report_tells_of_every_video_and_class(scored, tmp_path):
    evaluation = evaluation_of(scored)
    write_report(tmp_path / "report", scored, evaluation)
    files = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert files == [*NAMES, "results.json"]
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == asdict(evaluation)

    videos = rows(tmp_path / "report" / "predictions.csv")
    assert [row["video"] for row in videos] == list(scored.videos)
    assert [row["label"] for row in videos] == ["a", "a", "c", "d"]
    assert [row["predicted"] for row in videos] == ["a", "b", "c", "g"]
    # In the second video a's logit is 0, as those of two others: a tie counts against the truth.
    assert [row["rank"] for row in videos] == ["1", "7", "1", "4"]
    assert [videos[3][f"label_{place}"] for place in (2, 3, 4, 5)] == ["f", "e", "d", "a"]
    scores = np.exp([9, 8, 7, 6, 0, 0, 0]) / np.exp([9, 8, 7, 6, 0, 0, 0]).sum()
    assert float(videos[3]["score"]) == pytest.approx(scores[0], abs=1e-6)
    assert float(videos[3]["label_score"]) == pytest.approx(scores[3], abs=1e-6)

    classes = {row["class"]: row for row in rows(tmp_path / "report" / "per_class.csv")}
    assert list(classes) == ["a", "c", "d"]
    assert classes["a"]["video_top1"] == "0.5" and classes["a"]["videos"] == "2"
    assert (classes["a"]["taken_for"], classes["a"]["times"]) == ("b", "1")
    assert (classes["c"]["taken_for"], classes["c"]["times"]) == ("", "")


def test_fewer_than_five_classes_make_fewer_columns(tmp_path):
    logits = np.array([0, 1, 2], dtype=np.float32).reshape(1, 1, 1, 3)
    one = ClipLogits(logits, np.array([1]), np.array([2]), ("x",), ("a", "b", "c"), {})
    write_report(tmp_path, one, evaluation_of(one))
    [row] = rows(tmp_path / "predictions.csv")
    assert (row["predicted"], row["label_2"], row["label_3"]) == ("c", "b", "a")
    assert list(row)[-1] == "score_3"


def test_a_report_of_the_same_evaluation_may_be_replaced(scored, tmp_path):
    require_same_evaluation(tmp_path / "new", scored.protocol)
    for _ in range(2):
        write_report(tmp_path, scored, evaluation_of(scored))
        require_same_evaluation(tmp_path, dict(scored.protocol))


@pytest.mark.parametrize(("key", "value"), [("model", "other"), ("crops", 3), ("fps", 25)])
def test_a_report_of_another_evaluation_is_not_replaced(scored, tmp_path, key, value):
    write_report(tmp_path, scored, evaluation_of(scored))
    with pytest.raises(UsageError, match=f"its {key} is .*, not {value}; choose another"):
        require_same_evaluation(tmp_path, scored.protocol | {key: value})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", '{"output": "runs/x", "best": {}}'),
        ("results.json", "no JSON"),
        ("predictions.csv", "mine"),
    ],
)
def test_a_file_of_something_else_is_not_replaced(scored, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=f"has a {name} that `actionrec evaluate` did not write"):
        require_same_evaluation(tmp_path, scored.protocol)


def test_a_file_in_the_place_of_the_folder_is_wrong_usage(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is not a folder"):
        require_same_evaluation(tmp_path / "file", {})


def test_the_command_writes_a_report_and_keeps_that_of_another_model(
    small_recognizer, class_folders, tmp_path, monkeypatch, capsys
):
    from dataclasses import replace

    from actionrec.models.classifier import VideoClassifier

    config = replace(small_recognizer.config, labels=("first", "second"))
    for name in ("one", "two"):
        VideoClassifier(config).save(tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", "folder", "--root", str(class_folders), "--clips", "2"]
    flags += ["--workers", "0", "--output", "report", "--format", "json"]
    for _ in range(2):
        assert main(["evaluate", "--model", "one.safetensors", *flags]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert json.loads((tmp_path / "report" / "results.json").read_text()) == printed
    assert len(rows(tmp_path / "report" / "predictions.csv")) == 4
    assert main(["evaluate", "--model", "two.safetensors", *flags]) == 2
    assert "its model is one.safetensors, not two.safetensors" in capsys.readouterr().err
