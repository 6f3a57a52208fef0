"""UCF-101: 13,320 clips of 101 actions, and its official splits (Soomro, Zamir, Shah 2012).

    actionrec train --dataset ucf101 --root UCF-101 --split 1

A video is called v_Class_gNN_cNN.avi: clip cNN of group gNN, the clips of a group being cut from
one recording. The official splits are a rule on the group, so no list files are needed; where
list files lie beside the videos, they are read and must agree with the rule.
"""

import logging
import re
from pathlib import Path

from actionrec.datasets.dataset import LabelledVideo, VideoDataset, absent_classes
from actionrec.errors import ActionrecError, UsageError

logger = logging.getLogger("actionrec")

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


def open_ucf101(root: str | Path, split: str = "1") -> VideoDataset:
    """Return the UCF-101 videos below `root`, divided by `split`: "1", "2", "3" or "paper".

    The videos lie in `root` or in root/UCF-101, in class folders or all together. A subset of
    the 13,320 is taken as it is, with a warning that counts what is missing. The labels are the
    101 official classes whatever is there.

    List files (classInd.txt, trainlistNN.txt, testlistNN.txt) are looked for in `root`, in the
    folder of the videos and in ucfTrainTestlist/ in or beside either.

    Raises:
        UsageError: there is no such split.
        ActionrecError: there are no videos to train or to validate on, a video is of no class
            or there twice, or a list file disagrees with the naming rule.
    """
    if split not in VALIDATION_GROUPS:
        raise UsageError(f"ucf101 has no split {split!r}; choose {', '.join(VALIDATION_GROUPS)}.")
    root = Path(root)
    folder = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    videos = _find_videos(folder)
    _check_lists(root, folder, videos, "1" if split == "paper" else split)

    sides: dict[str, list[LabelledVideo]] = {"train": [], "val": []}
    for name in sorted(videos, key=lambda name: (_parse(name)[0], name)):
        label, group = _parse(name)
        if side := side_of_group(group, split):
            sides[side].append(LabelledVideo(videos[name], label, f"{LABELS[label]}_g{group:02d}"))
    for side, word in (("train", "train"), ("val", "validate")):
        if not sides[side]:
            raise ActionrecError(
                f"None of the {len(videos)} videos in {folder} is there to {word} on in split "
                f"{split}; add the missing groups or choose another split."
            )
    _warn_of_missing(folder, videos)
    return VideoDataset("ucf101", LABELS, tuple(sides["train"]), tuple(sides["val"]))


def side_of_group(group: int, split: str) -> str | None:
    """Say where a group belongs: "train", "val", or None for the test groups of "paper"."""
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
    if not folder.is_dir():
        raise ActionrecError(f"{folder} is not a folder; give the one that UCF-101 lies in.")
    videos: dict[str, Path] = {}
    others = []
    for path in [*folder.glob("*.avi"), *folder.glob("*/*.avi")]:
        match = VIDEO_NAME.fullmatch(path.name)
        if path.name.startswith("."):
            continue
        if not match:
            others.append(path)
            continue
        word = match[1].casefold()
        if word not in LABEL_OF:
            raise ActionrecError(
                f"{path} is of no class of UCF-101 ({match[1]}); move it away, or train on "
                "class folders of your own with --dataset folder."
            )
        above = path.parent.name.casefold()
        if path.parent != folder and above in LABEL_OF and above != word:
            raise ActionrecError(
                f"{path} lies in the folder of another class than its name says; move it."
            )
        if path.name in videos:
            raise ActionrecError(f"{path} is there twice (also {videos[path.name]}); delete one.")
        videos[path.name] = path
    if not videos:
        raise ActionrecError(
            f"No UCF-101 videos (v_Class_gNN_cNN.avi) in {folder} or its class folders; "
            "give the folder that UCF101.rar was unpacked to."
        )
    if others:
        logger.warning(
            "AVI files in %s that are not named like UCF-101's are left out: %d, the first is %s.",
            folder,
            len(others),
            min(others),
        )
    return videos


def _warn_of_missing(folder: Path, videos: dict[str, Path]) -> None:
    if len(videos) >= OFFICIAL_COUNT:
        return
    classes = absent_classes(LABELS, {_parse(name)[0] for name in videos})
    logger.warning(
        "%s holds %d of the %d videos of UCF-101%s.", folder, len(videos), OFFICIAL_COUNT, classes
    )


def _check_lists(root: Path, folder: Path, videos: dict[str, Path], split: str) -> None:
    """Read the list files of an official split, if there are any, and compare with the rule."""
    places = [root, folder]
    places += [place / "ucfTrainTestlist" for place in (root, folder, root.parent)]
    found: dict[str, Path] = {}
    for file in ("classInd.txt", f"trainlist0{split}.txt", f"testlist0{split}.txt"):
        for place in places:
            if (place / file).is_file():
                found[file] = place / file
                break
    listed: set[str] = set()
    for file, path in found.items():
        if file == "classInd.txt":
            _check_classes(path)
        else:
            listed |= _check_list(path, split, "train" if file.startswith("train") else "val")
    if len(found) - ("classInd.txt" in found) == 2:
        if unlisted := sorted(videos.keys() - listed):
            raise ActionrecError(
                f"{videos[unlisted[0]]} is in neither trainlist0{split}.txt nor "
                f"testlist0{split}.txt; complete the lists or delete them, the naming rule "
                "gives the official split."
            )


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the number and the words of every line that isn't blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ActionrecError(
            f"{path} can't be read ({error}); copy the official file again, or delete it."
        ) from error
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line.split()) for number, line in lines if line.strip()]


def _check_classes(path: Path) -> None:
    official = [[str(number), name] for number, name in enumerate(LABELS, start=1)]
    lines = _lines(path)
    for (number, words), expected in zip(lines, official, strict=False):
        if words != expected:
            raise ActionrecError(
                f"{path}, line {number}: {' '.join(words)!r} where the official list has "
                f"{' '.join(expected)!r}; copy the official file again, or delete it."
            )
    if len(lines) != len(LABELS):
        raise ActionrecError(
            f"{path} has {len(lines)} classes, not {len(LABELS)}; copy the official file again, "
            "or delete it."
        )


def _check_list(path: Path, split: str, side: str) -> set[str]:
    """Compare each line, Class/v_Class_gNN_cNN.avi [number], with the rule; return the names."""
    names = set()
    for number, words in _lines(path):
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
            f"{path}, line {number}: {' '.join(words)!r} {problem} by the naming rule of split "
            f"{split}; copy the official file again, or delete it."
        )
    return names
