"""`actionrec app`: the page in the browser."""

from jsonargparse.typing import PositiveFloat, restricted_number_type

from actionrec.models.registry import PrecisionName

Port = restricted_number_type("Port", int, [(">", 0), ("<", 65536)])


def app(
    model: str = "kinetics400-i3d",
    port: Port = 7860,
    max_seconds: PositiveFloat = 600,
    max_megabytes: PositiveFloat = 500,
    precision: PrecisionName = "auto",
    open: bool = False,
) -> int:
    """Serve a local web page to drop a video on and see what people do in it.

    Its address is printed when it is ready; Ctrl-C ends it. Only this machine reaches it. Uploads
    are deleted within half an hour, or when the page ends.

    Examples:
        actionrec app
        actionrec app --model runs/mine/model.safetensors --port 8000

    Args:
        model: A pretrained model (see `actionrec weights list`) or a model file.
        port: Port of 127.0.0.1 for the page.
        max_seconds: Longer videos are refused.
        max_megabytes: Larger files are refused.
        precision: Numbers that the network computes with: float32; bfloat16; or auto, bfloat16
            where the hardware has it.
        open: Open the page in the browser.
    """
    from actionrec.app.server import serve

    serve(model, port, max_seconds, max_megabytes, precision, open)
    return 0
