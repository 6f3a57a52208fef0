"""A local web page to drop a video on, which then tells what people do in it: `actionrec app`.

The best labels and the timeline come as soon as they are known, then the heat map of the clip that
speaks most for the best label. The page is Gradio's, and for this machine alone: it listens on
127.0.0.1, asks nothing of any other host, answers no other page, and keeps uploads and results in
one temporary folder, half an hour at most and never longer than it runs.
"""

import html
import logging
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

import av
import numpy as np
import torch

from actionrec import load
from actionrec.config import PrecisionName
from actionrec.errors import ActionrecError, UsageError
from actionrec.explanation import Explanation, explain_video
from actionrec.models.inference import for_inference
from actionrec.models.recognizer import Recognizer
from actionrec.overlays import overlay
from actionrec.rendering import ENCODER_OPTIONS, frame_size
from actionrec.timeline import Timeline, count_windows, frames_of_hop, score_timeline
from actionrec.video.index import opened
from actionrec.video.reader import VideoError, VideoReader

if TYPE_CHECKING:
    from gradio import Blocks
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
TOP = 5  # labels shown
MIN_SCORE = 0.2  # as in `actionrec predict --timeline`
WAITING = 32  # videos in the queue
KEPT = 30 * 60  # seconds that uploads and results are kept
# Suffixes and codecs that every browser plays.
PLAYABLE = {(".mp4", "h264"), (".webm", "vp8"), (".webm", "vp9")}
# What Gradio can do beside this page: fetch addresses, edit the program, show its statistics.
REFUSED = re.compile(
    r"/(file=https?:|proxy=|vibe-|process_recording|run-history|monitoring|deep_link|dev/|openapi)",
    re.IGNORECASE,
)

# The browser shall ask no other host for anything, whatever Gradio's scripts contain.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'"


def serve(
    model: str,
    port: int,
    max_seconds: float,
    max_megabytes: float,
    precision: PrecisionName,
    open_browser: bool,
) -> None:
    """Show the page on 127.0.0.1 until Ctrl-C or SIGTERM; print its address when it is there.

    Args:
        model: A pretrained model's name or a model file.
        port: Where the page is served.
        max_seconds: Longer videos are refused.
        max_megabytes: Larger uploads are refused.
        precision: As of `for_inference`.
        open_browser: Open the page in the user's browser.

    Raises:
        UsageError: Gradio is not installed.
        ActionrecError: the port is in use, or there is no such model.
    """
    require_gradio()
    require_free(port)
    recognizer = for_inference(load(model), precision)
    with tempfile.TemporaryDirectory(prefix="actionrec-app-") as folder:
        keep_to_itself(Path(folder))
        service = Service(recognizer, model, max_seconds, Path(folder))
        blocks = page(service, max_megabytes)
        try:
            launch(blocks, port, max_megabytes, open_browser)
            print(f"http://{HOST}:{port}", flush=True)
            logger.info("%s is ready; Ctrl-C ends it.", model)
            wait_for_signal()
        finally:
            blocks.close(verbose=False)
            service.close()


def require_gradio() -> None:
    """Raise UsageError if Gradio is not there."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise UsageError('The page needs Gradio; `pip install "actionrec[app]"`.')


def require_free(port: int) -> None:
    """Raise ActionrecError, which names another port, if this one can't be listened on."""
    if not 1 <= port <= 65535:
        raise UsageError(f"--port {port} is not possible; it must be from 1 to 65535.")
    reason = _why_not(port)
    if reason is not None:
        later = (other for other in range(max(port, 1024) + 1, 65536) if _why_not(other) is None)
        advice = f"try --port {next(later, 8000)}"
        raise ActionrecError(f"Port {port} can't be listened on ({reason}); {advice}.")


