"""Previews of a project's videos, made by processes that may crash: a file that browsers play, a
strip of thumbnails, and when it was recorded.

    previews/
        walk.avi.json     duration, playable file, times of the thumbnails, time of recording
        walk.avi.jpg      the thumbnails, side by side
        walk.avi.mp4      where browsers don't play the video as it is
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from actionrec.app.service import checked_video, convert, plays_in_browsers
from actionrec.errors import ActionrecError
from actionrec.files import replacing, short_enough, write_whole
from actionrec.processes import Limits, run_each
from actionrec.text import json_text
from actionrec.video.container import opened

THUMBNAILS = 12
MOST_THUMBNAILS = 60
SECONDS_EACH = 10.0  # of a long video
HEIGHT = 72  # pixels of a thumbnail
LIMITS = Limits(timeout=1800)


@dataclass(frozen=True)
class Preview:
    """What the page shows of a video.

    Attributes:
        duration: In seconds.
        playable: Path of a file that browsers play, below the project's folder.
        thumbnails: Number of pictures in the strip.
        recorded: When it was recorded, in seconds since 1970; None if the file doesn't say.
    """

    duration: float
    playable: str
    thumbnails: int
    recorded: float | None


def previews(
    project: Path, videos: Iterable[str], max_seconds: float
) -> Iterator[tuple[str, Preview | ActionrecError]]:
    """Make the previews of videos, paths below the folder of a `project`, one after the other."""
    make = partial(make_preview, project=project, max_seconds=max_seconds)
    for path, result in run_each(make, (project / video for video in videos), 1, LIMITS):
        yield path.relative_to(project).as_posix(), result


def read_preview(project: Path, video: str) -> Preview | None:
    """The preview that was made of a video as it is now, if there is one."""
    description = _file(project, project / video, ".json")
    try:
        if description.stat().st_mtime < (project / video).stat().st_mtime:
            return None
        preview = Preview(**json.loads(description.read_text(encoding="utf-8")))
        return preview if (project / preview.playable).is_file() else None
    except (OSError, ValueError, TypeError):
        return None


def strip_of(project: Path, video: str) -> Path:
    """The picture with the thumbnails of a video."""
    return _file(project, project / video, ".jpg")


def make_preview(path: Path, project: Path, max_seconds: float) -> Preview:
    """Write the preview of one video.

    Raises:
        ActionrecError: the video can't be read, is too large or too long, or the disk is full.
    """
    video = checked_video(path, max_seconds)
    count = min(MOST_THUMBNAILS, max(THUMBNAILS, math.ceil(video.duration / SECONDS_EACH)))
    count = min(count, len(video))
    frames = np.linspace(0, len(video) - 1, count).round().astype(int).tolist()
    height, width = video.size
    size = HEIGHT, max(8, round(width * HEIGHT / height / 2) * 2)
    pictures = video.read(sorted(set(frames)), size)
    with replacing(strip_of(project, path.relative_to(project).as_posix())) as temporary:
        Image.fromarray(np.concatenate(list(pictures), axis=1)).save(temporary, quality=80)
    playable = path
    if not plays_in_browsers(path):
        playable = _file(project, path, ".mp4")
        with replacing(playable) as temporary:
            convert(video, temporary, lambda _: None)
    preview = Preview(
        duration=video.duration,
        playable=playable.relative_to(project).as_posix(),
        thumbnails=len(pictures),
        recorded=recording_time(path),
    )
    write_whole(_file(project, path, ".json"), json_text(asdict(preview)) + "\n")
    return preview


def recording_time(path: Path) -> float | None:
    """When a video was recorded, by its file, in seconds since 1970."""
    with opened(path) as (container, stream):
        written = stream.metadata.get("creation_time") or container.metadata.get("creation_time")
    try:
        return datetime.fromisoformat(written or "").timestamp()
    except ValueError:
        return None


def _file(project: Path, video: Path, suffix: str) -> Path:
    return project / "previews" / short_enough(f"{video.name}{suffix}")
