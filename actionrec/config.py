"""The settings of a training run, with their bounds in the types: one data class for the flags of
`actionrec train`, the keys of its YAML files and the record beside its results.

    actionrec train --help
"""

import json
import re
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Literal

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

from actionrec.datasets.registry import DATASETS
from actionrec.errors import UsageError
from actionrec.models.registry import BACKBONES, BLOCKS, PrecisionName

BackboneName = Literal[*BACKBONES]
BlockName = Literal["none", *BLOCKS]
TrainFromName = Literal["all", "stage2", "stage3", "stage4", "stage5", "block"]
DecoderName = Literal["pyav", "decord", "torchcodec"]
AugmentName = Literal["none", "color", "randaugment"]
MixName = Literal["none", "mixup", "cutmix", "both"]
DatasetName = Literal[*DATASETS]

Below1 = restricted_number_type("Below1", float, [(">=", 0), ("<", 1)])
Area = restricted_number_type("Area", float, [(">", 0), ("<=", 1)])


@dataclass
class TrainConfig:
    """Settings of a training run; the defaults are the paper's protocol.

    Args:
        dataset: Kind of data set.
        root: Its folder, or the CSV file; the demo data set makes its own.
        split: One of the data set's splits, which `actionrec data list` names.
        backbone: Network.
        weights: Initial weights: kinetics400 (downloaded once), none, or a file: a model of
            actionrec, for r3d50 one of Hara's .pth, for i3d_r50 PyTorchVideo's .pyth.
        block: Nonlocal block to put into the network.
        stages: Stages that get a block before their last unit, such as 3 4.
        blocks_per_stage: Blocks of a stage, before its last units.
        reduction: Channels of the feature map over those in the block: 1, 2 or 4.
        order: Order of the filter, for gsnl, cheb and cayley.
        groups: Groups of channels, for cgnl.
        units: Units of a block that share one affinity.
        clip_length: Frames of a clip.
        stride: Frames from one frame of a clip to the next.
        fps: Frame rate that the stride refers to, such as 25, so that videos of all rates are seen
            at the same speed; by default each video's own.
        short_side: Pixels of a frame's short side before the crop; training draws it between this
            and 1.25 times this.
        crop: Side of the square that the network sees, in pixels.
        gamma: Exponent of the pixel values in [0, 1]; 0.4 brightens videos filmed in the dark.
        crop_area: Share of the frame's area that a training crop takes, least and most, such as
            0.3 1 (Inception's way, the sides 3:4 to 4:3); by default squares by short_side.
        augment: Change training clips further: color jitters brightness, contrast, saturation and
            hue; randaugment applies two random operations to a clip.
        mix: Mix the clips of a batch and their labels: mixup blends two, cutmix puts a part of one
            into another, both takes either by chance.
        flip: Mirror half of the training clips; by default where no class is the mirror image
            of another.
        train_from: Trained part: all, everything from a stage on (stage4), or only the nonlocal
            blocks and the head (block); the rest keeps its weights and statistics.
        epochs: Passes over the training videos.
        batch_size: Clips of one step, on all devices together.
        accumulate: Batches whose gradients are added up before the weights are changed.
        clip_gradient: Largest norm of the gradient; longer ones are shortened to it.
        label_smoothing: Share of the label's probability that is spread over all classes.
        lr: Learning rate of the first epochs.
        lr_for_batch: Clips of a step that lr is meant for, such as 16; lr then grows and falls with
            batch_size times accumulate, in proportion (Goyal et al. 2017).
        warmup: Epochs until the learning rate has risen to lr, in equal steps.
        schedule: How the learning rate falls: step, or cosine, to 0 at the last epoch's end.
        lr_step: Epochs after which the learning rate is divided by 10, again and again; by
            default two fifths of all epochs, as in the paper's 40 of 100.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        freeze_batchnorm: Keep the backbone's batch normalisation at its pretrained statistics;
            helps with small batches.
        sync_batchnorm: With several devices, batch normalisation over the clips of all of them.
        ema: Decay of a moving average of the weights, such as 0.999, or 0.99 for short runs; the
            average is validated and saved.
        precision: Numbers of the forward and backward pass, the weights stay float32; auto is
            bfloat16 on a GPU that has it, else float32. A CPU with bfloat16 is faster with it, too.
        compile: Compile the network with torch.compile: faster on a GPU after a slow first step.
        devices: GPUs of this machine to train on, a process each; without a GPU, processes.
        nodes: Machines to train on, each with as many devices; start it with torchrun or Slurm.
        workers: Processes that read videos, for each device.
        decoder: Library that decodes videos; those but pyav are extras and less exact.
        seed: Seed of the weights and of every random choice.
        max_bad: Share of training videos that may be unreadable before training stops.
        output: Folder of the run; by default runs/DATASET-BACKBONE-BLOCK.
        resume: auto continues the run in the output folder where it was stopped.
    """

    dataset: DatasetName
    root: str | None = None
    split: str = "1"
    backbone: BackboneName = "i3d"
    weights: str = "kinetics400"
    block: BlockName = "snl"
    stages: list[PositiveInt] = field(default_factory=lambda: [4])
    blocks_per_stage: PositiveInt = 1
    reduction: PositiveInt = 2
    order: PositiveInt | None = None
    groups: PositiveInt | None = None
    units: PositiveInt = 1
    clip_length: PositiveInt = 16
    stride: PositiveInt = 1
    fps: PositiveFloat | None = None
    short_side: PositiveInt = 128
    crop: PositiveInt = 124
    gamma: PositiveFloat = 1.0
    crop_area: list[Area] | None = None
    augment: AugmentName = "none"
    mix: MixName = "none"
    flip: bool | None = None
    train_from: TrainFromName = "all"
    epochs: PositiveInt = 100
    batch_size: PositiveInt = 16
    accumulate: PositiveInt = 1
    clip_gradient: PositiveFloat | None = None
    label_smoothing: Below1 = 0.0
    lr: PositiveFloat = 0.01
    lr_for_batch: PositiveInt | None = None
    warmup: NonNegativeInt = 0
    schedule: Literal["step", "cosine"] = "step"
    lr_step: PositiveInt | None = None
    momentum: Below1 = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    freeze_batchnorm: bool = False
    sync_batchnorm: bool = False
    ema: OpenUnitInterval | None = None
    precision: Literal[PrecisionName, "float16"] = "auto"
    compile: bool = False
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    workers: NonNegativeInt = 2
    decoder: DecoderName = "pyav"
    seed: NonNegativeInt = 0
    max_bad: ClosedUnitInterval = 0.01
    output: str | None = None
    resume: Literal["never", "auto"] = "never"

    def __post_init__(self) -> None:
        """Check every setting against its type, and store it as a plain number, string or list.

        Raises:
            UsageError: a setting is not of its type or out of its bounds.
        """
        for each in fields(self):
            # Any type admits None to jsonargparse.
            if getattr(self, each.name) is None and each.default is not None:
                raise UsageError(f"{each.name} is None; leave it out for the default.")
        parser = _settings_parser()
        try:
            settings = parser.parse_object(asdict(self))
        except ArgumentError as error:
            raise UsageError(type_sentence(str(error))) from None
        # YAML has no words for numbers with bounds.
        vars(self).update(json.loads(parser.dump(settings, format="json", skip_validation=True)))


@cache
def _settings_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig)
    return parser


def type_sentence(message: str) -> str:
    """A sentence in place of jsonargparse's message on a value that is not of its setting's type.

    A message on anything else is returned in one line.
    """
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    value = value or re.search(r"(?:type \w+: |base 10: |to float: )(\S+)(?: does| not|$)", message)
    found = ((re.search(pattern, message), words) for pattern, words in EXPECTED.items())
    expected = next((match.expand(words) for match, words in found if match), None)
    if not key or not value or not expected:
        return " ".join(message.split())
    for sign, word in {">=": "at least ", "<=": "at most ", ">": "above ", "<": "below "}.items():
        expected = expected.replace(f"v{sign}", word)
    return f"{key[1]} is {value[1]}; it must be {expected}.".replace("'", "")


# Parts of jsonargparse's messages that tell the expected values, and our words for these.
EXPECTED = {
    r"restriction (v.*)": r"\1",
    r"Literal\[(.*?)\]": r"one of \1",
    r"not an integer|for int\(\)|a <class 'int'": "a whole number",
    r"not a number|to float|a <class 'float'": "a number",
    r"a <class 'bool'": "true or false",
    r"a <class 'str'": "text",
}