def _why_not(port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.strerror
    return None


def keep_to_itself(folder: Path) -> None:
    """Have Gradio put its files into `folder` and send nothing to anyone, whatever the user's
    environment says."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "files")
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder / "examples")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Gradio calls itself once, which no proxy could do for it.
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = f"{others},{HOST}" if others else HOST


def wait_for_signal() -> None:
    """Return at Ctrl-C or SIGTERM; the second one stops at once."""
    asked = threading.Event()

    def ask(number: int, _: object) -> None:
        signal.signal(number, signal.default_int_handler)
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    asked.wait()


# What is computed


@dataclass(frozen=True)
class Progress:
    """What is being done, and which share of it is done; None if nobody knows."""

    words: str
    share: float | None


@dataclass(frozen=True)
class Playable:
    """The video in a form that browsers play; None as long as there is none."""

    video: Path | None


@dataclass(frozen=True)
class Scored:
    """The timeline of the video."""

    timeline: Timeline


@dataclass(frozen=True)
class Explained:
    """The heat map of a clip, over the clip as a video."""

    explanation: Explanation
    video: Path


Result = Progress | Playable | Scored | Explained


class Stop(Exception):
    """Nobody waits for the result any more."""


class Service:
    """Recognises one video after the other, in a thread of its own."""

    def __init__(
        self, recognizer: Recognizer, model: str, max_seconds: float, folder: Path
    ) -> None:
        self.recognizer, self.model = recognizer, model
        self.max_seconds, self.folder = max_seconds, folder
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.closed = threading.Event()

    def close(self) -> None:
        """Give up what is being computed, and return when nothing is."""
        self.closed.set()
        self.thread.shutdown(cancel_futures=True)

    def results(self, video: Path) -> Iterator[Result]:
        """What `recognise` tells of a video, as it comes; if the iterator is closed, the rest is
        not computed.

        The files of the results are deleted with the iterator.
        """
        told: SimpleQueue[Result] = SimpleQueue()
        unwanted = threading.Event()

        def tell(result: Result) -> None:
            if unwanted.is_set() or self.closed.is_set():
                raise Stop
            told.put(result)

        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            done = self.thread.submit(self.recognise, video, Path(folder), tell)
            try:
                while not (done.done() and told.empty()):
                    try:
                        result = told.get(timeout=0.1)
                    except Empty:
                        continue
                    if not isinstance(result, Progress) or told.empty():
                        yield result
                done.result()
            finally:
                unwanted.set()
                done.exception()

    def recognise(self, path: Path, folder: Path, tell: Callable[[Result], None]) -> None:
        """Score and explain a video; `tell` gets each result, whose files lie in `folder`.

        Raises:
            ActionrecError: the video can't be read or is too long.
        """
        video = VideoReader(path)
        if video.duration > self.max_seconds:
            raise ActionrecError(
                f"{path} lasts {clock_time(video.duration)}, longer than the "
                f"{clock_time(self.max_seconds)} that this page takes; cut it, or start "
                "`actionrec app` with more --max-seconds."
            )
        playable = plays_in_browsers(path)
        tell(Playable(path if playable else None))
        counting = CountingRecognizer(self.recognizer, video, tell)
        timeline = score_timeline(counting, path, self.model, topk=TOP, min_score=MIN_SCORE)
        tell(Scored(timeline))
        if not playable:
            convert(video, folder / "video.mp4", tell)
            tell(Playable(folder / "video.mp4"))
        tell(Progress(f"Looking for what speaks for “{timeline.top[0].label}”", None))
        explanation = explain_best_clip(self.recognizer, video, timeline)
        write_overlay(explanation, folder / "explanation.mp4")
        tell(Explained(explanation, folder / "explanation.mp4"))


class CountingRecognizer:
    """What `score_timeline` needs of a recognizer, which tells how many clips it has scored."""

    def __init__(
        self, recognizer: Recognizer, video: VideoReader, tell: Callable[[Result], None]
    ) -> None:
        self.recognizer, self.config, self.tell = recognizer, recognizer.config, tell
        sampling = recognizer.config.sampling.at(video.fps)
        hop = frames_of_hop(None, sampling, video.fps)
        self.scored, self.clips = 0, count_windows(len(video), sampling.span, hop)
        self._tell()

    def scores(self, clips: torch.Tensor) -> torch.Tensor:
        """As of `Recognizer`."""
        scores = self.recognizer.scores(clips)
        self.scored += len(clips)
        self._tell()
        return scores

    def _tell(self) -> None:
        words = f"Clip {min(self.scored + 1, self.clips)} of {self.clips}"
        self.tell(Progress(words, self.scored / self.clips))


def explain_best_clip(
    recognizer: Recognizer, video: VideoReader, timeline: Timeline
) -> Explanation:
    """Explain the best label of the video in the clip of the timeline where it scores highest."""
    label = timeline.top[0].label
    scores = [
        next((entry.score for entry in clip.top if entry.label == label), 0.0)
        for clip in timeline.clips
    ]
    sampling = recognizer.config.sampling.at(video.fps)
    hop = frames_of_hop(None, sampling, video.fps)
    starts = [clip[0] for clip in sampling.sliding(len(video), hop)]
    start = starts[int(np.argmax(scores))] / video.fps
    return explain_video(recognizer, video.path, label=label, start=start)


# Videos that browsers play


def plays_in_browsers(path: Path) -> bool:
    """Whether every browser plays a video file as it is."""
    with opened(path) as (_, stream):
        codec = stream.codec_context
        return (path.suffix.lower(), codec.name) in PLAYABLE and codec.pix_fmt == "yuv420p"


def convert(video: VideoReader, path: Path, tell: Callable[[Result], None]) -> None:
    """Write the pictures of a video, upright and at their times, as an MP4 that browsers play.

    Damage in the middle of the file ends it early.
    """
    crop, size = frame_size(video.size)
    clock = video.clock()
    pictures = video.stream(([index] for index in range(len(video))), size, crop)

    def timed() -> Iterator[tuple[float, np.ndarray]]:
        try:
            for index, [picture] in enumerate(pictures):
                if index % 25 == 0:
                    words = "Converting the video into one that browsers play"
                    tell(Progress(words, index / len(video)))
                yield clock(index), picture
        except VideoError as error:
            logger.info("%s", error)

    write_mp4(path, size, video.fps, timed())


def write_overlay(explanation: Explanation, path: Path) -> None:
    """Write the clip of an explanation, at its rate, with the heat map over it and, for an
    affinity, a ring around the point at its time."""
    from PIL import Image, ImageDraw

    height, width = (side // 2 * 2 for side in explanation.frames.shape[1:3])
    point, factor = explanation.point, explanation.frames.shape[1] / explanation.size[0]

    def pictures() -> Iterator[tuple[float, np.ndarray]]:
        for index in range(len(explanation.frames)):
            image = Image.fromarray(overlay(explanation, explanation.maps[0], index))
            if point is not None and index in point.frames:
                place = (point.x + 0.5) * factor, (point.y + 0.5) * factor
                ImageDraw.Draw(image).circle(place, height // 24, outline="white", width=3)
            yield index / explanation.fps, np.asarray(image)[:height, :width]

    write_mp4(path, (height, width), explanation.fps, pictures())


def write_mp4(
    path: Path,
    size: tuple[int, int],
    fps: float,
    pictures: Iterable[tuple[float, np.ndarray]],
) -> None:
    """Write pictures, uint8 RGB of `size` (height, width), at their seconds as H.264."""
    unit = Fraction(1, 90_000)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        rate = Fraction(fps).limit_denominator(100_000)
        stream = file.add_stream("libx264", rate=rate, options=ENCODER_OPTIONS)
        stream.height, stream.width = size
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", unit
        for seconds, picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(seconds / float(unit)), unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


# The page


def page(service: Service, max_megabytes: float) -> "Blocks":
    """The page: one column, a video above, what is known of it below."""
    import gradio as gr

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


def launch(blocks: "Blocks", port: int, max_megabytes: float, open_browser: bool) -> None:
    """Serve the page, to this machine alone; returns when it is there."""
    from gradio import processing_utils
    from gradio.themes import Default
    from starlette.middleware import Middleware

    # In the place of an upload Gradio takes an address, too, and fetches it.
    processing_utils.async_ssrf_protected_download = refuse_address
    blocks.launch(
        server_name=HOST,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        enable_monitoring=False,
        run_history=False,
        mcp_server=False,
        ssr_mode=False,
        footer_links=[],
        max_file_size=int(max_megabytes * 1e6),
        app_kwargs={"middleware": [Middleware(OnlyThisPage, port=port)]},
        # Its fonts are files of Gradio's own.
        theme=Default(),
        css=CSS,
        head=SCRIPT,
    )


async def refuse_address(url: str, cache_dir: str) -> NoReturn:
    """Stands in for what Gradio fetches addresses with."""
    from gradio import Error

    raise Error("This page takes files, no addresses.", print_exception=False)


class OnlyThisPage:
    """Refuses requests that this page never makes: those of pages from elsewhere, those under
    another name that leads to this machine (DNS rebinding), and what Gradio offers beside."""

    def __init__(self, app: "ASGIApp", port: int) -> None:
        self.app = app
        self.hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host"), headers.get("origin")
            foreign = host not in self.hosts or origin not in (None, f"http://{host}")
            if foreign or REFUSED.search(scope["path"]):
                await PlainTextResponse("Not here.", 403)(scope, receive, send)
                return

        async def send_policy(message: "Message") -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        await self.app(scope, receive, send_policy)


# What is written on the page


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
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

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


def clock_time(seconds: float, digits: int = 0) -> str:
    """Such as 1:02, or 1:02.5."""
    units = round(seconds * 10**digits)
    minutes, rest = divmod(units, 60 * 10**digits)
    return f"{minutes}:{rest / 10**digits:0{2 + (digits and digits + 1)}.{digits}f}"


HEADING = (
    "<h1>What are they doing?</h1><p>Drop a video, or record one. It stays on this machine.</p>"
)

CSS = """
.gradio-container { width: 100%; max-width: 760px !important; margin: 0 auto !important; }
.html-container { padding: 0 !important; }
h1 { font-size: 1.7rem !important; margin: 0.6rem 0 0.2rem !important; }
h3 { margin: 0.6rem 0 0.2rem !important; }
#status { min-height: 2.6rem; }
#status .generating { display: none; }
#status label { display: block; }
#status progress { display: block; width: 100%; height: 0.5rem; margin-top: 0.4rem; border: 0;
  border-radius: 1rem; overflow: hidden; appearance: none; background: #8883; }
#status progress::-webkit-progress-bar { background: transparent; }
#status progress::-webkit-progress-value { background: var(--color-accent); }
#status progress::-moz-progress-bar { background: var(--color-accent); }
#status progress:indeterminate { background: linear-gradient(90deg, #8883 30%,
  var(--color-accent) 50%, #8883 70%) 0 0 / 200% 100%; animation: onward 1.5s linear infinite; }
#status progress:indeterminate::-moz-progress-bar { background: transparent; }
@keyframes onward { from { background-position: 100% 0; } to { background-position: -100% 0; } }
#status p { padding: 0.7rem 1rem; border-left: 4px solid #d62728; margin: 0;
  background: var(--background-fill-secondary); overflow-wrap: anywhere; }
