"""Kinetics-400, -600 and -700: ten-second clips of YouTube videos (Kay et al. 2017, Carreira et al.
2018, 2019), as the CVDF gives them out, and subsets of them.

    actionrec train --dataset kinetics --root k400

    k400/train/YOUTUBEID_TTTTTT_TTTTTT.mp4      k400/annotations/train.csv
    k400/val/YOUTUBEID_TTTTTT_TTTTTT.mp4        k400/annotations/val.csv

A name has the YouTube identifier and the seconds where the clip begins and ends; the lists
say what each clip shows. Videos and lists are at https://github.com/cvdfoundation/kinetics-dataset.
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

from actionrec.datasets.dataset import LabelledVideo, VideoDataset, absent_classes, scan_videos
from actionrec.errors import ActionrecError, UsageError

logger = logging.getLogger("actionrec")

PAGE = "https://github.com/cvdfoundation/kinetics-dataset"
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
# What train and val are called: val.csv by the CVDF, validate.csv by DeepMind.
WORDS = {"train": ("train",), "val": ("val", "validate", "validation")}


class _Clip(NamedTuple):
    label: str
    youtube_id: str


def open_kinetics(root: str | Path, split: str = "1") -> VideoDataset:
    """Return the Kinetics clips below `root`; the labels are those of the training list, sorted.

    The clips lie in root/train and root/val (or validate, validation; also below root/videos, or
    called videos_train and videos_val), flat or in class folders of any name: the file's name
    says which line of the list it belongs to. The lists lie in `root` or at any depth in
    root/annotations and are called train.csv and val.csv (or validate.csv, validation.csv), or
    like kinetics-400_train.csv. Clips in root/replacement, which the CVDF gives out for corrupted
    ones of Kinetics-400, take their place.

    Many clips can't be had any more, and many people train on a part, so any subset is taken
    with a warning that counts what is there. `group` is the YouTube video.

    Raises:
        UsageError: there is no such split.
        ActionrecError: a list or a folder is not there, a list can't be read or has wrong
            columns or lines, a validation clip is of no training class, a clip is there twice,
            or no clip is there to train or to validate on.
    """
    if split != "1":
        raise UsageError(f"kinetics has only one split; leave out --split {split}.")
    root = Path(root)
    if not root.is_dir():
        raise ActionrecError(f"{root} is not a folder; give the one that Kinetics lies in.")
    lists = _find_lists(root)
    clips = {side: _read_list(path) for side, path in lists.items()}
    labels = tuple(sorted({clip.label for clip in clips["train"].values()}))
    _check_sides(lists, clips)

    index = {label: number for number, label in enumerate(labels)}
    sides: dict[str, tuple[LabelledVideo, ...]] = {}
    for side, word in (("train", "train"), ("val", "validate")):
        paths = _find_videos(root, side, lists[side], clips[side])
        sides[side] = tuple(
            LabelledVideo(Path(paths[name]), index[clip.label], clip.youtube_id)
            for name, clip in clips[side].items()
            if name in paths
        )
        if not sides[side]:
            raise ActionrecError(
                f"None of the {len(clips[side])} clips in {lists[side]} is in {root} to {word} on; "
                "check that the list and the videos are of the same release of Kinetics."
            )
    _warn_of_missing(root, labels, clips, sides)
    return VideoDataset("kinetics", labels, sides["train"], sides["val"])


def _find_lists(root: Path) -> dict[str, Path]:
    """Return the training and the validation list of the first place that has both."""
    below = sorted(parent for parent, _, _ in os.walk(root / "annotations"))
    for place in [root, *map(Path, below)]:
        names = sorted(path.name for path in place.glob("*.csv"))
        lists = {side: [name for name in names if _names_side(name, side)] for side in WORDS}
        for side, found in lists.items():
            if len(found) > 1:
                raise ActionrecError(
                    f"{' and '.join(found)} in {place} could each be the {side} list; keep one."
                )
        if all(lists.values()):
            return {side: place / found[0] for side, found in lists.items()}
    raise ActionrecError(
        f"The lists of Kinetics (train.csv and val.csv) are not in {root} or {root}/annotations; "
        f"get them from {PAGE}, or train on class folders with --dataset folder."
    )


def _names_side(name: str, side: str) -> bool:
    return re.fullmatch(rf"(.+[-_])?({'|'.join(WORDS[side])})\.csv", name) is not None


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
            "%s gives %d clips two labels, the first is %s; the label listed first is taken.",
            path,
            len(ambiguous),
            ambiguous[0],
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
            "%d clips of %s are in %s too, which makes the validation figures too good; the first "
            "is %s.",
            len(both),
            lists["val"],
            lists["train"],
            min(both),
        )


def _video_folder(root: Path, side: str) -> Path:
    for pattern in ("{}", "videos/{}", "videos_{}"):
        for word in WORDS[side]:
            if (root / pattern.format(word)).is_dir():
                return root / pattern.format(word)
    raise ActionrecError(
        f"{root} has no folder {' or '.join(WORDS[side])}; expected are train/ and val/ with the "
        "clips in them, flat or in class folders."
    )


def _find_videos(root: Path, side: str, listing: Path, clips: dict[str, _Clip]) -> dict[str, str]:
    """Return the paths of the videos of one side by their names, listed or not."""
    folder = _video_folder(root, side)
    paths = _paths_by_name(folder)
    if unlisted := paths.keys() - clips.keys():
        logger.warning(
            "Videos in %s that have no line in %s are left out: %d, the first is %s.",
            folder,
            listing,
            len(unlisted),
            paths[min(unlisted)],
        )
    if side == "train" and (root / "replacement").is_dir():
        replacements = _paths_by_name(root / "replacement")
        paths |= {name: path for name, path in replacements.items() if name in clips}
    return paths


def _paths_by_name(folder: Path) -> dict[str, str]:
    paths: dict[str, str] = {}
    for name, path in scan_videos(folder, depth=1):
        if name in paths:
            raise ActionrecError(f"{path} is there twice (also {paths[name]}); delete one.")
        paths[name] = path
    return paths


def _warn_of_missing(
    root: Path,
    labels: tuple[str, ...],
    clips: dict[str, dict[str, _Clip]],
    sides: dict[str, tuple[LabelledVideo, ...]],
) -> None:
    listed = sum(map(len, clips.values()))
    there = sum(map(len, sides.values()))
    if there == listed:
        return
    subset = ""
    if 2 * there <= listed:
        subset = "; half or more are missing, so figures are those of a subset of Kinetics"
    logger.warning(
        "%s holds %d of the %d training and %d of the %d validation clips of the lists%s%s.",
        root,
        len(sides["train"]),
        len(clips["train"]),
        len(sides["val"]),
        len(clips["val"]),
        subset,
        absent_classes(labels, {video.label for video in sides["train"]}),
    )
