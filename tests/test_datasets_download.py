"""UCF-101 is downloaded from a local server that these tests serve, unpacked and counted."""

import datetime
import os
import random
import shutil
import signal
import ssl
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from actionrec import downloads
from actionrec.datasets import download as module
from actionrec.datasets.download import Source, VideoCount, download
from actionrec.datasets.ucf101 import open_ucf101
from actionrec.errors import ActionrecError, UsageError

# Two classes, one of them with the odd spelling, 8 groups of 2 clips, of 20 kB each.
VIDEOS = {
    f"UCF-101/{folder}/v_{word}_g{group:02d}_c{clip:02d}.avi": random.Random(
        f"{word}{group}{clip}"
    ).randbytes(20_000)
    for folder, word in (("Archery", "Archery"), ("HandstandPushups", "HandStandPushups"))
    for group in range(1, 9)
    for clip in (1, 2)
}


def rar_of(files, mode=stat.S_IFREG | 0o644):
    """A RAR 4 archive of uncompressed files, which needs no program that packs."""

    def block(kind, flags, fields, data=b""):
        header = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
        return struct.pack("<H", zlib.crc32(header) & 0xFFFF) + header + data

    blocks = [b"Rar!\x1a\x07\x00", block(0x73, 0, bytes(6))]
    for name, data in files.items():
        size, name = len(data), name.replace("/", "\\").encode()
        fields = struct.pack(
            "<IIBIIBBHI", size, size, 3, zlib.crc32(data), 0, 20, 0x30, len(name), mode
        )
        blocks.append(block(0x74, 0x8000, fields + name, data))
    return b"".join([*blocks, block(0x7B, 0x4000, b"")])


ARCHIVE = rar_of(VIDEOS)
SIZE = len(ARCHIVE)
BREAK = 2 * downloads.PIECE


