"""Train an image classifier with a nonlocal block, by the recipes of the paper's Tables 2 to 6.

    python scripts/images/classify.py --data cifar100 --network preresnet56 --block snl
    python scripts/images/classify.py --data cifar100 --network preresnet56 --stages 1 2 3
    python scripts/images/classify.py --data cifar10 --network resnet50 --block nl
    python scripts/images/classify.py --data imagenet --root imagenet/ --network resnet50 \
        --checkpoint snl.pt
    python scripts/images/classify.py --data generated

Not run yet: nobody has trained these recipes to their end with this script, so there are no figures
of ours. Tables 2 (--reduction 1, 2, 4), 3 (--stages 1, 2 or 3), 4 and 5 (--stages 1 2 3) are those
of CIFAR, Table 6 is that of ImageNet.

The paper prints optimiser, learning rates and epochs. Batch size (128 on CIFAR, 256 on ImageNet),
augmentation (crops of a padded image, or of random size, and mirroring) and the ResNet-50 of CIFAR
(3x3 in place of 7x7, no max-pooling) are the usual ones and a choice of ours. CIFAR is downloaded;
ImageNet must be there. `--data generated` tries the script on a few images of noise.

With --checkpoint FILE the network is kept after each epoch, and the same command goes on from
there.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from checkpoint import Checkpoint
from preresnet import preresnet56
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.models import resnet50
from torchvision.transforms import v2

from actionrec.devices import fastest_device
from actionrec.errors import ActionrecError, UsageError
from actionrec.models.insertion import insert_block


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum 0.9 and weight decay 1e-4; the learning rate is
    divided by 10 after the epochs of `falls`."""

    epochs: int
    learning_rate: float
    falls: tuple[int, ...]
    batch_size: int


CIFAR = Recipe(epochs=300, learning_rate=0.1, falls=(150, 250), batch_size=128)
RECIPES = {
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "imagenet": Recipe(epochs=110, learning_rate=0.01, falls=(31, 61, 81), batch_size=256),
    # Images of noise, to try the script.
    "generated": Recipe(epochs=1, learning_rate=0.1, falls=(), batch_size=8),
}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000, "generated": 10}


def imagenet_resnet50(classes: int) -> nn.Module:
    return resnet50(num_classes=classes)


def cifar_resnet50(classes: int) -> nn.Module:
    network = resnet50(num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


# "Right after the second residual block" of a stage, or "right before the last one of res4".
SITES: dict[str, dict[int, str]] = {
    "preresnet56": {1: "layer1.2", 2: "layer2.2", 3: "layer3.2"},
    "resnet50": {4: "layer3.5"},
}


def build(arguments: argparse.Namespace) -> nn.Module:
    """The network with its blocks."""
    classes = CLASSES[arguments.data]
    builders: dict[str, Callable[[int], nn.Module]] = {
        "preresnet56": preresnet56,
        "resnet50": imagenet_resnet50 if arguments.data == "imagenet" else cifar_resnet50,
    }
    network = builders[arguments.network](classes)
    size = 224 if arguments.data == "imagenet" else 32
    if arguments.block != "none":
        for stage in arguments.stages:
            insert_block(
                network,
                SITES[arguments.network][stage],
                arguments.block,
                example=torch.zeros(1, 3, size, size),
                reduction=arguments.reduction,
            )
    return network


def open_data(arguments: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """The images of training and of validation.

    Raises:
        ActionrecError: they are not there, or can't be downloaded.
    """
    try:
        return _open_data(arguments)
    # What torchvision raises for a folder that lacks something, and for a download that fails.
    except (OSError, RuntimeError) as error:
        raise ActionrecError(
            f"{arguments.data} can't be opened in {arguments.root} ({error}); put the files there "
            "that torchvision names, or give another --root."
        ) from error


def _open_data(arguments: argparse.Namespace) -> tuple[Dataset, Dataset]:
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if arguments.data == "imagenet":
        normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        drawn = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *to_tensor, normalise]
        fixed = [v2.Resize(256), v2.CenterCrop(224), *to_tensor, normalise]
        open_split = datasets.ImageNet
        return (
            open_split(arguments.root, "train", transform=v2.Compose(drawn)),
            open_split(arguments.root, "val", transform=v2.Compose(fixed)),
        )
    normalise = v2.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    drawn = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *to_tensor, normalise]
    fixed = [*to_tensor, normalise]
    if arguments.data == "generated":
        made = (16, (3, 32, 32), CLASSES["generated"])
        return (
            datasets.FakeData(*made, transform=v2.Compose(drawn)),
            datasets.FakeData(*made, transform=v2.Compose(fixed)),
        )
    kind = datasets.CIFAR10 if arguments.data == "cifar10" else datasets.CIFAR100
    return (
        kind(arguments.root, train=True, download=True, transform=v2.Compose(drawn)),
        kind(arguments.root, train=False, download=True, transform=v2.Compose(fixed)),
    )


