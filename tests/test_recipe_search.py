"""scripts/recipe_search.py: what enters a stage, computed once, trains the rest of the network."""

import csv
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from actionrec.config import TrainConfig
from actionrec.datasets.registry import open_dataset
from actionrec.models.classifier import ClassifierConfig, VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing
from actionrec.video.writer import VideoWriter

SCRIPT = Path(__file__).parents[1] / "scripts" / "recipe_search.py"
if not SCRIPT.exists():
    pytest.skip("not run from a checkout", allow_module_level=True)
recipe_search = import_module("recipe_search")

CONFIG = ClassifierConfig(
    ("bright", "grey"),
    backbone="c3d_small",
    sampling=ClipSampling(8),
    preprocessing=Preprocessing(36, 32),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A CSV file of 20 tiny videos, bright or grey, of five people; and an untrained network."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    rows = ["path,label,group"]
    for person in ("ann", "bo", "cy", "di", "ed"):
        for label, mean in (("bright", 200), ("grey", 100)):
            for number in range(2):
                path = folder / f"{person}_{label}{number}.mp4"
                with VideoWriter(path, (48, 64), 25) as writer:
                    for _ in range(20):
                        noise = generator.integers(-40, 40, (48, 64, 3))
                        writer.write((mean + noise).astype(np.uint8))
                rows.append(f"{path.name},{label},{person}")
    (folder / "people.csv").write_text("\n".join(rows))
    torch.manual_seed(0)
    VideoClassifier(CONFIG).save(folder / "network.safetensors")
    return folder


def words(data, *more, root="people.csv"):
    """Arguments of the script for tiny clips and the network in `data`."""
    flags = {"dataset": "csv", "root": data / root, "draws": 2}
    flags |= {"backbone": "c3d_small", "weights": data / "network.safetensors"}
    flags |= {"clip-length": 8, "short-side": 36, "crop": 32}
    return [str(word) for name in flags for word in (f"--{name}", flags[name])] + list(more)


def test_candidates_are_trained_on_every_split_and_become_rows(data, tmp_path):
    results = tmp_path / "rows.csv"
    candidates = (
        "train_from=stage4,epochs=2,warmup=0,lr=0.001",
        "train_from=stage3,epochs=7,warmup=1,lr=0.3,fit_head=false,ema=0,batch_size=4,seed=1",
    )
    flags = [word for candidate in candidates for word in ("--candidate", candidate)]
    command = [sys.executable, SCRIPT, *words(data, *flags, "--split", "group")]
    done = subprocess.run(
        [*command, "--results", results], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    with results.open(newline="") as file:
        fitted, trained = csv.DictReader(file)
    with (SCRIPT.parents[1] / "results" / "recipe_search.csv").open(newline="") as file:
        assert set(next(csv.reader(file))) == set(fitted)
    # Brightness is in the features: a fitted head tells it, and so does a training.
    assert float(fitted["video_top1"]) == 100 and fitted["curve"] == "100.0 100.0"
    curve = [float(value) for value in trained["curve"].split()]
    assert len(curve) == 7 and curve[0] < 90 <= curve[-1] == float(trained["video_top1"])
    assert float(trained["spread"]) == max(curve[-2:]) - min(curve[-2:])
    told = ("data", "division", "splits", "clip", "fps", "draws", "lr", "seed")
    values = "people", "group left out", "ann bo cy di ed", "8x32x32", "25.0", "2", "0.3", "1"
    assert tuple(trained[name] for name in told) == values
    assert float(fitted["penalty"].split()[0]) >= 0.003 and trained["penalty"] == ""
    assert fitted["batch_size"] == "8" and fitted["ema"] == "0.95"  # the recipe's
    assert done.stdout.count("\n") == 4 and "| 0.3 |" in done.stdout


def test_the_rest_of_a_network_answers_from_a_stage_s_input_as_the_whole_does_from_pixels(data):
    model = VideoClassifier.load(data / "network.safetensors").eval()
    ready = InferenceModel(model, device="cpu", precision="float32")
    clips = ready.clips.read(data / "bo_grey0.mp4", 3).pixels
    units = {"stage3": "conv3", "stage4": "conv4", "block": recipe_search.END}
    found, features = recipe_search.pass_through(ready, clips, units.values())
    assert found.keys() == set(units.values())
    np.testing.assert_allclose(features, ready.clip_features(clips), rtol=1e-4)
    for train_from, unit in units.items():
        rest = VideoClassifier.load(data / "network.safetensors").eval().network
        assert recipe_search.first_trained(rest, train_from) == unit
        recipe_search.keep_from(rest, unit)
        with torch.no_grad():
            torch.testing.assert_close(rest(found[unit]), model(clips), atol=1e-5, rtol=1e-4)


def test_segments_of_a_file_have_inputs_of_their_own(data):
    listing = data / "segments.csv"
    rows = [
        f"{person}_bright0.mp4,{label},{person},{start},{start + 0.4}"
        for person in ("ann", "bo", "cy", "di", "ed")
        for label, start in (("first", 0), ("second", 0.4))
    ]
    listing.write_text("\n".join(["path,label,group,start,end", *rows]))
    dataset = open_dataset("csv", listing)
    model, config = VideoClassifier(CONFIG).eval(), TrainConfig("csv", precision="float32")
    inputs = recipe_search.compute_inputs(model, config, ["conv4"], {"1": dataset}, 1)
    assert set(inputs) == {video.source for video in dataset.train + dataset.val}
    one, other = (inputs[video.source].clips["conv4"] for video in dataset.val)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "candidate, told",
    [
        ("augment=color", "'augment=color' in --candidate"),
        ("lr", "'lr' in --candidate"),
        ("lr=fast", "lr"),
        ("train_from=head", "choose a stage"),
        ("train_from=stage5", "no stage 5"),
    ],
)
def test_what_is_no_candidate_is_wrong_usage(data, capsys, candidate, told):
    try:
        code = recipe_search.main(words(data, "--candidate", candidate))
    except SystemExit as error:
        code = error.code
    assert code == 2 and told in capsys.readouterr().err


def test_a_training_that_diverges_has_no_figure(data, capsys, tmp_path):
    candidates = "--candidate", "lr=1e9,epochs=3", "--candidate", "train_from=stage3,epochs=3"
    results = tmp_path / "rows.csv"
    assert recipe_search.main(words(data, *candidates, "--results", str(results))) == 1
    printed = capsys.readouterr()
    assert "lr=1e9,epochs=3 failed: the loss is" in printed.err
    with results.open(newline="") as file:
        assert [row["train_from"] for row in csv.DictReader(file)] == ["stage3"]


def test_an_unreadable_video_is_left_out_and_told(data, capsys):
    rows = (data / "people.csv").read_text()
    (data / "broken.mp4").write_bytes(b"no video")
    (data / "more.csv").write_text(f"{rows}\nbroken.mp4,grey,bo")
    candidate = "train_from=stage4,epochs=3"
    assert recipe_search.main(words(data, "--candidate", candidate, root="more.csv")) == 1
    printed = capsys.readouterr()
    assert printed.err.count("left out:") == 1 and "| stage4 |" in printed.out
