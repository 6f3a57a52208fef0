"""A calibrated "none of these" for a trained model, in a new model file.

    actionrec calibrate model.safetensors --dataset csv --root my.csv --output new.safetensors

The validation videos choose the temperature of the softmax, so that scores are shares of right
answers (Guo et al. 2017), and the least confidence: the share of videos with a known label that may
be taken for "none of these" is the user's to allow.

Without negatives a video's confidence is its best score. Of the scores that need no training, the
largest softmax, the largest logit and the energy (Hendrycks & Gimpel 2017; Hendrycks et al. 2022;
Liu et al. 2020) were measured on twelve pairs of real known and unknown actions, and none was
clearly ahead (docs/results.md). With negatives, videos that show none of the labels, a detector is
fitted: one more output of the head, the logit of a known video against a negative.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_roc,
    multiclass_calibration_error,
)

from actionrec.datasets.dataset import VideoDataset, deal_groups
from actionrec.errors import ActionrecError, Failure, UsageError, VideoError
from actionrec.evaluation.scoring import require_known_classes
from actionrec.files import find_videos
from actionrec.models.classifier import VideoClassifier
from actionrec.models.decision import Decision
from actionrec.models.inference import InferenceModel
from actionrec.models.shared_batches import score_videos, threads_of
from actionrec.processes import WorkerError
from actionrec.progress import track
from actionrec.training.head import PENALTIES, logistic_regression
from actionrec.video.parts import VideoSource

log = logging.getLogger(__name__)

FOLDS = 5
BINS = 15  # of the expected calibration error
HIGHEST_TEMPERATURE = 100.0
# Below the measured confidence, so that another order of summation rejects no other video.
MARGIN = 1e-6


@dataclass(frozen=True)
class Calibration:
    """What calibration chose, and figures with it; shares are in [0, 1].

    Temperature and detector are fitted to four fifths of the videos and judged on the last, in
    turn, so that no figure is of a video that it was fitted to.

    Attributes:
        videos: Validation videos, all of which show one of the labels.
        negatives: Videos that show none, 0 without.
        temperature: Of the softmax.
        detector: Whether the confidence is that of the detector; without, the best score.
        false_alarms: The share of known videos that may be rejected, as allowed.
        least_confidence: Videos of less confidence are rejected: "none of these".
        top1: Share of known videos whose best label is right.
        top1_kept: Share of known videos whose best label is right and that are not rejected.
        rejected: Share of known videos that are rejected.
        calibration_error, calibration_error_before: Expected calibration error in 15 bins, at the
            temperature and at 1.
        loss, loss_before: Negative log-likelihood of the true label, likewise.
        auroc, auroc_before: Area under the ROC of known videos against negatives by the confidence,
            and by the best score at temperature 1; None without negatives.
        fpr95, fpr95_before: Share of negatives that are accepted where 95 % of known videos are,
            likewise.
        accepted: Share of negatives that are accepted at the least confidence.
    """

    videos: int
    negatives: int
    temperature: float
    detector: bool
    false_alarms: float
    least_confidence: float
    top1: float
    top1_kept: float
    rejected: float
    calibration_error: float
    calibration_error_before: float
    loss: float
    loss_before: float
    auroc: float | None = None
    auroc_before: float | None = None
    fpr95: float | None = None
    fpr95_before: float | None = None
    accepted: float | None = None


@dataclass(frozen=True)
class Outputs:
    """Of each of some videos the logits (clips, classes) and features (clips, C) of its clips."""

    logits: list[torch.Tensor]
    features: list[np.ndarray]

    def scores(self, temperature: float) -> np.ndarray:
        """Softmax scores (videos, classes), averaged over clips as `predict` does."""
        if not self.logits:
            return np.empty((0, 1), dtype=np.float32)
        decision = Decision(temperature=temperature)
        return torch.stack([decision.scores(each).mean(dim=0) for each in self.logits]).numpy()

    def of(self, chosen: np.ndarray) -> "Outputs":
        """Those of some videos, by a mask (videos,)."""
        places = np.flatnonzero(chosen)
        return Outputs([self.logits[n] for n in places], [self.features[n] for n in places])


def calibrate(
    model: VideoClassifier,
    dataset: VideoDataset,
    negatives: Sequence[Path] = (),
    false_alarms: float = 0.05,
    workers: int | None = None,
) -> tuple[VideoClassifier, Calibration, list[Failure]]:
    """The calibrated model, the figures, and the videos that couldn't be read.

    Args:
        model: A model with one label a video; an earlier calibration is dropped.
        dataset: Its validation videos calibrate.
        negatives: Videos that show none of the labels.
        false_alarms: The share of known videos that may be rejected, in (0, 1).
        workers: Processes that read videos; by default one a core.

    Raises:
        UsageError: the model has several labels a video.
        ActionrecError: a label of the data set is unknown to the model, a negative is a video of
            the data set, or there are too few readable videos for so few false alarms.
    """
    if model.config.decision.multi_label:
        raise UsageError(
            f"{model.name} has several labels a video, each with a threshold of its own, and no "
            "label above its threshold already means none of these; calibrate a model with one."
        )
    require_known_classes(model.config.labels, dataset)
    require_apart(negatives, dataset)
    model = uncalibrated(model)
    ready = InferenceModel(model, precision="float32")
    sources = list(dict.fromkeys(video.source for video in dataset.val))
    found, failures = outputs(ready, [*sources, *negatives], workers)
    known = [video for video in dataset.val if video.source in found]
    others = [path for path in negatives if path in found]
    require_enough(known, others, negatives, false_alarms, failures)
    labels = model.config.labels
    truths = np.array([labels.index(dataset.labels[video.label]) for video in known])
    of_known = collected(found, [video.source for video in known])
    of_others = collected(found, others)

    groups = [video.group or str(video.path) for video in known] + list(map(str, others))
    sides = ["known"] * len(known) + ["other"] * len(others)
    folds = np.array(deal_groups(groups, sides, min(FOLDS, len(set(groups)))))
    temperature = best_temperature(of_known, truths)
    held_out = held_out_scores(of_known, truths, folds[: len(known)])
    plain = of_known.scores(1.0)
    confidence, of_negatives = held_out.max(axis=1), of_others.scores(temperature).max(axis=1)
    before = separation(plain.max(axis=1), of_others.scores(1.0).max(axis=1))
    after = separation(confidence, of_negatives)
    row = None
    if others:
        both = Outputs(of_known.logits + of_others.logits, of_known.features + of_others.features)
        is_known = np.arange(len(groups)) < len(known)
        detected, row = detector(both.features, is_known, folds)
        found_apart = separation(detected[is_known], detected[~is_known])
        if found_apart["auroc"] > after["auroc"]:
            confidence, of_negatives, after = detected[is_known], detected[~is_known], found_apart
        else:
            log.warning(
                "A detector fitted to these negatives tells no more than the best score, which "
                "decides alone; more negatives, or more different ones, may help."
            )
            row = None
    least = least_confidence(confidence, false_alarms)
    kept, right = confidence >= least, plain.argmax(axis=1) == truths
    figures = Calibration(
        videos=len(known),
        negatives=len(others),
        temperature=temperature,
        detector=row is not None,
        false_alarms=false_alarms,
        least_confidence=least,
        top1=float(right.mean()),
        top1_kept=float((right & kept).mean()),
        rejected=float(1 - kept.mean()),
        calibration_error=calibration_error(held_out, truths),
        calibration_error_before=calibration_error(plain, truths),
        loss=log_loss(held_out, truths),
        loss_before=log_loss(plain, truths),
        auroc=after.get("auroc"),
        auroc_before=before.get("auroc"),
        fpr95=after.get("fpr95"),
        fpr95_before=before.get("fpr95"),
        accepted=float((of_negatives >= least).mean()) if others else None,
    )
    return with_calibration(model, figures, row), figures, failures


def negatives_in(folder: str | Path) -> list[Path]:
    """The videos in a folder of negatives.

    Raises:
        UsageError: it is no folder, can't be listed, or has no videos.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"--negatives {folder} is no folder; name one with videos.")
    found = find_videos([folder])
    for each in found:
        if isinstance(each, Failure):
            raise UsageError(f"--negatives: {each.error}")
    return [each for each in found if not isinstance(each, Failure)]


