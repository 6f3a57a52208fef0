"""What is trained on: a random clip of each video, in an order that seed and epoch decide; and what
is validated on: the middle clip of each.

No choice depends on how many processes read or train, so that a run can be repeated, and stopped
and continued, to the bit.
"""

import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from actionrec import devices
from actionrec.config import TrainConfig
from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.errors import Failure, VideoError
from actionrec.models.classifier import VideoClassifier
from actionrec.video.clips import ClipReader
from actionrec.video.transforms import stack_clips

SECONDS_FOR_A_STEP = 10


class Progress(NamedTuple):
    """How far a run has come: whole epochs, and clips of the one after them."""

    epoch: int
    clips: int


class EpochSampler(Sampler):
    """Yields (epoch, index) in an order that only seed and epoch decide.

    The epoch travels with the index, so that a clip's random choices can depend on nothing else:
    not on the number of workers, nor on which of them reads it. Lightning calls `set_epoch`.

    Of several processes each takes every n-th, so that together their batches are those of one
    process; where they don't come out even, the last few are left out.

    In the epoch `resumed.epoch`, as many indices are left out as its batches had before the run
    was stopped.
    """

    def __init__(self, size: int, seed: int, resumed: Progress | None = None) -> None:
        self.size = size
        self.seed = seed
        # Worker processes fetch the first batches before Lightning has set the epoch.
        self.epoch = resumed.epoch if resumed else 0
        self.resumed = resumed

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // devices.world_size()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        if self.resumed and self.resumed.epoch == self.epoch:
            order = order[self.resumed.clips :]
        processes = devices.world_size()
        own = order[: len(order) // processes * processes][devices.rank() :: processes]
        return ((self.epoch, int(index)) for index in own)


class ShareSampler(Sampler):
    """Yields the indices in order; of several processes each takes every n-th, and none is taken
    twice to make the shares even."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return len(range(devices.rank(), self.size, devices.world_size()))

    def __iter__(self) -> Iterator[int]:
        return iter(range(devices.rank(), self.size, devices.world_size()))


class Sample(NamedTuple):
    """A clip, uint8 (3, T, H, W), its label and the video that it is from."""

    clip: torch.Tensor
    label: int
    video: str


class TrainingClips(Dataset):
    """One random clip of each video; a bad video as a Failure."""

    def __init__(
        self,
        videos: tuple[LabelledVideo, ...],
        reader: ClipReader,
        config: TrainConfig,
        flip: bool,
    ) -> None:
        self.videos = videos
        self.reader = reader
        self.config = config
        self.flip = flip

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Sample | Failure:
        epoch, index = key
        generator = np.random.default_rng((self.config.seed, epoch, index))
        path = self.videos[index].path
        area = self.config.crop_area and tuple(self.config.crop_area)
        try:
            clip = self.reader.random(path, generator, area, self.flip)
        except VideoError as error:
            return Failure(str(path), str(error))
        return Sample(clip, self.videos[index].label, str(path))


class ValidationClips(Dataset):
    """The middle clip of each video; a bad video as a Failure."""

    def __init__(self, videos: tuple[LabelledVideo, ...], reader: ClipReader) -> None:
        self.videos = videos
        self.reader = reader

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Sample | Failure:
        path = self.videos[index].path
        try:
            read = self.reader.read(path, clips=1)
        except VideoError as error:
            return Failure(str(path), str(error))
        return Sample(read.pixels[0], self.videos[index].label, str(path))


class Batch(NamedTuple):
    """uint8 clips (B, 3, T, H, W), labels (B,), the videos they are from, and those that failed."""

    clips: torch.Tensor
    labels: torch.Tensor
    videos: list[str]
    failures: list[Failure]


def collate(items: list[Sample | Failure]) -> Batch:
    """A batch of the samples among `items`; it is empty where all failed."""
    good = [item for item in items if isinstance(item, Sample)]
    return Batch(
        clips=stack_clips([sample.clip for sample in good]) if good else torch.empty(0),
        labels=torch.tensor([sample.label for sample in good]),
        videos=[sample.video for sample in good],
        failures=[item for item in items if isinstance(item, Failure)],
    )


def loaders(
    config: TrainConfig,
    dataset: VideoDataset,
    reader: ClipReader,
    flip: bool,
    resumed: Progress | None = None,
) -> tuple[DataLoader, DataLoader]:
    """The batches of this process for training and for validation."""
    shared = {
        "batch_size": config.batch_size // (config.devices * config.nodes),
        "num_workers": config.workers,
        "collate_fn": collate,
        "persistent_workers": config.workers > 0,
        "worker_init_fn": outlast_signals,
        "pin_memory": torch.cuda.is_available(),
        # The loader draws from it once an iterator; from the global one, dropout would notice.
        "generator": torch.Generator().manual_seed(config.seed),
    }
    return (
        DataLoader(
            TrainingClips(dataset.train, reader, config, flip),
            sampler=EpochSampler(len(dataset.train), config.seed, resumed),
            drop_last=len(dataset.train) > config.batch_size,
            **shared,
        ),
        DataLoader(
            ValidationClips(dataset.val, reader),
            sampler=ShareSampler(len(dataset.val)),
            **shared,
        ),
    )


def reader_of(model: VideoClassifier, config: TrainConfig) -> ClipReader:
    """The reader of the clips that a model is trained on."""
    return ClipReader(model.config.sampling, model.config.preprocessing, config.decoder)


def outlast_signals(_: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach all processes; those that read must not end before the
    one that trains has finished its step. It ends them by SIGTERM too, if all else fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_FOR_A_STEP))
