"""Top-1 and Top-5 of a model on a data set: `actionrec evaluate --model FILE --dataset demo`.

Clip-level accuracy counts every clip as a test case of its own; video-level accuracy ranks the
mean softmax score of a video's clips. They are always reported together.

Scoring videos (`score_videos`: index -> logits) knows nothing of figures, and figures
(`summarise`: logits -> Evaluation) nothing of videos and networks. So the work can be divided
among processes, whose results are put together by `gather`, and saved logits give the same figures
again:

    python -c "from actionrec.evaluation.scoring import ClipLogits, summarise; \
               print(summarise(ClipLogits.load('logits.safetensors')).clip)"
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch.utils.data import DataLoader, Dataset, Subset

from actionrec import devices
from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.errors import ActionrecError, Failure, VideoError
from actionrec.files import replacing
from actionrec.models.classifier import ClassifierConfig
from actionrec.models.inference import InferenceModel
from actionrec.processes import reader_failures_as_errors
from actionrec.video.clips import ClipReader, VideoClips
from actionrec.video.decoders import require_decoder

METADATA_KEY = "actionrec_logits"
RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percent


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of `n` cases whose true class is the best, or among the best five.

    The intervals are [low, high] of 95 % confidence, by bootstrap over videos (see `accuracy`).
    """

    top1: float
    top5: float
    n: int
    top1_interval: list[float]
    top5_interval: list[float]


@dataclass(frozen=True)
class ClassAccuracy:
    """Top-1 accuracies in [0, 1] of the videos of one class, and how many there were."""

    clip_top1: float
    video_top1: float
    videos: int


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; `skipped` are the videos that could not be scored."""

    clip: Accuracy
    video: Accuracy
    per_class: dict[str, ClassAccuracy]
    protocol: dict[str, Any]
    skipped: list[Failure]


@dataclass(frozen=True, eq=False)
class ClipLogits:
    """What a network said of every crop of every clip of the scored videos.

    The file that `save` writes is safetensors, nothing is pickled. Its tensors are `logits`,
    `counts` and `truths`; its metadata has one key, "actionrec_logits", a JSON object with
    `labels`, `videos`, `protocol`, `skipped` and `versions`.

    Attributes:
        logits: float32 (videos, clips, crops, classes), before the softmax. A short video gives
            fewer clips; what lies past its count is NaN.
        counts: int64 (videos,), the clips of each video, at least 1.
        truths: int64 (videos,), the true classes as indices into `labels`.
        videos: The files, relative to the deepest folder that holds the whole data set.
        labels: The classes of the logits.
        protocol: How clips were chosen and scores made, as in `Evaluation`.
        skipped: The videos that could not be scored.
    """

    logits: np.ndarray
    counts: np.ndarray
    truths: np.ndarray
    videos: tuple[str, ...]
    labels: tuple[str, ...]
    protocol: dict[str, Any]
    skipped: list[Failure] = field(default_factory=list)

    @cached_property
    def clip_scores(self) -> np.ndarray:
        """Softmax scores (videos, clips, classes), means over the crops; NaN past the counts."""
        return torch.from_numpy(self.logits).softmax(dim=-1).mean(dim=2).numpy()

    @cached_property
    def video_scores(self) -> np.ndarray:
        """Scores (videos, classes), means over the clips of each video."""
        pairs = zip(self.clip_scores, self.counts, strict=True)
        return np.stack([scores[:count].mean(axis=0) for scores, count in pairs])

    @cached_property
    def video_of_clip(self) -> np.ndarray:
        """The number (n,) of the video that each of all n clips belongs to."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def clip_ranks(self) -> np.ndarray:
        """How many classes beat the true one (n,), for each of all n clips (see `ranks`)."""
        present = np.arange(self.logits.shape[1]) < self.counts[:, None]
        return ranks(self.clip_scores[present], self.truths[self.video_of_clip])

    @cached_property
    def video_ranks(self) -> np.ndarray:
        """How many classes beat the true one (videos,), for each video (see `ranks`)."""
        return ranks(self.video_scores, self.truths)

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, which appears only when it is whole.

        Raises:
            ActionrecError: the file can't be written.
        """
        description = {
            "labels": self.labels,
            "videos": self.videos,
            "protocol": self.protocol,
            "skipped": [asdict(failure) for failure in self.skipped],
            "versions": {"actionrec": version("actionrec"), "torch": torch.__version__},
        }
        tensors = {"logits": self.logits, "counts": self.counts, "truths": self.truths}
        with replacing(Path(path)) as temporary:
            try:
                save_file(tensors, temporary, metadata={METADATA_KEY: json.dumps(description)})
            except SafetensorError as error:
                raise OSError(str(error)) from error

    @classmethod
    def load(cls, path: Path) -> "ClipLogits":
        """What `save` wrote into `path`.

        Raises:
            ActionrecError: there is no such file, or it holds no logits.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                description = json.loads((file.metadata() or {})[METADATA_KEY])
                tensors = {name: file.get_tensor(name) for name in ("logits", "counts", "truths")}
            return cls(
                **tensors,
                videos=tuple(description["videos"]),
                labels=tuple(description["labels"]),
                protocol=description["protocol"],
                skipped=[Failure(**failure) for failure in description["skipped"]],
            )
        except FileNotFoundError as error:
            raise ActionrecError(
                f"There is no file {path}; `actionrec evaluate --save-logits {path}` writes it."
            ) from error
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise ActionrecError(
                f"{path} is no file of logits; give one that `actionrec evaluate --save-logits` "
                "wrote."
            ) from error


