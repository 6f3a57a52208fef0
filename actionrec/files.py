"""Files: find videos, write a file whole or not at all, keep other processes away from one."""

import glob
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actionrec.errors import ActionrecError, Failure, UsageError

VIDEO_SUFFIXES = frozenset(
    ".avi .mp4 .mkv .mov .m4v .webm .mpg .mpeg .ts .m2ts .wmv .flv .3gp .ogv".split()
)

# In the names of half-written files, between the beginning of the file's name and eight letters.
TEMPORARY = ".actionrec."


def cache_folder() -> Path:
    """The folder for downloads, indexes and the like: $ACTIONREC_CACHE, or the user's cache."""
    if chosen := os.environ.get("ACTIONREC_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("actionrec")


def videos_below(folder: Path) -> list[Path]:
    """The files below `folder`, at any depth, with the suffix of a video, sorted.

    Hidden files and folders are skipped.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def find_videos(paths: Iterable[str | Path]) -> list[Path | Failure]:
    """All videos that `paths` name: files, folders (searched at any depth) and patterns.

    A file may have any name; in a folder, only files with the suffix of a video count. A path that
    leads to nothing becomes a Failure in its place.
    """
    found: list[Path | Failure] = []
    for path in paths:
        text = os.path.expanduser(path)
        if (remote := remote_failure(path)) is not None:
            found.append(remote)
        elif os.path.isdir(text):
            found += videos_below(Path(text)) or [
                Failure(str(path), f"{path} has no videos in it; name a folder that has some.")
            ]
        elif os.path.exists(text) or not glob.has_magic(text):
            found.append(Path(text))
        else:
            matches = sorted(glob.glob(text, recursive=True))
            found += [Path(match) for match in matches if not os.path.isdir(match)] or [
                Failure(str(path), f"No file matches {path}; check the pattern.")
            ]
    return found


def remote_failure(path: str | Path) -> Failure | None:
    """The Failure in place of a video that is named by an address."""
    if re.match("[A-Za-z][A-Za-z0-9+.-]+://", str(path)) is None:
        return None
    error = f"{path} is an address, and remote videos can't be read yet; download it first."
    return Failure(str(path), error)


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
        # Short, whatever the length of the name: a file system allows 255 bytes.
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
    except OSError as error:
        raise ActionrecError(
            f"{path} could not be written ({error.strerror or error}); "
            "free some space or choose a folder that you may write to."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the files below `folder` that `replacing` left half-written in killed processes."""
    for path in folder.rglob(f".*{TEMPORARY}????????*"):
        if re.fullmatch(r"\w{8}(\..*)?", path.name.rpartition(TEMPORARY)[2]):
            path.unlink(missing_ok=True)


@contextmanager
def exclusive(path: Path, message: str) -> Iterator[None]:
    """Keep other processes that ask for the same `path` out while the block runs.

    Meanwhile the lock is the file .NAME.lock beside the file that `path` leads to.

    Raises:
        ActionrecError: another process holds the lock; `message` tells the user.
    """
    # Imported here, so that help answers at once.
    from filelock import FileLock, Timeout

    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = path.with_name(f".{path.name}.lock")
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
