"""What the figures of a training run show, in sentences: problems, and what may help.

    actionrec train --dataset folder --root my_videos

ends with such sentences in `report.html`, and those on nonlocal blocks in the log too.
"""

from collections.abc import Sequence

import numpy as np

from actionrec.config import TrainConfig
from actionrec.datasets.dataset import abridged
from actionrec.evaluation.several_labels import average_precisions
from actionrec.training.figures import EpochFigures, wilson_interval

MOST_NAMED = 5

# Thresholds of the diagnosis, which should rather miss a problem than invent one.
MUCH_WAITING = 0.2  # of the time
WIDE_GAP = 0.25  # between training and validation Top-1
DIVERGED = 1.5, 0.2  # factor of the lowest training loss, and margin above that
ASLEEP = 0.02  # of its input; a measured term of 7 % mattered: see docs/blocks.md
RISEN = 1.1, 0.05  # factor of the lowest validation loss, and margin above that
UNBALANCED = 10  # times as many training videos in the largest class as in the smallest
SETTLED = 3  # epochs that must all have risen, since validation loss is noisy


def diagnose(
    epochs: Sequence[EpochFigures],
    truths: np.ndarray,
    predictions: np.ndarray,
    labels: Sequence[str],
    videos: Sequence[int] | None,
    config: TrainConfig,
) -> list[str]:
    """All sentences on a run; the arguments are those of `report.write_training_report`."""
    of_labels = diagnose_labels if truths.ndim == 2 else diagnose_classes
    sentences = of_labels(truths, predictions, labels)
    if config.train_from != "head":
        sentences = diagnose_curves(epochs) + diagnose_blocks(epochs) + sentences
    return sentences + (diagnose_balance(videos, labels, config) if videos else [])


def diagnose_curves(epochs: Sequence[EpochFigures]) -> list[str]:
    """Sentences on problems that the epochs show: divergence, over-fitting, too short a run,
    waiting for data."""
    last = epochs[-1]
    sentences = []
    lowest = min(epochs, key=lambda each: each.train_loss)
    factor, margin = DIVERGED
    if last.train_loss > factor * lowest.train_loss + margin:
        sentences.append(
            f"Training loss diverges: it was lowest in epoch {lowest.epoch} "
            f"({lowest.train_loss:.2f}) and is {last.train_loss:.2f} now; try a smaller --lr, "
            "--warmup or --clip-gradient."
        )
    lowest = min(epochs, key=lambda each: each.val_loss)
    factor, margin = RISEN
    recent = min(each.val_loss for each in epochs[-SETTLED:])
    gap = last.train_top1 - last.val_top1
    if last.train_loss < lowest.train_loss and recent > factor * lowest.val_loss + margin:
        sentences.append(
            f"Validation loss was lowest in epoch {lowest.epoch} ({lowest.val_loss:.2f}) and is "
            f"{last.val_loss:.2f} now, while training loss fell from {lowest.train_loss:.2f} to "
            f"{last.train_loss:.2f}, a sign of over-fitting: fewer epochs, --augment, "
            "--label-smoothing or more videos may help."
        )
    elif gap >= WIDE_GAP:
        sentences.append(
            f"Training Top-1 ({last.train_top1:.1%}) is {100 * gap:.0f} points above validation "
            f"Top-1 ({last.val_top1:.1%}), a sign of over-fitting: --augment, --train-from or more "
            "videos may help."
        )
    # Of epochs that are equal the first is the best, as in results.json.
    name, figure = ("Top-1", "val_top1") if last.val_map is None else ("mAP", "val_map")
    best = max(epochs, key=lambda each: getattr(each, figure))
    if len(epochs) > SETTLED and best is last and lowest is last:
        sentences.append(
            f"The last epoch is the best in {name} and in loss: longer training (--epochs) may "
            "help."
        )
    waiting = float(np.median([each.data_wait for each in epochs]))
    if waiting >= MUCH_WAITING:
        sentences.append(
            f"Training waited for data {waiting:.0%} of the time (median over epochs): more "
            "--workers or `actionrec data shrink` make it faster."
        )
    return sentences


