"""Ranges of what convolutions see, made ready for 8 bits; the network's function stays the same.

    actionrec export --quantize int8 --calibrate videos/ --output i3d-int8.onnx

Quantisation divides the range of a feature map into 255 steps of one size. Two things waste them.
Pixels have 256 levels already, and steps that are not theirs move every pixel: on I3D's logits that
makes half of the error. And a channel whose values are small has few steps beside one whose values
are large. Whatever commutes with a positive factor lies between two convolutions, a ReLU, a
maximum, a concatenation, lets a factor move from the weights of the second to those of the first:
Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import Node

from actionrec.models.classifier import VideoClassifier
from actionrec.models.graph import trace_prediction

# Of a channel's range, what its factor is: with 1 all channels would have the same range, and the
# weights' columns ranges as different as the channels' were. On I3D's logits 0.5 leaves 0.6 of the
# error, 0.75 leaves 0.7, and 1 makes more.
POWER = 0.5
# Of a feature map's largest value: channels below are as good as zero.
LEAST_RANGE = 1e-3
# f(s x) = s f(x) for a positive s, channel by channel.
HOMOGENEOUS = ("relu", "relu_", "max_pool3d", "dropout", "clone", "contiguous", "alias")
PADDING = ("pad", "constant_pad_nd")


@torch.inference_mode()
def scale_pixels(model: VideoClassifier) -> None:
    """Make a folded classifier's network take pixels as whole numbers, in place.

    The first convolutions take over the division by the standard deviation, and what the means
    differ from whole numbers. A border that they pad has the colour of the whole number then, not
    of the mean, less than half a level away. With a gamma the levels are not evenly spaced, and the
    model stays as it is.
    """
    preprocessing = model.config.preprocessing
    firsts = [
        module
        for module in model.network.modules()
        if isinstance(module, nn.Conv3d) and module.in_channels == 3 and module.groups == 1
    ]
    if preprocessing.gamma != 1 or not firsts:
        return
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    zero = (255 * mean).round() / 255
    for convolution in firsts:
        weight = convolution.weight / std.view(1, 3, 1, 1, 1)
        shift = (weight.sum(dim=(2, 3, 4)) * (zero - mean)).sum(dim=1)
        bias = shift if convolution.bias is None else convolution.bias + shift
        convolution.bias = nn.Parameter(bias, requires_grad=False)
        convolution.weight.copy_(weight / 255)
    levels = replace(preprocessing, mean=tuple(zero.tolist()), std=(1 / 255, 1 / 255, 1 / 255))
    model.config = replace(model.config, preprocessing=levels)


@torch.inference_mode()
def equalize_channels(model: VideoClassifier, clips: Iterable[Tensor]) -> None:
    """Make the ranges of a feature map's channels more alike, in place, wherever only convolutions
    see the feature map.

    Args:
        model: Folded, on the CPU, in float32.
        clips: Some clips, uint8 (1, 3, T, H, W), that are like those to come.
    """
    pairs = dict(_convolution_pairs(model))
    ranges: dict[nn.Conv3d, Tensor] = {}

    def note(convolution: nn.Conv3d, inputs: tuple[Tensor]) -> None:
        found = inputs[0].abs().amax(dim=(0, 2, 3, 4))
        before = ranges.get(convolution)
        ranges[convolution] = found if before is None else torch.maximum(before, found)

    seeing = {consumer for consumers in pairs.values() for consumer, _ in consumers}
    show_inputs(model, seeing, clips, note)
    for producer, consumers in pairs.items():
        parts = [
            (consumer, slice(first, first + producer.out_channels)) for consumer, first in consumers
        ]
        largest = torch.stack([ranges[consumer][part] for consumer, part in parts]).amax(dim=0)
        least = LEAST_RANGE * max(float(ranges[consumer].max()) for consumer, _ in parts)
        factor = largest.clamp(min=max(least, torch.finfo(torch.float32).tiny)) ** POWER
        producer.weight.div_(factor.view(-1, 1, 1, 1, 1))
        if producer.bias is not None:
            producer.bias.div_(factor)
        for consumer, part in parts:
            consumer.weight[:, part].mul_(factor.view(-1, 1, 1, 1))


def show_inputs(
    model: VideoClassifier,
    convolutions: Iterable[nn.Conv3d],
    clips: Iterable[Tensor],
    note: Callable[[nn.Conv3d, tuple[Tensor]], None],
) -> None:
    """Call `note` with what each of the convolutions sees of each clip."""
    hooks = [convolution.register_forward_pre_hook(note) for convolution in convolutions]
    try:
        for clip in clips:
            model(clip)
    finally:
        for hook in hooks:
            hook.remove()


def _convolution_pairs(
    model: VideoClassifier,
) -> Iterator[tuple[nn.Conv3d, list[tuple[nn.Conv3d, int]]]]:
    """The convolutions whose outputs only convolutions see, and these, each with the position of
    the first of the outputs among its input channels."""
    program = trace_prediction(model)
    parameters = program.graph_signature.inputs_to_parameters
    nodes: dict[Node, nn.Conv3d] = {}
    for node in program.graph.nodes:
        if _kind(node) == "conv3d" and node.args[1].name in parameters:
            name = parameters[node.args[1].name].removeprefix("model.").removesuffix(".weight")
            module = model.get_submodule(name)
            # A convolution that is used twice can't have two factors.
            if module.groups == 1 and len(node.args[1].users) == 1:
                nodes[node] = module
    for node, producer in nodes.items():
        consumers = _consumers(node, 0, nodes)
        if consumers:
            yield producer, consumers


def _consumers(
    node: Node, first: int, nodes: dict[Node, nn.Conv3d]
) -> list[tuple[nn.Conv3d, int]] | None:
    """The convolutions that see a node's channels, which begin at `first` there; None if anything
    else sees them."""
    found: list[tuple[nn.Conv3d, int]] = []
    for user in node.users:
        kind, position = _kind(user), first
        if user in nodes and user.args[0] is node:
            found.append((nodes[user], first))
            continue
        if kind == "cat" and user.args[1:] == (1,) and user.args[0].count(node) == 1:
            before = user.args[0][: user.args[0].index(node)]
            position += sum(part.meta["val"].shape[1] for part in before)
        elif kind in PADDING:
            if any(user.args[3:]) or (len(user.args) > 2 and user.args[2] not in ("constant", 0)):
                return None
        elif kind not in HOMOGENEOUS:
            return None
        further = _consumers(user, position, nodes)
        if further is None:
            return None
        found += further
    return found


def _kind(node: Node) -> str:
    """The name of the operation of a node, such as conv3d."""
    return str(node.target).removeprefix("aten.").partition(".")[0]
