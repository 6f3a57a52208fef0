"""The explained clip: seconds, pixels and frames of the video in terms of the network's input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actionrec.errors import UsageError
from actionrec.explanation.receptive_fields import Grid
from actionrec.video.clips import MOST_CLIPS, ClipReader
from actionrec.video.decoders import open_video
from actionrec.video.reader import Crop, VideoReader
from actionrec.video.sampling import FrameGrid
from actionrec.video.transforms import Preprocessing


@dataclass(frozen=True)
class Point:
    """A point of a video: column and row of a pixel of the video as it is shown, and seconds.

    Attributes:
        frame: the frame of the clip, from 0.
        position: (t, y, x), the nearest position of the T' x H' x W' feature map.
        frames: the frames of the clip to which time step t is the nearest one.
    """

    x: int
    y: int
    seconds: float
    frame: int
    position: tuple[int, int, int]
    frames: range


@dataclass(frozen=True)
class Clip:
    """Frames of a video, by their indices, of which a network sees a square."""

    video: VideoReader
    indices: Sequence[int]
    preprocessing: Preprocessing

    @property
    def seconds(self) -> tuple[float, float]:
        """Start and end."""
        clock = self.video.clock()
        return clock(self.indices[0]), clock(self.indices[-1] + 1)

    @property
    def square(self) -> Crop:
        """The (top, left, height, width) that the network sees, in pixels of the video."""
        return self.preprocessing.square(self.video.size)

    def scaled_square(self, size: tuple[int, int]) -> Crop:
        """The same in pixels of frames that were scaled to `size` (height, width)."""
        top, left, side, _ = self.square
        (height, width), (rows, columns) = self.video.size, size
        upper, lower = (round(edge * rows / height) for edge in (top, top + side))
        first, last = (round(edge * columns / width) for edge in (left, left + side))
        return upper, first, lower - upper, last - first

    def require_visible(self, x: int, y: int) -> None:
        """Raise UsageError if the network does not see a pixel of the video."""
        top, left, side, _ = self.square
        if not (left <= x < left + side and top <= y < top + side):
            raise UsageError(
                f"The point {x}, {y} of {self.video.path} is outside of the square that the "
                f"network sees; choose x from {left} to {left + side - 1} and y from {top} to "
                f"{top + side - 1}."
            )

    def frame_at(self, seconds: float) -> int:
        """The frame of the clip that is shown at a time; of one that was left out, the one before.

        Raises:
            UsageError: the time is not in the clip.
        """
        start, end = self.seconds
        if not start <= seconds < end:
            raise UsageError(
                f"The clip of {self.video.path} lasts from {start:.2f} to {end:.2f} s, "
                f"{seconds:g} s is not in it; choose another time or another start."
            )
        index = frame_index(self.video, seconds)
        return max(int(np.searchsorted(self.indices, index, side="right")) - 1, 0)

    def point(
        self, frame: int, pixel: tuple[int, int] | None, grid: Grid, saliency: np.ndarray
    ) -> Point:
        """Pixel (x, y) of a frame and the nearest position of a feature map; by default the
        position where `saliency` (T', H', W') is highest at that time, and the pixel there."""
        top, left, side, _ = self.square
        scale = self.preprocessing.crop / side
        in_time, in_height, in_width = grid
        steps, rows, columns = saliency.shape
        step = in_time.nearest(frame, steps)
        if pixel is None:
            row, column = divmod(int(saliency[step].argmax()), columns)
            x, y = (
                edge + min(max(math.floor((centre + 0.5) / scale), 0), side - 1)
                for edge, centre in ((left, in_width.centre(column)), (top, in_height.centre(row)))
            )
        else:
            x, y = pixel
            row = in_height.nearest(_rescaled(y - top, scale), rows)
            column = in_width.nearest(_rescaled(x - left, scale), columns)
        near = [f for f in range(len(self.indices)) if in_time.nearest(f, steps) == step]
        frames = range(near[0], near[-1] + 1)
        seconds = self.video.clock()(self.indices[frame])
        return Point(x, y, seconds, frame, (step, row, column), frames)

    def interpolate(self, values: np.ndarray, grid: Grid, shape: Sequence[int]) -> np.ndarray:
        """`values` (T', H', W') interpolated linearly to frames of the clip, float32 (T, H, W) =
        `shape`; NaN where the network does not look."""
        top, left, height, width = self.scaled_square(shape[1:])
        in_time, in_height, in_width = grid
        steps, positions_y, positions_x = values.shape
        side = self.preprocessing.crop
        y, x = (_rescaled(np.arange(pixels), side / pixels) for pixels in (height, width))
        time = in_time.interpolation(np.arange(shape[0]), steps)
        rows = in_height.interpolation(y, positions_y)
        columns = in_width.interpolation(x, positions_x)
        over_frames = np.full(shape, np.nan, dtype=np.float32)
        over_frames[:, top : top + height, left : left + width] = np.einsum(
            "tk,yh,xw,khw->tyx", time, rows, columns, values, optimize=True
        )
        return over_frames


def candidate_clips(
    path: str | Path, reader: ClipReader, start: float | None, at: float | None
) -> list[Clip]:
    """The clip from `start` on or around `at`, in seconds; by default clips that cover the video.

    Raises:
        UsageError: the video does not last that long.
        VideoError: the video can't be read.
    """
    video = open_video(path, reader.decoder)
    for seconds in (start, at):
        if seconds is not None and not 0 <= seconds < video.times[-1]:
            raise UsageError(
                f"{seconds:g} s is not in {video.path}, which lasts {video.times[-1]:.2f} s."
            )
    grid = FrameGrid(reader.sampling, video)
    sampling = grid.sampling
    if start is None and at is None:
        chosen = sampling.covering(grid.positions, at_most=MOST_CLIPS)
    else:
        before = sampling.span // 2 if start is None else 0
        first = grid.position(frame_index(video, at if start is None else start)) - before
        last = max(grid.positions - sampling.span, 0)
        chosen = [sampling.clip(min(max(first, 0), last), grid.positions)]
    return [Clip(video, grid.frames(clip), reader.preprocessing) for clip in chosen]


def frame_index(video: VideoReader, seconds: float) -> int:
    """The frame that the video shows at a time."""
    # 0.28 s of a video of 25 frames a second is frame 7, but 0.28 * 25 is below 7.
    found = np.searchsorted(video.times, seconds + 1e-6, side="right") - 1
    return min(max(int(found), 0), len(video) - 1)


def _rescaled(pixels: np.ndarray | int, scale: float) -> np.ndarray | float:
    """The coordinates of the centres of pixels in a picture that is `scale` times as large."""
    return (pixels + 0.5) * scale - 0.5
