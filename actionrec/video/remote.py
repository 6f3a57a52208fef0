"""Remote files, read by parts: the bytes of one version of a file, or an error.

    python -c "from actionrec.video.address import Address; \
               print(Address('https://example.org/video.mp4').open().read(12))"

Parts are fetched as blocks, which are kept on the disk (see `block_cache`). HTTP goes through
requests, all else through fsspec, which has a library for nearly every kind of storage.

What a server says of a file's version (ETag, date or the like) and its size are part of the name of
every block, and are compared whenever a block is fetched. So a file that changes while it is read
is an error, and two versions are never mixed.
"""

import io
import json
import logging
import os
import re
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
from requests import exceptions

from actionrec.downloads import Session, is_temporary, reason, without_credentials
from actionrec.errors import VideoError, reason_of
from actionrec.storage import package_for
from actionrec.text import json_text
from actionrec.video.block_cache import BLOCK, block_cache, key_of

logger = logging.getLogger("actionrec")

Result = TypeVar("Result")

TIMEOUT = (10, 30)  # seconds to connect, seconds between two chunks
SLOWEST = 120.0  # seconds for a block
PAUSES = (0.5, 2.0)  # seconds before each new attempt
CHUNK = 1 << 16  # bytes
# Seconds for which a server is not asked again whether a file has changed.
SETTLED = 60.0
# Blocks in memory, of all files together.
MOST_BLOCKS = 8
# Bytes at the beginning and at the end that stand for the version where a server tells none.
SAMPLE = 1 << 16
# What else than HTTP says of a version, in the words of fsspec's libraries.
VERSION_KEYS = (
    *("ETag", "etag", "generation", "md5Hash", "content_md5", "blob_id", "oid", "sha256"),
    *("LastModified", "last_modified", "updated", "mtime", "modified", "created"),
)


@dataclass(frozen=True)
class RemoteState:
    """One version of a remote file, with the names that `os.stat` has for it.

    Attributes:
        st_size: Bytes.
        version: What its server tells the version by.
        stated: The same, as far as each answer of the server repeats it; "" if none does.
        has_parts: Whether the server gives parts of it.
    """

    st_size: int
    version: str
    stated: str = ""
    has_parts: bool = True

    @property
    def st_mtime_ns(self) -> int:
        """A number that stands for the version, in place of the time of change."""
        return int(key_of(self.version)[:15], 16)

    @property
    def st_mtime(self) -> float:
        """Long ago: a version that is known by name needs no time to settle."""
        return 0.0


class Source(Protocol):
    """How the file at an address is reached; its errors are VideoErrors."""

    # Whether its parts are worth keeping on the disk.
    is_far: bool

    def state(self) -> RemoteState:
        """The version that is there now."""
        ...

    def part(self, begin: int, end: int, state: RemoteState) -> bytes:
        """The bytes from `begin` to before `end` of that version."""
        ...

    def whole(self, state: RemoteState) -> Path:
        """A file on the disk with all of that version, where it has no parts."""
        ...


