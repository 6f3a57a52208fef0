"""Heat maps that show where in a clip a model looked: `actionrec explain video.mp4`.

After Figure 3 of Zhu et al., "Unifying Nonlocal Blocks for Neural Networks", ICCV 2021. Three
methods, each of which gives a number for every position of a feature map, T' x H' x W':

    affinity    row A[i, :] of a nonlocal block: from where the point i takes its features
    features    how strong the features are that a nonlocal block receives and gives; of a
                network without blocks, those of its last stage
    gradcam     what in the last stage speaks for a class (Selvaraju et al., ICCV 2017)

A position of a feature map is drawn where the middle of what it sees is, which the strides and
paddings of the network say; it lies in the square that the network sees of the frame. Between the
positions is a linear interpolation: a heat map is no sharper than they are dense.

    from actionrec.explanation.heat_maps import explain_video
    from actionrec.explanation.pictures import write_sheet, write_video
    explanation = explain_video(actionrec.load("kinetics400-i3d"), "video.mp4")
    write_sheet([explanation], "explanation.png")
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from actionrec.errors import UsageError
from actionrec.models.backbone import Backbone
from actionrec.models.inference import InferenceModel
from actionrec.models.nonlocal_blocks import NonlocalBlock
from actionrec.video.clips import MOST_CLIPS
from actionrec.video.decoders import open_video
from actionrec.video.reader import Crop, VideoReader
from actionrec.video.transforms import Preprocessing, channels_first, stack_clips

Method = Literal["affinity", "features", "hirescam"]
# Pixels of the short side of the frames in an explanation; smaller ones stay as they are.
SHORT_SIDE = 360


@dataclass(frozen=True)
class HeatMap:
    """A number for every position of a feature map, and the same over the frames of the clip.

    Attributes:
        title: what is shown, in words.
        quantity: what the numbers are; none of them has a physical unit.
        values: float32 (T', H', W'), as the network has them.
        over_frames: float32 (T, H, W), `values` interpolated linearly to the frames of the
            explanation; NaN where the network does not look.
    """

    title: str
    quantity: str
    values: np.ndarray
    over_frames: np.ndarray


@dataclass(frozen=True)
class Point:
    """A position of a video: column and row of a pixel of the video as it is shown, and seconds.

    Attributes:
        frame: the frame of the clip, from 0.
        position: (t, y, x), the nearest position of the T' x H' x W' feature map.
        frames: the frames of the clip to which time step t is the nearest one.
    """

    x: int
    y: int
    seconds: float
    frame: int
    position: tuple[int, int, int]
    frames: range


@dataclass(frozen=True)
class Axis:
    """Where the positions of a feature map lie along one axis of the clip: position k has its
    middle at `first` + `step` k, in frames, rows or columns of the network's input."""

    first: float
    step: float

    def nearest(self, place: float, positions: int) -> int:
        """The position, of so many, that is nearest to a place of the input."""
        return min(max(round((place - self.first) / self.step), 0), positions - 1)

    def interpolation(self, places: np.ndarray, positions: int) -> np.ndarray:
        """The weights (places, positions) of linear interpolation; constant beyond both ends."""
        index = ((places - self.first) / self.step).clip(0, positions - 1)
        return (1 - np.abs(index[:, None] - np.arange(positions))).clip(0).astype(np.float32)


Axes = tuple[Axis, Axis, Axis]


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
        seen: (top, left, height, width) in pixels of `frames`: what the network sees of them.
        maps: one or more heat maps.
        point: whose row of the affinity is shown; None for the other methods.
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


def explain_video(
    model: InferenceModel,
    path: str | Path,
    method: Method | None = None,
    *,
    label: str | None = None,
    start: float | None = None,
    point: tuple[int, int] | None = None,
    at: float | None = None,
    block: str | None = None,
) -> Explanation:
    """Show where `model` looked in the clip of a video that speaks most for a class.

    Args:
        model: whose network is explained.
        path: the video.
        method: by default the affinity, or Grad-CAM for a network without nonlocal blocks.
        label: the class; by default the predicted one.
        start: seconds from which the clip lasts, or the last whole clip of the video if that is
            earlier; by default the clip with the highest score is taken, of those that
            `actionrec predict` scores.
        point: (x, y) in pixels of the video as it is shown, whose row of the affinity is wanted;
            by default the position where the block receives the strongest features.
        at: seconds of that point; by default the middle of the clip. Without `start`, the clip
            around it is taken.
        block: the unit that the nonlocal block stands before; by default the network's last one.

    Raises:
        UsageError: the network has no (such) block, the class, point or time does not exist.
        VideoError: the video can't be read.
    """
    method = method or default_method(model)
    if method != "affinity" and (point is not None or at is not None):
        raise UsageError(
            f"A point and its time choose a row of an affinity, the method {method} has none; "
            "leave them out, or choose the clip by its start."
        )
    unit = _block_unit(model, method, block)
    wanted = None if label is None else _label_index(model, label)
    video = open_video(path, model.clips.decoder)
    if point is not None:
        _require_seen(point, video, model.config.preprocessing)
    for seconds in (start, at):
        _require_inside(seconds, video)

    clips = _candidates(video, model, start, at)
    # With a time there is only one clip.
    frame = None if at is None else _frame_at(at, clips[0], video)
    preprocessing = model.config.preprocessing
    crop, side = preprocessing.square(video.size), preprocessing.crop
    read = video.clips(clips, (side, side), crop)
    pixels = stack_clips([channels_first(clip) for clip in read])
    console = Console(stderr=True)
    rows = track(pixels.split(1), "scoring clips", console=console)
    scores = np.concatenate([model.scores(clip) for clip in rows])
    target = int(scores.mean(axis=0).argmax()) if wanted is None else wanted
    best = int(scores[:, target].argmax())
    clip = clips[best]
    network, name = model.network, model.config.block.name
    normalised = preprocessing.normalise(pixels[best : best + 1].to(model.device))
    normalised = normalised.to(next(network.units.parameters()).dtype)
    features, axes = feature_maps(network, normalised, unit)
    place = None
    maps: list[tuple[str, str, Tensor]]
    if method == "hirescam":
        title = f"HiResCAM of “{model.config.labels[target]}”"
        maps = [(title, "part of the logit", hires_cam(network, features[0], target))]
    elif method == "features":
        titles = [f"{verb} {name} before {unit}" for verb in ("received by", "given by")]
        titles = ["features of the last stage"] if unit is None else titles
        quantity = "root mean square over channels"
        maps = [(title, quantity, strength(x)) for title, x in zip(titles, features, strict=True)]
    else:
        received = features[0]
        place = _locate(point, frame, clip, video, preprocessing, axes, strength(received))
        row = affinity_row(network.blocks[unit], received, place.position)
        quantity = "A[i, j], summed over channels" if name == "cgnl" else "A[i, j]"
        maps = [(f"row A[i, :] of {name} before {unit}", quantity, row)]

    frames = video.read(clip, _shown_size(video.size))
    seen = _scaled_crop(crop, video.size, frames.shape[1:3])
    return Explanation(
        video=str(path),
        model=model.name,
        method=method,
        label=model.config.labels[target],
        score=float(scores[best, target]),
        start=clip[0] / video.fps,
        end=(clip[-1] + 1) / video.fps,
        fps=video.fps / model.config.sampling.at(video.fps).stride,
        times=np.array(clip) / video.fps,
        frames=frames,
        size=video.size,
        seen=seen,
        maps=tuple(
            HeatMap(*named, spread(named[-1], axes, frames.shape[:3], seen, side))
            for named in ((*words, values.float().cpu().numpy()) for *words, values in maps)
        ),
        point=place,
    )


def explain_same_moment(
    explanation: Explanation,
    model: InferenceModel,
    *,
    label: str | None = None,
    block: str | None = None,
) -> Explanation:
    """What another model makes of the same clip and point, by the same method.

    Its clip starts at the same time; where clips of its length would end before the point, the
    point is in the middle of it. The class is the one that it predicts, or `label`.

    Raises:
        As `explain_video`; the point can be outside of what this model sees of the frame.
    """
    start, chosen = explanation.start, explanation.point
    if chosen is not None:
        video = open_video(explanation.video, model.clips.decoder)
        if chosen.seconds >= start + model.config.sampling.at(video.fps).span / video.fps:
            start = None
    return explain_video(
        model,
        explanation.video,
        explanation.method,
        label=label,
        start=start,
        point=None if chosen is None else (chosen.x, chosen.y),
        at=None if chosen is None else chosen.seconds,
        block=block,
    )


def default_method(*models: InferenceModel) -> Method:
    """The affinity where all networks have a nonlocal block, else Grad-CAM."""
    return "affinity" if all(each.network.blocks for each in models) else "hirescam"


# What is shown.


@torch.no_grad()
def feature_maps(
    network: Backbone, clips: Tensor, unit: str | None
) -> tuple[tuple[Tensor, ...], Axes]:
    """What the nonlocal block before `unit` receives and what it gives, (B, C, T', H', W') each,
    or, for None, the last stage's feature map alone; and where its positions lie in time, height
    and width. Of normalised clips (B, 3, T, H, W)."""
    passed: list[Tensor] = []

    def remember(_: NonlocalBlock, inputs: tuple[Tensor], output: Tensor) -> None:
        passed.extend((inputs[0], output))

    with _PlacesOfPositions(clips) as places:
        if unit is None:
            passed.append(network.feature_map(clips))
        else:
            with network.blocks[unit].register_forward_hook(remember):
                network.feature_map(clips)
    return tuple(passed), places.of[passed[0]]


class _PlacesOfPositions(TorchDispatchMode):
    """Follows a clip through a network and keeps where the positions of each tensor lie in it.

    Convolutions and poolings with a stride move them, and so does padding that is larger on one
    side: "SAME" padding as in I3D puts them up to half a step behind the middle of equal cells,
    padding by half the kernel as in ResNets up to half a step before it.
    """

    def __init__(self, clips: Tensor) -> None:
        super().__init__()
        self.of = WeakTensorKeyDictionary()
        self.of[clips] = (Axis(0, 1), Axis(0, 1), Axis(0, 1))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        inputs = (x for x in tree_leaves(args) if isinstance(x, Tensor) and x in self.of)
        source = next(inputs, None)
        if source is None:
            return results
        axes = self.of[source]
        if func is torch.ops.aten.convolution.default:
            axes = _strided(axes, args[1].shape[2:], args[3], args[4])
        elif func is torch.ops.aten.max_pool3d_with_indices.default:
            kernel, stride, padding = (*args[1:], (0, 0, 0))[:3]
            axes = _strided(axes, kernel, stride, padding)
        elif func is torch.ops.aten.constant_pad_nd.default:
            # Padding before and after each axis, the last axis first.
            axes = _strided(axes, (1, 1, 1), (1, 1, 1), args[1][-2::-2])
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self.of[result] = axes
        return results


def _strided(
    axes: Axes, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Axes:
    return tuple(
        Axis(axis.first + axis.step * ((size - 1) / 2 - before), axis.step * step)
        for axis, size, step, before in zip(axes, kernel, stride, padding, strict=True)
    )


def strength(features: Tensor) -> Tensor:
    """The root mean square over the channels, (T', H', W'), of a feature map (1, C, T', H', W')."""
    return features[0].float().square().mean(dim=0).sqrt()


@torch.inference_mode()
def affinity_row(block: NonlocalBlock, x: Tensor, position: tuple[int, int, int]) -> Tensor:
    """Row A[i, :] of a nonlocal block as (T', H', W'), for i at `position` (t, y, x) of the
    feature map x (1, C, T', H', W') that it receives.

    A[i, j] is the weight with which i takes what is at j. The row comes from what the operator is
    made of, in O(N) memory; the N x N matrix is never needed. It is A's own, whatever the filter
    makes of A, and the same for all units of a block that share their A:

        nl, ns         a softmax: positive, its sum is 1 (the filter of ns is A - 1)
        a2             positive, its sum is 1
        dnl            two softmaxes, its sum is 2; the second one is the same for every i
        cc             0 but for the T' + H' + W' - 2 positions in line with i, their sum is 1
        snl, snl_a1, gsnl, cheb, cayley
                       D^-1/2 M D^-1/2, not negative; its sum is not fixed, A[i, j] = A[j, i]
                       (the filters of gsnl, cheb and cayley reach farther than A: over A^2, ...)
        snl_a2         not negative, its sum is 1
        nl_dot         any sign, no fixed sum
        cgnl           the vertices are pairs of a position and a channel. Shown is the sum over
                       the pairs of channels, c at i and d at j, that are in one group: what i
                       takes in all, were Z the same in every channel. Any sign, no fixed sum; the
                       rank is 1 in every group, so with one group all rows are multiples of one
    """
    _, height, width = x.shape[2:]
    t, row, column = position
    index = torch.tensor([(t * height + row) * width + column], device=x.device)
    return block.affinity(x).rows(index)[0, 0].unflatten(0, x.shape[2:])


def hires_cam(network: Backbone, features: Tensor, target: int) -> Tensor:
    """Grad-CAM (T', H', W') of class `target` on the last stage's feature map X, of shape
    (1, C, T', H', W'): relu(sum_c g_c X_c), g the gradient of the logit with respect to X.

    A number is what its position adds to the logit, where that is positive. Grad-CAM itself has
    the mean of g over the positions, which is g where the head begins with a mean over them; that
    of I3D counts the first and last time step half as much as the others (HiResCAM, Draelos and
    Carin 2020).
    """
    # The gradient goes no further than the head: libraries keep the whole network's activations.
    with torch.enable_grad():
        features = features.detach().to(network.head.weight.dtype).requires_grad_()
        logit = network.head(network.pool(features))[0, target]
        [gradient] = torch.autograd.grad(logit, features)
    return (gradient * features.detach()).sum(dim=1)[0].relu()


# Where it lies in the video.


def spread(
    values: np.ndarray, axes: Axes, shape: Sequence[int], seen: Crop, side: int
) -> np.ndarray:
    """Numbers (T', H', W') over the frames of a clip, float32 (T, H, W) = `shape`: interpolated
    linearly in time and over the rectangle `seen`, NaN outside of it.

    `axes` says where the numbers lie in the network's input, which shows the rectangle with
    `side` pixels a side.
    """
    top, left, height, width = seen
    time, rows, columns = (
        axis.interpolation((np.arange(pixels) + 0.5) * whole / pixels - 0.5, positions)
        for axis, pixels, whole, positions in zip(
            axes, (shape[0], height, width), (shape[0], side, side), values.shape, strict=True
        )
    )
    over_frames = np.full(shape, np.nan, dtype=np.float32)
    inside = np.einsum("tk,yh,xw,khw->tyx", time, rows, columns, values, optimize=True)
    over_frames[:, top : top + height, left : left + width] = inside
    return over_frames


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) that frames of `size` are shown with."""
    factor = min(1.0, SHORT_SIDE / min(size))
    return round(size[0] * factor), round(size[1] * factor)


def _scaled_crop(crop: Crop, size: tuple[int, int], shown: Sequence[int]) -> Crop:
    """A rectangle of frames of `size`, in pixels of the same frames scaled to `shown`."""
    top, left, height, width = crop
    rows = [round(edge * shown[0] / size[0]) for edge in (top, top + height)]
    columns = [round(edge * shown[1] / size[1]) for edge in (left, left + width)]
    return rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0]


def _locate(
    point: tuple[int, int] | None,
    frame: int | None,
    clip: Sequence[int],
    video: VideoReader,
    preprocessing: Preprocessing,
    axes: Axes,
    activity: Tensor,
) -> Point:
    """The point asked for in `frame` of the clip, or in the middle one; where no point was asked
    for, where `activity` (T', H', W') is highest at that time."""
    steps, rows, columns = activity.shape
    in_time, in_height, in_width = axes
    top, left, side, _ = preprocessing.square(video.size)
    scale = preprocessing.crop / side
    frame = len(clip) // 2 if frame is None else frame
    step = in_time.nearest(frame, steps)
    if point is None:
        row, column = divmod(int(activity[step].argmax()), columns)
        x, y = (
            edge + min(max(math.floor((axis.first + axis.step * k + 0.5) / scale), 0), side - 1)
            for edge, axis, k in ((left, in_width, column), (top, in_height, row))
        )
    else:
        x, y = point
        row = in_height.nearest((y - top + 0.5) * scale - 0.5, rows)
        column = in_width.nearest((x - left + 0.5) * scale - 0.5, columns)
    near = [index for index in range(len(clip)) if in_time.nearest(index, steps) == step]
    return Point(
        *(x, y, clip[frame] / video.fps, frame, (step, row, column)), range(near[0], near[-1] + 1)
    )


def _frame_at(seconds: float, clip: Sequence[int], video: VideoReader) -> int:
    """The frame of the clip that is shown at a time; of one that was left out, the one before."""
    start, end = clip[0] / video.fps, (clip[-1] + 1) / video.fps
    if not start <= seconds < end:
        raise UsageError(
            f"The clip of {video.path} lasts from {start:.2f} to {end:.2f} s, {seconds:g} s is not "
            "in it; choose another time or another start."
        )
    shown = _frame_number(seconds, video)
    return max(int(np.searchsorted(clip, shown, side="right")) - 1, 0)


def _frame_number(seconds: float, video: VideoReader) -> int:
    """The frame that the video shows at a time."""
    # 0.28 s of a video of 25 frames a second is frame 7, but 0.28 * 25 is below 7.
    return math.floor(seconds * video.fps + 1e-6)


# Which clip, class and block.


def _candidates(
    video: VideoReader, model: InferenceModel, start: float | None, at: float | None
) -> list[list[int]]:
    """The clip at `start` or around `at`, or those that cover the video, to choose from."""
    sampling = model.config.sampling.at(video.fps)
    if start is None and at is None:
        return sampling.covering(len(video), at_most=MOST_CLIPS)
    if start is not None:
        first = _frame_number(start, video)
    else:
        first = _frame_number(at, video) - sampling.span // 2
    return [sampling.clip(min(max(first, 0), max(len(video) - sampling.span, 0)), len(video))]


def _block_unit(model: InferenceModel, method: Method, block: str | None) -> str | None:
    """The unit whose block is explained, None for the last stage."""
    units = list(model.network.blocks)
    if not units and (method == "affinity" or block is not None):
        raise UsageError(
            f"{model.name} has no nonlocal block, and so no affinity; choose the method "
            "gradcam or features without a block, or a model that was trained with one."
        )
    if method == "hirescam" and block is not None:
        raise UsageError("Grad-CAM is of the last stage and not of a block; leave the block out.")
    if block is not None and block not in units:
        raise UsageError(
            f"{model.name} has no nonlocal block before {block!r}; choose from {', '.join(units)}."
        )
    return None if method == "hirescam" or not units else block or units[-1]


def _label_index(model: InferenceModel, label: str) -> int:
    labels = model.config.labels
    if label in labels:
        return labels.index(label)
    near = get_close_matches(label, labels)
    which = f"did you mean {' or '.join(map(repr, near))}?" if near else f"say, {labels[0]!r}."
    raise UsageError(f"{model.name} has no class {label!r} among its {len(labels)}; {which}")


def _require_seen(point: tuple[int, int], video: VideoReader, preprocessing: Preprocessing) -> None:
    x, y = point
    height, width = video.size
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(
            f"The point {x}, {y} is outside of the frames of {video.path}, whose x goes from 0 to "
            f"{width - 1} and y from 0 to {height - 1}."
        )
    top, left, side, _ = preprocessing.square(video.size)
    if not (left <= x < left + side and top <= y < top + side):
        raise UsageError(
            f"The point {x}, {y} of {video.path} is outside of the square that the network sees; "
            f"choose x from {left} to {left + side - 1} and y from {top} to {top + side - 1}."
        )


def _require_inside(seconds: float | None, video: VideoReader) -> None:
    if seconds is not None and not 0 <= seconds < len(video) / video.fps:
        raise UsageError(
            f"{seconds:g} s is not in {video.path}, which lasts {len(video) / video.fps:.2f} s."
        )
