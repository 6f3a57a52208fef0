"""What blocks add to ResNet-50 and to FCN, beside the paper's Tables 6 and 8.

    python scripts/images/complexity.py

The networks are torchvision's. In ResNet-50 the block stands before the last unit of res4, which an
image of 224x224 reaches as 1024 channels of 14x14. In FCN it stands before the last convolution of
the head, which an image of 512x1024 of Cityscapes reaches as 512 channels of 64x128. Multiply-adds
are those of the block's convolutions; the paper leaves out the products with the affinity.

Table 8's figures are those of C1/2 although its text says C1/4, and those of CC are of C1/8 with
two passes. The FCN of mmsegmentation has a larger head, so the base of Table 8 is another one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50
from torchvision.models.segmentation import fcn_resnet50

from actionrec.models.complexity import UNCOUNTED, macs, parameters
from actionrec.models.insertion import insert_block


@dataclass(frozen=True)
class Table:
    """A table of the paper: a network, the module that blocks precede, and the size of its images.

    Attributes:
        rows: By the paper's name, the block with its options, and the parameters in M and
            multiply-adds in G as printed.
    """

    title: str
    network: Callable[[], nn.Module]
    before: str
    size: tuple[int, int]
    base: tuple[str, str]
    rows: dict[str, tuple[dict[str, str | int], str, str]]


@dataclass(frozen=True)
class Cost:
    """Parameters, multiply-adds, and those of convolutions alone."""

    params: int
    macs: int
    conv_macs: int


def fcn() -> nn.Module:
    return fcn_resnet50(weights=None, weights_backbone=None, num_classes=19)


TABLES = (
    Table(
        "Table 6, ResNet-50 on images of 224x224",
        resnet50,
        "layer3.5",
        (224, 224),
        ("25.56", "4.14"),
        {
            "NL": ({"block": "nl"}, "+2.09", "+0.41"),
            "CGNL": ({"block": "cgnl"}, "+2.09", "+0.41"),
            "SNL": ({"block": "snl"}, "+2.62", "+0.51"),
        },
    ),
    Table(
        "Table 8, FCN on images of 512x1024",
        fcn,
        "classifier.3",
        (512, 1024),
        ("47.13", "395.76"),
        {
            "NL": ({"block": "nl"}, "+0.53", "+4.31"),
            "NS": ({"block": "ns"}, "+0.53", "+5.37"),
            "CC": ({"block": "cc", "reduction": 8, "passes": 2}, "+0.33", "+5.37"),
            "DNL": ({"block": "dnl"}, "+0.53", "+4.31"),
            "SNL_a1": ({"block": "snl_a1"}, "+0.53", "+4.31"),
            "SNL_a2": ({"block": "snl_a2"}, "+0.66", "+5.37"),
            "SNL": ({"block": "snl"}, "+0.66", "+5.37"),
        },
    ),
)


def cost(table: Table, options: dict[str, str | int] | None = None) -> Cost:
    """The network's cost, or with `options` that of a block in it."""
    # Fake tensors have shapes and no content, so nothing is computed.
    fake = FakeTensorMode()
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    with fake, torch.no_grad():
        network = table.network().eval()
        images = torch.empty(1, 3, *table.size)
        if options is None:
            with counter:
                network(images)
            operations = counter.get_flop_counts()["Global"]
            return Cost(parameters(network), macs(operations), macs(operations, "convolution"))
        block = insert_block(network, table.before, example=images, **options)
        with counter:
            network(images)
        name = next(name for name, module in network.named_modules() if module is block)
        operations = counter.get_flop_counts()[f"{type(network).__name__}.{name}"]
        return Cost(parameters(block), macs(operations), macs(operations, "convolution"))


def main() -> None:
    for table in TABLES:
        print(table.title)
        print(f"{'':8} {'parameters, M':>19} {'multiply-adds, G':>20} {'with A z':>10}")
        print(f"{'':8} {'ours':>10} {'paper':>8} {'ours':>11} {'paper':>8} {'ours':>10}")
        base = cost(table)
        params, operations = table.base
        print(
            f"{'base':8} {base.params / 1e6:10.3f} {params:>8} {base.macs / 1e9:11.3f} "
            f"{operations:>8}"
        )
        for name, (options, params, operations) in table.rows.items():
            added = cost(table, options)
            print(
                f"{name:8} {added.params / 1e6:+10.3f} {params:>8} {added.conv_macs / 1e9:+11.3f} "
                f"{operations:>8} {added.macs / 1e9:+10.3f}"
            )
        print()
    print("NS: (A Z - Z) W takes W once here; A Z W and Z W, W taken twice, would make +5.369 G.")


if __name__ == "__main__":
    main()
