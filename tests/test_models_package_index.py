"""Files are found on a local package index and in folders, as pip and uv are configured."""

import base64
import os
import subprocess
import sys

import pytest
import requests
from local_server import serving
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from actionrec.models import package_index
from actionrec.models.package_index import PackageIndexes, pip_settings

SDIST = "some_thing-1.0.tar.gz"
SHA256 = "2" * 64


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """No settings of pip, uv and requests on this machine."""
    for variable in list(os.environ):
        if variable.startswith(("PIP_", "UV_")) or variable.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def settings(monkeypatch):
    """The settings of pip, for a test to fill: an index that doesn't answer."""
    settings = {"index-url": "http://127.0.0.1:9/simple"}
    monkeypatch.setattr(package_index, "pip_settings", lambda: settings)
    return settings


@pytest.fixture
def server(settings):
    """A running server, pip's only package index."""
    with serving() as server:
        settings["index-url"] = f"{server.url}/simple/"
        yield server


def offer(server, sha256=SHA256, link=f"../../files/{SDIST}"):
    page = f'<!DOCTYPE html><body><a href="{link}#sha256={sha256}">{SDIST}</a></body>'
    server.files["/simple/some-thing/"] = page.encode()


def find():
    """The addresses of SDIST, and the problems."""
    problems = []
    return list(PackageIndexes().find("some-thing", SDIST, SHA256, problems)), problems


def test_a_file_is_found_on_an_index(server):
    offer(server)
    assert find() == ([f"{server.url}/files/{SDIST}"], [])


def test_a_file_with_another_checksum_is_passed_over(server):
    offer(server, sha256="1" * 64)
    page = f"{server.url}/simple/some-thing/"
    assert find() == ([], [f"{page}: offers another {SDIST} (sha256 111111111111...)"])


def test_pages_that_are_no_index_are_named(server, settings):
    unknown = f"{server.url}/elsewhere"
    settings["extra-index-url"] = f"{unknown} http://127.0.0.1:9/simple"
    server.files["/simple/some-thing/"] = b"\x00\xff<<<{ please log in"
    assert find() == (
        [],
        [
            "http://127.0.0.1:9/simple/some-thing/: no connection",
            "some-thing is in none of pip's 3 package sources",
        ],
    )
    server.files["/simple/some-thing/"] = b'<meta name="pypi:repository-version" content="9.0">'
    assert find()[1][0] == f"{server.url}/simple/some-thing/: not a list of packages"
    server.statuses = [503]
    assert find()[1][0] == f"{server.url}/simple/some-thing/: the server answered 503"


def test_an_index_gets_its_password_and_messages_never_show_it(server, settings):
    server.password = "Basic " + base64.b64encode(b"user:secret").decode()
    with_password = server.url.replace("//", "//user:secret@")
    settings["index-url"] = f"{with_password}/simple"
    for link in (f"../../files/{SDIST}", f"{server.url}/files/{SDIST}"):
        offer(server, link=link)
        assert find() == ([f"{with_password}/files/{SDIST}"], [])
    offer(server, link=f"https://elsewhere/files/{SDIST}")
    assert find() == ([f"https://elsewhere/files/{SDIST}"], [])

    server.password = "another"
    settings["extra-index-url"] = "https://user:secret@bad..host/simple"
    _, problems = find()
    assert problems[0] == f"{server.url}/simple/some-thing/: the server answered 401"
    assert len(problems) == 3 and "secret" not in str(problems)


def test_local_indexes_and_folders_come_first(server, settings, tmp_path):
    offer(server)
    folder = tmp_path / "an index" / "some-thing"
    folder.mkdir(parents=True)
    link = f'<a href="../../{SDIST}#sha256={SHA256}">{SDIST}</a>'
    (folder / "index.html").write_text(link)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "some-thing-1.0.tar.gz").touch()
    settings["find-links"] = f"{tmp_path}/missing {tmp_path}/links"
    settings["extra-index-url"] = f"file://{tmp_path}/none {folder.parent.as_uri()}"
    assert find() == (
        [
            (tmp_path / "links" / "some-thing-1.0.tar.gz").as_uri(),
            (tmp_path / SDIST).as_uri(),
            f"{server.url}/files/{SDIST}",
        ],
        [],
    )


def test_without_an_index_only_folders_are_searched(settings, tmp_path):
    settings["no-index"] = "1"
    settings["find-links"] = str(tmp_path)
    assert find() == ([], ["some-thing is in none of pip's 1 package sources"])


# Configuration


def test_indexes_come_from_pip_then_uv_then_the_public_default(settings, monkeypatch):
    settings |= {"index-url": "https://main/simple/", "extra-index-url": "https://extra/simple"}
    assert PackageIndexes().indexes == ["https://main/simple", "https://extra/simple"]
    settings.clear()
    assert PackageIndexes().indexes == [PYPI_SIMPLE_ENDPOINT.rstrip("/")]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv/simple")
    monkeypatch.setenv("UV_INDEX", "company=https://company/simple")
    assert PackageIndexes().indexes == ["https://uv/simple", "https://company/simple"]


def test_pip_is_asked_for_its_settings(monkeypatch, tmp_path):
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this environment has no pip")
    (tmp_path / "pip.conf").write_text(
        "[global]\ncert = /global.pem\nindex-url = https://it's\n"
        "extra-index-url = https://one\n  https://two\n"
        "[freeze]\ncert = /freeze.pem\n[download]\ncert = /download.pem\n"
    )
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert pip_settings()["index-url"] == "https://it's"
    monkeypatch.setenv("PIP_INDEX_URL", "https://environment")
    monkeypatch.setenv("PIP_QUIET", "1")
    settings = pip_settings()
    assert settings["index-url"] == "https://environment"
    assert settings["cert"] == "/download.pem"
    assert settings["extra-index-url"].split() == ["https://one", "https://two"]


def test_without_any_pip_nothing_is_set(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    assert pip_settings() == {}


def test_the_connection_has_pips_certificates_proxy_and_trusted_hosts(settings, monkeypatch):
    settings |= {
        "cert": "/ca.pem",
        "client-cert": "/client.pem",
        "proxy": "http://proxy:3128",
        "trusted-host": "inside other:8443",
    }
    session = PackageIndexes().session
    sent = {}

    def send(adapter, request, **options):
        sent.update(options)
        raise requests.ConnectionError

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    for url, verify in (
        ("https://user:secret@inside/simple", False),
        ("https://other:8443/simple", False),
        ("https://other/simple", "/ca.pem"),
        ("https://inside.elsewhere/simple", "/ca.pem"),
    ):
        with pytest.raises(requests.ConnectionError):
            session.get(url)
        assert sent["verify"] == verify
        assert sent["cert"] == "/client.pem"
        assert sent["proxies"]["https"] == "http://proxy:3128"
