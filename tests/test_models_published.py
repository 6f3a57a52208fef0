"""Every network of torchvision and PyTorchVideo: its own keys and logits, and what ours can do."""

import http.server
import threading
import warnings
from functools import partial
from pkgutil import resolve_name
from types import SimpleNamespace

import pytest
import torch
import torchvision
from local_server import serving
from torch import nn
from trained_models import randomised

from actionrec.errors import ActionrecError, UsageError
from actionrec.explanation.heat_maps import explain_video
from actionrec.models import conversion, published
from actionrec.models.catalogue import fetch
from actionrec.models.classifier import (
    KINETICS400_LABELS,
    BlockConfig,
    ClassifierConfig,
    VideoClassifier,
)
from actionrec.models.inference import InferenceModel
from actionrec.models.nonlocal_blocks import build_block
from actionrec.models.published import PUBLISHED
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

# A clip (T, H, W) that each takes and that is quick. Where a network of PyTorchVideo differs from
# another in its depth alone, the library's averages over all of a small clip instead of its own.
CLIPS = {
    "x3d_xs": (4, 182, 182),
    "x3d_s": (13, 182, 182),
    "x3d_m": (16, 224, 224),
    "slow_r50": (8, 256, 256),
    "i3d_r50": (8, 224, 224),
    "slowfast_r50": (32, 224, 224),
    "s3d": (16, 224, 224),
    "mvit_v1_b": (16, 224, 224),
    "mvit_v2_s": (16, 224, 224),
}
# The smallest that those take that take no smaller ones.
SMALL_CLIPS = {"s3d": (16, 64, 64), "mvit_v1_b": (16, 224, 224), "mvit_v2_s": (16, 224, 224)}
NETWORKS = list(dict.fromkeys(weights.backbone for weights in PUBLISHED.values()))
# Of those that one function builds, differing in their sizes alone, the smallest.
LARGER = {"x3d_xs", "x3d_m", "x3d_l", "slowfast_r101", "slowfast_16x8_r101_50_50"}
LARGER |= {"mvit_v1_b", "swin3d_s", "swin3d_b"}
DIFFERENT = [name for name in NETWORKS if name not in LARGER]
TRANSFORMERS = [name for name in NETWORKS if name.startswith(("mvit", "swin"))]
CONVOLUTIONAL = [name for name in DIFFERENT if name not in TRANSFORMERS]
ODD_CLIP = (5, 67, 50)
TORCHVISION = [name for name, weights in PUBLISHED.items() if weights.is_torchvisions]


def library_network(name: str) -> nn.Module:
    """The library's own network, with numbers that matter in each tensor, that returns logits."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if name in TORCHVISION:
            network = getattr(torchvision.models.video, name)()
        else:
            network = resolve_name(f"{PUBLISHED[name].record}:{name}")(pretrained=False)
            network.blocks[-1].activation = None
            if name not in CLIPS:
                average_over_all(network.blocks[-2:])
    return randomised(network).eval()


def average_over_all(parts: nn.ModuleList) -> None:
    """Let the last average of PyTorchVideo's network take a map of any size."""
    for module in list(parts.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.AvgPool3d):
                setattr(module, name, nn.AdaptiveAvgPool3d(1))