class EvaluationVideos(Dataset):
    """Videos as their evenly spread clips; a bad one as a Failure."""

    def __init__(
        self,
        videos: tuple[LabelledVideo, ...],
        reader: ClipReader,
        clips: int,
        crops: int,
    ) -> None:
        self.videos = videos
        self.reader = reader
        self.clips = clips
        self.crops = crops

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> VideoClips | Failure:
        path = self.videos[index].path
        try:
            return self.reader.read(path, self.clips, self.crops)
        except VideoError as error:
            return Failure(str(path), str(error))


def evaluate(
    model: InferenceModel,
    dataset: VideoDataset,
    clips: int = 10,
    crops: int = 1,
    workers: int = 2,
) -> Evaluation:
    """Score the validation videos of `dataset` and count how many were right.

    Arguments and errors are those of `score_dataset`.
    """
    return summarise(score_dataset(model, dataset, clips, crops, workers))


def score_dataset(
    model: InferenceModel,
    dataset: VideoDataset,
    clips: int = 10,
    crops: int = 1,
    workers: int = 2,
) -> ClipLogits:
    """The logits of the validation videos of `dataset`, the same in all processes that share them.

    Args:
        model: What is evaluated; the data set's labels must be among its labels.
        dataset: Its `val` videos are used.
        clips: Clips of a video, evenly spread over it.
        crops: 1, the centre, or 3 along the longer side; a clip's score is their mean.
        workers: Processes that read videos.

    Raises:
        ActionrecError: a class of the data set is unknown to the model, or no video could be read.
    """
    labels = model.labels
    unknown = sorted(set(dataset.labels) - set(labels))
    if unknown:
        raise ActionrecError(
            f"The model does not know {len(unknown)} of the {len(dataset.labels)} classes of "
            f"{dataset.name}, {unknown[0]!r} first; evaluate a model that was trained on them."
        )
    require_decoder(model.clips.decoder)
    videos = EvaluationVideos(dataset.val, model.clips, clips, crops)
    # Each process takes its share, none of them twice, so that their number changes no figure.
    own = range(devices.rank(), len(videos), devices.world_size())
    with reader_failures_as_errors():
        share = score_videos(model, videos, own, workers)
    shares = devices.gather(share)
    scored = {index: result for share in shares for index, result in share.items()}
    protocol = describe_protocol(model.config, dataset, clips, crops)
    return gather(scored, dataset, labels, protocol)


def score_videos(
    model: InferenceModel, videos: EvaluationVideos, indices: Sequence[int], workers: int
) -> dict[int, np.ndarray | Failure]:
    """The logits (clips, crops, classes) of those of `videos` that `indices` name.

    A video that can't be read gives its Failure. The dictionaries of several processes that took
    different indices, united, are what `gather` wants.
    """
    # Whole videos are the items: a batch of them would be larger than what the network takes.
    loader = DataLoader(Subset(videos, indices), batch_size=None, num_workers=workers)
    progress = track(
        zip(indices, loader, strict=True),
        f"evaluating {len(indices)} videos",
        total=len(indices),
        console=Console(stderr=True),
        disable=not devices.is_first(),
    )
    return {
        index: read if isinstance(read, Failure) else clip_logits(model, read, videos.crops)
        for index, read in progress
    }


def clip_logits(model: InferenceModel, clips: VideoClips, crops: int) -> np.ndarray:
    """Logits (clips, crops, classes) in float32."""
    return model.logits(clips.pixels).unflatten(0, (-1, crops)).numpy()


