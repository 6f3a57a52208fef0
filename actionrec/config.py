"""The settings of a training run: the flags of `actionrec train`, the keys of its YAML files and
the record beside its results are all this one data class.

    actionrec train --help
"""

from dataclasses import dataclass, field
from typing import Literal

from actionrec.datasets.registry import DATASETS
from actionrec.models.registry import BACKBONES, BLOCKS

BackboneName = Literal[*BACKBONES]
BlockName = Literal["none", *BLOCKS]
TrainFromName = Literal["all", "stage2", "stage3", "stage4", "stage5", "block"]
DecoderName = Literal["pyav", "decord", "torchcodec"]
AugmentName = Literal["none", "color", "randaugment"]
MixName = Literal["none", "mixup", "cutmix", "both"]
DatasetName = Literal[*DATASETS]


@dataclass
class TrainConfig:
    """Settings of a training run; the defaults are the paper's protocol.

    Args:
        dataset: Kind of data set.
        root: Its folder, or the CSV file; the demo data set makes its own.
        split: One of the data set's splits, which `actionrec data list` names.
        backbone: Network.
        weights: What to start from: kinetics400 (downloaded once), none, or a file: a model of
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
        fps: Rate that the stride is meant for, such as 25, so that videos of all rates are seen at
            the same speed; by default the stride is in frames as they are.
        short_side: Pixels of a frame's short side before the crop; for training this is the
            least, 1.25 times as many the most.
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
        train_from: What is trained: all, what comes from a stage on (stage4), or only the nonlocal
            blocks and the head (block); the rest keeps its weights and statistics.
        epochs: Passes over the training videos.
        batch_size: Clips of one step, on all devices together.
        accumulate: Batches whose gradients are added up before the weights are changed.
        clip_gradient: Largest norm of the gradient; longer ones are shortened to it.
        label_smoothing: Share of the truth that is spread over all classes.
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
            average is what is validated and saved.
        precision: Numbers of the forward and backward pass; auto is bf16-mixed on a GPU that
            has it, else 32-true. On a CPU with bfloat16, bf16-mixed is faster, too.
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
    stages: list[int] = field(default_factory=lambda: [4])
    blocks_per_stage: int = 1
    reduction: int = 2
    order: int | None = None
    groups: int | None = None
    units: int = 1
    clip_length: int = 16
    stride: int = 1
    fps: float | None = None
    short_side: int = 128
    crop: int = 124
    gamma: float = 1.0
    crop_area: list[float] | None = None
    augment: AugmentName = "none"
    mix: MixName = "none"
    flip: bool | None = None
    train_from: TrainFromName = "all"
    epochs: int = 100
    batch_size: int = 16
    accumulate: int = 1
    clip_gradient: float | None = None
    label_smoothing: float = 0.0
    lr: float = 0.01
    lr_for_batch: int | None = None
    warmup: int = 0
    schedule: Literal["step", "cosine"] = "step"
    lr_step: int | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    freeze_batchnorm: bool = False
    sync_batchnorm: bool = False
    ema: float | None = None
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    compile: bool = False
    devices: int = 1
    nodes: int = 1
    workers: int = 2
    decoder: DecoderName = "pyav"
    seed: int = 0
    max_bad: float = 0.01
    output: str | None = None
    resume: Literal["never", "auto"] = "never"
