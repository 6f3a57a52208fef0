"""ActivityNet's JSON, also that of HACS Segments: `database` has the videos by their YouTube id.

The format is described in the data set's release notes and in the readme of HACS. A file is called
v_ID.mp4, as by ActivityNet's and HACS' downloaders, or ID.mp4.
"""

from actionrec.datasets.annotations.annotation import (
    Annotation,
    Annotations,
    Content,
    Format,
    Unsupported,
    as_text,
)

SPLITS = {"training": "train", "validation": "val", "testing": "test"}


def is_activitynet(content: Content) -> bool:
    return isinstance(content, dict) and isinstance(content.get("database"), dict)


def read_activitynet(content: Content) -> Annotations:
    version = str(content.get("version", ""))
    if version and not version.upper().removeprefix("VERSION").strip().startswith("1."):
        raise Unsupported(f"is of {version}, not of version 1")
    result = Annotations()
    for name, video in content["database"].items():
        if not video["annotations"]:
            result.lost[f"{video['subset']} videos without annotations"] += 1
        for each in video["annotations"]:
            start, end = map(float, each["segment"])
            split = SPLITS.get(video["subset"], video["subset"])
            names = (f"v_{name}", name)
            result.found.append(
                Annotation(names, as_text(each["label"]), (start, end), split=split)
            )
    if content.get("taxonomy"):
        result.lost["nodes of the taxonomy"] += len(content["taxonomy"])
    return result


FORMAT = Format("an ActivityNet file", "json", is_activitynet, read_activitynet)
