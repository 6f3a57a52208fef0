"""The settings of a training run: one data class for the flags of `actionrec train`, the keys of
its YAML files and the record beside its results.

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
        dataset: Name of the data set, from `actionrec data list`.
        root: Folder of the data set, or the CSV file; the demo data set generates its own.
        split: 1, 2, 3 or paper for ucf101; 1 to 3 for hmdb51; the fold, 1 to 5, for a CSV file
            without a split column.
        backbone: Network.
        weights: Initial weights: kinetics400 (downloaded once), none, or a file: a model of
            actionrec, Hara's .pth for r3d50, PyTorchVideo's .pyth for i3d_r50.
        block: Type of nonlocal block.
        stages: Stages with a block before their last unit, such as 3 4.
        blocks_per_stage: Number of blocks in each stage, before its last units.
        reduction: Factor by which the block reduces the channels: 1, 2 or 4.
        order: Order of the filter (gsnl, cheb and cayley).
        groups: Number of channel groups (cgnl).
        units: Number of filters in a block that share one affinity.
        clip_length: Frames of a clip.
        stride: Distance between two frames of a clip, in frames.
        fps: Frame rate to which the stride refers, such as 25, for videos of different rates; by
            default the stride refers to the rate of each video.
        short_side: Short side of a frame before the crop, in pixels; training draws it between this
            value and 1.25 times as much.
        crop: Side of the square input of the network, in pixels.
        gamma: Exponent of the pixel values in [0, 1]; 0.4 brightens videos filmed in the dark.
        crop_area: Least and largest share of the frame in a training crop, such as 0.3 1, with
            sides of 3:4 to 4:3 (Inception); by default square crops after short_side.
        augment: Augmentation of training clips: color jitters brightness, contrast, saturation and
            hue; randaugment applies two random operations to a clip.
        mix: Mixture of the clips and labels in a batch: mixup blends two clips, cutmix pastes a
            part of one into another, both chooses at random.
        flip: Mirror half of the training clips; by default only if no class is the mirror image of
            another.
        train_from: Trained part: all, everything from a stage on (stage4), or only the nonlocal
            blocks and the head (block); the rest keeps its weights and statistics.
        epochs: Passes over the training videos.
        batch_size: Clips of one step, on all devices together.
        accumulate: Number of batches whose gradients are added for one step.
        clip_gradient: Largest norm of the gradient.
        label_smoothing: Share of the label that is spread over all classes.
        lr: Learning rate of the first epochs.
        lr_for_batch: Batch size to which lr refers, such as 16; lr is scaled in proportion to
            batch_size times accumulate (Goyal et al. 2017).
        warmup: Epochs in which the learning rate rises to lr, in equal steps.
        schedule: Course of the learning rate: step, or cosine to 0 at the end of the last epoch.
        lr_step: Epochs between divisions of the learning rate by 10; by default two fifths of all
            epochs, as in the paper (40 of 100).
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        freeze_batchnorm: Keep the pretrained statistics of the backbone's batch normalisation;
            helps with small batches.
        sync_batchnorm: Normalise over the clips of all devices.
        ema: Decay of a moving average of the weights, such as 0.999, or 0.99 for short runs; the
            average is what is validated and saved.
        precision: Numbers of the forward and backward pass; auto is bf16-mixed on a GPU that
            has it, else 32-true. On a CPU with bfloat16, bf16-mixed is faster, too.
        compile: Compile the network with torch.compile: faster on a GPU after a slow first step.
        devices: GPUs (or, without a GPU, processes) of this machine.
        nodes: Number of machines with as many devices each; start with torchrun or Slurm.
        workers: Number of processes that read videos, for each device.
        decoder: Decoding library; decord and torchcodec are extras and less exact.
        seed: Seed of the weights and of every random choice.
        max_bad: Largest share of broken training videos; more end the training.
        output: Folder of the run; by default runs/DATASET-BACKBONE-BLOCK.
        resume: auto continues the stopped run in the output folder.
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
