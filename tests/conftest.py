"""What several tests need: real video files made with PyAV, the command line, a small network."""

import os
import subprocess
import sys
from fractions import Fraction

# Several tests at once (pytest -n 2), and several threads each, would be in each other's way; the
# variable is read when torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The figures of the tests are a CPU's, and processes share it as they can't share one GPU; on a
# machine with a GPU `ACTIONREC_TESTS=gpu pytest tests/test_models_i3d.py` tests that too.
if os.environ.get("ACTIONREC_TESTS") != "gpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import av
import numpy as np
import pytest
import torch
from command_server import CommandServer

# The longest, which end late if they begin late, and what two workers would set up twice.
FIRST = ("test_demo_run", "test_measure_gpu", "test_table7", "test_devices", "test_broken_files")
FIRST += ("test_training_run", "test_export", "test_quantize")


def pytest_collection_modifyitems(items):
    """Begin with the tests of the modules in `FIRST`."""
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else 99)


@pytest.fixture(scope="session")
def encode():
    """Encode a video whose frames carry their index.

    A frame is eight columns; column b is white where bit b of the frame's index is 1. The file's
    suffix names the container. `times`, in milliseconds, makes the frame rate variable.
    """

    def encode(path, codec="mpeg4", frames=30, size=(64, 48), fps=25, options=None, times=None):
        width, height = size
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for index in range(frames):
                bits = (index >> np.arange(width) * 8 // width) & 1
                picture = np.tile((30 + 190 * bits[:, None]).astype(np.uint8), (height, 1, 3))
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = index if times is None else times[index]
                if times is not None:
                    frame.time_base = Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return encode


@pytest.fixture(scope="session")
def commands():
    """The server that starts commands without importing PyTorch anew."""
    server = CommandServer()
    yield server
    server.close()


# They import PyTorch, and the others, like help, begin as quickly in a Python of their own.
FORKED_VERBS = {"predict", "timeline", "train", "tune", "evaluate", "explain", "export"}


@pytest.fixture(scope="session")
def command(request):
    """Run the command line as its user does, in a process of its own.

    With `fresh` Python starts anew for it, as for the user: once for each verb, and for what Python
    or a library reads while it starts.
    """

    def command(verb, *arguments, fresh=False, **options):
        words = [verb, *map(str, arguments)]
        if verb in FORKED_VERBS and not fresh and "--help" not in words and hasattr(os, "fork"):
            return request.getfixturevalue("commands").start(words, **options).completed()
        return subprocess.run(
            [sys.executable, "-m", "actionrec", *words],
            capture_output=True,
            text=True,
            timeout=1200,
            **options,
        )

    return command


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory, encode):
    """A data set in folders: train/ and val/, with four and two short videos of two classes."""
    root = tmp_path_factory.mktemp("class_folders")
    for side, videos in (("train", 4), ("val", 2)):
        for label in ("first", "second"):
            folder = root / side / label
            folder.mkdir(parents=True)
            for index in range(videos):
                encode(folder / f"{label}{index}.avi", frames=20 + index)
    return root


@pytest.fixture(scope="session")
def small_recognizer():
    """An untrained recognizer that is quick to run: 4 frames of 32x32, the classes a, b and c."""
    from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
    from actionrec.video.sampling import ClipSampling
    from actionrec.video.transforms import Preprocessing

    torch.manual_seed(0)
    return VideoClassifier(
        ClassifierConfig(
            labels=("a", "b", "c"),
            backbone="c3d_small",
            block=BlockConfig("snl"),
            sampling=ClipSampling(length=4, stride=2),
            preprocessing=Preprocessing(short_side=36, crop=32),
        ),
        {"note": "untrained"},
    ).eval()


@pytest.fixture(scope="session")
def model(tmp_path_factory, small_recognizer):
    """The path of the file of `small_recognizer`, as its user would type it."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    small_recognizer.save(path)
    return str(path)


@pytest.fixture(scope="session")
def small_training(class_folders):
    """Settings of a training that takes a second."""
    from actionrec.config import TrainConfig
    from actionrec.training.run import fill_in

    config = TrainConfig(
        dataset="folder",
        root=str(class_folders),
        recipe="paper",
        backbone="c3d_small",
        weights="none",
        clip_length=8,
        short_side=36,
        crop=32,
        epochs=2,
        batch_size=4,
        workers=0,
    )
    return fill_in(config)


@pytest.fixture
def losses(monkeypatch):
    """The loss of every batch that is trained on while the test lasts."""
    from actionrec.training.module import Training

    noted = []
    loss_of = Training.loss_of

    def noting(self, batch, index):
        loss = loss_of(self, batch, index)
        noted.append(loss.item())
        return loss

    monkeypatch.setattr(Training, "loss_of", noting)
    return noted
