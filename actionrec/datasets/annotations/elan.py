"""ELAN's EAF: the annotations on the tiers that are aligned with time.

The format is described by its schema, EAFv2.1.xsd to EAFv3.0.xsd. The label is the text of an
annotation. Annotations on tiers that refer to others, and those whose times ELAN interpolates, have
no times of their own and are left out.
"""

from actionrec.datasets.annotations.annotation import (
    Annotation,
    Annotations,
    Content,
    Format,
    Unsupported,
    file_name,
    text_of,
)


def is_elan(content: Content) -> bool:
    return content.tag == "ANNOTATION_DOCUMENT"


def read_elan(content: Content) -> Annotations:
    version = content.attrib.get("FORMAT") or content.attrib.get("VERSION", "")
    if not version.startswith(("2.", "3.")):
        raise Unsupported(f"is of version {version or 'unknown'}, not 2 or 3")
    header = content.find("HEADER")
    if (units := header.attrib.get("TIME_UNITS", "milliseconds")) != "milliseconds":
        raise Unsupported(f"has times in {units}, not in milliseconds")
    media = header.findall("MEDIA_DESCRIPTOR")
    videos = [each for each in media if each.attrib.get("MIME_TYPE", "").startswith("video")]
    if not videos:
        raise Unsupported("names no video" + (", only sounds or images" if media else ""))
    result = Annotations()
    result.lost["further videos of the same annotations"] += len(videos) - 1
    video = videos[0].attrib
    addresses = (video.get("RELATIVE_MEDIA_URL", ""), video["MEDIA_URL"])
    names = tuple(dict.fromkeys(file_name(each) for each in addresses if each))
    origin = int(video.get("TIME_ORIGIN", 0))
    times = {
        slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"])
        for slot in content.iterfind("TIME_ORDER/TIME_SLOT")
        if "TIME_VALUE" in slot.attrib
    }
    tiers = []
    for tier in content.iterfind("TIER"):
        aligned = tier.findall("ANNOTATION/ALIGNABLE_ANNOTATION")
        result.lost["annotations that refer to others"] += len(
            tier.findall("ANNOTATION/REF_ANNOTATION")
        )
        if not len(tier):
            result.lost["empty tiers"] += 1
        elif aligned:
            tiers.append(tier.attrib["TIER_ID"])
        for each in aligned:
            slots = [each.attrib[f"TIME_SLOT_REF{end}"] for end in (1, 2)]
            label = text_of(each, "ANNOTATION_VALUE")
            if not all(slot in times for slot in slots):
                result.lost["annotations whose times are interpolated"] += 1
            elif not label:
                result.lost["annotations without a text"] += 1
            else:
                start, end = ((times[slot] + origin) / 1000 for slot in slots)
                result.found.append(Annotation(names, label, (start, end)))
    if len(tiers) > 1:
        result.notes.append(f"The labels of {len(tiers)} tiers are there: {', '.join(tiers)}.")
    return result


FORMAT = Format("an ELAN file", "xml", is_elan, read_elan)
