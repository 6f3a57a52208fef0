"""The page itself: one column, a video above, what is known of it below.

Its looks are in page.css; in page.js player, subtitles and timeline follow each other.
"""

import html
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from matplotlib import colormaps
from matplotlib.colors import to_hex

from actionrec.app.service import (
    MIN_SCORE,
    TOP,
    Playable,
    Progress,
    Result,
    Scored,
    Service,
)
from actionrec.errors import ActionrecError
from actionrec.explanation.heat_maps import Explanation
from actionrec.prediction.timeline import Timeline
from actionrec.text import clock_time

logger = logging.getLogger(__name__)

WAITING = 32  # videos in the queue
KEPT = 30 * 60  # seconds that uploads and results are kept
HEADING = (
    "<h1>What are they doing?</h1><p>Drop a video, or record one. It stays on this machine.</p>"
)


def page(service: Service, max_megabytes: float) -> gr.Blocks:
    """The page: one column, a video above, what is known of it below."""
    with gr.Blocks(title="actionrec", analytics_enabled=False, delete_cache=(60, KEPT)) as blocks:
        gr.HTML(HEADING)
        status = gr.HTML(elem_id="status")
        upload = gr.Video(
            label=f"A video of at most {clock_time(service.max_seconds)} min and "
            f"{max_megabytes:g} MB",
            sources=["upload", "webcam"],
            elem_id="upload",
        )
        player = gr.Video(
            show_label=False, interactive=False, visible=False, elem_id="player", buttons=[]
        )
        with gr.Column(elem_id="known"):
            strip = gr.HTML(elem_id="timeline")
            labels = gr.Label(label="The whole video", elem_id="labels", num_top_classes=TOP)
        with gr.Column(elem_id="explained"):
            caption = gr.HTML()
            heat = gr.Video(
                show_label=False,
                interactive=False,
                autoplay=True,
                loop=True,
                elem_id="explanation",
                buttons=[],
            )
        another = gr.Button("Another video", visible=False, variant="primary")

        def shown(result: Result) -> dict[Any, Any]:
            if isinstance(result, Progress):
                return {status: progress_bar(result)}
            if isinstance(result, Playable):
                return {
                    upload: gr.update(visible=False),
                    player: gr.update(value=result.video, visible=result.video is not None),
                }
            if isinstance(result, Scored):
                return {
                    strip: timeline_picture(result.timeline),
                    labels: {entry.label: entry.score for entry in result.timeline.top},
                }
            return {
                caption: explanation_caption(result.explanation),
                heat: result.video,
            }

        def recognise(video: str | None) -> Iterator[dict[Any, Any]]:
            if video is None:
                return
            scored = None
            try:
                if not Path(video).is_file():
                    raise ActionrecError(
                        f"{video} waited too long and was deleted; upload it again."
                    )
                os.utime(video)  # Now it is kept as long again.
                for result in service.results(Path(video)):
                    scored = result if isinstance(result, Scored) else scored
                    yield shown(result)
                sentence = scored.timeline.incomplete and named(scored.timeline.incomplete, video)
            except ActionrecError as error:
                sentence = named(str(error), video)
            except Exception:
                logger.exception("%s could not be recognised", video)
                sentence = f"{Path(video).name} could not be recognised; the terminal says why."
            # What is known already stays.
            rest = {another: gr.update(visible=True)} if scored else reset()
            yield rest | {status: problem(sentence) if sentence else ""}

        def reset() -> dict[Any, Any]:
            return {
                status: "",
                upload: gr.update(value=None, visible=True),
                player: gr.update(value=None, visible=False),
                strip: "",
                caption: "",
                heat: None,
                another: gr.update(visible=False),
            }

        outputs = [status, upload, player, strip, labels, caption, heat, another]
        gr.on(
            [upload.upload, upload.stop_recording],
            recognise,
            upload,
            outputs,
            api_name="recognise",
            show_progress_on=status,
            concurrency_limit=1,
        )
        another.click(reset, None, outputs, queue=False, api_visibility="private")
    return blocks.queue(max_size=WAITING, api_open=False)


def text(words: str) -> str:
    """Words from a file or a model as HTML, in which neither HTML nor Gradio's templates see more
    than words."""
    for character in "${}`":
        words = words.replace(character, f"\0{ord(character)};")
    return html.escape(words).replace("\0", "&#")


def named(sentence: str, video: str) -> str:
    """A sentence about a file by the name that the user gave it."""
    return sentence.replace(video, Path(video).name)


def progress_bar(progress: Progress) -> str:
    """What is being done."""
    value = "" if progress.share is None else f' value="{progress.share:.3f}"'
    return f"<label>{text(progress.words)} …<progress{value}></progress></label>"


def problem(sentence: str) -> str:
    """What went wrong."""
    return f'<p role="alert">{text(sentence)}</p>'


def timeline_picture(timeline: Timeline) -> str:
    """The segments as a coloured strip and as a list; a click on one plays it."""
    if not timeline.segments:
        return f"<p>No action scores {MIN_SCORE:.0%} at any time; below are the best guesses.</p>"
    names = list(dict.fromkeys(segment.label for segment in timeline.segments))
    palette = colormaps["tab10"].colors
    colours = {name: to_hex(palette[n % len(palette)]) for n, name in enumerate(names)}
    length = max(timeline.duration, 1e-9)
    blocks, rows = [], []
    for segment in timeline.segments:
        left, right = segment.start / length, segment.end / length
        score = f"{segment.score:.0%}"
        seek = f'data-start="{segment.start}"'
        label = text(segment.label)
        times = f"{clock_time(segment.start, 1)} – {clock_time(segment.end, 1)}"
        blocks.append(
            f'<button {seek} data-end="{segment.end}" data-score="{score}" '
            f'title="{label}, {times}" style="left:{left:.4%};'
            f'width:{right - left:.4%};background:{colours[segment.label]}">{label}</button>'
        )
        rows.append(
            f'<button {seek}><i style="background:{colours[segment.label]}"></i><b>{label}</b>'
            f"<span>{times}</span><span>{score}</span></button>"
        )
    return (
        f'<div class="strip" data-length="{length}">{"".join(blocks)}<hr></div>'
        f'<div class="segments">{"".join(rows)}</div>'
    )


def explanation_caption(explanation: Explanation) -> str:
    """What the heat map shows."""
    label = f"<b>{text(explanation.label)}</b>"
    clip = (
        f"the clip from {clock_time(explanation.start, 1)} to {clock_time(explanation.end, 1)}, "
        f"which scores {explanation.score:.0%}"
    )
    if explanation.method == "affinity":
        shown = (
            "Red is where the network's nonlocal block takes features from for the point in the "
            f"ring, in {clip}."
        )
    else:
        shown = f"Red is what speaks most for it in {clip}."
    return f"<h3>Why {label}?</h3><p>{shown} The dark rim is not looked at.</p>"
