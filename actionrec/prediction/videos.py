"""Name the action in video files: `actionrec predict video.mp4`.

Clips are spread over the whole video, each is scored, and the scores are averaged. While
the network scores a clip, a thread reads the next one, of the same video or of the next.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actionrec.errors import Failure, UsageError, VideoError
from actionrec.models.inference import InferenceModel
from actionrec.video.address import VideoPath
from actionrec.video.clips import VideoClip
from actionrec.video.reader import read_ahead


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A class and its score in [0, 1], of a softmax or, with several labels a video, a sigmoid."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """The best classes of one clip, which lasts from `start` to `end`, in seconds."""

    start: float
    end: float
    top: list[LabelScore]


@dataclass(frozen=True)
class Prediction:
    """What a video shows, by the mean score of its clips.

    Attributes:
        top: the best classes, best first.
        labels: the classes that the video is given: the best one or, where a video may have
            several, all above their thresholds, best first.
        none_of_these: whether it is given none, because no class scores enough.
        uncertainty: how little the scores decide, from 0 to 1 (see `Decision.uncertainty`): labels
            for the most uncertain videos teach most.
    """

    video: str
    model: str
    top: list[LabelScore]
    clips: list[ClipPrediction]
    labels: list[LabelScore] = field(default_factory=list, kw_only=True)
    none_of_these: bool = field(default=False, kw_only=True)
    uncertainty: float = field(default=0.0, kw_only=True)


def predict_videos(
    model: InferenceModel, videos: Iterable[str | VideoPath | Failure], clips: int | None = None
) -> Iterator[Prediction | Failure]:
    """Predict one video after the other, as `Recognizer.predict`; a Failure among them is passed on
    in its place."""

    def read() -> Iterator[tuple[str | VideoPath, VideoClip] | Failure]:
        for video in videos:
            if isinstance(video, Failure):
                yield video
                continue
            try:
                for clip in model.clips.stream(video, clips):
                    yield video, clip
            except VideoError as error:
                yield Failure(str(video), str(error))

    seconds, scores = [], []
    for item in read_ahead(read()):
        if not isinstance(item, Failure):
            video, clip = item
            seconds.append(clip.seconds)
            scores.append(model.scores(clip.pixels)[0])
            if not clip.last:
                continue
            item = prediction(model, video, seconds, np.stack(scores))
        # A failure may follow some clips of its video, which are dropped.
        seconds, scores = [], []
        yield item


def prediction(
    model: InferenceModel,
    video: str | VideoPath,
    seconds: Sequence[tuple[float, float]],
    scores: np.ndarray,
) -> Prediction:
    """The best classes by the scores (clips, classes) of a video's clips, each of which starts and
    ends at `seconds`."""
    clips = [
        ClipPrediction(round(start, 3), round(end, 3), best(values, model.labels, model.topk))
        for (start, end), values in zip(seconds, scores, strict=True)
    ]
    mean = scores.mean(axis=0)
    top = best(mean, model.labels, model.topk)
    return Prediction(str(video), model.name, top, clips, **verdict(model, mean))


def verdict(model: InferenceModel, scores: np.ndarray) -> dict[str, Any]:
    """The fields of a `Prediction` that follow from the mean scores (classes,) of a video."""
    labels = given(model, scores)
    uncertainty = round(model.decision.uncertainty(scores), 6)
    return {"labels": labels, "none_of_these": not labels, "uncertainty": uncertainty}


def given(model: InferenceModel, scores: np.ndarray) -> list[LabelScore]:
    """The labels that the scores (classes,) of a video or of a part of it give it, best first."""
    return label_scores(scores, model.labels, model.decision.given(scores))


def predict_video(
    model: InferenceModel, path: str | VideoPath, clips: int | None = None
) -> Prediction:
    """The best classes of a video and of each of its clips.

    Raises:
        VideoError: the video can't be read.
    """
    [result] = predict_videos(model, [path], clips)
    if isinstance(result, Failure):
        raise VideoError(result.error)
    return result


def video_features(
    model: InferenceModel,
    video: str | VideoPath,
    clips: int | None = None,
    hop: float | None = None,
) -> np.ndarray:
    """An embedding of each clip of a video: float32 (clips, features), the last feature map
    averaged over time and space.

    `actionrec features` writes the same of many videos, with the seconds of each clip.

    Args:
        model: The network.
        video: A file or an address.
        clips: Clips spread over the video; by default as many as cover it, ten at most.
        hop: Seconds from one clip to the next, for clips that slide over the whole video.

    Raises:
        VideoError: the video can't be read.
        UsageError: `clips` and `hop` are both given, or the hop is not above 0.
        ActionrecError: the model is an exported file, which gives no features.
    """
    if clips is not None and hop is not None:
        raise UsageError("Either a number of clips is given or a hop, not both.")
    source = model.clips.stream(video, clips) if hop is None else model.clips.windows(video, hop)
    return np.concatenate([model.clip_features(clip.pixels) for clip in read_ahead(source)])


def best(scores: np.ndarray, labels: tuple[str, ...], topk: int) -> list[LabelScore]:
    """The `topk` labels with the highest scores (classes,), best first."""
    return label_scores(scores, labels, np.argsort(-scores, kind="stable")[:topk])


def label_scores(
    scores: np.ndarray, labels: tuple[str, ...], chosen: np.ndarray
) -> list[LabelScore]:
    """The chosen labels, by their indices, with their scores (classes,)."""
    return [LabelScore(labels[index], round(float(scores[index]), 6)) for index in chosen]
