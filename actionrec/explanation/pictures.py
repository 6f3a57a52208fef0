"""Pictures of explanations: `actionrec explain video.mp4` writes a PNG sheet and an MP4.

The sheet shows some frames of the clip with each heat map over them, the MP4 all frames at their
rate. A heat map has one colour scale for the whole clip. The part of a frame that the network does
not see is dark; a ring marks the point of an affinity row, at its time.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from actionrec.errors import UsageError
from actionrec.explanation.heat_maps import Explanation, HeatMap
from actionrec.files import replacing, require_free, short_enough
from actionrec.progress import track
from actionrec.text import fonts_for, shorten, visible
from actionrec.video.address import VideoPath, video_path
from actionrec.video.writer import TIME_BASE, VideoWriter

DPI = 120
SHEET_COLUMNS = 6
SHEET_PANEL, VIDEO_PANEL = 2.2, 4.0  # width of a frame in inches
# Opacity of the colour where the heat map is lowest and highest.
OPACITY = (0.1, 0.75)
OUTSIDE = 0.35  # brightness


def picture_paths(output: str | Path, video: str | VideoPath) -> list[Path]:
    """The files to write: `output` if it ends in .png or .mp4, else one of each in the folder
    `output`, named after the video.

    Raises:
        UsageError: a file exists already, or `output` has another suffix.
    """
    output = Path(output)
    if output.suffix.lower() in WRITERS:
        paths = [output]
    elif output.is_file() or (output.suffix and not output.is_dir()):
        raise UsageError(f"{output} must end in .png (a sheet) or .mp4 (a video), or be a folder.")
    else:
        name = f"{video_path(video).stem}_explanation"
        paths = [output / short_enough(f"{name}{suffix}") for suffix in WRITERS]
    for path in paths:
        require_free(path)
    return paths


def write_sheet(explanations: Sequence[Explanation], path: str | Path) -> None:
    """Write a PNG sheet of one or more explanations, below each other.

    Raises:
        ActionrecError: the file can't be written.
    """
    with replacing(Path(path)) as temporary:
        sheet(explanations).savefig(temporary)


def sheet(explanations: Sequence[Explanation]) -> Figure:
    """Frames of the clip in columns: a row without and one with each heat map of an explanation."""
    rows = [(explanation, heat_map) for explanation in explanations
            for heat_map in (None, *explanation.maps)]  # fmt: skip
    columns = max(len(_frames_of_sheet(explanation)) for explanation in explanations)
    figure, grid = _figure(explanations, len(rows), columns, SHEET_PANEL)
    for (explanation, heat_map), axes in zip(rows, grid, strict=True):
        for cell, frame in zip(axes, _frames_of_sheet(explanation), strict=False):
            _Panel(cell, explanation, heat_map).show(frame)
        if heat_map is None:
            _write(axes[0].set_ylabel, _model_name(explanation), size=8)
        else:
            title = visible(heat_map.title).replace(" before", "\nbefore")
            _write(axes[0].set_ylabel, title, size=7)
            _colour_bar(figure, heat_map, ax=list(axes), pad=0.01, aspect=12)
    return figure


def write_video(explanations: Sequence[Explanation], path: str | Path) -> None:
    """Write an MP4 (H.264, 4:2:0, which browsers play) of the clip at its rate: a row for each
    explanation, with the frame on the left and its heat maps beside it.

    A second explanation shows the frame of its own clip that is nearest in time.

    Raises:
        ActionrecError: the file can't be written.
    """
    columns = 1 + max(len(explanation.maps) for explanation in explanations)
    figure, grid = _figure(explanations, len(explanations), columns, VIDEO_PANEL)
    panels = []
    for explanation, axes in zip(explanations, grid, strict=True):
        _write(axes[0].set_ylabel, _model_name(explanation), size=8)
        for cell, heat_map in zip(axes, (None, *explanation.maps), strict=False):
            panels.append(_Panel(cell, explanation, heat_map))
            if heat_map is not None:
                _write(cell.set_title, visible(heat_map.title), size=8)
                _colour_bar(figure, heat_map, ax=cell, location="bottom", pad=0.02)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A single layout: it takes most of the time, and nothing may jump.
    figure.set_layout_engine("none")
    first = explanations[0]
    # 4:2:0 has a colour for every two rows and columns.
    width, height = (side // 2 * 2 for side in canvas.get_width_height())
    with (
        replacing(Path(path)) as temporary,
        VideoWriter(
            temporary, (height, width), first.fps, options={"crf": "18"}, time_base=TIME_BASE
        ) as writer,
    ):
        moments = list(zip(first.times, first.playback, strict=True))
        for seconds, shown in track(moments, "writing the video"):
            for panel in panels:
                panel.show(int(np.abs(panel.explanation.times - seconds).argmin()))
            canvas.draw()
            writer.write(np.asarray(canvas.buffer_rgba())[:height, :width, :3], shown)


def write_overlay(explanation: Explanation, path: Path) -> None:
    """Write an MP4 of the clip, at its speed, with its first heat map over it and a ring around the
    point at its time, and nothing else.

    Raises:
        OSError: the file can't be written.
    """
    height, width = (side // 2 * 2 for side in explanation.frames.shape[1:3])
    point, scale = explanation.point, explanation.frames.shape[1] / explanation.size[0]
    with VideoWriter(path, (height, width), explanation.fps, time_base=TIME_BASE) as writer:
        for frame, shown in enumerate(explanation.playback):
            picture = Image.fromarray(overlay(explanation, explanation.maps[0], frame))
            if point is not None and frame in point.frames:
                centre = (point.x + 0.5) * scale, (point.y + 0.5) * scale
                ImageDraw.Draw(picture).circle(centre, height // 24, outline="white", width=3)
            writer.write(np.asarray(picture)[:height, :width], shown)


WRITERS = {".png": write_sheet, ".mp4": write_video}


def overlay(explanation: Explanation, heat_map: HeatMap | None, frame: int) -> np.ndarray:
    """A frame of the clip as uint8 (H, W, 3): in colour, or in grey under the colours of a heat
    map; darker where the network does not look."""
    picture = explanation.frames[frame].astype(np.float32)
    top, left, height, width = explanation.seen
    outside = np.ones(picture.shape[:2], dtype=bool)
    outside[top : top + height, left : left + width] = False
    if heat_map is not None:
        scale = _colour_scale(heat_map)
        heat = np.nan_to_num(heat_map.over_frames[frame], nan=scale.norm.vmin)
        colours = 255 * scale.to_rgba(heat)[..., :3]
        share = np.asarray(scale.norm(heat))
        if scale.norm.vmin < 0:
            share = np.abs(2 * share - 1)
        least, most = OPACITY
        opacity = (least + (most - least) * share)[..., None]
        grey = picture.mean(axis=2, keepdims=True)
        picture = np.where(outside[..., None], grey, grey + opacity * (colours - grey))
    picture[outside] *= OUTSIDE
    return picture.clip(0, 255).astype(np.uint8)


class _Panel:
    """A picture in a figure: the frames of an explanation, with or without a heat map."""

    def __init__(self, axes: Axes, explanation: Explanation, heat_map: HeatMap | None) -> None:
        self.axes, self.explanation, self.heat_map = axes, explanation, heat_map
        self.image = axes.imshow(overlay(explanation, heat_map, 0))
        self.ring = None
        if (point := explanation.point) is not None:
            scale = explanation.frames.shape[1] / explanation.size[0]
            centre = [(pixel + 0.5) * scale - 0.5 for pixel in (point.x, point.y)]
            white_ring = {"mfc": "none", "mec": "white", "mew": 1.8}
            [self.ring] = axes.plot(*centre, "o", markersize=9, **white_ring)

    def show(self, frame: int) -> None:
        """Show a frame of the clip, with the ring if it is the point's time."""
        self.image.set_data(overlay(self.explanation, self.heat_map, frame))
        if self.heat_map is None:
            self.axes.set_title(f"{self.explanation.times[frame]:.2f} s", size=8)
        if self.ring is not None:
            self.ring.set_visible(frame in self.explanation.point.frames)