/* Gradio may lose what it is told of a part that it has not drawn: parts without content are drawn,
   and hidden here. */
#known:not(:has(.strip, p)), #explained:not(:has(h3)) { display: none; }
#player video, #explanation video { max-height: 56vh; }
#timeline .strip { position: relative; height: 2.4rem; border-radius: 6px; overflow: hidden;
  background: var(--border-color-primary); }
#timeline .strip button { position: absolute; top: 0; bottom: 0; padding: 0 0.4rem; color: white;
  overflow: hidden; white-space: nowrap; text-overflow: ellipsis; text-align: left;
  font-weight: 600; font-size: 0.85rem; border-right: 1px solid white; }
#timeline .strip hr { position: absolute; top: 0; bottom: 0; left: 0; width: 2px; height: auto;
  margin: 0; border: 0; background: white; box-shadow: 0 0 3px black; pointer-events: none; }
#timeline .segments { max-height: 14rem; overflow-y: auto; margin-top: 0.4rem; }
#timeline .segments button { display: grid; grid-template-columns: 1rem 1fr auto 3rem;
  gap: 0.6rem; width: 100%; padding: 0.3rem 0.2rem; text-align: left; align-items: center;
  background: none; font-weight: 400; font-size: 1rem; color: inherit; border-radius: 4px; }
