"""Downloads over HTTP that continue after an interruption.

    actionrec data download ucf101

The bytes that have arrived lie beside the target as NAME.part, and the server's name for this
version of the file (ETag or date) as NAME.part.version, so that two versions are never mixed.
"""

import ssl
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests import exceptions
from requests.adapters import HTTPAdapter
from rich import progress
from rich.console import Console

from actionrec.errors import ActionrecError

TIMEOUT = (10, 60)  # seconds to connect, seconds between two chunks
PAUSES = (1, 5, 15)  # seconds before each new attempt while nothing arrives
CHUNK = 1 << 16  # bytes; a killed process loses at most one chunk

# OpenSSL's codes for a chain that lacks an issuer's certificate.
INCOMPLETE_CHAIN = (2, 20, 21)


class ChainError(exceptions.SSLError):
    """A server's chain of certificates is incomplete. The message is the end of a sentence."""


class Session(requests.Session):
    """A `requests.Session` that never leaves https and completes certificate chains.

    Args:
        trusted: Hosts (HOST or HOST:PORT) whose certificates are not verified, as pip's
            `trusted-host`. Every other certificate is.
    """

    def __init__(self, trusted: Collection[str] = ()) -> None:
        super().__init__()
        self.trusted = set(trusted)

    def get_redirect_target(self, response: requests.Response) -> str | None:
        target = super().get_redirect_target(response)
        if target and response.url.startswith("https:"):
            if urlsplit(urljoin(response.url, target)).scheme != "https":
                raise exceptions.InvalidSchema("a redirect from https", response=response)
        return target

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        server = urlsplit(request.url)
        if self.trusted & {server.hostname, f"{server.hostname}:{server.port}"}:
            options["verify"] = False
        try:
            return super().send(request, **options)
        except exceptions.SSLError as error:
            refusal = _refused_certificate(error)
            if error.request is not request or not refusal:
                raise
            place = f"https://{server.netloc}/"
            if refusal.verify_code not in INCOMPLETE_CHAIN or place in self.adapters:
                raise
            self.mount(place, _ContextAdapter(_complete_chain(request.url, options)))
            return self.send(request, **options)


def download_file(
    url: str, path: Path, size: int, session: Session, pauses: Sequence[float] = PAUSES
) -> None:
    """Download the file at `url`, which has `size` bytes, to `path`.

    An earlier, interrupted download to `path` is continued if the server still has the same
    version. A broken connection is tried again after each of `pauses`, which start anew whenever
    bytes arrive. Progress goes to stderr: a line, and a bar on a terminal.

    Raises:
        requests.RequestException: the server can't be reached or refuses; see `reason`.
        ActionrecError: the server has a file of another size.
        OSError: the disk is full or can't be written.
    """
    part = part_of(path)
    if (furthest := size_of(part)) > size:
        part.unlink()
        furthest = 0
    beginning = f"Continuing at {furthest / 1e9:.2f} GB:" if furthest else "Downloading"
    amount = f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
    print(f"{beginning} {path.name} ({amount}) from {urlsplit(url).hostname}", file=sys.stderr)
    remaining = iter(pauses)
    with _progress_bar() as bar:
        task = bar.add_task(path.name, total=size, completed=furthest)
        while size_of(part) < size:
            try:
                for arrived in _receive(url, part, size, session):
                    bar.update(task, completed=arrived)
            except exceptions.RequestException as error:
                if size_of(part) > furthest:
                    furthest = size_of(part)
                    remaining = iter(pauses)
                pause = next(remaining, None) if is_temporary(error) else None
                if pause is None:
                    raise
                print(f"{path.name}: {reason(error)}; next attempt in {pause} s", file=sys.stderr)
                time.sleep(pause)
    part.rename(path)
    _version_file(part).unlink(missing_ok=True)


