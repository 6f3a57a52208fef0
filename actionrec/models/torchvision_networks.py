"""Networks of torchvision: r3d_18, mc3_18, r2plus1d_18 and s3d.

    python -c "from actionrec.models.torchvision_networks import r2plus1d_18; print(r2plus1d_18())"

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, and
Xie et al., "Rethinking Spatiotemporal Feature Learning", ECCV 2018.
"""

from collections.abc import Callable

from torch import nn
from torchvision.models import video

from actionrec.models.backbone import Backbone, first_convolution

S3D_STAGES = {2: (2, 3), 3: (5, 6), 4: (8, 9, 10, 11, 12), 5: (14, 15)}


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
