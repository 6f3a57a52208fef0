"""Videos that are named by an address in place of a path.

    actionrec predict https://example.org/video.mp4 s3://bucket/clips/a.mp4

An `Address` has those members of a `Path` that reading a video takes. Nothing is asked of a server
before one of them needs it.
"""

import math
import os
import posixpath
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from actionrec.errors import VideoError

if TYPE_CHECKING:
    from actionrec.video.remote import RemoteFile, RemoteState, Source

# A scheme of two letters or more, which no drive of Windows is; schemes may be chained by ::.
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, order=True)
class Address:
    """The address of a video: https://, or what fsspec opens, such as s3://, gs:// and hf://; a
    file in an archive; or a folder of frames with its rate.

    Attributes:
        url: the address.
        version: the only one of the file that `open` opens (see `pinned`); None for any.
    """

    url: str
    version: tuple[int, str] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        return re.split("://|::", self.url, maxsplit=1)[0].lower()

    @property
    def name(self) -> str:
        """The last part of the path, without a query."""
        first, _, rest = self.url.partition("::")
        path = first if "://" in first and self.scheme != FRAMES else rest
        if self.scheme in ("http", "https"):
            path = unquote(re.split("[?#]", path, maxsplit=1)[0])
        return PurePosixPath(path).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "Address":
        """The folder of the file, without a query."""
        scheme, place, chained = self._parts()
        if self.scheme in ("http", "https"):
            place = re.split("[?#]", place, maxsplit=1)[0]
        return Address(scheme + place.rpartition("/")[0] + chained)

    def __truediv__(self, name: str | PurePath) -> "Address":
        """The file that a relative path leads to from this folder.

        Raises:
            VideoError: it leads out of the server, bucket or archive.
        """
        scheme, place, chained = self._parts()
        path = PurePath(name).as_posix()
        if self.scheme in ("http", "https"):
            path = quote(path)
        joined = f"{place}/{path}" if place else path
        if ".." in path.split("/"):
            top = place.partition("/")[0]
            joined = posixpath.normpath(joined)
            if joined.partition("/")[0] != top and (top or joined.startswith("..")):
                raise VideoError(f"{path} leads out of {self}; correct the path.")
        return Address(scheme + joined + chained)

    def _parts(self) -> tuple[str, str, str]:
        """What stands before the server, bucket or name in an archive, these and the path, and the
        addresses that follow by ::."""
        scheme = ADDRESS.match(self.url)[0]
        place, mark, chained = self.url.removeprefix(scheme).partition("::")
        return scheme, place, mark + chained

    def absolute(self) -> "Address":
        """The address, with the whole path of a folder of frames."""
        if self.scheme != FRAMES:
            return self
        folder, rate = frame_folder_of(self)
        return frames_address(folder.absolute(), rate)

    def as_posix(self) -> str:
        return self.url

    def is_file(self) -> bool:
        """Whether there may be a file; whether there is one shows when it is read."""
        return True

    def stat(self) -> "RemoteState | os.stat_result":
        """Size and version of the file.

        Raises:
            VideoError: it can't be read.
        """
        from actionrec.video.remote import state_of

        if self.scheme == FRAMES:
            folder, _ = frame_folder_of(self)
            try:
                return folder.stat()
            except (OSError, ValueError) as error:
                raise VideoError(f"{folder} is not there; check the path.") from error
        return state_of(self.url, self.source())

    def pinned(self) -> "Address":
        """The address of the version that is there now, so that what was found out about it holds
        whenever it is opened.

        Raises:
            VideoError: it can't be read.
        """
        if self.scheme == FRAMES:
            return self
        found = self.stat()
        return self if self.version else replace(self, version=(found.st_size, found.version))

    def open(self, mode: str = "rb") -> "RemoteFile":
        """The file, for reading bytes anywhere in it.

        Raises:
            VideoError: it can't be read, or there is another version than the pinned one.
        """
        from actionrec.video.remote import RemoteFile, changed

        if mode != "rb":
            raise ValueError(f"{self} can only be read, not opened as {mode!r}.")
        file = RemoteFile(self.url, self.name, self.source())
        if self.version not in (None, (file.state.st_size, file.state.version)):
            file.close()
            raise changed(self.url)
        return file

    def source(self) -> "Source":
        """How the file is reached.

        Raises:
            VideoError: the address is none, or no library for it is installed.
        """
        from actionrec.video.remote import source_of
        from actionrec.video.tar import TarMember

        if self.scheme == FRAMES:
            raise VideoError(
                f"{self} is a folder of frames, and this needs a video file; make one of it."
            )
        if self.scheme != TAR:
            return source_of(self.url)
        name, archive = member_of(self)
        return TarMember(self.url, name, archive)


