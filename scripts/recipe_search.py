"""Searches for the settings of a fine-tuning on few videos, each trial cheap enough for two cores.

    python scripts/recipe_search.py --dataset csv --root my_videos.csv --split 1 2 3 4 5 \\
        --candidate train_from=stage5,lr=0.005 --candidate train_from=stage4,lr=0.01,ema=0

The network is frozen up to the stage train_from. What enters this stage is therefore computed once:
of three evaluation clips of each video, and of --draws random clips of each training video. Every
candidate trains the rest from these, on every split, with the optimiser, schedule and average of
`actionrec train`. A candidate is any of train_from, fit_head, lr, lr_new, warmup, epochs, ema,
batch_size and seed; the others are those of the recipe small, but stage4 for train_from, and so are
clips and rates that no flag says. With --split group each group of a CSV file is left out once.

A table is printed: video-level Top-1 of the last epoch in percent, mean over the splits, and its
spread, largest minus smallest mean, over the last third of the epochs. With --results FILE.csv each
candidate is a row of that file.

Limits: an epoch draws one of the --draws clips, so that clips repeat where `actionrec train` always
draws a new one; there is no augmentation but crops and flips; batch norm stays frozen. The inputs
stay in memory, 0.5 GB for 226 videos and five draws, and are gone at the end: one call with many
candidates reads the videos once. Settings that were chosen by the validation videos look better on
them than on others.
"""

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measurements
import numpy as np
import torch
from table7 import GROUP, config_of, division_of, lists_by_group, markdown_table, origin
from torch.nn import functional as F

from actionrec.config import TrainConfig
from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.datasets.registry import open_dataset
from actionrec.devices import fastest_device
from actionrec.errors import ActionrecError, UsageError, VideoError
from actionrec.models.backbone import Backbone
from actionrec.models.classifier import VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.progress import track
from actionrec.training.block_activity import BlockFigures
from actionrec.training.head import (
    LEAST_PENALTY_TO_START,
    ClipFeatures,
    cross_validate,
    logistic_regression,
)
from actionrec.training.module import Training
from actionrec.training.precision import sound_gradients
from actionrec.training.run import build_classifier, resolve
from actionrec.video.parts import VideoSource

SEARCHED = ("train_from", "fit_head", "lr", "lr_new", "warmup", "epochs", "ema")
SEARCHED += ("batch_size", "seed")
# Of all candidates of a call, as for `actionrec train`.
SHARED = ("backbone", "weights", "clip_length", "stride", "fps", "short_side", "crop", "gamma")
EVALUATION_CLIPS = 3
# Of candidates that say nothing else; of a network that is trained whole, nothing can be stored.
FIRST_TRAINED = "stage4"
# In place of the name of the first trained unit, where only the head is trained.
END = "head"


# What the candidates share.


@dataclass(frozen=True)
class VideoInputs:
    """A video as what enters the first trained unit of the candidates, (n, C, T, H, W), by its
    name; the last feature map by END.

    Attributes:
        clips: Of evenly spread clips.
        draws: Of random training clips; empty where it never trains.
        features: Of the evenly spread clips, after the last stage, (n, C).
    """

    clips: dict[str, torch.Tensor]
    draws: dict[str, torch.Tensor]
    features: np.ndarray


@dataclass(frozen=True)
class Epoch:
    """What a network answered after an epoch, in percent, and what its blocks did in it."""

    clip_top1: float
    video_top1: float
    blocks: dict[str, BlockFigures]


@dataclass(frozen=True)
class Head:
    """A head fitted to the features of a split's training videos."""

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float


def open_splits(
    dataset: str, root: str | None, splits: Sequence[str], folder: Path
) -> dict[str, VideoDataset]:
    """The splits by name; lists of the groups of a CSV file are written into `folder`.

    Raises:
        UsageError, ActionrecError: as `open_dataset`.
    """
    if list(splits) == [GROUP]:
        lists = lists_by_group(TrainConfig(dataset, root), folder)
        return {group: open_dataset(dataset, listing) for group, listing in lists.items()}
    return {split: open_dataset(dataset, root, split) for split in splits}


