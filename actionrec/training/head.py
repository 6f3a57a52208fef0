"""The head of a network fitted to its frozen features, in seconds and without a learning rate.

    actionrec train --dataset folder --root my_videos --train-from head

The features of three clips of each video are computed once and kept in the cache folder. The head
is a multinomial logistic regression or, where a video may have several labels, one for each label;
cross-validation over the training videos chooses the strength of its L2 penalty, with all videos of
a group on one side.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.nn import functional as F

from actionrec.config import TrainConfig
from actionrec.datasets.check import FileState
from actionrec.datasets.dataset import LabelledVideo, VideoDataset, deal_groups
from actionrec.errors import ActionrecError, Failure, VideoError
from actionrec.evaluation.logits import ranks
from actionrec.evaluation.several_labels import average_precisions, multi_hot
from actionrec.files import cache_folder, replacing
from actionrec.models.classifier import VideoClassifier
from actionrec.models.complexity import trained_parts
from actionrec.models.inference import InferenceModel
from actionrec.models.shared_batches import score_videos, threads_of
from actionrec.processes import WorkerError
from actionrec.progress import track
from actionrec.training.figures import CrossValidation, EpochFigures, mean_class_accuracy
from actionrec.training.module import (
    binary_cross_entropy,
    precision_figures,
    with_thresholds,
    write_json,
)
from actionrec.training.report import write_training_report
from actionrec.video.parts import VideoSegment, VideoSource, path_of
from actionrec.video.pictures import frame_rate

log = logging.getLogger(__name__)

CLIPS = 3
FOLDS = 5
# Weights of the penalty for standardised features.
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003)
# A head that fine-tuning starts from must not be as sure as the best one alone: with a penalty of
# 0.0001 the mean loss of the first epoch, with dropout, was 12.6 on Weizmann.
LEAST_PENALTY_TO_START = 0.003
SAVE_EVERY = 200  # videos


@dataclass(frozen=True)
class ClipFeatures:
    """Features (n, C) of clips, and the position (n,) of each clip's video in a list of videos."""

    values: np.ndarray
    videos: np.ndarray


def fit_head(
    model: VideoClassifier,
    config: TrainConfig,
    videos: Sequence[LabelledVideo],
    least_penalty: float = 0.0,
) -> tuple[ClipFeatures, list[Failure], CrossValidation | None]:
    """Fit the head of `model`, in place, to the features of training videos.

    Returns the features, the unreadable videos, and the cross-validation that chose the penalty;
    None where there was none, and the penalty is the middle one of `PENALTIES`.

    Raises:
        ActionrecError: no video could be read.
    """
    features, failures = clip_features(model, config, videos)
    if failures and not len(features.videos):
        raise ActionrecError(f"Not one training video could be read: {failures[0].error}")
    head = model.network.head
    labels = labels_of(videos, head.out_features)[features.videos]
    found = cross_validate(features, videos, head.out_features)
    if found:
        penalty = found.penalties[found.best]
        log.info(f"head fitted to frozen features; {found.sentence()}")
    else:
        penalty = PENALTIES[len(PENALTIES) // 2]
        log.warning(
            "Fewer than two groups can be judged, so the head is fitted without cross-validation."
        )
    if penalty < least_penalty:
        penalty = least_penalty
        log.info("training starts from a head of the penalty %g, which is less sure", penalty)
    weight, bias = logistic_regression(features.values, labels, head.out_features, penalty)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return features, failures, found


def cross_validate(
    features: ClipFeatures, videos: Sequence[LabelledVideo], classes: int
) -> CrossValidation | None:
    """Try all penalties on parts of the videos; None where fewer than two groups can be judged.

    Videos of an unknown group could be of any recording: if other groups are known, they are
    fitted to and never judged.
    """
    grouped = any(video.group is not None for video in videos)
    groups = [video.group if grouped else str(position) for position, video in enumerate(videos)]
    labels = labels_of(videos, classes)
    has_label = labels.any(axis=1) if labels.ndim == 2 else np.ones(len(labels), dtype=bool)
    # An unreadable video would be a part with nothing in it.
    readable = np.unique(features.videos)
    known = [groups[video] for video in readable]
    folds = min(FOLDS, len(set(known) - {None}))
    if folds < 2:
        return None
    combinations = [str(videos[video].all_labels) for video in readable]
    fold_of_video = np.full(len(videos), -1)
    fold_of_video[readable] = deal_groups(known, combinations, folds)
    fold, truth = fold_of_video[features.videos], labels[features.videos]
    losses = np.zeros(len(PENALTIES))
    hits = np.zeros(len(PENALTIES))
    judged_clips = int(np.sum(fold >= 0))
    of_judged = np.unique(features.videos[fold >= 0])
    of_judged = of_judged[has_label[of_judged]]
    if not len(of_judged):
        return None
    for part in track(range(folds), "fitting the head", transient=True):
        fitted, held_out = fold != part, fold == part
        if not held_out.any():
            continue
        start = None
        for index, penalty in enumerate(PENALTIES):
            weight, bias = start = logistic_regression(
                features.values[fitted], truth[fitted], classes, penalty, start
            )
            logits = torch.from_numpy(features.values[held_out]).double() @ weight.T + bias
            of = features.videos[held_out]
            losses[index] += mean_loss(logits, truth[held_out]).item() * len(of)
            scores = (logits.softmax(dim=1) if labels.ndim == 1 else logits.sigmoid()).numpy()
            for video in np.unique(of[has_label[of]]):
                best = scores[of == video].mean(axis=0).argmax()
                hits[index] += labels[video, best] if labels.ndim == 2 else best == labels[video]
    return CrossValidation(
        PENALTIES,
        tuple((losses / judged_clips).tolist()),
        tuple((hits / len(of_judged)).tolist()),
        len(of_judged),
        folds,
        grouped,
        float(frequencies(labels[of_judged]).max() / len(of_judged)),
    )


def labels_of(videos: Sequence[LabelledVideo], classes: int) -> np.ndarray:
    """The labels of videos: integers (n,) or, where a video may have several, 0 and 1 as float64
    (n, classes)."""
    if any(video.labels is None for video in videos):
        return np.array([video.label for video in videos])
    return multi_hot([video.labels for video in videos], classes).astype(np.float64)


def frequencies(labels: np.ndarray) -> np.ndarray:
    """The number of videos of each class; the labels are those of `labels_of`."""
    return labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels)


