"""The demo data set: small videos whose classes differ by motion alone, made on first use.

    actionrec train --dataset demo

A patterned disc lies on a textured background and moves, turns, expands or contracts. Four
numbers describe it: column, row, angle and phase of the rings. Each is cyclic (a disc that leaves
on the left comes back on the right, rings that leave at the rim come back in the middle) and starts
anywhere with equal chance; the class only fixes which of them changes in which sense. So a single
frame looks the same in every class, and a model that sees one frame, or one frame repeated, stays
near the chance of 1 in 8.

Layout and encoding follow UCF-101: Class/v_Class_gNN_cNN.avi, AVI with MPEG-4 under the tag
XVID, 320x240, 25 frames/s, 25 groups. A group has one disc and one background, shared by all
classes; groups 1 to 7 validate and the rest trains, as in split 1 of UCF-101.
"""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.datasets.ucf101 import side_of_group
from actionrec.errors import ActionrecError
from actionrec.files import cache_folder, replacing, write_whole
from actionrec.progress import track
from actionrec.text import json_text

if TYPE_CHECKING:
    import numpy as np

# Raise it with every change of what is drawn, so that folders made before are made anew.
VERSION = 1
MARKER = "actionrec_demo.json"

# The change of (column, row, angle, ring phase) per frame, in units of the speed of the clip.
# Image rows count downwards, so a growing angle turns clockwise to the eye.
MOTIONS = {
    "Contract": (0, 0, 0, -1),
    "Expand": (0, 0, 0, 1),
    "MoveDown": (0, 1, 0, 0),
    "MoveLeft": (-1, 0, 0, 0),
    "MoveRight": (1, 0, 0, 0),
    "MoveUp": (0, -1, 0, 0),
    "TurnClockwise": (0, 0, 1, 0),
    "TurnCounterclockwise": (0, 0, -1, 0),
}
GROUPS = 25
CLIPS = 2
FRAMES = 32
WIDTH, HEIGHT = 320, 240
# The pattern of the disc is a table over one turn and one period of the rings. Whole steps in
# it, like whole pixels of position, give every frame of every class the same distribution.
ANGLES = 720
RINGS = 180
RING_PERIOD = 0.9


def open_demo(root: str | Path | None = None) -> VideoDataset:
    """Return the demo videos below `root` or in the user's cache; make the missing ones.

    Making them takes seconds, shown by a progress bar on stderr. Files appear whole or not at all
    and always with the same content, so the next run completes an interrupted one, and two at once
    do no harm.

    Raises:
        ActionrecError: `root` holds files of another origin, or can't be written.
    """
    root = Path(root or cache_folder() / "demo")
    labels = tuple(MOTIONS)
    sides: dict[str, list[LabelledVideo]] = {"train": [], "val": []}
    for index, label in enumerate(labels):
        for group in range(1, GROUPS + 1):
            for clip in range(1, CLIPS + 1):
                path = root / label / f"v_{label}_g{group:02d}_c{clip:02d}.avi"
                sides[side_of_group(group, "1")].append(LabelledVideo(path, index, f"g{group:02d}"))
    _make_missing(root, sides["train"] + sides["val"])
    # A mirrored MoveLeft is a MoveRight.
    train, val = tuple(sides["train"]), tuple(sides["val"])
    return VideoDataset("demo", labels, train, val, flip=False, root=root)


def _make_missing(root: Path, videos: list[LabelledVideo]) -> None:
    version = _version_of(root)
    if version == VERSION:
        videos = [video for video in videos if not video.path.exists()]
        if not videos:
            return
    elif version is None:
        # Marks the folder before the first video, so that an interrupted run is recognised.
        write_whole(root / MARKER, json_text({"version": 0}))
    for video in track(videos, "making the demo videos"):
        label, name = video.path.parent.name, video.path.stem
        with replacing(video.path) as temporary:
            _write_video(temporary, label, int(name[-6:-4]), int(name[-2:]))
    write_whole(root / MARKER, json_text({"version": VERSION}))


