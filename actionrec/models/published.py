"""Kinetics-400 weights of torchvision and PyTorchVideo for the networks of those libraries.

    actionrec weights list
    actionrec predict video.mp4 --model x3d_s

Addresses, mean and standard deviation come from the libraries' own records. A file is downloaded
once into the cache folder, or put there by hand. torchvision publishes the first eight
digits of its files' sha256; for PyTorchVideo's the sha256 of the first download is noted beside the
file, and the file is compared with it from then on. Only tensors and plain values are read.
"""

import hashlib
import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from actionrec.errors import ActionrecError
from actionrec.files import cache_folder, replacing

logger = logging.getLogger(__name__)

TORCHVISION_LICENCE = "BSD-3-Clause, torchvision"
PYTORCHVIDEO_LICENCE = "Apache-2.0, PyTorchVideo"


@dataclass(frozen=True)
class PublishedWeights:
    """Weights of a library for one of its networks.

    Attributes:
        backbone: The network.
        record: A weight enum of torchvision, or a module of PyTorchVideo's hub.
        frames, stride, fps: The clip: every `stride`-th frame at `fps`.
        short_side, crop: Pixels of the shorter side after scaling, and of the square in it.
        top1: Top-1 on Kinetics-400 as published, in percent.
        protocol: Clips and crops of a video of that figure.
        licence: Of the weights.
    """

    name: str
    backbone: str
    record: str
    frames: int
    stride: int
    fps: float
    short_side: int
    crop: int
    top1: float
    protocol: str
    licence: str

    @property
    def path(self) -> Path:
        """The file in the cache folder."""
        return cache_folder() / f"{self.name}.pth"

    @property
    def is_torchvisions(self) -> bool:
        return self.record.startswith("torchvision")

    @property
    def url(self) -> str:
        """The file's address, from the library's record."""
        if self.is_torchvisions:
            return resolve_name(self.record).url
        return resolve_name(self.record).checkpoint_paths[self.name]

    @property
    def sha256_prefix(self) -> str:
        """The digits of the file's sha256 that are published, which may be none."""
        found = re.search(r"-([0-9a-f]{8})\.pth$", self.url)
        return found[1] if found else ""


def _torchvision(
    name: str,
    enum: str,
    clip: tuple[int, float],
    pixels: tuple[int, int],
    top1: float,
    clips: int = 5,
    version: str = "KINETICS400_V1",
) -> PublishedWeights:
    frames, fps = clip
    return PublishedWeights(
        name=name,
        backbone=name.removesuffix("_22k"),
        record=f"torchvision.models.video:{enum}.{version}",
        frames=frames,
        stride=1,
        fps=fps,
        short_side=pixels[0],
        crop=pixels[1],
        top1=top1,
        protocol=f"{clips} clip{'s' * (clips > 1)}, 1 crop",
        licence=TORCHVISION_LICENCE,
    )


def _pytorchvideo(
    name: str, module: str, clip: tuple[int, int], side: int, top1: float
) -> PublishedWeights:
    frames, stride = clip
    return PublishedWeights(
        name=name,
        backbone=name,
        record=f"pytorchvideo.models.hub.{module}",
        frames=frames,
        stride=stride,
        fps=30.0,
        short_side=side,
        crop=side,
        top1=top1,
        protocol="10 clips, 3 crops",
        licence=PYTORCHVIDEO_LICENCE,
    )


SMALL, LARGE = (128, 112), (256, 224)

PUBLISHED = {
    weights.name: weights
    for weights in (
        _pytorchvideo("x3d_xs", "x3d", (4, 12), 182, 69.12),
        _pytorchvideo("x3d_s", "x3d", (13, 6), 182, 73.33),
        _pytorchvideo("x3d_m", "x3d", (16, 5), 256, 75.94),
        _pytorchvideo("x3d_l", "x3d", (16, 5), 312, 77.44),
        _pytorchvideo("slow_r50", "resnet", (8, 8), 256, 74.58),
        _pytorchvideo("slowfast_r50", "slowfast", (32, 2), 256, 76.94),
        _pytorchvideo("slowfast_r101", "slowfast", (32, 2), 256, 77.90),
        _pytorchvideo("slowfast_16x8_r101_50_50", "slowfast", (64, 2), 256, 78.70),
        _pytorchvideo("i3d_r50", "resnet", (8, 8), 256, 73.27),
        _pytorchvideo("r2plus1d_r50", "r2plus1d", (16, 4), 256, 76.01),
        _pytorchvideo("csn_r101", "csn", (32, 2), 256, 77.00),
        _torchvision("r3d_18", "R3D_18_Weights", (16, 15), SMALL, 63.2),
        _torchvision("mc3_18", "MC3_18_Weights", (16, 15), SMALL, 63.96),
        _torchvision("r2plus1d_18", "R2Plus1D_18_Weights", (16, 15), SMALL, 67.463),
        _torchvision("s3d", "S3D_Weights", (128, 15), LARGE, 68.368, clips=1),
        _torchvision("mvit_v1_b", "MViT_V1_B_Weights", (16, 7.5), LARGE, 78.477),
        _torchvision("mvit_v2_s", "MViT_V2_S_Weights", (16, 7.5), LARGE, 80.757),
        _torchvision("swin3d_t", "Swin3D_T_Weights", (32, 15), LARGE, 77.715, clips=12),
        _torchvision("swin3d_s", "Swin3D_S_Weights", (32, 15), LARGE, 79.521, clips=12),
        _torchvision("swin3d_b", "Swin3D_B_Weights", (32, 15), LARGE, 79.427, clips=12),
        _torchvision(
            "swin3d_b_22k",
            "Swin3D_B_Weights",
            (32, 15),
            LARGE,
            81.643,
            clips=12,
            version="KINETICS400_IMAGENET22K_V1",
        ),
    )
}


