"""Files: find videos, write a file whole or not at all, keep other processes away from one."""

import hashlib
import logging
import os
import re
import tempfile
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from actionrec.errors import ActionrecError, Failure, UsageError

logger = logging.getLogger("actionrec")

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .amv .asf .avi .cavs .divx .dv .evo .f4v .flv .gif .gxf .h264 .h265 .hevc "
    ".insv .ivf .lrv .m1v .m2p .m2t .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mk3d .mkv .mod .mov "
    ".mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu .ogm .ogv .qt .rm .rmvb .tod .trp .ts .vob "
    ".webm .wmv .wtv .y4m".split()
)

LONGEST_NAME = 255  # bytes
# In the names of half-written files, between the beginning of the file's name and eight letters.
TEMPORARY = ".actionrec."


def cache_folder() -> Path:
    """The folder for downloads, indexes and the like: $ACTIONREC_CACHE, or the user's cache.

    Raises:
        ActionrecError: the user has no home folder.
    """
    import platformdirs

    try:
        if chosen := os.environ.get("ACTIONREC_CACHE"):
            return Path(chosen).expanduser()
        folder = platformdirs.user_cache_path("actionrec")
        # Older versions of platformdirs leave the ~ of a user without a home.
        return folder.expanduser()
    except RuntimeError as error:
        raise ActionrecError(
            "There is no home folder to keep downloads in; set the environment variable "
            "ACTIONREC_CACHE to a folder that you may write to."
        ) from error


PICTURE_SUFFIXES = frozenset(".bmp .jpeg .jpg .png .tif .tiff .webp".split())
NUMBERED = re.compile(r"(.*?)([0-9]+)(\.[A-Za-z]+)", re.DOTALL)
FEWEST_FRAMES = 2


def frame_number(name: str) -> int | None:
    """The number in the name of a picture such as frame_000001.jpg; None for other files."""
    found = NUMBERED.fullmatch(name)
    return int(found[2]) if found and found[3].lower() in PICTURE_SUFFIXES else None


def are_frames(names: Iterable[str]) -> bool:
    """Whether files are the frames of a video: among them are pictures whose names differ by their
    number alone, and no other pictures or videos."""
    frames, kinds = 0, set()
    for name in names:
        stem, suffix = os.path.splitext(name)
        if frame_number(name) is not None:
            kinds.add((stem.rstrip("0123456789"), suffix.lower()))
            frames += 1
        elif suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
            return False
    return frames >= FEWEST_FRAMES and len(kinds) == 1


@dataclass
class Found:
    """The files in a folder: `videos` by their suffixes, and folders of frames; `others`; and the
    folders that can't be listed, each with the reason."""

    videos: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    unlisted: list[Failure] = field(default_factory=list)


def scan(
    folder: str | Path, depth: int | None = None, suffixes: Collection[str] = VIDEO_SUFFIXES
) -> Found:
    """Find the files in `folder` and `depth` levels below (None: all), sorted.

    No file's status is read, which takes minutes for hundreds of thousands of files on a network
    disk. Hidden files and folders are passed over. Links to folders are followed, each folder is
    listed once, in the place where it really lies if that is below `folder`.
    """
    found = Found()
    listed: set[tuple[int, int]] = set()
    folders: deque[tuple[str | Path, int | None]] = deque([(folder, depth)])
    while folders:
        place, levels = folders.popleft()
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in listed:
                continue
            listed.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            reason = (
                f"{place} can't be listed ({error.strerror}); check the path and its permissions."
            )
            found.unlisted.append(Failure(str(place), reason))
            continue
        if suffixes is VIDEO_SUFFIXES and are_frames(entry.name for entry in visible):
            found.videos.append(Path(place))
            continue
        for entry in sorted(visible, key=lambda entry: entry.name):
            is_video = os.path.splitext(entry.name)[1].lower() in suffixes
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_video and not is_folder:
                found.videos.append(Path(entry.path))
            # Not entry.is_dir(), an error at a link that leads in a circle or where none may look.
            elif is_folder or entry.is_symlink() and os.path.isdir(entry.path):
                if levels != 0:
                    below = entry.path, levels and levels - 1
                    # Linked folders come last.
                    (folders.append if entry.is_symlink() else folders.appendleft)(below)
            else:
                found.others.append(Path(entry.path))
    found.videos.sort()
    return found


def tell_passed_over(folder: Path, files: Sequence[Path]) -> None:
    """Log once how many files of a folder are no videos by their names."""
    if files:
        logger.info(
            f"Files in {folder} that are no videos by their names are passed over: {len(files)}, "
            f"such as {min(files).name}."
        )


def require_suffix(path: Path, suffixes: Collection[str], flag: str) -> None:
    """Raise UsageError unless the suffix of the file that `flag` names is one of `suffixes`."""
    if path.suffix.lower() not in suffixes:
        *others, last = suffixes
        choice = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(f"{flag} {path} must end in {choice}, which is its format.")


def require_free(path: Path) -> None:
    """Raise UsageError if there is something at `path`: no output replaces a user's file."""
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already; delete it or choose another name.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well.

    When the block fails, the temporary file is removed and `path` is left as it was; after a power
    cut, `path` is either the old file or the whole new one. A link stays, and the file that it
    leads to is replaced. The temporary name keeps the suffix of `path`, because writers choose the
    format by it.

    Raises:
        ActionrecError: the folder can't be written or the disk is full.
    """
    temporary = None
    try:
        target = Path(path).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        # Short, whatever the length of the name.
        suffix = target.suffix if len(target.suffix) < 16 else ""
        prefix = f".{target.stem[:32]}{TEMPORARY}"
        handle, name = tempfile.mkstemp(suffix, prefix, target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # The contents must be on the disk before the name is, or a power cut leaves an empty file.
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; give the result the permissions that open() would give.
        umask = os.umask(0)
        os.umask(umask)
        # Some file systems, such as those of cameras and of Windows, have no permissions.
        with suppress(OSError):
            temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise ActionrecError(
            f"{path} could not be written ({error.strerror or error}); "
            "free some space or choose a folder that you may write to."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def short_enough(name: str) -> str:
    """The name, or if it is too long for a file system its first letters, a checksum and suffix."""
    data = os.fsencode(name)
    if len(data) <= LONGEST_NAME:
        return name
    return f"{name[:32]}.{hashlib.sha256(data).hexdigest()[:16]}{os.path.splitext(name)[1]}"


def write_whole(path: Path, text: str) -> None:
    """Write a text file, UTF-8, by way of `replacing`; bytes of odd file names become \\udc..."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def remove_leftovers(folder: Path) -> None:
    """Remove the files below `folder` that `replacing` left half-written in killed processes."""
    for path in folder.rglob(f".*{TEMPORARY}????????*"):
        if re.fullmatch(r"\w{8}(\..*)?", path.name.rpartition(TEMPORARY)[2]):
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring new names in `folder` to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def exclusive(path: Path, message: str) -> Iterator[None]:
    """Keep other processes that ask for the same `path` out while the block runs.

    Meanwhile the lock is the file .NAME.lock beside the file that `path` leads to, or one with a
    shorter name (see `short_enough`).

    Raises:
        ActionrecError: another process holds the lock; `message` tells the user.
    """
    # Imported here, so that help answers at once.
    from filelock import FileLock, Timeout

    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = path.with_name(short_enough(f".{path.name}.lock"))
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                # While it is held: a process that has opened it meanwhile sees that it is gone.
                # Windows deletes no open file.
                with suppress(OSError):
                    lock.unlink()
    except Timeout as error:
        raise ActionrecError(message) from error