# What names a video.
VideoPath = Path | Address

# A file in a tar archive is tar://NAME::ARCHIVE; the archive is a path or an address.
TAR = "tar"
# A folder of frames with its rate is frames://RATE::FOLDER; the folder is a path.
FRAMES = "frames"


def member_address(name: str, archive: VideoPath) -> Address:
    """The address of a file in an archive."""
    return Address(f"{TAR}://{name}::{archive}")


def member_of(address: Address) -> tuple[str, VideoPath]:
    """The name, or pattern, and the archive of an address of `member_address`.

    Raises:
        VideoError: it names no archive.
    """
    name, _, archive = address.url.partition("://")[2].partition("::")
    if not archive:
        raise VideoError(f"{address} names no archive; write {TAR}://NAME::ARCHIVE.")
    return name, video_path(archive)


def frames_address(folder: Path, rate: float) -> Address:
    """The address of a folder of frames at a rate of its own, in frames a second."""
    return Address(f"{FRAMES}://{rate!r}::{folder}")


def frame_folder_of(address: Address) -> tuple[Path, float]:
    """The folder and the rate of an address of `frames_address`.

    Raises:
        VideoError: it has no rate or names no folder.
    """
    text, _, folder = address.url.partition("://")[2].partition("::")
    rate = rate_of(text)
    if rate is None or not folder or is_address(folder):
        raise VideoError(
            f"{address} is no folder of frames with its rate; write {FRAMES}://30::FOLDER."
        )
    return Path(folder), rate


def rate_of(text: str) -> float | None:
    """The rate in frames a second that a text states; None if it is no finite number above 0."""
    try:
        rate = float(text)
    except ValueError:
        return None
    # Python would read 1_000 as a number.
    return rate if 0 < rate < math.inf and "_" not in text else None


def is_address(name: str | Path | Address) -> bool:
    """Whether a name is an address, of a file of this machine too (file://)."""
    return isinstance(name, Address) or ADDRESS.match(os.fspath(name)) is not None


def video_path(name: str | Path | Address) -> VideoPath:
    """The path or address that a name stands for; file:// is a path."""
    if isinstance(name, Address | Path):
        return name
    if not is_address(name):
        return Path(name)
    if name.lower().startswith("file://"):
        return Path(url2pathname(urlsplit(name).path))
    return Address(name)


def spelled(name: str) -> str:
    """A path as Path writes it, so that ./a.mp4 and a.mp4 are one; an address as it is."""
    # Nothing to change, which is told ten times as fast.
    if os.sep == "/" and not ("//" in name or "/." in name or name.startswith(".")):
        return name.rstrip("/") or name
    return str(video_path(name))


def beside(folder: VideoPath, name: str) -> VideoPath:
    """The video that a list in `folder` names: an address, or a path relative to the folder.

    Raises:
        VideoError: the path leads out of the server or bucket of the list.
    """
    path = video_path(name)
    if not isinstance(path, Address):
        return folder / path
    if path.scheme == FRAMES and "::" in name:
        frames, rate = frame_folder_of(path)
        return frames_address(folder / frames, rate)
    if path.scheme == TAR and "::" in name:
        inside, archive = member_of(path)
        return member_address(inside, beside(folder, str(archive)))
    return path
