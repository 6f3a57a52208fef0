"""Name the action in video files: `actionrec predict video.mp4`.

Clips are spread over the whole video, each is scored, and the softmax scores are averaged. While
the network scores a clip, a thread reads the next one, of the same video or of the next.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actionrec.errors import Failure, VideoError
from actionrec.models.inference import InferenceModel
from actionrec.video.clips import VideoClip, read_ahead


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A class and its softmax score in [0, 1]."""

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
    """The best classes of a video, by the mean score of its clips, best first."""

    video: str
    model: str
    top: list[LabelScore]
    clips: list[ClipPrediction]


def predict_videos(
    model: InferenceModel, videos: Iterable[str | Path | Failure], clips: int | None = None
) -> Iterator[Prediction | Failure]:
    """Predict one video after the other, as `Recognizer.predict`; a Failure among them is passed on
    in its place."""

    def read() -> Iterator[tuple[str | Path, VideoClip] | Failure]:
        for video in videos:
            if isinstance(video, Failure):
                yield video
                continue
            try:
                for clip in model.clips.stream(video, clips):
                    yield video, clip
            except VideoError as error:
                yield Failure(str(video), str(error))

    predicted, scores = [], []
    for item in read_ahead(read()):
        if not isinstance(item, Failure):
            video, clip = item
            start, end = clip.seconds
            scores.append(model.scores(clip.pixels)[0])
            top = best(scores[-1], model.labels, model.topk)
            predicted.append(ClipPrediction(round(start, 3), round(end, 3), top))
            if not clip.last:
                continue
            top = best(np.mean(scores, axis=0), model.labels, model.topk)
            item = Prediction(str(video), model.name, top, predicted)
        # A failure may follow some clips of its video, which are dropped.
        predicted, scores = [], []
        yield item


def predict_video(model: InferenceModel, path: str | Path, clips: int | None = None) -> Prediction:
    """The best classes of a video and of each of its clips.

    Raises:
        VideoError: the video can't be read.
    """
    [result] = predict_videos(model, [path], clips)
    if isinstance(result, Failure):
        raise VideoError(result.error)
    return result


def video_features(
    model: InferenceModel, video: str | Path, clips: int | None = None
) -> np.ndarray:
    """An embedding of each clip of a video: float32 (clips, features), the last feature map
    averaged over time and space.

    Args:
        model: The network.
        video: A file.
        clips: Clips spread over the video; by default as many as cover it, ten at most.

    Raises:
        VideoError: the video can't be read.
    """
    read = read_ahead(model.clips.stream(video, clips))
    return np.concatenate([model.clip_features(clip.pixels) for clip in read])


def best(scores: np.ndarray, labels: tuple[str, ...], topk: int) -> list[LabelScore]:
    """The `topk` labels with the highest scores (classes,), best first."""
    order = np.argsort(-scores, kind="stable")[:topk]
    return [LabelScore(labels[index], round(float(scores[index]), 6)) for index in order]
