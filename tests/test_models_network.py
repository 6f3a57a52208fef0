"""Networks by their configuration."""

import pytest
import torch

from actionrec.errors import UsageError
from actionrec.models.network import BlockConfig, ClassifierConfig, build_network
from actionrec.models.registry import BACKBONES


@pytest.mark.parametrize(
    "backbone", [name for name in BACKBONES if not name.startswith(("mvit", "swin"))]
)
def test_every_convolutional_backbone_is_built_with_blocks_in_every_stage(backbone):
    # Without their numbers, which take seconds to draw.
    with torch.device("meta"):
        stages = tuple(build_network(ClassifierConfig(("a",), backbone)).stages)
        config = ClassifierConfig(("a", "b"), backbone, BlockConfig("snl", stages))
        assert len(build_network(config).blocks) == len(stages)


def test_an_unknown_backbone_is_named_with_the_choices():
    with pytest.raises(UsageError, match="no backbone 'i4d'; choose from i3d"):
        build_network(ClassifierConfig(("a",), "i4d"))
