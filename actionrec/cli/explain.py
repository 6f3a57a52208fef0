"""`actionrec explain`: where in a video a model looked."""

from collections.abc import Sequence
from typing import Literal

from actionrec.config import DecoderName


def explain(
    video: str,
    model: str = "kinetics400-i3d",
    compare: str | None = None,
    method: Literal["auto", "affinity", "features", "hirescam"] = "auto",
    label: str | None = None,
    start: float | None = None,
    point: Sequence[int] | None = None,
    at: float | None = None,
    block: str | None = None,
    decoder: DecoderName = "pyav",
    output: str = ".",
) -> int:
    """Show where in a video a model looked, as heat maps over its frames.

    Examples:
        actionrec explain video.mp4
        actionrec explain video.mp4 --label archery --output archery.png
        actionrec explain video.mp4 --model snl.safetensors --compare nl.safetensors
        actionrec explain video.mp4 --model snl.safetensors --point 160 90 --at 2.5

    Args:
        video: Video file.
        model: A pretrained model (see `actionrec weights list`) or a model file.
        compare: Another model, shown with the first one for the same clip and point.
        method: affinity, the weights with which a point takes features in a nonlocal block;
            features, their magnitude at input and output of the block (without one, in the last
            stage); hirescam, the contribution of each position to the class's logit; or auto,
            affinity if all models have a block, else hirescam.
        label: Class to explain; by default the predicted one.
        start: Start of the clip in seconds; by default the clip that scores highest is shown.
        point: Column and row of the point in pixels of the video; by default the position with the
            strongest features.
        at: Time of the point in seconds; by default the middle of the clip.
        block: The unit after the nonlocal block (see `actionrec info`); by default the last block
            is shown.
        decoder: Library that decodes videos; all but pyav are extras and less exact.
        output: File to write, *.png (a sheet of frames) or *.mp4 (the clip), or a folder for both.
    """
    from actionrec.explanation.heat_maps import default_method, explain_same_moment
    from actionrec.explanation.pictures import WRITERS, picture_paths
    from actionrec.recognizer import Recognizer

    paths = picture_paths(output, video)
    recognizers = [
        Recognizer.load(name, precision="float32", decoder=decoder)
        for name in (model, compare)
        if name is not None
    ]
    if method == "auto":
        method = default_method(*recognizers)
    moment = {"start": start, "point": point and tuple(point), "at": at}
    shared = {"label": label, "block": block}
    explanations = [recognizers[0].explain(video, method, **moment, **shared)]
    for other in recognizers[1:]:
        explanations.append(explain_same_moment(explanations[0], other, **shared))
    for explanation in explanations:
        print(
            f"{explanation.model}: {explanation.label} {explanation.score:.2%} "
            f"from {explanation.start:.2f} to {explanation.end:.2f} s"
        )
    if (marked := explanations[0].point) is not None:
        print(f"point: column {marked.x}, row {marked.y} at {marked.seconds:.2f} s")
    for path in paths:
        WRITERS[path.suffix.lower()](explanations, path)
        print(path)
    return 0
