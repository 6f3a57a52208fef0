"""Files are downloaded from local servers that break, change, move and show odd certificates."""

import datetime
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from local_server import serving

from actionrec import downloads
from actionrec.downloads import Session, download_file, reason
from actionrec.errors import ActionrecError

DATA = random.Random(0).randbytes(640_000)
SIZE = len(DATA)
BREAK = 2 * downloads.CHUNK


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """No proxies and certificates of this machine."""
    for variable in list(os.environ):
        if variable.lower().endswith("_proxy") or variable.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(variable)


@pytest.fixture
def serve():
    """Start servers, which stop with the test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(serving(*arguments))


@pytest.fixture
def server(serve):
    return serve(DATA)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "file.bin"


@pytest.fixture
def fetch(target):
    """Download /file.bin from a server; returns the bytes. Nothing else is left beside them."""

    def fetch(server, size=SIZE):
        target.unlink(missing_ok=True)
        with Session() as session:
            download_file(f"{server.url}/file.bin", target, size, session, pauses=(0, 0, 0))
        assert not list(target.parent.glob("file.bin.*"))
        return target.read_bytes()

    return fetch


def leave_part(target, data, version='"first"'):
    """What an interrupted download leaves."""
    target.with_name("file.bin.part").write_bytes(data)
    target.with_name("file.bin.part.version").write_text(version)


def part_of(target):
    return target.with_name("file.bin.part")


def starts(server):
    return [start for _, start in server.asked]


def failure(fetch, *arguments):
    with pytest.raises(requests.RequestException) as caught:
        fetch(*arguments)
    return reason(caught.value)


def test_a_broken_connection_continues_where_it_broke(server, fetch):
    server.break_after = BREAK
    assert fetch(server) == DATA
    assert starts(server) == list(range(0, SIZE, BREAK))
    assert server.sent == SIZE


def test_a_download_without_progress_ends_and_can_be_continued(server, fetch, target):
    server.break_after = BREAK
    server.end = 2 * BREAK
    assert failure(fetch, server) == "the connection broke"
    assert starts(server) == [0, BREAK] + [2 * BREAK] * 3
    assert part_of(target).read_bytes() == DATA[: 2 * BREAK]
    server.break_after = server.end = None
    assert fetch(server) == DATA
    assert starts(server)[-1] == 2 * BREAK


def test_a_stalled_connection_is_given_up(server, fetch, monkeypatch, capsys):
    monkeypatch.setattr(downloads, "TIMEOUT", (1, 0.1))
    server.pause = 0.5
    assert failure(fetch, server) == "no answer in time"
    assert "file.bin: no answer in time; next attempt" in capsys.readouterr().err


def test_nobody_listening_is_explained(target):
    with pytest.raises(requests.RequestException) as caught, Session() as session:
        download_file("http://127.0.0.1:9/file.bin", target, 5, session, pauses=())
    assert reason(caught.value) == "no connection"


def test_a_server_without_ranges_sends_everything_again(server, fetch, target, capsys):
    leave_part(target, b"x" * 1000)
    server.ranges = False
    assert fetch(server) == DATA
    assert starts(server) == [1000]
    assert "file.bin.part: the server can't continue it, starting over" in capsys.readouterr().err

    server.break_after = BREAK
    assert failure(fetch, server) == "the connection broke"


@pytest.mark.parametrize("conditions", [True, False])
def test_parts_of_two_versions_are_never_mixed(server, fetch, target, conditions):
    server.conditions = conditions
    leave_part(target, b"x" * 1000, '"an older one"')
    assert fetch(server) == DATA
    assert starts(server) == ([1000] if conditions else [1000, 0])


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_a_version_that_cannot_be_recognised_is_not_continued(server, fetch, tag):
    server.tag = tag
    server.break_after = BREAK
    assert failure(fetch, server) == "the connection broke"
    server.break_after = None
    assert fetch(server) == DATA
    assert set(starts(server)) == {0}


def test_a_whole_part_is_not_downloaded_again_and_one_too_long_is(server, fetch, target):
    leave_part(target, DATA)
    assert fetch(server) == DATA
    assert server.asked == []
    leave_part(target, DATA + b"x")
    assert fetch(server) == DATA
    assert starts(server) == [0]


def test_a_file_that_shrank_is_refused(server, fetch, target):
    server.conditions = False
    leave_part(target, DATA)
    with pytest.raises(ActionrecError, match="is not the published file: 640,000 bytes instead of"):
        fetch(server, SIZE + 1)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
@pytest.mark.parametrize("length", [True, False])
def test_a_file_of_another_size_is_refused(server, fetch, target, size, length):
    server.length = length
    if size > SIZE and not length:
        assert failure(fetch, server, size) == "the connection broke"
        return
    with pytest.raises(ActionrecError, match=r"is not the published file: .* bytes instead of 6"):
        fetch(server, size)
    assert starts(server) == [0] and not part_of(target).exists()


def test_redirects_are_followed(server, fetch):
    server.moved["/file.bin"] = "/elsewhere/a.bin"
    server.break_after = 3 * BREAK
    assert fetch(server) == DATA
    moved = [("/file.bin", 0), ("/elsewhere/a.bin", 0)]
    assert server.asked == moved + [(path, 3 * BREAK) for path, _ in moved]


def test_a_missing_file_is_asked_for_once_and_a_failing_server_again(server, fetch):
    server.statuses = [404]
    assert failure(fetch, server) == "the server answered 404"
    server.statuses = [500, 503]
    assert fetch(server) == DATA
    server.statuses = [500] * 9
    assert failure(fetch, server) == "the server answered 500"
    assert len(server.asked) == 1 + 3 + 4


def test_a_full_disk_keeps_the_bytes_that_have_arrived(server, fetch, target):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_001, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            fetch(server)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert part_of(target).read_bytes() == DATA[:300_001]
    assert fetch(server) == DATA
    assert starts(server) == [0, 300_001]


def test_a_killed_download_continues_in_the_next_process(server, fetch, target):
    server.pause = 0.02
    code = f"""
