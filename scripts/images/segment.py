"""Train ResNet50-FCN on Cityscapes with a nonlocal block, by the recipe of the paper's Table 8.

    python scripts/images/segment.py --root cityscapes/ --block snl
    python scripts/images/segment.py --root cityscapes/ --block cc --reduction 8 --passes 2
    python scripts/images/segment.py --iterations 2

Not run yet: nobody has trained this recipe to its end with this script, so there are no figures of
ours. Cityscapes must be there, as torchvision's data set reads it. Without --root the script is
tried on a few images of noise. With --checkpoint FILE the network is kept every 500 iterations and
at the end, and the same command goes on from there.

The paper prints the optimiser, 40,000 iterations and the learning rate 0.01 that falls by a
polynomial of power 0.9. It trained mmsegmentation's network; this is torchvision's, whose head is
one convolution smaller. Batch size (8), crops of 512x1024 of images scaled by 0.5 to 2, mirroring
and the auxiliary loss's weight 0.4 are mmsegmentation's usual ones and a choice of ours.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from checkpoint import Checkpoint
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.datasets import Cityscapes
from torchvision.models import ResNet50_Weights
from torchvision.models.segmentation import fcn_resnet50
from torchvision.transforms import v2

from actionrec.devices import fastest_device
from actionrec.errors import ActionrecError, UsageError
from actionrec.models.insertion import insert_block

CLASSES = 19
IGNORED = 255
CROP = (512, 1024)
SITE = "classifier.3"
AUXILIARY = 0.4
KEPT_EVERY = 500  # iterations
NORMALISE = [
    v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
    v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
]


class Scenes(Dataset):
    """Images of Cityscapes, float32 (3, H, W), with the class of each pixel, int64 (H, W)."""

    def __init__(self, root: str, split: str, transform: v2.Transform) -> None:
        self.scenes = Cityscapes(root, split, mode="fine", target_type="semantic")
        self.transform = transform
        # Classes that are not evaluated have the numbers 255 and -1.
        numbers = {each.id: each.train_id for each in Cityscapes.classes if each.id >= 0}
        self.numbers = torch.full((256,), IGNORED)
        for number, trained in numbers.items():
            self.numbers[number] = trained if 0 <= trained < CLASSES else IGNORED

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = self.scenes[index]
        classes = self.numbers[v2.functional.pil_to_tensor(target)[0].long()]
        image, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(classes))
        return image, mask.long()


class GeneratedScenes(Dataset):
    """Noise, to try the script: the brighter half of the pixels is class 1."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(index))
        return image, (image.mean(dim=0) > 0).long()


def open_data(root: str | None) -> tuple[Dataset, Dataset]:
    """The images of training and of validation; noise without a folder.

    Raises:
        ActionrecError: the folder is not Cityscapes.
    """
    if root is None:
        return GeneratedScenes(), GeneratedScenes()
    drawn = v2.Compose(
        [
            v2.ScaleJitter((1024, 2048), (0.5, 2.0)),
            v2.RandomCrop(CROP, pad_if_needed=True, fill={tv_tensors.Mask: IGNORED, "others": 0}),
            v2.RandomHorizontalFlip(),
            *NORMALISE,
        ]
    )
    try:
        return Scenes(root, "train", drawn), Scenes(root, "val", v2.Compose(NORMALISE))
    except (OSError, RuntimeError) as error:
        raise ActionrecError(
            f"{root} is not Cityscapes as torchvision reads it ({error}); it needs leftImg8bit/ "
            "and gtFine/ with train/ and val/."
        ) from error


def build(arguments: argparse.Namespace) -> nn.Module:
    """FCN from ImageNet's ResNet-50, with a block before the last convolution of its head."""
    pretrained = None if arguments.root is None else ResNet50_Weights.IMAGENET1K_V1
    network = fcn_resnet50(
        weights=None, weights_backbone=pretrained, num_classes=CLASSES, aux_loss=True
    )
    if arguments.block != "none":
        insert_block(
            network,
            SITE,
            arguments.block,
            reduction=arguments.reduction,
            passes=arguments.passes,
        )
    return network


def endless(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def train(network: nn.Module, data: Dataset, arguments: argparse.Namespace) -> None:
    """Train a network in place.

    Raises:
        UsageError: there are fewer images than a batch has.
        ActionrecError: the checkpoint can't be read or written.
    """
    if len(data) < arguments.batch_size:
        raise UsageError(
            f"There are {len(data)} images, fewer than a batch of {arguments.batch_size}; make "
            "--batch-size smaller."
        )
    device = torch.device(fastest_device())
    network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, arguments.iterations, power=0.9)
    loader = DataLoader(
        data, arguments.batch_size, shuffle=True, num_workers=arguments.workers, drop_last=True
    )
    kept = ("block", "reduction", "passes", "iterations", "batch_size", "seed")
    settings = {name: getattr(arguments, name) for name in kept}
    parts = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
    checkpoint = Checkpoint(arguments.checkpoint, settings, parts)
    done = checkpoint.load()
    # Otherwise a training that goes on would begin with the images that it has begun with.
    torch.manual_seed(arguments.seed + done)
    steps = range(done + 1, arguments.iterations + 1)
    progress = track(steps, "training", console=Console(stderr=True))
    for step, (images, classes) in zip(progress, endless(loader), strict=False):
        optimizer.zero_grad()
        answers = network(images.to(device))
        losses = [
            F.cross_entropy(answers[name], classes.to(device), ignore_index=IGNORED)
            for name in ("out", "aux")
        ]
        (losses[0] + AUXILIARY * losses[1]).backward()
        optimizer.step()
        scheduler.step()
        if step % KEPT_EVERY == 0 or step == arguments.iterations:
            checkpoint.save(step)


@torch.inference_mode()
def evaluate(network: nn.Module, data: Dataset, workers: int) -> tuple[float, float]:
    """The mean IoU and the mean accuracy of the classes that there are, in percent."""
    device = torch.device(fastest_device())
    network.to(device).eval()
    confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for images, classes in DataLoader(data, 1, num_workers=workers):
        best = network(images.to(device))["out"].argmax(dim=1).cpu()
        known = classes != IGNORED
        pairs = CLASSES * classes[known] + best[known]
        confusion += torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)
    hits, truths, answers = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    there = truths > 0
    iou = hits[there] / (truths + answers - hits)[there]
    return 100 * iou.mean().item(), 100 * (hits[there] / truths[there]).mean().item()


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="folder of Cityscapes; without it, noise")
    parser.add_argument("--block", default="snl", help="none, or a nonlocal block")
    parser.add_argument("--reduction", type=int, default=2, help="C1 / Cs")
    parser.add_argument("--passes", type=int, help="passes of the block cc")
    parser.add_argument("--iterations", type=int, default=40_000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=4, help="processes that load images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="file of the training, to go on from")
    arguments = parser.parse_args(words)
    for name in ("iterations", "batch_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    try:
        train_data, val_data = open_data(arguments.root)
        network = build(arguments)
        train(network, train_data, arguments)
    except ActionrecError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    iou, accuracy = evaluate(network, val_data, arguments.workers)
    print(f"mIoU {iou:.2f} %, mAcc {accuracy:.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
