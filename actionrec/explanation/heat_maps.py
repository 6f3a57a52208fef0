"""Heat maps that show where in a clip a model looked: `actionrec explain video.mp4`.

After Figure 3 of Zhu et al., "Unifying Nonlocal Blocks for Neural Networks", ICCV 2021. Each
method gives a number for every position of a feature map, T' x H' x W':

    affinity    row A[i, :] of a nonlocal block: the weights with which point i takes features
    features    the magnitude of the features at input and output of a nonlocal block; in a network
                without blocks, of the last stage's feature map
    hirescam    the contribution to the logit of a class (HiResCAM, Draelos and Carin 2020)

A position is drawn at the centre of its receptive field, with linear interpolation in between: a
heat map is no sharper than its positions are dense.

    import actionrec
    from actionrec.explanation.heat_maps import explain_video
    from actionrec.explanation.pictures import write_sheet
    explanation = explain_video(actionrec.load("kinetics400-i3d"), "video.mp4")
    write_sheet([explanation], "explanation.png")
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from actionrec.errors import UsageError
from actionrec.explanation.clip import Clip, Point, candidate_clips
from actionrec.explanation.methods import affinity_row, channel_rms, feature_maps, hires_cam
from actionrec.models.inference import InferenceModel
from actionrec.progress import track
from actionrec.video.reader import Crop
from actionrec.video.transforms import channels_first, stack_clips

Method = Literal["affinity", "features", "hirescam"]
QUANTITIES = {
    "affinity": "A[i, j]",
    "features": "root mean square over channels",
    "hirescam": "contribution to the logit",
}
# Pixels of the short side of the frames in an explanation; smaller ones keep their size.
SHORT_SIDE = 360


@dataclass(frozen=True)
class HeatMap:
    """A number for every position of a feature map, and interpolated to the frames of the clip.

    Attributes:
        title: the content of the heat map, in words.
        quantity: the meaning of the numbers, which have no physical unit.
        values: float32 (T', H', W'), as the network has them.
        over_frames: float32 (T, H, W), `values` interpolated linearly to the frames of the
            explanation; NaN where the network does not look.
    """

    title: str
    quantity: str
    values: np.ndarray
    over_frames: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """A clip of a video with the heat maps of one model.

    Attributes:
        video: the file.
        model: the name or file of the model.
        method: how the heat maps were made.
        label: the class that is explained.
        score: its softmax score in this clip, in [0, 1].
        start, end: of the clip, in seconds.
        fps: frames of the clip a second.
        times: float64 (T,), seconds of each frame. A video shorter than a clip repeats its last.
        frames: uint8 RGB (T, H, W, 3), whole frames, scaled to a short side of 360 at most.
        size: (height, width) of the video's own frames.
        seen: (top, left, height, width) of the square that the network sees, in pixels of `frames`.
        maps: one or more heat maps.
        point: the point i of the row A[i, :]; None for the other methods.
    """

    video: str
    model: str
    method: Method
    label: str
    score: float
    start: float
    end: float
    fps: float
    times: np.ndarray
    frames: np.ndarray
    size: tuple[int, int]
    seen: Crop
    maps: tuple[HeatMap, ...]
    point: Point | None

    @property
    def playback(self) -> np.ndarray:
        """When a player shows each frame, in seconds from the clip's start; frames that come more
        than once in a clip are evenly spaced."""
        times = self.times - self.times[0]
        return times if (np.diff(times) > 0).all() else np.arange(len(times)) / self.fps


def explain_video(
    model: InferenceModel,
    video: str | Path,
    method: Method | None = None,
    *,
    label: str | None = None,
    start: float | None = None,
    point: tuple[int, int] | None = None,
    at: float | None = None,
    block: str | None = None,
) -> Explanation:
    """Show where `model` looked in the clip of a video that scores highest for a class.

    Args:
        model: The model to explain.
        video: The file.
        method: By default the affinity; HiResCAM for a network without nonlocal blocks.
        label: The class; by default the predicted one.
        start: Start of the clip in seconds; near the end of the video, its last whole clip is
            taken. By default the clip is the one with the highest score among those that
            `actionrec predict` scores.
        point: The point i of the row A[i, :], as (x, y) in pixels of the video as it is shown; by
            default the position with the strongest features in the block's input.
        at: Seconds of that point; by default the middle of the clip. Without `start`, the clip
            around it is taken.
        block: The unit after the nonlocal block; by default the network's last block is taken.

    Raises:
        UsageError: the network has no (such) block; or no such class, point or time exists.
        VideoError: the video can't be read.
    """
    method = method or default_method(model)
    if method != "affinity" and (point is not None or at is not None):
        raise UsageError(
            f"A point and its time choose a row of an affinity, the method {method} has none; "
            "leave them out, or choose the clip by its start."
        )
    unit = _explained_unit(model, method, block)
    target = None if label is None else _class_index(model, label)
    candidates = candidate_clips(video, model.clips, start, at)
    if point is not None:
        candidates[0].require_visible(*point)
    config = model.config
    # With a time there is only one clip.
    frame = config.sampling.length // 2 if at is None else candidates[0].frame_at(at)
    clip, pixels, target, score = _best_clip(model, candidates, target)
    label, source = config.labels[target], clip.video

    inputs = model.model.pixels(pixels.to(model.device))
    features, grid = feature_maps(model.network, inputs, unit)
    site = f"{config.block.name} before {unit}" if unit else "the last stage"
    quantity, marked = QUANTITIES[method], None
    if method == "affinity":
        marked = clip.point(frame, point, grid, channel_rms(features[0]).cpu().numpy())
        row = affinity_row(model.network.blocks[unit], features[0], marked.position)
        values = {f"row A[i, :] of {site}": row}
        if config.block.name == "cgnl":
            quantity += ", summed over channels"
    elif method == "features":
        parts = zip(("input", "output") if unit else ("features",), features, strict=True)
        values = {f"{part} of {site}": channel_rms(tensor) for part, tensor in parts}
    else:
        values = {f"HiResCAM of “{label}”": hires_cam(model.network, features[0], target)}

    factor = min(1.0, SHORT_SIDE / min(source.size))
    frames = source.read(clip.indices, tuple(round(length * factor) for length in source.size))
    arrays = {title: tensor.float().cpu().numpy() for title, tensor in values.items()}
    return Explanation(
        video=str(video),
        model=model.name,
        method=method,
        label=label,
        score=score,
        start=clip.seconds[0],
        end=clip.seconds[1],
        fps=source.fps / config.sampling.at(source.fps).stride,
        times=source.times[np.array(clip.indices)],
        frames=frames,
        size=source.size,
        seen=clip.scaled_square(frames.shape[1:3]),
        maps=tuple(
            HeatMap(title, quantity, array, clip.interpolate(array, grid, frames.shape[:3]))
            for title, array in arrays.items()
        ),
        point=marked,
    )


def explain_same_moment(
    explanation: Explanation,
    model: InferenceModel,
    *,
    label: str | None = None,
    block: str | None = None,
) -> Explanation:
    """Explain the same clip and point by the same method with another model.

    Its clip starts at the same time; if clips of its length would end before the point, the point
    is in the middle of its clip. The class is the model's own prediction, or `label`.

    Raises:
        As `explain_video`; the point can be outside of the square that this model sees.
    """
    moment = {"start": explanation.start}
    if (point := explanation.point) is not None:
        [clip] = candidate_clips(explanation.video, model.clips, explanation.start, at=None)
        if point.seconds >= clip.seconds[1]:
            moment = {}
        moment |= {"point": (point.x, point.y), "at": point.seconds}
    request = {"label": label, "block": block, **moment}
    return explain_video(model, explanation.video, explanation.method, **request)


def default_method(*models: InferenceModel) -> Method:
    """The affinity if all networks have a nonlocal block, else HiResCAM."""
    return "affinity" if all(each.network.blocks for each in models) else "hirescam"


def _best_clip(
    model: InferenceModel, clips: list[Clip], target: int | None
) -> tuple[Clip, Tensor, int, float]:
    """The clip that scores highest for a class, by default the class of the highest mean score; as
    uint8 (1, 3, T, H, W); the class; and its softmax score."""
    side = model.config.preprocessing.crop
    indices = [clip.indices for clip in clips]
    read = clips[0].video.clips(indices, (side, side), clips[0].square)
    pixels = stack_clips([channels_first(frames) for frames in read]).split(1)
    scores = np.concatenate([model.scores(batch) for batch in track(pixels, "scoring clips")])
    if target is None:
        target = int(scores.mean(axis=0).argmax())
    best = int(scores[:, target].argmax())
    return clips[best], pixels[best], target, float(scores[best, target])


def _explained_unit(model: InferenceModel, method: Method, block: str | None) -> str | None:
    """The unit after the nonlocal block that is explained; None for the last stage."""
    units = list(model.network.blocks)
    if not units and (method == "affinity" or block is not None):
        raise UsageError(
            f"{model.name} has no nonlocal block, and so no affinity; choose the method "
            "hirescam or features without a block, or a model that was trained with one."
        )
    if method == "hirescam" and block is not None:
        raise UsageError("HiResCAM is of the last stage and not of a block; leave the block out.")
    if block is not None and block not in units:
        raise UsageError(
            f"{model.name} has no nonlocal block before {block!r}; choose from {', '.join(units)}."
        )
    if method != "hirescam" and units:
        return block or units[-1]
    # X3D and SlowFast average before their last layers, transformers have tokens.
    last = list(model.network.units.named_children())[-1][0]
    if last not in model.network.units_of(max(model.network.stages)):
        raise UsageError(
            f"The network {model.config.backbone} of {model.name} ends without a feature map, so "
            f"the method {method} has nothing to draw; explain another network, or a convolutional "
            "one that was trained with a block, by the method affinity."
        )
    return None


def _class_index(model: InferenceModel, label: str) -> int:
    labels = model.config.labels
    if label in labels:
        return labels.index(label)
    near = get_close_matches(label, labels)
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else f"say, {labels[0]!r}."
    raise UsageError(f"{model.name} has no class {label!r} among its {len(labels)}; {advice}")
