"""Top-1 and Top-5 of a recognizer on a data set: `actionrec evaluate --model FILE --dataset demo`.

Clip-level accuracy counts every clip as a test case of its own; video-level accuracy ranks the
mean softmax score of a video's clips. They are always reported together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from actionrec.datasets import LabelledVideo, VideoDataset
from actionrec.errors import ActionrecError
from actionrec.models.recognizer import Recognizer, RecognizerConfig
from actionrec.prediction import Failure, VideoClips, read_clips, score_clips
from actionrec.video.reader import VideoError, require_decoder


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of `n` cases whose true class is the best, or among the best five."""

    top1: float
    top5: float
    n: int


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


class EvaluationVideos(Dataset):
    """Videos as their evenly spread clips; a bad one as a Failure."""

    def __init__(
        self,
        videos: tuple[LabelledVideo, ...],
        config: RecognizerConfig,
        clips: int,
        crops: int,
        decoder: str = "pyav",
    ) -> None:
        self.videos = videos
        self.config = config
        self.clips = clips
        self.crops = crops
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> VideoClips | Failure:
        path = self.videos[index].path
        try:
            return read_clips(path, self.config, self.clips, self.crops, self.decoder)
        except VideoError as error:
            return Failure(str(path), str(error))


def evaluate(
    recognizer: Recognizer,
    dataset: VideoDataset,
    clips: int = 10,
    crops: int = 1,
    workers: int = 2,
    decoder: str = "pyav",
) -> Evaluation:
    """Score the validation videos of `dataset`.

    Args:
        recognizer: What is evaluated; the data set's labels must be among its labels.
        dataset: Its `val` videos are used.
        clips: Clips of a video, evenly spread over it.
        crops: 1, the centre, or 3 along the longer side; a clip's score is their mean.
        workers: Processes that read videos.
        decoder: Library that decodes them: pyav, decord or torchcodec.

    Raises:
        ActionrecError: a class of the data set is unknown to the model, or no video could be read.
    """
    labels = recognizer.config.labels
    unknown = sorted(set(dataset.labels) - set(labels))
    if unknown:
        raise ActionrecError(
            f"The model does not know {len(unknown)} of the {len(dataset.labels)} classes of "
            f"{dataset.name}, {unknown[0]!r} first; evaluate a model that was trained on them."
        )
    require_decoder(decoder)
    videos = EvaluationVideos(dataset.val, recognizer.config, clips, crops, decoder)
    loader = DataLoader(videos, batch_size=None, num_workers=workers)
    clip_scores, clip_truths, video_scores, video_truths, skipped = [], [], [], [], []
    progress = track(
        zip(dataset.val, loader, strict=True),
        f"evaluating {len(dataset.val)} videos",
        total=len(dataset.val),
        console=Console(stderr=True),
    )
    for video, read in progress:
        if isinstance(read, Failure):
            skipped.append(read)
            continue
        scores = score_clips(recognizer, read, crops)
        truth = labels.index(dataset.labels[video.label])
        clip_scores.append(scores)
        clip_truths += [truth] * len(scores)
        video_scores.append(scores.mean(axis=0))
        video_truths.append(truth)
    if not video_scores:
        reason = skipped[0].error if skipped else f"{dataset.name} has no validation videos."
        raise ActionrecError(f"Not one of {len(skipped)} videos could be scored: {reason}")
    clip_ranks = ranks(np.concatenate(clip_scores), np.array(clip_truths))
    video_ranks = ranks(np.stack(video_scores), np.array(video_truths))
    return Evaluation(
        clip=accuracy(clip_ranks),
        video=accuracy(video_ranks),
        per_class={
            labels[truth]: ClassAccuracy(
                clip_top1=float((clip_ranks[np.array(clip_truths) == truth] == 0).mean()),
                video_top1=float((video_ranks[np.array(video_truths) == truth] == 0).mean()),
                videos=video_truths.count(truth),
            )
            for truth in sorted(set(video_truths))
        },
        protocol={
            "dataset": dataset.name,
            "videos": len(dataset.val),
            "clips": clips,
            "crops": crops,
            "clip_length": recognizer.config.sampling.length,
            "stride": recognizer.config.sampling.stride,
            "fps": recognizer.config.sampling.fps,
            "short_side": recognizer.config.preprocessing.short_side,
            "crop": recognizer.config.preprocessing.crop,
            "clip_score": "softmax, mean over crops",
            "video_score": "mean of clip scores",
        },
        skipped=skipped,
    )


def ranks(scores: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """How many classes score higher than the true one (n,), for scores (n, classes).

    A tie counts against the truth, so that a network that says the same of all classes is not
    right by accident.
    """
    of_truth = np.take_along_axis(scores, truths[:, None], axis=1)
    return (scores >= of_truth).sum(axis=1) - 1


def accuracy(ranks_of_truth: np.ndarray) -> Accuracy:
    """Top-1 and Top-5 from the ranks (n,) of the true classes."""
    return Accuracy(
        top1=float((ranks_of_truth < 1).mean()),
        top5=float((ranks_of_truth < 5).mean()),
        n=len(ranks_of_truth),
    )
