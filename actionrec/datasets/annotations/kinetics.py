"""Kinetics' CSV files: label,youtube_id,time_start,time_end,split and sometimes is_cc.

A file is the part that was cut out, ID_SSSSSS_EEEEEE.mp4 with both times in six digits, as by the
data set's downloader; or, if there is none, the whole video, ID.mp4.
"""

from actionrec.datasets.annotations.annotation import (
    Annotation,
    Annotations,
    Content,
    Format,
    Unsupported,
)

SPLITS = {"validate": "val"}


def is_kinetics(content: Content) -> bool:
    return {"youtube_id", "time_start", "time_end"} <= set(content[0])


def read_kinetics(content: Content) -> Annotations:
    header, *rows = content
    if "label" not in header:
        raise Unsupported("has no column label: the test videos of Kinetics were published so")
    result = Annotations()
    for values in rows:
        row = dict(zip(header, values, strict=True))
        start, end = float(row["time_start"]), float(row["time_end"])
        split = row.get("split", "")
        result.found.append(
            Annotation(
                (row["youtube_id"], f"v_{row['youtube_id']}"),
                row["label"],
                (start, end),
                split=SPLITS.get(split, split),
                cut=f"{row['youtube_id']}_{start:06.0f}_{end:06.0f}",
            )
        )
    if "is_cc" in header:
        result.lost["marks of Creative Commons (is_cc)"] += len(rows)
    return result


FORMAT = Format("a Kinetics file", "csv", is_kinetics, read_kinetics)
