"""Exact frames of a video file, or an error; never other frames, never fewer.

    python -c "from actionrec.video.reader import VideoReader; \
               print(VideoReader('video.mp4').read([0, 10, 20]).shape)"

Time stamps are trusted only where they are known to be right. AVI files like those of UCF-101 have
no usable ones, and seeking in them is off by up to five frames, so their frames are decoded from
the start and counted.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from typing import TypeVar

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from actionrec.errors import VideoError
from actionrec.video import pictures
from actionrec.video.address import FRAMES, Address, VideoPath, frame_folder_of, video_path
from actionrec.video.container import opened
from actionrec.video.index import FrameIndex, index_of, warn_of_damage

Item = TypeVar("Item")
# A part of a frame: top, left, height, width, in pixels.
Crop = tuple[int, int, int, int]
# Pixels of the shorter side after scaling, or (height, width); None leaves frames as they are.
Size = int | tuple[int, int] | None
# Frames as they are shown, uint8 RGB (H, W, 3), each with its index.
IndexedFrames = Iterator[tuple[int, np.ndarray]]
# Frames as the decoder gives them, each with its index.
DecodedFrames = Iterator[tuple[int, av.VideoFrame]]
# Frames that a thread decodes together.
AHEAD = 8
# Bytes of frames that are scaled together.
CHUNK = 1 << 20
# Undecoded packets that are kept, because a key frame may make them needless.
MOST_HELD = 1000
# Decoding this many frames takes as long as a new start at a key frame.
SEEK_COST = 8  # frames


class VideoReader:
    """A video file whose frames are read by their index in display order.

        with VideoReader("video.mp4") as video:
            frames = video.read(range(16), size=128)

    No file stays open between two calls, so the `with` may be left out.

    Attributes:
        path: the file.
        fps: average number of frames a second, as the file states it (25.0 where it states none).
        size: (height, width) in pixels of a frame as it is shown, turned and mirrored as the file
            says.

    Raises:
        VideoError: the file is missing, is no video, has no frames, or was cut off.
    """

    def __init__(self, path: str | VideoPath) -> None:
        self.path = video_path(path)
        if isinstance(self.path, Address):
            # The index holds for this version alone.
            self.path = self.path.pinned()
        self.index: FrameIndex = index_of(self.path)
        self.fps = self.index.fps
        self.size = self.index.size

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __len__(self) -> int:
        """The number of frames."""
        return self.index.frames

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last one's end."""
        return float(self.times[-1] - self.times[0])

    @cached_property
    def times(self) -> np.ndarray:
        """When each frame is shown, and at the end when the last one ends: float64
        (frames + 1,), in seconds from the beginning of the file.

        By the time stamps where they are in the order of the frames, at the average rate elsewhere.
        """
        count, pts = len(self), self.index.pts
        if not pts:
            return np.arange(count + 1) / self.fps
        times = (np.array(pts, dtype=np.float64) - self.index.begin) * self.index.time_base
        return np.append(times, times[-1] + 1 / self.fps)

    def clock(self) -> Callable[[int], float]:
        """A function from a frame's index to when it is shown (see `times`)."""
        times = self.times
        return lambda index: float(times[min(index, len(self))])

    @cached_property
    def has_constant_rate(self) -> bool:
        """Whether every frame is shown when frames of a constant `fps` would be, give or take half
        a frame."""
        return are_even(self.times, self.fps)

    def read(
        self, indices: Sequence[int], size: Size = None, crop: Crop | None = None
    ) -> np.ndarray:
        """The frames at `indices`, which may repeat but not decrease: uint8 RGB (T, H, W, 3).

        Args:
            indices: Numbers of frames, from 0 to below `len`.
            size: Pixels of the shorter side after scaling, or (height, width); bilinear with
                antialiasing. None leaves frames as they are.
            crop: Part of the frame as it is shown that is cut out before scaling.

        Raises:
            IndexError: there is none, or one is negative, not below `len` or less than the one
                before.
            ValueError: the crop is not inside the frame.
            VideoError: fewer frames could be decoded than the file announces.
        """
        return next(self.clips([indices], size, crop))

    def clips(
        self, clips: Iterable[Sequence[int]], size: Size = None, crop: Crop | None = None
    ) -> Iterator[np.ndarray]:
        """Several clips as by `read`, all in one pass over the file.

        The clips may overlap; they must be in the order of their last frames.
        """
        waiting = deque([int(index) for index in clip] for clip in clips)
        for clip in waiting:
            self._require_frames(clip)
        wanted = sorted({index for clip in waiting for index in clip})
        yield from self._stack(waiting, self._frames(wanted), size, crop)

    def stream(
        self, clips: Iterable[Sequence[int]], size: Size = None, crop: Crop | None = None
    ) -> Iterator[np.ndarray]:
        """The same as `clips`, for any number of clips: it asks for a clip when the first frame of
        it is due, and keeps only frames of clips that are not complete.

        Every frame is decoded, up to the last one asked for. The clips must be in the order of
        their first frames and of their last ones.
        """
        waiting: deque[Sequence[int]] = deque()
        decoded = self._decode_counting(self._due_frames(clips, waiting))
        yield from self._stack(waiting, self._as_shown(decoded), size, crop)

    def _due_frames(
        self, clips: Iterable[Sequence[int]], waiting: deque[Sequence[int]]
    ) -> Iterator[int]:
        """The frames of all clips in order, each once; a clip joins the `waiting` ones when its
        first frame is due."""
        due: set[int] = set()
        for clip in clips:
            self._require_frames(clip)
            ready = sorted(index for index in due if index < clip[0])
            waiting.append(clip)
            yield from ready
            due = due.difference(ready).union(clip)
        yield from sorted(due)

    def _require_frames(self, clip: Sequence[int]) -> None:
        if not len(clip) or clip[0] < 0 or clip[-1] >= len(self) or list(clip) != sorted(clip):
            raise IndexError(f"Frames {clip} of {self.path}, which has {len(self)}.")

    def _stack(
        self, waiting: deque[Sequence[int]], decoded: IndexedFrames, size: Size, crop: Crop | None
    ) -> Iterator[np.ndarray]:
        """The `waiting` clips, which are in the order of their last frames."""
        frames: dict[int, np.ndarray] = {}
        for index, frame in self._scaled(decoded, size, crop):
            frames[index] = frame
            while waiting and waiting[0][-1] <= index:
                yield np.stack([frames[index] for index in waiting.popleft()])
            oldest = min((clip[0] for clip in waiting), default=index + 1)
            while frames and (first := next(iter(frames))) < oldest:
                del frames[first]

    def verify(self) -> str:
        """Decode every frame; what is damaged although it can be read, as a part of a sentence.

        Raises:
            VideoError: fewer frames could be decoded than the file announces.
        """
        if self.index.access == "pictures":
            for _ in self._decode_pictures(range(len(self))):
                pass
            return ""
        count = damaged = 0
        with opened(self.path) as (container, stream):
            for frame in container.decode(stream):
                damaged += frame.is_corrupt and self.index.reports_damage
                count += 1
        if count < len(self):
            raise self._frames_missing(count)
        if damaged:
            return f"the decoder had to make up parts of {damaged} of its {count} frames"
        return self.index.damage

    def _scaled(self, decoded: IndexedFrames, size: Size, crop: Crop | None) -> IndexedFrames:
        """The `decoded` frames, cropped and scaled."""
        top, left, height, width = crop or (0, 0, *self.size)
        inside = min(top, left) >= 0 and min(height, width) >= 1
        if not inside or top + height > self.size[0] or left + width > self.size[1]:
            raise ValueError(f"The crop {crop} does not fit into frames of {self.size}.")
        if isinstance(size, int):
            factor = size / min(height, width)
            size = (round(height * factor), round(width * factor))
        # Frames are scaled together: one by one it takes twice as long.
        cut = np.empty((max(1, CHUNK // (3 * height * width)), height, width, 3), np.uint8)
        indices: list[int] = []
        for index, picture in decoded:
            cut[len(indices)] = picture[top : top + height, left : left + width]
            indices.append(index)
            if len(indices) == len(cut):
                yield from zip(indices, scale(cut, size or (height, width)), strict=True)
                indices = []
        if indices:
            yield from zip(
                indices, scale(cut[: len(indices)], size or (height, width)), strict=True
            )

    def _frames(self, wanted: list[int]) -> IndexedFrames:
        """The `wanted` frames as they are shown."""
        # PyTorch is imported where it is used: checking files needs none of it.
        import torch

        decoded = self._decode(wanted)
        # A process that has one thread is one of many readers, which keep all cores busy.
        if torch.get_num_threads() == 1:
            return self._as_shown(decoded)
        some = iter(lambda: list(islice(decoded, AHEAD)), [])
        return self._as_shown(chain.from_iterable(read_ahead(some)))

    def _as_shown(self, decoded: DecodedFrames) -> IndexedFrames:
        """The `decoded` frames, turned and mirrored as the file says, in RGB."""
        height, width = self.size
        orientation = self.index.orientation
        if orientation.transpose:
            height, width = width, height
        rows = slice(None, None, -1 if orientation.flip_rows else 1)
        columns = slice(None, None, -1 if orientation.flip_columns else 1)
        reformatter = VideoReformatter()
        for index, frame in decoded:
            if frame.is_corrupt and self.index.reports_damage:
                warn_of_damage(self.path, "the decoder had to make up parts of it")
            # One thread: swscale's own threads cost more than they save at this size.
            frame = reformatter.reformat(frame, width, height, "rgb24", threads=1)
            [plane] = frame.planes
            # A view, because it is about to be cropped: `to_ndarray` would copy all of it.
            picture = np.ndarray((height, width, 3), np.uint8, plane, 0, (plane.line_size, 3, 1))
            if orientation.transpose:
                picture = picture.swapaxes(0, 1)
            yield index, picture[rows, columns]

    def _decode(self, wanted: list[int]) -> DecodedFrames:
        """Each of the `wanted` frames, in the fastest way that is exact for this file."""
        shortcuts = {
            "skip": self._decode_skipping,
            "time": self._decode_by_time,
            "keys": self._decode_with_checks,
            "pictures": self._decode_pictures,
        }
        found = 0
        if self.index.access in shortcuts:
            for item in shortcuts[self.index.access](wanted):
                yield item
                found += 1
        # A shortcut ends early in a file for which it is not exact.
        if found < len(wanted):
            yield from self._decode_counting(wanted[found:])

    def _decode_counting(self, wanted: Iterable[int]) -> DecodedFrames:
        """Decode from the start and count."""
        if self.index.access == "pictures":
            yield from self._decode_pictures(wanted)
            return
        count = 0
        following = iter(wanted)
        next_wanted = next(following, None)
        with opened(self.path) as (container, stream):
            for frame in container.decode(stream):
                if count == next_wanted:
                    yield count, frame
                    next_wanted = next(following, None)
                if next_wanted is None:
                    return
                count += 1
        raise self._frames_missing(count)

    def _decode_pictures(self, wanted: Iterable[int]) -> DecodedFrames:
        """Decode the pictures of a folder of frames."""
        folder = self.path
        if isinstance(folder, Address) and folder.scheme == FRAMES:
            folder, _ = frame_folder_of(folder)
        files = pictures.frames_in(folder)
        if len(files) != len(self):
            raise VideoError(f"{self.path} has changed while it was read; read it again.")
        for index in wanted:
            frame = pictures.decoded(files[index], self.size)
            yield index, av.VideoFrame.from_ndarray(frame, "rgb24")

    def _decode_skipping(self, wanted: list[int]) -> DecodedFrames:
        """Decode from the start, but before a clip only frames that other frames refer to.

        For MPEG-4 in AVI, where every packet holds one frame. The frame of a packet comes out one
        packet later if there are B-frames; if there are none, the last key frame before a clip is
        early enough to begin. Packed B-frames make no difference: FFmpeg unpacks them.
        """
        position = 0
        held: list[tuple[int, av.Packet]] = []
        with opened(self.path) as (container, stream):
            context = stream.codec_context
            delay = int(context.has_b_frames)
            for number, packet in enumerate(container.demux(stream)):
                if packet.is_keyframe and not delay:
                    held = []
                held.append((number, packet))
                if number < wanted[position] and not delay and len(held) < MOST_HELD:
                    continue
                for number, packet in held:
                    before = number < wanted[position] - 2
                    context.skip_frame = "NONREF" if before else "DEFAULT"
                    for frame in packet.decode():
                        # What a decoder makes of damage depends on the frames before it.
                        if frame.is_corrupt:
                            return
                        # The last packet is FFmpeg's own and brings what was still to come.
                        index = number - delay
                        if index < wanted[position]:
                            continue
                        if index > wanted[position]:
                            return
                        yield index, frame
                        position += 1
                        if position == len(wanted):
                            return
                held = []

    def _decode_by_time(self, wanted: list[int]) -> DecodedFrames:
        """Decode from the last key frame before a clip, and before the clip only frames that
        others refer to.

        Where time stamps leave a gap, a frame may be missing, and what the decoder puts in its
        place depends on all frames before: then all are decoded.
        """
        pts = self.index.pts
        skip = "NONREF" if self.index.is_regular else "DEFAULT"
        with opened(self.path) as (container, stream):
            for key_time, run in self._seek_runs(wanted):
                if key_time is not None:
                    container.seek(key_time, stream=stream, backward=True)
                position = 0
                stream.codec_context.skip_frame = skip
                for packet in container.demux(stream):
                    if packet.pts is None or packet.pts >= pts[run[position]]:
                        stream.codec_context.skip_frame = "DEFAULT"
                    for frame in packet.decode():
                        if frame.pts is None or frame.pts > pts[run[position]]:
                            return
                        if frame.pts < pts[run[position]]:
                            continue
                        yield run[position], frame
                        position += 1
                        if position == len(run):
                            break
                        if run[position] > run[position - 1] + 1:
                            stream.codec_context.skip_frame = skip
                    if position == len(run):
                        break
                else:
                    return

    def _decode_with_checks(self, wanted: list[int]) -> DecodedFrames:
        """Decode from a key frame earlier than needed, and every frame from there on.

        Only parts of this file have proven its time stamps and key frames. Frames whose stamps do
        not increase, that are not the next ones of the index, or that the decoder finds damaged
        end the shortcut. A key frame that is no clean beginning shows in the frames before the
        next.
        """
        pts = self.index.pts
        with opened(self.path) as (container, stream):
            for key_time, run in self._seek_runs(wanted, margin=1):
                if key_time is not None:
                    container.seek(key_time, stream=stream, backward=True)
                position, last = 0, -1 if key_time is None else None
                for frame in container.decode(stream):
                    index = bisect_left(pts, frame.pts) if frame.pts is not None else len(pts)
                    known = index < len(pts) and pts[index] == frame.pts
                    if not known or last is not None and index != last + 1:
                        return
                    last = index
                    if key_time is not None and frame.is_corrupt:
                        return
                    if index == run[position]:
                        yield index, frame
                        position += 1
                        if position == len(run):
                            break
                    elif index > run[position]:
                        return
                else:
                    return

    def _seek_runs(
        self, wanted: list[int], margin: int = 0
    ) -> Iterator[tuple[int | None, list[int]]]:
        """The `wanted` frames in runs that are decoded without a leap, each with the time of the
        key frame to seek, `margin` key frames earlier than needed; None for the start."""
        pts, keys = self.index.pts, self.index.keys
        run, key = [], None
        for index in wanted:
            last_key = bisect_right(keys, pts[index], key=lambda key: key[0]) - 1 - margin
            before = run[-1] if run else 0
            if last_key > 0 and bisect_left(pts, keys[last_key][0]) - before > SEEK_COST:
                if run:
                    yield key, run
                run, key = [], keys[last_key][1]
            run.append(index)
        yield key, run

    def _frames_missing(self, decoded: int) -> VideoError:
        return VideoError(
            f"{self.path} gave only {decoded} of its {len(self)} frames; "
            "it is damaged: copy, download or encode it again."
        )


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The `items`, each of which a thread makes while the one before it is being used."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        following = thread.submit(next, items, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield item


def are_even(times: np.ndarray, fps: float) -> bool:
    """Whether `times` in seconds are those of a constant rate, give or take half a frame."""
    even = times[0] + np.arange(len(times)) / fps
    return bool(np.abs(times - even).max() < 0.5 / fps)


def scale(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames, uint8 (T, H, W, 3), scaled to `size` (height, width): bilinear, antialiased."""
    if frames.shape[1:3] == tuple(size):
        return frames.copy()
    # PyTorch is imported where it is used: checking files needs none of it.
    import torch

    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    scaled = torch.nn.functional.interpolate(pictures, size, mode="bilinear", antialias=True)
    return scaled.permute(0, 2, 3, 1).numpy()
