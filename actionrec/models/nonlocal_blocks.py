"""Nonlocal blocks: every position of a clip looks at every other one through a graph filter.

Try it:
    python -c "import torch; from actionrec.models.nonlocal_blocks import build_block; \\
        print(build_block('snl', 64)(torch.rand(1, 64, 4, 14, 14)).shape)"

The N = T H W positions of a feature map X, (B, C1, T, H, W), are the vertices of a graph. 1x1x1
convolutions project X to Phi, Psi and Z with Cs = C1 / reduction channels. Phi and Psi make the
affinity matrix A, and Z passes a filter of that graph:

    Y = X + Norm(sum_m p_m(A) Z W_m),    p_m a function of A, mostly a power

    block    affinity A                                               filter, before Norm
    nl       softmax_j(Phi_i . Psi_j)                                 A Z W
    nl_dot   Phi Psi^T / N                                            A Z W
    ns       softmax_j(Phi_i . Psi_j)                                 (A - 1) Z W
    a2       softmax_c(Phi) softmax_j(Psi)^T                          A Z W
    cgnl     vec(Phi) vec(Psi)^T, vertices are (position, channel)    A Z W
    cc       softmax over the positions in line with i                A X W
    dnl      softmax_j of whitened Phi_i . Psi_j, + softmax_j(m_j)    A Z W
    snl      D^-1/2 (M + M^T)/2 D^-1/2, M = relu(Phi) relu(Psi)^T     Z W0 + A Z W1
    snl_a1   as snl                                                   A Z W
    snl_a2   D^-1 M                                                   Z W0 + A Z W1
    gsnl     as snl                                                   sum_k A^k Z Wk
    cheb     as snl                                                   sum_k T_k(-A) Z Wk
    cayley   as snl                                                   powers of the Cayley transform

Nonlocal blocks as graph filters are the view of Zhu et al., "Unifying Nonlocal Blocks for Neural
Networks", ICCV 2021: "the SNL paper" below. In its released ResNet-50 a ReLU stands behind a norm
whose scale starts at 0, and no parameter of the block has a gradient. (In its PreResNet56 and its
segmentation code the scale starts at 1, and the block learns.) Here there is no such ReLU: a block
starts as the identity, and learns.

A is an operator z -> A z. Its N x N matrix is formed only where N is small and that is faster.
"""

from collections.abc import Callable, Iterable
from functools import partial
from inspect import signature
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionrec.errors import UsageError
from actionrec.models.convolution import PointwiseConv3d
from actionrec.models.registry import BLOCKS, find

REDUCTIONS = (1, 2, 4, 8)
DEGREE_EPS = 1e-6
# float16 ends at 65504: the scale of a position with a degree near 0 must stay below.
FLOAT16_MEAN_AFFINITY_EPS = 1e-4
# Measured on a CPU: up to this N, the N x N softmax is as fast as fused attention, and still small.
DENSE_SOFTMAX_POSITIONS = 512


# Affinities: A as an operator.


def dense_is_faster(positions: int, limit: int) -> bool:
    """Whether A z is faster through the N x N matrix: for at most `limit` positions.

    An exported graph for clips of any size goes without the matrix: its N is a symbol, which a
    comparison would restrict to one side of the limit.
    """
    return not isinstance(positions, torch.SymInt) and positions <= limit


class Affinity(Protocol):
    """The N x N matrix A of every clip of a batch, as an operator."""

    def __call__(self, z: Tensor) -> Tensor:
        """A z for z of shape (B, C, N): position i of the result is sum_j A_ij z_j."""
        ...

    def rows(self, positions: Tensor) -> Tensor:
        """Rows of A, (B, len(positions), N), at indices into the flattened T x H x W grid."""
        ...