def fetch(weights: PublishedWeights) -> Path:
    """The file of some weights in the cache folder, downloaded if it isn't there.

    Raises:
        ActionrecError: it can't be downloaded, or is not the published or first downloaded one.
    """
    path = weights.path
    if path.exists():
        _verify(path, weights, f"{path} is", "delete it, and the next run downloads it again")
        return path
    logger.info("The licence of the weights %s is %s.", weights.name, weights.licence)
    # Nothing has the name of the weights before it is whole and verified.
    with replacing(path) as temporary:
        _download(weights, temporary)
        advice = f"download it on another machine and save it as {path}"
        _verify(temporary, weights, f"What {weights.url} answers is", advice)
    return path


def read_pickled(path: Path) -> dict[str, Any]:
    """A checkpoint of torch.save that holds nothing but tensors and plain values.

    Raises:
        ActionrecError: the file is none.
    """
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle fails in any of Python's ways.
    except Exception as error:
        raise ActionrecError(
            f"{path} is no checkpoint of tensors and plain values alone "
            f"({type(error).__name__}), and no other is read; download it again or choose another."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ActionrecError(f"{path} is no checkpoint: it holds a {type(checkpoint).__name__}.")
    return checkpoint


def _verify(path: Path, weights: PublishedWeights, subject: str, advice: str) -> None:
    """Compare a file with the published checksum, or the one that its first download had.

    A first download without a published checksum must hold the tensors of the network, and not be
    the file of another network; its checksum is noted.

    Args:
        subject, advice: Beginning and end of the sentence about a file that is another.

    Raises:
        ActionrecError: the file is another.
    """
    wrong = f"{subject} not the file of {weights.name}"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ActionrecError(f"{path} can't be read ({error.strerror}); {advice}.") from error
    noted = _note(weights)
    expected = weights.sha256_prefix
    if not expected and noted.exists():
        expected = noted.read_text(encoding="ascii", errors="replace").strip()
        advice += f"; if this is the right one, delete {noted}, which holds the former's"
    if expected:
        if not found.startswith(expected):
            raise ActionrecError(
                f"{wrong}: its sha256 begins with {found[:8]}, not with {expected[:8]}; {advice}."
            )
        return
    for other in PUBLISHED.values():
        if _note(other).is_file() and found in _note(other).read_text(errors="replace"):
            raise ActionrecError(f"{wrong}, but that of {other.name}; {advice}.")
    if difference := _difference(path, weights):
        raise ActionrecError(f"{wrong}: {difference}; {advice}.")
    with replacing(noted) as temporary:
        temporary.write_text(f"{found}\n", encoding="ascii")
    logger.info(
        "%s publishes no checksum; %s holds that of this download for the next times.",
        *(weights.name, noted),
    )


def _note(weights: PublishedWeights) -> Path:
    """Where the sha256 of the first download is noted."""
    return weights.path.with_name(f"{weights.path.name}.sha256")


def _difference(path: Path, weights: PublishedWeights) -> str:
    """What a checkpoint of PyTorchVideo lacks, or has too much, for its network; "" if nothing."""
    import torch

    try:
        tensors = read_pickled(path).get("model_state")
    except ActionrecError:
        return "it is no checkpoint of tensors and plain values alone"
    if not isinstance(tensors, dict):
        return "it has no model_state"
    with torch.device("meta"):
        network = resolve_name(f"{weights.record}:{weights.name}")(pretrained=False)
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in tensors.items()}
    for name in own.keys() | given.keys():
        if own.get(name) != given.get(name):
            words = given.get(name, "absent"), own.get(name, "absent")
            return "{} is {} in it and {} in the network".format(name, *words)
    return ""


def _download(weights: PublishedWeights, path: Path) -> None:
    """Download the file of some weights to `path`.

    Raises:
        ActionrecError: it can't be had.
    """
    from actionrec.downloads import Session, download_file, reason, size_at

    url = weights.url
    try:
        # The parts of a download lie in a folder of their own: other processes may have theirs.
        with Session() as session, tempfile.TemporaryDirectory(dir=path.parent) as folder:
            arrived = Path(folder, weights.path.name)
            download_file(url, arrived, size_at(url, session), session)
            arrived.replace(path)
    except OSError as error:
        raise ActionrecError(
            f"{url} could not be downloaded ({reason(error)}); download it on another machine and "
            f"save it as {weights.path}."
        ) from error
