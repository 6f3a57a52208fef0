"""A network by its configuration: a backbone, nonlocal blocks in it, a head for the labels.

    python -c "from actionrec.models.network import *; \
               print(build_network(ClassifierConfig(('run', 'jump'), block=BlockConfig('snl'))))"
"""

from dataclasses import dataclass, field

from actionrec.models.backbone import Backbone
from actionrec.models.decision import Decision
from actionrec.models.nonlocal_blocks import build_block
from actionrec.models.registry import BACKBONES, find
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing


@dataclass(frozen=True)
class BlockConfig:
    """The nonlocal blocks of a network: which, and how many of them where.

    `per_stage` blocks stand before the last units of each of `stages`; the other fields are
    the arguments of `nonlocal_blocks.build_block`.
    """

    name: str = "none"
    stages: tuple[int, ...] = (4,)
    per_stage: int = 1
    reduction: int = 2
    order: int | None = None
    groups: int | None = None
    passes: int | None = None
    units: int = 1


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that defines a classifier but its weights."""

    labels: tuple[str, ...]
    backbone: str = "i3d"
    block: BlockConfig = field(default_factory=BlockConfig)
    sampling: ClipSampling = field(default_factory=ClipSampling)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    decision: Decision = field(default_factory=Decision)

    @property
    def outputs(self) -> int:
        """Outputs of the network: one a label, and that of the detector of known videos."""
        return len(self.labels) + self.decision.detector


def build_network(config: ClassifierConfig) -> Backbone:
    """The backbone of `config` with its nonlocal blocks and a head for its outputs.

    Raises:
        UsageError: no such backbone, block or stage, or block settings that don't go together.
    """
    network = find(BACKBONES, config.backbone, "backbone")(classes=config.outputs)
    settings = vars(config.block).copy()
    name, stages, per_stage = (settings.pop(key) for key in ("name", "stages", "per_stage"))
    # Without a block, too, a stage that there is not is a mistake.
    for stage in stages:
        network.units_of(stage)
    if name == "none":
        return network
    for stage in stages:
        for unit, channels in network.block_sites(stage, per_stage).items():
            network.blocks[unit] = build_block(name, channels, **settings)
    return network
