"""Large files from a server to the disk: `download` goes on where it was interrupted.

    actionrec data download ucf101

What has arrived lies beside the target as NAME.part; NAME.part.version holds the name that the
server gives to the version it belongs to, so that parts of two versions are never mixed.
Certificates are always verified. A server that forgets to send those between its own and the root
(www.crcv.ucf.edu does) is helped out, as browsers do it: see `_complete_chain`.
"""

import re
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from actionrec.errors import ActionrecError

# requests, rich and cryptography are imported where they are used, so that the command line
# starts at once.
if TYPE_CHECKING:
    import requests
    from cryptography.x509 import Certificate
    from requests.adapters import HTTPAdapter

TIMEOUT = (10, 60)  # seconds to connect, seconds between two pieces
PAUSES = (1, 5, 15)  # seconds before each new try, as long as nothing arrives
PIECE = 1 << 16  # bytes, what is lost at most when the process is killed


def download(url: str, path: Path, size: int) -> None:
    """Bring the file at `url`, which has `size` bytes, to `path`, which isn't there yet.

    Goes on with what earlier calls have left in PATH.part, if the server still has that version
    and can send the rest; else starts over. Tries again when the connection breaks, up to three
    times in a row without any progress. Progress goes to stderr: a line, and a bar where that is
    a terminal.

    Raises:
        ActionrecError: the file can't be had, is of another size or can't be written; what has
            arrived is kept.
    """
    from requests import RequestException
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    part = part_of(path)
    version = part.with_name(f"{part.name}.version")
    if (furthest := size_of(part)) > size:
        part.unlink()
        furthest = 0
    beginning = f"Going on at {furthest / 1e9:.2f} GB:" if furthest else "Downloading"
    print(
        f"{beginning} {path.name} ({size / 1e9:.2f} GB) from {urlsplit(url).hostname}",
        file=sys.stderr,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with _session(url) as session, Progress(*columns, console=console, disable=_quiet()) as bar:
        task = bar.add_task(path.name, total=size, completed=furthest)
        pauses = iter(PAUSES)
        while size_of(part) < size:
            try:
                for arrived in _receive(url, part, version, size, session):
                    bar.update(task, completed=arrived)
            except RequestException as error:
                if size_of(part) > furthest:
                    furthest = size_of(part)
                    pauses = iter(PAUSES)
                pause = next(pauses, None) if _may_pass(error) else None
                if pause is None:
                    raise ActionrecError(
                        f"{url} could not be downloaded ({what_went_wrong(error)}): run this "
                        "again later to go on with what has arrived, or put the file there "
                        f"yourself as {path}."
                    ) from error
                print(
                    f"{path.name}: {what_went_wrong(error)}; trying again in {pause} s",
                    file=sys.stderr,
                )
                time.sleep(pause)
    part.rename(path)
    version.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Where `download` keeps what has arrived of `path`."""
    return path.with_name(f"{path.name}.part")


def size_of(path: Path) -> int:
    """The bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def what_went_wrong(error: OSError) -> str:
    """What a failed request or file operation says, as a part of a sentence.

    It holds no address, because that may hold a password.
    """
    from requests import exceptions
    from urllib3.exceptions import ReadTimeoutError

    if isinstance(error, exceptions.SSLError):
        refusal = _refused_certificate(error)
        return f"its certificate was not accepted{f': {refusal.verify_message}' if refusal else ''}"
    if isinstance(error, exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, exceptions.HTTPError):
        return f"answered {error.response.status_code}"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, exceptions.ConnectionError):
        # requests knows a timeout only until the first byte.
        stalled = error.args and isinstance(error.args[0], ReadTimeoutError)
        return "no answer in time" if stalled else "no connection"
    if isinstance(error, exceptions.InvalidSchema):
        return "it leads to an address of a kind that is not allowed here"
    if isinstance(error, exceptions.RequestException):
        return type(error).__name__
    return error.strerror or str(error)


def _quiet() -> bool:
    return not sys.stderr.isatty()


