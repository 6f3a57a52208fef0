"""A local web page that tells what people do in a video, and learns new actions: `actionrec app`.

Predict shows the best labels and the timeline as soon as they are known, then the heat map of the
clip that scores highest for the best label. It is Gradio's, and keeps uploads and results in one
temporary folder, half an hour at most and never longer than it runs. Uploads that are cut off are
deleted at once, and what a killed page left behind by the next one.

Teach, Review and Train (`actionrec.app.routes`) work on a project, a folder that stays.

The page is for this machine alone: it listens on 127.0.0.1, asks no other host for anything, and
answers no other page.
"""

import logging
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from actionrec.app.classroom import Classroom
from actionrec.app.fine_tuning import FineTuning
from actionrec.app.project import Project
from actionrec.app.service import TOP, Service
from actionrec.app.teacher import Teacher, teaching_base
from actionrec.errors import ActionrecError, UsageError
from actionrec.files import exclusive
from actionrec.models.registry import EngineName, PrecisionName
from actionrec.recognizer import Recognizer
from actionrec.signals import stop_requests

if TYPE_CHECKING:
    from gradio import Blocks
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
PREFIX = "actionrec-app-"
PROJECT = Path("my_actions")
# Gradio's other abilities: fetch addresses, edit the program, show its statistics.
REFUSED = re.compile(
    r"/(file=https?:|proxy=|vibe-|process_recording|run-history|monitoring|deep_link|dev/|openapi)",
    re.IGNORECASE,
)
# The browser asks no other host for anything, whatever Gradio's scripts contain.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'"


def serve(
    model: str,
    project: Path | None,
    port: int,
    max_seconds: float,
    max_megabytes: float,
    precision: PrecisionName,
    engine: EngineName,
    open_browser: bool,
) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C or SIGTERM; print its address when it is ready.

    The arguments are those of `actionrec.cli.app`.

    Raises:
        UsageError: Gradio is not installed.
        ActionrecError: the port is in use, or there is no such model.
    """
    if find_spec("gradio") is None:
        raise UsageError('The page needs Gradio; `pip install "actionrec[app]"`.')
    require_free(port)
    load = partial(Recognizer.load, precision=precision, topk=TOP, engine=engine)
    recognizer = load(model)
    remove_left_over()
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX) as folder,
        exclusive(Path(folder) / "page", "The page's folder is in use; start it again."),
        ExitStack() as teaching,
    ):
        confine_gradio(Path(folder))
        # Deferred, because Gradio reads its environment when it is imported.
        from actionrec.app.page import page

        room = None
        if recognizer.is_exported:
            logger.info("%s is an exported file, which predicts and can't be taught.", model)
        elif (opened := open_project(project, model, teaching)) is not None:
            room = classroom(opened, model, max_seconds, max_megabytes)
            teaching.callback(room.close)
        service = Service(recognizer, max_seconds, Path(folder), load)
        blocks = page(service, max_megabytes, room is not None)
        try:
            launch(blocks, room, port, max_megabytes, open_browser, Path(folder) / "files")
            if room is not None:
                room.start()
            print(f"http://{HOST}:{port}", flush=True)
            logger.info("%s is ready; Ctrl-C ends it.", model)
            stop = threading.Event()
            with stop_requests(on_request=lambda _: stop.set()):
                stop.wait()
        finally:
            blocks.close(verbose=False)
            service.close()


def open_project(folder: Path | None, model: str, stack: ExitStack) -> Project | None:
    """Open the project in a folder until `stack` is left. Where nobody has named one, the page does
    without if there is something else in the place of `PROJECT`, such as another page's project.

    Raises:
        ActionrecError: the named project can't be opened.
    """
    try:
        return stack.enter_context(Project.opened(folder or PROJECT, model))
    except ActionrecError as error:
        if folder is not None:
            raise
        logger.warning("This page only predicts: %s", error)
        return None


def classroom(project: Project, model: str, max_seconds: float, max_megabytes: float) -> Classroom:
    """What Teach, Review and Train show of a project."""
    teacher = Teacher(project, teaching_base(model))
    tuning = FineTuning(project, teacher, model)
    return Classroom(project, teacher, tuning, max_seconds, max_megabytes)


def require_free(port: int) -> None:
    """Raise ActionrecError, with the number of a free port, if this one can't be listened on."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        with socket.create_server((HOST, 0)) as free:
            advice = f"try --port {free.getsockname()[1]}"
        reason = os.strerror(error.errno)
        raise ActionrecError(f"Port {port} can't be listened on ({reason}); {advice}.") from error


def remove_left_over() -> None:
    """Delete the folders of pages that were killed: nobody holds their lock."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/.page.lock"):
        with suppress(ActionrecError, OSError), exclusive(lock.parent / "page", "in use"):
            shutil.rmtree(lock.parent, ignore_errors=True)


def confine_gradio(folder: Path) -> None:
    """Let Gradio write into `folder` only and send nothing to anyone, whatever the user's
    environment says."""
    for name, value in list(os.environ.items()):
        # A proxy of the kind SOCKS, which Gradio asks nobody through, stops its import.
        socks = name.lower().endswith("_proxy") and value.lower().startswith("socks")
        if name.startswith("GRADIO_") or socks:
            del os.environ[name]
    # Gradio calls itself once, which no proxy can do for it.
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder / "files"),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "no_proxy": f"{others},{HOST}" if others else HOST,
    }


def launch(
    blocks: "Blocks",
    room: Classroom | None,
    port: int,
    max_megabytes: float,
    open_browser: bool,
    uploads: Path,
) -> None:
    """Serve the page, to this machine alone; returns when it is ready.

    `uploads` is the folder where Gradio keeps uploads.
    """
    from gradio import processing_utils
    from gradio.themes import Default
    from starlette.middleware import Middleware

    from actionrec.app.routes import routes

    style, script = (
        Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
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
        app_kwargs={
            "middleware": [Middleware(OnlyThisPage, port=port, uploads=uploads)],
            "routes": routes(room) if room is not None else [],
        },
        # The default theme's fonts are files of Gradio's own.
        theme=Default(),
        css=style,
        head=f"<script>{script}</script>",
    )


async def refuse_address(url: str, cache_dir: str) -> NoReturn:
    """Replaces Gradio's download of addresses."""
    from gradio import Error

    raise Error("This page takes files, no addresses.", print_exception=False)


class OnlyThisPage:
    """Refuses requests that this page never makes: those of other pages, those under another name
    that leads to this machine (DNS rebinding), and those for Gradio's other abilities. Deletes
    uploads that are cut off."""

    def __init__(self, app: "ASGIApp", port: int, uploads: Path) -> None:
        self.app, self.uploads, self.uploading = app, uploads, 0
        self.hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.requests import ClientDisconnect
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

        if not scope["path"].endswith("/upload"):
            await self.app(scope, receive, send_policy)
            return
        # Nobody is left to hear of an upload that was cut off.
        with self.upload(), suppress(ClientDisconnect):
            await self.app(scope, receive, send_policy)

    @contextmanager
    def upload(self) -> Iterator[None]:
        """Delete, after an upload, what is cut off: Gradio moves a whole one into a folder."""
        self.uploading += 1
        try:
            yield
        finally:
            self.uploading -= 1
            if not self.uploading:
                for cut_off in filter(Path.is_file, self.uploads.glob("*")):
                    cut_off.unlink(missing_ok=True)
