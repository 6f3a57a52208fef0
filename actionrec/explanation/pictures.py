"""Pictures of explanations: `actionrec explain video.mp4` writes a PNG sheet and an MP4.

The sheet shows some frames of the clip and each heat map over them, the MP4 all frames at their
rate. A heat map has one scale for the whole clip, on a colour bar. What the network does not see
of a frame is dark; a ring marks the point whose row of the affinity is shown, at its time.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import track

from actionrec.errors import UsageError
from actionrec.explanation.heat_maps import Explanation, HeatMap
from actionrec.files import replacing
from actionrec.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

DPI = 120
SHEET_COLUMNS = 6
SHEET_PANEL, VIDEO_PANEL = 2.2, 4.0  # inches; the width of a frame
# How much of the picture the colour covers where the heat map is lowest and highest.
OPACITY = (0.1, 0.75)
OUTSIDE = 0.35  # brightness


def picture_paths(output: str | Path, video: str | Path) -> list[Path]:
    """The files to write: `output` where it ends in .png or .mp4, else one of each in the folder
    `output`, called after the video.

    Raises:
        UsageError: a file is there already, or `output` has another suffix.
    """
    output = Path(output)
    if output.suffix.lower() in WRITERS:
        paths = [output]
    elif output.is_file() or (output.suffix and not output.is_dir()):
        raise UsageError(f"{output} must end in .png (a sheet) or .mp4 (a video), or be a folder.")
    else:
        paths = [output / f"{Path(video).stem}_explanation{suffix}" for suffix in WRITERS]
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} exists already; choose another --output or remove it.")
    return paths


def write_picture(explanations: Sequence[Explanation], path: Path) -> None:
    """Write the sheet or the video, by the suffix of `path`.

    Raises:
        ActionrecError: the file can't be written.
    """
    WRITERS[path.suffix.lower()](explanations, path)


def write_sheet(explanations: Sequence[Explanation], path: str | Path) -> None:
    """Write a PNG sheet of one or more explanations, below each other.

    Raises:
        ActionrecError: the file can't be written.
    """
    with replacing(Path(path)) as temporary:
        sheet(explanations).savefig(temporary)


def sheet(explanations: Sequence[Explanation]) -> "Figure":
    """Frames of the clip in columns; each explanation has a row of them and one a heat map."""
    rows = [(e, heat_map) for e in explanations for heat_map in (None, *e.maps)]
    chosen = {id(e): _chosen_frames(e) for e in explanations}
    columns = max(map(len, chosen.values()))
    figure, grid = _grid(explanations, len(rows), columns, SHEET_PANEL)
    for (explanation, heat_map), panels in zip(rows, grid, strict=True):
        for panel, index in zip(panels, chosen[id(explanation)], strict=False):
            panel.imshow(overlay(explanation, heat_map, index))
            _ring(panel, explanation, index)
            if heat_map is None:
                panel.set_title(f"{explanation.times[index]:.2f} s", size=8)
        if heat_map is None:
            panels[0].set_ylabel(_model_name(explanation), size=8, parse_math=False)
        else:
            panels[0].set_ylabel(heat_map.title.replace(" before", "\nbefore"), size=7)
            bar = figure.colorbar(_scale(heat_map), ax=list(panels), pad=0.01, aspect=12)
            _label(bar, heat_map)
    return figure


def write_video(explanations: Sequence[Explanation], path: str | Path) -> None:
    """Write an MP4 (H.264, 4:2:0, which browsers play) of the clip at its rate: a row for each
    explanation, with the frame on the left and its heat maps beside it.

    A second explanation shows the frame of its own clip that is nearest in time.

    Raises:
        ActionrecError: the file can't be written.
    """
    import av
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    columns = 1 + max(len(e.maps) for e in explanations)
    figure, grid = _grid(explanations, len(explanations), columns, VIDEO_PANEL)
    shown = []
    for explanation, panels in zip(explanations, grid, strict=True):
        panels[0].set_ylabel(_model_name(explanation), size=8, parse_math=False)
        for panel, heat_map in zip(panels, (None, *explanation.maps), strict=False):
            image = panel.imshow(overlay(explanation, heat_map, 0))
            ring = _ring(panel, explanation, 0)
            title = "" if heat_map is None else heat_map.title
            shown.append((explanation, heat_map, image, ring, panel.set_title(title, size=8)))
            if heat_map is not None:
                bar = figure.colorbar(_scale(heat_map), ax=panel, location="bottom", pad=0.02)
                _label(bar, heat_map)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Laid out once: it takes most of the time, and nothing shall jump.
    figure.set_layout_engine("none")
    first = explanations[0]
    with replacing(Path(path)) as temporary, av.open(str(temporary), "w", format="mp4") as file:
        # The index in front: a browser begins before it has everything.
        file.options["movflags"] = "+faststart"
        rate = Fraction(first.fps).limit_denominator(1001)
        stream = file.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.pix_fmt = "yuv420p"
        # 4:2:0 has a colour for every two rows and columns.
        stream.width, stream.height = (side // 2 * 2 for side in canvas.get_width_height())
        for seconds in track(first.times, "writing the video", console=Console(stderr=True)):
            for explanation, heat_map, image, ring, title in shown:
                index = int(np.abs(explanation.times - seconds).argmin())
                image.set_data(overlay(explanation, heat_map, index))
                if heat_map is None:
                    title.set_text(f"{explanation.times[index]:.2f} s")
                if ring is not None:
                    ring.set_visible(index in explanation.point.frames)
            canvas.draw()
            picture = np.asarray(canvas.buffer_rgba())[: stream.height, : stream.width, :3]
            picture = np.ascontiguousarray(picture)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


WRITERS = {".png": write_sheet, ".mp4": write_video}


def overlay(explanation: Explanation, heat_map: HeatMap | None, index: int) -> np.ndarray:
    """Frame `index` of the clip as uint8 (H, W, 3), with a heat map over it in colour and itself
    in grey, or without one as it is; darker where the network does not look."""
    frame = explanation.frames[index].astype(np.float32)
    top, left, height, width = explanation.seen
    outside = np.ones(frame.shape[:2], dtype=bool)
    outside[top : top + height, left : left + width] = False
    if heat_map is not None:
        scale = _scale(heat_map)
        heat = np.nan_to_num(heat_map.over_frames[index], nan=scale.norm.vmin)
        colours = 255 * scale.to_rgba(heat)[..., :3]
        share = np.asarray(scale.norm(heat))
        if _signed(heat_map):
            share = np.abs(2 * share - 1)
        least, most = OPACITY
        opacity = (least + (most - least) * share)[..., None]
        grey = frame.mean(axis=2, keepdims=True)
        frame = np.where(outside[..., None], grey, grey + opacity * (colours - grey))
    frame[outside] *= OUTSIDE
    return frame.clip(0, 255).astype(np.uint8)


def _scale(heat_map: HeatMap) -> "ScalarMappable":
    """Colours for the numbers of a heat map: from the lowest to the highest, or, where some are
    negative, blue and red around 0."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    least, most = float(heat_map.values.min()), float(heat_map.values.max())
    if _signed(heat_map):
        most = max(-least, most)
        return ScalarMappable(Normalize(-most, most), "RdBu_r")
    return ScalarMappable(Normalize(least, most), "turbo")


