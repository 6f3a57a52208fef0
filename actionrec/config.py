"""The settings of a training run: one data class for the flags of `actionrec train`, the keys of
its YAML files and the record beside its results.

    actionrec train --help
"""

import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    PositiveInt,
    restricted_number_type,
)

from actionrec.datasets.registry import DATASETS
from actionrec.errors import UsageError
from actionrec.models.registry import BACKBONES, BLOCKS, PrecisionName
from actionrec.recipes import OF_OPTIMIZERS, RECIPES
from actionrec.video.pictures import frame_rate

BackboneName = Literal[*BACKBONES]
BlockName = Literal["none", *BLOCKS]
TrainFromName = Literal["all", "stage2", "stage3", "stage4", "stage5", "block", "head"]
DecoderName = Literal["pyav", "decord", "torchcodec"]
AugmentName = Literal["none", "color", "randaugment"]
MixName = Literal["none", "mixup", "cutmix", "both"]
DatasetName = Literal[*DATASETS]
RecipeName = Literal["auto", *RECIPES]
OptimizerName = Literal[*OF_OPTIMIZERS]
LoggerName = Literal["auto", "csv", "tensorboard", "wandb", "mlflow", "comet"]

# Numbers that are finite.
Positive = restricted_number_type("Positive", float, [(">", 0), ("<", math.inf)])
NotNegative = restricted_number_type("NotNegative", float, [(">=", 0), ("<", math.inf)])
Below1 = restricted_number_type("Below1", float, [(">=", 0), ("<", 1)])
Share = restricted_number_type("Share", float, [(">", 0), ("<=", 1)])
# The numbers that NumPy's generators begin with.
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])


