"""The formats of annotations by name, and which one a file has.

A new format is a module here with a `Format`, and a line in `FORMATS`.
"""

import codecs
import csv
import io
import json
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from actionrec.datasets.annotations import activitynet, cvat, elan, hacs, kinetics, labelstudio, via
from actionrec.datasets.annotations.annotation import Annotations, Content, Format, Unsupported
from actionrec.errors import ActionrecError

FORMATS: dict[str, Format] = {
    "activitynet": activitynet.FORMAT,
    "cvat": cvat.FORMAT,
    "labelstudio": labelstudio.FORMAT,
    "via": via.FORMAT,
    "elan": elan.FORMAT,
    "kinetics": kinetics.FORMAT,
    "hacs": hacs.FORMAT,
}
# Keys of JSON files that hold annotations of images.
OF_IMAGES = {"a project of VIA 2": {"_via_img_metadata"}, "a COCO file": {"images", "categories"}}


def read_annotations(path: Path, name: str = "auto") -> Annotations:
    """The annotations in a file, of the format of that name or of the one that it has.

    Raises:
        ActionrecError: the file can't be read, or is of no known format or of another one.
    """
    content, kind = read_content(path)
    if name == "auto":
        chosen = next((x for x in FORMATS.values() if x.kind == kind and x.matches(content)), None)
    else:
        chosen = FORMATS[name]
        if chosen.kind != kind or not chosen.matches(content):
            raise ActionrecError(
                f"{path} is not {chosen.title}; leave out --format to have it found."
            )
    if chosen is None:
        for title, keys in OF_IMAGES.items():
            if isinstance(content, dict) and keys <= set(content):
                raise ActionrecError(f"{path} is {title}: it holds annotations of images.")
        raise ActionrecError(
            f"{path} is of none of the formats {', '.join(FORMATS)}; export the annotations in one "
            "of them."
        )
    try:
        return chosen.read(content)
    except Unsupported as error:
        raise ActionrecError(f"{path}, {chosen.title}, {error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ActionrecError(
            f"{path} can't be read as {chosen.title} ({type(error).__name__}: {error}); export it "
            "again."
        ) from error


def read_content(path: Path) -> tuple[Content, str]:
    """The content of a file and its kind: "json", "xml" or "csv".

    Raises:
        ActionrecError: the file can't be read, is damaged, or is in an encoding that it doesn't
            name.
    """
    try:
        data = path.read_bytes()
        if data.startswith(b"PK\x03\x04"):
            raise ValueError("it is an archive: unpack it")
        start = data.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:1]
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if start == b"<" or utf16 and "<" in data[:4].decode("utf-16"):
            return parse_xml(data), "xml"
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
        if text.lstrip()[:1] in ("{", "["):
            return json.loads(text), "json"
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if any(row)]
        if not rows:
            raise ValueError("it is empty")
        uneven = [number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])]
        if uneven and len(rows[0]) > 1:
            raise ValueError(f"row {uneven[0]} has another number of fields than the header")
        return rows, "csv"
    except OSError as error:
        raise ActionrecError(
            f"{path} can't be read ({error.strerror}); check the path and its permissions."
        ) from error
    except (ValueError, RecursionError, csv.Error, expat.ExpatError) as error:
        reason = "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise ActionrecError(
            f"{path} can't be read as annotations ({reason}); export it again."
        ) from error


def parse_xml(data: bytes) -> Element:
    """The root of an XML document without a document type: entities could be of any size, or files
    of this machine.

    Raises:
        ValueError: it has a document type.
        ExpatError: it is no XML.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: Any) -> NoReturn:
        raise ValueError("it has a document type, which annotation files have not")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(data, True)
    return builder.close()
