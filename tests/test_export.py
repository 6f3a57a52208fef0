"""Exported files compute what PyTorch does, say what they expect, and are right or not there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from trained_models import randomised, trained

from actionrec import Recognizer
from actionrec.cli.main import main
from actionrec.errors import ActionrecError, UsageError
from actionrec.export import (
    EXTRA_FILE,
    TOLERANCE,
    checked_inputs,
    export,
    free_axes,
    generated_clip,
    relative_difference,
    resized,
    trace,
    write_onnx,
    write_torch,
)
from actionrec.models.classifier import ClassifierConfig, VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.models.model_file import METADATA_KEY
from actionrec.models.nonlocal_blocks import build_block
from actionrec.models.registry import BLOCKS
from actionrec.video.transforms import Preprocessing

EXAMPLE = Path(__file__).parents[1] / "examples" / "onnx_predict.py"


def one_block_after_the_other() -> VideoClassifier:
    """A network with a block of every kind, none of which is the identity."""
    model = trained("c3d_small")
    blocks = [build_block(name, 64) for name in tuple(BLOCKS)]
    model.network.blocks["conv4"] = randomised(nn.Sequential(*blocks))
    return model.eval()


# The blocks form their N x N matrix where the size is fixed, and never where it is free.
@pytest.mark.slow
@pytest.mark.parametrize("free", [{0: "batch"}, {0: "batch", 2: "time", 3: "height", 4: "width"}])
def test_every_block_computes_what_pytorch_does(free, tmp_path):
    model = one_block_after_the_other()
    pixels = generated_clip(8, 32)
    program = trace(model, pixels, free)
    for write, name in ((write_onnx, "m.onnx"), (write_torch, "m.pt2")):
        run = write(program, free, "{}", tmp_path / name)
        for clips in checked_inputs(pixels, free):
            with torch.no_grad():
                assert relative_difference(run(clips), model(clips)) < 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "name"), [("i3d", "m.onnx"), ("i3d_r50", "m.pt2"), ("r3d50", "m.pt2")]
)
def test_every_backbone_is_exported_with_its_block(backbone, name, tmp_path):
    exported = export(trained(backbone, "snl"), tmp_path / name)
    assert list(exported.differences)[:2] == ["1x3x8x32x32", "2x3x8x32x32"]
    assert max(exported.differences.values()) <= TOLERANCE


def test_sizes_are_free_where_padding_and_the_last_feature_map_leave_them():
    def free(backbone, length, size):
        return list(free_axes(trained(backbone), generated_clip(length, size)).values())

    # With free sizes, the graph of Swin's windows was not done after three minutes.
    assert free("swin3d_t", 8, 64) == ["batch"]
    assert free("i3d", 16, 64) == ["batch"]
    assert free("r3d50", 16, 64) == ["batch", "height", "width"]
    assert free("r3d50", 32, 32) == ["batch", "time"]
    assert free("c3d_small", 8, 32) == ["batch", "time", "height", "width"]


def test_a_clip_that_is_too_small_for_the_network_is_refused():
    with pytest.raises(UsageError, match="A clip of 1x2x2 is not possible for i3d_r50"):
        free_axes(trained("i3d_r50"), generated_clip(1, 2))


@pytest.fixture(scope="module")
def exported_onnx(tmp_path_factory, encode, command):
    """A folder with model.safetensors, model.onnx made from it by the command line, video.mp4."""
    folder = tmp_path_factory.mktemp("onnx")
    model = trained("c3d_small", "snl")
    with torch.no_grad():
        model.network.head.weight.mul_(100)
    model.save(folder / "model.safetensors")
    # 60 frames at 50 a second, shown larger than they are.
    encode(folder / "video.mp4", "libx264", frames=60, size=(48, 28), fps=50)
    done = command(
        *("export", "--model", folder / "model.safetensors", "--output", folder / "model.onnx"),
        *("--video", folder / "video.mp4"),
        fresh=True,
    )
    assert done.returncode == 0, done.stderr
    assert "clips of 8x32x32, any batch, time, height, width" in done.stdout
    assert "2x3x11x41x41: differs from PyTorch by at most" in done.stdout
    return folder


def test_an_exported_file_has_no_features_and_leaves_nothing_behind(
    exported_onnx, tmp_path, capsys
):
    video, model = exported_onnx / "video.mp4", exported_onnx / "model.onnx"
    output = tmp_path / "features"
    assert main(["features", str(video), "--model", str(model), "--output", str(output)]) == 1
    assert "gives no features" in capsys.readouterr().err and not output.exists()
    with pytest.raises(ActionrecError, match="gives no features"):
        Recognizer.load(model).features(video)


def test_an_onnx_file_says_what_it_expects(exported_onnx):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported_onnx / "model.onnx")
    [clips], [logits] = session.get_inputs(), session.get_outputs()
    assert (clips.name, clips.type) == ("clips", "tensor(uint8)")
    assert clips.shape == ["batch", 3, "time", "height", "width"]
    assert (logits.name, logits.shape) == ("logits", ["batch", 3])
    described = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert described["config"]["labels"] == ["a", "b", "c"]
    assert described["config"]["sampling"] == {"length": 8, "stride": 1, "fps": None}
    assert described["config"]["preprocessing"]["crop"] == 32
    assert (described["clip"], described["model"]) == ([8, 32, 32], "model.safetensors")


def example(*arguments):
    """Run the example as if torch and actionrec were not there."""
    blocked = "import sys, runpy; sys.modules['torch'] = sys.modules['actionrec'] = None; "
    run = f"sys.argv = sys.argv[1:]; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", blocked + run, str(EXAMPLE), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_example_names_what_predict_names_without_torch(exported_onnx, command):
    done = example(exported_onnx / "model.onnx", exported_onnx / "video.mp4")
    assert done.returncode == 0, done.stderr
    predicted = command(
        *("predict", exported_onnx / "video.mp4", "--precision", "float32"),
        *("--model", exported_onnx / "model.safetensors"),
    ).stdout
    # A line a class, after the one that names the file.
    ours, theirs = (
        [line.split() for line in lines]
        for lines in (done.stdout.splitlines(), predicted.splitlines()[1:])
    )
    assert [label for _, label in ours] == [label for _, label in theirs]
    scores, expected = (
        [float(score.rstrip("%")) for score, _ in lines] for lines in (ours, theirs)
    )
    assert scores == pytest.approx(expected, abs=0.011)
    # The network does see the video.
    assert max(scores) < 99.9


def test_the_example_wants_a_file_of_ours(exported_onnx, tmp_path):
    import onnx

    model = onnx.load(exported_onnx / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    video = exported_onnx / "video.mp4"
    for file, clip, reason in (
        (tmp_path / "other.onnx", video, "has no labels and no clip size"),
        (tmp_path / "text.onnx", video, "is no ONNX file"),
        (tmp_path / "none.onnx", video, "There is no file"),
        (exported_onnx / "model.onnx", tmp_path / "none.mp4", "There is no video"),
        (exported_onnx / "model.onnx", tmp_path / "text.onnx", "could not be read as a video"),
    ):
        done = example(file, clip)
        assert done.returncode == 1 and done.stdout == ""
        assert len(done.stderr.splitlines()) == 1 and reason in done.stderr


def test_a_graph_of_torch_export_runs_and_says_what_it_expects(tmp_path):
    model = trained("c3d_small", "nl")
    exported = export(model, tmp_path / "model.pt2", clip="12x48x48")
    assert exported.clip == (12, 48, 48)
    extra = {EXTRA_FILE: ""}
    loaded = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    config = json.loads(extra[EXTRA_FILE])["config"]
    assert config["sampling"]["length"] == 12
    assert (config["preprocessing"]["short_side"], config["preprocessing"]["crop"]) == (54, 48)
    clips = torch.randint(0, 256, (5, 3, 12, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        assert relative_difference(loaded(clips), model(clips)) < 1e-5
    assert model.config.sampling.length == 8


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_file_that_differs_from_pytorch_does_not_get_its_name(wrong, tmp_path, monkeypatch):
    model = trained("c3d_small")
    with torch.no_grad():
        scale = float(model(generated_clip(8, 32)).abs().max())

    class Spoiled(InferenceModel):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.network.head.bias[1] += wrong * scale

    monkeypatch.setattr("actionrec.export.InferenceModel", Spoiled)
    figure = "nan" if wrong != wrong else r"(9\.\de-04|1\.0e-03)"
    with pytest.raises(ActionrecError, match=f"differ from PyTorch's by {figure} of the largest"):
        export(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_torch_cannot_export_is_told_in_a_sentence(tmp_path):
    model = trained("c3d_small")
    model.network.pool = lambda x: x.mean(dim=(2, 3, 4)) * float(x.sum())
    with pytest.raises(ActionrecError, match="torch .* can't export this network") as failed:
        export(model, tmp_path / "model.pt2")
    assert "\n" not in str(failed.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_told_before_anything_is_written(tmp_path, capsys, monkeypatch):
    trained("c3d_small").save(tmp_path / "model.safetensors")
    (tmp_path / "there.pt2").write_text("precious")
    (tmp_path / "file").write_text("")
    model = str(tmp_path / "model.safetensors")
    cases = [
        ("none.safetensors", "m.pt2", [], 1, "There is no model"),
        (model, "m.tflite", [], 2, "must end in .onnx or .pt2"),
        (model, "there.pt2", [], 2, "is there already"),
        (model, "file/m.pt2", [], 1, "could not be written"),
        (model, "m.pt2", ["--clip", "8x32"], 2, "frames and a square"),
        (model, "m.pt2", ["--clip", "8x32x40"], 2, "frames and a square"),
        (model, "m.pt2", ["--clip", "0x32x32"], 2, "not possible"),
        (model, "m.pt2", ["--video", str(tmp_path / "none.mp4")], 1, "is not a file"),
    ]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    cases.append((model, "m.onnx", [], 2, "pip install 'actionrec[onnx]'"))
    for model, output, more, code, reason in cases:
        path = str(tmp_path / output)
        assert main(["export", "--model", model, "--output", path, *more]) == code, output
        complaint = capsys.readouterr().err
        assert len(complaint.splitlines()) == 1 and reason in complaint, complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("file", "model.safetensors", "there.pt2")
    ]
    assert (tmp_path / "there.pt2").read_text() == "precious"


def test_another_clip_size_shows_the_same_part_of_a_frame():
    config = ClassifierConfig(("a",), preprocessing=Preprocessing(128, 124))
    larger = resized(config, "32x248x248")
    assert larger.preprocessing.square((240, 320)) == config.preprocessing.square((240, 320))
    assert larger.sampling.length == 32
