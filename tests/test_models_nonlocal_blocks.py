import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from actionrec.errors import UsageError
from actionrec.models import nonlocal_blocks
from actionrec.models.nonlocal_blocks import build_block
from actionrec.models.registry import BLOCKS, find

SOFTMAX_BLOCKS = ("nl", "ns", "dnl")
SYMMETRIC_BLOCKS = ("snl", "snl_a1", "gsnl", "cheb", "cayley")

# A block with every option that has a formula of its own.
VARIANTS = {name: (name, {}) for name in tuple(BLOCKS)} | {
    "cgnl of 4 groups": ("cgnl", {"groups": 4}),
    "gsnl of order 4": ("gsnl", {"order": 4}),
    "cheb of order 1": ("cheb", {"order": 1}),
    "cheb of order 4": ("cheb", {"order": 4}),
    "cayley of order 3": ("cayley", {"order": 3}),
    "stage of 3 ns": ("ns", {"units": 3}),
    "stage of 3 snl": ("snl", {"units": 3}),
    "stage of 2 cc": ("cc", {"units": 2}),
    "cc of Table 8": ("cc", {"reduction": 8, "passes": 2}),
}
# Channels and grids at which A z goes with and without the N x N matrix.
SMALL_N = (32, (1, 3, 5))
LARGE_N = (8, (3, 5, 7))
SIZES = pytest.mark.parametrize("size", [SMALL_N, LARGE_N], ids=["small N", "large N"])
EVERY_BLOCK = pytest.mark.parametrize("name", tuple(BLOCKS))
EVERY_VARIANT = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On tensors this small, threads that wait for each other cost more than they do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fused_above_64_positions(monkeypatch):
    monkeypatch.setattr(nonlocal_blocks, "DENSE_SOFTMAX_POSITIONS", 64)


def live_block(name: str, channels: int, dtype=torch.float64, **options) -> nn.Module:
    """A block that is past its first step: no longer the identity."""
    block = build_block(name, channels, **options).to(dtype)
    for unit in block.units:
        nn.init.normal_(unit.norm.weight)
        nn.init.normal_(unit.norm.bias)
    for zoom in (p for key, p in block.named_parameters() if key.endswith("zoom")):
        nn.init.constant_(zoom, 0.7)
    return block


# The dense reference: matrices as the papers write them, position first, (B, N, C).


