"""The README's main job on the demo data, whose classes differ by motion alone."""

import json

import numpy as np
import pytest

from actionrec.datasets.registry import open_dataset
from actionrec.evaluation.logits import ranks
from actionrec.models.inference import InferenceModel


@pytest.fixture(scope="module")
def run(tmp_path_factory, command):
    """The folder in which the demo's training was run as the README says, but for fewer epochs."""
    folder = tmp_path_factory.mktemp("demo")
    shorter = ("--epochs", 8, "--lr-step", 6)
    training = command("train", "--config", "demo.yaml", *shorter, cwd=folder, fresh=True)
    assert training.returncode == 0, training.stderr
    return folder


@pytest.mark.slow
def test_the_demo_is_learnt_far_above_chance_and_a_clip_is_named(run, command):
    model = "runs/demo/model.safetensors"
    evaluation = command(
        *("evaluate", "--model", model, "--dataset", "demo", "--format", "json"), cwd=run
    )
    assert evaluation.returncode == 0, evaluation.stderr
    result = json.loads(evaluation.stdout)
    assert result["clip"]["n"] == 1120 and result["video"]["n"] == 112
    # Chance is 12.5 %; all 20 epochs reach 97 %, these eight 69 %.
    assert result["clip"]["top1"] >= 0.5
    assert result["video"]["top1"] >= 0.5
    video = next(v for v in open_dataset("demo").val if v.path.parent.name == "MoveLeft")
    prediction = command("predict", video.path, "--model", model, "--format", "json", cwd=run)
    assert json.loads(prediction.stdout)[0]["top"][0]["label"] == "MoveLeft"


@pytest.mark.slow
def test_the_same_network_stays_near_chance_when_it_sees_one_frame_repeated(run):
    model = InferenceModel.load(run / "runs" / "demo" / "model.safetensors")
    scores, truths = [], []
    for video in open_dataset("demo").val:
        pixels = model.clips.read(video.path, clips=2).pixels
        scores.append(model.scores(pixels[:, :, :1].expand_as(pixels)))
        truths += [video.label] * len(scores[-1])
    top1 = (ranks(np.concatenate(scores), np.array(truths)) == 0).mean()
    print(f"clip-level Top-1 on one repeated frame: {top1:.1%}, chance 12.5 %")
    assert top1 < 0.25
