"""`actionrec explain`: heat maps of the evidence in a video."""

from collections.abc import Sequence
from typing import Literal

from actionrec.cli.printing import say
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
    """Draw heat maps that show where in a video a model looked.

    Examples:
        actionrec explain video.mp4
        actionrec explain video.mp4 --label archery --output archery.png
        actionrec explain video.mp4 --model snl.safetensors --compare nl.safetensors
        actionrec explain video.mp4 --model snl.safetensors --point 160 90 --at 2.5

    Args:
        video: Video file.
        compare: Second model, drawn beside the first for the same clip and point.
        method: affinity: the positions that a nonlocal block attends to from one point; features:
            strength of the features before and after the block (without a block, of the last
            stage); hirescam: evidence for the class; auto: affinity if the models have a block,
            else hirescam.
        label: Class to explain; by default the predicted class.
        start: Start of the clip in seconds; by default the clip with the highest score.
        point: Column and row of the point for affinity, in pixels of the video; by default the
            point with the strongest features.
        at: Time of the point in seconds; by default the middle of the clip.
        block: Nonlocal block, named by the unit behind it (see `actionrec info`); by default the
            last block.
        output: Output file, *.png (a sheet of frames) or *.mp4 (the clip), or a folder for both.
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
        say(
            f"{explanation.model}: {explanation.label} {explanation.score:.2%} "
            f"from {explanation.start:.2f} to {explanation.end:.2f} s"
        )
    if (marked := explanations[0].point) is not None:
        print(f"point: column {marked.x}, row {marked.y} at {marked.seconds:.2f} s")
    for path in paths:
        WRITERS[path.suffix.lower()](explanations, path)
        say(path)
    return 0