class Server(ThreadingHTTPServer):
    """Serves `data` at every path, and notes what was asked of it."""

    daemon_threads = True

    def __init__(self, data=ARCHIVE):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = data
        self.tag = '"first"'
        self.asked = []  # (path, first byte that was asked for)
        self.sent = 0  # bytes
        self.break_after = None  # bytes of an answer after which the connection is cut
        self.end = None  # the byte that is never sent
        self.pause = 0  # seconds after each 16 kB
        self.ranges = True
        self.conditions = True  # whether it knows If-Range
        self.length = True  # whether it says how long an answer will be
        self.statuses = []  # of the next answers
        self.moved = {}  # path -> address
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # clients that refuse the certificate or go away


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        part = self.headers.get("Range")
        start = int(part.removeprefix("bytes=").removesuffix("-")) if part else 0
        server.asked.append((self.path, start))
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        if self.path in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[self.path])
            return self.end_headers()
        if not server.ranges or (
            server.conditions and self.headers.get("If-Range", server.tag) != server.tag
        ):
            start = 0
        size = len(server.data)
        if start >= size:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if server.tag:
            self.send_header("ETag", server.tag)
        if server.length:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        end = size if server.end is None else server.end
        if server.break_after is not None:
            end = min(end, start + server.break_after)
        for position in range(start, end, 1 << 14):
            piece = server.data[position : min(end, position + (1 << 14))]
            server.sent += len(piece)
            self.wfile.write(piece)
            time.sleep(server.pause)

    def do_CONNECT(self):
        """As a proxy does: pass on what comes from either side."""
        import select
        import socket

        self.server.asked.append(("CONNECT", self.path))
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            self.send_response(200)
            self.end_headers()
            sides = {self.connection: other, other: self.connection}
            while True:
                for side in select.select(list(sides), [], [])[0]:
                    if not (data := side.recv(1 << 16)):
                        return
                    sides[side].sendall(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    """Start servers, which stop with the test."""
    running = []

    def serve(data=ARCHIVE, context=None):
        server = Server(data)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.url = f"https://localhost:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return server

    yield serve
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(serve):
    return serve()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """No proxies, no certificates of this machine, no waiting."""
    for variable in list(os.environ):
        if variable.lower().endswith("_proxy") or variable.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(variable)
    monkeypatch.setattr(downloads, "PAUSES", (0, 0, 0))


def source_at(server, **changes):
    values = {
        "url": f"{server.url}/files/UCF101.rar",
        "size": SIZE,
        "unpacked": 1_000_000,
        "folder": "UCF-101",
        "labels": ("Archery", "HandstandPushups"),
        "videos": len(VIDEOS),
        "groups": 8,
    }
    return Source(**(values | changes))


@pytest.fixture
def source(server, monkeypatch):
    """The data set "ucf101", published at the local server."""
    monkeypatch.setitem(module.SOURCES, "ucf101", source_at(server))
    return module.SOURCES["ucf101"]


FAKE = """#!/bin/sh
echo "{program} $@" >> "{folder}/calls"
PATH=/usr/bin:/bin
{before}
for word in "$@"; do
    case "$word" in
        */UCF101.rar) archive="$word" ;;
        */.UCF-101.unpacking*) folder="${{word#-o}}" ;;
    esac
done
cp -R "{folder}/contents/." "$folder"
{after}
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with nothing but fake programs, which "unpack" the files of VIDEOS.

    Their calls are listed in PATH/calls; `before` and `after` are shell commands.
    """
    folder = tmp_path / "bin"
    for name, contents in VIDEOS.items():
        path = folder / "contents" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    monkeypatch.setenv("PATH", str(folder))

    def add(program, before="", after=""):
        script = folder / program
        script.write_text(FAKE.format(program=program, folder=folder, before=before, after=after))
        script.chmod(0o755)
        return folder / "calls"

    return add


@pytest.fixture
def root(tmp_path):
    return tmp_path / "the data"


def part(root, name="UCF101.rar"):
    return root / f"{name}.part"


def files_below(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


# The whole way


def test_the_data_set_is_downloaded_unpacked_counted_and_opened(
    source, server, programs, root, capsys
):
    programs("bsdtar")
    assert download("ucf101", root) == VideoCount(root / "UCF-101", 32, 2)
    assert files_below(root) == VIDEOS  # neither the archive nor temporary files are left
    opened = open_ucf101(root)
    assert (len(opened.train), len(opened.val)) == (4, 28)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Downloading UCF101.rar (0.00 GB) from 127.0.0.1",
        f"Unpacking {root}/UCF101.rar with bsdtar",
        f"{root}/UCF-101 is complete, {root}/UCF101.rar was deleted.",
    ]


def test_a_complete_data_set_is_left_alone(source, server, programs, root, capsys):
    programs("bsdtar")
    download("ucf101", root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    server.asked.clear()
    assert download("ucf101", root) == VideoCount(root / "UCF-101", 32, 2)
    # The folder itself may be named too, as open_ucf101 takes it.
    assert download("ucf101", root / "UCF-101") == VideoCount(root / "UCF-101", 32, 2)
    assert server.asked == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert f"{root}/UCF-101 is complete, nothing is downloaded." in capsys.readouterr().err


def test_a_complete_archive_is_not_downloaded_again(source, server, programs, root):
    programs("bsdtar")
    root.mkdir()
    (root / "UCF101.rar").write_bytes(ARCHIVE)
    assert download("ucf101", root).videos == 32
    assert server.asked == [] and files_below(root) == VIDEOS


def test_an_archive_of_another_size_is_not_replaced(source, server, programs, root):
    programs("bsdtar")
    root.mkdir()
    (root / "UCF101.rar").write_bytes(ARCHIVE[:1000])
    with pytest.raises(ActionrecError, match=r"UCF101.rar has 1,000 bytes instead of the 64"):
        download("ucf101", root)
    assert server.asked == [] and files_below(root) == {"UCF101.rar": ARCHIVE[:1000]}


def test_an_incomplete_data_set_is_not_replaced_and_names_are_missed(source, server, root):
    present = dict(VIDEOS)
    del present["UCF-101/Archery/v_Archery_g03_c01.avi"]
    for clip in (1, 2):
        del present[f"UCF-101/HandstandPushups/v_HandStandPushups_g08_c0{clip}.avi"]
    present["UCF-101/HandstandPushups/v_Archery_g03_c01.avi"] = b"in the wrong folder"
    for name, contents in present.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    with pytest.raises(ActionrecError) as caught:
        download("ucf101", root)
    assert str(caught.value) == (
        f"{root}/UCF-101 is there but has 29 videos of 2 classes instead of 32 of 2 (missing: "
        "v_Archery_g03_c01.avi, v_HandstandPushups_g08_c01.avi); move it away or delete it to "
        "download ucf101 anew."
    )
    assert server.asked == [] and files_below(root) == present

    shutil.rmtree(root / "UCF-101" / "Archery")
    with pytest.raises(ActionrecError, match=r"\(missing: all of Archery, v_Handstand"):
        download("ucf101", root)


def test_only_known_data_sets_are_downloaded(root):
    with pytest.raises(UsageError, match="no data set 'kinetics' to download; .* ucf101"):
        download("kinetics", root)


def test_ucf101_is_what_its_site_publishes():
    published = module.SOURCES["ucf101"]
    assert published.url == "https://www.crcv.ucf.edu/data/UCF101/UCF101.rar"
    assert (published.size, published.videos, len(published.labels)) == (6_932_971_618, 13320, 101)


def test_a_full_disk_is_noticed_before_the_download(source, server, programs, root, monkeypatch):
    programs("bsdtar")
    usage = shutil._ntuple_diskusage(10**12, 10**12, 1_500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ActionrecError, match=r"has 0.0 GB of free space, but ucf101 needs another"):
        download("ucf101", root)
    assert server.asked == []
    # What is already there needs no more space.
    part(root).write_bytes(ARCHIVE[:300_000])
    assert download("ucf101", root).videos == 32


def test_a_folder_that_cannot_be_written_is_explained(source, server, programs, tmp_path):
    programs("bsdtar")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ActionrecError, match="file/data could not be written"):
        download("ucf101", tmp_path / "file" / "data")


def test_two_downloads_to_one_folder_do_not_mix(source, server, programs, root):
    filelock = pytest.importorskip("filelock")
    programs("bsdtar")
    root.mkdir()
    with filelock.FileLock(root / ".UCF101.rar.lock"):
        with pytest.raises(ActionrecError, match="Another actionrec is downloading UCF101.rar to"):
            download("ucf101", root)
    assert server.asked == []


# Connections that break


@pytest.fixture
def fetch(server, tmp_path):
    """Download the archive from the server; returns what has arrived."""

    def fetch(size=SIZE):
        target = tmp_path / "UCF101.rar"
        target.unlink(missing_ok=True)
        downloads.download(f"{server.url}/UCF101.rar", target, size)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["UCF101.rar"]
        return target.read_bytes()

    return fetch


def starts(server):
    return [start for _, start in server.asked]


def test_a_broken_connection_goes_on_where_it_broke(server, fetch):
    server.break_after = BREAK
    assert fetch() == ARCHIVE
    assert starts(server) == list(range(0, SIZE, BREAK))
    assert server.sent == SIZE


def test_a_download_without_progress_ends(server, fetch, tmp_path):
    server.break_after = BREAK
    server.end = 2 * BREAK
    with pytest.raises(ActionrecError, match=r"downloaded \(the connection broke off\): run"):
        fetch()
    assert starts(server) == [0, BREAK] + [2 * BREAK] * 3
    assert part(tmp_path).read_bytes() == ARCHIVE[: 2 * BREAK]

    server.break_after = server.end = None
    assert fetch() == ARCHIVE


def test_a_stalled_connection_is_given_up(server, fetch, monkeypatch, capsys):
    monkeypatch.setattr(downloads, "TIMEOUT", (1, 0.1))
    server.pause = 0.5
    monkeypatch.setattr(downloads, "PAUSES", (0,))
    with pytest.raises(ActionrecError, match=r"downloaded \(no answer in time\): run"):
        fetch()
    assert "UCF101.rar: no answer in time; trying again in 0 s" in capsys.readouterr().err


def test_nobody_listening_is_explained(tmp_path):
    with pytest.raises(ActionrecError, match=r"could not be downloaded \(no connection\): run"):
        downloads.download("http://127.0.0.1:9/UCF101.rar", tmp_path / "UCF101.rar", 5)


def test_a_server_without_ranges_sends_all_again(server, fetch, tmp_path, capsys):
    part(tmp_path).write_bytes(b"x" * 1000)
    (tmp_path / "UCF101.rar.part.version").write_text(server.tag)
    server.ranges = False
    assert fetch() == ARCHIVE
    assert starts(server) == [1000]
    assert "UCF101.rar.part: the server can't continue it, starting over" in capsys.readouterr().err


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(server, fetch):
    server.ranges = False
    server.break_after = BREAK
    with pytest.raises(ActionrecError, match="the connection broke off"):
        fetch()
    assert starts(server) == [0] + [BREAK] * 3


@pytest.mark.parametrize("conditions", [True, False])
def test_parts_of_two_versions_are_never_mixed(server, fetch, tmp_path, conditions):
    server.conditions = conditions
    part(tmp_path).write_bytes(b"x" * 1000)
    (tmp_path / "UCF101.rar.part.version").write_text('"an older one"')
    assert fetch() == ARCHIVE
    assert starts(server) == ([1000] if conditions else [1000, 0])


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_a_version_that_cannot_be_recognised_is_not_continued(server, fetch, tmp_path, tag):
    server.tag = tag
    server.break_after = BREAK
    with pytest.raises(ActionrecError, match="the connection broke off"):
        fetch()
    server.break_after = None
    assert fetch() == ARCHIVE
    assert set(starts(server)) == {0}


def test_a_part_of_the_whole_size_is_not_asked_for_again(server, fetch, tmp_path):
    part(tmp_path).write_bytes(ARCHIVE)
    assert fetch() == ARCHIVE
    part(tmp_path).write_bytes(ARCHIVE + b"x")
    (tmp_path / "UCF101.rar.part.version").write_text(server.tag)
    assert server.asked == [] and fetch() == ARCHIVE and starts(server) == [0]


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
@pytest.mark.parametrize("length", [True, False])
def test_a_file_of_another_size_is_refused(server, fetch, tmp_path, size, length):
    server.length = length
    with pytest.raises(ActionrecError, match=r"is not the published file: .* bytes instead of 64"):
        fetch(size=size)
    if length:
        assert server.asked == [("/UCF101.rar", 0)] and not part(tmp_path).exists()


def test_redirects_are_followed(server, fetch, tmp_path):
    server.moved["/UCF101.rar"] = "/elsewhere/a.rar"
    server.break_after = 3 * BREAK
    assert fetch() == ARCHIVE
    assert server.asked == [
        ("/UCF101.rar", 0),
        ("/elsewhere/a.rar", 0),
        ("/UCF101.rar", 3 * BREAK),
        ("/elsewhere/a.rar", 3 * BREAK),
    ]


def test_a_missing_file_is_not_asked_for_again(server, fetch, tmp_path):
    server.statuses = [404] * 9
    with pytest.raises(ActionrecError, match=r"/UCF101.rar could not be .* \(answered 404\): run"):
        fetch()
    assert len(server.asked) == 1 and not part(tmp_path).exists()


def test_a_server_in_trouble_is_asked_again(server, fetch):
    server.statuses = [500, 503]
    assert fetch() == ARCHIVE
    server.statuses = [500] * 9
    with pytest.raises(ActionrecError, match="answered 500"):
        fetch()
    assert len(server.asked) == 3 + 4


def test_a_full_disk_keeps_what_has_arrived(server, fetch, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_001, before[1]))
    try:
        with pytest.raises(ActionrecError, match=r"UCF101.rar.part could not be written \(File"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert part(tmp_path).read_bytes() == ARCHIVE[:300_001]
    assert fetch() == ARCHIVE
    assert starts(server) == [0, 300_001]


def test_a_killed_download_goes_on_in_the_next_process(source, server, programs, root):
    programs("bsdtar")
    server.pause = 0.02
    code = f"""
from actionrec.datasets import download as module
module.SOURCES["ucf101"] = module.{source!r}
module.download("ucf101", {str(root)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    give_up = time.monotonic() + 60
    while downloads.size_of(part(root)) < 200_000 and time.monotonic() < give_up:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    arrived = downloads.size_of(part(root))
    assert 200_000 <= arrived < SIZE

    server.pause = 0
    assert download("ucf101", root).videos == 32
    assert files_below(root) == VIDEOS
    assert starts(server) == [0, arrived]


def test_progress_is_shown_on_a_terminal(source, server, programs, root, capsys, monkeypatch):
    programs("bsdtar")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    download("ucf101", root)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "kB/s" in captured.err or "MB/s" in captured.err
    assert "unpacking" in captured.err and "checking" in captured.err


# Certificates


def certificate(name, issuer=None, authority=True, host=None, named_issuer=None, address=None):
    """A certificate and its key: signed by `issuer`, or by itself.

    `named_issuer` is whom it names as its issuer if not the one who signed; `address` is where it
    says that its issuer's certificate lies.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_certificate, issuer_key = issuer or (None, key)
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    usage = dict.fromkeys(
        "content_commitment key_encipherment data_encipherment key_agreement encipher_only "
        "decipher_only".split(),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(named_issuer or (issuer_certificate.subject if issuer else subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=authority, crl_sign=authority, **usage
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
    )
    if host:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    if address:
        place = x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(address)
        )
        builder = builder.add_extension(x509.AuthorityInformationAccess([place]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()), key


def pem(*certificates):
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def der(one):
    return one.public_bytes(serialization.Encoding.DER)


@pytest.fixture
def secure(serve, tmp_path, monkeypatch):
    """Serve the archive with TLS, showing the given certificates; the root given is trusted."""

    def secure(own, *others, trusted):
        (tmp_path / "root.pem").write_bytes(pem(trusted))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "root.pem"))
        (tmp_path / "own.pem").write_bytes(
            pem(own[0], *others)
            + own[1].private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "own.pem")
        return serve(context=context)

    return secure


def fetch_from(server, tmp_path, path="/UCF101.rar"):
    target = tmp_path / "UCF101.rar"
    downloads.download(f"{server.url}{path}", target, SIZE)
    assert target.read_bytes() == ARCHIVE
    target.unlink()


ROOT = certificate("Root")
MIDDLE = certificate("Intermediate", ROOT)


def test_a_complete_chain_is_accepted_without_a_word(secure, tmp_path):
    own = certificate("own", MIDDLE, authority=False, host="localhost")
    server = secure(own, MIDDLE[0], trusted=ROOT[0])
    fetch_from(server, tmp_path)
    assert len(server.asked) == 1


def as_pkcs7(one):
    return pkcs7.serialize_certificates([ROOT[0], one], serialization.Encoding.DER)


@pytest.mark.parametrize("form, file", [(der, "i.crt"), (pem, "i.crt"), (as_pkcs7, "i.p7c")])
def test_a_missing_intermediate_certificate_is_fetched(serve, secure, tmp_path, form, file):
    place = serve(form(MIDDLE[0]))
    own = certificate(
        "own", MIDDLE, authority=False, host="localhost", address=f"{place.url}/{file}"
    )
    server = secure(own, trusted=ROOT[0])
    server.break_after = 3 * BREAK
    fetch_from(server, tmp_path)
    assert starts(server) == [0, 3 * BREAK]
    assert place.asked == [(f"/{file}", 0)]  # once, however often the connection breaks


def test_several_missing_certificates_are_fetched(serve, secure, tmp_path):
    first = serve(der(MIDDLE[0]))
    second = certificate("Second", MIDDLE, address=f"{first.url}/middle.crt")
    place = serve(der(second[0]))
    own = certificate("own", second, authority=False, host="localhost", address=f"{place.url}/s")
    fetch_from(secure(own, trusted=ROOT[0]), tmp_path)
    assert (len(place.asked), len(first.asked)) == (1, 1)


def test_a_missing_certificate_is_fetched_behind_a_proxy(serve, secure, tmp_path, monkeypatch):
    place, proxy = serve(der(MIDDLE[0])), serve()
    own = certificate(
        "own", MIDDLE, authority=False, host="localhost", address=f"{place.url}/middle.crt"
    )
    server = secure(own, trusted=ROOT[0])
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    fetch_from(server, tmp_path)
    # Verified and refused, to look at the certificate, verified and accepted.
    assert proxy.asked == [("CONNECT", f"localhost:{server.server_port}")] * 3


def test_a_certificate_is_fetched_for_the_host_of_a_redirect(serve, secure, tmp_path):
    place = serve(der(MIDDLE[0]))
    own = certificate(
        "own", MIDDLE, authority=False, host="localhost", address=f"{place.url}/middle.crt"
    )
    target = secure(own, trusted=ROOT[0])
    complete = secure(own, MIDDLE[0], trusted=ROOT[0])
    complete.moved["/UCF101.rar"] = f"{target.url}/moved.rar"
    fetch_from(complete, tmp_path)
    assert target.asked == [("/moved.rar", 0)]


def test_a_redirect_from_https_to_http_is_refused(server, secure, tmp_path):
    own = certificate("own", ROOT, authority=False, host="localhost")
    secure_server = secure(own, trusted=ROOT[0])
    secure_server.moved["/UCF101.rar"] = f"{server.url}/UCF101.rar"
    with pytest.raises(ActionrecError, match=r"downloaded \(it leads to an address of a kind"):
        fetch_from(secure_server, tmp_path)
    assert server.asked == []


def refused(server, tmp_path, reason):
    with pytest.raises(ActionrecError, match=reason) as caught:
        fetch_from(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert server.asked == [] and not part(tmp_path).exists()


def test_an_unknown_root_is_refused(serve, secure, tmp_path):
    place = serve(der(MIDDLE[0]))
    own = certificate(
        "own", MIDDLE, authority=False, host="localhost", address=f"{place.url}/middle.crt"
    )
    refused(secure(own, trusted=certificate("Other")[0]), tmp_path, "leads to no trusted one")
    # With the name of a trusted root.
    refused(secure(own, trusted=certificate("Root")[0]), tmp_path, "leads to no trusted one")
    # And where the server itself sends the whole chain.
    server = secure(own, MIDDLE[0], ROOT[0], trusted=certificate("Other")[0])
    refused(server, tmp_path, "its certificate was not accepted: self.signed certificate")


def test_a_wrong_host_name_is_refused(serve, secure, tmp_path):
    place = serve(der(MIDDLE[0]))
    own = certificate(
        "own", MIDDLE, authority=False, host="elsewhere", address=f"{place.url}/middle.crt"
    )
    refused(secure(own, MIDDLE[0], trusted=ROOT[0]), tmp_path, "was not accepted: Hostname mism")
    refused(secure(own, trusted=ROOT[0]), tmp_path, "leads to no trusted one")


@pytest.mark.parametrize(
    "issuer_name",
    ["Fake", "fAKE", "Root"],  # OpenSSL compares names without regard to case
)
def test_a_fetched_certificate_is_no_root(serve, secure, tmp_path, issuer_name):
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)])
    fake = certificate("Fake", named_issuer=named)
    place = serve(der(fake[0]))
    own = certificate("own", fake, authority=False, host="localhost", address=f"{place.url}/f.crt")
    server = secure(own, trusted=ROOT[0])
    refused(server, tmp_path, "leads to no trusted one")
    assert place.asked


