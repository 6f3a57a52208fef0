"""The confusion matrix and the accuracy per class as plots."""

import numpy as np
import pytest

from actionrec.evaluation.plots import SMALLEST_FONT, confusion_matrix_figure, per_class_figure


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
