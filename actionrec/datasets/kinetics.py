"""Kinetics-400, -600 and -700: ten-second clips of YouTube videos (Kay et al. 2017, Carreira et al.
2018, 2019), as the CVDF gives them out, and subsets of them.

    actionrec train --dataset kinetics --root k400

    k400/train/YOUTUBEID_TTTTTT_TTTTTT.mp4      k400/annotations/train.csv
    k400/val/YOUTUBEID_TTTTTT_TTTTTT.mp4        k400/annotations/val.csv

A name has the YouTube identifier and the seconds where the clip begins and ends; the lists have
the label of each clip. Videos and lists are at https://github.com/cvdfoundation/kinetics-dataset.
Its csv files of Kinetics-600 are incomplete (issue 33 there): take the complete ones of
https://github.com/activitynet/ActivityNet/tree/master/Crawler/Kinetics/data.
"""

import csv
import logging
import os
import re
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from actionrec.datasets.dataset import LabelledVideo, VideoDataset, videos_by_name, warn_of_missing
from actionrec.errors import ActionrecError

logger = logging.getLogger("actionrec")

PAGE = "https://github.com/cvdfoundation/kinetics-dataset"
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
# The CVDF writes val.csv, DeepMind validate.csv.
SIDE_NAMES = {"train": ("train",), "val": ("val", "validate", "validation")}


class _Clip(NamedTuple):
    label: str
    youtube_id: str


def open_kinetics(root: str | Path) -> VideoDataset:
    """Return the Kinetics clips below `root`; the labels are those of the training list, sorted.

    The clips lie in root/train and root/val (or validate, validation; also below root/videos, or
    called videos_train and videos_val), flat or in class folders of any name: the file's name
    tells its line of the list. The lists lie in `root` or at any depth in root/annotations and
    are called train.csv and val.csv (or validate.csv, validation.csv), or like
    kinetics-400_train.csv. Clips in root/replacement, which the CVDF gives out for corrupted ones
    of Kinetics-400, take their place.

    Many clips can't be had any more, and many people train on a part, so any subset is taken,
    with a warning that counts it. `group` is the YouTube video.

    Raises:
        ActionrecError: a list or a folder is not there, a list can't be read or has wrong
            columns or lines, a validation clip is of no training class, or a clip is there twice.
    """
    root = Path(root)
    lists = _find_lists(root)
    clips = {side: _read_list(path) for side, path in lists.items()}
    labels = tuple(sorted({clip.label for clip in clips["train"].values()}))
    _check_sides(lists, clips)

    index = {label: number for number, label in enumerate(labels)}
    paths = {side: _find_videos(root, side, lists[side], clips[side]) for side in SIDE_NAMES}
    train, val = (
        tuple(
            LabelledVideo(paths[side][name], index[clip.label], clip.youtube_id)
            for name, clip in clips[side].items()
            if name in paths[side]
        )
        for side in SIDE_NAMES
    )
    counts = {
        "training": (len(train), len(clips["train"])),
        "validation clips of the lists": (len(val), len(clips["val"])),
    }
    warn_of_missing(root, counts, labels, {video.label for video in train})
    return VideoDataset("kinetics", labels, train, val)


def _find_lists(root: Path) -> dict[str, Path]:
    """Return the training and the validation list of the first place that has both."""
    below = sorted(parent for parent, _, _ in os.walk(root / "annotations"))
    for folder in [root, *map(Path, below)]:
        names = sorted(path.name for path in folder.glob("*.csv"))
        lists = {
            side: list(filter(re.compile(rf"(.+[-_])?({'|'.join(words)})\.csv").fullmatch, names))
            for side, words in SIDE_NAMES.items()
        }
        for side, found in lists.items():
            if len(found) > 1:
                raise ActionrecError(
                    f"{' and '.join(found)} in {folder} could each be the {side} list; keep one."
                )
        if all(lists.values()):
            return {side: folder / found[0] for side, found in lists.items()}
    raise ActionrecError(
        f"The lists of Kinetics (train.csv and val.csv) are not in {root} or {root}/annotations; "
        f"get them from {PAGE}, or train on class folders with --dataset folder."
    )


def _read_list(path: Path) -> dict[str, _Clip]:
    """Return the clips of a list by the name of their file, without its suffix."""
    clips: dict[str, _Clip] = {}
    ambiguous = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if missing := [name for name in COLUMNS if name not in header]:
                raise ActionrecError(
                    f"{path} has no column {missing[0]}; give a list with the first line "
                    f"{','.join(COLUMNS)},split, from {PAGE}."
                )
            fields = itemgetter(*map(header.index, COLUMNS))
            for row in filter(None, reader):
                label, youtube_id, start, end = fields(row)
                if not label:
                    raise ValueError("the label is empty")
                name = f"{youtube_id}_{int(start):06d}_{int(end):06d}"
                if clips.setdefault(name, _Clip(label, youtube_id)).label != label:
                    ambiguous.append(name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ActionrecError(
            f"{path} can't be read as a CSV file in UTF-8 ({error}); get it from {PAGE}."
        ) from error
    except (IndexError, ValueError) as error:
        raise ActionrecError(
            f"{path}, line {reader.line_num} is not a label, a YouTube identifier and two whole "
            f"numbers of seconds ({error}); get the list from {PAGE}."
        ) from error
    if not clips:
        raise ActionrecError(f"{path} lists no clips; get the list from {PAGE}.")
    if ambiguous:
        logger.warning(
            f"{path} gives {len(ambiguous)} clips two labels, the first is {ambiguous[0]}; the "
            "label listed first is taken."
        )
    return clips


def _check_sides(lists: dict[str, Path], clips: dict[str, dict[str, _Clip]]) -> None:
    train, val = ({clip.label for clip in clips[side].values()} for side in ("train", "val"))
    if unknown := val - train:
        raise ActionrecError(
            f"{lists['val']} has clips of {min(unknown)!r}, which no clip in {lists['train']} "
            "shows; take both lists from the same release of Kinetics."
        )
    if both := clips["train"].keys() & clips["val"].keys():
        logger.warning(
            f"{len(both)} clips of {lists['val']} are in {lists['train']} too, which makes the "
            f"validation figures too good; the first is {min(both)}."
        )


def _video_folder(root: Path, side: str) -> Path:
    for pattern in ("{}", "videos/{}", "videos_{}"):
        for word in SIDE_NAMES[side]:
            if (root / pattern.format(word)).is_dir():
                return root / pattern.format(word)
    raise ActionrecError(
        f"{root} has no folder {' or '.join(SIDE_NAMES[side])}; expected are train/ and val/ with "
        "the clips in them, flat or in class folders."
    )


def _find_videos(root: Path, side: str, listing: Path, clips: dict[str, _Clip]) -> dict[str, Path]:
    """Return the paths of the listed videos of one side by their names."""

    def name_of(path: Path) -> str | None:
        return path.stem if path.stem in clips else None

    paths = videos_by_name(_video_folder(root, side), 1, name_of, f"have no line in {listing}")
    if side == "train" and (root / "replacement").is_dir():
        paths |= videos_by_name(root / "replacement", 1, name_of, omitted="")
    return paths