def test_a_certificate_that_may_not_sign_is_no_intermediate(serve, secure, tmp_path):
    ordinary = certificate("Ordinary", ROOT, authority=False, host="example.org")
    place = serve(der(ordinary[0]))
    own = certificate(
        "own", ordinary, authority=False, host="localhost", address=f"{place.url}/o.crt"
    )
    refused(secure(own, trusted=ROOT[0]), tmp_path, "leads to no trusted one")


@pytest.mark.parametrize("data", [b"", b"no certificate", der(certificate("Stranger")[0])])
def test_rubbish_in_place_of_the_issuer_is_refused(serve, secure, tmp_path, data):
    place = serve(data)
    own = certificate("own", MIDDLE, authority=False, host="localhost", address=f"{place.url}/i")
    refused(secure(own, trusted=ROOT[0]), tmp_path, "leads to no trusted one")


def test_a_certificate_that_names_no_issuer_is_refused(secure, tmp_path):
    own = certificate("own", MIDDLE, authority=False, host="localhost")
    refused(secure(own, trusted=ROOT[0]), tmp_path, "leads to no trusted one")


def test_an_intermediate_certificate_alone_is_not_trusted_by_newer_pythons_either(
    serve, secure, tmp_path, monkeypatch
):
    original = ssl.create_default_context

    def as_in_3_13(**options):
        context = original(**options)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_in_3_13)
    place = serve(der(MIDDLE[0]))
    own = certificate("own", MIDDLE, authority=False, host="localhost", address=f"{place.url}/i")
    server = secure(own, trusted=ROOT[0])
    import requests

    context = downloads._complete_chain(server.url, requests.Session())
    assert not context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname


