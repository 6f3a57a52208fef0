"""Checkpoints of others: Hara's and PyTorchVideo's load under their own key names."""

import pickle

import pytest
import torch
from torch import nn
from torchvision.models.video.resnet import Bottleneck, Conv3DSimple, VideoResNet

from actionrec.errors import ActionrecError, UsageError
from actionrec.models import conversion
from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier


class HaraStem(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(),
            nn.MaxPool3d(3, stride=2, padding=1),
        )


def randomise(network: nn.Module) -> nn.Module:
    """Give every tensor, those of batch normalisation too, a value that matters."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


def hara_name(name: str) -> str:
    """Hara's name of a tensor of torchvision's VideoResNet."""
    name = name.replace("stem.0.", "conv1.").replace("stem.1.", "bn1.")
    for index in (1, 2, 3):
        name = name.replace(f".conv{index}.0.", f".conv{index}.")
        name = name.replace(f".conv{index}.1.", f".bn{index}.")
    return name.replace(".conv2.0.", ".conv2.")


@pytest.fixture(scope="module")
def hara_network():
    """An independent implementation of Hara's 3D ResNet-50: torchvision's, with Hara's stem."""
    return randomise(
        VideoResNet(Bottleneck, [Conv3DSimple] * 4, [3, 4, 6, 3], HaraStem, num_classes=700)
    )


@pytest.fixture(scope="module")
def hara_file(hara_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("hara") / "r3d50_K_200ep.pth"
    state = {f"module.{hara_name(name)}": t for name, t in hara_network.state_dict().items()}
    assert {"module.conv1.weight", "module.layer2.0.downsample.1.bias"} < set(state)
    torch.save({"epoch": 200, "arch": "resnet-50", "state_dict": state}, path)
    return path


def recognizer_of(backbone: str, classes: int, block: str = "none") -> VideoClassifier:
    labels = tuple(map(str, range(classes)))
    return VideoClassifier(ClassifierConfig(labels, backbone, BlockConfig(block))).eval()


def test_haras_checkpoint_gives_haras_logits(hara_network, hara_file):
    checkpoint = conversion.load(str(hara_file), "r3d50")
    recognizer = recognizer_of("r3d50", 700)
    report = recognizer.load_pretrained(checkpoint.tensors, "hara")
    assert not report.new and not report.unused
    clip = torch.randn(1, 3, 16, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(
            recognizer.network(clip), hara_network(clip), atol=1e-4, rtol=1e-4
        )


def test_the_number_of_classes_tells_haras_pixel_statistics(hara_file, tmp_path):
    kinetics700 = conversion.load(str(hara_file), "r3d50")
    assert kinetics700.mean == (0.4345, 0.4051, 0.3775)
    raw = torch.load(hara_file, weights_only=True)
    raw["state_dict"]["module.fc.weight"] = torch.zeros(400, 2048)
    raw["state_dict"]["module.fc.bias"] = torch.zeros(400)
    torch.save(raw, tmp_path / "resnet-50-kinetics.pth")
    kinetics400 = conversion.load(str(tmp_path / "resnet-50-kinetics.pth"), "r3d50")
    # 114.8 on the scale of 255, and a standard deviation of 1 there.
    assert kinetics400.mean[0] * 255 == pytest.approx(114.8)
    assert kinetics400.std[0] * 255 == pytest.approx(1)


def test_blocks_and_head_are_new_and_everything_else_is_loaded(hara_file):
    checkpoint = conversion.load(str(hara_file), "r3d50")
    report = recognizer_of("r3d50", 101, "snl").load_pretrained(checkpoint.tensors, "hara")
    assert {name.split(".")[0] for name in report.new} == {"blocks", "head"}
    assert report.unused == ("head.weight", "head.bias")
    assert len(report.loaded) == len(checkpoint.tensors) - 2


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
def test_a_checkpoint_of_another_network_is_refused_by_the_name_of_a_key(
    hara_file, tmp_path, fault
):
    raw = torch.load(hara_file, weights_only=True)
    state = raw["state_dict"]
    if fault == "missing":
        del state["module.layer3.2.conv2.weight"]
    elif fault == "extra":
        state["module.layer3.6.conv2.weight"] = torch.zeros(1)
    else:
        state["module.layer3.2.conv2.weight"] = torch.zeros(2, 2)
    torch.save(raw, tmp_path / "other.pth")
    checkpoint = conversion.load(str(tmp_path / "other.pth"), "r3d50")
    with pytest.raises(ActionrecError, match=r"units\.layer3_\d\.conv2\.weight is .* in the file"):
        recognizer_of("r3d50", 400).load_pretrained(checkpoint.tensors, "other.pth")


class Malicious:
    def __reduce__(self):
        return (print, ("this ran",))


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", pickle.dumps({"state_dict": Malicious()})]
)
def test_nothing_but_tensors_is_unpickled(tmp_path, content, capsys):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(ActionrecError, match="bad.pth is no checkpoint"):
        conversion.load(str(path), "r3d50")
    assert "this ran" not in capsys.readouterr().out


def test_a_model_of_ours_brings_its_pixel_statistics(small_recognizer, tmp_path):
    small_recognizer.save(tmp_path / "model.safetensors")
    checkpoint = conversion.load(str(tmp_path / "model.safetensors"), "c3d_small")
    assert checkpoint.mean == small_recognizer.config.preprocessing.mean


def test_names_that_do_not_exist_are_told():
    with pytest.raises(UsageError, match="no Kinetics-400 weights for r3d50"):
        conversion.load("kinetics400", "r3d50")
    with pytest.raises(ActionrecError, match="no weights 'nowhere.pth'"):
        conversion.load("nowhere.pth", "r3d50")


@pytest.mark.parametrize(
    "content", [3, {"state_dict": 3}, {"state_dict": {1: 2}}, {"state_dict": {"fc.bias": [1]}}]
)
def test_a_checkpoint_of_other_things_is_a_sentence(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ActionrecError, match="checkpoint.* holds"):
        conversion.load(str(tmp_path / "odd.pth"), "r3d50")
