"""Several labels a video, and what is lost with one: generated videos of two simultaneous motions.

    python scripts/two_motions.py /tmp/two_motions
    actionrec train --dataset csv --root /tmp/two_motions/videos.csv --multi-label true

Each video shows two spots, in the left and in the right half. Each moves up, down, to the left, to
the right, or rests: the labels of a video are the motions in it, up to two, or none. A mirrored
video has other labels, so training needs `--flip false`. Beside videos.csv there is first.csv, with
the label of the left spot alone (of the right one where the left rests), for training with one
label a video, and without the videos that have none.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from actionrec.files import replacing
from actionrec.video.writer import VideoWriter

MOTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1), "": (0, 0)}
HEIGHT, WIDTH, FRAMES = 64, 64, 16
SPEED = 1.5  # pixels a frame
RADIUS = 4  # pixels


def write_dataset(folder: Path, train: int, val: int, seed: int = 0) -> Path:
    """Write the videos and the lists; returns videos.csv. Equal arguments give equal files."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(train + val):
        motions = random.choice(list(MOTIONS), 2)
        path = folder / f"{number:04}.mp4"
        with replacing(path) as temporary, VideoWriter(temporary, (HEIGHT, WIDTH), 25) as writer:
            for picture in draw(motions, random):
                writer.write(picture)
        rows.append([path.name, motions, "train" if number < train else "val"])
    several = [[name, "|".join(sorted({*motions} - {""})), split] for name, motions, split in rows]
    first = [[name, next(filter(None, motions), ""), split] for name, motions, split in rows]
    labelled = [line for line in first if line[1]]
    for file, lines in (("videos.csv", several), ("first.csv", labelled)):
        with replacing(folder / file) as temporary, temporary.open("w", newline="") as written:
            csv.writer(written).writerows([["path", "label", "split"], *lines])
    return folder / "videos.csv"


def draw(motions: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The frames of a video, uint8 RGB (FRAMES, HEIGHT, WIDTH, 3)."""
    time = np.arange(FRAMES) - (FRAMES - 1) / 2
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    light = np.zeros((FRAMES, HEIGHT, WIDTH))
    for half, motion in enumerate(motions):
        centre = np.array([HEIGHT / 2, WIDTH * (1 + 2 * half) / 4]) + random.uniform(-3, 3, 2)
        y, x = centre[:, None] + SPEED * np.outer(MOTIONS[str(motion)], time)
        squares = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2
        light += np.exp(-squares / (2 * (RADIUS / 2) ** 2))
    noise = random.normal(0, 4, (HEIGHT, WIDTH))
    grey = np.clip(40 + noise + 190 * light, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def main() -> None:
    """Write the data set that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--val", type=int, default=200)
    options = parser.parse_args()
    print(write_dataset(options.folder, options.train, options.val))


if __name__ == "__main__":
    main()