# Unpacking


@pytest.fixture
def archive(source, root):
    """A complete archive in `root`, to be changed by the test."""
    root.mkdir()

    def archive(data=ARCHIVE):
        (root / "UCF101.rar").write_bytes(data)
        module.SOURCES["ucf101"] = source_at(
            type("Nowhere", (), {"url": "http://127.0.0.1:9"}), size=len(data)
        )
        return root / "UCF101.rar"

    archive()
    return archive


def test_without_a_program_nothing_is_downloaded(source, server, programs, root):
    with pytest.raises(ActionrecError) as caught:
        download("ucf101", root)
    assert str(caught.value) == (
        "No program that unpacks UCF101.rar was found (one of bsdtar, unar, unrar, 7z, 7zz); "
        "install unar, with `apt install unar` or `brew install unar`, or another of them."
    )
    assert server.asked == []


@pytest.mark.parametrize("program", ["bsdtar", "unar", "unrar", "7z", "7zz"])
def test_each_program_is_called_as_it_wants(archive, programs, root, program, capsys):
    calls = programs(program)
    assert download("ucf101", root) == VideoCount(root / "UCF-101", 32, 2)
    assert files_below(root) == VIDEOS
    rar, folder = f"{root}/UCF101.rar", f"{root}/.UCF-101.unpacking"
    assert calls.read_text().strip() in (
        f"bsdtar -xf {rar} -C {folder} --no-same-owner",
        f"unar -force-overwrite -no-directory -no-recursion -output-directory {folder} {rar}",
        f"unrar x -o+ -p- {rar} {folder}/",
        f"{program} x -y -o{folder} {rar}",
    )
    assert f"Unpacking {rar} with {program}" in capsys.readouterr().err


