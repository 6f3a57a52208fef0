"""Networks of torchvision: r3d_18, mc3_18, r2plus1d_18, s3d, and the transformers MViT and Swin.

    python -c "from actionrec.models.torchvision_networks import r2plus1d_18; print(r2plus1d_18())"

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, and
Xie et al., "Rethinking Spatiotemporal Feature Learning", ECCV 2018; Fan et al., "Multiscale Vision
Transformers", ICCV 2021; Li et al., "MViTv2", CVPR 2022; Liu et al., "Video Swin Transformer", CVPR
2022.
"""

from collections.abc import Callable

import torch
from torch import nn
from torchvision.models import video

from actionrec.errors import UsageError
from actionrec.models.backbone import Backbone, first_convolution

S3D_STAGES = {2: (2, 3), 3: (5, 6), 4: (8, 9, 10, 11, 12), 5: (14, 15)}


Tokens = tuple[torch.Tensor, tuple[int, int, int]]


class Patches(nn.Module):
    """The input of MViT's first block: (B, 3, T, H, W) to tokens (B, N, C) and their grid.

    It takes clips of one size, for which it has learnt where tokens are.
    """

    def __init__(self, conv_proj: nn.Module, pos_encoding: nn.Module) -> None:
        super().__init__()
        self.conv_proj, self.pos_encoding = conv_proj, pos_encoding
        self.grid = (pos_encoding.temporal_size, *pos_encoding.spatial_size)

    def forward(self, x: torch.Tensor) -> Tokens:
        y = self.conv_proj(x)
        if tuple(y.shape[2:]) != self.grid:
            own = (s * n for s, n in zip(self.conv_proj.stride, self.grid, strict=True))
            raise UsageError(
                f"This network takes clips of {'x'.join(map(str, own))}, not of "
                f"{'x'.join(map(str, x.shape[2:]))}; set --clip-length, --crop and --short-side."
            )
        return self.pos_encoding(y.flatten(2).transpose(1, 2)), self.grid


class TokenUnit(nn.Module):
    """A block of MViT."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tokens) -> Tokens:
        return self.block(*tokens)


class ClassToken(nn.Module):
    """The normalised class token, as a map (B, C, 1, 1, 1)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, tokens: Tokens) -> torch.Tensor:
        return self.norm(tokens[0])[:, 0, :, None, None, None]


class ChannelsFirst(nn.Module):
    """Swin's last map, (B, T, H, W, C), normalised, as (B, C, T, H, W)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x).permute(0, 4, 1, 2, 3)


def mvit_v1_b(classes: int = 400) -> Backbone:
    """MViT-B, for 16 frames of 224x224 with a stride of 4: 36.61 M parameters with 400 classes."""
    return _mvit(video.mvit_v1_b, classes)


def mvit_v2_s(classes: int = 400) -> Backbone:
    """MViTv2-S, for 16 frames of 224x224 with a stride of 4: 34.54 M parameters with 400
    classes."""
    return _mvit(video.mvit_v2_s, classes)


def swin3d_t(classes: int = 400) -> Backbone:
    """Video Swin-T: 28.16 M parameters with 400 classes."""
    return _swin(video.swin3d_t, classes)


def swin3d_s(classes: int = 400) -> Backbone:
    """Video Swin-S: 49.82 M parameters with 400 classes."""
    return _swin(video.swin3d_s, classes)


def swin3d_b(classes: int = 400) -> Backbone:
    """Video Swin-B: 88.05 M parameters with 400 classes."""
    return _swin(video.swin3d_b, classes)


def r3d_18(classes: int = 400) -> Backbone:
    """ResNet-18 of 3x3x3 convolutions: 33.37 M parameters with 400 classes."""
    return _resnet(video.r3d_18, classes)


def mc3_18(classes: int = 400) -> Backbone:
    """ResNet-18 of 3x3x3 convolutions in stage 2 and of 1x3x3 ones after it: 11.70 M parameters
    with 400 classes."""
    return _resnet(video.mc3_18, classes)


def r2plus1d_18(classes: int = 400) -> Backbone:
    """ResNet-18 whose convolutions are 1x3x3 ones followed by 3x1x1 ones: 31.51 M parameters with
    400 classes."""
    return _resnet(video.r2plus1d_18, classes)


def s3d(classes: int = 400) -> Backbone:
    """Inception-I3D with separable convolutions: 8.32 M parameters with 400 classes."""
    network = video.s3d(num_classes=classes)
    units = {f"features_{number}": unit for number, unit in enumerate(network.features)}
    stages = {stage: tuple(f"features_{n}" for n in each) for stage, each in S3D_STAGES.items()}
    for name in (name for names in stages.values() for name in names):
        units[name].in_channels = first_convolution(units[name]).in_channels
    dropout, head = network.classifier
    return Backbone(
        units, stages, head.in_channels, classes, dropout.p, window=network.avgpool.kernel_size
    )


def _resnet(published: Callable[..., nn.Module], classes: int) -> Backbone:
    network = published(num_classes=classes)
    units: dict[str, nn.Module] = {"stem": network.stem}
    stages = {}
    for number in (1, 2, 3, 4):
        layer = network.get_submodule(f"layer{number}")
        names = tuple(f"layer{number}_{position}" for position in range(len(layer)))
        for name, unit in zip(names, layer, strict=True):
            unit.in_channels = first_convolution(unit).in_channels
            units[name] = unit
        stages[number + 1] = names
    return Backbone(units, stages, network.fc.in_features, classes, dropout=0.0)


def _mvit(published: Callable[..., nn.Module], classes: int) -> Backbone:
    network = published(num_classes=classes)
    units: dict[str, nn.Module] = {"patches": Patches(network.conv_proj, network.pos_encoding)}
    stages: dict[int, tuple[str, ...]] = {2: ()}
    for position, block in enumerate(network.blocks):
        # A stage begins where tokens are pooled.
        stage = max(stages) + (block.pool_skip is not None)
        name = f"block_{position}"
        units[name] = TokenUnit(block)
        stages[stage] = (*stages.get(stage, ()), name)
    units["norm"] = ClassToken(network.norm)
    dropout, head = network.head
    return Backbone(units, stages, head.in_features, classes, dropout.p)


def _swin(published: Callable[..., nn.Module], classes: int) -> Backbone:
    network = published(num_classes=classes)
    units: dict[str, nn.Module] = {"patch_embed": network.patch_embed}
    units |= {f"features_{number}": unit for number, unit in enumerate(network.features)}
    units["norm"] = ChannelsFirst(network.norm)
    # Between two stages a unit merges patches; it belongs to the later one.
    stages = {
        stage: (f"features_{2 * stage - 5}", f"features_{2 * stage - 4}") for stage in (3, 4, 5)
    }
    stages = {2: ("features_0",), **stages}
    return Backbone(units, stages, network.head.in_features, classes, dropout=0.0)
