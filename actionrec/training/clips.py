"""The clips of a training run: a random one of each training video, in an order that depends on
seed and epoch alone, and the middle one of each validation video.

No choice depends on the number of reading or training processes, so that a run can be repeated,
and stopped and continued, with the same clips.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from actionrec import devices
from actionrec.config import TrainConfig
from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.errors import Failure, VideoError
from actionrec.evaluation.several_labels import multi_hot
from actionrec.models.classifier import ClassifierConfig
from actionrec.processes import answer_for_failures
from actionrec.signals import outlast_stop_signals
from actionrec.video.clips import ClipReader
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing, erase, stack_clips


class Progress(NamedTuple):
    """How far a run has come: whole epochs, and clips of the next one."""

    epoch: int
    clips: int


class EpochSampler(Sampler):
    """Yields (epoch, index) in an order that depends on seed and epoch alone.

    The epoch travels with the index, so that a clip's random choices depend neither on the number
    of workers nor on the worker that reads it. Lightning calls `set_epoch`.

    An index below `size` is a video's; an epoch that draws a video again yields its index plus
    `size`, then plus twice `size`: another clip of the same video.

    Each of several processes takes every n-th index, so that their batches together are those of
    one process; a remainder is left out. The epoch `resumed.epoch` begins after the clips that the
    run had trained on before it was stopped.

    Args:
        size: Number of videos.
        seed: Seed of the run.
        resumed: Where the run goes on.
        repeats: Clips of a video that follow each other.
        labels: Classes of the videos if every class is to be drawn equally often.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        resumed: Progress | None = None,
        repeats: int = 1,
        labels: Sequence[int] | None = None,
    ) -> None:
        self.size = size
        self.seed = seed
        # Workers fetch the first batches before Lightning has set the epoch.
        self.epoch = resumed.epoch if resumed else 0
        self.resumed = resumed
        self.repeats = repeats
        self.labels = None if labels is None else np.array(labels)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def clips(self) -> int:
        """Clips of an epoch, of all processes together."""
        return self.size * self.repeats

    def __len__(self) -> int:
        return self.clips // devices.world_size()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self.order()
        if self.resumed and self.resumed.epoch == self.epoch:
            order = order[self.resumed.clips :]
        processes = devices.world_size()
        own = order[: len(order) // processes * processes][devices.rank() :: processes]
        return ((self.epoch, int(index)) for index in own)

    def order(self) -> np.ndarray:
        """The indices (clips,) of the epoch."""
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.labels is None:
            videos = generator.permutation(self.size)
        else:
            videos = balanced_order(self.labels, generator)
        videos = videos.repeat(self.repeats)
        # How often each has been drawn before: its place among the equal ones.
        sorted_places = videos.argsort(kind="stable")
        firsts = np.searchsorted(videos[sorted_places], videos[sorted_places])
        drawn = np.empty_like(videos)
        drawn[sorted_places] = np.arange(len(videos)) - firsts
        return videos + self.size * drawn


def balanced_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many videos as there are, in random order, of every class equally many, and of a class
    every video equally often; both but for one."""
    classes = np.unique(labels)
    shares = np.full(len(classes), len(labels) // len(classes))
    shares[generator.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    chosen = []
    for number, share in zip(classes, shares, strict=True):
        videos = np.flatnonzero(labels == number)
        rounds = [generator.permutation(videos) for _ in range(-(-share // len(videos)))]
        chosen.append(np.concatenate(rounds)[:share])
    return generator.permutation(np.concatenate(chosen))


class Sample(NamedTuple):
    """A clip, uint8 (3, T, H, W), its label, or all its labels, and its video."""

    clip: torch.Tensor
    label: int | tuple[int, ...]
    video: str


def label_of(video: LabelledVideo) -> int | tuple[int, ...]:
    """The label of a video, or all its labels where a video may have several."""
    return video.label if video.labels is None else video.labels


@dataclass
class ValidationClips(Dataset):
    """The middle clip of each video; a Failure in place of an unreadable one."""

    videos: tuple[LabelledVideo, ...]
    reader: ClipReader

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Sample | Failure:
        video = self.videos[index]
        try:
            clip = self.reader.read(video.source, clips=1).pixels[0]
        except VideoError as error:
            return Failure(str(video.source), str(error))
        return Sample(clip, label_of(video), str(video.source))


@dataclass
class TrainingClips(Dataset):
    """A random clip of each video, by epoch and index, see `EpochSampler`; a Failure in place of an
    unreadable one."""

    videos: tuple[LabelledVideo, ...]
    reader: ClipReader
    config: TrainConfig
    flip: bool

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Sample | Failure:
        epoch, index = key
        video = self.videos[index % len(self.videos)]
        generator = np.random.default_rng((self.config.seed, epoch, index))
        area = self.config.crop_area and tuple(self.config.crop_area)
        try:
            clip = self.reader.random(video.source, generator, area, self.flip)
        except VideoError as error:
            return Failure(str(video.source), str(error))
        if self.config.erasing and generator.random() < self.config.erasing:
            clip = erase(clip, self.reader.preprocessing.mean_colour, generator)
        return Sample(clip, label_of(video), str(video.source))


def are_dark(videos: Sequence[LabelledVideo], decoder: str = "pyav") -> bool:
    """Whether videos were filmed in the dark: a mean of less than 40 of 255 over the middle frames
    of sixteen of them. Night footage (ARID, Xu et al. 2021) has 7 to 30.
    """
    middle = ClipReader(ClipSampling(1), Preprocessing(32, 32), decoder)
    frames = []
    for index in np.linspace(0, len(videos) - 1, min(len(videos), 16)).round().astype(int):
        with suppress(VideoError):
            frames.append(middle.read(videos[index].source, clips=1).pixels.float().mean().item())
    return bool(frames) and float(np.mean(frames)) < 40


class Batch(NamedTuple):
    """uint8 clips (B, 3, T, H, W), their labels, their videos, and the videos that failed.

    Labels are integers (B,) or, where a video may have several, 0 and 1 as float32 (B, classes).
    """

    clips: torch.Tensor
    labels: torch.Tensor
    videos: list[str]
    failures: list[Failure]


def collate(items: list[Sample | Failure], classes: int | None = None) -> Batch:
    """A batch of the samples among `items`; it is empty where all failed. `classes` is their number
    where a sample has all its labels."""
    good = [item for item in items if isinstance(item, Sample)]
    return Batch(
        clips=stack_clips([sample.clip for sample in good]) if good else torch.empty(0),
        labels=targets([sample.label for sample in good], classes),
        videos=[sample.video for sample in good],
        failures=[item for item in items if isinstance(item, Failure)],
    )


def targets(labels: Sequence[int | tuple[int, ...]], classes: int | None) -> torch.Tensor:
    """The labels of videos as a tensor: integers (n,) or, with the number of `classes`, 0 and 1 as
    float32 (n, classes)."""
    if classes is None:
        return torch.tensor(labels)
    return torch.from_numpy(multi_hot(labels, classes)).float()


def begin_reading(worker: int) -> None:
    """Prepare a process that reads clips."""
    outlast_stop_signals(worker)
    answer_for_failures(worker)


def loaders(
    config: TrainConfig,
    dataset: VideoDataset,
    model: ClassifierConfig,
    resumed: Progress | None = None,
) -> tuple[DataLoader, DataLoader]:
    """This process's batches of training and of validation clips, as `model` expects them."""
    reader = ClipReader(model.sampling, model.preprocessing, config.decoder)
    processes, several = config.devices * config.nodes, dataset.multi_label
    labels = [video.label for video in dataset.train] if config.balanced_sampling else None
    sampler = EpochSampler(
        len(dataset.train), config.seed, resumed, config.repeated_augmentation, labels
    )
    shared = {
        "batch_size": config.batch_size // processes,
        "num_workers": config.workers,
        "collate_fn": partial(collate, classes=len(dataset.labels) if several else None),
        "persistent_workers": config.workers > 0,
        "worker_init_fn": begin_reading,
        "pin_memory": torch.cuda.is_available(),
        # A loader draws a seed from it; from the global generator, dropout would draw otherwise.
        "generator": torch.Generator().manual_seed(config.seed),
    }
    return (
        DataLoader(
            TrainingClips(dataset.train, reader, config, dataset.flip),
            sampler=sampler,
            drop_last=sampler.clips > config.batch_size,
            **shared,
        ),
        DataLoader(
            ValidationClips(dataset.val, reader),
            sampler=range(devices.rank(), len(dataset.val), processes),
            **shared,
        ),
    )
