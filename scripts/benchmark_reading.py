"""How fast clips are read, beside the time that decoding alone takes and beside other libraries.

    python scripts/benchmark_reading.py
    python scripts/benchmark_reading.py --videos UCF-101/Archery --rounds 50

Without --videos it makes AVI files like those of UCF-101: XviD, 320x240, 25 frames/s, one key
frame, B-frames. All ways give 124x124 pixels of the same clips and take turns; the tables show
medians. The limit is the time in which PyAV decodes a file from its start to the clip's last frame,
without using the frames. A library that is not installed is left out.
"""

import argparse
import importlib
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from panning_video import write_panning_video
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stopwatch import seconds_of
from torch.utils.data import DataLoader

from actionrec.config import TrainConfig
from actionrec.datasets.dataset import LabelledVideo
from actionrec.files import scan
from actionrec.training.clips import EpochSampler, TrainingClips, collate
from actionrec.video.clips import ClipReader
from actionrec.video.index import opened
from actionrec.video.reader import VideoReader, scale
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

SAMPLING = ClipSampling(length=16)
PREPROCESSING = Preprocessing(short_side=128, crop=124)


def make_videos(folder: Path, number: int) -> list[Path]:
    """Encode AVI files of 100 to 250 frames."""
    lengths = np.random.default_rng(0).integers(100, 251, number)
    options = {"g": "600", "bf": "2", "qmin": "4", "qmax": "12", "b": "400000"}
    paths = []
    for index, frames in enumerate(track(lengths, "making videos", console=Console(stderr=True))):
        paths.append(folder / f"v_Made_g{index + 1:02d}_c01.avi")
        write_panning_video(
            paths[-1], (240, 320), int(frames), "mpeg4", options, noise=8, seed=index
        )
    return paths


@dataclass(frozen=True)
class Case:
    """Clips of a file, their frames scaled to a short side, of which the middle 124 are seen."""

    path: Path
    clips: list[list[int]]
    short_side: int

    @property
    def width(self) -> int:
        """Of a frame of 4:3 that is scaled to the short side."""
        return round(self.short_side * 4 / 3)

    @property
    def middle(self) -> tuple[slice, slice]:
        """The square in a scaled frame."""
        top, left = (self.short_side - 124) // 2, (self.width - 124) // 2
        return slice(top, top + 124), slice(left, left + 124)


# Ways to read


def decode_only(case: Case) -> None:
    with opened(case.path) as (container, stream):
        for index, _ in enumerate(container.decode(stream)):
            if index == case.clips[-1][-1]:
                return


def actionrec(case: Case) -> None:
    video = VideoReader(case.path)
    square = Preprocessing(case.short_side, 124).square(video.size)
    for _ in video.clips(case.clips, (124, 124), square):
        pass


def actionrec_alone(case: Case) -> None:
    """As of a process that has two cores for itself: one of them decodes."""
    torch.set_num_threads(2)
    try:
        actionrec(case)
    finally:
        torch.set_num_threads(1)


def actionrec_clip_by_clip(case: Case) -> None:
    for clip in case.clips:
        actionrec(replace(case, clips=[clip]))