def diagnose_blocks(epochs: Sequence[EpochFigures]) -> list[str]:
    """Sentences on nonlocal blocks that sleep, and on those that overwhelm their input."""
    sentences = []
    for name, block in epochs[-1].blocks.items():
        if block.term < ASLEEP:
            sentences.append(
                f"The nonlocal block before {name} sleeps: it adds {block.term:.2%} of its input "
                "(norm), and the network hardly differs from one with --block none; more epochs or "
                "a higher --lr-new may wake it, if the classes need it."
            )
        elif not block.term <= 1:
            sentences.append(
                f"The nonlocal block before {name} overwhelms its input: what it adds is "
                f"{block.term:.1f} times as large (norm), and pretrained layers behind it see "
                "features that they don't know; try a smaller --lr-new, a --warmup or a "
                "--clip-gradient."
            )
    return sentences


def diagnose_classes(
    truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]
) -> list[str]:
    """Sentences on accuracy at chance level, a class predicted too often, classes that are never
    right, and classes without a video."""
    n, correct = len(truths), truths == predictions
    videos, predicted, hits = (
        np.bincount(classes, minlength=len(labels))
        for classes in (truths, predictions, truths[correct])
    )
    sentences = []
    if wilson_interval(int(correct.sum()), n)[0] <= videos.max() / n:
        sentences.append(
            f"Top-1 of the last epoch, {correct.mean():.1%} of {counted(n, 'video')}, is not "
            f"clearly above the {videos.max() / n:.1%} of always predicting the most frequent "
            "class."
        )
    favourite = int(predicted.argmax())
    if predicted[favourite] >= max(n / 2, 2 * videos[favourite]):
        sentences.append(
            f"{predicted[favourite]} of {counted(n, 'video')} were predicted as "
            f"{labels[favourite]}; only {videos[favourite]} are."
        )
    for chosen, total, problem in (
        ((videos > 0) & (hits == 0), int(np.sum(videos > 0)), "never right"),
        (videos == 0, len(labels), "without a validation video"),
    ):
        names = [labels[index] for index in np.flatnonzero(chosen)]
        if names:
            sentences.append(
                f"{len(names)} of {counted(total, 'class', 'classes')} {problem}: "
                f"{abridged(names, MOST_NAMED)}."
            )
    return sentences


def diagnose_labels(truths: np.ndarray, scores: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Sentences on labels that score no better than chance, and on those without a video."""
    precisions, shares = average_precisions(truths, scores), truths.mean(axis=0)
    sentences = []
    for chosen, problem in (
        (precisions <= shares, "with an average precision no higher than by chance"),
        (shares == 0, "without a validation video, so that their threshold is 0.5 unseen"),
    ):
        names = [labels[index] for index in np.flatnonzero(chosen)]
        if names:
            sentences.append(
                f"{len(names)} of {counted(len(labels), 'label')} {problem}: "
                f"{abridged(names, MOST_NAMED)}."
            )
    return sentences


def diagnose_balance(
    videos: Sequence[int], labels: Sequence[str], config: TrainConfig
) -> list[str]:
    """A sentence on unbalanced classes for which nothing was done."""
    present = [index for index, number in enumerate(videos) if number]
    fewest, most = min(present, key=videos.__getitem__), max(present, key=videos.__getitem__)
    if balance_sentence(config) or videos[most] <= UNBALANCED * videos[fewest]:
        return []
    head = "a training of more than the head with " if config.train_from == "head" else ""
    return [
        f"The classes are unbalanced: {labels[most]} has {videos[most]:,} training videos, "
        f"{labels[fewest]} {videos[fewest]:,}, and nothing was done about it; {head}"
        "--balanced-sampling true, --class-weights inverse or --focal-gamma 2 may help the classes "
        "with few videos, which mean class accuracy shows and Top-1 may not."
    ]


def balance_sentence(config: TrainConfig) -> str:
    """What was done for classes with few videos, as a sentence; "" for nothing."""
    weights = config.class_weights
    done = []
    if config.balanced_sampling:
        done.append("clips of every class are drawn equally often")
    if weights != "none":
        kind = weights if isinstance(weights, str) else "given"
        done.append(f"the loss has {kind} weights of the classes")
    if config.focal_gamma:
        done.append(f"the loss is focal, with gamma {config.focal_gamma:g}")
    if done and (weights != "none" or config.focal_gamma):
        done.append("validation loss is neither weighted nor focal")
    sentence = "; ".join(done)
    return sentence and f"{sentence[0].upper()}{sentence[1:]}."


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