def test_the_first_program_that_can_read_the_archive_is_taken(archive, programs, root, tmp_path):
    calls = programs("bsdtar", before="echo no RAR >&2; exit 1")
    programs("unar", after="exit 1")
    programs("unrar").with_name("unrar").write_text("not a program")
    programs("7z")
    programs("7zz")
    assert download("ucf101", root).videos == 32
    assert files_below(root) == VIDEOS
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["bsdtar", "unar", "7z"]


def test_an_archive_that_no_program_unpacks_is_kept_and_each_is_quoted(archive, programs, root):
    programs("bsdtar", before="echo warning; echo 'Solid archive. ' >&2; echo more >&2; exit 1")
    programs("7z", after="exit 2")
    programs("7zz", after='rm "$folder/UCF-101/Archery/v_Archery_g02_c01.avi"')
    with pytest.raises(ActionrecError) as caught:
        download("ucf101", root)
    assert str(caught.value) == (
        f"{root}/UCF101.rar could not be unpacked (bsdtar: Solid archive; 7z: it failed silently; "
        "7zz: UCF-101/Archery/v_Archery_g02_c01.avi came out damaged); it was kept: install unar "
        "or unrar and run this again, or, if the archive is damaged, delete it to download it anew."
    )
    assert files_below(root) == {"UCF101.rar": ARCHIVE}


