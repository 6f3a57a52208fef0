"""Whether every video below a folder is read exactly: compared with a decode from the start.

    python scripts/check_reader.py FOLDER
    python scripts/check_reader.py FOLDER --reads 200 --seconds 60 --csv found.csv

Each file is read in a process of its own, from many places and in many orders: single frames,
clips, clips in one pass, from the end to the beginning. A file is

    exact      every frame that was read is that of the sequential decode, and so is the number
    refused    actionrec gives a reason instead of frames
    wrong      some frame differs, or the number of frames does
    crashed    the process died, hung, or raised anything but a VideoError

The exit code is 1 if a file is wrong or crashed.
"""

import argparse
import csv
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from actionrec.errors import VideoError
from actionrec.video.reader import VideoReader

KINDS = ("exact", "refused", "wrong", "crashed")


def upright(picture: np.ndarray, video: VideoReader) -> np.ndarray:
    turn = video.index.orientation
    if turn.transpose:
        picture = picture.swapaxes(0, 1)
    return picture[:: -1 if turn.flip_rows else 1, :: -1 if turn.flip_columns else 1]


def whole(path: Path) -> list[np.ndarray]:
    with av.open(str(path.absolute())) as container:
        streams = container.streams.video
        stream = next(s for s in streams if not s.disposition & av.stream.Disposition.attached_pic)
        stream.thread_type = "NONE"
        frames = container.decode(stream)
        first = next(frames)
        # A video may change its size; what is read has that of the first frame throughout.
        size = {"format": "rgb24", "width": first.width, "height": first.height}
        return [frame.to_ndarray(**size) for frame in chain([first], frames)]


def check(path: Path, reads: int) -> tuple[str, str]:
    """What became of a file, and why."""
    try:
        video = VideoReader(path)
    except VideoError as error:
        return "refused", str(error)
    frames = [upright(picture, video) for picture in whole(path)]
    if len(frames) != len(video):
        return "wrong", f"{len(video)} frames instead of {len(frames)}"
    choose = random.Random(0)
    try:
        for number in range(reads):
            length = choose.choice((1, 1, 4, 16))
            stride = choose.choice((1, 1, 2, 5))
            start = choose.randrange(len(frames))
            clip = [min(start + stride * step, len(frames) - 1) for step in range(length)]
            if number % 4 == 0:
                later = [min(index + choose.randrange(30), len(frames) - 1) for index in clip]
                clips = [clip, sorted(max(pair) for pair in zip(clip, later, strict=True))]
                read = list(video.clips(clips))
            else:
                clips, read = [clip], [video.read(clip)]
            for wanted, pictures in zip(clips, read, strict=True):
                for index, picture in zip(wanted, pictures, strict=True):
                    if not same(picture, frames[index]):
                        return "wrong", f"frame {index} of the clip {wanted}"
        last = [len(frames) - 1]
        if not same(video.read(last)[0], frames[-1]) or not same(video.read([0])[0], frames[0]):
            return "wrong", "the last or the first frame"
    except VideoError as error:
        return "refused", str(error)
    return "exact", f"{len(frames)} frames, access {video.index.access}"


def same(picture: np.ndarray, expected: np.ndarray) -> bool:
    # Two conversions to RGB differ by rounding at most.
    if picture.shape != expected.shape:
        return False
    difference = np.abs(picture.astype(np.int16) - expected)
    return float(difference.mean()) < 1.5 and int(np.percentile(difference, 99.5)) < 24


def check_apart(path: Path, reads: int, seconds: float) -> tuple[str, str]:
    """As `check`, in a process of its own."""
    command = [sys.executable, __file__, str(path), "--alone", "--reads", str(reads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "crashed", f"not done after {seconds:g} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith(KINDS)]
    if done.returncode or not lines:
        error = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return "crashed", error[-1]
    kind, _, why = lines[-1].partition("\t")
    return kind, why


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with videos, or one file")
    parser.add_argument("--reads", type=int, default=60, help="of each file")
    parser.add_argument("--seconds", type=float, default=120, help="that a file may take")
    parser.add_argument("--csv", type=Path, help="file for a row of each video")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print("\t".join(check(arguments.folder, arguments.reads)))
        return 0
    single = arguments.folder.is_file()
    below = [arguments.folder] if single else sorted(arguments.folder.rglob("*"))
    texts = {".md", ".txt", ".csv", ".json"}
    paths = [path for path in below if path.is_file() and path.suffix not in texts]
    console = Console(stderr=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(
            lambda path: check_apart(path, arguments.reads, arguments.seconds), paths
        )
        rows = zip(paths, outcomes, strict=True)
        found = [
            (path, kind, why)
            for path, (kind, why) in track(rows, "reading", total=len(paths), console=console)
        ]
    for path, kind, why in found:
        if kind in ("wrong", "crashed"):
            print(f"{kind}: {path}: {why}")
    counts = Counter(kind for _, kind, _ in found)
    table = Table("", *KINDS)
    table.add_row(f"{len(found)} files", *(str(counts[kind]) for kind in KINDS))
    Console().print(table)
    if arguments.csv:
        with arguments.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("video", "outcome", "why"), *found])
    return 1 if counts["wrong"] or counts["crashed"] else 0


if __name__ == "__main__":
    sys.exit(main())
