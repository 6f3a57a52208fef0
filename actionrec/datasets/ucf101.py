"""UCF-101: 13,320 clips of 101 actions, and its official splits (Soomro, Zamir, Shah 2012).

    actionrec train --dataset ucf101 --root UCF-101 --split 1

A video is called v_Class_gNN_cNN.avi: clip cNN of group gNN, a group being the clips of one
recording. The official splits are a rule on the group, so list files are not needed; those that lie
beside the videos must agree with the rule.
"""

import re
from pathlib import Path

from actionrec.datasets.dataset import (
    LabelledVideo,
    VideoDataset,
    read_lines,
    videos_by_name,
    warn_of_missing,
)
from actionrec.errors import ActionrecError

# In the order of classInd.txt, which is the order of the labels in published work. Sorted
# folders differ from it (HammerThrow before Hammering, JumpRope before JumpingJack).
LABELS = tuple(
    """
    ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch
    Basketball BasketballDunk BenchPress Biking Billiards BlowDryHair BlowingCandles
    BodyWeightSquats Bowling BoxingPunchingBag BoxingSpeedBag BreastStroke BrushingTeeth
    CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen Diving Drumming Fencing
    FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut Hammering
    HammerThrow HandstandPushups HandstandWalking HeadMassage HighJump HorseRace HorseRiding
    HulaHoop IceDancing JavelinThrow JugglingBalls JumpingJack JumpRope Kayaking Knitting
    LongJump Lunges MilitaryParade Mixing MoppingFloor Nunchucks ParallelBars PizzaTossing
    PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingGuitar PlayingPiano PlayingSitar
    PlayingTabla PlayingViolin PoleVault PommelHorse PullUps Punch PushUps Rafting
    RockClimbingIndoor RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing
    Skijet SkyDiving SoccerJuggling SoccerPenalty StillRings SumoWrestling Surfing Swing
    TableTennisShot TaiChi TennisSwing ThrowDiscus TrampolineJumping Typing UnevenBars
    VolleyballSpiking WalkingWithDog WallPushups WritingOnBoard YoYo
    """.split()
)
# Class 37 has the folder HandstandPushups and files v_HandStandPushups_*: compare without case.
LABEL_OF = {name.casefold(): label for label, name in enumerate(LABELS)}
OFFICIAL_COUNT = 13320

# The groups that validate. "paper" is the training list of split 1 with groups 8 to 10 held out,
# which gives the 7912 and 1625 videos of "Unifying Nonlocal Blocks for Neural Networks".
VALIDATION_GROUPS = {
    "1": range(1, 8),
    "2": range(8, 15),
    "3": range(15, 22),
    "paper": range(8, 11),
}
VIDEO_NAME = re.compile(r"v_(\w+)_g(\d\d)_c\d\d\.avi")
LIST_FOLDER = "ucfTrainTestlist"
COPY_AGAIN = "copy the official file again, or delete it"


def open_ucf101(root: str | Path, split: str = "1") -> VideoDataset:
    """Return the UCF-101 videos below `root`, divided by a `split` of `VALIDATION_GROUPS`.

    The videos lie in `root` or in root/UCF-101, in class folders or all together. Any subset of
    the 13,320 is taken, with a warning that counts the missing ones. The labels are always the
    101 official classes.

    List files (classInd.txt, trainlistNN.txt, testlistNN.txt) are looked for in `root`, in the
    folder of the videos and in ucfTrainTestlist/ in or beside either.

    Raises:
        ActionrecError: there are no videos, a video is of no class or there twice, or a list file
            disagrees with the naming rule.
    """
    root = Path(root)
    folder = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    videos = _find_videos(folder)
    _check_lists(root, folder, videos, "1" if split == "paper" else split)

    sides: dict[str | None, list[LabelledVideo]] = {"train": [], "val": [], None: []}
    for name in sorted(videos, key=lambda name: (_parse(name)[0], name)):
        label, group = _parse(name)
        video = LabelledVideo(videos[name], label, f"{LABELS[label]}_g{group:02d}")
        sides[side_of_group(group, split)].append(video)
    counts = {"videos of UCF-101": (len(videos), OFFICIAL_COUNT)}
    warn_of_missing(folder, counts, LABELS, {_parse(name)[0] for name in videos})
    return VideoDataset("ucf101", LABELS, tuple(sides["train"]), tuple(sides["val"]))