def gather(
    scored: Mapping[int, np.ndarray | Failure],
    dataset: VideoDataset,
    labels: tuple[str, ...],
    protocol: dict[str, Any],
) -> ClipLogits:
    """Put the results of `score_videos` for all validation videos into the data set's order.

    Raises:
        ActionrecError: no video could be scored.
        KeyError: `scored` lacks a video.
    """
    results = [scored[index] for index in range(len(dataset.val))]
    skipped = [result for result in results if isinstance(result, Failure)]
    pairs = [
        (video, result)
        for video, result in zip(dataset.val, results, strict=True)
        if not isinstance(result, Failure)
    ]
    if not pairs:
        reason = skipped[0].error if skipped else f"{dataset.name} has no validation videos."
        raise ActionrecError(f"Not one of {len(skipped)} videos could be scored: {reason}")
    counts = np.array([len(logits) for _, logits in pairs], dtype=np.int64)
    crops, classes = pairs[0][1].shape[1:]
    padded = np.full((len(pairs), counts.max(), crops, classes), np.nan, dtype=np.float32)
    for row, (_, logits) in zip(padded, pairs, strict=True):
        row[: len(logits)] = logits
    truths = [labels.index(dataset.labels[video.label]) for video, _ in pairs]
    return ClipLogits(
        logits=padded,
        counts=counts,
        truths=np.array(truths, dtype=np.int64),
        videos=relative_names([video for video, _ in pairs], dataset),
        labels=labels,
        protocol=protocol,
        skipped=skipped,
    )


def relative_names(videos: Sequence[LabelledVideo], dataset: VideoDataset) -> tuple[str, ...]:
    """The files of `videos`, relative to the deepest folder that holds the whole data set.

    So a data set has the same names wherever it lies, also in a folder within its root. Where
    there is no such folder, because some paths are absolute and some are not, they stay as they
    are.
    """
    try:
        folder = os.path.commonpath([each.path.parent for each in dataset.train + dataset.val])
    except ValueError:
        return tuple(str(video.path) for video in videos)
    return tuple(Path(os.path.relpath(video.path, folder or ".")).as_posix() for video in videos)


def describe_protocol(
    config: ClassifierConfig, dataset: VideoDataset, clips: int, crops: int
) -> dict[str, Any]:
    """All that accuracies depend on but the weights, as JSON holds it."""
    return {
        "dataset": dataset.name,
        "videos": len(dataset.val),
        "clips": clips,
        "crops": crops,
        "clip_length": config.sampling.length,
        "stride": config.sampling.stride,
        "fps": config.sampling.fps,
        "short_side": config.preprocessing.short_side,
        "crop": config.preprocessing.crop,
        "clip_score": "softmax, mean over crops",
        "video_score": "mean of clip scores",
    }


def summarise(scored: ClipLogits) -> Evaluation:
    """The accuracies that follow from logits; the same to the last digit for saved ones."""
    clip_truths = scored.truths[scored.video_of_clip]
    return Evaluation(
        clip=accuracy(scored.clip_ranks, scored.video_of_clip),
        video=accuracy(scored.video_ranks),
        per_class={
            scored.labels[truth]: ClassAccuracy(
                clip_top1=float((scored.clip_ranks[clip_truths == truth] == 0).mean()),
                video_top1=float((scored.video_ranks[scored.truths == truth] == 0).mean()),
                videos=int((scored.truths == truth).sum()),
            )
            for truth in np.unique(scored.truths)
        },
        protocol=scored.protocol,
        skipped=scored.skipped,
    )


def ranks(scores: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """How many classes score at least as high as the true one (n,), for scores (n, classes).

    A tie counts against the truth, so that a network that says the same of all classes is not
    right by accident; so does NaN.
    """
    of_truth = np.take_along_axis(scores, truths[:, None], axis=1)
    return (~(scores < of_truth)).sum(axis=1) - 1


def accuracy(ranks_of_truth: np.ndarray, videos: np.ndarray | None = None) -> Accuracy:
    """Top-1 and Top-5, with intervals, from the ranks (n,) of the true classes.

    `videos` (n,) numbers, from 0 on, the video of each case, by default a video each. The clips
    of a video are alike, so the bootstrap draws whole videos with all their cases, and the
    intervals are the percentiles 2.5 and 97.5 of what the draws give (Efron & Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13). They tell what other videos would have given,
    not what another training would have; and where all are right, or wrong, they have no width.
    """
    if videos is None:
        videos = np.arange(len(ranks_of_truth))
    in_top1, in_top5 = ranks_of_truth < 1, ranks_of_truth < 5
    cases = np.stack([np.ones_like(in_top1), in_top1, in_top5])
    per_video = np.stack([np.bincount(videos, weights=row) for row in cases], axis=1)
    n, top1, top5 = resampled_sums(per_video).T
    return Accuracy(
        top1=float(in_top1.mean()),
        top5=float(in_top5.mean()),
        n=len(ranks_of_truth),
        top1_interval=np.percentile(top1 / n, INTERVAL).tolist(),
        top5_interval=np.percentile(top5 / n, INTERVAL).tolist(),
    )


def resampled_sums(per_video: np.ndarray, resamples: int = RESAMPLES) -> np.ndarray:
    """Sums (resamples, k) of the rows of `per_video` (videos, k), each of as many rows as there
    are, drawn with replacement; the same in every call."""
    generator = np.random.default_rng(0)
    videos = len(per_video)
    # One draw at a time: all at once would take gigabytes for Kinetics.
    draws = (generator.integers(videos, size=videos) for _ in range(resamples))
    return np.stack([np.bincount(draw, minlength=videos) @ per_video for draw in draws])
