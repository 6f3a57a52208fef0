"""`actionrec explain`: the numbers are those of the network, and lie on the right pixels."""

import av
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from actionrec.cli.main import main
from actionrec.errors import UsageError
from actionrec.explanation.heat_maps import explain_same_moment, explain_video
from actionrec.explanation.methods import affinity_row, feature_maps, hires_cam
from actionrec.models.c3d_small import c3d_small
from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.models.i3d import I3D
from actionrec.models.inference import InferenceModel
from actionrec.models.nonlocal_blocks import build_block
from actionrec.models.pytorchvideo_networks import i3d_r50
from actionrec.models.registry import BLOCKS
from actionrec.models.resnet3d import r3d50
from actionrec.video.reader import VideoReader
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

# 4 x 6 x 6 positions before conv4, more than twice the 32 channels of a block there: where they
# can, the blocks go without their N x N matrix.
SAMPLING, PREPROCESSING = ClipSampling(length=8), Preprocessing(short_side=48, crop=48)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def classifier(block="none", sampling=SAMPLING, preprocessing=PREPROCESSING, **options):
    torch.manual_seed(0)
    block = BlockConfig(block, **options)
    config = ClassifierConfig(("a", "b", "c"), "c3d_small", block, sampling, preprocessing)
    model = VideoClassifier(config).eval()
    for unit in (unit for each in model.network.blocks.values() for unit in each.units):
        nn.init.ones_(unit.norm.weight)  # past the first step: no longer the identity
    return model


def prepared(block="none", **options):
    return InferenceModel(classifier(block, **options), "cpu", "float32")


@pytest.fixture(scope="module")
def video(tmp_path_factory, encode):
    return encode(tmp_path_factory.mktemp("video") / "clip.mp4", "libx264", frames=50)


def block_input(model, clip):
    """The input of the block before conv4, from frames (T, H, W, 3) as the network sees them."""
    pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float()
    x = (pixels / 255 - 0.5) / 0.5
    with torch.no_grad():
        for name in ("conv1", "conv2", "conv3"):
            x = model.network.units.get_submodule(name)(x)
    return x


# The affinity.


def softmax(x, axis):
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def dense_affinity(name, phi, psi, grid):
    """A (N, N) as the papers write it, from float64 Phi and Psi (N, Cs)."""
    n = len(phi)
    if name in ("nl", "ns"):
        return softmax(phi @ psi.T, 1)
    if name == "nl_dot":
        return phi @ psi.T / n
    if name == "a2":
        return softmax(phi, 1) @ softmax(psi, 0).T
    if name == "cgnl":
        return sum(np.outer(a, b) for a in phi.T for b in psi.T)
    if name == "dnl":
        psi, m = psi[:, :-1], psi[:, -1]
        return softmax((phi - phi.mean(0)) @ (psi - psi.mean(0)).T, 1) + softmax(m, 0)
    if name == "cc":
        places = list(np.ndindex(*grid))
        shared = np.array([[sum(a == b for a, b in zip(i, j, strict=True)) for j in places]
                           for i in places])  # fmt: skip
        return softmax(np.where(shared >= 2, phi @ psi.T, -np.inf), 1)
    m = np.maximum(phi, 0) @ np.maximum(psi, 0).T
    if name == "snl_a2":
        return m / (m.sum(1, keepdims=True) + 1e-6)
    m = (m + m.T) / 2
    root = np.sqrt(m.sum(1) + 1e-6)
    return m / np.outer(root, root)


