"""Mean average precision at temporal IoU by ActivityNet's definition, and the labels of frames."""

import numpy as np
import pytest

from actionrec.evaluation.detection import (
    THRESHOLDS,
    Detection,
    average_precision,
    average_precisions,
    frame_hits,
    temporal_iou,
)


def slow_average_precision(truths, found, threshold):
    """By the definition, in exact steps: the mean over true segments of the best precision at that
    recall or beyond, with plain loops."""
    taken, hits = set(), []
    for each in sorted(found, key=lambda each: -each.score):
        candidates = []
        for number, truth in enumerate(truths):
            if truth.video != each.video or number in taken:
                continue
            inside = min(truth.end, each.end) - max(truth.start, each.start)
            if inside <= 0:
                continue
            union = (truth.end - truth.start) + (each.end - each.start) - inside
            if inside / union >= threshold:
                candidates.append((inside / union, number))
        if candidates:
            taken.add(max(candidates)[1])
        hits.append(bool(candidates))
    total = 0.0
    for recalled in range(1, len(truths) + 1):
        precisions = [
            sum(hits[:length]) / length
            for length in range(1, len(hits) + 1)
            if sum(hits[:length]) >= recalled
        ]
        total += max(precisions, default=0.0)
    return total / len(truths)


def random_case(seed):
    generator = np.random.default_rng(seed)
    truths, found = [], []
    for video in "abc":
        for _ in range(generator.integers(1, 6)):
            start = generator.uniform(0, 50)
            label = str(generator.choice(["run", "jump"]))
            truths.append(Detection(video, label, start, start + generator.uniform(0.5, 9)))
    for _ in range(40):
        near = truths[generator.integers(len(truths))]
        start = near.start + generator.normal(0, 1)
        end = start + (near.end - near.start) * generator.uniform(0.6, 1.5)
        video = near.video if generator.random() < 0.9 else "unknown"
        label = near.label if generator.random() < 0.8 else "other"
        found.append(Detection(video, label, start, end, generator.random()))
    return truths, found


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_is_that_of_a_slow_implementation(seed):
    truths, found = random_case(seed)
    precisions = average_precisions(truths, found)
    assert set(precisions) == {each.label for each in truths}
    for label, values in precisions.items():
        mine = [each for each in truths if each.label == label]
        others = [each for each in found if each.label == label]
        slow = [slow_average_precision(mine, others, threshold) for threshold in THRESHOLDS]
        np.testing.assert_allclose(values, slow, atol=1e-12)
    assert max(values[0] for values in precisions.values()) > 0


def test_average_precision_of_cases_by_hand():
    truths = [Detection("a", "run", 0, 10), Detection("a", "run", 20, 30)]
    sure = Detection("a", "run", 0, 10, 0.9)
    wrong = Detection("b", "run", 0, 10, 0.8)
    late = Detection("a", "run", 25, 30, 0.7)  # an IoU of exactly 0.5
    assert average_precision(truths, [], [0.5]).tolist() == [0]
    assert average_precision(truths, [sure], [0.5]).tolist() == [0.5]
    # A second detection of one segment is a false alarm.
    twice = [sure, Detection("a", "run", 0, 9, 0.85)]
    assert average_precision(truths, twice, [0.5]).tolist() == [0.5]
    found = average_precision(truths, [wrong, late, sure], [0.5, 0.6])
    np.testing.assert_allclose(found, [0.5 + 0.5 * 2 / 3, 0.5])
    np.testing.assert_allclose(temporal_iou((0, 2), np.array([[1, 3], [2, 4]])), [1 / 3, 0])


def test_a_frame_is_right_with_one_of_its_labels_and_without_one_where_it_has_none():
    times = np.arange(10) / 10
    truths = [Detection("a", "run", 0.2, 0.5), Detection("a", "jump", 0.4, 0.6)]
    found = [Detection("a", "jump", 0.3, 0.6), Detection("a", "run", 0.8, 0.9)]
    right, annotated = frame_hits(times, truths, found)
    assert annotated.nonzero()[0].tolist() == [2, 3, 4, 5]
    # 0, 1: nothing, and nothing said. 4, 5: jump. 6, 7, 9: nothing. 8: run, and nothing is there.
    assert right.nonzero()[0].tolist() == [0, 1, 4, 5, 6, 7, 9]
