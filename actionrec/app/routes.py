"""The addresses below /project: what Teach, Review and Train of the page ask for, as JSON.

A refusal is {"error": sentence}: 400 for what can't be done, 404 for what isn't there, 409 where
somebody else was first, 413 for a file that is too large.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from actionrec.app.classroom import Classroom, TooLarge
from actionrec.app.previews import Preview, strip_of
from actionrec.app.project import Conflict, require_name
from actionrec.errors import ActionrecError
from actionrec.text import json_text

MEDIA_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}
PAGES = ("teach", "review", "train")


def routes(room: Classroom) -> list[Route]:
    """The addresses of a project."""

    def answering(
        act: Callable[[dict[str, Any]], Any],
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that calls `act` with the JSON of the request."""

        async def endpoint(request: Request) -> Response:
            try:
                values = await request.json() if await request.body() else {}
                if not isinstance(values, dict):
                    raise ValueError
            except ValueError:
                return refusal(ActionrecError("The request is no JSON object."))
            try:
                answer = await run_in_threadpool(act, values)
            except KeyError as error:
                return refusal(ActionrecError(f"The request lacks {error}."))
            except ActionrecError as error:
                return refusal(error)
            return JSONResponse({} if answer is None else answer)

        return endpoint

    async def describe(request: Request) -> Response:
        # A run's figures grow without a word to the page.
        if request.query_params.get("seen") == str(room.state) and not room.tuning.is_busy:
            return Response(status_code=204)
        return JSONResponse(await run_in_threadpool(room.describe))

    async def receive(request: Request, folder: str) -> tuple[Path, str]:
        announced = int(request.headers.get("content-length") or 0)
        return await room.receive(request.stream(), announced, room.folder / folder)

    async def upload(request: Request) -> Response:
        name, label, group = (request.query_params.get(x, "") for x in ("name", "label", "group"))
        try:
            # Before a long upload.
            for given, what in ((label, "class"), (group, "group")):
                if given:
                    require_name(given, what)
            received = await receive(request, "videos")
            path, new = await run_in_threadpool(room.add_video, *received, name, label, group)
            return JSONResponse({"path": path, "new": new})
        except ClientDisconnect:
            return Response(status_code=400)
        except ActionrecError as error:
            return refusal(error)

    async def try_it(request: Request) -> Response:
        """Name the action in a video of the project, or in one that is sent and not kept."""
        received = None
        try:
            if chosen := request.query_params.get("path"):
                if chosen not in room.project.videos():
                    raise ActionrecError(f"{chosen} is no video of the project.")
                video = room.folder / chosen
            else:
                received, _ = await receive(request, "previews")
                video = received
            prediction = await run_in_threadpool(room.teacher.predict, video)
            shown = chosen or request.query_params.get("name", "a video")
            prediction = replace(prediction, video=shown)
            return Response(json_text(asdict(prediction)), media_type="application/json")
        except ActionrecError as error:
            sentence = str(error)
            if received is not None:
                sentence = sentence.replace(str(received), request.query_params.get("name", "It"))
            return refusal(ActionrecError(sentence))
        finally:
            if received is not None:
                received.unlink(missing_ok=True)

    async def play(request: Request) -> Response:
        preview = room.shown.get(request.query_params.get("path", ""))
        if not isinstance(preview, Preview):
            return refusal(ActionrecError("There is no such video."), 404)
        path = room.folder / preview.playable
        media_type = MEDIA_TYPES.get(path.suffix.lower())
        if media_type is None or not path.is_file():
            return refusal(ActionrecError("There is no such video."), 404)
        return FileResponse(path, media_type=media_type)

    async def thumbnails(request: Request) -> Response:
        path = strip_of(room.folder, request.query_params.get("path", ""))
        if not path.is_file():
            return refusal(ActionrecError("There is no such picture."), 404)
        return FileResponse(path, media_type="image/jpeg")

    async def download(request: Request) -> Response:
        """The model of a run, or of the newest head, as actionrec's own file or as ONNX."""
        try:
            path = await run_in_threadpool(
                room.download, request.query_params.get("run"), request.path_params["kind"]
            )
        except ActionrecError as error:
            return refusal(error)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    async def page(_: Request) -> Response:
        text = Path(__file__).with_name("teach.html").read_text(encoding="utf-8")
        return HTMLResponse(text)

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        kinds = {"teach.css": "text/css", "teach.js": "text/javascript"}
        if name not in kinds:
            return refusal(ActionrecError("There is no such file."), 404)
        return FileResponse(Path(__file__).with_name(name), media_type=kinds[name])

    acts: dict[str, Callable[[dict[str, Any]], Any]] = {
        "rows": room.change_rows,
        "undo": lambda _: room.undo(),
        "drop": lambda values: room.drop(text_of(values, "path")),
        "group": lambda values: room.group_by(text_of(values, "by")),
        "class/add": lambda values: room.add_class(text_of(values, "name")),
        "class/remove": lambda values: room.remove_class(text_of(values, "name")),
        "class/rename": lambda values: room.rename_class(
            text_of(values, "old"), text_of(values, "new"), bool(values.get("merge"))
        ),
        "train/start": lambda values: room.tuning.start(epochs_of(values), all_folds(values)),
        "train/stop": lambda _: room.tuning.stop(),
        "train/go-on": lambda values: room.tuning.go_on(text_of(values, "run")),
    }
    return [
        *(Route(f"/{name}", page) for name in PAGES),
        Route("/project", describe),
        Route("/project/assets/{name}", asset),
        Route("/project/videos", upload, methods=["PUT"]),
        Route("/project/try", try_it, methods=["POST"]),
        Route("/project/play", play),
        Route("/project/thumbnails", thumbnails),
        Route("/project/model.{kind}", download),
        *(
            Route(f"/project/{name}", answering(act), methods=["POST"])
            for name, act in acts.items()
        ),
    ]


def text_of(values: dict[str, Any], name: str) -> str:
    """A text of a request.

    Raises:
        KeyError: the request lacks it.
        ActionrecError: it is something else.
    """
    if not isinstance(value := values[name], str):
        raise ActionrecError(f"The {name} {value!r} is no text.")
    return value


def epochs_of(values: dict[str, Any]) -> int | None:
    """The number of epochs that a request asks for.

    Raises:
        ActionrecError: it is no number from 1 to 1000.
    """
    epochs = values.get("epochs")
    if epochs is None or type(epochs) is int and 1 <= epochs <= 1000:
        return epochs
    raise ActionrecError(f"{epochs!r} is no number of epochs from 1 to 1000.")


def all_folds(values: dict[str, Any]) -> bool:
    """Whether a request asks to compare on all folds.

    Raises:
        ActionrecError: it asks for something else than one or all.
    """
    if (folds := values.get("folds", "one")) not in ("one", "all"):
        raise ActionrecError(f"The folds are one or all, not {folds!r}.")
    return folds == "all"


def refusal(error: ActionrecError, status: int = 400) -> JSONResponse:
    """The answer for what can't be done."""
    if isinstance(error, Conflict):
        status = 409
    elif isinstance(error, TooLarge):
        status = 413
    return JSONResponse({"error": str(error)}, status)
