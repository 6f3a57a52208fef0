"""HMDB51: 6,766 clips of 51 actions from films and the web (Kuehne, Jhuang, Garrote, Poggio, Serre
2011), with its three official splits.

    actionrec train --dataset hmdb51 --root hmdb51 --split 1

A split has 70 videos a class to train and 30 to test, and leaves the others out. The names don't
tell which, so the official split files are needed: CLASS_test_split1.txt and so on, 51 a split,
from test_train_splits.rar of
https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/.
"""

import re
from pathlib import Path
from typing import NamedTuple

from actionrec.datasets.dataset import (
    LabelledVideo,
    VideoDataset,
    read_lines,
    videos_by_name,
    warn_of_missing,
)
from actionrec.errors import ActionrecError

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

# hmdb51_org is the name in hmdb51_org.rar, videos the one that other projects ask for.
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
ALL_NEEDED = f"all 51 files of a split are needed, unpack {SOURCE} again"


class _Listed(NamedTuple):
    label: int
    group: str
    side: str | None


def open_hmdb51(root: str | Path, split: str = "1") -> VideoDataset:
    """Return the HMDB51 videos below `root`, divided by the official `split`: "1", "2" or "3".

    The videos lie in `root`, root/hmdb51_org, root/hmdb51 or root/videos, in class folders or all
    together. The split files lie in any of these, beside `root`, or in a folder there that is
    called testTrainMulti_7030_splits (as in the official archive), test_train_splits, splits or
    annotations. Any subset of the videos is taken, with a warning that counts the missing ones. The
    labels are always the 51 official classes.

    `group` is the title that a name begins with: the film or web video that a clip was cut from.
    No film trains and tests the same class, but many do so with different classes: 457, 527 and
    529 of the 1,530 test videos of the splits have a title that also trains.

    Raises:
        ActionrecError: the split files are not there or not the official ones, there are no
            videos, or one is there twice.
    """
    root = Path(root)
    listed = _read_split(_split_folder(root, split), split)
    folder, videos = _find_videos(root, listed)

    sides: dict[str | None, list[LabelledVideo]] = {"train": [], "val": [], None: []}
    for key, (label, group, side) in listed.items():
        if key in videos:
            sides[side].append(LabelledVideo(videos[key], label, group))
    train, val = tuple(sides["train"]), tuple(sides["val"])
    counts = {
        "training": (len(train), COUNTS["train"] * len(LABELS)),
        f"test videos of split {split} of HMDB51": (len(val), COUNTS["val"] * len(LABELS)),
    }
    warn_of_missing(folder, counts, LABELS, {video.label for video in train + val})
    return VideoDataset("hmdb51", LABELS, train, val)


def _key(stem: str) -> str:
    """Return a name without suffix, with _ for every character that is no letter or digit.

    Names hold # & ! ; ~ @ + - and brackets, for which some copies of the data set have _. By this
    rule the 6,766 names stay different; without the odd characters, or in lower case, they would
    not (Smile! and Smile, boom-snap-clap and Boom_Snap_Clap are different videos).
    """
    return re.sub("[^A-Za-z0-9]", "_", stem)


def _split_folder(root: Path, split: str) -> Path:
    for parent in [*(root / name for name in reversed(VIDEO_FOLDERS)), root.parent]:
        for folder in (parent / name for name in SPLIT_FOLDERS):
            if any(folder.glob(f"*_test_split{split}.txt")):
                return folder
    raise ActionrecError(
        f"The official split files (CLASS_test_split{split}.txt) are not in {root}; unpack "
        f"{SOURCE} there."
    )


def _read_split(folder: Path, split: str) -> dict[str, _Listed]:
    """Return label, title and side of every listed video by the key of its name."""
    listed: dict[str, _Listed] = {}
    for label, class_name in enumerate(LABELS):
        path = folder / f"{class_name}_test_split{split}.txt"
        pattern = re.compile(
            rf"((.+)_{class_name}_[fhlu]_[cn]m_np\d+_(?:ba|fr|le|ri)_\w{{3}}_\d+)\.avi\s+([012])"
        )
        sides = []
        for number, line in read_lines(path, ALL_NEEDED):
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


def _find_videos(root: Path, listed: dict[str, _Listed]) -> tuple[Path, dict[str, Path]]:
    """Return the first of the folders that holds listed videos, and these by their keys."""

    def name_of(path: Path) -> str | None:
        return key if (key := _key(path.stem)) in listed else None

    for folder in (root / name for name in VIDEO_FOLDERS if (root / name).is_dir()):
        # Unpacking each class's archive in a folder of its own gives brush_hair/brush_hair/*.avi.
        if videos := videos_by_name(folder, 2, name_of, omitted="no split file lists"):
            return folder, videos
    raise ActionrecError(
        f"No video that the split files list is in {root} or its folders "
        f"{', '.join(VIDEO_FOLDERS[:-1])}; give the folder that hmdb51_org.rar, and the archive of "
        "each class in it, was unpacked to."
    )