class RemoteFile(io.RawIOBase):
    """A remote file, for reading bytes anywhere in it.

    Attributes:
        state: The version that is read.
        error: What ended the reading, for callers whose library swallows exceptions.

    Raises:
        VideoError: the file can't be read, or, from `read`, it has changed.
    """

    def __init__(self, url: str, name: str, source: Source) -> None:
        self.url, self.name, self.source = url, name, source
        self.error: VideoError | None = None
        self.state = state_of(url, source)
        self._key = key_of(url, self.state.st_size, self.state.version)
        self._position = 0
        self._whole = None
        if not self.state.has_parts:
            self._whole = source.whole(self.state).open("rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.state.st_size}
        if start[whence] + offset < 0:
            raise OSError(f"Byte {start[whence] + offset} of {self.url}")
        self._position = start[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as the file goes."""
        wanted = memoryview(buffer).cast("B")
        filled = 0
        try:
            while filled < len(wanted) and self._position < self.state.st_size:
                number, offset = divmod(self._position, BLOCK)
                block = self._block(number)
                piece = memoryview(block)[offset : offset + len(wanted) - filled]
                wanted[filled : filled + len(piece)] = piece
                filled += len(piece)
                self._position += len(piece)
        except VideoError as error:
            self.error = error
            raise
        return filled

    def _block(self, number: int) -> bytes:
        begin = number * BLOCK
        end = min(begin + BLOCK, self.state.st_size)
        if self._whole is not None:
            self._whole.seek(begin)
            return self._whole.read(end - begin)
        block = _recent.get(self._key, number)
        if block is None:
            kept = block_cache() if self.source.is_far else None
            block = kept and kept.get(self._key, number)
            if block is None:
                block = self.source.part(begin, end, self.state)
                if kept:
                    kept.put(self._key, number, block)
            _recent.put(self._key, number, block)
        return block

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()
        super().close()


class _RecentBlocks:
    """The blocks that were read last, in memory."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: str, number: int) -> bytes | None:
        with self._lock:
            if (block := self._blocks.get((file, number))) is not None:
                self._blocks.move_to_end((file, number))
            return block

    def put(self, file: str, number: int, block: bytes) -> None:
        with self._lock:
            self._blocks[file, number] = block
            while len(self._blocks) > MOST_BLOCKS:
                self._blocks.popitem(last=False)

    def forked(self) -> None:
        """A fork may have been taken while another thread held the lock."""
        self._lock = threading.Lock()


_recent = _RecentBlocks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_recent.forked)

# By address: when it was found, and what.
_states: dict[str, tuple[float, RemoteState]] = {}


def state_of(url: str, source: Source) -> RemoteState:
    """The version of a file, as it was within the last minute.

    Raises:
        VideoError: the file can't be read.
    """
    found, state = _states.get(url, (-SETTLED, None))
    if state is None or time.monotonic() - found > SETTLED:
        state = source.state()
        if len(_states) > 10_000:
            _states.clear()
        _states[url] = time.monotonic(), state
    return state


def source_of(url: str) -> Source:
    """How the file at an address is reached.

    Raises:
        VideoError: no library for the address is installed.
    """
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError as error:
        raise VideoError(f"{url} is no address that can be read ({error}); check it.") from error
    return _HttpSource(url) if scheme in ("http", "https") else _Stored(url)


def changed(url: str) -> VideoError:
    # What is asked next is the new version.
    _states.pop(url, None)
    return VideoError(
        f"{without_credentials(url)} has changed while it was read; read it again when nobody "
        "writes to it."
    )


# HTTP


class _Refused(exceptions.RequestException):
    """An answer that doesn't hold what was asked for, as the end of a sentence."""


class _HttpSource:
    is_far = True

    def __init__(self, url: str) -> None:
        self.url = url

    def state(self) -> RemoteState:
        return _repeated(self.url, self._state)

    def _state(self) -> RemoteState:
        known = self._known_whole()
        unless = {"If-None-Match": known.stated} if known else {}
        # Not HEAD: an address that is signed for GET gives nothing else.
        with self._get({"Range": "bytes=0-0"} | unless) as answer:
            if known and answer.status_code == 304:
                return known
            stated = _version(answer)
            if answer.status_code == 416:
                return RemoteState(0, stated or "empty", stated)
            if "html" in answer.headers.get("Content-Type", ""):
                raise VideoError(
                    f"{without_credentials(self.url)} is a web page, not a video or list; give the "
                    "address of the file itself."
                )
            size = _total(answer)
            if answer.status_code == 206 and size is not None:
                state = RemoteState(size, stated, stated)
            else:
                length = answer.headers.get("Content-Length", "")
                known = answer.status_code == 200 and length.isdigit()
                state = RemoteState(int(length) if known else -1, stated, stated, has_parts=False)
        if not state.has_parts:
            return self._state_of_whole(state)
        if not stated:
            ends = [self.part(0, min(SAMPLE, size), state)]
            ends.append(self.part(max(0, size - SAMPLE), size, state))
            state = replace(state, version=f"crc {zlib.crc32(b''.join(ends))}")
        return state

    def _state_of_whole(self, state: RemoteState) -> RemoteState:
        _tell_no_parts(urlsplit(self.url).netloc.rpartition("@")[2])
        if not state.version:
            state = replace(state, version=f"unknown, {os.getpid()} {time.time()}")
        if state.st_size < 0:
            state = replace(state, st_size=self.whole(state).stat().st_size)
        if state.stated:
            block_cache().put(key_of(self.url, "state"), 0, json_text(asdict(state)).encode())
        return state

    def _known_whole(self) -> RemoteState | None:
        """What was found the last time, of a server that gives no parts: to ask whether it has
        changed would otherwise begin the download."""
        found = block_cache().get(key_of(self.url, "state"), 0)
        return RemoteState(**json.loads(found)) if found else None

    def part(self, begin: int, end: int, state: RemoteState) -> bytes:
        return _repeated(self.url, lambda: self._part(begin, end, state))

    def _part(self, begin: int, end: int, state: RemoteState) -> bytes:
        deadline = time.monotonic() + SLOWEST
        with self._get({"Range": f"bytes={begin}-{end - 1}"}) as answer:
            if _version(answer) != state.stated or answer.status_code == 416:
                raise changed(self.url)
            if answer.status_code != 206:
                raise _Refused("its server gives parts of it no more")
            if _total(answer) not in (None, state.st_size):
                raise changed(self.url)
            data = bytearray()
            for chunk in answer.iter_content(CHUNK):
                data += chunk
                if time.monotonic() > deadline:
                    raise exceptions.Timeout
            sent = answer.headers.get("Content-Range", "")
        if len(data) != end - begin or not sent.startswith(f"bytes {begin}-"):
            raise _Refused(f"its server gives {len(data)} bytes where {end - begin} are announced")
        return bytes(data)

    def whole(self, state: RemoteState) -> Path:
        # It lies among the blocks.
        return _repeated(self.url, lambda: self._whole(state))

    def _whole(self, state: RemoteState) -> Path:
        kept = block_cache()
        name = key_of(self.url, state.version, "whole")
        path = kept.folder / name
        # Another process may delete it meanwhile.
        with suppress(OSError):
            if state.st_size in (-1, path.stat().st_size):
                os.utime(path)
                return path
        size = max(state.st_size, 0)
        no_room = (
            f"{without_credentials(self.url)} can't be read by parts, because its server gives "
            "none, and as a whole it doesn't fit into the cache; free some space and raise "
            "ACTIONREC_CACHE_SIZE, or download it first."
        )
        if size >= kept.limit:
            raise VideoError(no_room)
        try:
            with self._get({}) as answer, kept.writing(name, size) as file:
                if _version(answer) != state.stated:
                    raise changed(self.url)
                arrived = 0
                for chunk in answer.iter_content(CHUNK):
                    arrived += len(chunk)
                    if arrived > kept.limit:
                        raise VideoError(no_room)
                    file.write(chunk)
                if state.st_size not in (-1, arrived):
                    raise _Refused(
                        f"its server gives {arrived} bytes where {state.st_size} are announced"
                    )
                file.flush()
                # Without a checksum as blocks have it, it must be on the disk.
                os.fsync(file.fileno())
        except exceptions.RequestException:
            raise
        except OSError as error:
            raise VideoError(no_room) from error
        return path

    def _get(self, headers: dict[str, str]) -> requests.Response:
        session = _session(os.getpid(), threading.get_ident())
        headers = {"Accept-Encoding": "identity"} | headers
        answer = session.get(self.url, stream=True, timeout=TIMEOUT, headers=headers)
        if answer.status_code != 416:
            try:
                answer.raise_for_status()
            except exceptions.HTTPError:
                answer.close()
                raise
        return answer


@lru_cache(maxsize=32)
def _session(process: int, thread: int) -> Session:
    """The session of a thread: neither forks nor threads may share its connections."""
    return Session()


@cache
def _tell_no_parts(server: str) -> None:
    logger.warning(
        "The server %s gives no parts of files, so its videos are downloaded as a whole.", server
    )


def _version(answer: requests.Response) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _total(answer: requests.Response) -> int | None:
    """The size of the whole file, as the answer with a part of it states it."""
    found = re.fullmatch(r"bytes .*/(\d+)", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _repeated(url: str, attempt: Callable[[], Result]) -> Result:
    """What an attempt gives, of which there are several where the next one may succeed."""
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except exceptions.RequestException as error:
            again = is_temporary(error) or isinstance(error, _Refused)
            if pause is None or not again:
                raise VideoError(_sentence(url, error)) from error
            time.sleep(pause)
    raise AssertionError


def _sentence(url: str, error: exceptions.RequestException) -> str:
    name = without_credentials(url)
    if isinstance(error, exceptions.HTTPError):
        status = error.response.status_code
        if status in (404, 410):
            return f"{name} is not there ({status}); check the address."
        if status in (401, 403):
            return (
                f"{name} may not be read ({status}); the address has expired or needs a key: get a "
                "new one, or put user and password into ~/.netrc."
            )
    if isinstance(error, exceptions.TooManyRedirects):
        return f"{name} redirects in a circle; check the address."
    if isinstance(error, exceptions.InvalidURL | exceptions.InvalidSchema | UnicodeError):
        return f"{name} is no address that can be read ({reason(error)}); check it."
    why = str(error) if isinstance(error, _Refused) else reason(error)
    return f"{name} could not be read ({why}); check the server and the network, and try again."


# All other storage


class _Stored:
    """A file in storage that fsspec reaches."""

    is_far = True

    def __init__(self, url: str) -> None:
        self.url = url
        self.system, self.path = file_system(url)

    def state(self) -> RemoteState:
        info = self._call("info", self.path)
        if info.get("type") == "directory":
            raise VideoError(
                f"{self.url} is a folder, not a video or list; end it with / to "
                "read all videos in it."
            )
        size = info.get("size")
        if size is None:
            raise VideoError(f"{self.url} has no known size; download it first.")
        facts = {key: str(info[key]) for key in VERSION_KEYS if info.get(key) is not None}
        return RemoteState(int(size), repr(facts) if facts else repr(sorted(map(str, info))))

    def part(self, begin: int, end: int, state: RemoteState) -> bytes:
        data = self._call("cat_file", self.path, start=begin, end=end)
        # Most libraries can't ask for a part of one version.
        if self.state() != state:
            raise changed(self.url)
        if len(data) != end - begin:
            raise VideoError(
                f"{self.url} could not be read: its server gives {len(data)} bytes where "
                f"{end - begin} are announced; try again."
            )
        return data

    def whole(self, state: RemoteState) -> Path:
        raise NotImplementedError(f"{self.url} is read by parts.")

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        with storage_errors(self.url):
            return call(self.system, method, *arguments, **options)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn the errors of fsspec's libraries, which have no base in common, into VideoErrors."""
    scheme = re.split("://|::", url, maxsplit=1)[0].lower()
    try:
        yield
    except VideoError:
        raise
    except FileNotFoundError as error:
        raise VideoError(f"{url} is not there; check the address.") from error
    except ImportError as error:
        raise VideoError(
            f"{url} can't be read without a library for {scheme}://; "
            f"`pip install {package_for(scheme)}` and start again."
        ) from error
    except TimeoutError as error:
        raise VideoError(
            f"{url} could not be read (no answer in time); check the network, and try again."
        ) from error
    except Exception as error:
        if isinstance(error, PermissionError) or "credentials" in str(error).lower():
            raise VideoError(
                f"{url} may not be read ({reason_of(error)}); it needs a key, or is not there."
            ) from error
        raise VideoError(
            f"{url} could not be read ({reason_of(error)}); check the address and the network."
        ) from error


def call(system: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of a file system of fsspec, with a limit of time where it has an event loop."""
    system.invalidate_cache()
    if not getattr(system, "async_impl", False):
        return getattr(system, method)(*arguments, **options)
    from fsspec.asyn import sync

    function = getattr(system, f"_{method}")
    return sync(system.loop, function, *arguments, timeout=SLOWEST, **options)


def file_system(url: str) -> tuple[Any, str]:
    """The file system of fsspec that reaches an address, and the path in it.

    Raises:
        VideoError: there is none, its library is not installed, or it can't be reached.
    """
    with storage_errors(url):
        return import_module("fsspec.core").url_to_fs(url)
