"""Report files and pictures."""

import csv
import json
from dataclasses import asdict

import numpy as np
import pytest

from actionrec.cli.main import main
from actionrec.errors import UsageError
from actionrec.evaluation.report import (
    SMALLEST_FONT,
    best_classes,
    confusion_matrix_figure,
    per_class_figure,
    require_same_evaluation,
    write_report,
)
from actionrec.evaluation.scoring import ClipLogits, summarise

NAMES = ["confusion_matrix.png", "per_class.csv", "per_class.png", "predictions.csv"]


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
    evaluation = summarise(scored)
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
    write_report(tmp_path, one, summarise(one))
    [row] = rows(tmp_path / "predictions.csv")
    assert (row["predicted"], row["label_2"], row["label_3"]) == ("c", "b", "a")
    assert list(row)[-1] == "score_3"


def test_the_best_classes_come_in_the_order_of_their_scores():
    assert best_classes(np.array([[0.1, 0.6, 0.3], [0.5, 0.1, 0.4]]), 2).tolist() == [
        [1, 2],
        [0, 2],
    ]


def test_a_report_of_the_same_evaluation_may_be_replaced(scored, tmp_path):
    require_same_evaluation(tmp_path / "new", scored.protocol)
    for _ in range(2):
        write_report(tmp_path, scored, summarise(scored))
        require_same_evaluation(tmp_path, dict(scored.protocol))


@pytest.mark.parametrize(("key", "value"), [("model", "other"), ("crops", 3), ("fps", 25)])
def test_a_report_of_another_evaluation_is_not_replaced(scored, tmp_path, key, value):
    write_report(tmp_path, scored, summarise(scored))
    with pytest.raises(UsageError, match=f"whose {key} is .* and not {value}; choose another"):
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
    with pytest.raises(UsageError, match=f"has a {name} that is not of `actionrec evaluate`"):
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
    assert "whose model is one.safetensors and not two.safetensors" in capsys.readouterr().err


def labels_on(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_the_confusion_matrix_has_the_share_of_each_true_class():
    truths = np.array([0, 0, 0, 0, 2, 2, 5])
    predictions = np.array([0, 0, 0, 2, 2, 3, 5])
    axes = confusion_matrix_figure(truths, predictions, list("abcdef")).axes[0]
    assert labels_on(axes.xaxis) == labels_on(axes.yaxis) == ["a", "c", "d", "f"]
    expected = [[75, 25, 0, 0], [0, 50, 50, 0], [0, 0, 0, 0], [0, 0, 0, 100]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert sorted(text.get_text() for text in axes.texts) == ["100", "25", "50", "50", "75"]
    assert axes.get_title() == "71.4% of 7 right"


def test_a_class_alone_can_be_shown():
    axes = confusion_matrix_figure(np.array([1]), np.array([1]), ["a", "b"]).axes[0]
    assert axes.images[0].get_array().tolist() == [[100]]
    assert labels_on(per_class_figure(np.array([1]), np.array([1]), ["a", "b"]).axes[0].yaxis)


@pytest.mark.parametrize("classes", [8, 101, 400])
def test_names_of_classes_can_be_read_and_do_not_overlap(classes):
    numbers = np.arange(classes)
    names = [f"an action with a long name {number}" for number in numbers]
    figures = confusion_matrix_figure, per_class_figure
    for axes in (make(numbers, numbers, names).axes[0] for make in figures):
        axes.figure.draw_without_rendering()
        ticks = axes.yaxis.get_ticklabels()
        boxes = sorted(tick.get_window_extent().y0 for tick in ticks)
        points = np.diff(boxes).min() * 72 / axes.figure.dpi
        assert all(SMALLEST_FONT <= tick.get_size() <= points for tick in ticks)
        assert len(ticks) == classes or classes == 400
        written = [text for text in (axes.yaxis.label, *ticks) if text.get_text()]
        assert min(text.get_window_extent().x0 for text in written) >= 0


def test_bars_stand_in_the_order_of_accuracy_with_the_number_of_videos():
    truths = np.array([0, 0, 1, 1, 1, 1, 3])
    predictions = np.array([0, 1, 1, 1, 1, 0, 3])
    axes = per_class_figure(truths, predictions, ["a", "b", "c", "d"]).axes[0]
    assert labels_on(axes.yaxis) == ["d (1)", "b (4)", "a (2)"]
    assert [bar.get_width() for bar in axes.patches] == [100, 75, 50]


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path):
    names = [r"$\nonsense$", "_a^", "x" * 99, "no encoding \udce4"]
    numbers = np.arange(4)
    for make in (confusion_matrix_figure, per_class_figure):
        figure = make(numbers, numbers, names)
        figure.savefig(tmp_path / "picture.png")
        assert any("nonsense" in label for label in labels_on(figure.axes[0].yaxis))
