"""Folders of frames as videos: frame_000001.jpg, frame_000002.jpg and so on.

    actionrec predict frames/clip1 --frame-rate 30

A folder is a video if what it holds are pictures whose names end in a number, before which all have
the same letters. They are shown in the order of the numbers, at the rate that ACTIONREC_FRAME_RATE
(or --frame-rate) sets, 25 a second if nothing does. The address frames://30::FOLDER is a folder
with a rate of its own, as the column fps of a CSV file gives it.
"""

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from actionrec.errors import UsageError, VideoError
from actionrec.files import are_frames, frame_number
from actionrec.video.address import rate_of

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

STANDARD_RATE = 25.0
# The environment variable that tells the rate to the processes that read, too.
FRAME_RATE = "ACTIONREC_FRAME_RATE"


def is_frame_folder(path: Path) -> bool:
    """Whether a path is a folder of frames."""
    try:
        with os.scandir(path) as entries:
            return are_frames(entry.name for entry in entries if not entry.name.startswith("."))
    # A ValueError of a name with a zero byte.
    except (OSError, ValueError):
        return False


def frames_in(folder: Path) -> list[Path]:
    """The pictures of a folder of frames, in the order of their numbers.

    Raises:
        VideoError: a number is missing or there twice.
    """
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise VideoError(f"{folder} can't be listed ({error.strerror}).") from error
    numbered = []
    for name in names:
        if (number := frame_number(name)) is not None:
            numbered.append((number, name))
    numbered.sort()
    for (before, name), (after, following) in pairwise(numbered):
        if after != before + 1:
            fault = "have one number" if after == before else "have numbers with a gap between them"
            raise VideoError(
                f"{folder} is no whole video: {name} and {following} {fault}; add or rename frames."
            )
    return [folder / name for _, name in numbered]


def frame_rate() -> float:
    """Frames a second of folders of frames.

    Raises:
        UsageError: ACTIONREC_FRAME_RATE is no rate.
    """
    chosen = os.environ.get(FRAME_RATE, "")
    rate = rate_of(chosen) if chosen else STANDARD_RATE
    if rate is None:
        raise UsageError(
            f"Folders of frames can't have a rate of {chosen!r}; set --frame-rate (or "
            "ACTIONREC_FRAME_RATE) to frames a second, such as 30."
        )
    return rate


def size_of(picture: Path) -> tuple[int, int]:
    """Height and width of a picture as it is shown.

    Raises:
        VideoError: it can't be read.
    """
    with _opened(picture) as image:
        width, height = image.size
        # Those that lay the picture on its side.
        return (width, height) if image.getexif().get(0x0112, 1) >= 5 else (height, width)


def decoded(picture: Path, size: tuple[int, int]) -> "np.ndarray":
    """The picture as it is shown, uint8 RGB (H, W, 3).

    Raises:
        VideoError: it can't be read or has another size.
    """
    # Imported here, so that help answers at once.
    import numpy as np
    from PIL import ImageOps

    with _opened(picture) as image:
        try:
            frame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise VideoError(f"{picture} is damaged ({error}); copy it again.") from error
    if frame.shape[:2] != size:
        raise VideoError(
            f"{picture} has {frame.shape[1]}x{frame.shape[0]} pixels, and the first frame "
            f"{size[1]}x{size[0]}; the frames of a video must be of one size."
        )
    return frame


def _opened(picture: Path) -> "Image.Image":
    from PIL import Image

    try:
        return Image.open(picture)
    # Of Pillow: what is no picture, is damaged, or would take too much memory.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{picture} can't be read as a picture ({error}).") from error
