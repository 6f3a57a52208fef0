"""Every engine says what PyTorch says, keeps its compiled form, and gives way where it can't."""

import json
import logging
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from trained_models import randomised, trained

from actionrec.errors import ActionrecError, UsageError
from actionrec.models import engines
from actionrec.models import exported as exported_files
from actionrec.models.classifier import VideoClassifier
from actionrec.models.inference import InferenceModel
from actionrec.models.nonlocal_blocks import build_block
from actionrec.models.registry import BLOCKS


def clips(number: int, size: tuple[int, int, int] = (8, 32, 32)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(number, 3, 3, 4, 4, generator=generator)
    return (255 * nn.functional.interpolate(coarse, size, mode="trilinear")).byte()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """The forms that other tests compiled are out of sight."""
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def assert_same_answers(model: VideoClassifier, engine: str) -> None:
    plain = InferenceModel(model, precision="float32")
    other = InferenceModel(model, precision="float32", engine=engine)
    assert other.engine.name == engine
    pixels = clips(3)
    for found, expected in (
        (other.logits(pixels).numpy(), plain.logits(pixels).numpy()),
        (other.clip_features(pixels), plain.clip_features(pixels)),
    ):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_every_block_is_computed_by_an_engine_as_by_pytorch(engine):
    model = trained("c3d_small")
    names = [name for name in BLOCKS if (engine, name) != ("openvino", "cayley")]
    blocks = [build_block(name, 64) for name in names]
    model.network.blocks["conv4"] = randomised(nn.Sequential(*blocks))
    assert_same_answers(model, engine)


def test_openvino_leaves_cayley_to_torch_because_it_inverts_no_matrix(caplog):
    model = InferenceModel(trained("c3d_small", "cayley"), engine="openvino")
    assert model.engine.name == "torch"
    assert "(No conversion rule found for operations: aten.linalg_inv" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["i3d", "r3d50", "i3d_r50"])
def test_every_backbone_is_computed_by_openvino_as_by_pytorch(backbone):
    assert_same_answers(trained(backbone, "snl"), "openvino")


@pytest.mark.slow
def test_pytorchs_compiler_computes_the_same():
    assert_same_answers(trained("c3d_small", "snl"), "compile")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_compiled_form_is_kept_and_belongs_to_its_weights(engine, monkeypatch):
    made = []
    trace = engines.trace_prediction
    monkeypatch.setattr(engines, "trace_prediction", lambda m: made.append(m) or trace(m))
    model = trained("c3d_small")
    first = InferenceModel(model, precision="float32", engine=engine).logits(clips(2))
    again = InferenceModel(model, precision="float32", engine=engine).logits(clips(2))
    assert torch.equal(first, again) and len(made) == 1
    with torch.no_grad():
        model.network.head.bias[0] += 1
    changed = InferenceModel(model, precision="float32", engine=engine).logits(clips(2))
    assert len(made) == 2
    torch.testing.assert_close(changed - first, torch.tensor([[1.0, 0, 0]] * 2))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_damaged_form_is_made_again(engine, own_cache):
    model = trained("c3d_small")
    first = InferenceModel(model, precision="float32", engine=engine).logits(clips(2))
    [form] = own_cache.iterdir()
    form.write_bytes(form.read_bytes()[:1000])
    again = InferenceModel(model, precision="float32", engine=engine)
    assert again.engine.name == engine and torch.equal(again.logits(clips(2)), first)
    assert form.stat().st_size > 1000


def test_the_cache_keeps_the_forms_that_were_used_last(own_cache):
    own_cache.mkdir(parents=True)
    for number in range(engines.MOST_FORMS):
        (own_cache / str(number)).write_bytes(b"form")
        os.utime(own_cache / str(number), (number, number))
    engines.from_cache("0", lambda: b"new", bytes)
    engines.from_cache("another", lambda: b"new", bytes)
    assert {path.name for path in own_cache.iterdir()} == {"0", "another", *"234567"}


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "file"))
    assert_same_answers(trained("c3d_small"), "openvino")
    assert "is not kept for the next time" in caplog.text


