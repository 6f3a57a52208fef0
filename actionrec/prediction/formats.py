"""File formats of predictions and timelines.

`actionrec predict --output` and `actionrec timeline --output` choose the format by the suffix. A
function and a line in `TIMELINE_FORMATS` add a format, which help and error messages then name.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from actionrec.files import replacing
from actionrec.text import csv_text, hours, json_text, visible

if TYPE_CHECKING:
    from actionrec.prediction.timeline import Segment, Timeline

# Of `actionrec predict --output`: lines of JSON, appended one by one, and Parquet, written at the
# end (see `prediction.batch`).
PREDICTION_FORMATS = (".jsonl", ".parquet")
# Of `actionrec features --output`, which otherwise is a folder (see `prediction.features`).
FEATURE_FILES = (".npz", ".parquet")
# The file in a folder of results that a cluster writes (see `prediction.parts`).
CLUSTER_SETTINGS = "_actionrec.json"


def write_timeline(timeline: "Timeline", path: Path) -> None:
    """Write a timeline in the format that the suffix of `path` names, whole or not at all.

    Raises:
        ActionrecError: the file can't be written.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        file.writelines(TIMELINE_FORMATS[path.suffix.lower()](timeline))


def json_list(timeline: "Timeline") -> Iterator[str]:
    """A JSON list of one object, in pieces."""
    yield "["
    yield from json_object(timeline)
    yield "]\n"


def json_object(timeline: "Timeline") -> Iterator[str]:
    """The timeline without its steps as a JSON object, in pieces: as one string, hours of video
    would take more memory than everything else."""
    separator = "{"
    for name in (field.name for field in fields(timeline) if field.name != "steps"):
        value = getattr(timeline, name)
        yield f"{separator}{json_text(name)}: "
        separator = ",\n"
        if isinstance(value, list):
            comma = "["
            for item in value:
                yield comma + json_text(asdict(item))
                comma = ", "
            yield "]" if value else "[]"
        else:
            yield json_text(value)
    yield "}"


CSV_HEAD = ["video", "start", "end", "label", "score", "error"]


def csv_rows(timeline: "Timeline") -> Iterator[list[str | float]]:
    """A row for each segment, and a last row with the reason if the timeline is incomplete."""
    for segment in timeline.segments:
        yield [timeline.video, segment.start, segment.end, segment.label, segment.score, ""]
    if timeline.incomplete is not None:
        yield [timeline.video, timeline.scored_until, "", "", "", timeline.incomplete]


def csv_lines(timeline: "Timeline") -> Iterator[str]:
    """The head and the rows as CSV."""
    yield csv_text([CSV_HEAD, *csv_rows(timeline)])


def webvtt(timeline: "Timeline") -> Iterator[str]:
    """WebVTT subtitles (W3C), a cue for each segment, for browsers."""
    yield "WEBVTT\n"
    for segment in timeline.segments:
        text = _caption(segment).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield f"\n{hours(segment.start)} --> {hours(segment.end)}\n{text}\n"


def subrip(timeline: "Timeline") -> Iterator[str]:
    """SubRip subtitles, an entry for each segment, for players. Players read <b> and {\\an8} as
    tags, so that other brackets take their place."""
    brackets = str.maketrans("<>{}", "‹›()")
    for number, segment in enumerate(timeline.segments, start=1):
        start, end = hours(segment.start, ","), hours(segment.end, ",")
        yield f"{number}\n{start} --> {end}\n{_caption(segment).translate(brackets)}\n\n"


def _caption(segment: "Segment") -> str:
    # A line end would begin another cue.
    return f"{visible(' '.join(segment.label.split()))} ({segment.score:.0%})"


# Each function yields the text of the file in pieces.
TIMELINE_FORMATS: dict[str, Callable[["Timeline"], Iterator[str]]] = {
    ".json": json_list,
    ".csv": csv_lines,
    ".vtt": webvtt,
    ".srt": subrip,
}