def _signed(heat_map: HeatMap) -> bool:
    return bool(heat_map.values.min() < 0)


def _grid(
    explanations: Sequence[Explanation], rows: int, columns: int, panel_width: float
) -> tuple["Figure", np.ndarray]:
    """A figure with a heading and panels (rows, columns) that have the shape of a frame."""
    from matplotlib.figure import Figure

    height, width = explanations[0].frames.shape[1:3]
    panel_height = panel_width * height / width
    extra = 0.35 + 0.2 * len(explanations), 1.3
    size = columns * panel_width + extra[1], rows * (panel_height + 0.3) + extra[0]
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    heading = [Path(explanations[0].video).name, *map(_heading, explanations)]
    figure.suptitle("\n".join(heading), size=9, parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for panel in grid.flat:
        panel.set(xticks=[], yticks=[])
        panel.set_frame_on(False)
    return figure, grid


def _heading(explanation: Explanation) -> str:
    return (
        f"{_model_name(explanation)}: “{shorten(explanation.label)}” {explanation.score:.1%} "
        f"from {explanation.start:.2f} to {explanation.end:.2f} s"
    )


def _model_name(explanation: Explanation) -> str:
    """The name of the model; of a file, its last folder too, since all are called alike."""
    return "/".join(Path(explanation.model).parts[-2:])


def _label(bar: "Colorbar", heat_map: HeatMap) -> None:
    bar.set_label(heat_map.quantity, size=7)
    bar.ax.tick_params(labelsize=7)
    bar.formatter.set_powerlimits((-2, 4))
    bar.update_ticks()
    for axis in (bar.ax.xaxis, bar.ax.yaxis):
        axis.get_offset_text().set_size(7)


def _chosen_frames(explanation: Explanation) -> list[int]:
    """Frames for the sheet, evenly spread; the one nearest to the point gives way to its."""
    frames = len(explanation.times)
    chosen = np.unique(np.linspace(0, frames - 1, min(SHEET_COLUMNS, frames)).round().astype(int))
    if explanation.point is not None:
        chosen[np.abs(chosen - explanation.point.frame).argmin()] = explanation.point.frame
    return chosen.tolist()


def _ring(panel: "Axes", explanation: Explanation, index: int) -> "Line2D | None":
    """Draw the point, visible at its time only."""
    if explanation.point is None:
        return None
    factor = explanation.frames.shape[1] / explanation.size[0]
    [ring] = panel.plot(
        (explanation.point.x + 0.5) * factor - 0.5,
        (explanation.point.y + 0.5) * factor - 0.5,
        "o",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor="white",
        markeredgewidth=1.8,
        visible=index in explanation.point.frames,
    )
    return ring
