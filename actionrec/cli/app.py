"""`actionrec app`: a web page on this machine."""

from jsonargparse.typing import restricted_number_type

from actionrec.config import Positive
from actionrec.models.registry import EngineName, PrecisionName

Port = restricted_number_type("Port", int, [(">", 0), ("<", 65536)])


def app(
    model: str = "kinetics400-i3d",
    port: Port = 7860,
    max_seconds: Positive = 600,
    max_megabytes: Positive = 500,
    precision: PrecisionName = "auto",
    engine: EngineName = "auto",
    open: bool = False,
) -> int:
    """Serve a local web page that names the actions in a video.

    Prints the address of the page; Ctrl-C ends it. Only this machine can open the page. Uploaded
    videos are deleted within half an hour, and when the server ends.

    Examples:
        actionrec app
        actionrec app --model runs/mine/model.safetensors --port 8000

    Args:
        port: Port of the page on 127.0.0.1.
        max_seconds: Longest accepted video, in seconds.
        max_megabytes: Largest accepted file, in MB.
        open: Open the page in the browser.
    """
    from actionrec.app.server import serve

    serve(model, port, max_seconds, max_megabytes, precision, engine, open)
    return 0