@pytest.mark.parametrize("name", tuple(BLOCKS))
def test_the_row_shown_is_that_of_the_dense_affinity_at_the_point(name, video):
    model = prepared(name)
    # The video is 64 wide and 48 high, the network sees columns 8 to 55 of it, at eight pixels and
    # two frames a position, the first of which are at pixel 0 and frame 0.
    explanation = explain_video(model, video, start=0.4, point=(8 + 17, 30), at=0.6)
    assert explanation.method == "affinity"
    assert (explanation.point.frame, explanation.point.position) == (5, (2, 4, 2))
    x = block_input(model, VideoReader(video).read(range(10, 18), crop=(0, 8, 48, 48)))
    grid = x.shape[2:]
    flat = x[0].flatten(1).T.double().numpy()
    block = model.network.blocks["conv4"]
    phi, psi = (
        flat @ weight.detach().flatten(1).double().numpy().T
        for weight in block.projection.weight.split(block.widths)[:2]
    )
    row = dense_affinity(name, phi, psi, grid)[(2 * 6 + 4) * 6 + 2].reshape(grid)
    [shown] = explanation.maps
    assert shown.values.shape == grid == (4, 6, 6)
    assert np.abs(shown.values - row).max() <= 1e-6 * max(1, np.abs(row).max())
    assert np.ptp(row) > 1e-4


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("name", tuple(BLOCKS))
def test_a_row_takes_memory_that_grows_with_the_positions_only(name):
    block = build_block(name, 8)
    with LargestTensor() as largest:
        row = affinity_row(block, torch.randn(1, 8, 8, 16, 16), (3, 4, 5))
    assert row.shape == (8, 16, 16)
    # N = 2048; criss-cross has 8 + 16 + 16 weights a position.
    assert largest.elements <= 2048 * 64


@pytest.mark.parametrize("at", [None, 0.5])
def test_by_default_the_point_is_where_the_block_receives_the_strongest_features(video, at):
    model = prepared("snl")
    explanation = explain_video(model, video, start=0.4, at=at)
    x = block_input(model, VideoReader(video).read(range(10, 18), crop=(0, 8, 48, 48)))
    frame, step = (4, 2) if at is None else (2, 1)
    assert (explanation.point.frame, explanation.point.seconds) == (frame, (10 + frame) / 25)
    strongest = x[0, :, step].square().sum(0)
    _, row, column = explanation.point.position
    assert explanation.point.position[0] == step
    assert strongest[row, column] == strongest.max()
    assert (explanation.point.x, explanation.point.y) == (8 + 8 * column, 8 * row)


def test_of_several_blocks_the_last_is_shown_or_the_one_asked_for(video):
    model = prepared("nl", stages=(3, 4))
    assert explain_video(model, video).maps[0].values.shape == (4, 6, 6)
    [shown] = explain_video(model, video, block="conv3").maps
    assert shown.values.shape == (8, 12, 12) and "conv3" in shown.title
    with pytest.raises(UsageError, match="choose from conv3, conv4"):
        explain_video(model, video, block="conv2")


# Features and HiResCAM.


def test_features_are_what_the_block_receives_and_what_it_gives(video):
    model = prepared("snl")
    explanation = explain_video(model, video, "features", start=0)
    x = block_input(model, VideoReader(video).read(range(8), crop=(0, 8, 48, 48)))
    with torch.no_grad():
        y = model.network.blocks["conv4"](x)
    for shown, features in zip(explanation.maps, (x, y), strict=True):
        expected = features[0].double().square().mean(0).sqrt()
        np.testing.assert_allclose(shown.values, expected, atol=1e-5)
    assert not np.allclose(explanation.maps[0].values, explanation.maps[1].values)


def test_hires_cam_is_what_each_position_adds_to_the_logit():
    model = prepared("snl")
    clips = torch.randn(1, 3, 8, 48, 48)
    [features], _ = feature_maps(model.network, clips, None)
    cam = hires_cam(model.network, features, target=1)
    # Behind the mean over 72 positions is one linear layer.
    parts = torch.einsum("c,cthw->thw", model.network.head.weight[1], features[0]) / 72
    torch.testing.assert_close(cam, parts.relu())
    with torch.no_grad():
        logit = model.network(clips)[0, 1] - model.network.head.bias[1]
    torch.testing.assert_close(parts.sum(), logit)


def test_without_a_block_hires_cam_of_the_predicted_or_given_class_is_shown(video):
    model = prepared()
    predicted = explain_video(model, video)
    other = explain_video(model, video, label="c")
    assert predicted.method == "hirescam" and predicted.point is None
    assert other.label == "c" != predicted.label
    assert not np.allclose(predicted.maps[0].values, other.maps[0].values)
    assert len(explain_video(model, video, "features").maps) == 1


# Which clip.


