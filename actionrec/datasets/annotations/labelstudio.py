"""Label Studio's JSON export: a list of tasks with the results of their annotations.

The format is described in its guide ("Export annotations") and by tag. Of a video come

    timelinelabels    ranges of frames, counted from 1, the last one included
    labels            parts in seconds of the video's sound, which plays beside it
    choices           the label of the whole video
"""

import re

from actionrec.datasets.annotations.annotation import (
    Annotation,
    Annotations,
    Content,
    Format,
    Unsupported,
    as_text,
    file_name,
)
from actionrec.files import VIDEO_SUFFIXES

# Label Studio puts eight hexadecimal digits before the name of an uploaded file.
UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")


def is_labelstudio(content: Content) -> bool:
    tasks = content if isinstance(content, list) else [content]
    return bool(tasks) and all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) and "annotations" in task
        for task in tasks
    )


def read_labelstudio(content: Content) -> Annotations:
    result = Annotations()
    tasks = content if isinstance(content, list) else [content]
    without_video = 0
    for task in tasks:
        names = names_of(task["data"])
        if not names:
            without_video += 1
            continue
        if not isinstance(task["annotations"], list) or not all(
            isinstance(each, dict) for each in task["annotations"]
        ):
            raise Unsupported(
                "has the annotations left out; export as JSON, not as a snapshot of ids"
            )
        finished = [each for each in task["annotations"] if not each.get("was_cancelled")]
        result.lost["skipped annotations"] += len(task["annotations"]) - len(finished)
        result.lost["predictions of models"] += len(task.get("predictions") or [])
        if not finished:
            result.lost["videos without annotations"] += 1
        if len(finished) > 1:
            result.notes.append(
                f"{names[0]} was annotated {len(finished)} times; the labels of all are there."
            )
        for annotation in finished:
            for each in annotation["result"]:
                read_result(each, names, result)
    if without_video == len(tasks):
        raise Unsupported("holds annotations of images, sounds or texts, none of videos")
    result.lost["tasks without a video"] += without_video
    return result


def names_of(data: dict) -> tuple[str, ...]:
    """The names that the video of a task may have; none where the task has no video."""
    for value in data.values():
        if isinstance(value, str) and (name := file_name(value)).lower().endswith(
            tuple(VIDEO_SUFFIXES)
        ):
            uploaded = UPLOADED.fullmatch(name)
            return (name, uploaded[1]) if uploaded else (name,)
    return ()


def read_result(entry: dict, names: tuple[str, ...], result: Annotations) -> None:
    """Add one result of an annotation."""
    kind, value = entry["type"], entry.get("value", {})
    if kind == "timelinelabels" and "ranges" in value:
        if frames := value.get("framesCount"):
            result.frame_counts[names[0]] = int(frames)
        for each in value["ranges"]:
            part = (max(int(each["start"]) - 1, 0), int(each["end"]))
            for label in value[kind]:
                result.found.append(Annotation(names, as_text(label), frames=part))
    elif kind == "labels" and "start" in value:
        part = float(value["start"]), float(value["end"])
        for label in value[kind]:
            result.found.append(Annotation(names, as_text(label), part))
    elif kind == "choices":
        for label in value[kind]:
            result.found.append(Annotation(names, as_text(label)))
    elif kind == "videorectangle":
        result.lost["tracks of boxes"] += 1
    else:
        result.lost[f"results of the type {kind}"] += 1


FORMAT = Format("an export of Label Studio", "json", is_labelstudio, read_labelstudio)