def test_a_damaged_video_is_noticed_where_the_program_did_not(archive, programs, root):
    name = "UCF-101/Archery/v_Archery_g02_c01.avi"
    programs("bsdtar", after=f'printf x | dd of="$folder/{name}" bs=1 seek=9000 conv=notrunc')
    with pytest.raises(ActionrecError, match=f"bsdtar: {name} came out damaged"):
        download("ucf101", root)
    programs("unar")
    assert download("ucf101", root).videos == 32
    assert files_below(root) == VIDEOS


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"<html>no archive</html>", "is damaged"),
        (ARCHIVE[:-30_000], "has 31 videos"),
        (ARCHIVE.replace(b"_c02", b"_c03", 1), "is damaged"),  # the header has a checksum too
    ],
)
def test_a_torn_archive_is_refused_before_it_is_unpacked(archive, programs, root, data, problem):
    archive(data)
    calls = programs("bsdtar")
    with pytest.raises(ActionrecError, match=f"UCF101.rar {problem}.*; delete it to download"):
        download("ucf101", root)
    assert not calls.exists() and files_below(root) == {"UCF101.rar": data}


def test_an_incomplete_archive_is_refused_and_the_missing_are_named(archive, programs, root):
    present = dict(VIDEOS)
    del present["UCF-101/Archery/v_Archery_g03_c01.avi"]
    archive(rar_of(present | {"UCF-101/Archery/v_Archery_g03_c01.avi.bak": b""}))
    programs("bsdtar")
    with pytest.raises(
        ActionrecError,
        match=r"UCF-101 in .*UCF101.rar has 31 .* of 2 \(missing: v_Archery_g03_c01.avi\); delete",
    ):
        download("ucf101", root)
    archive(rar_of({name.removeprefix("UCF-101/"): data for name, data in VIDEOS.items()}))
    with pytest.raises(ActionrecError, match="UCF-101 in .* has 0 videos of 0 classes"):
        download("ucf101", root)
    assert [path.name for path in root.iterdir() if path.suffix != ".lock"] == ["UCF101.rar"]


