"""PreResNet-56 for images of 32x32, the network of the paper's Tables 2 to 5.

    python -c "from preresnet import preresnet56; print(preresnet56(classes=100))"

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016: batch normalisation and ReLU
before each convolution, three stages. The paper does not say which residual units its 56 layers
are; bottlenecks, six a stage, are a choice of ours.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNITS = 6
EXPANSION = 4


class Bottleneck(nn.Module):
    """Residual unit on (B, C, H, W): 1x1 to `width` channels, 3x3 with the stride, 1x1 to four
    times `width`."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.downsample = None
        if stride != 1 or in_channels != EXPANSION * width:
            self.downsample = nn.Conv2d(in_channels, EXPANSION * width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv1(y)
        y = self.conv2(F.relu(self.bn2(y)))
        return self.conv3(F.relu(self.bn3(y))) + shortcut


class PreResNet(nn.Module):
    """Images (B, 3, H, W) to logits (B, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16, stride=1)
        self.layer2 = _stage(64, 32, stride=2)
        self.layer3 = _stage(128, 64, stride=2)
        self.bn = nn.BatchNorm2d(256)
        self.fc = nn.Linear(256, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(torch.relu(self.bn(x)).mean(dim=(2, 3)))


def _stage(in_channels: int, width: int, stride: int) -> nn.Sequential:
    later = [Bottleneck(EXPANSION * width, width, 1) for _ in range(UNITS - 1)]
    return nn.Sequential(Bottleneck(in_channels, width, stride), *later)


def preresnet56(classes: int) -> PreResNet:
    """0.61 M parameters and 0.09 G multiply-adds with 100 classes at 32x32."""
    return PreResNet(classes)