def dense_affinity(name: str, phi, psi, grid, groups) -> torch.Tensor:
    n = phi.shape[1]
    if name in ("nl", "ns"):
        return torch.softmax(phi @ psi.mT, dim=2)
    if name == "nl_dot":
        return phi @ psi.mT / n
    if name == "a2":
        return torch.softmax(phi, dim=2) @ torch.softmax(psi, dim=1).mT
    if name == "dnl":
        key, m = psi[:, :, :-1], psi[:, :, -1]
        pairwise = (phi - phi.mean(1, keepdim=True)) @ (key - key.mean(1, keepdim=True)).mT
        return torch.softmax(pairwise, dim=2) + torch.softmax(m, dim=1).unsqueeze(1)
    if name == "cc":
        t, h, w = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
        place = torch.stack([t, h, w]).flatten(1)
        shared = (place[:, :, None] == place[:, None, :]).sum(0)
        return torch.softmax((phi @ psi.mT).masked_fill(shared < 2, -torch.inf), dim=2)
    if name == "cgnl":
        b, _, cs = phi.shape
        vertices = torch.zeros(b, n * cs, n * cs, dtype=phi.dtype)
        group = torch.arange(cs).div(cs // groups, rounding_mode="floor").repeat(n)
        same = group[:, None] == group[None, :]
        return (phi.reshape(b, -1, 1) @ psi.reshape(b, 1, -1)).where(same, vertices)
    m = torch.relu(phi) @ torch.relu(psi).mT
    if name == "snl_a2":
        return torch.diag_embed(1 / (m.sum(2) + 1e-6)) @ m
    m = (m + m.mT) / 2
    d = torch.diag_embed((m.sum(2) + 1e-6) ** -0.5)
    return d @ m @ d


def dense_terms(name: str, a, z, order, zoom) -> list[torch.Tensor]:
    one = torch.eye(a.shape[-1], dtype=a.dtype)
    if name in ("nl", "nl_dot", "a2", "cc", "dnl", "snl_a1"):
        return [a @ z]
    if name == "cgnl":
        return [(a @ z.flatten(1).unsqueeze(2)).reshape(z.shape)]
    if name == "ns":
        return [a @ z - z]
    if name in ("snl", "snl_a2"):
        return [z, a @ z]
    if name == "gsnl":
        return [torch.matrix_power(a, k) @ z for k in range(order + 1)]
    if name == "cheb":
        polynomials = [one.expand_as(a), -a]
        while len(polynomials) <= order:
            polynomials.append(2 * -a @ polynomials[-1] - polynomials[-2])
        return [polynomial @ z for polynomial in polynomials]
    laplacian = zoom * (one - a)
    transform = (laplacian - 1j * one) @ torch.linalg.inv(laplacian + 1j * one)
    terms = [z]
    for j in range(1, order + 1):
        power = torch.matrix_power(transform, j) @ z.to(torch.complex128)
        terms += [power.real, power.imag]
    return terms


def dense_block(
    block: nn.Module, name: str, x: torch.Tensor, order=None, groups=1, units=1, passes=1, **_
):
    """What the block should give in training mode, from its own parameters."""
    for _ in range(passes - 1):
        x = dense_block(block, name, x, order, groups, units)
    order = order or (1 if name == "cayley" else 2)
    grid = x.shape[2:]
    channels = x.shape[1]

    def projected(x, weight):
        return x.flatten(2).mT @ weight.flatten(1).mT

    parts = [projected(x, w) for w in block.projection.weight.split(block.widths)]
    a = dense_affinity(name, parts[0], parts[1], grid, groups)
    for index in range(units):
        unit = block.units[index]
        if name == "cc":
            z = x.flatten(2).mT
        elif index == 0:
            z = parts[2]
        else:
            z = projected(x, block.later_z[index - 1].weight)
        terms = dense_terms(name, a, z, order, getattr(unit.filter, "zoom", None))
        weight, scale, shift = unit.output.weight.flatten(1), unit.norm.weight, unit.norm.bias
        if name == "cgnl":
            y = F.conv1d(terms[0].mT, weight.unsqueeze(2), groups=groups)
            y = F.group_norm(y, groups, scale, shift)
        else:
            weights = weight.chunk(len(terms), dim=1)
            y = sum(term @ w.mT for term, w in zip(terms, weights, strict=True)).mT
            y = F.batch_norm(y, None, None, scale, shift, training=True)
        x = x + y.reshape(len(x), channels, *grid)
    return x


def assert_close(actual, expected, tolerance):
    scale = max(1.0, expected.abs().max().item())
    assert (actual.double() - expected.double()).abs().max().item() <= tolerance * scale


@SIZES
@EVERY_VARIANT
@pytest.mark.usefixtures("fused_above_64_positions")
def test_block_and_all_its_gradients_equal_the_dense_formula(variant, size):
    name, options = VARIANTS[variant]
    channels, grid = size
    block = live_block(name, channels, **options)
    x = torch.randn(2, channels, *grid, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn_like(x)
    leaves = {"x": x} | dict(block.named_parameters())

    actual = block(x)
    expected = dense_block(block, name, x, **options)
    assert_close(actual, expected, 1e-10)
    gradients = torch.autograd.grad((actual * wanted).sum(), leaves.values())
    references = torch.autograd.grad((expected * wanted).sum(), leaves.values())
    for gradient, reference in zip(gradients, references, strict=True):
        assert_close(gradient, reference, 1e-10)


@SIZES
@EVERY_VARIANT
@pytest.mark.usefixtures("fused_above_64_positions")
def test_float32_agrees_with_float64(variant, size):
    name, options = VARIANTS[variant]
    channels, grid = size
    block = live_block(name, channels, **options)
    x = torch.randn(2, channels, *grid, dtype=torch.float64)
    assert_close(copy.deepcopy(block).float()(x.float()), block(x), 1e-5)


@pytest.mark.parametrize("grid", [(1, 2, 2), (2, 2, 3)], ids=["small N", "large N"])
@EVERY_VARIANT
def test_gradients_equal_finite_differences(variant, grid, monkeypatch):
    monkeypatch.setattr(nonlocal_blocks, "DENSE_SOFTMAX_POSITIONS", 4)
    name, options = VARIANTS[variant]
    block = live_block(name, 8, **options)
    x = torch.randn(2, 8, *grid, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*block.named_parameters(), strict=True)

    def forward(x, *parameters):
        return functional_call(block, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(forward, (x, *parameters), fast_mode=True)


def test_chebyshev_terms_are_the_cosine_polynomials_of_the_scaled_laplacian():
    block = live_block("cheb", 8, order=5)
    x = torch.randn(1, 8, 2, 3, 4, dtype=torch.float64)
    z = torch.randn(1, 4, 24, dtype=torch.float64)
    affinity = block.affinity(x)
    values, vectors = torch.linalg.eigh(-affinity.rows(torch.arange(24)))
    for k, term in enumerate(block.units[0].filter(affinity, z)):
        polynomial = torch.cos(k * torch.arccos(values.clamp(-1, 1)))
        assert_close(term, z @ (vectors * polynomial.unsqueeze(1)) @ vectors.mT, 1e-7)


def test_cayley_transform_keeps_lengths():
    block = live_block("cayley", 8)
    x = torch.randn(1, 8, 2, 3, 4, dtype=torch.float64)
    z = torch.randn(1, 4, 24, dtype=torch.float64)
    _, real, imaginary = block.units[0].filter(block.affinity(x), z)
    assert_close((real.square() + imaginary.square()).sum(2), z.square().sum(2), 1e-10)


@SIZES
@pytest.mark.parametrize("name", SYMMETRIC_BLOCKS)
def test_spectrum_of_the_symmetric_affinity_is_real_and_in_minus_1_to_1(name, size):
    channels, grid = size
    x = torch.randn(2, channels, *grid, dtype=torch.float64)
    a = (
        build_block(name, channels)
        .double()
        .affinity(x)
        .rows(torch.arange(grid[0] * grid[1] * grid[2]))
    )
    assert_close(a, a.mT, 1e-12)
    eigenvalues = torch.linalg.eigvals(a)
    assert eigenvalues.imag.abs().max() < 1e-10
    assert eigenvalues.real.abs().max() < 1 + 1e-10


@SIZES
@EVERY_BLOCK
@pytest.mark.usefixtures("fused_above_64_positions")
def test_rows_are_those_of_the_operator(name, size):
    channels, grid = size
    x = torch.randn(2, channels, *grid, dtype=torch.float64)
    affinity = build_block(name, channels).double().affinity(x)
    n = grid[0] * grid[1] * grid[2]
    rows = affinity.rows(torch.arange(n))
    assert rows.shape == (2, n, n)
    assert_close(affinity.rows(torch.tensor([7, 3])), rows[:, [7, 3]], 1e-12)
    z = torch.randn(2, 1, n, dtype=torch.float64)
    if name == "cgnl":
        # Z equal in all channels, Y summed over them: the sum over pairs of channels.
        az = affinity(z.expand(-1, channels // 2, -1)).sum(1, keepdim=True)
    else:
        az = affinity(z)
    assert_close(az, z @ rows.mT, 1e-10)


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("reduction", [1, 2, 4])
@EVERY_BLOCK
def test_output_equals_input_at_the_start(name, reduction, units):
    x = torch.randn(2, 8, 2, 3, 4)
    block = build_block(name, 8, reduction=reduction, units=units)
    assert torch.equal(block(x), x)
    assert torch.equal(block.eval()(x), x)


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_projections_in_one_convolution_start_as_three_of_their_own_would(reduction):
    block = build_block("snl", 256, reduction=reduction)
    for part in block.projection.weight.split(block.widths):
        own = nn.Conv3d(256, 256 // reduction, 1)
        nn.init.kaiming_normal_(own.weight, mode="fan_out")
        assert part.std().item() == pytest.approx(own.weight.std().item(), rel=0.05)


@EVERY_VARIANT
def test_every_parameter_receives_a_gradient_within_two_steps(variant):
    name, options = VARIANTS[variant]
    block = build_block(name, 16, **options)
    optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
    x, wanted = torch.randn(4, 16, 2, 3, 4), torch.randn(4, 16, 2, 3, 4)
    for _ in range(2):
        optimiser.zero_grad()
        (block(x) * wanted).mean().backward()
        gradients = {key: parameter.grad for key, parameter in block.named_parameters()}
        optimiser.step()
    for part in gradients.pop("projection.weight").split(block.widths):
        assert part.abs().max() > 0
    for key, gradient in gradients.items():
        assert gradient.abs().max() > 0, key


def global_context_loss(model: nn.Module) -> float:
    """The loss after 150 steps, when every position must name the sign that one position of the
    clip shows; 0.69 is chance."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(150):
        sign = torch.randint(0, 2, (32,)).float()
        x = 0.1 * torch.randn(32, 16, 2, 4, 4)
        x[:, 0] += 1
        where = torch.randint(0, 32, (32,))
        x.flatten(2)[torch.arange(32), 1, where] = 4 * (2 * sign - 1)
        wanted = sign.view(-1, 1, 1, 1, 1).expand(-1, -1, 2, 4, 4)
        loss = F.binary_cross_entropy_with_logits(model(x), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


@EVERY_BLOCK
def test_block_learns_what_needs_the_whole_clip(name):
    # In one unit of cc a position sees its own three lines only.
    block = build_block(name, 16, units=3 if name == "cc" else 1)
    assert global_context_loss(nn.Sequential(block, nn.Conv3d(16, 1, 1))) < 0.2


def test_without_a_block_the_whole_clip_task_is_not_learnt():
    pointwise = nn.Sequential(nn.Conv3d(16, 16, 1), nn.BatchNorm3d(16), nn.Conv3d(16, 1, 1))
    assert global_context_loss(pointwise) > 0.6


def assert_finite(*tensors):
    for tensor in tensors:
        assert tensor.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@SIZES
@EVERY_BLOCK
def test_dead_positions_and_zero_input_stay_finite(name, size, dtype):
    channels, grid = size
    dead = torch.randn(2, channels, *grid)
    dead[:, :, 0, 1, 1] = 0
    for x in (dead, torch.zeros_like(dead), torch.full_like(dead, -3.0), 1e-4 * dead):
        block = live_block(name, channels, torch.float32)
        x.requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            y = block(x)
        y.square().mean().backward()
        assert_finite(y, x.grad, *(p.grad for p in block.parameters()))


@pytest.mark.parametrize("dead", ["phi", "psi"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@SIZES
@pytest.mark.parametrize("name", [*SYMMETRIC_BLOCKS, "snl_a2"])
def test_one_dead_projection_stays_finite(name, size, dtype, dead):
    channels, grid = size
    block = live_block(name, channels, torch.float32)
    part = block.projection.weight.detach().split(block.widths)[("phi", "psi").index(dead)]
    part.abs_().neg_()
    x = torch.rand(2, channels, *grid, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        y = block(x)
    y.square().mean().backward()
    assert_finite(y, x.grad, *(p.grad for p in block.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@EVERY_BLOCK
def test_autocast_at_6272_positions_is_finite_and_the_affinity_is_not_lost(name, dtype):
    block = live_block(name, 32, torch.float32)
    x = torch.randn(1, 32, 8, 28, 28) + 1
    if name in (*SYMMETRIC_BLOCKS, "snl_a2", "cgnl"):
        x = 8 * x  # degrees of 1e6, where float16 ends at 65504
    x.requires_grad_()
    positions = torch.tensor([0, 3000, 6271])
    y, rows = block(x), block.affinity(x).rows(positions)
    with torch.autocast("cpu", dtype=dtype):
        half_y, half_rows = block(x), block.affinity(x).rows(positions)
    half_y.square().mean().backward()
    assert_finite(half_y, x.grad, *(p.grad for p in block.parameters()))
    assert (half_rows - rows).norm() < 0.1 * rows.norm()
    assert (half_y - y).norm() < 0.1 * (y - x).norm()


@pytest.mark.parametrize(
    ("name", "last_dense_n"), [("snl", 32), ("snl_a2", 16), ("a2", 16), ("nl_dot", 16), ("nl", 512)]
)
def test_the_matrix_is_formed_exactly_where_that_is_faster(name, last_dense_n):
    block = build_block(name, 32)
    assert block.affinity(torch.randn(1, 32, 1, 1, last_dense_n)).matrix is not None
    assert block.affinity(torch.randn(1, 32, 1, 1, last_dense_n + 1)).matrix is None


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
@EVERY_BLOCK
def test_no_n_by_n_matrix_at_many_positions(name, layout):
    block = live_block(name, 16, torch.float32)
    x = torch.randn(2, 16, 8, 14, 14).to(memory_format=layout)
    with LargestTensor() as largest:
        block(x).sum().backward()
    assert largest.elements <= 2 * 1568 * 3 * 16


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SOFTMAX_BLOCKS)
def test_softmax_of_many_positions_takes_the_fused_kernel(name, dtype, layout):
    block = live_block(name, 16, torch.float32)
    x = torch.randn(2, 16, 4, 14, 14).to(memory_format=layout)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # an error where it does not apply
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            block(x).sum().backward()


@SIZES
@EVERY_VARIANT
@pytest.mark.usefixtures("fused_above_64_positions")
def test_channels_last_input_gives_the_same(variant, size):
    name, options = VARIANTS[variant]
    channels, grid = size
    block = live_block(name, channels, **options)
    x = torch.randn(2, channels, *grid, dtype=torch.float64)
    expected = block(x)
    x = x.to(memory_format=torch.channels_last_3d)
    assert_close(block.to(memory_format=torch.channels_last_3d)(x), expected, 1e-12)


def assert_compiled_agrees(block, size, backend):
    torch.compiler.reset()
    channels, grid = size
    x = torch.randn(2, channels, *grid)
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    actual = compiled(x)
    assert_close(actual, block(x), 1e-5)
    actual.sum().backward()


@EVERY_BLOCK
@pytest.mark.usefixtures("fused_above_64_positions")
def test_block_is_one_graph_for_the_compiler(name):
    assert_compiled_agrees(live_block(name, 8, torch.float32), LARGE_N, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nl", "cgnl", "cc", "snl", "cayley"])
@pytest.mark.usefixtures("fused_above_64_positions")
def test_block_compiles_with_the_default_compiler(name):
    assert_compiled_agrees(live_block(name, 8, torch.float32), LARGE_N, "inductor")


@pytest.mark.slow
@EVERY_BLOCK
@pytest.mark.usefixtures("fused_above_64_positions")
def test_block_is_one_graph_under_autocast(name):
    torch.compiler.reset()
    block = live_block(name, 8, torch.float32)
    x = torch.randn(2, 8, *LARGE_N[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = torch.compile(block, fullgraph=True, backend="aot_eager")(x)
        assert_close(actual, block(x), 1e-1)


@SIZES
@EVERY_BLOCK
@pytest.mark.usefixtures("fused_above_64_positions")
def test_block_exports_with_a_free_batch_size(name, size):
    channels, grid = size
    block = live_block(name, channels, torch.float32).eval()
    x = torch.randn(2, channels, *grid)
    program = torch.export.export(block, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.randn(3, channels, *grid)
    assert_close(program.module()(x), block(x), 1e-5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nl", 2_099_200),
        ("ns", 2_099_200),
        ("a2", 2_099_200),
        ("cgnl", 2_099_200),
        ("snl", 2_623_488),
    ],
)
def test_added_parameters_are_those_of_table_7(name, parameters):
    block = build_block(name, 1024)
    assert sum(parameter.numel() for parameter in block.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "options", "printed"),
    [
        ("nl", {}, 0.53),
        ("ns", {}, 0.53),
        ("cc", {"reduction": 8, "passes": 2}, 0.33),
        ("dnl", {}, 0.53),
        ("snl_a1", {}, 0.53),
        ("snl_a2", {}, 0.66),
        ("snl", {}, 0.66),
    ],
)
def test_added_parameters_are_those_of_table_8(name, options, printed):
    block = build_block(name, 512, **options)
    assert round(sum(parameter.numel() for parameter in block.parameters()) / 1e6, 2) == printed


@EVERY_BLOCK
def test_every_block_says_its_formula_and_source(name):
    text = find(BLOCKS, name, "block").__doc__
    assert "Y = X + " in text
    assert "paper" in text or " et al. " in text


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("nonlocal", {}, ["nonlocal", *tuple(BLOCKS)]),
        ("snl", {"reduction": 3}, ["3", "1, 2, 4, 8"]),
        ("snl", {"reduction": 0}, ["0", "1, 2, 4, 8"]),
        ("snl", {"passes": 2}, ["snl", "passes", "cc"]),
        ("snl", {"order": 2}, ["snl", "order", "gsnl, cheb, cayley"]),
        ("gsnl", {"order": 0}, ["order", "0"]),
        ("gsnl", {"order": 1.5}, ["order", "1.5"]),
        ("snl", {"groups": 2}, ["snl", "groups", "cgnl"]),
        ("cgnl", {"groups": 3}, ["3", "1, 2, 4"]),
        ("cgnl", {"groups": 0}, ["groups", "0"]),
        ("snl", {"units": 0}, ["units", "0"]),
    ],
)
def test_a_bad_value_is_named_beside_the_valid_ones(name, options, named):
    with pytest.raises(UsageError) as error:
        build_block(name, 8, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in named:
        assert word in message


def test_a_reduction_that_does_not_divide_the_channels_is_refused():
    with pytest.raises(UsageError, match="4 .*6 channels.* 1, 2"):
        build_block("snl", 6, reduction=4)
