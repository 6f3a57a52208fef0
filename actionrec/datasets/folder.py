"""Videos of your own, in one folder a class.

actionrec train --dataset folder --root my_videos

my_videos/train/juggling/*.mp4    my_videos/val/juggling/*.mp4
my_videos/train/cooking/*.mp4     my_videos/val/cooking/*.mp4
"""

import logging
from pathlib import Path
from unicodedata import normalize

from actionrec.datasets.dataset import (
    LabelledVideo,
    VideoDataset,
    abridged,
    scan_files,
    warn_of_omitted,
)
from actionrec.errors import ActionrecError
from actionrec.files import tell_passed_over

logger = logging.getLogger("actionrec")

VALIDATION_FOLDERS = ("val", "valid", "validate", "validation", "test")
LAYOUT = "expected are train/CLASS/video.mp4 and val/CLASS/video.mp4"


def open_folder(root: str | Path, to_train: bool = True) -> VideoDataset:
    """Return the videos in the class folders below root/train and root/val.

    The second folder may also be called valid/, validate/, validation/ or test/; of several, the
    first in this order is taken. The labels are the names of the folders below train/, sorted.
    Videos lie at any depth below their class folder; hidden files and folders are passed over.
    Without training `to_train`, train/ may be missing.

    Raises:
        ActionrecError: a folder is missing, a class has no video to train on, or there are
            validation videos of a class that train/ lacks.
    """
    root = Path(root)
    inside = [path.name for path in _folders_in(root)]
    val_name = next((name for name in VALIDATION_FOLDERS if name in inside), None)
    if "train" not in inside and (to_train or val_name is None):
        found = f"only {abridged(inside)}" if inside else "no folders at all"
        raise ActionrecError(f"{root} has no folder train/ ({found}); {LAYOUT}.")
    if val_name is None:
        raise ActionrecError(
            f"{root} has no folder {', '.join(VALIDATION_FOLDERS[:-1])} or test to validate on; "
            f"{LAYOUT}."
        )

    val = _videos_by_class(root / val_name)
    if "train" not in inside:
        train = {name: [] for name, paths in val.items() if paths}
    else:
        train = _videos_by_class(root / "train")
        if not train:
            raise ActionrecError(f"{root / 'train'} has no class folders; {LAYOUT}.")
        if empty := [name for name, paths in train.items() if not paths]:
            raise ActionrecError(
                f"{root / 'train'} has no videos in {abridged(empty)}; add some or remove the "
                "folder."
            )
    if unknown := [name for name, paths in val.items() if paths and name not in train]:
        raise ActionrecError(
            f"{root / val_name} has videos of {abridged(unknown)}, which train/ lacks; add "
            "training videos of it or check the spelling."
        )
    if not any(val.values()):
        raise ActionrecError(f"{root / val_name} has no videos; {LAYOUT}.")
    if absent := [name for name in train if not val.get(name)]:
        logger.warning("%s has no videos of %s.", root / val_name, abridged(absent))

    labels = tuple(train)
    index = {name: label for label, name in enumerate(labels)}
    sides = [
        tuple(LabelledVideo(path, index[name]) for name, paths in side.items() for path in paths)
        for side in (train, val)
    ]
    return VideoDataset("folder", labels, *sides)


def _folders_in(folder: Path) -> list[Path]:
    paths = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in paths if not path.name.startswith("."))


def _videos_by_class(folder: Path) -> dict[str, list[Path]]:
    warn_of_omitted(folder, "lie in no class folder", scan_files(folder, depth=0))
    videos: dict[str, list[Path]] = {}
    others: list[Path] = []
    for below in _folders_in(folder):
        # A Mac writes é as e and an accent, others as one character; it is the same class.
        videos.setdefault(normalize("NFC", below.name), []).extend(scan_files(below, others=others))
    tell_passed_over(folder, others)
    return dict(sorted(videos.items()))