def compute_inputs(
    model: VideoClassifier,
    config: TrainConfig,
    starts: Collection[str],
    splits: Mapping[str, VideoDataset],
    draws: int,
) -> dict[VideoSource, VideoInputs]:
    """What enters the units `starts`, of all videos of the splits; unreadable ones are left out.

    `model` has no blocks.
    """
    ready = InferenceModel(model, precision=config.precision)
    datasets = list(splits.values())
    training = {video.source for dataset in datasets for video in dataset.train}
    judged = {video.source for dataset in datasets for video in dataset.val}
    sources = sorted(training | judged, key=str)
    inputs = {}
    for index, source in enumerate(track(sources, "computing inputs of stages", len(sources))):
        seeds = [(draw, index) for draw in range(draws if source in training else 0)]
        try:
            clips = ready.clips.read(source, EVALUATION_CLIPS).pixels
            random = [
                ready.clips.random(source, np.random.default_rng(seed), None, datasets[0].flip)
                for seed in seeds
            ]
        except VideoError as error:
            say(f"left out: {error}")
            continue
        of_clips, features = pass_through(ready, clips, starts)
        of_draws, _ = pass_through(ready, torch.stack(random), starts) if random else ({}, None)
        inputs[source] = VideoInputs(of_clips, of_draws, features)
    return inputs


