"""A nonlocal block before any module of any network, for images and for video.

    python -c "import actionrec, torchvision; network = torchvision.models.resnet50(); \
               print(actionrec.insert_block(network, 'layer3.5', 'snl'))"

`scripts/images/complexity.py` counts what a block adds to ResNet-50 and FCN.
"""

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


class _Reached(Exception):
    """Ends a dry run; nothing after the site is computed."""


def insert_block(
    network: nn.Module,
    before: str,
    block: str = "snl",
    *,
    example: Tensor | None = None,
    reduction: int = 2,
    units: int = 1,
    **options: int | None,
) -> NonlocalBlock:
    """Let a nonlocal block compute before a module of a network, which is changed in place.

    The block starts as the identity, so the network's answers stay the same to the bit until it is
    trained. No key of the network's state dict changes; the block's are new, `nonlocal_block.*`
    under the name of the module. To load a trained network, insert the blocks and then load its
    state dict.

    Args:
        network: Any network; the module takes a feature map (B, C, H, W) or (B, C, T, H, W).
        before: The module's name in `network.named_modules()`, such as `layer3.5`.
        block: A key of `actionrec.models.registry.BLOCKS`.
        example: An input of the network; a dry run up to the module finds its channels. By default
            zeros of 224x224, with 16 frames if the first convolution is of 3D.
        reduction, units, **options: As for `build_block`.

    Returns:
        The block, on the device and in the type of the network.

    Raises:
        UsageError: there is no such module, no such block, the module takes no feature map, or it
            has a block.
    """
    modules = dict(network.named_modules())
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
    shape = _input_shape(network, site, before, example)
    weight = next(network.parameters())
    with weight.device:
        new = build_block(block, shape[1], reduction=reduction, units=units, **options)
    if weight.dtype != torch.get_default_dtype():
        new.to(weight.dtype)
    new.train(site.training)
    site.add_module(NAME, new)
    site.register_forward_pre_hook(_through_block)
    return new


# A function of the module, not of the block: a copy of the network calls the copy of the block.
def _through_block(site: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return site.get_submodule(NAME)(inputs[0]), *inputs[1:]


def _input_shape(
    network: nn.Module, site: nn.Module, name: str, example: Tensor | None
) -> torch.Size:
    """The shape of the feature map that reaches a module.

    Raises:
        UsageError: the module isn't reached, or takes no feature map.
    """
    kind = type(network).__name__
    if example is None:
        example = _example(network)
    found: list[object] = []

    def note(_: nn.Module, inputs: tuple[object, ...]) -> None:
        found.append(inputs[0] if inputs else None)
        raise _Reached

    training = {module: module.training for module in network.modules()}
    handle = site.register_forward_pre_hook(note)
    try:
        with torch.no_grad():
            network.eval()(example)
    except _Reached:
        pass
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"{kind} can't compute an example of {tuple(example.shape)} "
            f"({str(error).partition(chr(10))[0]}); give `example`, an input that it takes."
        ) from error
    finally:
        handle.remove()
        for module, mode in training.items():
            module.training = mode
    if not found:
        raise UsageError(f"{kind} does not call its module {name}; name one that it calls.")
    if not isinstance(found[0], Tensor) or found[0].dim() not in (4, 5):
        what = tuple(found[0].shape) if isinstance(found[0], Tensor) else type(found[0]).__name__
        raise UsageError(
            f"{name} of {kind} takes {what}, no feature map (B, C, H, W) or (B, C, T, H, W); name "
            "a module that takes one."
        )
    return found[0].shape


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
