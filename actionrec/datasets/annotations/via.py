"""Projects of the VGG Image Annotator (VIA) 3: the temporal segments of its video annotator.

The format is described in the code documentation of VIA 3 (CodeDoc.md). A segment is a `metadata`
entry with two times, `z`, and no shape, `xy`. Its label is the first attribute that belongs to
segments, anchor FILE1_Z2_XY0; of an attribute with options, the options' texts.
"""

from actionrec.datasets.annotations.annotation import (
    Annotation,
    Annotations,
    Content,
    Format,
    Unsupported,
    as_text,
    file_name,
)

VIDEO = 4  # type of a file
CHECKBOX = 2  # type of an attribute: its value holds several options
DELETED = 1  # flag of an entry
OF_SEGMENTS = "FILE1_Z2_XY0"


def is_via(content: Content) -> bool:
    return isinstance(content, dict) and {"project", "metadata", "view", "file"} <= set(content)


def read_via(content: Content) -> Annotations:
    version = str(content["project"].get("data_format_version", "3"))
    if not version.startswith("3"):
        raise Unsupported(f"is of the data format {version}, not 3")
    result = Annotations()
    attributes = {
        key: each for key, each in content["attribute"].items() if each["anchor_id"] == OF_SEGMENTS
    }
    label_key = next(iter(attributes), "")
    spatial = 0
    for entry in content["metadata"].values():
        files = [content["file"][str(fid)] for fid in content["view"][entry["vid"]]["fid_list"]]
        video = next((file for file in files if file["type"] == VIDEO), None)
        if entry["flg"] & DELETED:
            continue
        if video is None:
            result.lost["annotations of images and sounds"] += 1
        elif entry["xy"]:
            spatial += 1
        elif len(entry["z"]) != 2:
            result.lost["annotations of whole videos and of moments"] += 1
        elif not (labels := labels_of(entry["av"].get(label_key), attributes.get(label_key))):
            result.lost["segments without a label"] += 1
        else:
            names = tuple(dict.fromkeys(map(file_name, (video["src"], video["fname"]))))
            start, end = map(float, entry["z"])
            for label in labels:
                result.found.append(Annotation(names, label, (start, end)))
            result.lost["other attributes of segments"] += len(entry["av"]) - 1
    if spatial:
        result.lost["regions (boxes, polygons, ...)"] += spatial
    if not result.found and result.lost["annotations of images and sounds"]:
        raise Unsupported("holds annotations of images or sounds, none of videos")
    if len(attributes) > 1:
        others = ", ".join(each["aname"] for each in list(attributes.values())[1:])
        result.notes.append(
            f"The labels are those of the attribute {attributes[label_key]['aname']}, not of "
            f"{others}."
        )
    return result


def labels_of(value: object, attribute: dict | None) -> list[str]:
    """The labels that an attribute's value stands for."""
    if attribute is None or not value:
        return []
    options = attribute.get("options") or {}
    values = as_text(value).split(",") if attribute["type"] == CHECKBOX else [as_text(value)]
    return [options.get(each, each) for each in values]


FORMAT = Format("a project of VIA 3", "json", is_via, read_via)
