"""Other libraries that decode video, behind the interface of `VideoReader`.

    pip install 'actionrec[decord]'
    actionrec predict video.mp4 --decoder decord

They are for comparing, and for those who have reasons of their own: PyAV is the default because it
is the only one that gave the right frames on every file that we tried. The number of frames, the
rate and the size are found as for PyAV; a library that finds another number of frames is an error.
"""

from abc import abstractmethod
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from actionrec.errors import UsageError, VideoError
from actionrec.video.reader import VideoReader

# Frames decoded at a time, so that a long clip doesn't have to be in memory twice.
CHUNK = 32


class OtherReader(VideoReader):
    """Reads frames through a library that takes a list of indices.

    Raises:
        VideoError: as for `VideoReader`, or the library can't read the file or counts other frames.
    """

    library: ClassVar[str]

    def _frames(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        try:
            decoder = self._open(import_module(self.library))
            if len(decoder) != len(self):
                raise VideoError(
                    f"{self.path} has {len(self)} frames, but {self.library} finds "
                    f"{len(decoder)}; leave out --decoder."
                )
            for start in range(0, len(wanted), CHUNK):
                chunk = wanted[start : start + CHUNK]
                yield from zip(chunk, self._pictures(decoder, chunk), strict=True)
        # Both raise RuntimeErrors of their own, and decord also bare ones of its bindings.
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise VideoError(
                f"{self.path} could not be read by {self.library} ({reason}); leave out --decoder."
            ) from error

    @abstractmethod
    def _open(self, module: ModuleType) -> Any:
        """The library's decoder of `self.path`, which has a length."""

    @abstractmethod
    def _pictures(self, decoder: Any, indices: list[int]) -> np.ndarray:
        """The frames at `indices`, uint8 RGB (T, H, W, 3)."""


class DecordReader(OtherReader):
    """Reads with decord 0.6 (one thread).

    Wrong without a word: mp4 files with an edit list (frames that should not be shown) and
    MPEG transport streams. It may hang in damaged files in a way that only killing the process
    ends, and seeks for every clip, so that UCF-101's files take about four times as long.
    """

    library = "decord"

    def _open(self, module: ModuleType) -> Any:
        return module.VideoReader(str(self.path.absolute()), num_threads=1)

    def _pictures(self, decoder: Any, indices: list[int]) -> np.ndarray:
        return decoder.get_batch(indices).asnumpy()


class TorchcodecReader(OtherReader):
    """Reads with torchcodec in its exact mode (one thread); it needs FFmpeg's libraries installed.

    Wrong without a word: AVI files of the kind of UCF-101's, which have no usable time stamps (off
    by one frame; their end is an error), and H.264 in AVI (off by two). MPEG transport streams are
    an error.
    """

    library = "torchcodec.decoders"

    def _open(self, module: ModuleType) -> Any:
        return module.VideoDecoder(
            str(self.path.absolute()), dimension_order="NHWC", num_ffmpeg_threads=1
        )

    def _pictures(self, decoder: Any, indices: list[int]) -> np.ndarray:
        return decoder.get_frames_at(indices).data.numpy()


READERS: dict[str, type[VideoReader]] = {
    "pyav": VideoReader,
    "decord": DecordReader,
    "torchcodec": TorchcodecReader,
}


def open_video(path: str | Path, decoder: str = "pyav") -> VideoReader:
    """A reader of `path` by the library of that name.

    Raises:
        VideoError: the file is missing, is no video, has no frames, or was cut off.
        UsageError: the decoder is unknown or not installed.
    """
    require_decoder(decoder)
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
