"""Files on disk: which are videos, and how to write one so that it is whole or not there."""

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from actionrec.errors import ActionrecError, Failure

VIDEO_SUFFIXES = frozenset(
    ".avi .mp4 .mkv .mov .m4v .webm .mpg .mpeg .ts .m2ts .wmv .flv .3gp .ogv".split()
)


def cache_folder() -> Path:
    """Where we keep what is made once: $ACTIONREC_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("ACTIONREC_CACHE"):
        return Path(chosen).expanduser()
    return _user_cache_folder()


@cache
def _user_cache_folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("actionrec")


def videos_below(folder: Path) -> list[Path]:
    """The files below `folder`, at any depth, that have the suffix of a video, sorted.

    Hidden files and folders are passed over.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def find_videos(paths: Iterable[str | Path]) -> list[Path | Failure]:
    """Every video that `paths` name: files, folders (searched to the bottom) and patterns.

    A file is taken whatever it is called; in a folder those with the suffix of a video are. A
    path that leads to nothing becomes a Failure in its place.
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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    When the block fails, the temporary file is removed and `path` is left as it was. The
    temporary name keeps the suffix of `path`, because writers choose the format by it.

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
        # mkstemp makes private files; give the result the permissions that open() would give.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise ActionrecError(
            f"{path} could not be written ({error.strerror or error}); "
            "free some space or choose a folder that you may write to."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(path: Path, message: str) -> Iterator[None]:
    """Keep other processes that ask for the same `path` out while the block lasts.

    The lock lies beside `path` under the name .NAME.lock.

    Raises:
        ActionrecError: another process has it; `message` is what the user reads.
    """
    # Imported here, so that the command line answers at once.
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise ActionrecError(message) from error
