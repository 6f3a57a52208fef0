"""A video with its timeline drawn on it: `actionrec predict match.mp4 --timeline --render out.mp4`.

In a corner are the best classes of the moment, along the lower edge the best score through the
whole video in its class's colour, with a line at the moment. The video is decoded once more, frame
by frame; the sound is copied.
"""

import io
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from rich.console import Console
from rich.progress import track

from actionrec.errors import ActionrecError, UsageError, VideoError
from actionrec.files import replacing
from actionrec.prediction.timeline import INTERRUPTED, Step, Timeline, require_free, stop_on_request
from actionrec.video.container import opened
from actionrec.video.index import index_of
from actionrec.video.reader import Crop, VideoReader

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# Larger frames are scaled down: an encoder of 8K takes gigabytes, and few can play the result.
LONGEST_SIDE = 1920
FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
# The fastest way that looks good; it also keeps the fewest frames in memory.
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20"}
BACKGROUND = 0.35  # brightness of the picture behind what is drawn
GREY = (150, 150, 150)
WHITE = (255, 255, 255)


def require_rendering(source: Path, path: Path) -> None:
    """Refuse what can't be rendered, before anything is computed.

    Raises:
        UsageError: the suffix of `path` is no format that we write.
        ActionrecError: there is such a file already, or it can't hold the sound of `source`.
        VideoError: `source` is missing, is no video, has no frames, or was cut off.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--render {path} must end in {', '.join(FORMATS)}.")
    require_free(path)
    index_of(source)
    with opened(source) as (container, _):
        codecs = {sound.codec_context.name for sound in container.streams.audio}
    holding = [suffix for suffix in FORMATS if codecs <= sound_codecs(suffix)]
    if path.suffix.lower() not in holding:
        choice = f"choose {' or '.join(holding)}" if holding else "encode it as AAC before"
        raise ActionrecError(
            f"The sound of {source} ({', '.join(sorted(codecs))}) can't be copied into a "
            f"{path.suffix} file; {choice}."
        )


def sound_codecs(suffix: str) -> set[str]:
    """The codecs that a file with this suffix can hold."""
    with av.open(io.BytesIO(), "w", FORMATS[suffix]) as output:
        return output.supported_codecs


def render(timeline: Timeline, path: Path, min_score: float = 0.0) -> str | None:
    """Write the video of a timeline with its classes drawn on it, upright, at its own times.

    H.264, at most 1920 pixels long. Ctrl-C or SIGTERM end it early, and so does damage in the
    middle of the file: what was drawn until then is a whole file.

    Args:
        min_score: Classes that score less are grey.

    Returns:
        Why it is incomplete; None if it is complete.

    Raises:
        ActionrecError: the file can't be written.
        VideoError: the video can't be read at all.
    """
    video = VideoReader(timeline.video)
    crop, (height, width) = frame_size(video.size)
    drawing = Drawing(timeline, (height, width), min_score)
    clock = video.clock()
    frames = video.stream(([index] for index in range(len(video))), (height, width), crop)
    incomplete, drawn = None, 0
    with (
        stop_on_request() as stop_wish,
        replacing(path) as temporary,
        writing(),
        av.open(str(temporary), "w", format=FORMATS[path.suffix.lower()]) as output,
        opened(video.path) as (container, source),
    ):
        trusted = bool(video.index.pts)
        unit = source.time_base if trusted else Fraction(1, 90_000)
        stream = output.add_stream(
            "libx264",
            rate=Fraction(video.fps).limit_denominator(100_000),
            options=ENCODER_OPTIONS,
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = unit
        if source.sample_aspect_ratio:
            turned = video.index.orientation.transpose
            ratio = source.sample_aspect_ratio
            stream.codec_context.sample_aspect_ratio = 1 / ratio if turned else ratio
        sound = Sound(container, output)
        reformatter = VideoReformatter()
        try:
            for index, [picture] in enumerate(
                track(
                    frames,
                    f"drawing {path.name}",
                    total=len(video),
                    console=Console(stderr=True),
                    transient=True,
                )
            ):
                seconds = clock(index)
                drawing.draw(picture, seconds)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame = reformatter.reformat(frame, width, height, "yuv420p", threads=1)
                frame.pts, frame.time_base = round(seconds / float(unit)), unit
                with writing():
                    sound.copy_until(seconds)
                    output.mux(stream.encode(frame))
                drawn = index + 1
                if stop_wish():
                    incomplete = INTERRUPTED
                    break
            if incomplete is None:
                with writing():
                    sound.copy_until(float("inf"))
        except VideoError as error:
            if not drawn:
                raise
            incomplete = str(error)
        with writing():
            output.mux(stream.encode(None))
            output.close()
    return incomplete


def frame_size(size: tuple[int, int]) -> tuple[Crop | None, tuple[int, int]]:
    """What is cut out of frames of `size` (height, width), and the size to scale it to, both sides
    even: H.264's 4:2:0 has a colour for every two rows and columns."""
    height, width = size
    factor = min(1.0, LONGEST_SIDE / max(size))
    target = tuple(max(2, int(side * factor) // 2 * 2) for side in size)
    crop = None if factor < 1 or min(size) < 2 else (0, 0, height // 2 * 2, width // 2 * 2)
    return crop, target


@contextmanager
def writing() -> Iterator[None]:
    """FFmpeg's errors become OSErrors: what reads the other file has its own."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


class Sound:
    """Copies the sound of `source` into `output`, as far as the picture is."""

    def __init__(
        self, source: av.container.InputContainer, output: av.container.OutputContainer
    ) -> None:
        self.source, self.output = source, output
        self.streams = {
            sound.index: output.add_stream_from_template(sound) for sound in source.streams.audio
        }
        self.begin = Fraction(source.start_time or 0, av.time_base)
        self.packets = source.demux(source.streams.audio) if self.streams else iter(())
        self.waiting: av.Packet | None = None

    def copy_until(self, seconds: float) -> None:
        """Write what is heard before `seconds` after the beginning of the file."""
        while (packet := self._following()) is not None:
            # AVI has only times of decoding; those of sound are the same.
            time = packet.dts if packet.pts is None else packet.pts
            time -= round(self.begin / packet.time_base)
            if float(time * packet.time_base) > seconds:
                return
            packet.pts = packet.dts = time
            packet.stream = self.streams[packet.stream.index]
            self.waiting = None
            self.output.mux(packet)

    def _following(self) -> av.Packet | None:
        """The packet to be written next; None at the end."""
        while self.waiting is None:
            # An empty packet ends each stream.
            try:
                packet = next(self.packets, None)
            except av.error.FFmpegError as error:
                raise VideoError(
                    f"{self.source.name} has sound that could not be read ({error.strerror}); it "
                    "is damaged: copy or download it again."
                ) from error
            if packet is None:
                return None
            if packet.size and (packet.pts, packet.dts) != (None, None):
                self.waiting = packet
        return self.waiting


class Drawing:
    """What is drawn on the frames, of (height, width) pixels, of a video with a timeline."""

    def __init__(self, timeline: Timeline, size: tuple[int, int], min_score: float) -> None:
        self.steps, self.min_score = timeline.steps, min_score
        self.starts = [step.start for step in timeline.steps]
        self.height, self.width = size
        self.duration = max(timeline.duration, 1e-9)
        self.text_size = max(8, min(size) // 20)
        self.font = load_font(self.text_size)
        self.colours: dict[str, tuple[int, int, int]] = {}
        self.strip = self._strip()
        self.panel_of: tuple[int, np.ndarray] | None = None

    def draw(self, picture: np.ndarray, seconds: float) -> None:
        """Draw on a frame, uint8 RGB (height, width, 3), in place."""
        index = max(0, bisect_right(self.starts, seconds) - 1)
        # The corner changes only from step to step.
        if self.panel_of is None or self.panel_of[0] != index:
            self.panel_of = index, self._panel(self.steps[index])
        panel = self.panel_of[1]
        margin = self.text_size // 2
        lay_over(picture[margin : margin + len(panel), margin : margin + panel.shape[1]], panel)
        below = picture[self.height - len(self.strip) :]
        lay_over(below, self.strip)
        line = min(int(seconds / self.duration * self.width), self.width - 1)
        thick = max(1, self.width // 400)
        below[:, max(0, line - thick // 2) : line - thick // 2 + thick] = WHITE

    def _colour(self, step: Step) -> tuple[int, int, int]:
        """The colour of a step's best class; ten, in the order in which classes come up."""
        from matplotlib import colormaps

        if step.top[0].score < self.min_score:
            return GREY
        label, palette = step.top[0].label, colormaps["tab10"].colors
        chosen = tuple(round(255 * part) for part in palette[len(self.colours) % len(palette)])
        return self.colours.setdefault(label, chosen)

    def _strip(self) -> np.ndarray:
        """The best score in every column, uint8 RGBA (rows, width, 4)."""
        rows = min(self.height, max(6, self.height // 12))
        strip = np.zeros((rows, self.width, 4), np.uint8)
        for step in self.steps:
            left = int(step.start / self.duration * self.width)
            right = max(left + 1, int(step.end / self.duration * self.width))
            high = max(1, round(step.top[0].score * (rows - 1)))
            strip[rows - high :, left:right] = (*self._colour(step), 255)
        return strip

    def _panel(self, step: Step) -> np.ndarray:
        """The best classes of a step and their scores, uint8 RGBA (rows, columns, 4)."""
        from PIL import Image, ImageDraw

        size, margin = self.text_size, self.text_size // 2
        widest = max(1, self.width - 2 * margin)
        columns = min(20 * size, widest)
        row = size * 7 // 4
        image = Image.new("RGBA", (columns, margin + row * len(step.top)))
        draw = ImageDraw.Draw(image)
        for number, entry in enumerate(step.top):
            top = number * row + margin // 2
            under = top + size * 4 // 3
            says = entry.score >= self.min_score
            colour = self._colour(step) if number == 0 else GREY
            bar = margin + round(max(0, columns - 2 * margin) * entry.score)
            draw.rectangle((margin, under, bar, under + size // 8), fill=(*colour, 255))
            score = f"{entry.score:.0%}"
            right = columns - margin - draw.textlength(score, font=self.font)
            ink = WHITE if says and number == 0 else (200, 200, 200)
            text = shorten(entry.label, self.font, right - 2 * margin)
            draw.text((margin, top), text, font=self.font, fill=(*ink, 255))
            draw.text((right, top), score, font=self.font, fill=(*ink, 255))
        return np.asarray(image)[: max(0, self.height - margin)]


def lay_over(picture: np.ndarray, drawn: np.ndarray) -> None:
    """Darken uint8 RGB (H, W, 3) in place and lay uint8 RGBA (H, W, 4) over it."""
    opacity = drawn[..., 3:].astype(np.float32) / 255
    picture[:] = picture * (BACKGROUND * (1 - opacity)) + drawn[..., :3] * opacity


def load_font(size: int) -> "FreeTypeFont":
    """Matplotlib's own font, which is the same everywhere and has Latin, Greek and Cyrillic."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def shorten(text: str, font: "FreeTypeFont", width: float) -> str:
    """The text on one line, cut so that it is at most `width` pixels wide."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…" if text else ""
