"""Windows, one clip long, that slide over a whole video in steps of one hop.

    python -c "from actionrec.video.reader import VideoReader; \
               from actionrec.video.sampling import ClipSampling; \
               from actionrec.video.windows import SlidingWindows; \
               print(list(SlidingWindows(ClipSampling(), VideoReader('video.mp4'), hop=0.5)))"
"""

from bisect import bisect_left
from collections.abc import Iterator

from actionrec.errors import UsageError
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling, FrameGrid, nearest


class SlidingWindows:
    """The windows that slide over a video, as lists of its frames, and the steps that they score.

    A hop in seconds, or a sampling at a target rate, is measured by the time stamps.

    Attributes:
        steps: the first frame of each step, and at the end the number of frames.

    Raises:
        UsageError: the hop is not above 0.
    """

    def __init__(self, sampling: ClipSampling, video: VideoReader, hop: float | None) -> None:
        if hop is not None and not 0 < hop < float("inf"):
            raise UsageError(f"A hop of {hop} seconds is not possible; it must be above 0.")
        self.grid = grid = FrameGrid(sampling, video)
        if hop is None:
            self.starts = list(grid.apart(max(1, grid.sampling.span // 2)))
        elif grid.rate is None:
            self.starts = frames_apart(video, hop)
        else:
            self.starts = list(grid.apart(max(1, round(hop * grid.rate))))
        self.steps = [*sorted(set(grid.frames(self.starts))), len(video)]

    def __len__(self) -> int:
        last = max(self.grid.positions - self.grid.sampling.span, 0)
        return bisect_left(self.starts, last) + 1

    def __iter__(self) -> Iterator[list[int]]:
        for clip in self.grid.sampling.sliding(self.grid.positions, self.starts):
            yield self.grid.frames(clip)


def frames_apart(video: VideoReader, hop: float) -> list[int]:
    """Frames, from the first one on, each the one nearest to `hop` seconds after the one before."""
    frames, times, following = [], video.times, 0
    while following < len(video):
        frames.append(following)
        following = max(following + 1, int(nearest(times, times[following] + hop)))
    return frames
