"""The loss of clips against slow formulas in float64, and against PyTorch's own."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from actionrec.errors import UsageError
from actionrec.training.loss import ClipLoss, class_weights, require_videos

LABELS = ("run", "jump", "sit")


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(5, 3) * 3


def by_hand(logits, shares, weights, gamma):
    """- sum_c w_c t_c (1 - p_c)^gamma log p_c, the mean over clips."""
    total = 0.0
    for row, target in zip(logits.double().numpy(), np.asarray(shares, float), strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        for c in range(len(row)):
            total -= weights[c] * target[c] * (1 - p[c]) ** gamma * np.log(p[c])
    return total / len(logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, (0.2, 1.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_and_class_weights_alone_and_together_are_the_formula(
    logits, gamma, weights, smoothing
):
    loss = ClipLoss(None if weights is None else torch.tensor(weights), gamma, smoothing)
    labels = torch.tensor([0, 1, 2, 2, 0])
    shares = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    expected = by_hand(logits, shares, weights or (1, 1, 1), gamma)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    mixed = torch.tensor([[0.3, 0.7, 0.0]] * 5)
    shares = mixed.numpy() * (1 - smoothing) + smoothing / 3
    expected = by_hand(logits, shares, weights or (1, 1, 1), gamma)
    assert loss(logits, mixed).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_are_pytorchs_without_its_division_by_those_of_the_batch(logits, smoothing):
    weights, labels = torch.tensor([0.2, 1.0, 3.0]), torch.tensor([0, 1, 2, 2, 0])
    own = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="sum")
    assert ClipLoss(weights, 0.0, smoothing)(logits, labels) == pytest.approx(own.item() / 5)
    # Two processes with a part each agree with one that has them all.
    loss = ClipLoss(weights)
    parts = loss(logits[:2], labels[:2]) * 2 + loss(logits[2:], labels[2:]) * 3
    assert loss(logits, labels) == pytest.approx(parts.item() / 5)


def test_without_either_it_is_cross_entropy_to_the_bit(logits):
    labels = torch.tensor([0, 1, 2, 2, 0])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(ClipLoss(smoothing=0.1)(logits, labels), expected)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_sure_answers_have_finite_gradients(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = ClipLoss(torch.tensor([1.0, 2.0]), gamma)(logits, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(100) and logits.grad.isfinite().all()


def test_weights_follow_from_the_numbers_of_videos_and_have_the_mean_1():
    videos = np.array([100, 10, 1])
    inverse = class_weights("inverse", LABELS, videos).numpy()
    np.testing.assert_allclose(inverse, 111 / 3 / videos, rtol=1e-6)
    effective = class_weights("effective", LABELS, videos).numpy()
    expected = 1 / ((1 - 0.999**videos) / (1 - 0.999))
    np.testing.assert_allclose(effective / effective[0], expected / expected[0], rtol=1e-6)
    for weights in (inverse, effective):
        assert (weights * videos).sum() / videos.sum() == pytest.approx(1)
    assert class_weights("none", LABELS, videos) is None


def test_given_weights_are_taken_as_they_are_and_others_are_1():
    assert class_weights({"sit": 2.5}, LABELS, (1, 1, 0)).tolist() == [1, 1, 2.5]


def test_a_weight_for_a_class_that_there_is_not_names_the_nearest():
    with pytest.raises(UsageError, match="names 'jumb', which is no class; did you mean jump"):
        class_weights({"jumb": 2.0}, LABELS, (1, 1, 1))


@pytest.mark.parametrize("setting", ["inverse", "effective"])
def test_a_class_without_videos_has_no_weight(setting):
    with pytest.raises(UsageError, match=f"--class-weights {setting} needs .*'jump' has none"):
        class_weights(setting, LABELS, (3, 0, 1))
    with pytest.raises(UsageError, match="'run' and 1 more has none.*leave out --balanced"):
        require_videos("--balanced-sampling true", LABELS, (0, 0, 1))
