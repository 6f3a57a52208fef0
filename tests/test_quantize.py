"""Files in INT8 say how well they agree with float32, and predict like any other model."""

import json
import shutil

import numpy as np
import pytest
import torch

from actionrec import quantize
from actionrec.cli.main import main
from actionrec.models.classifier import ClassifierConfig, VideoClassifier
from actionrec.models.exported import ExportedModel, openvino_core
from actionrec.models.inference import InferenceModel
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory, encode):
    """model.safetensors and videos/, of which one can't be read."""
    folder = tmp_path_factory.mktemp("int8")
    torch.manual_seed(0)
    config = ClassifierConfig(
        ("a", "b", "c"), "c3d_small", sampling=ClipSampling(8), preprocessing=Preprocessing(36, 32)
    )
    model = VideoClassifier(config)
    with torch.no_grad():
        model.network.head.weight.mul_(100)
    model.save(folder / "model.safetensors")
    (folder / "videos").mkdir()
    for number in range(9):
        size = (48 + 8 * (number % 3), 48)
        encode(folder / "videos" / f"{number}.mp4", "libx264", frames=9 + number, size=size)
    (folder / "videos" / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module", params=["int8.onnx", "int8.xml"])
def written(request, folder, command):
    """A file in INT8, and what the command that made it printed."""
    path = folder / request.param
    done = command(
        *("export", "--model", folder / "model.safetensors", "--quantize", "int8"),
        *("--calibrate", folder / "videos", "--output", path, "--min-agreement", "0.7"),
    )
    assert done.returncode == 0, done.stderr
    assert "broken.mp4" in done.stderr and "Traceback" not in done.stderr
    return path, done.stdout


def test_the_comparison_is_printed_and_kept_inside(written):
    path, printed = written
    assert printed.startswith(f"{path}: on 4 clips that calibrated nothing, beside float32")
    assert "same best label: 100.0%" in printed and "seconds a clip:" in printed
    kept = ExportedModel.read(path).quantization
    assert kept["type"] == "int8" and kept["calibration_clips"] == 5
    comparison = kept["comparison"]
    assert comparison["clips"] == 4 and 0 < comparison["worst_difference"] < 0.2
    assert comparison["int8_bytes"] < 0.5 * comparison["float32_bytes"]


def test_the_steps_of_pixels_are_their_levels(written):
    path, _ = written
    if path.suffix != ".xml":
        pytest.skip("read from OpenVINO's graph")
    graph = openvino_core().read_model(path)
    pixels = next(op for op in graph.get_ordered_ops() if op.get_type_name() == "FakeQuantize")
    lowest, highest = (float(pixels.input_value(i).get_node().data.item()) for i in (1, 2))
    assert (lowest, highest) == (-128, 127) and pixels.get_attributes()["levels"] == 256


def test_a_file_in_int8_is_a_model_like_any_other(written, folder, command):
    path, _ = written
    plain = InferenceModel.load(folder / "model.safetensors", precision="float32", engine="torch")
    small = InferenceModel.load(path)
    assert small.precision == "int8" and small.labels == plain.labels
    pixels = plain.clips.read(folder / "videos" / "8.mp4").pixels
    difference = np.abs(small.scores(pixels) - plain.scores(pixels)).max()
    assert 0 < difference < 0.2
    features, expected = small.clip_features(pixels), plain.clip_features(pixels)
    assert features.shape == expected.shape
    assert np.linalg.norm(features - expected) < 0.1 * np.linalg.norm(expected)

    video = folder / "videos" / "8.mp4"
    rows = folder / f"{path.suffix[1:]}.jsonl"
    for verb in (
        ["predict", video],
        ["predict", video, "--output", rows],
        ["timeline", video],
    ):
        done = command(*verb, "--model", path)
        assert done.returncode == 0, done.stderr
    [row] = map(json.loads, rows.read_text().splitlines())
    assert row["model"] == str(path) and {entry["label"] for entry in row["top"]} == set("abc")


def test_a_job_notices_that_the_weights_beside_a_graph_are_others(written, folder, command):
    path, _ = written
    if path.suffix != ".xml":
        pytest.skip("the weights are in the file")
    copied = folder / "copied.xml"
    shutil.copyfile(path, copied)
    shutil.copyfile(path.with_suffix(".bin"), copied.with_suffix(".bin"))
    job = (
        *("predict", folder / "videos" / "0.mp4", "--model", copied),
        *("--output", folder / "job.jsonl"),
    )
    assert command(*job).returncode == 0
    weights = bytearray(copied.with_suffix(".bin").read_bytes())
    weights[-1] ^= 1
    copied.with_suffix(".bin").write_bytes(weights)
    done = command(*job)
    assert done.returncode == 2 and "other weights" in done.stderr


def test_a_file_that_agrees_too_little_does_not_get_its_name(folder, monkeypatch, capsys):
    compare = quantize.compare

    def spoiled(plain, path, clips):
        found = vars(compare(plain, path, clips)) | {"agreement": 0.5, "sure_agreement": 0.5}
        return quantize.Comparison(**found)

    monkeypatch.setattr(quantize, "compare", spoiled)
    code = main(
        ["export", "--model", str(folder / "model.safetensors"), "--quantize", "int8"]
        + ["--calibrate", str(folder / "videos"), "--output", str(folder / "spoiled.xml")]
    )
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert code == 1 and "same best label: 50.0%" in printed.out
    assert "spoiled.xml was not written: its best label is float32's for 50.0%" in last
    assert "--min-agreement is 98.0%; calibrate with more clips" in last
    assert not list(folder.glob("*spoiled*"))


def test_wrong_usage_is_told_in_a_sentence_before_anything_is_computed(
    folder, tmp_path, monkeypatch, capsys
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    for number in range(3):
        shutil.copy(folder / "videos" / f"{number}.mp4", tmp_path / "few")
    shutil.copy(folder / "videos" / "broken.mp4", tmp_path / "few")
    (tmp_path / "there.bin").write_text("precious")
    videos = ["--calibrate", str(folder / "videos")]
    int8 = ["--quantize", "int8"]
    cases = [
        ("m.xml", int8, "go together"),
        ("m.xml", videos, "go together"),
        ("m.pt2", int8 + videos, "must end in .onnx or .xml"),
        ("there.xml", int8 + videos, "is there already"),
        ("m.xml", int8 + ["--calibrate", str(tmp_path / "none")], "is no folder"),
        ("m.xml", int8 + ["--calibrate", str(tmp_path / "empty")], "empty"),
        ("m.xml", int8 + ["--calibrate", str(tmp_path / "few")], "has 3 readable videos"),
        ("m.xml", [*int8, *videos, "--video", "v.mp4"], "--video is for exports in float32"),
    ]
    model = ["export", "--model", str(folder / "model.safetensors")]
    for output, more, reason in cases:
        code = main([*model, "--output", str(tmp_path / output), *more])
        complaint = capsys.readouterr().err
        assert code == 2 and reason in complaint.splitlines()[-1], (output, more, complaint)
    monkeypatch.setattr(quantize, "find_spec", lambda name: None if name == "nncf" else True)
    assert main([*model, "--output", str(tmp_path / "m.xml"), *int8, *videos]) == 2
    assert "pip install 'actionrec[int8]'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "few", "there.bin"]