from pathlib import Path
from actionrec.downloads import Session, download_file
download_file("{server.url}/file.bin", Path({str(target)!r}), {SIZE}, Session())
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    give_up = time.monotonic() + 60
    while downloads.size_of(part_of(target)) < 200_000 and time.monotonic() < give_up:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    arrived = downloads.size_of(part_of(target))
    assert 200_000 <= arrived < SIZE

    server.pause = 0
    assert fetch(server) == DATA
    assert starts(server) == [0, arrived]


def test_progress_is_shown_on_a_terminal(server, fetch, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    fetch(server)
    captured = capsys.readouterr()
    assert captured.out == "" and ("kB/s" in captured.err or "MB/s" in captured.err)


# Certificates


def certificate(name, issuer=None, authority=True, host=None, named_issuer=None, address=None):
    """A certificate and its key: signed by `issuer`, or by itself.

    It may name another issuer than the one who signed, and the address of its issuer's
    certificate.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_name, issuer_key = (issuer[0].subject, issuer[1]) if issuer else (named(name), key)
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(named_issuer) if named_issuer else issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if host:
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        builder = builder.add_extension(names, critical=False)
    if address:
        place = x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(address)
        )
        builder = builder.add_extension(x509.AuthorityInformationAccess([place]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()), key


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def pem(*certificates):
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def der(one):
    return one.public_bytes(serialization.Encoding.DER)


ROOT = certificate("Root")
MIDDLE = certificate("Intermediate", ROOT)


@pytest.fixture
def secure(serve, tmp_path, monkeypatch):
    """Serve DATA with TLS, showing the given certificates; the root given is trusted."""

    def secure(own, *others, trusted=ROOT):
        (tmp_path / "root.pem").write_bytes(pem(trusted[0]))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "root.pem"))
        key = own[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (tmp_path / "own.pem").write_bytes(pem(own[0], *others) + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "own.pem")
        return serve(DATA, context)

    return secure


def of_localhost(issuer, address=None, host="localhost"):
    return certificate("own", issuer, authority=False, host=host, address=address)


def test_a_complete_chain_is_accepted(secure, fetch):
    server = secure(of_localhost(MIDDLE), MIDDLE[0])
    assert fetch(server) == DATA
    assert len(server.asked) == 1


@pytest.mark.parametrize("form", [der, pem])
def test_a_missing_intermediate_certificate_is_fetched(serve, secure, fetch, form):
    place = serve(form(MIDDLE[0]))
    server = secure(of_localhost(MIDDLE, f"{place.url}/i.crt"))
    server.break_after = 3 * BREAK
    assert fetch(server) == DATA
    assert starts(server) == [0, 3 * BREAK]
    assert place.asked == [("/i.crt", 0)]  # once, however often the connection breaks


def test_several_missing_certificates_are_fetched(serve, secure, fetch):
    first = serve(der(MIDDLE[0]))
    second = certificate("Second", MIDDLE, address=f"{first.url}/middle.crt")
    place = serve(der(second[0]))
    assert fetch(secure(of_localhost(second, f"{place.url}/s"))) == DATA


def test_a_certificate_is_fetched_for_the_host_of_a_redirect(serve, secure, fetch):
    place = serve(der(MIDDLE[0]))
    moved = secure(of_localhost(MIDDLE, f"{place.url}/i.crt"))
    complete = secure(of_localhost(MIDDLE), MIDDLE[0])
    complete.moved["/file.bin"] = f"{moved.url}/moved.bin"
    assert fetch(complete) == DATA
    assert moved.asked == [("/moved.bin", 0)]


def test_a_redirect_from_https_to_http_is_refused(server, secure, fetch):
    secure_server = secure(of_localhost(ROOT))
    secure_server.moved["/file.bin"] = f"{server.url}/file.bin"
    assert failure(fetch, secure_server) == "it redirects to an address that is not https"
    assert server.asked == []


def test_without_the_extra_or_behind_a_proxy_the_message_says_so(secure, serve, fetch, monkeypatch):
    server = secure(of_localhost(MIDDLE, "http://127.0.0.1:9/i.crt"))
    proxy = serve()
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "aia_chaser", None)
        assert failure(fetch, server) == (
            "localhost doesn't send the certificate of its issuer, which only "
            "`pip install 'actionrec[download]'` can fetch"
        )
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    assert "can't be fetched through a proxy" in failure(fetch, server)
    assert fetch(secure(of_localhost(MIDDLE), MIDDLE[0])) == DATA


NO_ROOT = "leads to no trusted root"


def refused(fetch, server, expected):
    assert expected in failure(fetch, server)
    assert server.asked == []


def test_an_unknown_root_is_refused(serve, secure, fetch):
    place = serve(der(MIDDLE[0]))
    own = of_localhost(MIDDLE, f"{place.url}/i.crt")
    refused(fetch, secure(own, trusted=certificate("Other")), NO_ROOT)
    refused(fetch, secure(own, trusted=certificate("Root")), NO_ROOT)
    # The server sends the whole chain.
    server = secure(own, MIDDLE[0], ROOT[0], trusted=certificate("Other"))
    refused(fetch, server, "its certificate was not accepted: self")


def test_a_wrong_host_name_is_refused(serve, secure, fetch):
    place = serve(der(MIDDLE[0]))
    own = of_localhost(MIDDLE, f"{place.url}/i.crt", host="elsewhere")
    refused(fetch, secure(own, MIDDLE[0]), "not accepted: Hostname mismatch")
    refused(fetch, secure(own), "not accepted: Hostname mismatch")


# OpenSSL compares names without regard to case.
@pytest.mark.parametrize("issuer_name", ["Fake", "fAKE", "Root"])
def test_a_fetched_certificate_is_no_root(serve, secure, fetch, issuer_name):
    place = serve()
    # Its issuer is, by its own word, at the same address: a circle.
    fake = certificate("Fake", named_issuer=issuer_name, address=f"{place.url}/f.crt")
    place.default = der(fake[0])
    refused(fetch, secure(of_localhost(fake, f"{place.url}/f.crt")), NO_ROOT)
    assert place.asked


@pytest.mark.parametrize("partial_chains", [False, True])  # True is Python 3.13's default
def test_a_certificate_that_may_not_sign_is_no_issuer(
    serve, secure, fetch, monkeypatch, partial_chains
):
    original = ssl.create_default_context

    def create(**options):
        context = original(**options)
        if partial_chains:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    monkeypatch.setattr(ssl, "create_default_context", create)
    ordinary = certificate("Ordinary", ROOT, authority=False, host="example.org")
    place = serve(der(ordinary[0]))
    server = secure(of_localhost(ordinary, f"{place.url}/o.crt"))
    refused(fetch, server, "its certificate was not accepted")


@pytest.mark.parametrize("data", [b"", b"no certificate", der(certificate("Stranger")[0])])
def test_rubbish_in_place_of_the_issuer_is_refused(serve, secure, fetch, data):
    place = serve(data)
    refused(fetch, secure(of_localhost(MIDDLE, f"{place.url}/i")), NO_ROOT)


def test_a_certificate_that_names_no_issuer_is_refused(secure, fetch):
    refused(fetch, secure(of_localhost(MIDDLE)), NO_ROOT)
