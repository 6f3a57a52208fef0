"""A nonlocal block before any module of any network, for images and for video.

    python -c "import actionrec, torchvision; network = torchvision.models.resnet50(); \
               print(actionrec.insert_block(network, 'layer3.5', 'snl'))"

`scripts/images/complexity.py` counts what a block adds to ResNet-50 and FCN.
"""

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from actionrec.errors import UsageError
from actionrec.models.nonlocal_blocks import NonlocalBlock, build_block

# The block's name within the module that it precedes.
NAME = "nonlocal_block"
# Clips and images of a dry run: (T, H, W) and (H, W).
CLIP_SIZE = (16, 224, 224)
IMAGE_SIZE = (224, 224)


# Wrappers that would not see a block that is inserted later: the name of the class, what to call
# after the insertion.
WRAPPERS = {
    "OptimizedModule": "torch.compile",
    "DistributedDataParallel": "DistributedDataParallel",
    "FullyShardedDataParallel": "FullyShardedDataParallel",
}


def insert_block(
    network: nn.Module,
    before: str,
    block: str = "snl",
    *,
    example: Tensor | Sequence[Tensor] | None = None,
    reduction: int = 2,
    units: int = 1,
    **options: int | None,
) -> NonlocalBlock:
    """Let a nonlocal block compute before a module of a network, which is changed in place.

    The block starts as the identity, so the network's answers stay the same to the bit until it is
    trained. No key of the network's state dict changes; the block's are new, `nonlocal_block.*`
    under the name of the module. To load a trained network, insert the blocks and then load its
    state dict. Where the network calls the module several times, the block computes before each
    call.

    Args:
        network: Any network; the module takes a feature map (B, C, H, W) or (B, C, T, H, W).
        before: The module's name in `network.named_modules()`, such as `layer3.5`.
        block: A key of `actionrec.models.registry.BLOCKS`.
        example: An input of the network; a dry run finds the channels that reach the module. By
            default zeros of 224x224, with 16 frames if the first convolution is of 3D.
        reduction, units, **options: As for `build_block`.

    Returns:
        The block, on the device and in the type of the feature map.

    Raises:
        UsageError: there is no such module, no such block, the module takes no feature map or
            several with different channels, it has a block, or the network is scripted, compiled
            or wrapped for several processes.
    """
    _require_open(network)
    modules = dict(network.named_modules(remove_duplicate=False))
    if before not in modules or not before:
        nearest = get_close_matches(before, modules, n=1, cutoff=0)
        raise UsageError(
            f"{type(network).__name__} has no module {before!r}; the nearest is {nearest[0]!r}."
        )
    site = modules[before]
    # A container computes all that it holds, so the block goes before its first module.
    while isinstance(site, nn.Sequential) and len(site):
        site = site[0]
    if hasattr(site, NAME):
        raise UsageError(f"There is a block before {before} of {type(network).__name__} already.")
    features = _input_of(network, site, before, example)
    with features.device:
        new = build_block(block, features.shape[1], reduction=reduction, units=units, **options)
    if features.dtype != torch.get_default_dtype():
        new.to(features.dtype)
    new.train(site.training)
    site.add_module(NAME, new)
    site.register_forward_pre_hook(_through_block)
    return new


# A function of the module, not of the block: a copy of the network calls the copy of the block.
def _through_block(site: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return site.get_submodule(NAME)(inputs[0]), *inputs[1:]


def _require_open(network: nn.Module) -> None:
    """Raise UsageError if something has recorded the network's modules and would miss a block."""
    for module in network.modules():
        kind = type(module).__name__
        after = WRAPPERS.get(kind)
        if isinstance(module, torch.jit.ScriptModule):
            after = "torch.jit.script or torch.jit.trace"
        elif getattr(module, "_compiled_call_impl", None) is not None:
            after = "compile()"
        if after is not None:
            raise UsageError(
                f"A {kind} does not see a block that is inserted into it; insert the block first, "
                f"and call {after} then."
            )


def _input_of(
    network: nn.Module, site: nn.Module, name: str, example: Tensor | Sequence[Tensor] | None
) -> Tensor:
    """The feature map that reaches a module.

    Raises:
        UsageError: the module isn't reached, or takes no feature map, or several with different
            channels.
    """
    kind = type(network).__name__
    if example is None:
        example = _example(network)
    found: list[object] = []

    def note(_: nn.Module, inputs: tuple[object, ...]) -> None:
        found.append(inputs[0] if inputs else None)

    training = {module: module.training for module in network.modules()}
    handle = site.register_forward_pre_hook(note)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            network.eval()(example)
    # A network may raise anything. What is behind the module may need another size.
    except Exception as error:
        if not found:
            raise UsageError(
                f"{kind} can't compute an example of {_shape(example)} "
                f"({str(error).partition(chr(10))[0]}); give `example`, an input that it takes."
            ) from error
    finally:
        handle.remove()
        for module, mode in training.items():
            module.training = mode
    if not found:
        raise UsageError(f"{kind} does not call its module {name}; name one that it calls.")
    for each in found:
        if not isinstance(each, Tensor) or each.dim() not in (4, 5):
            what = "nothing but keywords" if each is None else _shape(each)
            raise UsageError(
                f"{name} of {kind} takes {what}, no feature map (B, C, H, W) or (B, C, T, H, W); "
                "name a module that takes one."
            )
    channels = list(dict.fromkeys(each.shape[1] for each in found))
    if len(channels) > 1:
        raise UsageError(
            f"{kind} calls {name} {len(found)} times, with {' and '.join(map(str, channels))} "
            "channels, and a block has one number of channels; name a module that it calls once."
        )
    return found[0]


def _shape(given: object) -> str:
    """The shape of a tensor, of each in a sequence, or the kind of anything else."""
    if isinstance(given, Tensor):
        return str(tuple(given.shape))
    if isinstance(given, list | tuple):
        return f"[{', '.join(map(_shape, given))}]"
    return type(given).__name__


def _example(network: nn.Module) -> Tensor:
    """Zeros of the size that the first convolution lets one guess.

    Raises:
        UsageError: there is no convolution.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            size = CLIP_SIZE if isinstance(module, nn.Conv3d) else IMAGE_SIZE
            return module.weight.new_zeros(1, module.in_channels, *size)
    raise UsageError(
        f"{type(network).__name__} has no convolution that tells what it takes; give `example`, an "
        "input of the network."
    )
