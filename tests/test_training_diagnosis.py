"""What the figures of a run show is said, and nothing else."""

import re

import numpy as np
import pytest

from actionrec.training.diagnosis import diagnose_classes, diagnose_curves
from actionrec.training.figures import EpochFigures


def course(**columns):
    """Epochs of a run that goes well, but for the columns that are given."""
    number = len(next(iter(columns.values())))
    well = {"train_loss": 2.0, "train_top1": 0.5, "val_loss": 2.0, "val_top1": 0.5}
    well |= {"val_top5": 0.9, "learning_rate": 0.01, "data_wait": 0.02}
    return [
        EpochFigures(index + 1, **(well | {name: of[index] for name, of in columns.items()}))
        for index in range(number)
    ]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (course(val_loss=[2.0, 1.9, 1.95, 1.9]), None),
        (course(data_wait=[0.9, 0.02, 0.03]), None),
        (course(data_wait=[0.9, 0.43, 0.42]), "waited for data 43% of the time"),
        (course(train_loss=[2.0, 1.0, 1.6]), None),
        (
            course(train_loss=[2.0, 1.0, 1.8]),
            r"diverges: it was lowest in epoch 2 \(1\.00\) and is 1\.80 now",
        ),
        (
            course(train_loss=[2, 1.5, 1, 0.6, 0.4, 0.2], val_loss=[2, 1.5, 1, 1.4, 1.5, 1.6]),
            r"lowest in epoch 3 \(1\.00\) and is 1\.60 now, .* from 1\.00 to 0\.20, a sign of over",
        ),
        # One good epoch among the last three: that is noise.
        (
            course(train_loss=[2, 1.5, 1, 0.6, 0.4, 0.2], val_loss=[2, 1.5, 1, 1.4, 1.0, 1.6]),
            None,
        ),
        (course(train_top1=[0.7, 0.9]), r"\(90\.0%\) is 40 points above .* \(50\.0%\)"),
        (course(train_top1=[0.7, 0.7]), None),
        (course(val_loss=[4, 3, 2, 1], val_top1=[0.4, 0.5, 0.6, 0.7]), "longer training"),
        (course(val_loss=[4, 3, 2, 1], val_top1=[0.4, 0.7, 0.6, 0.7]), None),
        (
            course(val_loss=[4, 3, 2, 1], val_map=[0.1, 0.2, 0.3, 0.4]),
            "best in mAP and in loss: longer",
        ),
    ],
)
def test_what_the_curves_show_is_said_and_nothing_else(epochs, expected):
    sentences = diagnose_curves(epochs)
    assert len(sentences) == (expected is not None)
    if expected:
        assert re.search(expected, sentences[0])


def test_classes_that_fail_are_named():
    truths = np.arange(8).repeat(4)
    good = diagnose_classes(truths, truths, list("abcdefgh"))
    assert good == []
    predictions = np.where(truths < 7, truths, 0)
    assert diagnose_classes(truths, predictions, list("abcdefgh")) == [
        "1 of 8 classes never right: h."
    ]
    lost, chance = "7 of 8 classes never right: b, c, d, e, f and 2 more.", "above the 12.5% of"
    one, two, three = diagnose_classes(truths, np.zeros_like(truths), list("abcdefgh"))
    assert chance in one and three == lost
    assert two == "32 of 32 videos were predicted as a; only 4 are."
    assert diagnose_classes(truths, truths, list("abcdefghi")) == [
        "1 of 9 classes without a validation video: i."
    ]