def test_the_clip_with_the_highest_score_of_the_class_is_shown(video):
    model = prepared("snl")
    reader = VideoReader(video)
    for label in ("a", "b", "c"):
        explanation = explain_video(model, video, label=label)
        scores = {}
        for start in (0, 7, 14, 21, 28, 35, 42):  # seven clips of 8 frames cover 50
            clip = reader.read(range(start, start + 8), crop=(0, 8, 48, 48))
            clips = torch.from_numpy(clip).permute(3, 0, 1, 2)[None]
            scores[start] = model.scores(clips)[0, "abc".index(label)]
        best = max(scores, key=scores.get)
        assert explanation.score == pytest.approx(scores[best], abs=1e-6)
        assert (explanation.start, explanation.end) == pytest.approx((best / 25, (best + 8) / 25))
        np.testing.assert_allclose(explanation.times, np.arange(best, best + 8) / 25)
        np.testing.assert_array_equal(explanation.frames, reader.read(range(best, best + 8)))


def test_a_clip_can_be_chosen_by_its_start_or_by_the_time_of_the_point(video):
    model = prepared("snl")
    assert explain_video(model, video, start=0.28).start == 0.28
    assert explain_video(model, video, start=1.96).end == 2.0  # the last whole clip
    explanation = explain_video(model, video, at=1.0)
    assert explanation.start < 1.0 < explanation.end
    assert explanation.point.seconds == 1.0


def test_another_model_explains_the_same_moment_and_point(video):
    long = prepared("snl", sampling=ClipSampling(length=16, stride=2))
    short = prepared("nl")
    first = explain_video(long, video, start=0.2, point=(30, 20), at=1.16)
    second = explain_same_moment(first, short)
    assert (second.point.x, second.point.y, second.point.seconds) == (30, 20, 1.16)
    assert second.start <= 1.16 < second.end  # the clip of 8 frames from 0.2 s ends at 0.52 s
    assert explain_same_moment(explain_video(short, video, start=0.2), short).start == 0.2


# Where it lies.


@pytest.fixture(scope="module")
def encode_flash():
    """A grey video of 24 frames in one of which a white square is at (column, row)."""

    def encode(path, size, column, row, side, flash):
        width, height = size
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index in range(24):
                picture = np.full((height, width, 3), 127, np.uint8)
                if index == flash:
                    picture[row : row + side, column : column + side] = 255
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        return path

    return encode


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("scale", [1, 2])
def test_the_heat_lies_on_a_square_that_flashes_in_a_corner(encode_flash, tmp_path, corner, scale):
    """Grey is next to 0 for the network, so that there is little but the square."""
    size = 160 * scale, 96 * scale
    # The network sees 80 x 80 of frames of 160 x 96: columns 40 to 119, rows 8 to 87.
    preprocessing = Preprocessing(short_side=96, crop=80)
    model = prepared("snl", sampling=ClipSampling(length=24), preprocessing=preprocessing)
    # A position is eight pixels of the input from the next one: the middle of one is the square's.
    column, row = (scale * (40 + 12 + 40 * corner[1]), scale * (8 + 12 + 40 * corner[0]))
    path = encode_flash(tmp_path / "flash.mp4", size, column, row, 9 * scale, flash=12)
    explanation = explain_video(model, path, "features")
    heat = explanation.maps[0].over_frames
    top, left, height, width = explanation.seen
    assert (top, left, height, width) == (8 * scale, 40 * scale, 80 * scale, 80 * scale)
    inside = np.zeros(heat.shape, bool)
    inside[:, top : top + height, left : left + width] = True
    np.testing.assert_array_equal(np.isnan(heat), ~inside)
    weights = (np.nan_to_num(heat).astype(float) - 0.2 * np.nanmax(heat)).clip(0)
    middle = [
        (weights.sum(tuple({0, 1, 2} - {axis})) * np.arange(heat.shape[axis])).sum() / weights.sum()
        for axis in range(3)
    ]
    assert middle[0] == pytest.approx(12, abs=0.75)
    assert middle[1] == pytest.approx(row + 4.5 * scale - 0.5, abs=1.5 * scale)
    assert middle[2] == pytest.approx(column + 4.5 * scale - 0.5, abs=1.5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 2], ids=["time", "width"])