@dataclass(frozen=True)
class Figures:
    """Of an epoch; accuracies in percent."""

    epoch: int
    loss: float
    top1: float
    top5: float


def train(
    network: nn.Module,
    recipe: Recipe,
    train_data: Dataset,
    val_data: Dataset,
    arguments: argparse.Namespace,
) -> Figures:
    """Train a network, print the figures of each epoch, and return the last ones."""
    device = torch.device(fastest_device())
    network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), recipe.learning_rate, 0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(recipe.falls))
    loading = {
        "batch_size": recipe.batch_size,
        "num_workers": arguments.workers,
        "pin_memory": device.type == "cuda",
    }
    loader = DataLoader(train_data, shuffle=True, drop_last=True, **loading)
    kept = ("data", "network", "block", "reduction", "stages", "seed")
    settings = {name: getattr(arguments, name) for name in kept}
    parts = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
    checkpoint = Checkpoint(arguments.checkpoint, settings | asdict(recipe), parts)
    done = checkpoint.load()
    if done >= recipe.epochs:
        raise UsageError(
            f"{arguments.checkpoint} has all {recipe.epochs} epochs; name another file for another "
            "training."
        )
    for epoch in range(done + 1, recipe.epochs + 1):
        # Of its own for each epoch, so that a training that goes on draws the same.
        torch.manual_seed(arguments.seed + epoch)
        network.train()
        total = 0.0
        progress = track(loader, f"epoch {epoch}", console=Console(stderr=True), transient=True)
        for images, labels in progress:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
        scheduler.step()
        top1, top5 = evaluate(network, DataLoader(val_data, **loading), device)
        figures = Figures(epoch, total / len(loader), top1, top5)
        print(f"epoch {epoch}: loss {figures.loss:.3f}, Top-1 {top1:.2f} %, Top-5 {top5:.2f} %")
        checkpoint.save(epoch)
    return figures


@torch.inference_mode()
def evaluate(network: nn.Module, loader: DataLoader, device: torch.device) -> tuple[float, float]:
    """Top-1 and Top-5 in percent."""
    network.eval()
    hits = torch.zeros(2)
    seen = 0
    for images, labels in loader:
        best = network(images.to(device)).topk(5).indices.cpu()
        right = best == labels[:, None]
        hits += torch.stack([right[:, 0].sum(), right.any(dim=1).sum()])
        seen += len(labels)
    top1, top5 = (100 * hits / seen).tolist()
    return top1, top5


def write_row(path: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Append a row to a CSV file, with a head if it is new."""
    row = {
        "data": arguments.data,
        "network": arguments.network,
        "block": arguments.block,
        "reduction": arguments.reduction,
        "stages": " ".join(map(str, arguments.stages)),
        "seed": arguments.seed,
        **asdict(figures),
        "torch": torch.__version__,
    }
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=list(RECIPES), default="cifar100")
    parser.add_argument("--root", default="images", help="folder of the data set")
    parser.add_argument("--network", choices=list(SITES), default="preresnet56")
    parser.add_argument("--block", default="snl", help="none, or a nonlocal block")
    parser.add_argument("--reduction", type=int, default=2, help="C1 / Cs")
    parser.add_argument(
        "--stages",
        type=int,
        nargs="+",
        help="one block in each of 1, 2, 3 of preresnet56 (default: 1), in 4, res4, of resnet50",
    )
    parser.add_argument("--epochs", type=int, help="at least 1; default: the recipe's")
    parser.add_argument("--workers", type=int, default=4, help="processes that load images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="CSV file to which a row is added")
    parser.add_argument("--checkpoint", type=Path, help="file of the training, to go on from")
    arguments = parser.parse_args(words)
    if arguments.epochs is not None and arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    sites = SITES[arguments.network]
    arguments.stages = arguments.stages or [next(iter(sites))]
    if unknown := [stage for stage in arguments.stages if stage not in sites]:
        parser.error(f"{arguments.network} has no place for a block in stage {unknown[0]}.")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    recipe = RECIPES[arguments.data]
    if arguments.epochs is not None:
        recipe = replace(recipe, epochs=arguments.epochs)
    try:
        network = build(arguments)
        figures = train(network, recipe, *open_data(arguments), arguments)
    except ActionrecError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    if arguments.results is not None:
        write_row(arguments.results, arguments, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
