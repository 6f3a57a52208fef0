"""The fast form of a recognizer says what the plain one says, and leaves it alone."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import actionrec
from actionrec.cli.main import main
from actionrec.errors import ActionrecError, Failure
from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.models.registry import BLOCKS
from actionrec.prediction.videos import Prediction
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

LABELS = tuple(map(str, range(20)))
SIZES = {"i3d": (8, 64), "r3d50": (8, 64), "i3d_r50": (8, 64), "c3d_small": (4, 32)}


def lively(backbone: str, block: str) -> VideoClassifier:
    """A recognizer as training could have left it: statistics, scales and shifts that matter, a
    block that isn't the identity, and logits that differ by several units."""
    torch.manual_seed(0)
    # With many positions (stage 2) a block computes otherwise than with few (stage 4).
    blocks = BlockConfig(block, stages=(2, 4))
    recognizer = VideoClassifier(ClassifierConfig(LABELS, backbone, blocks)).eval()
    for module in recognizer.modules():
        if isinstance(module, nn.BatchNorm3d | nn.GroupNorm):
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.no_grad():
        features = recognizer.network.features(recognizer.pixels(clips(backbone)))
        head = recognizer.network.head
        logits = head(features)
        head.weight *= 3 / logits.std()
        head.bias -= 3 / logits.std() * logits.mean()
    return recognizer


def clips(backbone: str) -> torch.Tensor:
    length, side = SIZES[backbone]
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(3, 3, length, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, (length, side, side), mode="trilinear")
    return (255 * smooth).byte()


def plain_logits(recognizer: VideoClassifier, pixels: torch.Tensor) -> torch.Tensor:
    """By the plain network, in float64 and the default order in memory."""
    network = copy.deepcopy(recognizer.network).double().to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        return network((pixels.double() / 255 - 0.5) / 0.5)


@pytest.mark.parametrize(
    ("backbone", "block"),
    [pytest.param(name, "snl", marks=pytest.mark.slow) for name in ("i3d", "r3d50", "i3d_r50")]
    + [("c3d_small", block) for block in (*tuple(BLOCKS), "none")],
)
def test_the_fast_forms_agree_with_the_plain_network_in_float64(backbone, block):
    recognizer, pixels = lively(backbone, block), clips(backbone)
    expected = plain_logits(recognizer, pixels)
    scores = expected.softmax(dim=1)
    assert scores.amax(dim=1).min() > 0.15, "scores without a favourite would agree by themselves"

    folded = InferenceModel(recognizer, precision="float32")
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.network.modules())
    torch.testing.assert_close(folded.logits(pixels).double(), expected, atol=1e-4, rtol=1e-4)

    short = InferenceModel(recognizer, precision="bfloat16")
    assert next(short.network.units.parameters()).dtype == torch.bfloat16
    found = torch.from_numpy(short.scores(pixels))
    assert found.shape == (len(pixels), len(LABELS)) and found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(pixels)))
    # CGNL is a product of three features that nothing normalises, and so are its roundings.
    tolerance = 0.06 if block == "cgnl" else 0.02
    torch.testing.assert_close(found.double(), scores, atol=tolerance, rtol=0)
    best = scores.topk(2).values
    confident = best[:, 0] - best[:, 1] > 2 * tolerance
    assert torch.equal(found.argmax(dim=1)[confident], scores.argmax(dim=1)[confident])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_original_is_not_touched(precision):
    recognizer = lively("c3d_small", "snl").train()
    before = copy.deepcopy(recognizer.state_dict())
    modules = [str(module) for module in recognizer.modules()]
    InferenceModel(recognizer, precision=precision).scores(clips("c3d_small"))
    after = recognizer.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) and value.dtype == after[name].dtype, name
    assert modules == [str(module) for module in recognizer.modules()]
    assert all(module.training for module in recognizer.modules())
    assert all(parameter.requires_grad for parameter in recognizer.parameters())


