"""Find the videos that paths and addresses name: files, folders and patterns, here and elsewhere.

    python -c "from actionrec.video.sources import find_videos; \
               print(find_videos(['holiday/', 'more/*.avi', 's3://bucket/clips/']))"
"""

import glob
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from actionrec.errors import Failure, VideoError
from actionrec.files import VIDEO_SUFFIXES, scan, tell_passed_over
from actionrec.video.address import (
    FRAMES,
    TAR,
    Address,
    VideoPath,
    is_address,
    member_address,
    member_of,
    video_path,
)
from actionrec.video.pictures import is_frame_folder

NO_FILE = "{} is not a file; check the path."


def find_videos(paths: Iterable[str | VideoPath]) -> list[VideoPath | Failure]:
    """All videos that `paths` name, each once: files, folders (searched at any depth), patterns,
    and the members of tar archives.

    Any of them may be an address; HTTP has no folders and no patterns. A file may have any name; in
    a folder, only files with the suffix of a video count, and folders of frames. A path that leads
    to nothing becomes a Failure in its place.
    """
    found: list[VideoPath | Failure] = []
    for path in paths:
        path = video_path(path) if is_address(path) else path
        if isinstance(path, Address):
            found += remote_videos(path)
            continue
        text = os.path.expanduser(path)
        if os.path.isdir(text):
            inside = scan(text)
            tell_passed_over(Path(text), inside.others)
            nothing = f"{path} has no videos in it; name a folder that has some."
            found += [*inside.videos, *inside.unlisted] or [Failure(str(path), nothing)]
        elif os.path.exists(text) or not glob.has_magic(text):
            found += _in_file(Path(text))
        else:
            matches = map(Path, sorted(glob.glob(text, recursive=True)))
            files = [each for each in matches if not each.is_dir() or is_frame_folder(each)]
            nothing = Failure(str(path), f"No file matches {path}; check the pattern.")
            found += [video for each in files for video in _in_file(each)] or [nothing]
    once: dict[str, VideoPath | Failure] = {}
    for each in found:
        once.setdefault(_identity(each), each)
    return list(once.values())


def missing(video: str) -> Failure | None:
    """The failure of a local path that leads to nothing; of all others, reading will tell."""
    if is_address(video) or os.path.exists(video):
        return None
    return Failure(video, NO_FILE.format(video))


def _in_file(path: VideoPath) -> list[VideoPath | Failure]:
    """The videos of an archive; of any other file, itself."""
    return _videos_in(path, "*") if is_archive(path) else [path]


def _identity(video: VideoPath | Failure) -> str:
    if isinstance(video, Failure):
        return video.video
    return os.path.abspath(video) if isinstance(video, Path) else str(video)


def _videos_in(archive: VideoPath, pattern: str) -> list[Address | Failure]:
    """The videos of a tar archive whose names have a pattern."""
    # Imported here, so that help answers at once.
    from actionrec.video.tar import members_of

    try:
        names = [name for name in members_of(archive) if fnmatchcase(name, pattern)]
    except VideoError as error:
        return [Failure(str(archive), str(error))]
    found = [member_address(name, archive) for name in names]
    nothing = Failure(str(archive), f"{archive} has no videos {pattern} in it; check the names.")
    return [each for each in found if each.suffix.lower() in VIDEO_SUFFIXES] or [nothing]


def is_archive(path: str | VideoPath) -> bool:
    """Whether a path leads to a tar archive, by its name."""
    return (path if isinstance(path, Address) else Path(path)).suffix.lower() == ".tar"


def remote_videos(address: Address) -> list[Address | Failure]:
    """The videos that an address names: itself, or those of an archive, folder or pattern."""
    has_magic = glob.has_magic(address.url)
    if address.scheme == TAR:
        try:
            pattern, archive = member_of(address)
        except VideoError as error:
            return [Failure(str(address), str(error))]
        if has_magic or not pattern:
            return _videos_in(archive, pattern or "*")
        return _in_file(address)
    if address.scheme in ("http", "https", FRAMES) or (address.suffix and not has_magic):
        return _in_file(address)
    # Imported here, so that help answers at once.
    from actionrec.video.remote import call, file_system, storage_errors

    try:
        system, path = file_system(address.url)
        with storage_errors(address.url):
            if has_magic and not call(system, "exists", path):
                names = call(system, "glob", path)
            elif call(system, "isdir", path):
                names = call(system, "find", path)
                names = [name for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES]
            else:
                return _in_file(address)
            _, chained, rest = address.url.partition("::")
            found = [system.unstrip_protocol(name) + chained + rest for name in sorted(names)]
    except VideoError as error:
        return [Failure(str(address), str(error))]
    nothing = f"{address} has no videos in it; check the address."
    return [video for url in found for video in _in_file(Address(url))] or [
        Failure(str(address), nothing)
    ]
