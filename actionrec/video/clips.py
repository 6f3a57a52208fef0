"""Clips of video files, as a network sees them: sampled, cropped and scaled.

    python -c "from actionrec.video.clips import ClipReader; \
               print(ClipReader().read('video.mp4', clips=3).pixels.shape)"
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from actionrec.errors import VideoError
from actionrec.video.address import VideoPath, video_path
from actionrec.video.decoders import open_source, open_video
from actionrec.video.parts import VideoSegment, VideoSource, path_of
from actionrec.video.sampling import ClipSampling, FrameGrid
from actionrec.video.segments import SegmentReader
from actionrec.video.transforms import Preprocessing, channels_first, random_area, stack_clips
from actionrec.video.windows import SlidingWindows

MOST_CLIPS = 10


@dataclass(frozen=True)
class VideoClip:
    """A clip of a video or segment as uint8 (crops, 3, T, H, W), its start and end in seconds from
    the beginning of the file, and whether it is the last one."""

    pixels: torch.Tensor
    seconds: tuple[float, float]
    last: bool


@dataclass(frozen=True)
class VideoClips:
    """Clips of one video as uint8 (clips * crops, 3, T, H, W), the crops of a clip side by side,
    and where each clip starts and ends, in seconds."""

    pixels: torch.Tensor
    seconds: list[tuple[float, float]]


@dataclass(frozen=True)
class ClipReader:
    """Reads clips of video files.

    Attributes:
        sampling: which frames make a clip.
        preprocessing: what part of a frame is seen, and how large.
        decoder: a key of `decoders.READERS`.
    """

    sampling: ClipSampling = field(default_factory=ClipSampling)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    decoder: str = "pyav"

    def stream(
        self, source: str | VideoSource, clips: int | None = None, crops: int = 1
    ) -> Iterator[VideoClip]:
        """`clips` evenly spread clips of a video, each as soon as it is read.

        Args:
            source: The file, or a segment of one.
            clips: How many; by default as many as cover the video, ten at most.
            crops: Squares of each clip: 1, the centre, or 3 along the longer side.

        Raises:
            VideoError: the video can't be read.
        """
        source = source if isinstance(source, VideoSegment) else video_path(source)
        for _, clip in self.stream_together([source], clips, crops):
            if isinstance(clip, VideoError):
                raise clip
            yield clip

    def stream_together(
        self, sources: Sequence[VideoSource], clips: int | None = None, crops: int = 1
    ) -> Iterator[tuple[int, VideoClip | VideoError]]:
        """The clips of `stream` of several segments of one file in one pass over it, each with the
        number of its source; a segment that isn't in the file has an error in place of clips.

        Raises:
            VideoError: the file can't be read.
        """
        video = open_video(path_of(sources[0]), self.decoder)
        chosen: list[tuple[int, list[int], bool]] = []
        for number, source in enumerate(sources):
            try:
                part = SegmentReader(video, source) if isinstance(source, VideoSegment) else video
            except VideoError as error:
                yield number, error
                continue
            first = part.first if isinstance(part, SegmentReader) else 0
            grid = FrameGrid(self.sampling, part)
            if clips is None:
                positions = grid.sampling.covering(grid.positions, at_most=MOST_CLIPS)
            else:
                positions = grid.sampling.uniform(grid.positions, clips)
            for each in positions:
                frames = [first + frame for frame in grid.frames(each)]
                chosen.append((number, frames, each is positions[-1]))
        chosen.sort(key=lambda clip: clip[1][-1])
        wanted = [frames for _, frames, _ in chosen]
        side = self.preprocessing.crop
        if crops == 1:
            read = video.clips(wanted, (side, side), self.preprocessing.square(video.size))
            squares = (channels_first(clip)[None] for clip in read)
        else:
            read = video.clips(wanted, side, self.preprocessing.strip(video.size))
            squares = (self.preprocessing.squares(clip) for clip in read)
        clock = video.clock()
        for (number, frames, last), pixels in zip(chosen, squares, strict=True):
            yield number, VideoClip(pixels, (clock(frames[0]), clock(frames[-1] + 1)), last)

    def read(
        self, source: str | VideoSource, clips: int | None = None, crops: int = 1
    ) -> VideoClips:
        """All clips of `stream` together.

        Raises:
            VideoError: the video can't be read.
        """
        read = list(self.stream(source, clips, crops))
        pixels = stack_clips([square for clip in read for square in clip.pixels])
        return VideoClips(pixels, [clip.seconds for clip in read])

    def random(
        self,
        source: str | VideoSource,
        generator: np.random.Generator,
        crop_area: tuple[float, float] | None = None,
        flip: bool = False,
    ) -> torch.Tensor:
        """A training clip, uint8 (3, T, H, W): frames, crop and scale are drawn at random.

        Args:
            source: The file, or a segment of one.
            generator: The clip depends on nothing else.
            crop_area: Least and most share of the frame's area that is cropped; by default a
                square of `preprocessing.random_square`.
            flip: Mirror half of the clips.

        Raises:
            VideoError: the video can't be read.
        """
        video = open_source(source, self.decoder)
        grid = FrameGrid(self.sampling, video)
        indices = grid.frames(grid.sampling.random(grid.positions, generator))
        if crop_area:
            crop = random_area(video.size, crop_area, generator)
        else:
            crop = self.preprocessing.random_square(video.size, generator)
        frames = video.read(indices, (self.preprocessing.crop,) * 2, crop)
        if flip and generator.random() < 0.5:
            frames = frames[:, :, ::-1]
        return channels_first(frames)

    def windows(self, path: str | VideoPath, hop: float) -> Iterator[VideoClip]:
        """Clips that slide over the whole video, each as soon as it is read; one crop each.

        Args:
            path: The file.
            hop: Seconds from one clip to the next; the last one ends with the video.

        Raises:
            VideoError: the video can't be read.
            UsageError: the hop is not above 0.
        """
        video = open_video(path, self.decoder)
        sliding = SlidingWindows(self.sampling, video, hop)
        size, square = (self.preprocessing.crop,) * 2, self.preprocessing.square(video.size)
        # Between windows far apart frames needn't be decoded.
        apart = len(sliding) * sliding.grid.sampling.span < sliding.grid.positions
        read = video.clips if apart else video.stream
        clock = video.clock()
        windows = zip(sliding, read(iter(sliding), size, square), strict=True)
        for number, (frames, pixels) in enumerate(windows, start=1):
            seconds = (clock(frames[0]), clock(frames[-1] + 1))
            yield VideoClip(channels_first(pixels)[None], seconds, last=number == len(sliding))
