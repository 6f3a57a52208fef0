"""Blocks of remote files, kept on the disk up to a set size; those that were used last stay.

    ACTIONREC_CACHE_SIZE=20 actionrec train --dataset csv --root remote.csv

The folder is `remote` in the cache folder; the size is in GB, 8 unless set, and 0 keeps nothing.
Any number of processes share it. Each block lies in a file of its own that begins with a checksum
of the rest, so that a block which a power cut has torn is fetched anew and never read.
"""

import hashlib
import logging
import os
import tempfile
import time
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import cache_folder

logger = logging.getLogger("actionrec")

BLOCK = 2 << 20  # bytes
STANDARD_SIZE = 8.0  # GB
# When the cache is full, it is emptied to this share of its size.
KEPT = 0.9
# A process looks at the whole folder each time that it has written this share of the size.
LOOK = 1 / 32
HALF_WRITTEN = ".part"
ABANDONED = 3600.0  # seconds after which a half-written file is that of a process that is gone


class BlockCache:
    """The cache of this process.

    Args:
        folder: Where blocks lie.
        limit: Most bytes of all blocks together; other processes may add a block each.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._unseen = limit  # bytes written since the folder was last looked at
        self._is_usable = limit > 0

    def get(self, file: str, number: int) -> bytes | None:
        """A block of the file with a key (see `key_of`), if it is there and whole."""
        path = self.folder / f"{file}-{number}"
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        block = data[4:]
        if data[:4] == zlib.crc32(block).to_bytes(4, "big"):
            return block
        with suppress(OSError):
            path.unlink()
        return None

    def put(self, file: str, number: int, block: bytes) -> None:
        """Keep a block; where that is not possible, reading goes on without, after a warning."""
        if not self._is_usable:
            return
        try:
            with self.writing(f"{file}-{number}", len(block) + 4) as handle:
                handle.write(zlib.crc32(block).to_bytes(4, "big") + block)
        except OSError as error:
            self._is_usable = False
            logger.warning(
                f"Remote videos are read without a cache from here on, because {self.folder} can't "
                f"be written ({error.strerror or error}); free some space, or set ACTIONREC_CACHE "
                "to another folder."
            )

    def writing(self, name: str, size: int) -> "_Writing":
        """A new file of that name for a `with` block, which appears when the block ends well.

        Raises:
            OSError: it can't be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(size)
        return _Writing(self.folder / name)

    def _make_room(self, size: int) -> None:
        self._unseen += size
        if self._unseen < LOOK * self.limit:
            return
        self._unseen = 0
        files, total = [], size
        with os.scandir(self.folder) as entries:
            for entry in entries:
                # Another process may delete it meanwhile.
                with suppress(OSError):
                    status = entry.stat()
                    files.append((status.st_mtime, status.st_size, entry.path))
                    total += status.st_size
        now = time.time()
        for changed, length, path in sorted(files):
            is_part = path.endswith(HALF_WRITTEN)
            if total <= (1 - LOOK) * self.limit and not is_part:
                continue
            if is_part and now - changed < ABANDONED:
                continue
            with suppress(OSError):
                os.unlink(path)
            total -= length
            if total <= KEPT * self.limit:
                return


class _Writing:
    """A file under another name until it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "tempfile._TemporaryFileWrapper[bytes]":
        self.file = tempfile.NamedTemporaryFile(
            dir=self.path.parent, suffix=HALF_WRITTEN, delete=False
        )
        return self.file

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self.file.close()
            if kind is None:
                os.replace(self.file.name, self.path)
        finally:
            with suppress(OSError):
                os.unlink(self.file.name)


def key_of(*facts: object) -> str:
    """The key of one version of a file, from what tells it from all others."""
    return hashlib.sha256(repr(facts).encode(errors="backslashreplace")).hexdigest()[:40]


def block_cache() -> BlockCache:
    """The cache in the user's folder, of the size that ACTIONREC_CACHE_SIZE sets.

    Raises:
        UsageError: the size is no number.
    """
    try:
        folder = cache_folder() / "remote"
    except ActionrecError:
        folder = None
    return _cache_in(os.getpid(), folder, cache_size())


@cache
def _cache_in(process: int, folder: Path | None, size: int) -> BlockCache:
    return BlockCache(folder or Path(), size if folder else 0)


def cache_size() -> int:
    """The size that ACTIONREC_CACHE_SIZE sets, in bytes.

    Raises:
        UsageError: it is no number.
    """
    chosen = os.environ.get("ACTIONREC_CACHE_SIZE", "")
    try:
        size = float(chosen or STANDARD_SIZE)
        if not 0 <= size < 1e6:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"The cache for remote videos can't have a size of {chosen!r}; set "
            "ACTIONREC_CACHE_SIZE (or --cache-size) to GB, such as 20, or to 0 for none."
        ) from None
    return int(size * 1e9)