def _may_pass(error: "requests.RequestException") -> bool:
    """Whether the same request may do better in a moment."""
    from requests import exceptions

    if isinstance(error, exceptions.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    passing = (exceptions.ConnectionError, exceptions.ChunkedEncodingError, exceptions.Timeout)
    return isinstance(error, passing) and not _refused_certificate(error)


def _receive(
    url: str, part: Path, version: Path, size: int, session: "requests.Session"
) -> Iterator[int]:
    """Append what the server sends to `part`; yields the bytes that are there by then.

    Raises:
        requests.RequestException: the server or the connection failed.
        ActionrecError: the server has another file, or the disk can't take it.
    """
    from requests import exceptions

    have = size_of(part)
    known = version.read_text() if have and version.is_file() else ""
    answer = _ask(url, have if known else 0, known, session)
    if answer.status_code == 206 and _version_of(answer) not in ("", known):
        # A server that knows ranges but not If-Range.
        answer.close()
        answer = _ask(url, 0, "", session)
    with answer:
        beginning = have if answer.status_code == 206 else 0
        _check_size(answer, have, url, size)
        answer.raise_for_status()
        if have and not beginning:
            print(f"{part.name}: the server can't continue it, starting over", file=sys.stderr)
        try:
            if beginning == 0:
                # In this order, so that a part never lies beside the name of another version.
                version.unlink(missing_ok=True)
                part.write_bytes(b"")
                version.write_text(_version_of(answer))
            # Unbuffered: a buffer that the full disk refused would be written again on closing.
            file = part.open("ab", buffering=0)
        except OSError as error:
            raise _not_written(part, error) from error
        with file:
            for piece in answer.iter_content(PIECE):
                beginning += len(piece)
                if beginning > size:
                    break
                rest = memoryview(piece)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    raise _not_written(part, error) from error
                yield beginning
    if beginning > size:
        part.unlink()
        raise _of_another_size(url, f"more than {size:,}", size)
    if beginning < size:  # where the server didn't say how much would come
        raise exceptions.ChunkedEncodingError()


def _ask(url: str, beginning: int, version: str, session: "requests.Session") -> Any:
    """The server's answer to the request for the file from byte `beginning` on."""
    # "identity", because some servers call a .tar.gz a gzip-encoded .tar.
    headers = {"Accept-Encoding": "identity"}
    if beginning:
        # If-Range: a server that has another version by now sends the whole file.
        headers |= {"Range": f"bytes={beginning}-", "If-Range": version}
    return _get(url, session, stream=True, timeout=TIMEOUT, headers=headers)


def _version_of(answer: "requests.Response") -> str:
    """What tells this version of the file from others, "" where the server has no such thing."""
    tag = answer.headers.get("ETag", "")
    # A weak tag doesn't promise the same bytes (RFC 9110, 13.1.5).
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _check_size(answer: "requests.Response", have: int, url: str, size: int) -> None:
    """Raise ActionrecError if the server has a file of another size than `size` bytes."""
    if answer.status_code == 416:  # the file ends before the bytes that were asked for
        raise _of_another_size(url, f"at most {have:,}", size)
    if answer.status_code == 206:
        sent = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not sent or int(sent[1]) != have:
            raise ActionrecError(
                f"{urlsplit(url).hostname} sent another part of {url} than was asked for; delete "
                "the .part file to start over."
            )
        stated = sent[2]
    else:
        stated = answer.headers.get("Content-Length", str(size))
    if answer.ok and stated.isdigit() and int(stated) != size:
        raise _of_another_size(url, f"{int(stated):,}", size)


def _of_another_size(url: str, found: str, size: int) -> ActionrecError:
    return ActionrecError(
        f"What {url} sends is not the published file: {found} bytes instead of {size:,}; look at "
        "that address with a browser, and update actionrec if the file was replaced."
    )


def _not_written(part: Path, error: OSError) -> ActionrecError:
    return ActionrecError(
        f"{part} could not be written ({error.strerror or error}); free some space or see to the "
        "permissions, then run this again: it goes on with what has arrived."
    )


# Certificates


def _session(url: str) -> "requests.Session":
    import requests

    session = requests.Session()
    if urlsplit(url).scheme == "https":
        # Else a redirect could leave the file to anybody on the way.
        del session.adapters["http://"]
    return session


def _get(url: str, session: "requests.Session", **options: Any) -> "requests.Response":
    """`session.get`, which also reaches servers that send an incomplete chain of certificates."""
    from requests import exceptions

    while True:
        try:
            return session.get(url, **options)
        except exceptions.SSLError as error:
            refusal = _refused_certificate(error)
            # The three ways of OpenSSL to say that an issuer's certificate is missing.
            if not refusal or refusal.verify_code not in (2, 20, 21):
                raise
            address = error.request.url  # after a redirect it is another host's
            server = f"https://{urlsplit(address).netloc}/"
            if server in session.adapters:
                raise
            session.mount(server, _adapter(_complete_chain(address, session)))


def _refused_certificate(error: object) -> ssl.SSLCertVerificationError | None:
    """OpenSSL's own error, which urllib3 and requests wrap in different ways."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error
    if not isinstance(error, Exception):
        return None
    inner = (error.__cause__, error.__context__, *error.args)
    return next(filter(None, map(_refused_certificate, inner)), None)


def _adapter(context: ssl.SSLContext) -> "HTTPAdapter":
    """What connects a session to a server with a context of our own, through proxies too."""
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options, ssl_context=context)

        def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
            return super().proxy_manager_for(*arguments, **options, ssl_context=context)

    return Adapter()


def _complete_chain(address: str, session: "requests.Session") -> ssl.SSLContext:
    """A context for the server of `address` that knows the certificates which it doesn't send.

    A certificate names where its issuer's lies ("AIA", RFC 5280, 4.2.2.1), over plain http,
    because nothing is believed for having been found there: the signatures must lead from this
    host's certificate to a root that requests trusts, which is checked here without the server
    and once more, by OpenSSL, in each connection.

    Raises:
        ActionrecError: no such chain is to be had.
    """
    import requests
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

    host = urlsplit(address).hostname
    bundle = session.merge_environment_settings(address, {}, None, None, None)["verify"]
    try:
        context = ssl.create_default_context(
            cafile=requests.certs.where() if bundle is True else bundle
        )
        # Python 3.13 sets it, and with it every certificate in the context is a root.
        context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN
        policy = PolicyBuilder().store(Store(_roots(context)))
        verifier = policy.build_server_verifier(x509.DNSName(host))
        own = x509.load_der_x509_certificate(_shown_certificate(address))
        issuers = [_fetch_issuer(own)]
        while True:
            try:
                # Only then may they go into the context: OpenSSL takes each self-signed
                # certificate in it for a root.
                chain = verifier.verify(own, issuers)
                break
            except VerificationError:
                if len(issuers) == 4:  # more than any public chain has
                    raise
                issuers.append(_fetch_issuer(issuers[-1]))
        missing = b"".join(certificate.public_bytes(Encoding.DER) for certificate in chain[1:])
        context.load_verify_locations(cadata=missing)
    except Exception as error:  # besides its own errors, whatever an odd certificate causes
        reason = what_went_wrong(error) if isinstance(error, OSError) else error
        raise ActionrecError(
            f"The certificate of {host} was not accepted: the server didn't send its issuer's, "
            f"and what the certificate names in its place leads to no trusted one ({reason}); if "
            "this network inspects connections, name its certificates in the environment variable "
            "REQUESTS_CA_BUNDLE."
        ) from error
    return context


def _roots(context: ssl.SSLContext) -> "list[Certificate]":
    """The certificates that a context trusts."""
    import warnings

    from cryptography import x509
    from cryptography.utils import CryptographyDeprecationWarning

    roots = []
    with warnings.catch_warnings():
        # Some old roots have a serial number that is no longer allowed.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        for data in context.get_ca_certs(binary_form=True):
            try:
                roots.append(x509.load_der_x509_certificate(data))
            except ValueError:
                continue
    return roots


def _shown_certificate(address: str) -> bytes:
    """The certificate that the server of `address` shows, in DER, still to be verified.

    This connection isn't verified, as a verified one doesn't come about yet; nothing is sent or
    received over it.
    """
    from http.client import HTTPSConnection

    from requests.adapters import HTTPAdapter
    from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    server = urlsplit(address)
    place = (server.hostname, server.port or 443)
    if proxy := select_proxy(address, get_environ_proxies(address)):
        proxy = prepend_scheme_if_needed(proxy, "http")
        gate = urlsplit(proxy)
        connection = HTTPSConnection(gate.hostname, gate.port, timeout=10, context=context)
        connection.set_tunnel(*place, HTTPAdapter().proxy_headers(proxy))
    else:
        connection = HTTPSConnection(*place, timeout=10, context=context)
    try:
        connection.connect()
        return connection.sock.getpeercert(binary_form=True)
    finally:
        connection.close()


def _fetch_issuer(certificate: "Certificate") -> "Certificate":
    """The certificate of a certificate's issuer from where it says that it lies, not verified.

    Raises:
        requests.RequestException, cryptography.x509.ExtensionNotFound, ValueError: there is none.
    """
    import requests
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates
    from cryptography.x509.oid import AuthorityInformationAccessOID

    places = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    for place in places:
        if place.access_method == AuthorityInformationAccessOID.CA_ISSUERS:
            address = place.access_location.value
            if urlsplit(address).scheme == "http":
                break
    else:
        raise ValueError("it doesn't name its issuer's certificate")
    plain = {"Accept-Encoding": "identity"}
    with requests.get(address, stream=True, timeout=TIMEOUT, headers=plain) as answer:
        answer.raise_for_status()
        data = answer.raw.read(1 << 16)  # bytes; such a file has some thousand
    # The two forms that RFC 5280 allows, and the one that some use nevertheless.
    if data.startswith(b"-----"):
        found = x509.load_pem_x509_certificates(data)
    elif urlsplit(address).path.endswith(".p7c"):
        found = load_der_pkcs7_certificates(data)
    else:
        found = [x509.load_der_x509_certificate(data)]
    for candidate in found:
        if candidate.subject == certificate.issuer:
            return candidate
    raise ValueError(f"{address} isn't the certificate of its issuer")