@pytest.mark.parametrize("name", ["../evil", "UCF-101/../../evil", "/evil", "C:/evil"])
def test_an_archive_that_reaches_out_of_its_folder_is_not_unpacked(archive, programs, root, name):
    data = rar_of({name: b"evil"} | VIDEOS)
    archive(data)
    calls = programs("bsdtar")
    with pytest.raises(ActionrecError, match=f"was not unpacked, because '{name}' in it is a link"):
        download("ucf101", root)
    assert not calls.exists() and files_below(root) == {"UCF101.rar": data}


def test_links_in_an_archive_are_refused(archive, programs, root):
    link = rar_of({"UCF-101/link": b"/etc"}, mode=stat.S_IFLNK | 0o777)
    start = len(rar_of({})) - 7
    archive(ARCHIVE[:-7] + link[start:])
    calls = programs("bsdtar")
    with pytest.raises(ActionrecError, match="'UCF-101/link' in it is a link"):
        download("ucf101", root)
    assert not calls.exists()


def test_what_a_killed_process_left_is_removed(archive, programs, root):
    left = root / ".UCF-101.unpacking" / "UCF-101" / "Archery"
    left.mkdir(parents=True)
    (left / "v_Archery_g09_c01.avi").write_bytes(b"half")
    programs("bsdtar")
    download("ucf101", root)
    assert files_below(root) == VIDEOS


