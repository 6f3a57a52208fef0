"""Files are downloaded from a local package index that these tests serve, and checked."""

import base64
import hashlib
import math
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from actionrec.errors import ActionrecError
from actionrec.models import package_index as downloads
from actionrec.models.package_index import Source, obtain

REAL_PIP_SETTINGS = downloads._pip_settings
SDIST = "some_thing-1.0.tar.gz"
# Larger than the pieces in which it is received.
DATA = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(12_000))
SHA256 = hashlib.sha256(DATA).hexdigest()
PACKAGE = Source(SDIST, len(DATA), SHA256, "source distribution", package="some-thing==1.0")
SECOND_DATA = b"the same numbers in another file"
# Nobody listens at port 9 of this machine.
SECOND = Source(
    "second.data",
    len(SECOND_DATA),
    hashlib.sha256(SECOND_DATA).hexdigest(),
    "tensorflow",
    url="http://127.0.0.1:9/second.data",
)


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """The settings of pip, for a test to fill: an index that doesn't answer."""
    for variable in list(os.environ):
        if variable.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings = {"index-url": "http://127.0.0.1:9/simple"}
    monkeypatch.setattr(downloads, "_pip_settings", lambda: settings)
    return settings


class Server(ThreadingHTTPServer):
    """Serves `files` (path -> bytes) and notes what was asked of it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.asked = []  # (path, Range header)
        self.break_after = None  # bytes of an answer after which the connection is cut
        self.ranges = True
        self.password = None
        self.url = f"http://127.0.0.1:{self.server_port}"

    def offer(self, data, sha256=SHA256, link=f"../../files/{SDIST}"):
        """List `data` as the file of the package, on a page like those of the simple index."""
        self.files[f"/files/{SDIST}"] = data
        page = f'<!DOCTYPE html><body><a href="{link}#sha256={sha256}">{SDIST}</a></body>'
        self.files["/simple/some-thing/"] = page.encode()

    def second(self):
        """Offer the second source, at this server."""
        self.files["/second.data"] = SECOND_DATA
        return Source(
            SECOND.file, SECOND.size, SECOND.sha256, "tensorflow", url=f"{self.url}/second.data"
        )


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        part = self.headers.get("Range")
        server.asked.append((self.path, part))
        if server.password and self.headers.get("Authorization") != server.password:
            return self.send_error(401)
        data = server.files.get(self.path)
        if data is None:
            return self.send_error(404)
        start = 0
        if part and server.ranges:
            start = int(part.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "x/y")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data)
        if server.break_after is not None and not self.path.endswith("/"):
            end = min(end, start + server.break_after)
        self.wfile.write(data[start:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(settings):
    """A running server that pip's settings name as the only package index."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    settings["index-url"] = f"{server.url}/simple/"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


# Downloading


def test_a_package_is_downloaded_and_progress_goes_to_stderr(server, tmp_path, capsys):
    server.offer(DATA)
    assert obtain("thing", [PACKAGE, SECOND], tmp_path) == (DATA, PACKAGE)
    assert [path for path, _ in server.asked] == ["/simple/some-thing/", f"/files/{SDIST}"]
    captured = capsys.readouterr()
    assert captured.out == "" and f"Downloading {SDIST} from 127.0.0.1" in captured.err
    assert not list(tmp_path.iterdir())


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.offer(DATA)
    server.break_after = 1 << 17
    assert obtain("thing", [PACKAGE], tmp_path) == (DATA, PACKAGE)
    parts = [part for path, part in server.asked if path.endswith(SDIST)]
    assert len(parts) == math.ceil(len(DATA) / server.break_after)
    assert parts[:2] == [None, f"bytes={server.break_after}-"]

    server.ranges = False
    with pytest.raises(ActionrecError, match=f"{SDIST}: the connection broke off"):
        obtain("thing", [PACKAGE], tmp_path)


@pytest.mark.parametrize("data", [b"x" * len(DATA), DATA[:-100], DATA * 2])
def test_a_file_of_the_wrong_hash_gives_way_to_the_second_source(server, tmp_path, data):
    server.offer(data)
    with pytest.raises(ActionrecError, match=f"what .* sent is not {SDIST}: .* instead of"):
        obtain("thing", [PACKAGE], tmp_path)
    second = server.second()
    assert obtain("thing", [PACKAGE, second], tmp_path) == (SECOND_DATA, second)


def test_an_index_that_lists_another_file_is_not_asked_for_it(server, tmp_path):
    server.offer(DATA, sha256="1" * 64)
    with pytest.raises(ActionrecError, match=f"offers another {SDIST}"):
        obtain("thing", [PACKAGE], tmp_path)
    assert [path for path, _ in server.asked] == ["/simple/some-thing/"]


def test_a_page_that_is_no_index_is_passed_over(server, tmp_path):
    server.files["/simple/some-thing/"] = b"\x00\xff<<<{ please log in"
    second = server.second()
    assert obtain("thing", [PACKAGE, second], tmp_path) == (SECOND_DATA, second)


def test_a_file_that_the_server_lacks_is_named(server, tmp_path):
    server.offer(DATA)
    del server.files[f"/files/{SDIST}"]
    with pytest.raises(ActionrecError, match=f"/files/{SDIST}: answered 404"):
        obtain("thing", [PACKAGE], tmp_path)