def _version_of(root: Path) -> int | None:
    """Return the version of the demo below `root`: 0 if it is unfinished, None if there is none."""
    if root.exists() and not root.is_dir():
        raise ActionrecError(f"{root} is not a folder; give a new or empty one for the demo.")
    # Looked at before the marker: another process may be writing it and then videos just now.
    files = [path.name for path in root.iterdir()] if root.exists() else []
    try:
        return int(json.loads((root / MARKER).read_text(encoding="utf-8"))["version"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ActionrecError(
            f"{root / MARKER} can't be read; delete it together with the demo videos beside it."
        ) from error
    if any(not name.startswith(".") for name in files):
        raise ActionrecError(
            f"{root} holds files that are not the demo data set; give a new or empty folder, "
            "or none to use the cache."
        )
    return None


def _write_video(path: Path, label: str, group: int, clip: int) -> None:
    """Encode one video; the same arguments give the same frames."""
    from actionrec.video.writer import VideoWriter

    options = {
        "flags": "+qscale",
        # The lowest quantiser but one: coarser ones leave trails that betray the direction of the
        # motion in a single frame.
        "global_quality": str(2 * 118),
        "g": "300",
        "threads": "1",
    }
    with VideoWriter(path, (HEIGHT, WIDTH), 25, "mpeg4", options) as writer:
        for picture in draw_frames(label, group, clip):
            writer.write(picture)


def draw_frames(label: str, group: int, clip: int) -> "list[np.ndarray]":
    """Draw the frames of one video as uint8 arrays of height, width, RGB."""
    import numpy as np

    background, pattern, radius = _draw_appearance(group)
    # Nothing of the class enters here but its number, which only makes the clips differ.
    random = np.random.default_rng([VERSION, group, clip, list(MOTIONS).index(label)])
    limits = np.array([WIDTH, HEIGHT, ANGLES, RINGS])
    start = random.integers(limits)
    pixels = random.integers(4, 7)
    # The same speed at the rim, whether the disc moves, turns or expands.
    turn = round(pixels / radius / (2 * np.pi) * ANGLES)
    ring = round(pixels / radius / RING_PERIOD * RINGS)
    step = np.array(MOTIONS[label]) * (pixels, pixels, turn, ring)

    side = np.arange(-radius, radius + 1)
    distance = np.hypot(side[:, None], side[None, :])
    angles = np.arctan2(side[:, None], side[None, :]) / (2 * np.pi) * ANGLES
    # Rings get ever finer towards the middle; within five pixels they would only flicker.
    rings = np.log(np.maximum(distance, 5)) / RING_PERIOD * RINGS
    angles, rings = angles.round().astype(int) % ANGLES, rings.round().astype(int) % RINGS
    entries = rings * ANGLES + angles
    inside = np.repeat(distance <= radius, 3).reshape(len(side), len(side), 3)

    frames = []
    for time in range(FRAMES):
        column, row, angle, phase = (start + time * step) % limits
        disc = np.roll(pattern, (phase, angle), axis=(0, 1)).reshape(-1, 3).take(entries, axis=0)
        # Drawn in the corner of a rolled background, so that the disc wraps around the frame.
        frame = np.roll(background, (-row, -column), axis=(0, 1))
        np.copyto(frame[: len(side), : len(side)], disc, where=inside)
        frames.append(np.roll(frame, (row, column), axis=(0, 1)))
    return frames


@cache
def _draw_appearance(group: int) -> "tuple[np.ndarray, np.ndarray, int]":
    """Draw what the clips of a group share: background, pattern of the disc, and its radius."""
    import numpy as np

    random = np.random.default_rng([VERSION, group])
    radius = int(random.integers(60, 73))

    # Two colours for the disc, far apart in brightness, and two closer ones between for the rest.
    dark, light = random.uniform(0, 80, 3), random.uniform(175, 255, 3)
    low, high = random.uniform(60, 120, 3), random.uniform(110, 170, 3)

    coarse = random.uniform(0, 1, (13, 17))
    rows, columns = np.linspace(0, 12, HEIGHT), np.linspace(0, 16, WIDTH)
    stretched = np.array([np.interp(columns, np.arange(17), line) for line in coarse])
    mixture = np.array([np.interp(rows, np.arange(13), line) for line in stretched.T]).T[..., None]
    background = np.ascontiguousarray(low + mixture * (high - low), dtype=np.uint8)

    theta = np.arange(ANGLES)[None, :] / ANGLES * 2 * np.pi
    phase = np.arange(RINGS)[:, None] / RINGS * 2 * np.pi
    # Lobes plus rings make separate spots. A spiral alone would not do: it looks the same
    # whether it turns or expands.
    wave = np.cos(random.integers(3, 7) * theta) + np.cos(phase)
    for lobes in (1, 2, 3):
        wave = wave + random.uniform(0.2, 0.5) * np.cos(lobes * theta + random.uniform(0, 6.3))
    mixture = (0.5 + 0.5 * np.tanh(3 * wave))[..., None]
    pattern = (dark + mixture * (light - dark)).astype(np.uint8)
    return background, pattern, radius