class LowRankAffinity:
    """A = P^T Q, or (P^T Q + Q^T P) / 2 where `symmetric`, from P and Q of shape (B, Cs, N).

    A z costs 2 N^2 Cs multiply-adds with the N x N matrix, and 2 N Cs^2 (symmetric: 4 N Cs^2)
    without it, from right to left. It takes the cheaper way; both agree to rounding.
    """

    def __init__(self, p: Tensor, q: Tensor, *, symmetric: bool = False) -> None:
        self.p, self.q, self.symmetric = p, q, symmetric
        channels, positions = p.shape[1:]
        limit = 2 * channels if symmetric else channels
        self.matrix = None
        if dense_is_faster(positions, limit):
            matrix = p.transpose(1, 2) @ q
            self.matrix = (matrix + matrix.transpose(1, 2)) / 2 if symmetric else matrix

    def __call__(self, z: Tensor) -> Tensor:
        if self.matrix is not None:
            return z @ self.matrix.transpose(1, 2)
        az = (z @ self.q.transpose(1, 2)) @ self.p
        if self.symmetric:
            az = (az + (z @ self.p.transpose(1, 2)) @ self.q) / 2
        return az

    def rows(self, positions: Tensor) -> Tensor:
        rows = self.p[:, :, positions].transpose(1, 2) @ self.q
        if self.symmetric:
            rows = (rows + self.q[:, :, positions].transpose(1, 2) @ self.p) / 2
        return rows

    def to(self, dtype: torch.dtype) -> "LowRankAffinity":
        """The same affinity in another floating-point type."""
        return LowRankAffinity(self.p.to(dtype), self.q.to(dtype), symmetric=self.symmetric)

    def resolvent(self, zoom: Tensor) -> Callable[[Tensor], Tensor]:
        """The operator z -> (1 + zoom^2 L^2)^-1 z with L = 1 - A, exact; A must be symmetric.

        It takes one inverse of size N x N, or, where A z goes without its matrix, one solve of
        size 2Cs x 2Cs (Woodbury): with U = [P^T, Q^T] and A = U S U^T,
        1 + h^2 L^2 = (1 + h^2) - h^2 U (2 S - S U^T U S) U^T.
        """
        # Neither matrix can be singular: their eigenvalues are 1 / (1 + h^2) at least. Solvers with
        # a check for singular matrices can't be exported.
        h2 = zoom.square()
        if self.matrix is not None:
            one = torch.eye(self.matrix.shape[-1], dtype=h2.dtype, device=h2.device)
            laplacian = one - self.matrix
            inverse, _ = torch.linalg.inv_ex(one + h2 * (laplacian @ laplacian))
            return lambda z: z @ inverse.transpose(1, 2)
        u = torch.cat([self.p, self.q], dim=1)
        gram = u @ u.transpose(1, 2)
        one = torch.eye(u.shape[1], dtype=h2.dtype, device=h2.device)
        s = one.roll(u.shape[1] // 2, dims=0) / 2
        core = h2 / (1 + h2) * (2 * s - s @ gram @ s)
        core, _ = torch.linalg.solve_ex(one - core @ gram, core)
        return lambda z: (z + (z @ u.transpose(1, 2)) @ core.transpose(1, 2) @ u) / (1 + h2)


class SoftmaxAffinity:
    """A_ij = softmax_j(Phi_i . Psi_j) from Phi and Psi of shape (B, Cs, N); no 1/sqrt(Cs)."""

    def __init__(self, phi: Tensor, psi: Tensor) -> None:
        self.phi, self.psi = phi, psi
        dense = dense_is_faster(phi.shape[2], DENSE_SOFTMAX_POSITIONS)
        self.matrix = self._softmax(phi) if dense else None

    def _softmax(self, phi: Tensor) -> Tensor:
        return (phi.transpose(1, 2) @ self.psi).softmax(dim=2)

    def __call__(self, z: Tensor) -> Tensor:
        if self.matrix is not None:
            return z @ self.matrix.transpose(1, 2)
        # Only 4-D tensors, contiguous in the last dimension, take the fused kernel; others form
        # the N x N matrix without a warning.
        query, key, value = (
            x.transpose(1, 2).unsqueeze(1).contiguous() for x in (self.phi, self.psi, z)
        )
        az = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return az.squeeze(1).transpose(1, 2)

    def rows(self, positions: Tensor) -> Tensor:
        return self._softmax(self.phi[:, :, positions])


class DisentangledAffinity:
    """A_ij = softmax_j((Phi_i - mean Phi) . (Psi_j - mean Psi)) + softmax_j(m_j).

    From Phi (B, Cs, N), and Psi with m as its last channel (B, Cs + 1, N). A row sums to 2.
    """

    def __init__(self, phi: Tensor, psi: Tensor) -> None:
        psi, m = psi[:, :-1], psi[:, -1:]
        self.pairwise = SoftmaxAffinity(
            phi - phi.mean(2, keepdim=True), psi - psi.mean(2, keepdim=True)
        )
        self.unary = m.softmax(dim=2)

    def __call__(self, z: Tensor) -> Tensor:
        return self.pairwise(z) + z @ self.unary.transpose(1, 2)

    def rows(self, positions: Tensor) -> Tensor:
        return self.pairwise.rows(positions) + self.unary


class CrissCrossAffinity:
    """A_ij = softmax(Phi_i . Psi_j) over the j that share two of (t, h, w) with i, else 0.

    From Phi and Psi of shape (B, Cs, T, H, W). Position i itself counts once, so a row has
    T + H + W - 2 entries, and the N x N matrix is never formed.
    """

    def __init__(self, phi: Tensor, psi: Tensor) -> None:
        self.grid = phi.shape[2:]
        in_t = torch.einsum("bcthw,bcuhw->bthwu", phi, psi)
        in_h = torch.einsum("bcthw,bctuw->bthwu", phi, psi)
        in_w = torch.einsum("bcthw,bcthu->bthwu", phi, psi)
        t, h, _ = (torch.eye(n, dtype=torch.bool, device=phi.device) for n in self.grid)
        in_t = in_t.masked_fill(t[:, None, None], -torch.inf)
        in_h = in_h.masked_fill(h[:, None], -torch.inf)
        weights = torch.cat([in_t, in_h, in_w], dim=-1).softmax(dim=-1)
        self.in_t, self.in_h, self.in_w = weights.split(list(self.grid), dim=-1)

    def __call__(self, z: Tensor) -> Tensor:
        z = z.unflatten(2, self.grid)
        az = torch.einsum("bthwu,bcuhw->bcthw", self.in_t, z)
        az = az + torch.einsum("bthwu,bctuw->bcthw", self.in_h, z)
        az = az + torch.einsum("bthwu,bcthu->bcthw", self.in_w, z)
        return az.flatten(2)

    def rows(self, positions: Tensor) -> Tensor:
        at_t, at_h, at_w = (
            F.one_hot(index, n).to(self.in_t.dtype)
            for index, n in zip(torch.unravel_index(positions, self.grid), self.grid, strict=True)
        )
        in_t, in_h, in_w = (
            weights.flatten(1, 3)[:, positions] for weights in (self.in_t, self.in_h, self.in_w)
        )
        rows = torch.einsum("bpt,ph,pw->bpthw", in_t, at_h, at_w)
        rows = rows + torch.einsum("pt,bph,pw->bpthw", at_t, in_h, at_w)
        rows = rows + torch.einsum("pt,ph,bpw->bpthw", at_t, at_h, in_w)
        return rows.flatten(2)


class ChannelPositionAffinity:
    """A = vec(Phi) vec(Psi)^T in every group of channels, its vertices (position, channel) pairs.

    From Phi and Psi of shape (B, Cs, N). Rank 1, so A z = vec(Phi) (vec(Psi) . vec(z)).
    """

    def __init__(self, phi: Tensor, psi: Tensor, groups: int) -> None:
        self.phi, self.psi, self.groups = phi, psi, groups

    def __call__(self, z: Tensor) -> Tensor:
        # A sum over N Cs products exceeds float16.
        products = (_widen(self.psi) * _widen(z)).unflatten(1, (self.groups, -1))
        response = products.sum(dim=(2, 3), keepdim=True)
        if self.phi.dtype == torch.float16:
            # The block's group norm undoes a positive factor of a group.
            response = response / response.detach().abs().clamp(min=1)
        az = self.phi.unflatten(1, (self.groups, -1)) * response.to(self.phi.dtype)
        return az.flatten(1, 2)

    def rows(self, positions: Tensor) -> Tensor:
        """Rows of A, each entry the sum over the pairs of channels of all groups."""
        phi, psi = (x.unflatten(1, (self.groups, -1)).sum(2) for x in (self.phi, self.psi))
        return phi[:, :, positions].transpose(1, 2) @ psi


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _degree_eps(features: Tensor) -> float:
    if features.dtype == torch.float16:
        return FLOAT16_MEAN_AFFINITY_EPS * features.shape[2]
    return DEGREE_EPS


def symmetric_affinity(phi: Tensor, psi: Tensor) -> LowRankAffinity:
    """A = D^-1/2 (M + M^T)/2 D^-1/2, M = relu(Phi) relu(Psi)^T, D its degrees + 1e-6.

    Real and symmetric, with eigenvalues in [-1, 1] (SNL paper, Eq. 13; the ReLU, without which
    degrees can be negative, is in its released code).
    """
    # Degrees need float32, which autocast keeps in sums and elementwise products.
    phi_wide, psi_wide = _widen(phi).relu(), _widen(psi).relu()
    phi_sum, psi_sum = phi_wide.sum(2, keepdim=True), psi_wide.sum(2, keepdim=True)
    degree = (phi_wide * psi_sum + psi_wide * phi_sum).sum(1, keepdim=True) / 2
    scale = (degree + _degree_eps(phi)).rsqrt()
    p, q = (phi_wide * scale).to(phi.dtype), (psi_wide * scale).to(psi.dtype)
    return LowRankAffinity(p, q, symmetric=True)


def row_normalised_affinity(phi: Tensor, psi: Tensor) -> LowRankAffinity:
    """A = D^-1 M, M = relu(Phi) relu(Psi)^T, D its row sums + 1e-6 (SNL paper, Table 8)."""
    phi_wide, psi_wide = _widen(phi).relu(), _widen(psi).relu()
    degree = (phi_wide * psi_wide.sum(2, keepdim=True)).sum(1, keepdim=True)
    positions = phi.shape[2]
    # The factor N moves from Psi to Phi: sums over the positions would overflow float16.
    p = (phi_wide * (positions / (degree + _degree_eps(phi)))).to(phi.dtype)
    return LowRankAffinity(p, (psi_wide / positions).to(psi.dtype))


def dot_product_affinity(phi: Tensor, psi: Tensor) -> LowRankAffinity:
    """A = Phi Psi^T / N (Wang et al. 2018, Eq. 4)."""
    return LowRankAffinity(phi, psi / psi.shape[2])


def double_attention_affinity(phi: Tensor, psi: Tensor) -> LowRankAffinity:
    """A = softmax_c(Phi) softmax_j(Psi)^T (Chen et al. 2018): Psi gathers features from all
    positions, Phi distributes them. Rows sum to 1."""
    return LowRankAffinity(phi.softmax(dim=1).to(phi.dtype), psi.softmax(dim=2).to(psi.dtype))


# Filters: functions of A that are applied to Z.


class PowerFilter(nn.Module):
    """The terms A^k z for k = lowest..highest, of z (B, C, N); by default A z alone."""

    def __init__(self, lowest: int = 1, highest: int = 1) -> None:
        super().__init__()
        self.lowest, self.highest = lowest, highest
        self.terms = highest - lowest + 1

    def forward(self, affinity: Affinity, z: Tensor) -> list[Tensor]:
        powers = [z]
        for _ in range(self.highest):
            powers.append(affinity(powers[-1]))
        return powers[self.lowest :]


class DifferenceFilter(nn.Module):
    """The term A z - z."""

    terms = 1

    def forward(self, affinity: Affinity, z: Tensor) -> list[Tensor]:
        return [-z + affinity(z)]


class ChebyshevFilter(nn.Module):
    """The terms T_0(x) z .. T_order(x) z with x = L - 1 = -A, the normalised Laplacian scaled to
    [-1, 1], by T_k = 2 x T_(k-1) - T_(k-2) (Defferrard et al. 2016)."""

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order
        self.terms = order + 1

    def forward(self, affinity: Affinity, z: Tensor) -> list[Tensor]:
        terms = [z, -affinity(z)]
        for _ in range(self.order - 1):
            terms.append(-2 * affinity(terms[-1]) - terms[-2])
        return terms


class CayleyFilter(nn.Module):
    """The terms z, Re C^j z, Im C^j z for j = 1..order, of the Cayley transform
    C = (h L - i) (h L + i)^-1 of L = 1 - A, which maps the spectrum onto the unit circle.

    With real weights they span the Cayley polynomials c_0 + 2 Re sum_j c_j C^j of Levie et al.
    2019 (CayleyNets). h, the spectral zoom, is learnt. No complex numbers and no approximate
    inverse: with v = (1 + h^2 L^2)^-1 z, Re C z = z - 2 v and Im C z = -2 h L v.
    """

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order
        self.terms = 1 + 2 * order
        self.zoom = nn.Parameter(torch.ones(()))

    def forward(self, affinity: LowRankAffinity, z: Tensor) -> list[Tensor]:
        wide = _widen(z)
        # There is no linear solver in half precision.
        with torch.autocast(z.device.type, enabled=False):
            zoom = self.zoom.to(wide.dtype)
            affinity = affinity.to(wide.dtype)
            resolvent = affinity.resolvent(zoom)

            def transform(real: Tensor) -> tuple[Tensor, Tensor]:
                v = resolvent(real)
                return real - 2 * v, -2 * zoom * (v - affinity(v))

            real, imaginary = transform(wide)
            terms = [wide, real, imaginary]
            for _ in range(self.order - 1):
                (a, b), (c, d) = transform(real), transform(imaginary)
                real, imaginary = a - d, b + c
                terms += [real, imaginary]
        return [term.to(z.dtype) for term in terms]


# The block.


class FilterUnit(nn.Module):
    """x -> x + Norm(sum_m p_m(A) z W_m), the W_m side by side in one convolution.

    The norm's scale is 0 at the start, and with it the whole sum.
    """

    def __init__(self, channels: int, z_channels: int, graph_filter: nn.Module, groups: int | None):
        super().__init__()
        self.filter = graph_filter
        self.output = nn.Conv3d(
            graph_filter.terms * z_channels, channels, 1, groups=groups or 1, bias=False
        )
        self.norm = nn.GroupNorm(groups, channels) if groups else nn.BatchNorm3d(channels)
        nn.init.kaiming_normal_(self.output.weight, mode="fan_out")
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor, affinity: Affinity, z: Tensor) -> Tensor:
        terms = self.filter(affinity, z.flatten(2))
        y = torch.cat(terms, dim=1) if len(terms) > 1 else terms[0]
        return x + self.norm(self.output(y.unflatten(2, x.shape[2:])))


