"""CVAT's XML: the tracks of "CVAT for video 1.1".

The format is described on CVAT's page "XML annotation format". A track is a segment, or several,
from a frame where its object is seen until it is `outside`; its label is the track's. Frames are
those of the video, also where the task shows every n-th only.
"""

import re
from xml.etree.ElementTree import Element

from actionrec.datasets.annotations.annotation import (
    Annotation,
    Annotations,
    Content,
    Format,
    Unsupported,
    text_of,
)


def is_cvat(content: Content) -> bool:
    return content.tag == "annotations" and content.find("meta") is not None


def read_cvat(content: Content) -> Annotations:
    version = text_of(content, "version")
    if not version.startswith("1."):
        raise Unsupported(f"is of version {version or 'unknown'}, not 1.1")
    if content.find("meta/project") is not None and content.find("meta/task") is None:
        raise Unsupported(
            "is the export of a whole project, whose frames are not those of one video; export "
            "each task as CVAT for video 1.1"
        )
    task = next((each for each in content.find("meta") if each.tag in ("task", "job")), None)
    if content.find("image") is not None or task is None:
        raise Unsupported("holds annotations of images; export as CVAT for video 1.1")
    # Older versions had the name of the video beside the task, the oldest nowhere.
    name = text_of(task, "source") or text_of(content, "meta/source") or text_of(task, "name")
    if not name:
        raise Unsupported("does not name its video")
    step = re.fullmatch(r"step\s*=\s*(\d+)", text_of(task, "frame_filter"))
    step = int(step[1]) if step else 1
    result = Annotations()
    if step == 1 and text_of(task, "start_frame") in ("", "0") and task.tag == "task":
        result.frame_counts[name] = int(text_of(task, "size") or 0)
    for track in content.iterfind("track"):
        for part in seen(track, step):
            result.found.append(Annotation((name,), track.attrib["label"], frames=part))
        result.lost["boxes and other shapes"] += len(track)
        result.lost["attributes of shapes"] += sum(len(shape) for shape in track)
    return result


def seen(track: Element, step: int) -> list[tuple[int, int]]:
    """The parts of a video, first frame and the one after the last, in which a track is seen."""
    shapes = sorted((int(shape.attrib["frame"]), shape.attrib.get("outside")) for shape in track)
    parts, start = [], None
    for frame, outside in shapes:
        if outside == "1" and start is not None:
            parts.append((start, frame))
            start = None
        elif outside != "1" and start is None:
            start = frame
    if start is not None:
        parts.append((start, shapes[-1][0] + step))
    return parts


FORMAT = Format("a CVAT file", "xml", is_cvat, read_cvat)