def require_apart(negatives: Sequence[Path], dataset: VideoDataset) -> None:
    """Raise ActionrecError if a negative is one of the labelled videos."""
    labelled = {video.path.resolve() for video in dataset.train + dataset.val}
    if same := [path for path in negatives if path.resolve() in labelled]:
        raise ActionrecError(
            f"{same[0]} is among the negatives and has a label in {dataset.name} "
            f"({len(same)} such videos); negatives show none of the labels, so remove it there."
        )


def require_enough(
    known: Sequence[Any],
    others: Sequence[Path],
    negatives: Sequence[Path],
    false_alarms: float,
    failures: Sequence[Failure],
) -> None:
    """Raise ActionrecError where the readable videos are too few to calibrate with."""
    reason = f" ({failures[0].error})" if failures else ""
    fewest = math.ceil(1 / false_alarms) - 1
    if len(known) < max(2, fewest):
        raise ActionrecError(
            f"{len(known)} validation videos are too few{reason}: false alarms of "
            f"{false_alarms:g} need {max(2, fewest)}; add some, or allow more --false-alarms."
        )
    if negatives and len(others) < FOLDS:
        raise ActionrecError(
            f"{len(others)} of {len(negatives)} negatives can be read{reason}, and {FOLDS} are "
            "needed; some dozens of many kinds are better."
        )