#timeline .segments button:hover { background: var(--background-fill-secondary); }
#timeline .segments i { width: 0.9rem; height: 0.9rem; border-radius: 3px; }
#timeline .segments span { text-align: right; font-variant-numeric: tabular-nums; }
"""

# A click on a segment plays it, a line in the strip shows where the player is, and the segments are
# the player's subtitles.
SCRIPT = """
<script>
const player = () => document.querySelector("#player video");
const strip = () => document.querySelector("#timeline .strip");
document.addEventListener("click", (event) => {
  const segment = event.target.closest("[data-start]"), video = player();
  if (segment && video) { video.currentTime = Number(segment.dataset.start) + 0.001; video.play(); }
});
document.addEventListener("timeupdate", (event) => {
  if (event.target !== player() || !strip()) return;
  const share = event.target.currentTime / Number(strip().dataset.length);
  strip().querySelector("hr").style.left = `${100 * Math.min(share, 1)}%`;
}, true);
const subtitle = () => {
  const video = player(), segments = strip();
  if (!video || !segments || segments.player === video) return;
  segments.player = video;
  // Beside the track that Gradio makes, which is emptied when it finds no file.
  const track = video.actions ??= video.addTextTrack("subtitles");
  track.mode = "showing";
  while (track.cues.length) track.removeCue(track.cues[0]);
  for (const { dataset, textContent } of segments.querySelectorAll("button")) {
    const words = document.createElement("p");
    words.textContent = `${textContent} (${dataset.score})`;
    track.addCue(new VTTCue(Number(dataset.start), Number(dataset.end), words.innerHTML));
  }
};
// Either may come first.
new MutationObserver(subtitle).observe(document, { childList: true, subtree: true });
// The preview of an upload that browsers don't play: Gradio would complain.
document.addEventListener("error", (event) => {
  if (event.target.closest?.("#upload")) event.stopImmediatePropagation();
}, true);
</script>
"""