def test_an_index_with_a_password_gets_it_and_messages_never_show_it(server, settings, tmp_path):
    server.password = "Basic " + base64.b64encode(b"user:secret").decode()
    server.offer(DATA, link=f"{server.url}/files/{SDIST}")
    settings["index-url"] = f"{server.url.replace('//', '//user:secret@')}/simple"
    assert obtain("thing", [PACKAGE], tmp_path) == (DATA, PACKAGE)

    server.password = "another"
    with pytest.raises(ActionrecError, match="answered 401") as caught:
        obtain("thing", [PACKAGE], tmp_path)
    settings["index-url"] = "https://user:secret@bad..host/simple"
    with pytest.raises(ActionrecError) as caught_too:
        obtain("thing", [PACKAGE], tmp_path)
    assert "secret" not in str(caught.value) + str(caught_too.value)


def test_when_nothing_can_be_had_one_sentence_says_what_to_do(server, tmp_path):
    with pytest.raises(ActionrecError) as caught:
        obtain("thing", [PACKAGE, SECOND], tmp_path, ["the old one is torn"])
    assert str(caught.value) == (
        "The weights thing could not be fetched (the old one is torn; "
        "some-thing was found in none of pip's 1 package sources; "
        "http://127.0.0.1:9/second.data: no connection): "
        f"put {SDIST} (sha256 {SHA256}) into {tmp_path} and run this again; on a machine with a "
        "network `pip download --no-deps --no-binary :all: some-thing==1.0` gets it."
    )


# Files on this machine


@pytest.mark.parametrize("data, source", [(DATA, PACKAGE), (SECOND_DATA, SECOND)])
def test_a_file_put_into_the_folder_by_hand_is_used(monkeypatch, tmp_path, data, source):
    monkeypatch.setattr(downloads, "_pip_settings", None)  # nothing is to be looked up
    (tmp_path / source.file).write_bytes(data)
    assert obtain("thing", [PACKAGE, SECOND], tmp_path) == (data, source)


def test_a_wrong_file_put_there_by_hand_is_explained(tmp_path):
    (tmp_path / SDIST).write_bytes(DATA[:-1])
    with pytest.raises(ActionrecError, match=rf"/{SDIST} is not {SDIST}: .* no connection"):
        obtain("thing", [PACKAGE], tmp_path)


def test_local_indexes_are_used_or_passed_over(settings, tmp_path):
    folder = tmp_path / "an index" / "some-thing"
    folder.mkdir(parents=True)
    (tmp_path / SDIST).write_bytes(DATA)
    (folder / "index.html").write_text(f'<a href="../../{SDIST}#sha256={SHA256}">{SDIST}</a>')
    settings["find-links"] = f"{tmp_path}/missing"
    settings["extra-index-url"] = f"file://{tmp_path}/none {folder.parent.as_uri()}"
    assert obtain("thing", [PACKAGE], tmp_path / "cache") == (DATA, PACKAGE)


def test_a_find_links_folder_is_used(settings, tmp_path):
    (tmp_path / "some-thing-1.0.tar.gz").write_bytes(DATA)
    settings["find-links"] = str(tmp_path)
    assert obtain("thing", [PACKAGE], tmp_path / "cache") == (DATA, PACKAGE)


# What pip is set to


def test_pip_is_asked_for_its_settings(monkeypatch):
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this environment has no pip")
    monkeypatch.setenv("PIP_INDEX_URL", "https://inside/simple")
    assert REAL_PIP_SETTINGS()["index-url"] == "https://inside/simple"


def test_without_any_pip_nothing_is_set(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    assert REAL_PIP_SETTINGS() == {}


def test_pip_settings_follow_pips_precedence():
    listing = (
        ":env:.index-url='https://environment'\n"
        "download.cert='/download.pem'\n"
        "freeze.cert='/freeze.pem'\n"
        "global.cert='/global.pem'\n"
        "global.extra-index-url='\\nhttps://one\\nhttps://two'\n"
        'global.index-url="https://it\'s"\n'
    )
    settings = downloads._parse_pip_settings(listing)
    assert settings["index-url"] == "https://environment"
    assert settings["cert"] == "/download.pem"
    assert settings["extra-index-url"].split() == ["https://one", "https://two"]


def test_pages_come_from_pip_then_uv_then_the_public_default(monkeypatch, tmp_path):
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    assert downloads._pages("thing", {}) == [f"{PYPI_SIMPLE_ENDPOINT.rstrip('/')}/thing/"]
    assert downloads._pages("thing", {"no-index": "1"}) == []
    settings = {
        "index-url": "https://main/simple/",
        "extra-index-url": f"https://extra/simple file://{tmp_path}/simple",
        "find-links": str(tmp_path),
    }
    assert downloads._pages("thing", settings) == [
        tmp_path.as_uri(),
        f"{tmp_path.as_uri()}/simple/thing/",
        "https://main/simple/thing/",
        "https://extra/simple/thing/",
    ]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv/simple")
    monkeypatch.setenv("UV_INDEX", "company=https://company/simple")
    assert downloads._pages("thing", {}) == [
        "https://uv/simple/thing/",
        "https://company/simple/thing/",
    ]


def test_session_takes_pips_certificates_proxy_and_trusted_hosts(monkeypatch):
    import requests

    settings = {
        "cert": "/ca.pem",
        "client-cert": "/client.pem",
        "proxy": "http://proxy:3128",
        "trusted-host": "inside other:8443",
    }
    session = downloads._session(settings)
    assert (session.verify, session.cert) == ("/ca.pem", "/client.pem")
    assert session.proxies["https"] == "http://proxy:3128"

    def verification(url):
        request = requests.Request("GET", url).prepare()
        return session.get_adapter(url).send(request, verify="/ca.pem")

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", lambda self, request, verify: verify)
    assert verification("https://user:secret@inside/simple") is False
    assert verification("https://other:8443/simple") is False
    assert verification("https://other/simple") == "/ca.pem"
    assert verification("https://inside.elsewhere/simple") == "/ca.pem"