def side_of_group(group: int, split: str) -> str | None:
    """Return the side of a group: "train", "val", or None for the test groups of "paper"."""
    if group in VALIDATION_GROUPS[split]:
        return "val"
    if split == "paper" and group in VALIDATION_GROUPS["1"]:
        return None
    return "train"


def _parse(name: str) -> tuple[int, int]:
    """Return label and group of a file name that `_find_videos` has accepted."""
    word, group = VIDEO_NAME.fullmatch(name).groups()
    return LABEL_OF[word.casefold()], int(group)


def _find_videos(folder: Path) -> dict[str, Path]:
    videos = videos_by_name(
        folder,
        depth=1,
        name_of=lambda path: path.name if VIDEO_NAME.fullmatch(path.name) else None,
        omitted="are not named like UCF-101's",
    )
    if not videos:
        raise ActionrecError(
            f"No UCF-101 videos (v_Class_gNN_cNN.avi) in {folder} or its class folders; "
            "give the folder that UCF101.rar was unpacked to."
        )
    for name, path in videos.items():
        word = VIDEO_NAME.fullmatch(name)[1]
        if word.casefold() not in LABEL_OF:
            raise ActionrecError(
                f"{path} is of no class of UCF-101 ({word}); move it away, or train on "
                "class folders of your own with --dataset folder."
            )
        above = path.parent.name.casefold()
        if path.parent != folder and above in LABEL_OF and above != word.casefold():
            raise ActionrecError(
                f"{path} lies in another class's folder than its name says; move it."
            )
    return videos


def _check_lists(root: Path, folder: Path, videos: dict[str, Path], split: str) -> None:
    """Compare the list files of an official split, as far as there are any, with the rule."""
    folders = [root, folder, *(each / LIST_FOLDER for each in (root, folder, root.parent))]

    def find(name: str) -> Path | None:
        return next((each / name for each in folders if (each / name).is_file()), None)

    if path := find("classInd.txt"):
        _check_classes(path)
    lists = {"train": find(f"trainlist0{split}.txt"), "val": find(f"testlist0{split}.txt")}
    listed = [_check_list(path, split, side) for side, path in lists.items() if path]
    if len(listed) == 2 and (unlisted := sorted(videos.keys() - listed[0] - listed[1])):
        raise ActionrecError(
            f"{videos[unlisted[0]]} is in neither trainlist0{split}.txt nor testlist0{split}.txt; "
            "complete the lists or delete them, the naming rule gives the official split."
        )


def _check_classes(path: Path) -> None:
    lines = read_lines(path, COPY_AGAIN)
    for (number, line), (label, name) in zip(lines, enumerate(LABELS, start=1), strict=False):
        if line.split() != [str(label), name]:
            raise ActionrecError(
                f"{path}, line {number}: {line!r} where the official list has '{label} {name}'; "
                f"{COPY_AGAIN}."
            )
    if len(lines) != len(LABELS):
        raise ActionrecError(f"{path} has {len(lines)} classes, not {len(LABELS)}; {COPY_AGAIN}.")


def _check_list(path: Path, split: str, side: str) -> set[str]:
    """Compare each line, Class/v_Class_gNN_cNN.avi [number], with the rule; return the names."""
    names = set()
    for number, line in read_lines(path, COPY_AGAIN):
        words = line.split()
        folder, _, name = words[0].rpartition("/")
        match = VIDEO_NAME.fullmatch(name)
        label = LABEL_OF.get(match[1].casefold()) if match else None
        if label is None or folder not in ("", LABELS[label]):
            problem = "is no video of UCF-101"
        elif len(words) > 1 and words[1] != str(label + 1):
            problem = f"is of class {label + 1}"
        elif side_of_group(int(match[2]), split) != side:
            problem = "belongs to the other list"
        else:
            names.add(name)
            continue
        raise ActionrecError(
            f"{path}, line {number}: {line!r} {problem} by the naming rule of split {split}; "
            f"{COPY_AGAIN}."
        )
    return names
