"""Other libraries that decode video, behind the interface of `VideoReader`.

    pip install 'actionrec[decord]'
    actionrec predict video.mp4 --decoder decord

They are there for comparisons. PyAV is the default because it alone gave the right frames of every
file that we tried. The number of frames, the rate and the size come from our index whatever the
library; a library that counts other frames is an error.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import ClassVar

import numpy as np

from actionrec.errors import UsageError, VideoError
from actionrec.video.address import Address, VideoPath, video_path
from actionrec.video.parts import VideoSegment
from actionrec.video.reader import Crop, IndexedFrames, Size, VideoReader
from actionrec.video.segments import SegmentReader

# Frames decoded at a time, so that memory doesn't hold a long clip twice.
CHUNK = 32


class OtherReader(VideoReader):
    """Reads frames through a library that takes a list of indices.

    Raises:
        VideoError: as for `VideoReader`, or the library can't read the file or counts other frames.
    """

    library: ClassVar[str]

    def stream(
        self, clips: Iterable[Sequence[int]], size: Size = None, crop: Crop | None = None
    ) -> Iterator[np.ndarray]:
        """As of `VideoReader`, by this library too; it is told all clips beforehand."""
        return self.clips(clips, size, crop)

    def _frames(self, wanted: list[int]) -> IndexedFrames:
        try:
            count, read = self._open(import_module(self.library))
            if count != len(self):
                raise VideoError(
                    f"{self.path} has {len(self)} frames, but {self.library} finds {count}; leave "
                    "out --decoder."
                )
            for start in range(0, len(wanted), CHUNK):
                chunk = wanted[start : start + CHUNK]
                yield from zip(chunk, read(chunk), strict=True)
        # Both raise RuntimeErrors of their own, and decord also bare ones of its bindings.
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise VideoError(
                f"{self.path} could not be read by {self.library} ({reason}); leave out --decoder."
            ) from error

    @abstractmethod
    def _open(self, module: ModuleType) -> tuple[int, Callable[[list[int]], np.ndarray]]:
        """The library's number of frames, and its function from indices to frames, uint8 RGB
        (T, H, W, 3)."""


class DecordReader(OtherReader):
    """Reads with decord 0.6 (one thread).

    It gives wrong frames without an error in mp4 files with an edit list (frames that should not
    be shown) and in MPEG transport streams. In damaged files it may hang until the process is
    killed. It seeks for every clip, so UCF-101's files take about four times as long.
    """

    library = "decord"

    def _open(self, module: ModuleType) -> tuple[int, Callable[[list[int]], np.ndarray]]:
        video = module.VideoReader(str(self.path.absolute()), num_threads=1)
        return len(video), lambda indices: video.get_batch(indices).asnumpy()


class TorchcodecReader(OtherReader):
    """Reads with torchcodec in its exact mode (one thread); it needs FFmpeg's libraries installed.

    It gives wrong frames without an error in AVI files like UCF-101's, which have no usable time
    stamps (off by one frame; their end is an error), and in H.264 in AVI (off by two). MPEG
    transport streams are an error.
    """

    library = "torchcodec.decoders"

    def _open(self, module: ModuleType) -> tuple[int, Callable[[list[int]], np.ndarray]]:
        options = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1}
        video = module.VideoDecoder(str(self.path.absolute()), **options)
        return len(video), lambda indices: video.get_frames_at(indices).data.numpy()


READERS: dict[str, type[VideoReader]] = {
    "pyav": VideoReader,
    "decord": DecordReader,
    "torchcodec": TorchcodecReader,
}


def open_source(
    source: str | VideoPath | VideoSegment, decoder: str = "pyav"
) -> VideoReader | SegmentReader:
    """A reader of a file or of a segment of one; raises as `open_video` and `SegmentReader`."""
    if isinstance(source, VideoSegment):
        return SegmentReader(open_video(source.path, decoder), source)
    return open_video(source, decoder)


def open_video(path: str | VideoPath, decoder: str = "pyav") -> VideoReader:
    """A reader of `path` that decodes with the library of that name.

    Raises:
        VideoError: the file is missing, is no video, has no frames, or was cut off.
        UsageError: the decoder is unknown or not installed.
    """
    require_decoder(decoder)
    path = video_path(path)
    if decoder != "pyav" and (isinstance(path, Address) or path.is_dir()):
        raise VideoError(
            f"{path} can't be read by {decoder}, which needs a file; leave out --decoder."
        )
    return READERS[decoder](path)


def require_decoder(decoder: str) -> None:
    """Raise UsageError if the decoder is unknown, not installed or can't be loaded."""
    if decoder not in READERS:
        raise UsageError(f"There is no decoder {decoder!r}; choose {', '.join(READERS)}.")
    if decoder == "pyav":
        return
    try:
        import_module(READERS[decoder].library)
    # torchcodec without FFmpeg's libraries raises RuntimeError, and a page of text.
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".:")
        raise UsageError(
            f"The decoder {decoder} can't be loaded ({reason}); install it with "
            f"`pip install {decoder}` or leave out --decoder."
        ) from error