@pytest.mark.parametrize("program", ["bsdtar", "unar", "unrar", "7z", "7zz"])
def test_the_real_programs_unpack(archive, root, tmp_path, monkeypatch, program):
    """And a changed byte in a video is noticed."""
    if not (where := shutil.which(program)):
        pytest.skip(f"{program} is not installed")
    if program.startswith("7z"):
        formats = subprocess.run([where, "i"], capture_output=True, text=True).stdout
        if " Rar5 " not in formats:
            pytest.skip(f"this {program} was built without RAR")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / program).symlink_to(where)
    monkeypatch.setenv("PATH", str(folder))

    position = ARCHIVE.index(VIDEOS["UCF-101/Archery/v_Archery_g03_c01.avi"]) + 5000
    archive(ARCHIVE[:position] + bytes([ARCHIVE[position] ^ 1]) + ARCHIVE[position + 1 :])
    with pytest.raises(ActionrecError, match=f"could not be unpacked .{program}: "):
        download("ucf101", root)
    archive()
    assert download("ucf101", root) == VideoCount(root / "UCF-101", 32, 2)
    assert files_below(root) == VIDEOS


def test_the_module_is_imported_without_its_heavy_libraries():
    code = (
        "import sys, actionrec.datasets.download; "
        "print(*{'requests', 'rich', 'cryptography', 'filelock', 'torch'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.stdout.strip(), answer.returncode) == ("", 0)