@pytest.mark.parametrize(
    ("build", "unit"),
    [(c3d_small, "conv4"), (I3D, "Mixed_4b"), (r3d50, "layer2_1"), (i3d_r50, "res3_1")],
)
def test_a_position_is_in_the_middle_of_all_that_can_change_it(build, unit, axis):
    torch.manual_seed(0)
    network = build(classes=2).eval()
    network.blocks[unit] = nn.Identity()
    names = [name for name, _ in network.units.named_children()]
    network.units = network.units[: names.index(unit) + 1]
    size = [4, 4, 4]
    size[axis] = (40, 0, 104)[axis]
    clip = torch.randn(1, 3, *size)
    [features, _], grid = feature_maps(network, clip, unit)
    # One clip for each frame or column, in which that one is another.
    changed = clip.repeat(size[axis], 1, 1, 1, 1)
    for place in range(size[axis]):
        changed[place].select(1 + axis, place).normal_(std=1000)
    difference = (feature_maps(network, changed, unit)[0][0] - features).abs()
    positions = features.shape[2 + axis]
    changes = difference.movedim(2 + axis, 1).flatten(2).amax(2).numpy() > 1e-4
    whole = 0
    for position in range(positions):
        places = np.flatnonzero(changes[:, position])
        if places[0] > 0 and places[-1] < size[axis] - 1:
            whole += 1
            assert (places[0] + places[-1]) / 2 == grid[axis].centre(position)
    assert whole >= 2


# The command line.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for block in ("snl", "nl", "none"):
        classifier(block).save(folder / f"{block}.safetensors")
    return folder


@pytest.mark.slow
def test_the_command_writes_a_sheet_and_a_video_that_browsers_play(
    command, models, video, tmp_path, capsys
):
    flags = [video, "--model", models / "snl.safetensors", "--output", tmp_path]
    compared = ("--compare", models / "nl.safetensors", "--point", 20, 30)
    run = command("explain", *flags, *compared, fresh=True)
    assert run.returncode == 0, run.stderr
    pictures = [tmp_path / f"clip_explanation{suffix}" for suffix in (".png", ".mp4")]
    assert run.stdout.splitlines()[-2:] == [str(path) for path in pictures]
    assert "point: column 20, row 30" in run.stdout
    with av.open(str(pictures[1])) as container:
        [stream] = container.streams
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert stream.average_rate == 25
        assert len(list(container.decode(stream))) == 8
    before = [path.read_bytes() for path in pictures]
    assert main(["explain", *map(str, flags)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.read_bytes() for path in pictures] == before
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in pictures}


@pytest.mark.parametrize(
    ("model", "flags", "code", "words"),
    [
        ("snl", ["--point", "64", "0"], 2, "choose x from 8 to 55"),
        ("snl", ["--point", "-1", "5"], 2, "choose x from 8 to 55"),
        ("snl", ["--point", "7", "5"], 2, "choose x from 8 to 55 and y from 0 to 47"),
        ("snl", ["--at", "2"], 2, "lasts 2.00 s"),
        ("snl", ["--start", "-0.5"], 2, "is not in"),
        ("snl", ["--start", "0", "--at", "1"], 2, "lasts from 0.00 to 0.32 s"),
        ("snl", ["--label", "d"], 2, "no class 'd'"),
        ("snl", ["--method", "hirescam", "--at", "1"], 2, "hirescam has none"),
        ("snl", ["--method", "hirescam", "--block", "conv4"], 2, "leave the block out"),
        ("none", ["--method", "affinity"], 2, "no nonlocal block"),
        ("none", ["--block", "conv4"], 2, "no nonlocal block"),
        ("snl", ["--compare", "nowhere"], 1, "no model 'nowhere'"),
    ],
)
def test_what_cannot_be_shown_is_told_in_a_sentence(
    models, video, tmp_path, capsys, model, flags, code, words
):
    flags = ["--model", str(models / f"{model}.safetensors"), "--output", str(tmp_path), *flags]
    assert main(["explain", str(video), *flags]) == code
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_video_is_told_in_a_sentence(models, tmp_path, capsys):
    flags = ["--model", str(models / "snl.safetensors"), "--output", str(tmp_path / "new")]
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    assert main(["explain", str(tmp_path / "text.mp4"), *flags]) == 1
    assert "could not be read as a video" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
