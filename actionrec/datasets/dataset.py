"""Labelled videos to train and to validate on, and the steps that the data sets share."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from actionrec.errors import ActionrecError
from actionrec.files import VIDEO_SUFFIXES, scan
from actionrec.video.address import VideoPath
from actionrec.video.parts import VideoSegment, VideoSource

logger = logging.getLogger("actionrec")


@dataclass(frozen=True)
class LabelledVideo:
    """A video, a file or an address, or a part of one, and its class.

    `segment` is the part, from its start to its end in seconds; None for the whole file. `label` is
    the index into the data set's `labels`. `group` names the recording that the video was cut from,
    None where it is unknown: a group belongs on one side, training or validation. In a data set of
    several labels a video, `labels` has all of this one's, and `label` is the first, or -1 where it
    has none.
    """

    path: VideoPath
    label: int
    group: str | None = None
    segment: tuple[float, float] | None = None
    labels: tuple[int, ...] | None = None

    @property
    def source(self) -> VideoSource:
        """What its clips are read from."""
        return VideoSegment(self.path, *self.segment) if self.segment else self.path

    @property
    def all_labels(self) -> tuple[int, ...]:
        """All of its classes, one in a data set of one label a video."""
        return (self.label,) if self.labels is None else self.labels


@dataclass(frozen=True)
class VideoDataset:
    """The videos of one split of a data set.

    Attributes:
        labels: Class names in the order of the logits.
        flip: Whether a mirrored video keeps its class; False where classes mirror each other.
        root: The folder or list file that the data set was opened from; a list may be an address.
        others: Listed videos that this split neither trains nor validates on.
        multi_label: Whether a video may have several classes, or none.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[LabelledVideo, ...]
    val: tuple[LabelledVideo, ...]
    flip: bool = True
    root: VideoPath | None = None
    others: tuple[VideoPath, ...] = ()
    multi_label: bool = False

    @property
    def has_segments(self) -> bool:
        """Whether some of the videos are parts of files."""
        return any(video.segment for video in self.train + self.val)

    def train_counts(self) -> tuple[int, ...]:
        """The number of training videos of each class."""
        counts = Counter(video.label for video in self.train)
        return tuple(counts[label] for label in range(len(self.labels)))

    def facts(self) -> dict[str, int | bytes]:
        """What is the same in every copy of the data set, by name."""
        every = self.train + self.val
        videos = [(video.path.name, video.all_labels, video.segment) for video in every]
        return {
            "number of classes": len(self.labels),
            "number of training videos": len(self.train),
            "number of validation videos": len(self.val),
            "names of videos and classes": sha256(repr((self.labels, videos)).encode()).digest(),
        }


def scan_files(
    folder: str | Path,
    depth: int | None = None,
    suffixes: Collection[str] = VIDEO_SUFFIXES,
    others: list[Path] | None = None,
) -> list[Path]:
    """The files with certain suffixes in `folder` and `depth` levels below, as `files.scan` finds
    them; the other files are added to `others`.

    Raises:
        ActionrecError: a folder can't be listed.
    """
    found = scan(folder, depth, suffixes)
    if found.unlisted:
        raise ActionrecError(found.unlisted[0].error)
    if others is not None:
        others += found.others
    return found.videos


def videos_by_name(
    folder: Path, depth: int, name_of: Callable[[Path], str | None], omitted: str
) -> dict[str, Path]:
    """Return the videos below `folder` by name; warn of those that have none.

    Args:
        name_of: The name of a video in the data set, None where it is no part of it.
        omitted: A clause on the videos without a name, for the warning. Without it there is none.

    Raises:
        ActionrecError: two videos have the same name, or a folder can't be listed.
    """
    videos: dict[str, Path] = {}
    others = []
    for path in scan_files(folder, depth):
        name = name_of(path)
        if name is None:
            others.append(path)
        elif videos.setdefault(name, path) != path:
            raise ActionrecError(f"{path} is there twice (also {videos[name]}); delete one.")
    if videos and omitted:
        warn_of_omitted(folder, omitted, others)
    return videos


def read_lines(path: Path, advice: str) -> list[tuple[int, str]]:
    """Return number and text of the lines of a list file that aren't blank.

    Raises:
        ActionrecError: the file can't be read; `advice` says how to get another.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ActionrecError(f"{path} can't be read ({error}); {advice}.") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def warn_of_omitted(folder: Path, clause: str, videos: Sequence[Path]) -> None:
    """Warn of videos in `folder` that are no part of the data set, if there are any."""
    if videos:
        logger.warning(
            f"Videos in {folder} that {clause} are left out: {len(videos)}, the first is "
            f"{min(videos)}."
        )


def warn_of_missing(
    folder: Path, counts: dict[str, tuple[int, int]], labels: tuple[str, ...], present: set[int]
) -> None:
    """Warn where videos or classes are missing.

    Args:
        counts: For each kind of videos, how many there are and how many there should be.
        present: The labels that have videos.
    """
    found, expected = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    if found >= expected:
        return
    parts = [f"{there} of the {total} {kind}" for kind, (there, total) in counts.items()]
    missing_half = "; half or more are missing, so figures are those of a subset"
    subset = missing_half if 2 * found <= expected else ""
    absent = absent_classes(labels, present)
    logger.warning(f"{folder} holds {' and '.join(parts)}{subset}{absent}.")


def deal_groups(groups: Sequence[str | None], labels: Sequence[str], folds: int) -> list[int]:
    """The fold, from 0, of each video; -1 where its group is None.

    Largest group first, each goes to the fold with the least of its labels and videos so far, both
    counted as shares of their totals. The same videos are always dealt alike.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        if group is not None:
            counts[group].update([f"label {label}", "videos"])
    totals = sum(counts.values(), Counter())
    dealt = [Counter[str]() for _ in range(folds)]
    fold_of: dict[str | None, int] = {None: -1}
    for group in sorted(counts, key=lambda group: (-counts[group]["videos"], group)):
        cost = [
            sum(fold[name] * count / totals[name] ** 2 for name, count in counts[group].items())
            for fold in dealt
        ]
        fold_of[group] = cost.index(min(cost))
        dealt[fold_of[group]].update(counts[group])
    return [fold_of[group] for group in groups]


def absent_classes(labels: tuple[str, ...], present: set[int]) -> str:
    """Return an end of a warning that names the classes without a video, "" if all have one."""
    absent = [name for label, name in enumerate(labels) if label not in present]
    return f"; {len(absent)} classes have none ({abridged(absent)})" if absent else ""


def abridged(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