@torch.no_grad()
def pass_through(
    ready: InferenceModel, clips: torch.Tensor, starts: Collection[str]
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """What enters some units, by their names, and the features at the end."""
    x = ready.model.pixels(clips.to(ready.device))
    found = {}
    for name, unit in ready.network.units.named_children():
        if name in starts:
            found[name] = x.cpu()
        x = unit(x)
    if END in starts:
        found[END] = x.cpu()
    return found, ready.network.pool(x.float()).cpu().numpy()


def fit_head(dataset: VideoDataset, inputs: Mapping[VideoSource, VideoInputs]) -> Head:
    """The head that `actionrec train --fit-head true` starts from."""
    values = [inputs[video.source].features for video in dataset.train]
    positions = np.repeat(np.arange(len(values)), [len(clips) for clips in values])
    features = ClipFeatures(np.concatenate(values), positions)
    labels = np.array([video.label for video in dataset.train])[positions]
    classes = len(dataset.labels)
    found = cross_validate(features, dataset.train, classes)
    penalty = max(LEAST_PENALTY_TO_START, found.penalties[found.best] if found else 0)
    return Head(*logistic_regression(features.values, labels, classes, penalty), penalty)


# A candidate.


def train_split(
    config: TrainConfig,
    dataset: VideoDataset,
    inputs: Mapping[VideoSource, VideoInputs],
    head: Head | None,
) -> list[Epoch]:
    """The epochs of a training from the inputs of its first trained unit.

    Raises:
        ActionrecError: the training diverges.
    """
    torch.manual_seed(config.seed)
    model = build_classifier(config, dataset.labels)
    return train(model, config, dataset, inputs, head)


def train(
    model: VideoClassifier,
    config: TrainConfig,
    dataset: VideoDataset,
    inputs: Mapping[VideoSource, VideoInputs],
    head: Head | None,
) -> list[Epoch]:
    """As `train_split`, of a network that is built already."""
    generator = np.random.default_rng(config.seed)
    model = model.to(fastest_device()).eval()
    network, device = model.network, model.device
    start = first_trained(network, config.train_from)
    keep_from(network, start)
    if head:
        with torch.no_grad():
            network.head.weight.copy_(head.weight)
            network.head.bias.copy_(head.bias)
    training = Training(model, config, Path(), len(dataset.train))
    optimisation = training.configure_optimizers()
    optimizer, scheduler = optimisation["optimizer"], optimisation["lr_scheduler"]
    size = min(config.batch_size, len(dataset.train))
    epochs = []
    for epoch in range(1, config.epochs + 1):
        # The norms of the backbone stay frozen.
        network.dropout.train()
        network.blocks.train()
        order = generator.permutation(len(dataset.train))
        for batch in order[: len(order) // size * size].reshape(-1, size):
            videos = [dataset.train[index] for index in batch]
            drawn = [inputs[video.source].draws[start] for video in videos]
            clips = torch.stack([clips[generator.integers(len(clips))] for clips in drawn])
            clips = clips.to(device, memory_format=torch.channels_last_3d)
            labels = torch.tensor([video.label for video in videos], device=device)
            with autocast(config, device), sound_gradients(device):
                loss = F.cross_entropy(network(clips), labels)
            if not torch.isfinite(loss):
                raise ActionrecError(
                    f"the loss is {loss.item()} in epoch {epoch}; try a smaller lr or a longer "
                    "warmup."
                )
            optimizer.zero_grad()
            loss.backward()
            training.activity.note_gradients(network)
            optimizer.step()
            if training.average:
                training.average.update_parameters(model)
        scheduler.step()
        network.eval()
        with autocast(config, device):
            of_clips, of_videos = top1(training.evaluated_model, dataset.val, inputs, start)
        blocks = training.activity.end_epoch(training.evaluated_model.network)
        epochs.append(Epoch(of_clips, of_videos, blocks))
    return epochs


def keep_from(network: Backbone, start: str) -> None:
    """Remove the units before `start`, so that the network takes what enters it."""
    for name, _ in list(network.units.named_children()):
        if name == start:
            break
        delattr(network.units, name)


def first_trained(network: Backbone, train_from: str) -> str:
    """The first unit that is trained, or that a block which is trained stands before; or END.

    Raises:
        UsageError: the network has no such stage.
    """
    units = [name for name, _ in network.units.named_children()]
    places = [units.index(name) for name in network.blocks]
    if train_from != "block":
        places.append(units.index(network.units_of(int(train_from.removeprefix("stage")))[0]))
    return units[min(places)] if places else END


@torch.inference_mode()
def top1(
    model: VideoClassifier,
    videos: Sequence[LabelledVideo],
    inputs: Mapping[VideoSource, VideoInputs],
    start: str,
) -> tuple[float, float]:
    """Top-1 in percent of clips, and of videos by the mean softmax score of their clips."""
    hits, clips, right = 0, 0, 0
    for video in videos:
        logits = model.network(inputs[video.source].clips[start].to(model.device)).float()
        hits += int((logits.argmax(dim=1) == video.label).sum())
        clips += len(logits)
        right += int(logits.softmax(dim=1).mean(dim=0).argmax() == video.label)
    return 100 * hits / clips, 100 * right / len(videos)


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def figures(runs: Sequence[Sequence[Epoch]]) -> dict[str, Any]:
    """Of one run a split: the last epoch's mean, and how much the mean moves at the end."""
    curve = np.mean([[epoch.video_top1 for epoch in epochs] for epochs in runs], axis=0)
    last_third = curve[-max(1, len(curve) // 3) :]
    return {
        "video_top1": round(float(curve[-1]), 1),
        "spread": round(float(np.ptp(last_third)), 1),
        "curve": " ".join(f"{value:.1f}" for value in curve),
    }


# The command line.


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="recipe_search.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("dataset", "root", *SHARED):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, required=name == "dataset", help="as for `actionrec train`")
    parser.add_argument(
        "--split", nargs="+", default=["1"], metavar="S", help=f"several, such as 1 2 3; or {GROUP}"
    )
    parser.add_argument("--draws", type=int, default=6, help="random clips of a training video")
    parser.add_argument(
        "--candidate",
        action="append",
        required=True,
        metavar="NAME=VALUE,...",
        help="settings to try; can be given several times",
    )
    parser.add_argument("--results", type=Path, metavar="FILE.csv", help="append a row a candidate")
    arguments = parser.parse_args(words)
    if arguments.draws < 1:
        parser.error("--draws must be at least 1")
    return arguments


def settings_of(
    candidate: str,
    shared: Sequence[str],
    dataset: VideoDataset,
    names: Collection[str] = SEARCHED,
) -> TrainConfig:
    """The complete settings of a candidate such as lr=0.005,epochs=16, of settings in `names`.

    Raises:
        UsageError: it holds anything else, or settings that don't fit each other.
    """
    words = ["--recipe", "small", "--train_from", FIRST_TRAINED, *shared]
    for setting in candidate.split(","):
        name, _, value = setting.partition("=")
        if name not in names or not value:
            raise UsageError(
                f"{setting!r} in --candidate {candidate} is not NAME=VALUE with a name among "
                f"{', '.join(names)}."
            )
        words += [f"--{name}", value]
    return resolve(config_of(words), dataset)


def search(arguments: argparse.Namespace, splits: Mapping[str, VideoDataset]) -> int:
    """Try every candidate, and print the table; returns the exit code."""
    first = next(iter(splits.values()))
    given = {name: getattr(arguments, name) for name in ("dataset", "root", *SHARED)}
    shared = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    candidates = [settings_of(candidate, shared, first) for candidate in arguments.candidate]
    for config, candidate in zip(candidates, arguments.candidate, strict=True):
        if not config.train_from.startswith("stage"):
            raise UsageError(
                f"train_from is {config.train_from} in --candidate {candidate}; choose a stage "
                "such as stage5, before which the network is frozen."
            )
    model = build_classifier(candidates[0], first.labels)
    starts = {first_trained(model.network, config.train_from) for config in candidates}
    inputs = compute_inputs(model, candidates[0], starts, splits, arguments.draws)
    readable = {name: only_readable(name, dataset, inputs) for name, dataset in splits.items()}
    heads = {}
    if any(config.fit_head for config in candidates):
        heads = {name: fit_head(dataset, inputs) for name, dataset in readable.items()}
    rows = []
    for number, (name, config) in enumerate(zip(arguments.candidate, candidates, strict=True), 1):
        own = heads if config.fit_head else {}
        try:
            runs = [
                train_split(config, dataset, inputs, own.get(split))
                for split, dataset in readable.items()
            ]
        except ActionrecError as error:
            say(f"[{number}/{len(candidates)}] {name} failed: {error}")
            continue
        row = settings_row(arguments, config, splits, own) | figures(runs)
        rows.append(row)
        say(
            f"[{number}/{len(candidates)}] {name}: video-level Top-1 {row['video_top1']} %, "
            f"spread {row['spread']}"
        )
        if arguments.results:
            measurements.append(arguments.results, row, fastest_device())
    shown = ("penalty", *SEARCHED, "video_top1", "spread")
    table = ([str(row[name]) for name in shown] for row in rows)
    print("\n".join(markdown_table(shown, table)))
    return 0 if readable == splits and len(rows) == len(candidates) else 1


def only_readable(
    name: str, dataset: VideoDataset, inputs: Mapping[VideoSource, VideoInputs]
) -> VideoDataset:
    """A split without the videos that could not be read.

    Raises:
        ActionrecError: none is left to train or to validate on.
    """
    train, val = (
        tuple(video for video in videos if video.source in inputs)
        for videos in (dataset.train, dataset.val)
    )
    if not train or not val:
        raise ActionrecError(
            f"Split {name} has no readable video to {'validate' if train else 'train'} on; replace "
            "the videos that were left out."
        )
    return replace(dataset, train=train, val=val)


def columns_of_inputs(config: TrainConfig, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the stored inputs depend on, as columns of results."""
    own = config.dataset in ("csv", "folder")
    return {
        "data": Path(config.root).stem if own else config.dataset,
        "division": division_of(config, arguments.split),
        "network": f"{config.backbone} from {origin(config.weights)}",
        "clip": f"{config.clip_length}x{config.crop}x{config.crop}",
        "stride": config.stride,
        "fps": config.fps,
        "gamma": config.gamma,
        "draws": arguments.draws,
    }


def settings_row(
    arguments: argparse.Namespace,
    config: TrainConfig,
    splits: Mapping[str, VideoDataset],
    heads: Mapping[str, Head],
) -> dict[str, Any]:
    """What a candidate's figures depend on, as the columns of results/recipe_search.csv."""
    penalties = sorted({head.penalty for head in heads.values()})
    return {
        **columns_of_inputs(config, arguments),
        "splits": " ".join(splits),
        **{name: getattr(config, name) for name in SEARCHED},
        "penalty": " ".join(f"{penalty:g}" for penalty in penalties),
    }


def say(message: str) -> None:
    print(f"recipe_search: {message}", file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 something failed or was left out, 2 wrong usage."""
    arguments = parse_arguments(words)
    try:
        with TemporaryDirectory() as folder:
            splits = open_splits(arguments.dataset, arguments.root, arguments.split, Path(folder))
            return search(arguments, splits)
    except ActionrecError as error:
        say(str(error))
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        say("interrupted; the rows of finished candidates stay in --results.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