def size_at(url: str, session: Session) -> int:
    """The size in bytes of the file at `url`, which no record says, as its server states it.

    Raises:
        requests.RequestException: the server can't be reached or refuses; see `reason`.
        ActionrecError: the server doesn't state it.
    """
    headers = {"Accept-Encoding": "identity"}
    with session.get(url, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        answer.raise_for_status()
        stated = answer.headers.get("Content-Length", "")
    if not stated.isdigit():
        raise ActionrecError(
            f"The server of {without_credentials(url)} doesn't say how long the file is, so a "
            "broken download would not be noticed; download it with a browser."
        )
    return int(stated)


def part_of(path: Path) -> Path:
    """The file that holds the bytes of `path` that have arrived."""
    return path.with_name(f"{path.name}.part")


def size_of(path: Path) -> int:
    """The size of a file in bytes, 0 if it doesn't exist."""
    return path.stat().st_size if path.is_file() else 0


def reason(error: OSError) -> str:
    """Why a request or a file operation failed, without addresses, which may hold passwords."""
    if isinstance(error, ChainError):
        return str(error)
    if refusal := _refused_certificate(error):
        return f"its certificate was not accepted: {refusal.verify_message}"
    if isinstance(error, exceptions.HTTPError):
        return f"the server answered {error.response.status_code}"
    if isinstance(error, exceptions.Timeout) or "timed out" in str(error):
        return "no answer in time"
    reasons = {
        exceptions.SSLError: "no secure connection",
        exceptions.ChunkedEncodingError: "the connection broke",
        exceptions.ConnectionError: "no connection",
        exceptions.InvalidSchema: "it redirects to an address that is not https",
        exceptions.RequestException: type(error).__name__,
    }
    known = (text for kind, text in reasons.items() if isinstance(error, kind))
    return next(known, error.strerror or str(error))


def without_credentials(url: str) -> str:
    """The address without user, password and query, for messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _progress_bar() -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def is_temporary(error: exceptions.RequestException) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, exceptions.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    temporary = (exceptions.ConnectionError, exceptions.ChunkedEncodingError, exceptions.Timeout)
    return isinstance(error, temporary) and not _refused_certificate(error)


def _receive(url: str, part: Path, size: int, session: Session) -> Iterator[int]:
    """Append the server's answer to `part`; yield the size of `part` after each chunk."""
    version = _version_file(part)
    start = size_of(part) if version.is_file() else 0
    # "identity", because some servers call a .tar.gz a gzip-encoded .tar.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version.read_text()}
    with session.get(url, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        tag = answer.headers.get("ETag", "")
        if not tag or tag.startswith("W/"):  # weak: the bytes may differ (RFC 9110, 13.1.5)
            tag = answer.headers.get("Last-Modified", "")
        continued = start > 0 and answer.status_code in (206, 416)
        if continued:
            sent = answer.headers.get("Content-Range", "")
            if tag not in ("", headers["If-Range"]) or not sent.startswith(f"bytes {start}-"):
                version.unlink()  # the next request starts over
                return
        answer.raise_for_status()
        if not continued:
            stated = answer.headers.get("Content-Length", "")
            if stated.isdigit() and int(stated) != size:
                raise _another_size(url, f"{int(stated):,}", size)
            if start:
                print(f"{part.name}: the server can't continue it, starting over", file=sys.stderr)
            # In this order, so that no part ever lies beside the name of another version.
            version.unlink(missing_ok=True)
            part.write_bytes(b"")
            if tag:
                version.write_text(tag)
        # Unbuffered: a buffer that a full disk refused would be written again on closing.
        with part.open("ab", buffering=0) as file:
            for chunk in answer.iter_content(CHUNK):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
                if (arrived := file.tell()) > size:
                    part.unlink()
                    raise _another_size(url, f"more than {size:,}", size)
                yield arrived
    if size_of(part) < size:  # the server didn't say how much would come
        raise exceptions.ChunkedEncodingError()


def _another_size(url: str, found: str, size: int) -> ActionrecError:
    return ActionrecError(
        f"{without_credentials(url)} is not the published file: {found} bytes instead of "
        f"{size:,}; open the address in a browser, and update actionrec if the file was replaced."
    )


# Certificates


def _refused_certificate(error: object) -> ssl.SSLCertVerificationError | None:
    """OpenSSL's own error, which urllib3 and requests wrap in several ways."""
    if isinstance(error, ssl.SSLCertVerificationError) or not isinstance(error, Exception):
        return error if isinstance(error, Exception) else None
    inner = (error.__cause__, error.__context__, *error.args)
    return next(filter(None, map(_refused_certificate, inner)), None)


class _ContextAdapter(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=self.context)


def _complete_chain(url: str, options: dict[str, Any]) -> ssl.SSLContext:
    """An SSL context with the intermediate certificates that the server of `url` doesn't send.

    aia-chaser downloads them, as browsers do, from the addresses in the certificates (AIA, RFC
    5280), and verifies that they lead to a trusted root. OpenSSL verifies each connection again.

    Args:
        options: Of `Session.send`; `verify` names the trusted roots.
    """
    incomplete = f"{urlsplit(url).hostname} doesn't send the certificate of its issuer"
    if requests.utils.select_proxy(url, options["proxies"]):
        raise ChainError(f"{incomplete}, which can't be fetched through a proxy")
    try:
        from aia_chaser import AiaChaser
        from cryptography.hazmat.primitives.serialization import Encoding
    except ImportError as error:
        raise ChainError(
            f"{incomplete}, which only `pip install 'actionrec[download]'` can fetch"
        ) from error

    class Chaser(AiaChaser):
        def aia_chase_cert(self, certificate: Any) -> Iterator[Any]:
            # The base class follows a circle for ever; no public chain is longer.
            return islice(super().aia_chase_cert(certificate), 8)

    roots = requests.certs.where() if options["verify"] is True else options["verify"]
    try:
        # This context only looks at the server's certificate.
        looking = ssl.create_default_context(cafile=roots)
        looking.check_hostname = False
        looking.verify_mode = ssl.CERT_NONE
        chain = Chaser(looking).fetch_cert_chain_for_url(url)
        context = ssl.create_default_context(cafile=roots)
        # Python 3.13 sets this flag, which makes a root of every certificate in the context.
        context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN
        for certificate in chain[1:]:
            context.load_verify_locations(cadata=certificate.public_bytes(Encoding.DER))
    except Exception as error:  # an odd certificate may raise anything
        raise ChainError(
            f"{incomplete}, and the one that it names leads to no trusted root; if this network "
            "inspects connections, name its certificates in REQUESTS_CA_BUNDLE"
        ) from error
    return context
