"""Draw a timeline on its video: `actionrec timeline match.mp4 --render drawn.mp4`.

A corner shows the best classes of the moment. A strip along the lower edge shows the best score
through the whole video, in the colour of its class, with a line at the moment. The video is
decoded once more, frame by frame; the sound is copied.
"""

import io
from bisect import bisect_right
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from actionrec.errors import ActionrecError, VideoError
from actionrec.files import replacing, require_free, require_suffix
from actionrec.prediction.timeline import INTERRUPTED, Step, Timeline
from actionrec.progress import track
from actionrec.signals import stop_requests
from actionrec.text import fonts_for, lacking_in, visible
from actionrec.video.container import opened
from actionrec.video.index import index_of
from actionrec.video.reader import Crop, VideoReader
from actionrec.video.writer import CONTAINERS, TIME_BASE, VideoWriter

RENDERING_FORMATS = (".mp4", ".mov", ".mkv")
# Larger frames are scaled down: an encoder of 8K takes gigabytes, and few players play 8K.
LONGEST_SIDE = 1920
BACKGROUND = 0.35  # brightness of the picture behind the drawing
GREY = (150, 150, 150)
WHITE = (255, 255, 255)


def require_rendering(source: Path, path: Path) -> None:
    """Refuse an impossible rendering before anything is computed.

    Raises:
        UsageError: the suffix of `path` is none of `RENDERING_FORMATS`.
        ActionrecError: `path` exists, or can't hold the sound of `source`.
        VideoError: `source` is missing, is no video, has no frames, or was cut off.
    """
    require_suffix(path, RENDERING_FORMATS, "--render")
    require_free(path)
    index_of(source)
    with opened(source) as (container, _):
        codecs = {sound.codec_context.name for sound in container.streams.audio}
    holding = [suffix for suffix in RENDERING_FORMATS if codecs <= sound_codecs(suffix)]
    if path.suffix.lower() not in holding:
        choice = f"choose {' or '.join(holding)}" if holding else "encode it as AAC before"
        raise ActionrecError(
            f"The sound of {source} ({', '.join(sorted(codecs))}) can't be copied into a "
            f"{path.suffix} file; {choice}."
        )


def sound_codecs(suffix: str) -> set[str]:
    """The codecs that a file with this suffix can hold."""
    with av.open(io.BytesIO(), "w", CONTAINERS[suffix]) as output:
        return output.supported_codecs


def render(timeline: Timeline, path: Path, min_score: float = 0.0) -> str | None:
    """Write the video of a timeline with its classes drawn on it, upright, every frame at its time.

    H.264, at most 1920 pixels long. Ctrl-C, SIGTERM and damage in the middle of the file end it
    early; the frames up to there are a whole file.

    Args:
        timeline: Of a video file that is still there.
        path: The new file.
        min_score: Classes that score less are grey.

    Returns:
        The reason why the new file is incomplete; None if it is complete.

    Raises:
        ActionrecError: the file can't be written.
        VideoError: the video can't be read at all.
    """
    video = VideoReader(timeline.video)
    crop, size = frame_size(video.size)
    drawing = Drawing(timeline, size, min_score)
    clock = video.clock()
    frames = video.stream(([index] for index in range(len(video))), size, crop)
    bar = track(frames, f"drawing {path.name}", total=len(video), transient=True)
    with (
        stop_requests() as stop_requested,
        replacing(path) as temporary,
        opened(video.path) as (container, source),
    ):
        ratio = source.sample_aspect_ratio
        if ratio and video.index.orientation.transpose:
            ratio = 1 / ratio
        # An index without time stamps has found them unreliable.
        unit = source.time_base if video.index.pts else TIME_BASE
        with VideoWriter(
            temporary, size, video.fps, time_base=unit, aspect_ratio=ratio or None, sound=container
        ) as writer:
            try:
                for index, [picture] in enumerate(bar):
                    seconds = clock(index)
                    drawing.draw(picture, seconds)
                    writer.copy_sound(seconds)
                    writer.write(picture, seconds)
                    if stop_requested():
                        return INTERRUPTED
                writer.copy_sound()
            except VideoError as error:
                if not writer.written:
                    raise
                return str(error)
    return None


def frame_size(size: tuple[int, int]) -> tuple[Crop | None, tuple[int, int]]:
    """The part to cut out of frames of `size` (height, width), and the size to scale it to, both
    sides even: H.264's 4:2:0 has a colour for every two rows and columns."""
    height, width = size
    factor = min(1.0, LONGEST_SIDE / max(size))
    target = tuple(max(2, int(side * factor) // 2 * 2) for side in size)
    crop = None if factor < 1 or min(size) < 2 else (0, 0, height // 2 * 2, width // 2 * 2)
    return crop, target


class Drawing:
    """Draws a timeline on frames of (height, width) pixels."""

    def __init__(self, timeline: Timeline, size: tuple[int, int], min_score: float) -> None:
        self.steps, self.min_score = timeline.steps, min_score
        self.starts = [step.start for step in timeline.steps]
        self.height, self.width = size
        self.duration = max(timeline.duration, 1e-9)
        self.text_size = max(8, min(size) // 20)
        self.font = load_font(self.text_size)
        # One warning for all labels that no font has.
        fonts_for("".join(visible(entry.label) for step in timeline.steps for entry in step.top))
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

        if step.top[0].label not in step.shown(self.min_score):
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
        size, margin = self.text_size, self.text_size // 2
        widest = max(1, self.width - 2 * margin)
        columns = min(20 * size, widest)
        row = size * 7 // 4
        image = Image.new("RGBA", (columns, margin + row * len(step.top)))
        draw = ImageDraw.Draw(image)
        shown = step.shown(self.min_score)
        for number, entry in enumerate(step.top):
            top = number * row + margin // 2
            under = top + size * 4 // 3
            colour = self._colour(step) if number == 0 else GREY
            bar = margin + round(max(0, columns - 2 * margin) * entry.score)
            draw.rectangle((margin, under, bar, under + size // 8), fill=(*colour, 255))
            score = f"{entry.score:.0%}"
            right = columns - margin - draw.textlength(score, font=self.font)
            ink = WHITE if entry.label in shown else (200, 200, 200)
            font = load_font(size, entry.label)
            text = fit(entry.label, font, right - 2 * margin)
            draw.text((margin, top), text, font=font, fill=(*ink, 255))
            draw.text((right, top), score, font=self.font, fill=(*ink, 255))
        return np.asarray(image)[: max(0, self.height - margin)]


def lay_over(picture: np.ndarray, drawn: np.ndarray) -> None:
    """Darken uint8 RGB (H, W, 3) in place and lay uint8 RGBA (H, W, 4) over it."""
    opacity = drawn[..., 3:].astype(np.float32) / 255
    picture[:] = picture * (BACKGROUND * (1 - opacity)) + drawn[..., :3] * opacity


@cache
def load_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """The font that has most of a text, at best matplotlib's own."""
    text = visible(text)
    fullest = min(fonts_for(text).values(), key=lambda font: len(lacking_in(font, text)))
    return ImageFont.truetype(fullest, size)


def fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, cut to at most `width` pixels."""
    text = visible(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…" if text else ""