def uncalibrated(model: VideoClassifier) -> VideoClassifier:
    """The model without an earlier calibration."""
    plain = VideoClassifier(replace(model.config, decision=Decision()), model.training_record)
    tensors = model.network.state_dict()
    rows = len(model.config.labels)
    head = {name: tensors[name][:rows] for name in ("head.weight", "head.bias")}
    plain.network.load_state_dict(tensors | head)
    plain.name = model.name
    return plain.eval()


def with_calibration(
    model: VideoClassifier, figures: Calibration, row: np.ndarray | None
) -> VideoClassifier:
    """The model with a calibration; `row` (C + 1,) are weights and bias of the detector."""
    decision = Decision(
        temperature=figures.temperature,
        detector=row is not None,
        least_confidence=figures.least_confidence,
    )
    record = {**model.training_record, "calibration": asdict(figures)}
    calibrated = VideoClassifier(replace(model.config, decision=decision), record)
    tensors = model.network.state_dict()
    if row is not None:
        added = torch.from_numpy(row).to(tensors["head.weight"])
        tensors["head.weight"] = torch.cat([tensors["head.weight"], added[None, :-1]])
        tensors["head.bias"] = torch.cat([tensors["head.bias"], added[-1:]])
    calibrated.network.load_state_dict(tensors)
    return calibrated.eval()


def outputs(
    model: InferenceModel, videos: Sequence[VideoSource], workers: int | None
) -> tuple[dict[VideoSource, tuple[torch.Tensor, np.ndarray]], list[Failure]]:
    """Logits and features of the clips of each video, those of `predict`, and the failures."""

    def logits_and_features(clips: torch.Tensor) -> np.ndarray:
        return np.concatenate(model.logits_and_features(clips), axis=1)

    networks = [logits_and_features] * threads_of(model)
    classes = len(model.labels)
    found: dict[VideoSource, tuple[torch.Tensor, np.ndarray]] = {}
    failures = []
    with closing(score_videos(networks, model.clips, videos, workers=workers)) as scored:
        for video, result in track(scored, "scoring videos", len(videos)):
            if isinstance(result, VideoError | WorkerError):
                failures.append(Failure(str(video), str(result)))
            elif isinstance(result, ActionrecError):
                raise result
            else:
                answers = result.answers[:, 0]
                found[video] = torch.from_numpy(answers[:, :classes]), answers[:, classes:]
    return found, failures


def collected(
    found: dict[VideoSource, tuple[torch.Tensor, np.ndarray]], videos: Sequence[VideoSource]
) -> Outputs:
    """The outputs of some videos, in order."""
    return Outputs([found[video][0] for video in videos], [found[video][1] for video in videos])


def best_temperature(outputs: Outputs, truths: np.ndarray) -> float:
    """The temperature with the least loss of the videos' mean scores."""
    limit = math.log(HIGHEST_TEMPERATURE)
    found = minimize_scalar(
        lambda log_temperature: log_loss(outputs.scores(math.exp(log_temperature)), truths),
        bounds=(-limit, limit),
        method="bounded",
    )
    return float(math.exp(found.x))