def mean_loss(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """The mean loss of clips, as in training; the labels are those of `labels_of`."""
    loss = binary_cross_entropy if labels.ndim == 2 else F.cross_entropy
    return loss(logits, torch.from_numpy(labels))


def logistic_regression(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    penalty: float,
    start: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (classes, C) and bias (classes,), float64, of a multinomial logistic regression, or
    with labels (n, classes), 0 and 1, of one for each class.

    The minimum of mean loss (see `mean_loss`) + penalty / 2 * ||weights||^2, where the weights are
    those of features with mean 0 and variance 1 / C; found by L-BFGS from `start`, or from 0.
    """
    x = torch.from_numpy(features).double()
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0) * x.shape[1] ** 0.5
    # A feature that never changes tells nothing.
    scale = torch.where(scale > 1e-8, scale, torch.inf)
    x = (x - mean) / scale
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64)
    bias = torch.zeros(classes, dtype=torch.float64)
    if start is not None:
        weight = torch.where(scale.isinf(), 0, start[0] * scale)
        bias = start[1] + start[0] @ mean
    weight.requires_grad_()
    bias.requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        solver.zero_grad()
        loss = mean_loss(x @ weight.T + bias, labels) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(objective)
    weight = weight.detach() / scale
    return weight, bias.detach() - weight @ mean


@dataclass
class FeatureCache:
    """Features of videos in a file of the cache folder, by file, its size and modification time.

    The file's `name` stands for the weights, sampling, preprocessing and precision: other settings
    have another file. Nothing is lost but time where it can't be read or written.
    """

    name: str
    known: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Raises ActionrecError where the user has no home folder."""
        return cache_folder() / "features" / self.name

    @classmethod
    def of(cls, model: InferenceModel) -> "FeatureCache":
        """The features that are known for a model."""
        sha256 = hashlib.sha256()
        for name, tensor in sorted(model.network.state_dict().items()):
            if not name.startswith("head."):
                sha256.update(name.encode())
                sha256.update(tensor.cpu().float().numpy().tobytes())
        config = asdict(model.config)
        settings = config["sampling"], config["preprocessing"], model.precision, CLIPS
        sha256.update(repr(settings).encode())
        cache = cls(f"{sha256.hexdigest()[:32]}.safetensors")
        cache.load()
        return cache

    @staticmethod
    def key(video: VideoSource) -> str:
        """The name of a video's features in the file."""
        path = path_of(video)
        part = (video.start, video.end) if isinstance(video, VideoSegment) else ()
        # The rate of folders of frames is a setting, and chooses the frames of a clip.
        rate = (frame_rate(),) if isinstance(path, Path) and path.is_dir() else ()
        return repr((str(path.absolute()), *FileState.of(path), *part, *rate))

    def load(self) -> None:
        """Add the features that are in the file."""
        with suppress(OSError, SafetensorError, ActionrecError):
            self.known = load_file(self.path) | self.known

    def save(self) -> None:
        """Write the file, with the features that another process has added meanwhile."""
        self.load()
        try:
            with replacing(self.path) as temporary:
                save_file(self.known, temporary)
        except (ActionrecError, SafetensorError) as error:
            log.warning("Features are not kept for the next time: %s", error)


def clip_features(
    model: VideoClassifier, config: TrainConfig, videos: Sequence[LabelledVideo]
) -> tuple[ClipFeatures, list[Failure]]:
    """Features of up to three clips of each video, evenly spread, and the unreadable videos.

    New nonlocal blocks add nothing yet and are left out.

    Raises:
        ActionrecError: a reading process fails.
    """
    ready = InferenceModel(model, precision=config.precision, decoder=config.decoder)
    for name, block in model.network.blocks.items():
        if not any(values.any() for unit in block.units for values in unit.norm.parameters()):
            del ready.network.blocks[name]
    cache = FeatureCache.of(ready)
    keys = [cache.key(video.source) for video in videos]
    # A segment with two labels is there twice.
    missing = {
        video.source: key for video, key in zip(videos, keys, strict=True) if key not in cache.known
    }
    failures = []
    if missing:
        networks = [ready.clip_features] * threads_of(ready)
        scored = score_videos(
            networks, ready.clips, list(missing), CLIPS, workers=max(1, config.workers)
        )
        with closing(scored):
            results = track(scored, "computing features", len(missing))
            for count, (source, result) in enumerate(results, 1):
                if isinstance(result, VideoError | WorkerError):
                    failures.append(Failure(str(source), str(result)))
                elif isinstance(result, ActionrecError):
                    raise result
                else:
                    cache.known[missing[source]] = result.answers[:, 0]
                if count % SAVE_EVERY == 0 or count == len(missing):
                    cache.save()
        order = [str(source) for source in missing]
        failures.sort(key=lambda failure: order.index(failure.video))
    found = [
        (position, cache.known[key]) for position, key in enumerate(keys) if key in cache.known
    ]
    if not found:
        return ClipFeatures(np.empty((0, 0), np.float32), np.empty(0, np.int64)), failures
    return ClipFeatures(
        np.concatenate([values for _, values in found]),
        np.concatenate([np.full(len(values), index) for index, values in found]),
    ), failures


def train_head(
    model: VideoClassifier,
    config: TrainConfig,
    dataset: VideoDataset,
    damaged: Sequence[Failure],
    output: Path,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Fit the head of `model` and write the files of a run into the folder `output`.

    Returns the figures of `results.json`, and the unreadable videos with their reasons.

    Raises:
        ActionrecError: too many videos are unreadable, or a file can't be written.
    """
    train, failed, found = fit_head(model, config, dataset.train)
    val, failed_val = clip_features(model, config, dataset.val)
    unreadable = [*damaged, *failed, *failed_val]
    if unreadable:
        write_json(output / "bad_videos.json", [asdict(failure) for failure in unreadable])
    if len(failed) > config.max_bad * len(dataset.train):
        raise ActionrecError(
            f"{len(failed)} of {len(dataset.train)} training videos could not be read, more than "
            f"the {config.max_bad:.1%} that --max-bad allows; {output / 'bad_videos.json'} lists "
            "them and the reasons."
        )
    if not len(val.videos):
        raise ActionrecError(
            "Not one validation video could be read; see "
            f"{output / 'bad_videos.json'} for the reasons."
        )
    head = model.network.head
    _, train_logits, train_truths = middle_clips(head, train, dataset.train)
    positions, logits, truths = middle_clips(head, val, dataset.val)
    scores = model.config.decision.scores(logits).numpy()
    if config.multi_label:
        model.config = with_thresholds(model.config, truths, scores)
    rank = ranks(scores, truths)
    predictions = scores if config.multi_label else scores.argmax(axis=1)
    clip = {
        "top1": round(float((rank < 1).mean()), 6),
        "top5": round(float((rank < 5).mean()), 6),
        "n": len(positions),
    }
    if config.multi_label:
        clip |= precision_figures(dataset.labels, average_precisions(truths, scores))
    else:
        clip["mean_class"] = mean_class_accuracy(truths, predictions)
    result = {"epoch": 1, "clip": clip}
    results = {"best": result, "last": result, "cross_validation": found and asdict(found)}
    model.training_record = {"config": asdict(config), "result": result}
    model.save(output / "last.safetensors")
    model.save(output / "model.safetensors")
    write_json(output / "results.json", results)
    figures = EpochFigures(
        epoch=1,
        train_loss=mean_loss(train_logits, train_truths).item(),
        train_top1=float((ranks(train_logits.numpy(), train_truths) < 1).mean()),
        val_loss=mean_loss(logits, truths).item(),
        val_top1=clip["top1"],
        val_top5=clip["top5"],
        learning_rate=0.0,
        data_wait=0.0,
        val_map=clip.get("map"),
    )
    write_training_report(
        output,
        [figures],
        truths,
        predictions,
        dataset.labels,
        trained_parts(model.network),
        found,
        None if config.multi_label else dataset.train_counts(),
    )
    return results, {failure.video: failure.error for failure in unreadable}


def middle_clips(
    head: nn.Linear, features: ClipFeatures, videos: Sequence[LabelledVideo]
) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Positions (n,) of the videos with features, logits (n, classes) of their middle clips, and
    their labels (see `labels_of`)."""
    positions, first, counts = np.unique(features.videos, return_index=True, return_counts=True)
    middle = torch.from_numpy(features.values[first + counts // 2])
    with torch.no_grad():
        logits = head(middle)
    return positions, logits, labels_of(videos, head.out_features)[positions]
