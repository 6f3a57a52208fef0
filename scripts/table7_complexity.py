"""Our parameters and multiply-adds beside those of the paper's Table 7, for all six rows.

    python scripts/table7_complexity.py

The network is r3d50 with 400 classes at 16x112x112; a block stands before the last unit of
stage 4. The paper's figures belong to this size: at the 16x124x124 of its text they are others.
It counts the convolutions of a block and leaves out its products with the affinity; for the base
it also counts an operation for each element of a batch normalisation.
"""

from dataclasses import dataclass

from actionrec.models.complexity import measure
from actionrec.models.network import BlockConfig, ClassifierConfig


@dataclass(frozen=True)
class PaperRow:
    """A row of Table 7 as printed: parameters in M, multiply-adds in G; for a block those that it
    adds."""

    block: str
    params: str
    macs: str


PAPER = {
    "I3D": PaperRow("none", "47.02", "10.10"),
    "NL": PaperRow("nl", "+2.10", "+0.21"),
    "NS": PaperRow("ns", "+2.10", "+0.26"),
    "A2": PaperRow("a2", "+2.10", "+0.21"),
    "CGNL": PaperRow("cgnl", "+2.10", "+0.21"),
    "SNL": PaperRow("snl", "+2.62", "+0.26"),
}


def main() -> None:
    labels = tuple(map(str, range(400)))
    print(f"{'':6} {'parameters, M':>21} {'multiply-adds, G':>20} {'with A z':>10}")
    print(f"{'row':6} {'ours':>11} {'paper':>9} {'ours':>10} {'paper':>9} {'ours':>10}")
    for name, row in PAPER.items():
        result = measure(ClassifierConfig(labels, "r3d50", BlockConfig(row.block)), "16x112x112")
        base = row.block == "none"
        params = result.params if base else result.block["params"]
        macs = result.macs if base else result.block["conv_macs"]
        sign = "" if base else "+"
        with_products = "" if base else f"{result.block['macs'] / 1e9:+10.3f}"
        print(
            f"{name:6} {params / 1e6:{sign}11.4f} {row.params:>9} {macs / 1e9:{sign}10.3f} "
            f"{row.macs:>9} {with_products}"
        )
    print(
        "\nBase: convolutions and the last layer; batch normalisation would add the other 0.03 G.\n"
        "NS: (A Z - Z) W takes W once here; A Z W and Z W, W taken twice, would make +0.257 G."
    )


if __name__ == "__main__":
    main()