def held_out_scores(outputs: Outputs, truths: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Scores (videos, classes), each at the temperature that the other folds choose."""
    scores = np.zeros((len(truths), outputs.logits[0].shape[1]), dtype=np.float32)
    for fold in np.unique(folds):
        inside = folds == fold
        chosen = ~inside if not inside.all() else inside
        temperature = best_temperature(outputs.of(chosen), truths[chosen])
        scores[inside] = outputs.of(inside).scores(temperature)
    return scores


def detector(
    features: Sequence[np.ndarray], is_known: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A logistic regression of the clips of known videos against those of negatives.

    Returns the probability (videos,) that each is known, by a detector fitted without its fold, and
    weights and bias (C + 1,) of the one that is fitted to all. Known videos and negatives count
    alike in the probability, whatever their numbers.
    """
    clips = np.concatenate(features)
    video_of_clip = np.repeat(np.arange(len(features)), [len(each) for each in features])
    truth, fold = is_known[video_of_clip].astype(int), folds[video_of_clip]

    def fitted(chosen: np.ndarray, penalty: float) -> np.ndarray:
        weight, bias = logistic_regression(clips[chosen], truth[chosen], 2, penalty)
        prior = math.log(max(1, (truth[chosen] == 1).sum()) / max(1, (truth[chosen] == 0).sum()))
        return np.append((weight[1] - weight[0]).numpy(), float(bias[1] - bias[0]) - prior)

    held_out: list[np.ndarray] = []
    losses = []
    for penalty in track(PENALTIES, "fitting the detector", transient=True):
        logits = np.zeros(len(clips))
        for part in np.unique(folds):
            row = fitted(fold != part, penalty)
            inside = fold == part
            logits[inside] = clips[inside] @ row[:-1] + row[-1]
        signed = np.where(truth == 1, logits, -logits)
        losses.append(np.mean([np.logaddexp(0, -signed[truth == side]).mean() for side in (0, 1)]))
        held_out.append(logits)
    best = int(np.argmin(losses))
    known = 1 / (1 + np.exp(-np.clip(held_out[best], -50, 50)))
    counts = np.bincount(video_of_clip)
    row = fitted(np.ones(len(clips), dtype=bool), PENALTIES[best])
    return np.bincount(video_of_clip, weights=known) / counts, row


def separation(known: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """AUROC of known videos against others by their confidence in [0, 1], and the share of others
    that is accepted where 95 % of the known are; empty without others."""
    if not len(others):
        return {}
    confidence = torch.from_numpy(np.concatenate([known, others]).astype(np.float64))
    truth = torch.cat([torch.ones(len(known)), torch.zeros(len(others))]).long()
    accepted, found, _ = binary_roc(confidence, truth)
    return {
        "auroc": binary_auroc(confidence, truth).item(),
        "fpr95": accepted[found >= 0.95].min().item(),
    }


def least_confidence(confidence: np.ndarray, false_alarms: float) -> float:
    """The threshold below which a known video falls with a probability of at most `false_alarms`.

    The k-th lowest of n confidences, k = floor(false_alarms (n + 1)): of exchangeable videos, the
    next one is lower with a probability of at most k / (n + 1) (Vovk et al. 2005).
    """
    # A hair more, because 0.05 * 20 is to be 1.
    place = math.floor(false_alarms * (len(confidence) + 1) + 1e-9)
    return max(0.0, float(np.sort(confidence)[place - 1]) - MARGIN)


def calibration_error(scores: np.ndarray, truths: np.ndarray) -> float:
    """The expected calibration error of scores (n, classes) (Naeini et al. 2015)."""
    given, right = torch.from_numpy(scores), torch.from_numpy(truths)
    return multiclass_calibration_error(given, right, scores.shape[1], BINS).item()


def log_loss(scores: np.ndarray, truths: np.ndarray) -> float:
    """The mean negative log-likelihood of the true classes by scores (n, classes)."""
    of_truth = np.take_along_axis(scores, truths[:, None], axis=1).astype(np.float64)
    return float(-np.log(np.maximum(of_truth, 1e-12)).mean())
