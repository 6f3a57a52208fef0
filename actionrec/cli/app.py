"""`actionrec app`: a web page on this machine."""

from jsonargparse.typing import restricted_number_type

from actionrec.config import Positive
from actionrec.models.registry import EngineName, PrecisionName

Port = restricted_number_type("Port", int, [(">", 0), ("<", 65536)])


def app(
    model: str = "kinetics400-i3d",
    project: str | None = None,
    port: Port = 7860,
    max_seconds: Positive = 600,
    max_megabytes: Positive = 500,
    precision: PrecisionName = "auto",
    engine: EngineName = "auto",
    open: bool = False,
) -> int:
    """Serve a local web page that names the actions in a video, and learns new ones.

    Prints the address of the page; Ctrl-C ends it. Only this machine can open the page. Predict
    deletes uploaded videos within half an hour, and when the server ends. Teach, Review and Train
    keep videos, labels and models in the folder of a project, which the next page goes on with.

    Examples:
        actionrec app
        actionrec app --project gymnastics --open
        actionrec app --model runs/mine/model.safetensors --port 8000

    Args:
        project: Folder of the project of Teach, made if it isn't there; by default my_actions.
        port: Port of the page on 127.0.0.1.
        max_seconds: Longest accepted video, in seconds.
        max_megabytes: Largest accepted file, in MB.
        open: Open the page in the browser.
    """
    from pathlib import Path

    from actionrec.app.server import serve

    serve(
        model, project and Path(project), port, max_seconds, max_megabytes, precision, engine, open
    )
    return 0
