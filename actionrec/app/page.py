"""The page: one column, a video above, its labels, timeline and heat map below.

The HTML of the results is in page.html, the style in page.css; page.js keeps player, subtitles and
timeline in step.
"""

import logging
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from matplotlib import colormaps
from matplotlib.colors import to_hex

from actionrec.app.service import TOP, Playable, Progress, Result, Service
from actionrec.errors import ActionrecError
from actionrec.explanation.heat_maps import Explanation
from actionrec.models.catalogue import list_weights
from actionrec.prediction.timeline import Segment, Timeline
from actionrec.text import clock_time

logger = logging.getLogger(__name__)

WAITING = 32  # videos in the queue
KEPT = 30 * 60  # seconds that uploads and results are kept
NAVIGATION = (
    '<nav aria-label="Pages"><a href="/" aria-current="page">Predict</a><a href="/teach">Teach</a>'
    '<a href="/review">Review</a><a href="/train">Train</a></nav>'
)
HEADING = (
    "<h1>What are they doing?</h1><p>Drop a video, or record one. It stays on this machine.</p>"
)


def plain_text(value: object) -> Markup:
    """A value as text to HTML and to Gradio, which would run `${...}` as a template of its own."""
    return Markup(str(escape(value)).translate({ord(c): f"&#{ord(c)};" for c in "${}`"}))


def times(part: Segment | Explanation, between: str = " – ") -> str:
    """Start and end of a part of the video."""
    return f"{clock_time(part.start, 1)}{between}{clock_time(part.end, 1)}"


environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=plain_text
)
environment.filters |= {"times": times, "percent": "{:.0%}".format}
html: Any = environment.get_template("page.html").module


def page(service: Service, max_megabytes: float, teaches: bool) -> gr.Blocks:
    """The page, which asks `service` for the results of every video; `teaches` adds the way to the
    pages of a project."""
    with gr.Blocks(title="actionrec", analytics_enabled=False, delete_cache=(60, KEPT)) as blocks:
        gr.HTML((NAVIGATION if teaches else "") + HEADING)
        status = gr.HTML(elem_id="status")
        upload = gr.Video(
            label=f"A video of at most {clock_time(service.max_seconds)} min and "
            f"{max_megabytes:g} MB",
            sources=["upload", "webcam"],
            elem_id="upload",
        )
        model = gr.Dropdown(
            models(service.recognizer.name), value=service.recognizer.name, label="Model"
        )
        silent = {"show_label": False, "interactive": False, "buttons": []}
        player = gr.Video(elem_id="player", **silent)
        with gr.Column(elem_id="known"):
            strip = gr.HTML(elem_id="timeline")
            labels = gr.Label(label="The whole video", elem_id="labels", num_top_classes=TOP)
        with gr.Column(elem_id="explained"):
            caption = gr.HTML()
            heat = gr.Video(autoplay=True, loop=True, elem_id="explanation", **silent)
        another = gr.Button("Another video", visible=False, variant="primary")

        def shown(result: Result) -> dict[Any, Any]:
            if isinstance(result, Progress):
                return {status: html.progress_bar(result)}
            if isinstance(result, Playable):
                return {
                    upload: gr.update(visible=False),
                    player: result.video,
                }
            if isinstance(result, Timeline):
                return {
                    strip: html.timeline(result, colours(result), lanes(result)),
                    labels: {entry.label: entry.score for entry in result.top},
                }
            return {caption: html.caption(result.explanation), heat: result.video}

        def recognise(video: str | None, model: str | None = None) -> Iterator[dict[Any, Any]]:
            if video is None:
                return
            timeline = problem = None
            try:
                if not Path(video).is_file():
                    raise ActionrecError(
                        f"{video} waited too long and was deleted; upload it again."
                    )
                os.utime(video)  # Now it is kept as long again.
                for result in service.results(Path(video), model):
                    timeline = result if isinstance(result, Timeline) else timeline
                    yield shown(result)
                problem = timeline.incomplete
            except ActionrecError as error:
                problem = str(error)
            except Exception:
                logger.exception("%s could not be recognised", video)
                problem = f"{video} could not be recognised; the terminal says why."
            # Gradio's name of an upload has a folder that the user has never seen.
            sentence = html.problem(problem.replace(video, Path(video).name)) if problem else ""
            # Results that are on the page already stay.
            rest = {another: gr.update(visible=True)} if timeline else reset()
            yield rest | {status: sentence}

        def reset() -> dict[Any, Any]:
            return {
                status: "",
                upload: gr.update(value=None, visible=True),
                player: None,
                strip: "",
                caption: "",
                heat: None,
                another: gr.update(visible=False),
            }

        outputs = [status, upload, player, strip, labels, caption, heat, another]
        gr.on(
            [upload.upload, upload.stop_recording],
            recognise,
            [upload, model],
            outputs,
            api_name="recognise",
            show_progress_on=status,
            concurrency_limit=1,
        )
        another.click(reset, None, outputs, queue=False, api_visibility="private")
    return blocks.queue(max_size=WAITING, api_open=False)


def models(own: str) -> list[tuple[str, str]]:
    """The models to choose from, in words and by name: the page's `own`, then the catalogue."""
    listed = {
        row["name"]: row["name"] + ("" if row["cached"] else ", is downloaded first")
        for row in list_weights()
    }
    return [(words, name) for name, words in ({own: own} | listed).items()]


def lanes(timeline: Timeline) -> dict[str, int]:
    """The lane of the strip, from 0, for each label: one for all, unless segments overlap."""
    names = list(dict.fromkeys(segment.label for segment in timeline.segments))
    overlap = any(after.start < before.end for before, after in pairwise(timeline.segments))
    return {name: number if overlap else 0 for number, name in enumerate(names)}


def colours(timeline: Timeline) -> dict[str, str]:
    """A colour for each label, in the order in which they come up."""
    names = dict.fromkeys(segment.label for segment in timeline.segments)
    palette = colormaps["tab10"].colors
    return {name: to_hex(palette[n % len(palette)]) for n, name in enumerate(names)}