@pytest.mark.parametrize(("hardware", "type"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_where_the_hardware_has_it(monkeypatch, small_recognizer, hardware, type):
    monkeypatch.setattr("actionrec.models.inference.has_bfloat16", lambda device: hardware)
    prepared = InferenceModel(small_recognizer)
    assert {parameter.dtype for parameter in prepared.network.units.parameters()} == {type}
    assert {parameter.dtype for parameter in prepared.network.blocks.parameters()} == {type}
    assert prepared.network.head.weight.dtype == torch.float32
    assert prepared.precision == str(type).removeprefix("torch.")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file for clips of 4 frames of 32x32, with the classes of `class_folders`."""
    torch.manual_seed(0)
    recognizer = VideoClassifier(
        ClassifierConfig(
            labels=("first", "second", "third"),
            backbone="c3d_small",
            block=BlockConfig("snl"),
            sampling=ClipSampling(length=4, stride=2),
            preprocessing=Preprocessing(short_side=36, crop=32),
        )
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    recognizer.save(path)
    return path


def test_a_loaded_recognizer_predicts_from_files(model, class_folders):
    recognizer = actionrec.load(model, device="cpu", precision="float32", topk=2)
    good = class_folders / "val/first/first0.avi"
    prediction = recognizer.predict(good, clips=3)
    assert isinstance(prediction, Prediction)
    assert (prediction.video, prediction.model) == (str(good), str(model))
    assert len(prediction.top) == 2 and len(prediction.clips) == 3

    missing = class_folders / "missing.avi"
    results = recognizer.predict([str(good), missing, good], clips=3)
    first, failure, last = results
    assert first == last == prediction
    assert isinstance(failure, Failure) and "missing.avi" in failure.error


def test_features_are_what_the_head_makes_the_scores_of(model, class_folders):
    recognizer = actionrec.load(model, device="cpu", precision="float32")
    video = class_folders / "val/second/second1.avi"
    features = recognizer.features(video, clips=3)
    assert features.dtype == np.float32 and features.shape == (3, 96)
    with torch.inference_mode():
        scores = recognizer.network.head(torch.from_numpy(features)).softmax(dim=1).mean(dim=0)
    for entry in recognizer.predict(video, clips=3).top:
        index = recognizer.config.labels.index(entry.label)
        assert entry.score == pytest.approx(scores[index].item(), abs=1e-5)


@pytest.mark.slow
def test_evaluate_computes_in_float32_unless_told_and_says_what_else(
    model, class_folders, capsys, tmp_path
):
    arguments = ["evaluate", f"--model={model}", "--dataset=folder", f"--root={class_folders}"]
    arguments += ["--clips=2", "--workers=0", "--format=json", f"--output={tmp_path / 'report'}"]
    assert main(arguments) == 0
    assert "precision" not in json.loads(capsys.readouterr().out)["protocol"]
    # The report of one precision doesn't take the place of the other's.
    assert main([*arguments, "--precision=bfloat16"]) == 2
    assert "its precision is None, not bfloat16" in capsys.readouterr().err
    arguments[-1] = f"--output={tmp_path / 'other'}"
    assert main([*arguments, "--precision=bfloat16"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["precision"] == "bfloat16"


def test_scores_that_are_no_numbers_are_an_error(small_recognizer):
    broken = copy.deepcopy(small_recognizer)
    nn.init.constant_(broken.network.head.bias, float("inf"))
    model = InferenceModel(broken, "cpu", "float32")
    pixels = torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8)
    for answer in (model.scores, model.logits):
        with pytest.raises(ActionrecError, match="no finite numbers"):
            answer(pixels)


FORK = """
import os, sys, torch
torch.set_num_threads(2)
import actionrec
model = actionrec.load(sys.argv[1])
print(model.predict(sys.argv[2]).top[0].score, flush=True)
if child := os.fork():
    sys.exit(os.waitpid(child, 0)[1])
print(model.predict(sys.argv[2]).top[0].score, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_a_prediction_predicts_too(small_recognizer, tmp_path, encode):
    small_recognizer.save(tmp_path / "model.safetensors")
    video = encode(tmp_path / "v.avi")
    run = subprocess.run(
        [sys.executable, "-c", FORK, tmp_path / "model.safetensors", video],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert run.returncode == 0, run.stderr
    one, other = map(float, run.stdout.split())
    assert one == pytest.approx(other, abs=2e-6)
