"""The CSV file of HACS Clips: classname,youtube_id,subset,start,end,label with label 1 or -1.

The format is described in the readme of the data set (HACS Segments is JSON like ActivityNet's).
A row with the label -1 says that the clip does not show the class: it is left out.
"""

from actionrec.datasets.annotations.activitynet import SPLITS
from actionrec.datasets.annotations.annotation import (
    Annotation,
    Annotations,
    Content,
    Format,
    Unsupported,
)

COLUMNS = {"classname", "youtube_id", "subset", "start", "end", "label"}


def is_hacs(content: Content) -> bool:
    return {"classname", "youtube_id"} <= set(content[0])


def read_hacs(content: Content) -> Annotations:
    header, *rows = content
    if missing := sorted(COLUMNS - set(header)):
        raise Unsupported(f"has no column {missing[0]}")
    result = Annotations()
    for values in rows:
        row = dict(zip(header, values, strict=True))
        if row["label"] == "-1":
            result.lost["clips that do not show their class (label -1)"] += 1
        elif not row["start"] or not row["label"]:
            result.lost[f"{row['subset']} clips without annotation"] += 1
        elif row["label"] != "1":
            raise Unsupported(f"has the label {row['label']!r}, neither 1 nor -1")
        else:
            names = (f"v_{row['youtube_id']}", row["youtube_id"])
            seconds = (float(row["start"]), float(row["end"]))
            split = SPLITS.get(row["subset"], row["subset"])
            result.found.append(Annotation(names, row["classname"], seconds, split=split))
    return result


FORMAT = Format("a file of HACS Clips", "csv", is_hacs, read_hacs)
