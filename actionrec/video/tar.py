"""Files in a tar archive, read where they lie: WebDataset's shards, here and at addresses.

    actionrec predict shard-000.tar 'tar://*.mp4::https://example.org/shard-001.tar'

A file in an archive has the address tar://NAME::ARCHIVE; the archive is a path or an address. Its
parts are read from the archive's bytes, so nothing is unpacked, and an archive that changes is
noticed as any other file.
"""

import tarfile
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from actionrec.errors import VideoError
from actionrec.video.remote import RemoteState, changed


class Archive(Protocol):
    """A path or an address."""

    name: str

    def stat(self) -> Any: ...

    def open(self, mode: str) -> BinaryIO: ...


class TarMember:
    """A file in an archive, as `remote.Source`; the archive keeps its own parts, if it is far."""

    is_far = False

    def __init__(self, url: str, name: str, archive: Archive) -> None:
        self.url, self.name, self.archive = url, name, archive

    def state(self) -> RemoteState:
        begin, size = place_of(self.archive, self.name)
        return RemoteState(size, repr((version_of(self.archive), begin)))

    def part(self, begin: int, end: int, state: RemoteState) -> bytes:
        first, _ = place_of(self.archive, self.name)
        data = read_part(self.archive, first + begin, end - begin)
        if self.state() != state:
            raise changed(self.url)
        return data

    def whole(self, state: RemoteState) -> Path:
        raise NotImplementedError(f"{self.url} is read by parts.")


def members_of(archive: Archive) -> dict[str, tuple[int, int]]:
    """Where the files of an archive lie, by name: their first byte and number of bytes.

    Raises:
        VideoError: it can't be read or is no plain tar archive.
    """
    if archive.name.lower().endswith((".gz", ".tgz", ".bz2", ".xz", ".zst")):
        raise VideoError(f"{archive} is compressed, so no part can be read alone; unpack it.")
    return _members(archive, version_of(archive))


def version_of(archive: Archive) -> tuple[int, int]:
    """What tells the versions of an archive apart.

    Raises:
        VideoError: it can't be read.
    """
    try:
        found = archive.stat()
    except (OSError, ValueError) as error:
        raise VideoError(f"{archive} is not there; check the path.") from error
    return found.st_size, found.st_mtime_ns


def opened_archive(archive: Archive) -> BinaryIO:
    """An archive, for reading bytes.

    Raises:
        VideoError: it can't be read.
    """
    try:
        return archive.open("rb")
    except OSError as error:
        raise VideoError(f"{archive} may not be read ({error.strerror}).") from error


@lru_cache(maxsize=64)
def _members(archive: Archive, version: tuple[int, int]) -> dict[str, tuple[int, int]]:
    try:
        with opened_archive(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            return {
                each.name: (each.offset_data, each.size)
                for each in tar
                if each.isreg() and not each.sparse
            }
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise VideoError(
            f"{archive} can't be read as a tar archive ({error}); it is damaged or incomplete: "
            "copy or download it again."
        ) from error


def read_member(archive: Archive, name: str) -> bytes:
    """All bytes of a small file in an archive.

    Raises:
        VideoError: it is not there, or can't be read.
    """
    begin, size = place_of(archive, name)
    return read_part(archive, begin, size)


def place_of(archive: Archive, name: str) -> tuple[int, int]:
    """The first byte and the number of bytes of a file in an archive.

    Raises:
        VideoError: it is not there.
    """
    try:
        return members_of(archive)[name]
    except KeyError:
        raise VideoError(f"{archive} has no file {name}; check the name.") from None


def read_part(archive: Archive, begin: int, size: int) -> bytes:
    """Bytes of an archive.

    Raises:
        VideoError: they can't be read.
    """
    with opened_archive(archive) as file:
        file.seek(begin)
        data = file.read(size)
    if len(data) < size:
        raise VideoError(f"{archive} was cut off; copy or download it again.")
    return data
