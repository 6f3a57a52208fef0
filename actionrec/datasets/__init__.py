"""Data sets: which videos there are, what each shows, and which of them train.

One module a data set; each has an `open_*` function that returns a `VideoDataset`.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LabelledVideo:
    """One video file and what it shows.

    `label` is the index into the data set's `labels`; `group` names what must not be divided
    between training and validation (the recording a clip was cut from), None where unknown.
    """

    path: Path
    label: int
    group: str | None = None


@dataclass(frozen=True)
class VideoDataset:
    """The videos of one split of a data set.

    `labels` are the class names in the order of the logits. `flip` says whether a mirrored
    video keeps its class: False where classes are mirror images of each other.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[LabelledVideo, ...]
    val: tuple[LabelledVideo, ...]
    flip: bool = True