def pyav_to_ndarray(case: Case) -> None:
    """As most loaders do: PyAV's defaults, every frame scaled as it is converted."""
    wanted = {index for clip in case.clips for index in clip}
    size = {"width": case.width, "height": case.short_side}
    frames = {}
    with av.open(str(case.path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                frames[index] = frame.to_ndarray(format="rgb24", **size)[case.middle]
            if index == case.clips[-1][-1]:
                break
    for clip in case.clips:
        np.stack([frames[index] for index in clip])


def decord(case: Case) -> None:
    library = importlib.import_module("decord")
    size = {"width": case.width, "height": case.short_side}
    video = library.VideoReader(str(case.path), num_threads=1, **size)
    for clip in case.clips:
        np.ascontiguousarray(video.get_batch(clip).asnumpy()[:, *case.middle])


def torchcodec(case: Case) -> None:
    library = importlib.import_module("torchcodec.decoders")
    video = library.VideoDecoder(str(case.path), num_ffmpeg_threads=1, dimension_order="NHWC")
    top, left, side, _ = Preprocessing(case.short_side, 124).square((240, 320))
    for clip in case.clips:
        frames = video.get_frames_at(clip).data.numpy()
        scale(np.ascontiguousarray(frames[:, top : top + side, left : left + side]), (124, 124))


Way = Callable[[Case], None]
WAYS: dict[str, Way] = {
    "limit: decoding alone": decode_only,
    "actionrec": actionrec,
    "actionrec, two threads": actionrec_alone,
    "PyAV's to_ndarray(width, height)": pyav_to_ndarray,
    "decord, 1 thread": decord,
    "torchcodec, 1 thread": torchcodec,
}


def compare(ways: dict[str, Way], cases: list[Case]) -> dict[str, np.ndarray]:
    """Seconds of each way for each case; the ways take turns, in another order each time."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    generator = np.random.default_rng(0)
    for case in track(cases, "reading", console=Console(stderr=True)):
        for name in generator.permutation(list(seconds)):
            try:
                seconds[name].append(seconds_of(partial(ways[name], case)))
            # A library that is missing, or can't read this file.
            except Exception as error:
                print(f"{name}: {case.path.name}: {error!r}"[:300])
                del seconds[name]
    return {name: np.array(values) for name, values in seconds.items()}


def show(title: str, seconds: dict[str, np.ndarray], clips: int, base: str) -> None:
    """Print clips a second, and the median over the files of how fast each way is beside `base`."""
    table = Table("way", "clips/s", f"speed / {base}", title=title)
    for name, values in seconds.items():
        ratio = np.median(seconds[base] / values)
        table.add_row(name, f"{clips / np.median(values):.1f}", f"{ratio:.2f}")
    Console().print(table)


def measure_loader(paths: list[Path], rounds: int) -> None:
    """Clips a second that a DataLoader delivers, as in training."""
    videos = tuple(LabelledVideo(paths[index % len(paths)], 0) for index in range(rounds * 8))
    reader = ClipReader(SAMPLING, PREPROCESSING)
    clips = TrainingClips(videos, reader, TrainConfig("folder"), flip=True)
    table = Table("workers", "clips/s", title="training clips through a DataLoader, batches of 8")
    for workers in (0, 1, 2):
        sampler = EpochSampler(len(clips), seed=0)
        loader = DataLoader(clips, 8, sampler=sampler, num_workers=workers, collate_fn=collate)
        start, first = time.perf_counter(), None
        for batch in loader:
            assert not batch.failures
            first = first or time.perf_counter()
        # The first batch also waits for the processes to start.
        rate = (len(clips) - 8) / (time.perf_counter() - first) if first else 0
        table.add_row(str(workers), f"{rate:.1f} (first batch after {first - start:.2f} s)")
    Console().print(table)


def measure_memory(paths: list[Path], opens: int) -> None:
    """Read a clip from one file after the other and print the memory and descriptors in use."""
    table = Table("files opened", "resident MiB", "descriptors", title="opening many files")
    generator = np.random.default_rng(0)
    for number in range(opens + 1):
        if number in (50, opens // 2, opens):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident = pages * resource.getpagesize() / 2**20
            table.add_row(str(number), f"{resident:.1f}", str(len(os.listdir("/proc/self/fd"))))
        video = VideoReader(paths[number % len(paths)])
        video.read(SAMPLING.random(len(video), generator), 128)
    Console().print(table)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, help="file or folder; made if left out")
    parser.add_argument("--rounds", type=int, default=60, help="files that each way reads")
    parser.add_argument("--opens", type=int, default=2000)
    options = parser.parse_args()
    # As in a worker process of a DataLoader.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        if options.videos is None:
            paths = make_videos(Path(made), 12)
        else:
            paths = scan(options.videos).videos if options.videos.is_dir() else [options.videos]
        generator = np.random.default_rng(0)
        random, uniform = [], []
        for round in range(options.rounds):
            path = paths[round % len(paths)]
            frames = len(VideoReader(path))  # its index is now in the cache, as after one epoch
            short_side = int(generator.integers(128, 161))  # as training draws it
            random.append(Case(path, [SAMPLING.random(frames, generator)], short_side))
            uniform.append(Case(path, SAMPLING.uniform(frames, 10), 128))
        limit = "limit: decoding alone"
        show("training: a random clip of 16 frames", compare(WAYS, random), 1, limit)
        one_pass = WAYS | {"actionrec, clip by clip": actionrec_clip_by_clip}
        show("evaluation: 10 clips of a video", compare(one_pass, uniform), 10, limit)
        measure_loader(paths, options.rounds)
        measure_memory(paths, options.opens)


if __name__ == "__main__":
    main()