@dataclass
class TrainConfig:
    """Settings of a training run.

    A setting that is None is filled in before the training, by the recipe, the data set or the
    machine. In the recipe "paper" clips, learning rate, SGD and epochs are those that the paper
    states; batch size, scale jitter and flips, of which it states nothing, are ours.

    Args:
        dataset: Name of the data set, from `actionrec data list`.
        root: Folder of the data set, or the CSV file; the demo data set generates its own.
        split: 1, 2, 3 or paper for ucf101; 1 to 3 for hmdb51; the fold, 1 to 5, for a CSV file
            without a split column.
        frame_rate: Frames a second of folders of frames.
        multi_label: A video may have several labels, parted by | in the CSV file, or none.
        recipe: Values of the settings marked (recipe) that are not given: paper, small for few
            videos, or auto, which is paper for the public data sets and chosen by the number of
            videos for others.
        backbone: Network; by default that of weights named by `actionrec weights list`, else i3d.
        weights: Initial weights: kinetics400 (those of the backbone, downloaded once), a name from
            `actionrec weights list`, none, or a file: a model of actionrec, Hara's for r3d50,
            PyTorchVideo's or torchvision's for their networks.
        block: Type of nonlocal block (recipe).
        stages: Stages with a block before their last unit, such as 3 4.
        blocks_per_stage: Number of blocks in each stage, before its last units.
        reduction: Factor by which the block reduces the channels: 1, 2, 4 or 8.
        order: Order of the filter (gsnl, cheb and cayley).
        groups: Number of channel groups (cgnl).
        passes: Number of passes through the block with the same weights (cc).
        units: Number of filters in a block that share one affinity.
        clip_length: Frames of a clip (recipe).
        stride: Distance between two frames of a clip, in frames (recipe).
        fps: Frame rate to which the stride refers, such as 25, for videos of different rates; by
            default the stride refers to the rate of each video (recipe).
        short_side: Short side of a frame before the crop, in pixels; training draws it between this
            value and 1.25 times as much (recipe).
        crop: Side of the square input of the network, in pixels (recipe).
        gamma: Exponent of the pixel values in [0, 1]; 0.4 brightens videos filmed in the dark
            (recipe).
        crop_area: Least and largest share of the frame in a training crop, such as 0.3 1, with
            sides of 3:4 to 4:3 (Inception); by default square crops after short_side.
        augment: Augmentation of training clips: color jitters brightness, contrast, saturation and
            hue; randaugment applies two random operations to a clip (recipe).
        mix: Mixture of the clips and labels in a batch: mixup blends two clips, cutmix pastes a
            part of one into another, both chooses at random.
        flip: Mirror half of the training clips; by default only if no class is the mirror image of
            another.
        erasing: Probability that a box, the same in all frames, is erased from a training clip.
        repeated_augmentation: Clips of each video in a batch, each drawn and augmented anew; an
            epoch has so many times the steps.
        class_weights: Weights of the classes in the loss: none, inverse (of their numbers of
            training videos), effective (inverse of the effective numbers of these, Cui et al.
            2019), or in a YAML file a mapping of labels to weights, 1 for the others.
        balanced_sampling: Draw clips of every class equally often; an epoch has as many as before.
        focal_gamma: Exponent of the focal loss, such as 2, which counts clips less the surer they
            are right (Lin et al. 2017); 0 for cross-entropy.
        train_from: Trained part: all, everything from a stage on (stage4), only the nonlocal blocks
            and the head (block), or only the head (head), which is then fitted to the features
            of the frozen network in seconds; the rest keeps its weights and statistics (recipe).
        fit_head: Fit the head to the features of the pretrained network before the first epoch, so
            that its first gradients disturb the rest less (Kumar et al. 2022) (recipe).
        epochs: Passes over the training videos (recipe).
        batch_size: Clips of one step, on all devices together (recipe).
        accumulate: Number of batches whose gradients are added for one step.
        clip_gradient: Largest norm of the gradient.
        label_smoothing: Share of the label that is spread over all classes.
        optimizer: sgd with momentum, or adamw, the choice for transformers: Adam with decoupled
            weight decay, none on norms, biases and embeddings of positions.
        lr: Learning rate of the first epochs (recipe; 0.0001 with adamw).
        lr_for_batch: Batch size to which lr refers, such as 16; lr is scaled in proportion to
            batch_size times accumulate (Goyal et al. 2017).
        lr_new: Factor of the learning rate of new layers: nonlocal blocks, and the head unless it
            was fitted (recipe).
        lr_layer_decay: Factor of the learning rate from each unit of the network to the one before
            it, such as 0.75; 1 for the same in all. New layers have lr times lr_new.
        warmup: Epochs in which the learning rate rises to lr, in equal steps (recipe).
        schedule: Course of the learning rate: step, or cosine to 0 at the end of the last epoch
            (recipe).
        lr_step: Epochs between divisions of the learning rate by 10; by default two fifths of all
            epochs, as in the paper (40 of 100).
        momentum: Momentum of SGD.
        weight_decay: Weight decay (recipe; 0.05 with adamw).
        drop_path: Probability of leaving out the last residual branch, from 0 for the first on
            (stochastic depth); by default that of the published network. MViT and Swin have it.
        freeze_batchnorm: Keep the pretrained statistics of the backbone's batch normalisation;
            helps with small batches (recipe).
        sync_batchnorm: Normalise over the clips of all devices.
        ema: Decay of a moving average of the weights, such as 0.999, or 0.99 for short runs, which
            is then validated and saved; 0 for none (recipe).
        precision: Numbers of the forward and backward pass, the weights stay float32; auto is
            bfloat16 on a GPU that has it, with the recipe small on such a CPU too, else float32.
        compile: Compile the network with torch.compile: faster on a GPU after a slow first step.
        gradient_checkpointing: Compute the inside of every unit again for its gradients instead of
            keeping it: less memory, more time, the same gradients.
        devices: GPUs (or, without a GPU, processes) of this machine.
        nodes: Number of machines with as many devices each; start with torchrun or Slurm.
        workers: Number of processes that read videos, for each device.
        decoder: Decoding library; decord and torchcodec are extras and less exact.
        seed: Seed of the weights and of every random choice.
        patience: Epochs without a better validation Top-1 (mAP with several labels) after which
            the run ends; by default it goes on through all epochs.
        logger: What figures are sent to beside the run's CSV; auto: TensorBoard if it is installed.
            Keys and addresses are taken from the service's own environment variables.
        max_bad: Largest share of broken training videos; more end the training.
        output: Folder of the run; by default runs/DATASET-BACKBONE-BLOCK.
        resume: auto continues the stopped run in the output folder.
    """

    dataset: DatasetName
    root: str | None = None
    split: str = "1"
    frame_rate: Positive = field(default_factory=frame_rate)
    multi_label: bool = False
    recipe: RecipeName = "auto"
    backbone: BackboneName | None = None
    weights: str = "kinetics400"
    block: BlockName | None = None
    stages: list[PositiveInt] = field(default_factory=lambda: [4])
    blocks_per_stage: PositiveInt = 1
    reduction: PositiveInt = 2
    order: PositiveInt | None = None
    groups: PositiveInt | None = None
    passes: PositiveInt | None = None
    units: PositiveInt = 1
    clip_length: PositiveInt | None = None
    stride: PositiveInt | None = None
    fps: Positive | None = None
    short_side: PositiveInt | None = None
    crop: PositiveInt | None = None
    gamma: Positive | None = None
    crop_area: list[Share] | None = None
    augment: AugmentName | None = None
    mix: MixName = "none"
    flip: bool | None = None
    erasing: ClosedUnitInterval = 0.0
    repeated_augmentation: PositiveInt = 1
    class_weights: Literal["none", "inverse", "effective"] | dict[str, Positive] = "none"
    balanced_sampling: bool = False
    focal_gamma: NotNegative = 0.0
    train_from: TrainFromName | None = None
    fit_head: bool | None = None
    epochs: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    accumulate: PositiveInt = 1
    clip_gradient: Positive | None = None
    label_smoothing: Below1 = 0.0
    optimizer: OptimizerName = "sgd"
    lr: Positive | None = None
    lr_for_batch: PositiveInt | None = None
    lr_new: Positive | None = None
    lr_layer_decay: Share = 1.0
    warmup: NonNegativeInt | None = None
    schedule: Literal["step", "cosine"] | None = None
    lr_step: PositiveInt | None = None
    momentum: Below1 = 0.9
    weight_decay: NotNegative | None = None
    drop_path: Below1 | None = None
    freeze_batchnorm: bool | None = None
    sync_batchnorm: bool = False
    ema: Below1 | None = None
    precision: Literal[PrecisionName, "float16"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    workers: NonNegativeInt = 2
    decoder: DecoderName = "pyav"
    seed: Seed = 0
    patience: PositiveInt | None = None
    logger: LoggerName = "auto"
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


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        UsageError: it can't be read, holds anything but settings, or refers to parts of itself,
            which a few lines can make larger than the memory.
    """
    import yaml

    try:
        if path.stat().st_size > 2**20:
            raise ValueError("it is larger than 1 MiB")
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > 10:
                raise ValueError("it has aliases (*) or lists in lists")
        settings = yaml.safe_load(text) or {}
        if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
            raise ValueError("it is no list of names and values")
        if twice := _set_twice(yaml.compose(text)):
            raise ValueError(f"it sets {twice} twice")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} can't be read as settings ({reason}); mend it.") from error
    return settings


def _set_twice(node: Any) -> str | None:
    """The first name that a mapping in a YAML document holds twice."""
    inner = getattr(node, "value", None)
    if not isinstance(inner, list):
        return None
    pairs = [pair for pair in inner if isinstance(pair, tuple)]
    keys = Counter(key.value for key, _ in pairs)
    twice = (key for key, count in keys.items() if count > 1)
    below = [value for _, value in pairs] or inner
    return next(twice, None) or next(filter(None, map(_set_twice, below)), None)


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
    value = re.search(r"Given value: (.*)", message) or re.search(r"Got value: (.*)", message)
    value = value or re.search(r"(?:type \w+: |base 10: |to float: )(\S+)(?: does| not|$)", message)
    found = ((re.search(pattern, message), words) for pattern, words in EXPECTED.items())
    expected = next((match.expand(words) for match, words in found if match), None)
    if not key or not value or not expected:
        return " ".join(message.split())
    for bound, words in BOUNDS.items():
        expected = expected.replace(bound, words)
    return f"{key[1]} is {value[1]}; it must be {expected}.".replace("'", "")


# Its words for the bounds of a number, and ours.
BOUNDS = {
    "v<inf": "finite",
    "v>=": "at least ",
    "v<=": "at most ",
    "v>": "above ",
    "v<": "below ",
}
# Parts of jsonargparse's messages that tell the expected values, and our words for these.
EXPECTED = {
    r"restriction (v.*)": r"\1",
    r"Literal\[(.*?)\], dict\[": r"one of \1, or a mapping of names to numbers",
    r"Literal\[(.*?)\]": r"one of \1",
    r"not an integer|for int\(\)|a <class 'int'": "a whole number",
    r"not a number|to float|a <class 'float'": "a number",
    r"a <class 'bool'": "true or false",
    r"a <class 'str'": "text",
}
