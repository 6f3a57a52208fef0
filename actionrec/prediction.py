"""Name the action in video files: `actionrec predict video.mp4`.

Clips are spread over the whole video, each is scored, and the softmax scores are averaged. While
the network is busy with a clip, a thread reads the next one, of the same video or of the next.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from actionrec.files import videos_below
from actionrec.models.recognizer import Recognizer, RecognizerConfig
from actionrec.video.reader import VideoError, open_video
from actionrec.video.transforms import channels_first, stack_clips

MOST_CLIPS = 10
BATCH_SIZE = 4
Item = TypeVar("Item")


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


# Not frozen: Lightning, which moves a batch to its device, refuses frozen data classes in it.
@dataclass
class Failure:
    """A video that gave no result, and the reason, as a sentence."""

    video: str
    error: str


@dataclass(frozen=True)
class VideoClips:
    """Clips of one video as uint8 (clips * crops, 3, T, H, W), the crops of a clip side by side,
    and where each clip starts and ends, in seconds."""

    pixels: torch.Tensor
    seconds: list[tuple[float, float]]


@dataclass(frozen=True)
class VideoClip:
    """A clip of a video as uint8 (crops, 3, T, H, W), its start and end in seconds, and whether it
    is the video's last one."""

    pixels: torch.Tensor
    seconds: tuple[float, float]
    last: bool


def read_clips(
    path: str | Path,
    config: RecognizerConfig,
    clips: int | None,
    crops: int = 1,
    decoder: str = "pyav",
) -> VideoClips:
    """All clips of `stream_clips` together.

    Raises:
        VideoError: the video can't be read.
    """
    read = list(stream_clips(path, config, clips, crops, decoder))
    pixels = stack_clips([square for clip in read for square in clip.pixels])
    return VideoClips(pixels, [clip.seconds for clip in read])


def stream_clips(
    path: str | Path,
    config: RecognizerConfig,
    clips: int | None,
    crops: int = 1,
    decoder: str = "pyav",
) -> Iterator[VideoClip]:
    """`clips` evenly spread clips of a video, or as many as cover it, ten at most, each as soon as
    it is read.

    Each gives `crops` squares: 1, the centre, or 3 along the longer side.

    Raises:
        VideoError: the video can't be read.
    """
    video = open_video(path, decoder)
    sampling, preprocessing = config.sampling.at(video.fps), config.preprocessing
    if clips is None:
        chosen = sampling.covering(len(video), at_most=MOST_CLIPS)
    else:
        chosen = sampling.uniform(len(video), clips)
    if crops == 1:
        read = video.clips(chosen, (preprocessing.crop,) * 2, preprocessing.square(video.size))
        squares = (channels_first(clip)[None] for clip in read)
    else:
        read = video.clips(chosen, preprocessing.crop, preprocessing.strip(video.size))
        squares = (preprocessing.squares(clip) for clip in read)
    for indices, pixels in zip(chosen, squares, strict=True):
        seconds = (indices[0] / video.fps, (indices[-1] + 1) / video.fps)
        yield VideoClip(pixels, seconds, last=indices is chosen[-1])


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The `items`, each of which a thread makes while the one before it is being used."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        following = thread.submit(next, items, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield item


def score_clips(recognizer: Recognizer, clips: VideoClips) -> np.ndarray:
    """Softmax scores (clips, classes) of clips with one crop each."""
    batches = clips.pixels.split(BATCH_SIZE)
    return torch.cat([recognizer.scores(batch) for batch in batches]).numpy()


def find_videos(paths: Iterable[str | Path]) -> list[Path | Failure]:
    """Every video that `paths` name: files, folders (searched to the bottom) and patterns.

    A file is taken whatever it is called; in a folder those with the suffix of a video are. A
    path that leads to nothing becomes a Failure in its place.
    """
    found: list[Path | Failure] = []
    for path in paths:
        text = os.path.expanduser(path)
        if os.path.isdir(text):
            found += videos_below(Path(text)) or [
                Failure(str(path), f"{path} has no videos in it; name a folder that has some.")
            ]
        elif os.path.exists(text) or not glob.has_magic(text):
            found.append(Path(text))
        else:
            matches = sorted(glob.glob(text, recursive=True))
            found += [Path(match) for match in matches if not os.path.isdir(match)] or [
                Failure(str(path), f"No file matches {path}; check the pattern.")
            ]
    return found


def predict_video(
    recognizer: Recognizer,
    path: str | Path,
    model: str,
    topk: int = 5,
    clips: int | None = None,
    decoder: str = "pyav",
) -> Prediction:
    """The best `topk` classes of a video and of each of its clips.

    Raises:
        VideoError: the video can't be read.
    """
    seconds, scores = [], []
    for clip in read_ahead(stream_clips(path, recognizer.config, clips, decoder=decoder)):
        seconds.append(clip.seconds)
        scores.append(recognizer.scores(clip.pixels)[0].numpy())
    return summarise(recognizer, path, model, topk, seconds, scores)


def summarise(
    recognizer: Recognizer,
    path: str | Path,
    model: str,
    topk: int,
    seconds: Sequence[tuple[float, float]],
    scores: Sequence[np.ndarray],
) -> Prediction:
    """The prediction that follows from the scores (classes,) of a video's clips."""
    labels = recognizer.config.labels
    return Prediction(
        video=str(path),
        model=model,
        top=best(np.mean(scores, axis=0), labels, topk),
        clips=[
            ClipPrediction(round(start, 3), round(end, 3), best(row, labels, topk))
            for (start, end), row in zip(seconds, scores, strict=True)
        ],
    )


def video_features(
    recognizer: Recognizer, path: str | Path, clips: int | None = None, decoder: str = "pyav"
) -> np.ndarray:
    """The pooled feature map of each clip of a video, float32 (clips, features).

    Raises:
        VideoError: the video can't be read.
    """
    read = read_ahead(stream_clips(path, recognizer.config, clips, decoder=decoder))
    return torch.cat([recognizer.clip_features(clip.pixels) for clip in read]).numpy()


def best(scores: np.ndarray, labels: tuple[str, ...], topk: int) -> list[LabelScore]:
    """The `topk` labels with the highest scores (classes,), best first."""
    order = np.argsort(-scores, kind="stable")[:topk]
    return [LabelScore(labels[index], round(float(scores[index]), 6)) for index in order]


def predict_all(
    recognizer: Recognizer,
    videos: Iterable[Path | Failure],
    model: str,
    topk: int = 5,
    clips: int | None = None,
    decoder: str = "pyav",
) -> Iterator[Prediction | Failure]:
    """Predict one video after the other; a bad one becomes a Failure and the others go on."""

    def read() -> Iterator[tuple[Path, VideoClip] | Failure]:
        for video in videos:
            if isinstance(video, Failure):
                yield video
                continue
            try:
                for clip in stream_clips(video, recognizer.config, clips, decoder=decoder):
                    yield video, clip
            except VideoError as error:
                yield Failure(str(video), str(error))

    seconds, scores = [], []
    for item in read_ahead(read()):
        if not isinstance(item, Failure):
            video, clip = item
            seconds.append(clip.seconds)
            scores.append(recognizer.scores(clip.pixels)[0].numpy())
            if not clip.last:
                continue
            item = summarise(recognizer, video, model, topk, seconds, scores)
        # A failure may come after some clips of its video, which are dropped.
        seconds, scores = [], []
        yield item