class NonlocalBlock(nn.Module):
    """Y = X + Norm(sum_m p_m(A) Z W_m) for X of shape (B, channels, T, H, W) or, of images,
    (B, channels, H, W); Y has X's shape.

    With `units` above 1 it is a stage: units one after the other share the affinity of the first
    one's input, and each has a Z, weights and a norm of its own (nonlocal stage: Tao et al. 2018;
    SNL: the SNL paper).

    Args:
        channels: C1, the channels of X.
        reduced: Cs, the channels of Phi, Psi and Z.
        affinity: makes A from Phi and Psi.
        graph_filter: makes the filter of a unit.
        units: units that share the affinity.
        passes: passes through the whole block, one after the other, with the same weights.
        psi_channels: channels of Psi, by default `reduced`.
        flatten: Phi and Psi reach `affinity` as (B, Cs, N), otherwise as (B, Cs, T, H, W).
        project_z: Z is a projection of X, otherwise X itself.
        groups: channel groups of the output weights and of a group norm; None is batch norm.
    """

    def __init__(
        self,
        channels: int,
        reduced: int,
        affinity: Callable[[Tensor, Tensor], Affinity],
        graph_filter: Callable[[], nn.Module] = PowerFilter,
        *,
        units: int = 1,
        passes: int = 1,
        psi_channels: int | None = None,
        flatten: bool = True,
        project_z: bool = True,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.make_affinity = affinity
        self.channels, self.flatten, self.passes = channels, flatten, passes
        self.widths = [reduced, psi_channels or reduced] + [reduced] * project_z
        self.projection = _projection(channels, self.widths)
        z_channels = reduced if project_z else channels
        self.units = nn.ModuleList(
            FilterUnit(channels, z_channels, graph_filter(), groups) for _ in range(units)
        )
        # The projections of Z of all units but the first; model files have this name.
        self.later_z = nn.ModuleList(
            _projection(channels, [reduced]) if project_z else nn.Identity()
            for _ in range(units - 1)
        )

    def affinity(self, x: Tensor) -> Affinity:
        """A for the feature map x, (B, channels, T, H, W), in the first pass."""
        return self._affinity_and_z(x)[0]

    def _affinity_and_z(self, x: Tensor) -> tuple[Affinity, Tensor]:
        phi, psi, *z = self.projection(x).split(self.widths, dim=1)
        if self.flatten:
            phi, psi = phi.flatten(2), psi.flatten(2)
        return self.make_affinity(phi, psi), z[0] if z else x

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return self.forward(x.unsqueeze(2)).squeeze(2)
        if x.dim() != 5 or x.shape[1] != self.channels:
            raise UsageError(
                f"This nonlocal block takes (B, {self.channels}, H, W) or "
                f"(B, {self.channels}, T, H, W), not {tuple(x.shape)}."
            )
        for _ in range(self.passes):
            affinity, z = self._affinity_and_z(x)
            x = self.units[0](x, affinity, z)
            for project, unit in zip(self.later_z, self.units[1:], strict=True):
                x = unit(x, affinity, project(x))
        return x


def _projection(channels: int, widths: list[int]) -> nn.Conv3d:
    """Several 1x1x1 convolutions side by side, each initialised by its own number of outputs."""
    projection = PointwiseConv3d(channels, sum(widths))
    for weight in projection.weight.detach().split(widths):
        nn.init.kaiming_normal_(weight, mode="fan_out")
    return projection


# The blocks by name: a function each of the channels C1, the reduced channels Cs and the number of
# units. Further parameters are options of the block, positive integers.


def nl(channels: int, reduced: int, units: int) -> NonlocalBlock:
    """NL, embedded Gaussian: Y = X + BN(A Z W), A_ij = softmax_j(Phi_i . Psi_j).

    Wang et al. 2018 (Eq. 3 and 6); SNL paper, Table 1.
    """
    return NonlocalBlock(channels, reduced, SoftmaxAffinity, units=units)


def nl_dot(channels: int, reduced: int, units: int) -> NonlocalBlock:
    """NL, dot product: Y = X + BN(A Z W), A = Phi Psi^T / N.

    Wang et al. 2018 (Eq. 4 and 6). It grows with the cube of X: where features are far above 1,
    float16 can overflow and bfloat16 can't.
    """
    return NonlocalBlock(channels, reduced, dot_product_affinity, units=units)


def ns(channels: int, reduced: int, units: int) -> NonlocalBlock:
    """NS, nonlocal stage: Y = X + BN((A Z - Z) W), A_ij = softmax_j(Phi_i . Psi_j).

    Tao et al. 2018; SNL paper, Table 1. (The SNL paper's code subtracts the other way round,
    which the sign of W absorbs.)
    """
    return NonlocalBlock(channels, reduced, SoftmaxAffinity, DifferenceFilter, units=units)


def a2(channels: int, reduced: int, units: int) -> NonlocalBlock:
    """A2, double attention: Y = X + BN(A Z W), A = softmax_c(Phi) softmax_j(Psi)^T.

    Chen et al. 2018; SNL paper, Table 1. (The SNL paper's code has relu(Phi) relu(Psi)^T instead,
    without normalisation.)
    """
    return NonlocalBlock(channels, reduced, double_attention_affinity, units=units)


def cgnl(channels: int, reduced: int, units: int, groups: int = 1) -> NonlocalBlock:
    """CGNL, compact generalised: Y = X + GN(A Z W), A = vec(Phi) vec(Psi)^T in every group.

    The vertices are N Cs pairs of position and channel; W and the norm have the same groups.
    Yue et al. 2018, dot-product kernel, without normalisation as in its own code; SNL paper,
    Table 1.
    """
    if channels % groups or reduced % groups:
        divisors = [d for d in range(1, reduced + 1) if channels % d == reduced % d == 0]
        raise UsageError(
            f"{groups} groups do not divide {channels} channels reduced to {reduced}; "
            f"choose from {_listed(divisors)}."
        )
    affinity = partial(ChannelPositionAffinity, groups=groups)
    return NonlocalBlock(channels, reduced, affinity, units=units, groups=groups)


def cc(channels: int, reduced: int, units: int, passes: int = 1) -> NonlocalBlock:
    """CC, criss-cross over T, H and W: Y = X + BN(A X W), A_ij the softmax of Phi_i . Psi_j over
    the positions j that share two of the three coordinates with i.

    Huang et al. 2019 (there over H and W, with Cs = C1/8 and two passes, each with an affinity of
    its own input; by its size and multiply-adds, so is CC in the SNL paper's Table 8); SNL paper,
    Table 1.
    """
    return NonlocalBlock(
        channels,
        reduced,
        CrissCrossAffinity,
        units=units,
        passes=passes,
        flatten=False,
        project_z=False,
    )


def dnl(channels: int, reduced: int, units: int) -> NonlocalBlock:
    """DNL, disentangled: Y = X + BN(A Z W),
    A_ij = softmax_j((Phi_i - mean Phi) . (Psi_j - mean Psi)) + softmax_j(m_j), m = X W_m.

    Yin et al. 2020.
    """
    affinity = DisentangledAffinity
    return NonlocalBlock(channels, reduced, affinity, units=units, psi_channels=reduced + 1)


def snl(channels: int, reduced: int, units: int) -> NonlocalBlock:
    """SNL, spectral nonlocal: Y = X + BN(Z W0 + A Z W1), A = D^-1/2 (M + M^T)/2 D^-1/2 with
    M = relu(Phi) relu(Psi)^T.

    SNL paper, Eq. 13 and Table 1.
    """
    return gsnl(channels, reduced, units, order=1)


def snl_a1(channels: int, reduced: int, units: int) -> NonlocalBlock:
    """SNL without its term of order 0: Y = X + BN(A Z W), A as in snl.

    SNL paper, Table 8.
    """
    return NonlocalBlock(channels, reduced, symmetric_affinity, units=units)


def snl_a2(channels: int, reduced: int, units: int) -> NonlocalBlock:
    """SNL with an affinity that is not symmetric: Y = X + BN(Z W0 + A Z W1), A = D^-1 M,
    M = relu(Phi) relu(Psi)^T.

    SNL paper, Table 8, which names no kernel: M is snl's, so that only the symmetry is gone. The
    softmax of nl and ns is another kernel: between them and snl_a2 two things differ.
    """
    graph_filter = partial(PowerFilter, 0, 1)
    return NonlocalBlock(channels, reduced, row_normalised_affinity, graph_filter, units=units)


def gsnl(channels: int, reduced: int, units: int, order: int = 2) -> NonlocalBlock:
    """gSNL, of any order: Y = X + BN(sum_k A^k Z Wk), k = 0..order, A as in snl.

    SNL paper; with order 1 it is snl.
    """
    graph_filter = partial(PowerFilter, 0, order)
    return NonlocalBlock(channels, reduced, symmetric_affinity, graph_filter, units=units)


def cheb(channels: int, reduced: int, units: int, order: int = 2) -> NonlocalBlock:
    """Chebyshev filter: Y = X + BN(sum_k T_k(-A) Z Wk), k = 0..order, A as in snl.

    The same functions of A as gsnl can learn, in the basis that stays well conditioned as the
    order grows. Defferrard et al. 2016, on the graph of the SNL paper.
    """
    graph_filter = partial(ChebyshevFilter, order)
    return NonlocalBlock(channels, reduced, symmetric_affinity, graph_filter, units=units)


def cayley(channels: int, reduced: int, units: int, order: int = 1) -> NonlocalBlock:
    """Cayley filter: Y = X + BN(Z W0 + sum_j Re(C^j) Z Wj + Im(C^j) Z Vj), j = 1..order, with
    C = (h L - i) (h L + i)^-1, L = 1 - A, A as in snl and h learnt.

    Levie et al. 2019 (CayleyNets), on the graph of the SNL paper. It is rational in A: order 1
    already reaches functions that need a polynomial of high order. (The SNL paper's code has a
    "Cayley" unit that is the polynomial Z W0 + (Z Wh + L^2 Z) W2.)
    """
    graph_filter = partial(CayleyFilter, order)
    return NonlocalBlock(channels, reduced, symmetric_affinity, graph_filter, units=units)


def build_block(
    name: str, channels: int, *, reduction: int = 2, units: int = 1, **options: int | None
) -> NonlocalBlock:
    """The block `name`, which maps (B, channels, T, H, W), or (B, channels, H, W), to the same
    shape and starts as the identity.

    Args:
        name: a key of `BLOCKS`; the function of that name has its formula and source.
        channels: C1, the channels of the feature map.
        reduction: C1 / Cs, 1, 2, 4 or 8.
        units: units, one after the other, that share one affinity.
        **options: further parameters of the block's function, such as `order` and `groups`; None
            is the function's default.

    Raises:
        UsageError: the block does not exist, lacks an option, or a value is not possible.
    """
    builder = find(BLOCKS, name, "nonlocal block")
    dividing = [choice for choice in REDUCTIONS if channels % choice == 0]
    if reduction not in dividing:
        raise UsageError(
            f"A reduction of {reduction} is not possible with {channels} channels; "
            f"choose from {_listed(dividing)}."
        )
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in {"units": units, **given}.items():
        having = [
            block for block in BLOCKS if option in signature(find(BLOCKS, block, "")).parameters
        ]
        if name not in having:
            raise UsageError(f"The block {name!r} has no {option}; it is for {_listed(having)}.")
        if not isinstance(value, int) or value < 1:
            raise UsageError(
                f"The nonlocal block's {option} is {value}; choose a number from 1 on."
            )
    return builder(channels, channels // reduction, units, **given)


def _listed(choices: Iterable[object]) -> str:
    return ", ".join(map(str, choices))
