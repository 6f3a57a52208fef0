"""The Python package indexes that pip and uv are configured with, as sources of single files.

Index pages are read for names, addresses and checksums; no package is installed, built or run.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

from pypi_simple import ACCEPT_ANY, PYPI_SIMPLE_ENDPOINT, ProjectPage, UnsupportedRepoVersionError

from actionrec.downloads import TIMEOUT, Session, reason, without_credentials


class PackageIndexes:
    """The configured indexes and folders, and a connection with pip's certificates and proxy."""

    def __init__(self) -> None:
        settings = pip_settings()
        self.session = Session(trusted=settings.get("trusted-host", "").split())
        self.session.verify = settings.get("cert") or True
        self.session.cert = settings.get("client-cert") or None
        if proxy := settings.get("proxy"):
            self.session.proxies = {"http": proxy, "https": proxy}
        self.links = [_as_url(place) for place in settings.get("find-links", "").split()]
        self.indexes = [_as_url(index).rstrip("/") for index in _index_addresses(settings)]

    def find(self, project: str, file: str, sha256: str, problems: list[str]) -> Iterator[str]:
        """Yield the addresses (https, http or file) of a file of a project, local ones first.

        Args:
            sha256: Files that an index lists with another checksum are passed over.
            problems: Receives a sentence about each page that can't be used.
        """
        pages = [*self.links, *(f"{index}/{project}/" for index in self.indexes)]
        found = False
        for page in sorted(dict.fromkeys(pages), key=lambda page: not page.startswith("file:")):
            try:
                offers = self._offers(page, project)
            except OSError as error:
                problems.append(f"{shown(page)}: {reason(error)}")
                continue
            except (ValueError, UnsupportedRepoVersionError):
                problems.append(f"{shown(page)}: not a list of packages")
                continue
            for url, listed_sha256 in offers:
                name = unquote(urlsplit(url).path).rpartition("/")[2]
                if name.lower().replace("-", "_") != file.lower().replace("-", "_"):
                    continue
                found = True
                if listed_sha256 in ("", sha256):
                    yield _with_credentials_of(page, url)
                else:
                    other = f"another {name} (sha256 {listed_sha256[:12]}...)"
                    problems.append(f"{shown(page)}: offers {other}")
        if not found:
            problems.append(f"{project} is in none of pip's {len(pages)} package sources")

    def _offers(self, page: str, project: str) -> list[tuple[str, str]]:
        """(address, sha256 or "") of the files that an index page or a folder lists."""
        offers, packages = [], []
        if page.startswith("file:"):
            path = local_path(page)
            if path.is_dir():
                offers = [(file.as_uri(), "") for file in path.iterdir()]
                path /= "index.html"
            if path.is_file():
                packages = ProjectPage.from_html(project, path.read_bytes(), path.as_uri()).packages
        else:
            answer = self.session.get(page, headers={"Accept": ACCEPT_ANY}, timeout=TIMEOUT)
            if answer.status_code != 404:  # the index doesn't know the project
                answer.raise_for_status()
                packages = ProjectPage.from_response(answer, project).packages
        return offers + [(package.url, package.digests.get("sha256", "")) for package in packages]


def pip_settings() -> dict[str, str]:
    """pip's configuration, from files and the environment: index-url, cert, proxy, ...

    Asks the pip of this environment or, as uv makes environments without pip, the one on the PATH.
    """
    # -P: a pip.py in the current folder must not run.
    for pip in ([sys.executable, "-P", "-m", "pip"], ["pip"]):
        try:
            answer = subprocess.run(
                [*pip, "config", "list"],
                env=os.environ | {"PIP_QUIET": "0"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        # :env:.index-url='https://...' or global.cert='/...'
        pattern = r"""^(:env:|[\w-]+)\.([\w-]+)=('.*'|".*")\s*$"""
        lines = re.findall(pattern, answer.stdout, re.MULTILINE)
        return {
            option: ast.literal_eval(value)
            for wanted in ("global", "install", "download", ":env:")  # the last one wins
            for section, option, value in lines
            if section == wanted
        }
    return {}


def _index_addresses(settings: dict[str, str]) -> list[str]:
    """Addresses of the indexes that pip and uv are configured with, PyPI's if there are none."""
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return []
    main = f"{settings.get('index-url', '')} {os.environ.get('UV_DEFAULT_INDEX', '')}"
    extra = f"{settings.get('extra-index-url', '')} {os.environ.get('UV_INDEX', '')}"
    indexes = (main.split() or [PYPI_SIMPLE_ENDPOINT]) + extra.split()
    return [re.sub(r"^[\w-]+=", "", index) for index in indexes]  # uv's NAME=ADDRESS


def local_path(url: str) -> Path:
    """The path of a file address."""
    return Path(url2pathname(urlsplit(url).path))


def shown(url: str) -> str:
    """An address or a path, fit for a message."""
    return str(local_path(url)) if url.startswith("file:") else without_credentials(url)


def _as_url(place: str) -> str:
    """A URL as it is; a path as a file address (a scheme of one letter is a drive)."""
    if len(urlsplit(place).scheme) > 1:
        return place
    return Path(place).expanduser().absolute().as_uri()


def _with_credentials_of(page: str, url: str) -> str:
    """The address of a file, with the index's user and password if it is on the same host."""
    credentials, at, host = urlsplit(page).netloc.rpartition("@")
    parts = urlsplit(url)
    if at and parts.netloc == host:
        return urlunsplit(parts._replace(netloc=f"{credentials}@{host}"))
    return url
