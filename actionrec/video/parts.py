"""What clips are read from: a whole video, or a part of one from a start to an end in seconds.

    python -c "from actionrec.video.parts import VideoSegment; \
               print(VideoSegment('match.mp4', 12.5, 15))"

Nothing is read here, so that lists of videos are light: `video.segments` reads.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from actionrec.video.address import VideoPath, video_path


@dataclass(frozen=True, order=True)
class VideoSegment:
    """A part of a video file, from `start` to `end` in seconds from the beginning of the file.

    As text it is a media fragment of the W3C: match.mp4#t=12.5,15.
    """

    path: VideoPath
    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.path}#t={plain_number(self.start)},{plain_number(self.end)}"


# What clips are read from: a whole file or a part of one.
VideoSource = VideoPath | VideoSegment


def path_of(source: str | VideoSource) -> VideoPath:
    """The file of a source."""
    return source.path if isinstance(source, VideoSegment) else video_path(source)


def by_file(sources: Iterable[VideoSource], most: int) -> Iterator[list[VideoSource]]:
    """The sources in lists of one file each, of at most `most` sources that lie near each other in
    it."""
    files: dict[VideoPath, list[VideoSource]] = {}
    for source in sources:
        files.setdefault(path_of(source), []).append(source)
    for same in files.values():
        same.sort(key=lambda source: source.start if isinstance(source, VideoSegment) else 0)
        yield from (same[first : first + most] for first in range(0, len(same), most))


def plain_number(seconds: float) -> str:
    """A time in seconds with as many digits as it takes, six after the point at most."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