def library_input(name: str, clip: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
    """What the library's network takes: SlowFast a quarter of the frames, and all."""
    if not name.startswith("slowfast"):
        return clip
    frames = clip.shape[2]
    return [clip[:, :, torch.linspace(0, frames - 1, frames // 4).long()], clip]


def write_checkpoint(name: str, path) -> nn.Module:
    """Write random weights as the library publishes its own."""
    network = library_network(name)
    state = network.state_dict()
    torch.save(state if name in TORCHVISION else {"model_state": state}, path)
    return network


def classifier(name: str, classes: int = 3, block: str = "none") -> VideoClassifier:
    frames, height, _ = SMALL_CLIPS.get(name, (8, 64, 64))
    return VideoClassifier(
        ClassifierConfig(
            tuple(map(str, range(classes))),
            name,
            BlockConfig(block),
            ClipSampling(frames),
            Preprocessing(height, height),
        )
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_published_checkpoint_gives_the_librarys_logits(name, tmp_path):
    path = tmp_path / f"{name}.pth"
    network = write_checkpoint(name, path)
    checkpoint = conversion.load(str(path), name)
    model = classifier(name, 400).eval()
    report = model.load_pretrained(checkpoint.tensors, name)
    assert not report.new and not report.unused
    clip = torch.randn(1, 3, *CLIPS.get(name, (8, 64, 64)))
    with torch.inference_mode():
        expected = network(library_input(name, clip))
        difference = (model.network(clip) - expected).abs().max()
    assert difference < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_stage_has_room_for_blocks_that_start_as_the_identity_and_learn(name):
    torch.manual_seed(0)
    model = classifier(name)
    backbone = model.network
    clip = torch.randn(2, 3, *(ODD_CLIP if name != "s3d" else (16, 67, 50)))
    with torch.inference_mode():
        before = backbone.eval()(clip)
    sites = {stage: backbone.block_sites(stage) for stage in backbone.stages}
    assert set(sites) == {2, 3, 4, 5}
    for site in sites.values():
        for unit, channels in site.items():
            backbone.blocks[unit] = build_block("snl", channels).eval()
    with torch.inference_mode():
        assert torch.equal(backbone(clip), before)
    backbone.train()(clip).square().sum().backward()
    for block in backbone.blocks.values():
        assert block.units[0].norm.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_new_head_is_trained_saved_loaded_and_predicts_folded(name, tmp_path):
    block = "snl" if name in CONVOLUTIONAL else "none"
    model = randomised(classifier(name, block=block)).eval()
    model.network.freeze_before("stage4")
    trained = {name for name, weight in model.network.named_parameters() if weight.requires_grad}
    first = next(iter(dict(model.network.units.named_children())))
    assert "head.weight" in trained
    assert not any(each.startswith(f"units.{first}.") for each in trained)
    model.save(tmp_path / "model.safetensors")
    ready = InferenceModel.load(tmp_path / "model.safetensors", "cpu", "float32", engine="torch")
    size = model.config.sampling.length, *(model.config.preprocessing.crop,) * 2
    clips = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(clips)
    difference = (ready.logits(clips) - expected).abs().max()
    assert difference < 1e-3 * expected.abs().max()
    assert ready.clip_features(clips).shape == (1, model.network.head.in_features)
    half = InferenceModel.load(tmp_path / "model.safetensors", "cpu", "bfloat16", engine="torch")
    assert torch.isfinite(half.logits(clips)).all()


def test_records_of_torchvision_are_those_of_the_catalogue():
    labels = KINETICS400_LABELS.read_text(encoding="utf-8").splitlines()
    for name in TORCHVISION:
        weights = PUBLISHED[name]
        record = resolve_name(weights.record)
        assert record.meta["_metrics"]["Kinetics-400"]["acc@1"] == weights.top1
        assert record.meta["categories"] == labels
        assert record.transforms().crop_size == [weights.crop] * 2
        assert len(weights.sha256_prefix) == 8
        for part in (f"clip_len={weights.frames}`", f"frame_rate={weights.fps:g}`"):
            assert part in record.meta["_docs"]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that a local server gives, and the cache folder."""
    folder, cache = tmp_path / "served", tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("ACTIONREC_CACHE", str(cache))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}", cache
    server.shutdown()
    server.server_close()


def test_a_model_is_downloaded_once_and_a_changed_file_is_refused(served, monkeypatch, caplog):
    folder, address, cache = served
    write_checkpoint("x3d_xs", folder / "X3D_XS.pyth")
    record = {"x3d_xs": f"{address}/X3D_XS.pyth"}
    monkeypatch.setattr("pytorchvideo.models.hub.x3d.checkpoint_paths", record)
    with caplog.at_level("INFO"):
        model = VideoClassifier.load("x3d_xs")
    assert "publishes no checksum" in caplog.text
    assert model.config.backbone == "x3d_xs" and model.config.sampling == ClipSampling(4, 12, 30)
    assert model.config.preprocessing.mean == (0.45,) * 3 and model.name == "x3d_xs"
    assert model.config.labels[0] == "abseiling"

    (folder / "X3D_XS.pyth").unlink()
    assert fetch("x3d_xs") == cache / "x3d_xs.pth"
    (cache / "x3d_xs.pth").write_bytes(b"changed")
    with pytest.raises(ActionrecError, match="is not the file of x3d_xs: its sha256 begins with"):
        fetch("x3d_xs")
    (cache / "x3d_xs.pth").unlink()
    with pytest.raises(ActionrecError, match="could not be downloaded .* save it as"):
        fetch("x3d_xs")
    assert not (cache / "x3d_xs.pth").exists()


def offer(monkeypatch, address, *names):
    """Let PyTorchVideo's record of X3D name files of the local server."""
    records = {name: f"{address}/{name}" for name in names}
    monkeypatch.setattr("pytorchvideo.models.hub.x3d.checkpoint_paths", records)


def checkpoint_of_x3d(path, number=0):
    """Write what has the tensors of X3D-XS, S and M, which differ in their clips alone."""
    with torch.device("meta"):
        network = resolve_name("pytorchvideo.models.hub.x3d:x3d_xs")()
    state = {
        name: torch.full(tensor.shape, number) for name, tensor in network.state_dict().items()
    }
    torch.save({"model_state": state}, path)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (b"<html>Sign in to this network</html>", "it is no checkpoint of tensors"),
        ({"state": 1}, "it has no model_state"),
        ({"model_state": [1]}, "it has no model_state"),
        ({"model_state": {"conv.weight": torch.zeros(3)}}, "conv.weight is"),
    ],
)
def test_a_first_download_that_is_no_checkpoint_of_the_network_is_not_kept(
    served, monkeypatch, written, words
):
    folder, address, cache = served
    offer(monkeypatch, address, "x3d_xs")
    if isinstance(written, bytes):
        (folder / "x3d_xs").write_bytes(written)
    else:
        torch.save(written, folder / "x3d_xs")
    with pytest.raises(ActionrecError, match="What http.*x3d_xs answers is not the file of x3d_xs"):
        fetch("x3d_xs")
    assert not list(cache.iterdir())
    # Neither is what somebody has put into the cache folder, and no checksum of it is noted.
    (cache / "x3d_xs.pth").write_bytes((folder / "x3d_xs").read_bytes())
    with pytest.raises(ActionrecError, match="x3d_xs.pth is not the file of x3d_xs.*; delete it"):
        fetch("x3d_xs")
    assert [path.name for path in cache.iterdir()] == ["x3d_xs.pth"]


def test_a_file_of_another_model_under_a_name_is_called_by_its_own(served, monkeypatch, caplog):
    folder, address, cache = served
    offer(monkeypatch, address, "x3d_xs", "x3d_s")
    checkpoint_of_x3d(folder / "x3d_xs")
    with caplog.at_level("INFO"):
        fetch("x3d_xs")
    # Said before the download.
    assert caplog.messages[0] == ("The licence of the weights x3d_xs is Apache-2.0, PyTorchVideo.")
    (cache / "x3d_s.pth").write_bytes((cache / "x3d_xs.pth").read_bytes())
    with pytest.raises(ActionrecError, match="x3d_s.pth is not the file of x3d_s, but that of x3d"):
        fetch("x3d_s")
    # Another file than at first, by hand or from the server, says how to accept it.
    checkpoint_of_x3d(folder / "x3d_xs", 1)
    (cache / "x3d_xs.pth").unlink()
    with pytest.raises(ActionrecError, match="if this is the right one, delete .*x3d_xs.pth.sha"):
        fetch("x3d_xs")
    (cache / "x3d_xs.pth.sha256").unlink()
    assert fetch("x3d_xs").is_file()


def test_a_broken_download_is_continued(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("actionrec.downloads.time", SimpleNamespace(sleep=lambda _: None))
    checkpoint_of_x3d(tmp_path / "file")
    with serving() as server:
        server.files["/x3d_xs"] = (tmp_path / "file").read_bytes()
        server.break_after = 1 << 22
        offer(monkeypatch, server.url, "x3d_xs")
        assert fetch("x3d_xs").read_bytes() == server.files["/x3d_xs"]
    starts = [start for _, start in server.asked]
    assert starts == [0, *range(0, len(server.files["/x3d_xs"]), 1 << 22)]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {
        "x3d_xs.pth",
        "x3d_xs.pth.sha256",
    }


def test_a_file_of_torchvision_must_have_the_published_digits(served):
    _, _, cache = served
    cache.mkdir()
    torch.save({}, cache / "r3d_18.pth")
    with pytest.raises(ActionrecError, match="not with b3b3357e; delete it"):
        fetch("r3d_18")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_has_no_place_for_a_block_and_says_so(name):
    with pytest.raises(UsageError, match="is a transformer and has no place for a nonlocal block"):
        classifier(name, block="snl")
    assert classifier(name).network.units_of(5)


@pytest.mark.parametrize("name", ["x3d_s", "slowfast_r50", "swin3d_t", "mvit_v2_s"])
def test_a_network_without_a_last_feature_map_is_not_explained_by_one(name, tmp_path, encode):
    path = encode(tmp_path / "video.avi", frames=20)
    model = InferenceModel(classifier(name), "cpu", "float32")
    with pytest.raises(UsageError, match=f"{name} of {name} ends without a feature map"):
        explain_video(model, path)
    if name in CONVOLUTIONAL:
        with_block = InferenceModel(classifier(name, block="snl"), "cpu", "float32")
        assert explain_video(with_block, path).method == "affinity"


def test_mvit_says_which_clips_it_takes():
    with pytest.raises(UsageError, match="takes clips of 16x224x224, not of 8x112x112"):
        classifier("mvit_v2_s").network(torch.zeros(1, 3, 8, 112, 112))


def test_weights_of_another_network_are_refused(served):
    with pytest.raises(UsageError, match="The weights x3d_s are for --backbone x3d_s, not for i3d"):
        conversion.load("x3d_s", "i3d")
    with pytest.raises(ActionrecError, match="no model 'x3d-s'.* did you mean x3d_s?"):
        VideoClassifier.load("x3d-s")
    assert not published.PUBLISHED["x3d_s"].path.exists()
