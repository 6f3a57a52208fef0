"""Top-1 and Top-5 from logits, with confidence intervals.

    python -c "from actionrec.evaluation.accuracy import evaluation_of; \
               from actionrec.evaluation.logits import ClipLogits; \
               print(evaluation_of(ClipLogits.load('logits.safetensors')).clip)"

Clip-level accuracy counts every clip as a test case; video-level accuracy ranks the mean softmax
score of a video's clips. Both are always reported together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from actionrec.errors import Failure
from actionrec.evaluation.logits import ClipLogits
from actionrec.evaluation.several_labels import (
    average_precisions,
    mean_average_precision,
    precision_recall,
)

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and Top-5 in [0, 1] of `n` cases, with intervals [low, high] of 95 % confidence."""

    top1: float
    top5: float
    n: int
    top1_interval: list[float]
    top5_interval: list[float]


@dataclass(frozen=True)
class ClassAccuracy:
    """Top-1 in [0, 1] of the clips and of the videos of one class, and its number of videos."""

    clip_top1: float
    video_top1: float
    videos: int


@dataclass(frozen=True)
class LabelAccuracy(ClassAccuracy):
    """Where a video may have several labels, also the average precision of the videos' scores for
    one, and precision and recall at the model's threshold, None where no video reaches it."""

    average_precision: float
    threshold: float
    precision: float | None
    recall: float


@dataclass(frozen=True)
class Evaluation:
    """The accuracies on a data set; `skipped` are the videos that could not be scored."""

    clip: Accuracy
    video: Accuracy
    per_class: dict[str, ClassAccuracy]
    protocol: dict[str, Any]
    skipped: list[Failure]


@dataclass(frozen=True)
class EvaluationOfSeveralLabels(Evaluation):
    """Where a video may have several labels, Top-1 and Top-5 ask for one of them among the best, of
    the videos that have any. `map` and `clip_map` are the mean average precisions of videos and of
    clips, in [0, 1], over the labels that some video has."""

    map: float
    clip_map: float


def evaluation_of(logits: ClipLogits) -> Evaluation:
    """The accuracies that follow from logits; saved logits give the same to the last digit."""
    if logits.multi_label:
        return evaluation_of_several_labels(logits)
    clip_truths = logits.truths[logits.video_of_clip]
    return Evaluation(
        clip=accuracy(logits.clip_ranks, logits.video_of_clip),
        video=accuracy(logits.video_ranks, np.arange(len(logits.counts))),
        per_class={
            logits.labels[truth]: ClassAccuracy(
                clip_top1=float((logits.clip_ranks[clip_truths == truth] == 0).mean()),
                video_top1=float((logits.video_ranks[logits.truths == truth] == 0).mean()),
                videos=int((logits.truths == truth).sum()),
            )
            for truth in np.unique(logits.truths)
        },
        protocol=logits.protocol,
        skipped=logits.skipped,
    )


def evaluation_of_several_labels(logits: ClipLogits) -> EvaluationOfSeveralLabels:
    """The accuracies where a video may have several labels, or none."""
    truths, scores = logits.truths, logits.video_scores
    of_clip = logits.video_of_clip
    labelled = truths.any(axis=1)
    thresholds = logits.decision.least_scores(len(logits.labels))
    precisions = average_precisions(truths, scores)
    precision, recall = precision_recall(truths, scores, thresholds)
    # Ranks are of the videos and clips that have a label.
    video_truths = truths[labelled]
    ranked = (np.cumsum(labelled) - 1)[of_clip[labelled[of_clip]]]
    clip_truths = video_truths[ranked]
    return EvaluationOfSeveralLabels(
        clip=accuracy(logits.clip_ranks, ranked),
        video=accuracy(logits.video_ranks, np.arange(len(video_truths))),
        per_class={
            logits.labels[label]: LabelAccuracy(
                clip_top1=float((logits.clip_ranks[clip_truths[:, label] == 1] == 0).mean()),
                video_top1=float((logits.video_ranks[video_truths[:, label] == 1] == 0).mean()),
                videos=int(truths[:, label].sum()),
                average_precision=float(precisions[label]),
                threshold=float(thresholds[label]),
                precision=None if np.isnan(precision[label]) else float(precision[label]),
                recall=float(recall[label]),
            )
            for label in np.flatnonzero(truths.any(axis=0))
        },
        protocol=logits.protocol,
        skipped=logits.skipped,
        map=mean_average_precision(precisions),
        clip_map=mean_average_precision(
            average_precisions(truths[of_clip], logits.present_clip_scores)
        ),
    )


def accuracy(ranks: np.ndarray, videos: np.ndarray) -> Accuracy:
    """Top-1 and Top-5 from the ranks (n,) of the true classes.

    `videos` (n,) has the index of the video of each case. The clips of a video are alike, so the
    bootstrap resamples whole videos with all their cases; the intervals are percentiles (Efron &
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). They cover the choice of
    videos, not the luck of training; if all cases are right, or all wrong, they have no width.
    """
    in_top1, in_top5 = ranks < 1, ranks < 5
    cases = np.stack([np.ones_like(in_top1), in_top1, in_top5])
    per_video = np.stack([np.bincount(videos, weights=row) for row in cases], axis=1)
    n, top1, top5 = resampled_sums(per_video).T
    return Accuracy(
        top1=float(in_top1.mean()),
        top5=float(in_top5.mean()),
        n=len(ranks),
        top1_interval=np.percentile(top1 / n, INTERVAL).tolist(),
        top5_interval=np.percentile(top5 / n, INTERVAL).tolist(),
    )


def resampled_sums(per_video: np.ndarray, resamples: int = RESAMPLES) -> np.ndarray:
    """Bootstrap sums (resamples, k) of the rows of `per_video` (videos, k), drawn with
    replacement; every call makes the same draws."""
    generator = np.random.default_rng(0)
    videos = len(per_video)
    # One draw at a time: all at once would take gigabytes for Kinetics.
    draws = (generator.integers(videos, size=videos) for _ in range(resamples))
    return np.stack([np.bincount(draw, minlength=videos) @ per_video for draw in draws])
