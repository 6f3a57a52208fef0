"""Name the action in a video with a file of `actionrec export`, without actionrec and torch.

    pip install onnxruntime av numpy
    python onnx_predict.py i3d.onnx video.mp4

Labels, clip length, frame rate and crop are read from the file. Clips are spread over the whole
video, ten at most, and their softmax scores averaged, as `actionrec predict` does.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import onnxruntime

MOST_CLIPS = 10


def main() -> int:
    parser = argparse.ArgumentParser(description="Name the action in a video with an ONNX file.")
    parser.add_argument("model", type=Path, help="a file of `actionrec export`")
    parser.add_argument("video", type=Path)
    parser.add_argument("--topk", type=int, default=5, help="how many of the best classes to print")
    options = parser.parse_args()
    try:
        session, config = open_model(options.model)
        clips = list(chosen_clips(options.video, config["sampling"]))
        logits = [
            session.run(["logits"], {"clips": clip})[0]
            for clip in read_clips(options.video, clips, config["preprocessing"])
        ]
    except (ValueError, OSError) as error:
        print(f"onnx_predict.py: {error}", file=sys.stderr)
        return 1
    scores = scores_of(np.concatenate(logits), config.get("decision", {})).mean(axis=0)
    for index in np.argsort(-scores, kind="stable")[: options.topk]:
        print(f"  {scores[index]:7.2%}  {config['labels'][index]}")
    return 0


def open_model(path: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    """The network, and its labels, sampling and preprocessing."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}; `actionrec export` makes one.")
    try:
        session = onnxruntime.InferenceSession(
            path, providers=onnxruntime.get_available_providers()
        )
    # The errors of onnxruntime have no base class of their own.
    except Exception as error:
        raise ValueError(f"{path} is no ONNX file that onnxruntime can run.") from error
    metadata = session.get_modelmeta().custom_metadata_map
    if "actionrec" not in metadata:
        raise ValueError(
            f"{path} has no labels and no clip size in it; give a file that `actionrec export` "
            "wrote."
        )
    return session, json.loads(metadata["actionrec"])["config"]


def decode(path: Path) -> Iterator[av.VideoFrame]:
    """The frames of a video file, in the order in which they are shown."""
    if not path.is_file():
        raise ValueError(f"There is no video {path}.")
    try:
        with av.open(str(path.absolute())) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video stream.")
            container.streams.video[0].thread_type = "AUTO"
            yield from container.decode(video=0)
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} could not be read as a video ({error.strerror}).") from error


def chosen_clips(path: Path, sampling: dict) -> Iterator[list[int]]:
    """The frames of each clip: the fewest evenly spread clips that cover the video, ten at most. A
    video shorter than a clip is padded with its last frame."""
    frames = sum(1 for _ in decode(path))
    if frames == 0:
        raise ValueError(f"{path} has no frame that can be decoded.")
    with av.open(str(path.absolute())) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or stream.guessed_rate or 25)
    stride = sampling["stride"] * (fps / sampling["fps"] if sampling["fps"] else 1)
    steps = [round(step * stride) for step in range(sampling["length"])]
    span = steps[-1] + 1
    number = min(-(-frames // span), MOST_CLIPS)
    last_start = max(frames - span, 0)
    starts = [last_start / 2] if number == 1 else np.linspace(0, last_start, number)
    for start in starts:
        yield [min(round(start) + step, frames - 1) for step in steps]


def read_clips(path: Path, clips: list[list[int]], preprocessing: dict) -> Iterator[np.ndarray]:
    """Each clip as uint8 RGB (1, 3, T, H, W), in one pass over the file."""
    wanted = {index for clip in clips for index in clip}
    pictures: dict[int, np.ndarray] = {}
    waiting = list(clips)
    for index, frame in enumerate(decode(path)):
        if index in wanted:
            pictures[index] = middle_square(frame, preprocessing)
        if index == waiting[0][-1]:
            clip = np.stack([pictures[index] for index in waiting.pop(0)])
            yield np.ascontiguousarray(clip.transpose(3, 0, 1, 2)[None])
            if not waiting:
                return
            pictures = {index: kept for index, kept in pictures.items() if index >= waiting[0][0]}


def middle_square(frame: av.VideoFrame, preprocessing: dict) -> np.ndarray:
    """The square in the middle of a frame, scaled to (crop, crop, 3)."""
    picture = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    height, width, _ = picture.shape
    crop = preprocessing["crop"]
    side = max(1, round(min(height, width) * crop / preprocessing["short_side"]))
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]
    if side == crop:
        return square
    weights = bilinear(side, crop)
    for _ in range(2):  # along the width, then along the height
        square = np.floor(weights @ square + 0.5).swapaxes(0, 1)
    return square.astype(np.uint8)


def bilinear(size: int, scaled: int) -> np.ndarray:
    """The weights (scaled, size) of bilinear interpolation with antialiasing: triangles as wide as
    two pixels of the scaled picture, or of the picture itself where it is enlarged.

    They are rounded to multiples of a power of two that fit 16-bit integers, as PyTorch does for
    uint8: pixels are the same as in actionrec.
    """
    centres = (np.arange(scaled) + 0.5) * size / scaled
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(size / scaled, 1)
    weights = np.maximum(1 - distances, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    one = 2.0 ** np.floor(np.log2((2**15 - 1) / weights.max()))
    return np.floor(weights * one + 0.5) / one


def scores_of(logits: np.ndarray, decision: dict) -> np.ndarray:
    """Scores (clips, labels) in [0, 1] of a file's logits: with several labels a video, each has a
    sigmoid; a calibrated model has a temperature and may have a detector of known videos, its last
    logit, to whose probability the scores add up."""
    if decision.get("multi_label"):
        return 1 / (1 + np.exp(-logits))
    known = 1.0
    if decision.get("detector"):
        known, logits = 1 / (1 + np.exp(-logits[:, -1:])), logits[:, :-1]
    return softmax(logits / decision.get("temperature", 1.0)) * known


def softmax(logits: np.ndarray) -> np.ndarray:
    """Scores, in [0, 1], of logits (clips, classes)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    sys.exit(main())
