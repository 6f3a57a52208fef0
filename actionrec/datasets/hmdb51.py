"""HMDB51: 6,766 clips of 51 actions from films and the web (Kuehne, Jhuang, Garrote, Poggio, Serre
2011), with its three official splits.

    actionrec train --dataset hmdb51 --root hmdb51 --split 1

A split has 70 videos a class to train and 30 to test, and leaves the others out. Which ones is
not in their names, so the official split files are needed: CLASS_test_split1.txt and so on, 51 a
split, from test_train_splits.rar of
https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/.
"""

import logging
import re
from pathlib import Path
from typing import NamedTuple

from actionrec.datasets.dataset import LabelledVideo, VideoDataset, absent_classes, scan_videos
from actionrec.errors import ActionrecError, UsageError

logger = logging.getLogger("actionrec")

# Sorted, which is the order of the labels in published work.
LABELS = tuple(
    """
    brush_hair cartwheel catch chew clap climb climb_stairs dive draw_sword dribble drink eat
    fall_floor fencing flic_flac golf handstand hit hug jump kick kick_ball kiss laugh pick pour
    pullup punch push pushup ride_bike ride_horse run shake_hands shoot_ball shoot_bow shoot_gun
    sit situp smile smoke somersault stand swing_baseball sword sword_exercise talk throw turn
    walk wave
    """.split()
)
SPLITS = ("1", "2", "3")
# The number in a split file, and how many lines of each file have it.
SIDES = {"0": None, "1": "train", "2": "val"}
COUNTS = {"train": 70, "val": 30}

# hmdb51_org is what hmdb51_org.rar is called, videos is what other projects ask for.
VIDEO_FOLDERS = ("hmdb51_org", "hmdb51", "videos", ".")
SPLIT_FOLDERS = (
    ".",
    "testTrainMulti_7030_splits",
    "test_train_splits",
    "test_train_splits/testTrainMulti_7030_splits",
    "splits",
    "annotations",
)
SOURCE = (
    "test_train_splits.rar from "
    "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"
)


class _Listed(NamedTuple):
    label: int
    group: str
    side: str | None


def open_hmdb51(root: str | Path, split: str = "1") -> VideoDataset:
    """Return the HMDB51 videos below `root`, divided by the official `split`: "1", "2" or "3".

    The videos lie in `root`, root/hmdb51_org, root/hmdb51 or root/videos, in class folders or
    all together. The split files lie in any of these, beside `root`, or in a folder there that
    is called testTrainMulti_7030_splits (as in the official archive), test_train_splits, splits
    or annotations. A subset of the videos is taken as it is, with a warning that counts what is
    missing. The labels are the 51 official classes whatever is there.

    `group` is the title that a name begins with, the film or web video that a clip was cut from.
    No film trains and tests the same class, but many do so with different classes: 457, 527 and
    529 of the 1,530 test videos of the splits have a title that also trains.

    Raises:
        UsageError: there is no such split.
        ActionrecError: the split files are not there or not the official ones, there are no
            videos to train or to validate on, or a video is there twice.
    """
    if split not in SPLITS:
        raise UsageError(f"hmdb51 has no split {split!r}; choose {', '.join(SPLITS)}.")
    root = Path(root)
    if not root.is_dir():
        raise ActionrecError(f"{root} is not a folder; give the one that HMDB51 lies in.")
    listed = _read_split(_split_folder(root, split), split)
    folder, videos = _find_videos(root, listed)

    sides: dict[str, list[LabelledVideo]] = {"train": [], "val": []}
    for key, (label, group, side) in listed.items():
        if side and key in videos:
            sides[side].append(LabelledVideo(videos[key], label, group))
    for side, word in (("train", "train"), ("val", "validate")):
        if not sides[side]:
            raise ActionrecError(
                f"None of the {len(videos)} videos of HMDB51 in {folder} is there to {word} on in "
                f"split {split}; add the missing videos or choose another split."
            )
    _warn_of_missing(folder, split, sides)
    return VideoDataset("hmdb51", LABELS, tuple(sides["train"]), tuple(sides["val"]))


