"""Networks by their configuration."""

import pytest
import torch

from actionrec.errors import UsageError
from actionrec.models.inference import InferenceModel
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


def test_an_unknown_backbone_is_named_with_the_nearest_or_the_choices():
    with pytest.raises(UsageError, match=r"'SlowFast-R50'; did you mean slowfast_r50\?"):
        build_network(ClassifierConfig(("a",), "SlowFast-R50"))
    with pytest.raises(UsageError, match="no backbone 'vgg'; choose from i3d"):
        build_network(ClassifierConfig(("a",), "vgg"))


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 8, 32, 32), (3, 8, 32, 32), (3,)])
def test_what_is_no_clip_is_refused_in_a_sentence(shape, small_recognizer):
    pixels = torch.zeros(shape, dtype=torch.uint8)
    predicting = InferenceModel(small_recognizer, "cpu", "float32", engine="torch")
    takers = [(small_recognizer, pixels), (predicting.logits, pixels)]
    # A network alone may have another first layer.
    if len(shape) != 5:
        takers.append((small_recognizer.network, pixels.float()))
    for takes, clips in takers:
        with pytest.raises(UsageError, match=r"takes clips \(B, 3, T, H, W\), not \("):
            takes(clips)