def test_openvino_and_nncf_send_no_statistics_of_their_use():
    # In a process of its own, because NNCF sends none where pytest is.
    code = (
        "from actionrec.models.exported import import_openvino; import_openvino()\n"
        "from openvino.tools.ovc.convert_impl import tm\n"
        "from nncf.telemetry import telemetry\n"
        "print(tm.__name__, type(telemetry).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "MagicMock"], done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_is_survived_after_engines_have_come_and_gone(model, tmp_path):
    # With the stack for signals that faulthandler asks for, as in pytest.
    code = (
        "import faulthandler, os, signal, sys; faulthandler.enable()\n"
        "from actionrec.models.classifier import VideoClassifier\n"
        "from actionrec.models.inference import InferenceModel\n"
        "model, engines = VideoClassifier.load(sys.argv[1]), []\n"
        "for _ in range(4):\n"
        "    engines.append(InferenceModel(model, precision='float32', engine='openvino'))\n"
        "    engines = engines[-2:]\n"
        "del engines\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('survived'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True)
    assert done.stdout == "survived\n" and done.returncode == 0, done.stderr


def test_several_threads_share_an_engine():
    model = InferenceModel(trained("c3d_small"), precision="float32", engine="openvino")
    pixels = clips(8)
    expected = model.logits(pixels)
    found = {}

    def score(row: int) -> None:
        found[row] = torch.cat([model.logits(pixels[row : row + 1]) for _ in range(20)])

    threads = [threading.Thread(target=score, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in range(8):
        assert torch.equal(found[row], expected[row : row + 1].expand(20, -1))


def test_torch_takes_over_for_a_clip_of_another_size(caplog):
    model = InferenceModel(trained("c3d_small"), precision="float32", engine="openvino")
    larger = clips(2, (8, 40, 40))
    expected = InferenceModel(trained("c3d_small"), precision="float32").logits(larger)
    assert torch.equal(model.logits(larger), expected)
    assert "openvino was made for another clip than 8x40x40; torch computes" in caplog.text


def test_torch_takes_over_where_an_engine_fails(monkeypatch, caplog):
    def fail(model):
        raise RuntimeError("no such operator: lattice\nand many lines more")

    monkeypatch.setattr(engines, "trace_prediction", fail)
    model = InferenceModel(trained("c3d_small"), precision="float32", engine="openvino")
    assert model.engine.name == "torch" and model.scores(clips(1)).shape == (1, 3)
    assert caplog.messages == [
        "The engine openvino can't compute this network (no such operator: lattice); torch does."
    ]


def test_onnxruntime_leaves_bfloat16_to_torch(caplog):
    model = InferenceModel(trained("c3d_small"), precision="bfloat16", engine="onnxruntime")
    assert model.engine.name == "torch" and "(it has no bfloat16)" in caplog.text
    assert InferenceModel(trained("c3d_small"), engine="onnxruntime").precision == "float32"


def test_an_engine_that_is_not_installed_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"openvino is not installed.*actionrec\[openvino\]"):
        InferenceModel(trained("c3d_small"), engine="openvino")
    with pytest.raises(UsageError, match=r"actionrec\[onnx\]"):
        InferenceModel(trained("c3d_small"), engine="onnxruntime")
    assert InferenceModel(trained("c3d_small"), engine="auto").engine.name == "torch"


def test_auto_compiles_nothing_for_a_network_that_is_fast_anyway(own_cache):
    assert InferenceModel(trained("c3d_small"), engine="auto").engine.name == "torch"
    assert not own_cache.exists()


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [((0.5, 0.2), "openvino"), ((0.5, 0.49), "torch"), ((0.5, 0.9), "torch")],
)
def test_auto_takes_what_is_clearly_faster_and_measures_once(
    seconds, chosen, own_cache, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    measured = []

    def shortest(candidates, clip):
        measured.append(list(candidates))
        return dict(zip(("torch", "openvino"), seconds, strict=True))

    monkeypatch.setattr(engines, "shortest", shortest)
    for _ in range(2):
        model = InferenceModel(trained("c3d_small"), precision="float32", engine="auto")
        assert model.engine.name == chosen
    assert measured == [["torch"], ["torch", "openvino"]]
    [kept] = own_cache.glob("*.json")
    assert json.loads(kept.read_text()) == {"torch": seconds[0], "openvino": seconds[1]}
    told = "Computing with openvino: 0.20 s a clip, torch 0.50 s." in caplog.text
    assert told == (chosen == "openvino")


def test_auto_measures_again_when_a_broken_library_was_mended(own_cache, monkeypatch):
    measured = []

    def shortest(candidates, clip):
        measured.append(list(candidates))
        return {"torch": 0.5, "openvino": 0.2}

    monkeypatch.setattr(engines, "shortest", shortest)
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "openvino", None)
        model = InferenceModel(trained("c3d_small"), precision="float32", engine="auto")
        assert model.engine.name == "torch"
    model = InferenceModel(trained("c3d_small"), precision="float32", engine="auto")
    assert model.engine.name == "openvino"


def test_the_command_line_takes_an_engine(model, encode, tmp_path, command):
    video = encode(tmp_path / "video.mp4", frames=12)
    answers = {}
    for engine in ("torch", "openvino", "onnxruntime"):
        done = command(
            *("predict", video, "--model", model, "--engine", engine),
            *("--precision", "float32", "--format", "json"),
        )
        assert done.returncode == 0 and done.stderr.count("\n") <= 1, done.stderr
        [answers[engine]] = json.loads(done.stdout)
    expected = {entry["label"]: entry["score"] for entry in answers["torch"]["top"]}
    for answer in answers.values():
        found = {entry["label"]: entry["score"] for entry in answer["top"]}
        assert found == pytest.approx(expected, abs=1e-5)


def exported(tmp_path: Path, command, model: str) -> Path:
    path = tmp_path / "exported.onnx"
    done = command("export", "--model", model, "--output", path)
    assert done.returncode == 0, done.stderr
    return path


def test_what_an_exported_file_lacks_is_named(tmp_path, monkeypatch):
    path = tmp_path / "model.xml"
    path.write_text("<net><rt_info><actionrec/></rt_info></net>")

    def broken():
        raise ImportError("libopenvino.so is not there")

    with monkeypatch.context() as patch:
        patch.setattr(exported_files, "import_openvino", broken)
        with pytest.raises(
            ActionrecError, match=r"openvino, which runs .* \(libopenvino.so is not"
        ):
            InferenceModel.load(path)
    with pytest.raises(ActionrecError, match="needs .*model.bin, which holds its weights"):
        InferenceModel.load(path)


def test_an_exported_file_needs_only_the_library_that_runs_it(
    model, tmp_path, command, monkeypatch
):
    path = exported(tmp_path, command, model)
    for module in (engines, exported_files):
        monkeypatch.setattr(
            module, "find_spec", lambda name: find_spec(name) if name == "onnxruntime" else None
        )
    for engine in ("auto", "onnxruntime"):
        assert InferenceModel.load(path, engine=engine).engine.name == "onnxruntime"
    with pytest.raises(UsageError, match="openvino is not installed"):
        InferenceModel.load(path, engine="openvino")


def test_an_exported_file_predicts_into_a_file_with_every_engine(model, encode, tmp_path, command):
    path = exported(tmp_path, command, model)
    video = encode(tmp_path / "video.mp4", frames=12)
    for engine in ("auto", "openvino", "onnxruntime"):
        output = tmp_path / f"{engine}.jsonl"
        done = command("predict", video, "--model", path, "--engine", engine, "--output", output)
        assert done.returncode == 0, done.stderr
        assert "error" not in json.loads(output.read_text())


def test_an_exported_file_predicts_and_explains_nothing(model, encode, tmp_path, command):
    path = exported(tmp_path, command, model)
    video = encode(tmp_path / "video.mp4", frames=12)
    plain = InferenceModel.load(model, precision="float32", engine="torch")
    pixels = plain.clips.read(video).pixels
    for engine in ("auto", "openvino", "onnxruntime"):
        file = InferenceModel.load(path, precision="float32", engine=engine)
        assert file.labels == plain.labels and file.is_exported
        torch.testing.assert_close(file.logits(pixels), plain.logits(pixels), atol=1e-5, rtol=1e-4)
    with pytest.raises(ActionrecError, match="gives no features"):
        file.clip_features(pixels)
    with pytest.raises(ActionrecError, match="takes no clips of 4x40x40"):
        file.scores(clips(1, (4, 40, 40)))
    with pytest.raises(UsageError, match="--engine torch can't run"):
        InferenceModel.load(path, engine="torch")

    for verb in (["predict", video], ["timeline", video]):
        done = command(*verb, "--model", path, "--format", "json")
        assert done.returncode == 0, done.stderr
    explained = command("explain", video, "--model", path, "--output", tmp_path / "why.png")
    assert explained.returncode == 1 and len(explained.stderr.splitlines()) == 1
    assert "is an exported file, which can predict and nothing else" in explained.stderr


def test_an_exported_file_is_of_ours_and_whole(tmp_path, model, command):
    import onnx

    path = exported(tmp_path, command, model)
    newer = onnx.load(path)
    [entry] = newer.metadata_props
    description = json.loads(entry.value)
    description["config"]["spin"] = 1
    entry.value = json.dumps(description)
    onnx.save(newer, tmp_path / "newer.onnx")
    with pytest.raises(ActionrecError, match="newer.onnx was written by another version"):
        InferenceModel.load(tmp_path / "newer.onnx")
    foreign = onnx.load(path)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:1000])
    (tmp_path / "text.xml").write_text("<net/>")
    for name in ("foreign.onnx", "text.onnx", "cut.onnx", "text.xml"):
        with pytest.raises(ActionrecError, match=f"{name} is no model that `actionrec export`"):
            InferenceModel.load(tmp_path / name)
    with pytest.raises(ActionrecError, match="There is no model"):
        InferenceModel.load(tmp_path / "none.onnx")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("backbone", "block"), [("c3d_small", "none"), ("i3d", "snl")])
def test_the_clips_that_share_a_batch_change_no_bit_of_an_answer(backbone, block, precision):
    model = InferenceModel(trained(backbone, block), "cpu", precision)
    pixels = clips(5)
    alone = [model.logits(clip) for clip in pixels.split(1)]
    for sizes in ((5,), (2, 3)):
        together = [model.logits(batch) for batch in pixels.split(sizes)]
        assert torch.equal(torch.cat(together), torch.cat(alone))
