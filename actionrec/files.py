"""Files: find videos, write a file whole or not at all, keep other processes away from one."""

import glob
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actionrec.errors import ActionrecError, Failure, UsageError

VIDEO_SUFFIXES = frozenset(
    ".avi .mp4 .mkv .mov .m4v .webm .mpg .mpeg .ts .m2ts .wmv .flv .3gp .ogv".split()
)


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
        if os.path.isdir(text):
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


def require_suffix(path: Path, suffixes: Collection[str], flag: str) -> None:
    """Raise UsageError unless the suffix of the file that `flag` names is one of `suffixes`."""
    if path.suffix.lower() not in suffixes:
        *others, last = suffixes
        choice = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(f"{flag} {path} must end in {choice}, which is its format.")


def require_free(path: Path) -> None:
    """Raise ActionrecError if the file exists."""
    if path.exists():
        raise ActionrecError(f"{path} is there already; delete it or choose another name.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well.

    When the block fails, the temporary file is removed and `path` is left as it was; after a power
    cut, `path` is either the old file or the whole new one. The temporary name keeps the suffix of
    `path`, because writers choose the format by it.

    Raises:
        ActionrecError: the folder can't be written or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # The contents must be on the disk before the name is, or a power cut leaves an empty file.
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; give the result the permissions that open() would give.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ActionrecError(
            f"{path} could not be written ({error.strerror or error}); "
            "free some space or choose a folder that you may write to."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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

    The lock is the file .NAME.lock beside `path`.

    Raises:
        ActionrecError: another process holds the lock; `message` tells the user.
    """
    # Imported here, so that help answers at once.
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise ActionrecError(message) from error
