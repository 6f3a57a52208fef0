"""How many labels the order of the page saves: accuracy by number of labels, against random order.

    python scripts/labelling_order.py weizmann.csv fights.csv
    python scripts/labelling_order.py weizmann.csv --seeds 10 --results results/labelling_order.csv

A fifth of the videos, whole groups, is held out and judged. Of the others, one of each class is
labelled at first, and then one after the other in the order of `actionrec app`, in which the head
is fitted anew after each label, or in a random one. The features are those of Teach.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import measurements
import numpy as np
from rich.console import Console
from rich.table import Table

from actionrec.app.labelling import labelling_order
from actionrec.app.teacher import scores_of, teaching_base
from actionrec.config import TrainConfig
from actionrec.datasets.csv import open_csv
from actionrec.datasets.dataset import deal_groups
from actionrec.progress import track
from actionrec.training.head import PENALTIES, clip_features, logistic_regression

FOLDS = 5
STEPS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40)  # labels a class

Order = Callable[[np.ndarray], Sequence[int]]


@dataclass(frozen=True)
class Videos:
    """Features (clips, C) of videos, their labels (n,) and groups."""

    features: list[np.ndarray]
    labels: np.ndarray
    groups: list[str]
    classes: int


def read(path: Path, model: str) -> Videos:
    """The videos of a CSV file; those of an unknown group are a group each."""
    dataset = open_csv(path, to_train=False)
    videos = [*dataset.train, *dataset.val]
    config = TrainConfig(dataset="csv", root=str(path))
    found, failures = clip_features(teaching_base(model), config, videos)
    for failure in failures:
        print(failure.error)
    known = np.unique(found.videos)
    return Videos(
        [found.values[found.videos == number] for number in known],
        np.array([videos[number].label for number in known]),
        [videos[number].group or str(number) for number in known],
        len(dataset.labels),
    )


def fit(videos: Videos, chosen: Sequence[int]):
    """A head that is fitted to the chosen videos; with so few, penalties are not compared."""
    values = [videos.features[number] for number in chosen]
    labels = np.concatenate(
        [np.full(len(each), videos.labels[n]) for n, each in zip(chosen, values, strict=True)]
    )
    penalty = PENALTIES[len(PENALTIES) // 2]
    return logistic_regression(np.concatenate(values), labels, videos.classes, penalty)


def accuracy(videos: Videos, head, held_out: Sequence[int]) -> float:
    """Share of the held-out videos that a head names rightly."""
    right = [
        int(scores_of(videos.features[n], *head).argmax()) == videos.labels[n] for n in held_out
    ]
    return float(np.mean(right))


def curve(videos: Videos, order: Order | None, seed: int, counts: Sequence[int]) -> list[float]:
    """The accuracy after each number of labels; without an `order`, a random one."""
    random = np.random.default_rng(seed)
    names = {group: f"{random.random()}" for group in sorted(set(videos.groups))}
    shuffled = [names[group] for group in videos.groups]
    folds = np.array(deal_groups(shuffled, list(map(str, videos.labels)), FOLDS))
    held_out, pool = np.flatnonzero(folds == 0), list(np.flatnonzero(folds != 0))
    random.shuffle(pool)
    chosen = [next(n for n in pool if videos.labels[n] == c) for c in range(videos.classes)]
    figures = []
    for count in counts:
        while len(chosen) < count:
            rest = [number for number in pool if number not in set(chosen)]
            if order is None:
                chosen.append(rest[0])
                continue
            head = fit(videos, chosen)
            scores = np.stack([scores_of(videos.features[number], *head) for number in rest])
            chosen.append(rest[order(scores)[0]])
        figures.append(accuracy(videos, fit(videos, chosen), held_out))
    return figures


def counts_of(videos: Videos) -> list[int]:
    """The numbers of labels after which a head is judged: up to four fifths of three quarters."""
    most = int(0.75 * (1 - 1 / FOLDS) * len(videos.labels))
    wanted = sorted({round(step * videos.classes) for step in STEPS})
    return [count for count in wanted if count <= most]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path, help="CSV files with path, label and group")
    parser.add_argument("--model", default="kinetics400-i3d")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="CSV file to which rows are added")
    arguments = parser.parse_args()
    for path in arguments.data:
        videos = read(path, arguments.model)
        counts = counts_of(videos)
        table = Table("labels", "order of the page", "random order", box=None)
        curves = {
            name: [
                curve(videos, order, seed, counts)
                for seed in track(range(arguments.seeds), f"{path.stem}, {name}", transient=True)
            ]
            for name, order in (("page", labelling_order), ("random", None))
        }
        for position, count in enumerate(counts):
            row = {name: [100 * each[position] for each in of] for name, of in curves.items()}
            table.add_row(
                str(count),
                *(f"{np.mean(of):.1f} ± {np.std(of, ddof=1):.1f}" for of in row.values()),
            )
            for name, of in row.items():
                if arguments.results is not None:
                    found = {
                        "data": path.stem,
                        "order": name,
                        "labels": count,
                        "top1": round(float(np.mean(of)), 2),
                        "spread": round(float(np.std(of, ddof=1)), 2),
                        "seeds": arguments.seeds,
                    }
                    measurements.append(arguments.results, found, "cpu")
        console = Console()
        console.print(f"{path.stem}: video-level Top-1 on held-out groups, %")
        console.print(table)


if __name__ == "__main__":
    main()
