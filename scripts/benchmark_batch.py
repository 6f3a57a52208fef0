"""How fast many videos are predicted, beside what reading alone and the network alone allow.

    python scripts/benchmark_batch.py
    python scripts/benchmark_batch.py --videos clips/ --rounds 3
    python scripts/benchmark_batch.py --model i3d-int8.xml --workers 2

Without --videos it makes short MP4 files. Reading alone is the same pool of processes with a
network that says nothing; the network alone gets the same clips from memory, in as many threads.
The three take turns; the table shows medians of videos a second, and the share of the slower limit.
"""

import argparse
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import measurements
import numpy as np
import torch
from panning_video import write_panning_video
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stopwatch import device_name, take_turns

from actionrec.devices import fastest_device
from actionrec.errors import ActionrecError, VideoError
from actionrec.files import scan
from actionrec.models.inference import BATCH_SIZE, InferenceModel
from actionrec.models.shared_batches import Network, score_videos
from actionrec.prediction.batch import threads_of
from actionrec.processes import cores

# Clips that the network alone gets, over and over.
MOST_CLIPS_IN_MEMORY = 32


@dataclass(frozen=True)
class Job:
    """Videos and what predicts them."""

    paths: Sequence[Path]
    model: InferenceModel
    workers: int | None

    def run(self, network: Network) -> int:
        """Score all videos; returns the number of their clips.

        Raises:
            ActionrecError: a video can't be read.
        """
        clips = 0
        networks = [network] * threads_of(self.model)
        for _, result in score_videos(networks, self.model.clips, self.paths, workers=self.workers):
            if isinstance(result, ActionrecError):
                raise result
            clips += len(result.seconds)
        return clips

    def read_alone(self) -> int:
        """Read all videos for a network that says nothing."""
        return self.run(lambda clips: np.zeros((len(clips), 1), np.float32))

    def compute_alone(self, clips: torch.Tensor, number: int) -> None:
        """Score `number` clips from memory."""
        order = torch.arange(number) % len(clips)
        batches = [clips[part] for part in order.split(BATCH_SIZE)]
        networks = threads_of(self.model)
        threads = max(1, cores() // networks)
        with ThreadPoolExecutor(
            networks, initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool:
            list(pool.map(self.model.scores, batches))


def some_clips(job: Job) -> torch.Tensor:
    """The first clips of the videos, uint8 (B, 3, T, H, W)."""
    clips: list[torch.Tensor] = []
    for path in job.paths:
        clips += [clip.pixels for clip in job.model.clips.stream(path, None)]
        if len(clips) >= MOST_CLIPS_IN_MEMORY:
            break
    return torch.cat(clips[:MOST_CLIPS_IN_MEMORY])


def make_videos(folder: Path, number: int) -> list[Path]:
    """Encode MP4 files of two to five seconds."""
    lengths = np.random.default_rng(0).integers(50, 126, number)
    paths = []
    for index, frames in enumerate(track(lengths, "making videos", console=Console(stderr=True))):
        paths.append(folder / f"{index:04d}.mp4")
        write_panning_video(paths[-1], (256, 340), int(frames), "libx264", seed=index)
    return paths


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, help="folder with videos; made if left out")
    parser.add_argument("--number", type=int, default=24, help="of the videos, at most")
    parser.add_argument("--model", default="kinetics400-i3d", help="name or file")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int, help="processes that read; by default one a core")
    parser.add_argument("--results", type=Path, help="CSV file to which a row is appended")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = InferenceModel.load(options.model, precision=options.precision, engine=options.engine)
    with tempfile.TemporaryDirectory() as made:
        if options.videos is None:
            paths = make_videos(Path(made), options.number)
        else:
            paths = []
            for path in scan(options.videos).videos[: options.number]:
                try:
                    next(model.clips.stream(path, 1))
                    paths.append(path)
                except VideoError as error:
                    print(f"left out: {error}")
        job = Job(paths, model, options.workers)
        number, clips = job.read_alone(), some_clips(job)
        ways = {
            "predict": lambda: job.run(model.scores),
            "reading alone": job.read_alone,
            "network alone": lambda: job.compute_alone(clips, number),
        }
        seconds = take_turns(ways, options.rounds, "predicting")
    rates = {name: len(paths) / float(np.median(each)) for name, each in seconds.items()}
    limit = min(rates["reading alone"], rates["network alone"])
    table = Table("", "videos/s", "of the slower limit")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.3f}", f"{rate / limit:.2f}")
    print(
        f"{device_name(fastest_device())}, PyTorch {torch.__version__}, engine "
        f"{model.engine.name}, {model.precision}; {len(paths)} videos, {number} clips"
    )
    Console().print(table)
    if options.results:
        row = {
            "data": options.videos.name if options.videos else "made",
            "model": Path(options.model).name,
            "engine": model.engine.name,
            "precision": model.precision,
            "videos": len(paths),
            "clips": number,
        }
        row |= {name.replace(" ", "_"): round(rate, 3) for name, rate in rates.items()}
        row["share"] = round(rates["predict"] / limit, 3)
        measurements.append(options.results, row, model.device)


if __name__ == "__main__":
    main()