def _colour_scale(heat_map: HeatMap) -> ScalarMappable:
    """Colours from the lowest to the highest number; blue and red around 0 if some are negative."""
    least, most = float(heat_map.values.min()), float(heat_map.values.max())
    if least < 0:
        most = max(-least, most)
        return ScalarMappable(Normalize(-most, most), "RdBu_r")
    return ScalarMappable(Normalize(least, most), "turbo")


def _colour_bar(figure: Figure, heat_map: HeatMap, **layout: object) -> None:
    bar = figure.colorbar(_colour_scale(heat_map), **layout)
    bar.set_label(heat_map.quantity, size=7)
    bar.ax.tick_params(labelsize=7)
    bar.formatter.set_powerlimits((-2, 4))
    bar.update_ticks()
    for axis in (bar.ax.xaxis, bar.ax.yaxis):
        axis.get_offset_text().set_size(7)


def _figure(
    explanations: Sequence[Explanation], rows: int, columns: int, panel_width: float
) -> tuple[Figure, np.ndarray]:
    """A figure with a heading and axes (rows, columns) that have the shape of a frame."""
    height, width = explanations[0].frames.shape[1:3]
    row_height = panel_width * height / width + 0.3
    size = columns * panel_width + 1.3, rows * row_height + 0.35 + 0.2 * len(explanations)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    heading = [visible(video_path(explanations[0].video).name)] + [
        f"{_model_name(each)}: “{shorten(each.label)}” {each.score:.1%} "
        f"from {each.start:.2f} to {each.end:.2f} s"
        for each in explanations
    ]
    _write(figure.suptitle, "\n".join(heading), size=9)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    return figure, grid


def _write(place: Callable[..., object], text: str, size: int) -> None:
    """Write a title with a label or name in it, which may have any letters and is no formula."""
    place(text, size=size, parse_math=False, fontfamily=list(fonts_for(text)))


def _model_name(explanation: Explanation) -> str:
    """The name of the model; of a file with its folder, because the files of runs share a name."""
    return visible("/".join(Path(explanation.model).parts[-2:]))


def _frames_of_sheet(explanation: Explanation) -> list[int]:
    """Evenly spaced frames; the one nearest to the point's frame gives way to it."""
    frames = len(explanation.times)
    chosen = np.unique(np.linspace(0, frames - 1, min(SHEET_COLUMNS, frames)).round().astype(int))
    if explanation.point is not None:
        chosen[np.abs(chosen - explanation.point.frame).argmin()] = explanation.point.frame
    return chosen.tolist()
