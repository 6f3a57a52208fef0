"""r3d50, the paper's own network."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video.resnet import Bottleneck, Conv3DSimple, VideoResNet

from actionrec.models.resnet3d import r3d50


class HaraStem(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(),
            nn.MaxPool3d(3, stride=2, padding=1),
        )


def test_logits_equal_those_of_torchvisions_residual_network():
    torch.manual_seed(0)
    ours = r3d50(classes=10)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    theirs = VideoResNet(Bottleneck, [Conv3DSimple] * 4, [3, 4, 6, 3], HaraStem, num_classes=10)
    # Both keep the same tensors in the same order.
    values = list(ours.state_dict().values())
    names = list(theirs.state_dict())
    assert len(values) == len(names)
    theirs.load_state_dict(dict(zip(names, values, strict=True)))
    clip = torch.randn(1, 3, 8, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(clip), theirs.eval()(clip), atol=1e-4, rtol=1e-4)


def test_parameters_and_multiply_adds_are_those_of_table_7():
    network = r3d50(classes=400).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 47_018_576
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 16, 112, 112))
    # The counter counts a multiplication and an addition as two.
    assert round(counter.get_total_flops() / 2e9, 2) == 10.07
