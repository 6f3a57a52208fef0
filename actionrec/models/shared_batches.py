"""Many videos through the network: processes read clips, and clips of several videos share a batch.

    for path, result in score_videos([model.scores], model.clips, paths):
        print(path, result)

A process that reads holds one clip at a time and waits until it is wanted, so memory is bounded
however long a video is: there are at most `MOST_CLIPS` clips for each of the networks in batches,
as many waiting, and one in each process.

Networks run in threads of this process. On a CPU each thread has its share of the cores: with I3D
on two cores, two threads with one core each were as fast as one thread with both.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

import numpy as np
import torch

from actionrec.errors import ActionrecError, VideoError
from actionrec.models.inference import BATCH_SIZE, InferenceModel
from actionrec.processes import (
    STANDARD_LIMITS,
    TICK,
    KilledFromOutside,
    Limits,
    Part,
    Workers,
    cores,
)
from actionrec.video.clips import ClipReader
from actionrec.video.parts import VideoSource, by_file, path_of

MOST_CLIPS = BATCH_SIZE
# With more cores, each network has several: every batch needs about 1 GB.
MOST_NETWORKS = 4
# Segments of one file that a process reads in one pass: the time limit is for all of them, and
# other processes can read the rest of a long file meanwhile.
MOST_SEGMENTS = 32

# From clips, uint8 (B, 3, T, H, W), to an answer for each, float32 (B, ...).
Network = Callable[[torch.Tensor], np.ndarray]


@dataclass(frozen=True)
class ScoredVideo:
    """What the network says of the clips of a video or segment, float32 (clips, crops, ...), and
    where each clip starts and ends, in seconds."""

    answers: np.ndarray
    seconds: list[tuple[float, float]]


@dataclass
class _OpenVideo:
    """A video whose clips are being read or scored; the answers are by the number of the clip.
    `is_over` says that nothing more comes from its file."""

    seconds: list[tuple[float, float]] = field(default_factory=list)
    answers: dict[int, np.ndarray] = field(default_factory=dict)
    is_read: bool = False
    is_over: bool = False

    @property
    def is_scored(self) -> bool:
        return self.is_read and len(self.answers) == len(self.seconds)

    def scored(self) -> ScoredVideo:
        ordered = [self.answers[number] for number in range(len(self.seconds))]
        return ScoredVideo(np.stack(ordered), self.seconds)


@dataclass(frozen=True)
class _Clip:
    """A clip of a video as uint8 (crops, T, H, W, 3), and which of its clips it is."""

    video: _OpenVideo
    number: int
    frames: np.ndarray


@dataclass(frozen=True)
class _OfOneFile:
    """What one process reads in one pass: a file, or segments of it."""

    sources: tuple[VideoSource, ...]

    def __str__(self) -> str:
        return str(path_of(self.sources[0]))


def score_videos(
    networks: Sequence[Network],
    reader: ClipReader,
    sources: Sequence[VideoSource],
    clips: int | None = None,
    crops: int = 1,
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
    hop: float | None = None,
) -> Iterator[tuple[VideoSource, ScoredVideo | ActionrecError]]:
    """Each video with what the networks say of it, or why it can't be read, as soon as it is known.

    Segments of one file are read together. A video whose process was killed from outside is read
    once more after the others, alone.

    Args:
        networks: Each is called by one thread at a time; the same one may be there several times.
        reader: How clips are read.
        sources: The videos or segments, each once.
        clips: Clips of each; by default as many as cover it, ten at most.
        crops: Squares of each clip: 1, the centre, or 3 along the longer side.
        workers: Processes that read; by default one a core.
        limits: Time and memory for reading one video.
        hop: Seconds from one clip to the next, in place of a number of clips.

    Raises:
        UsageError: `workers` is below 1.
        ActionrecError: a network raises it, or no process can be started.
    """
    read = partial(read_frames, reader=reader, clips=clips, crops=crops, hop=hop)
    files = [_OfOneFile(tuple(each)) for each in by_file(sources, MOST_SEGMENTS)]
    killed = []
    with closing(_score(networks, Workers(read, files, workers, limits))) as results:
        for source, result in results:
            if isinstance(result, KilledFromOutside):
                killed.append(source)
            else:
                yield source, result
    again = [_OfOneFile((source,)) for source in killed]
    with closing(_score(networks, Workers(read, again, 1, limits))) as results:
        yield from results


def score_once(
    networks: Sequence[Network],
    reader: ClipReader,
    sources: Iterable[VideoSource | None],
    clips: int | None = None,
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
    hop: float | None = None,
) -> Iterator[tuple[VideoSource, ScoredVideo | ActionrecError]]:
    """As `score_videos`, each video by itself and without a second attempt.

    Args:
        sources: May be endless, and one may come again when it has been answered; a None says that
            no other is known yet.
    """
    read = partial(read_frames, reader=reader, clips=clips, crops=1, hop=hop)
    files = (None if source is None else _OfOneFile((source,)) for source in sources)
    return _score(networks, Workers(read, files, workers, limits))


def threads_of(model: InferenceModel) -> int:
    """How many threads score with a model: two for a GPU, so that one batch goes there while the
    other is being scored; on the CPU, one for each core, or one if the engine divides the cores."""
    if model.device.type != "cpu":
        return 2
    return 1 if model.engine.has_own_threads else min(cores(), MOST_NETWORKS)


@dataclass(frozen=True)
class _ReadClip:
    """A clip as `_Clip.frames`, its start and end in seconds, and whether it is its source's last
    one."""

    frames: np.ndarray
    seconds: tuple[float, float]
    last: bool


def read_frames(
    file: _OfOneFile, reader: ClipReader, clips: int | None, crops: int, hop: float | None = None
) -> Iterator[tuple[VideoSource, _ReadClip | VideoError]]:
    """The clips of the sources of one file, or why a source has none."""
    # Each core has a process of its own.
    torch.set_num_threads(1)
    if hop is None:
        read = reader.stream_together(file.sources, clips, crops)
    else:
        windows = (reader.windows(path_of(source), hop) for source in file.sources)
        read = ((number, clip) for number, each in enumerate(windows) for clip in each)
    for number, clip in read:
        if not isinstance(clip, VideoError):
            frames = clip.pixels.permute(0, 2, 3, 4, 1).numpy()
            clip = _ReadClip(frames, clip.seconds, clip.last)
        yield file.sources[number], clip


def _score(
    networks: Sequence[Network], readers: Workers
) -> Iterator[tuple[VideoSource, ScoredVideo | ActionrecError]]:
    idle: SimpleQueue[Network] = SimpleQueue()
    for network in networks:
        idle.put(network)

    def score(batch: list[_Clip]) -> None:
        network = idle.get()
        try:
            frames = torch.cat([torch.from_numpy(clip.frames) for clip in batch])
            answers = network(frames.permute(0, 4, 1, 2, 3))
        finally:
            idle.put(network)
        for clip, answer in zip(batch, np.split(answers, len(batch)), strict=True):
            clip.video.answers[clip.number] = answer

    videos: dict[VideoSource, _OpenVideo] = {}
    answered: set[VideoSource] = set()
    waiting: deque[_Clip] = deque()
    running: set[Future[None]] = set()
    cores_each = max(1, cores() // len(networks))
    threads = ThreadPoolExecutor(
        len(networks), initializer=torch.set_num_threads, initargs=(cores_each,)
    )
    with closing(readers), threads:
        while readers.at_work or waiting or running:
            room = MOST_CLIPS * len(networks) - len(waiting)
            for file, answer in readers.answers(TICK if len(running) < len(networks) else 0, room):
                if isinstance(answer, ActionrecError):
                    for source in file.sources:
                        video = videos.get(source)
                        if source in answered or video and video.is_read:
                            continue
                        # Some of its clips may be in a batch with others' and are scored in vain.
                        videos.pop(source, None)
                        waiting = deque(clip for clip in waiting if clip.video is not video)
                        answered.add(source)
                        yield source, answer
                elif isinstance(answer, Part):
                    source, clip = answer.item
                    if isinstance(clip, VideoError):
                        answered.add(source)
                        yield source, clip
                        continue
                    video = videos.setdefault(source, _OpenVideo())
                    waiting.append(_Clip(video, len(video.seconds), clip.frames))
                    video.seconds.append(clip.seconds)
                    video.is_read = clip.last
                if not isinstance(answer, Part):
                    # From here on it may be asked for again.
                    answered.difference_update(file.sources)
                    for source in videos.keys() & set(file.sources):
                        videos[source].is_over = True
            while waiting and len(running) < len(networks):
                share = math.ceil(len(waiting) / (len(networks) - len(running)))
                batch = [waiting.popleft() for _ in range(min(share, MOST_CLIPS))]
                running.add(threads.submit(score, batch))
            must_wait = len(running) == len(networks) or not readers.at_work
            done, running = futures.wait(running, TICK if must_wait else 0, FIRST_COMPLETED)
            for future in done:
                future.result()
            for source in [source for source, video in videos.items() if video.is_scored]:
                video = videos.pop(source)
                if not video.is_over:
                    answered.add(source)
                yield source, video.scored()