def _key(stem: str) -> str:
    """Return the name of a video, without suffix, with _ for whatever is no letter or digit.

    Names hold # & ! ; ~ @ + - and brackets, which copies of the data set have with _ instead. The
    6,766 names stay different by this rule; without the odd characters, or in lower case, they
    would not (Smile! and Smile, boom-snap-clap and Boom_Snap_Clap are different videos).
    """
    return re.sub("[^A-Za-z0-9]", "_", stem)


def _split_folder(root: Path, split: str) -> Path:
    places = [root / name for name in reversed(VIDEO_FOLDERS)] + [root.parent]
    for place in places:
        for name in SPLIT_FOLDERS:
            if any((place / name).glob(f"*_test_split{split}.txt")):
                return place / name
    raise ActionrecError(
        f"The official split files (CLASS_test_split{split}.txt) are not in {root}; unpack "
        f"{SOURCE} there."
    )


def _read_split(folder: Path, split: str) -> dict[str, _Listed]:
    """Return what the split files say of each video, by the key of its name."""
    listed: dict[str, _Listed] = {}
    for label, class_name in enumerate(LABELS):
        path = folder / f"{class_name}_test_split{split}.txt"
        pattern = re.compile(
            rf"((.+)_{class_name}_[fhlu]_[cn]m_np\d+_(?:ba|fr|le|ri)_\w{{3}}_\d+)\.avi\s+([012])"
        )
        sides = []
        for number, line in _lines(path):
            match = pattern.fullmatch(line)
            if not match:
                raise ActionrecError(
                    f"{path}, line {number}: {line!r} is not a video of {class_name} and 0, 1 or "
                    f"2; get the official file again, {SOURCE}."
                )
            stem, title, side = match.groups()
            sides.append(SIDES[side])
            listed[_key(stem)] = _Listed(label, title, SIDES[side])
        counts = {side: sides.count(side) for side in COUNTS}
        if counts != COUNTS:
            raise ActionrecError(
                f"{path} has {counts['train']} videos to train and {counts['val']} to test, not "
                f"70 and 30; get the official file again, {SOURCE}."
            )
    return listed


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the number and the text of every line that isn't blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ActionrecError(
            f"{path} can't be read ({error}); all 51 files of a split are needed, unpack {SOURCE} "
            "again."
        ) from error
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _find_videos(root: Path, listed: dict[str, _Listed]) -> tuple[Path, dict[str, Path]]:
    """Return the first of the folders that holds listed videos, and these by their keys."""
    for name in VIDEO_FOLDERS:
        folder = root / name
        # Unpacking each class's archive in a folder of its own gives brush_hair/brush_hair/*.avi.
        found = scan_videos(folder, depth=2) if folder.is_dir() else ()
        videos: dict[str, Path] = {}
        others = []
        for stem, path in found:
            key = _key(stem)
            if key not in listed:
                others.append(path)
            elif key in videos:
                raise ActionrecError(f"{path} is there twice (also {videos[key]}); delete one.")
            else:
                videos[key] = Path(path)
        if videos:
            if others:
                logger.warning(
                    "Videos in %s that no split file lists are left out: %d, the first is %s.",
                    folder,
                    len(others),
                    min(others),
                )
            return folder, videos
    raise ActionrecError(
        f"No video that the split files list is in {root} or its folders "
        f"{', '.join(VIDEO_FOLDERS[:-1])}; give the folder that hmdb51_org.rar, and the archive of "
        "each class in it, was unpacked to."
    )


def _warn_of_missing(folder: Path, split: str, sides: dict[str, list[LabelledVideo]]) -> None:
    totals = {side: count * len(LABELS) for side, count in COUNTS.items()}
    if all(len(sides[side]) == total for side, total in totals.items()):
        return
    logger.warning(
        "%s holds %d of the %d training and %d of the %d test videos of split %s of HMDB51%s.",
        folder,
        len(sides["train"]),
        totals["train"],
        len(sides["val"]),
        totals["val"],
        split,
        absent_classes(LABELS, {video.label for side in sides.values() for video in side}),
    )
