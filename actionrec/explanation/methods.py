"""The numbers behind a heat map, one for every position of a feature map (T', H', W')."""

import torch
from torch import Tensor

from actionrec.explanation.receptive_fields import CentreTracker, Grid
from actionrec.models.backbone import Backbone
from actionrec.models.nonlocal_blocks import NonlocalBlock


@torch.no_grad()
def feature_maps(
    network: Backbone, clips: Tensor, unit: str | None
) -> tuple[tuple[Tensor, ...], Grid]:
    """Feature maps (B, C, T', H', W') of normalised clips (B, 3, T, H, W), and the receptive field
    centres of their positions: input and output of the nonlocal block before `unit`; for None, the
    last stage's feature map alone."""
    maps: list[Tensor] = []

    def remember(_: NonlocalBlock, inputs: tuple[Tensor], output: Tensor) -> None:
        maps.extend((inputs[0], output))

    with CentreTracker(clips) as tracker:
        if unit is None:
            maps.append(network.feature_map(clips))
        else:
            with network.blocks[unit].register_forward_hook(remember):
                network.feature_map(clips)
    return tuple(maps), tracker.grids[maps[0]]


def channel_rms(features: Tensor) -> Tensor:
    """The root mean square over the channels, (T', H', W'), of a feature map (1, C, T', H', W')."""
    return features[0].float().square().mean(dim=0).sqrt()


@torch.inference_mode()
def affinity_row(block: NonlocalBlock, x: Tensor, position: tuple[int, int, int]) -> Tensor:
    """Row A[i, :] of a nonlocal block as (T', H', W'), for i at `position` (t, y, x) of the
    block's input x (1, C, T', H', W').

    A[i, j] is the weight with which i takes the features at j. The row is computed from the
    factors of A in O(N) memory, without the N x N matrix. The filter has no part in it, although
    the filters of gsnl, cheb and cayley reach farther than A, over A^2 and so on.

        nl, ns, a2     positive, sum 1
        dnl            two softmaxes, sum 2; the second one is the same for every i
        cc             0 but for the T' + H' + W' - 2 positions in line with i; sum 1
        snl_a2         not negative, sum 1
        snl, snl_a1, gsnl, cheb, cayley
                       D^-1/2 M D^-1/2: symmetric, not negative, no fixed sum
        nl_dot         any sign, no fixed sum
        cgnl           A is over pairs of a position and a channel. Shown is the sum over the pairs
                       of channels in one group: all that i takes from j, were Z the same in every
                       channel. Any sign, no fixed sum; with one group, the rank is 1
    """
    _, height, width = x.shape[2:]
    t, row, column = position
    index = torch.tensor([(t * height + row) * width + column], device=x.device)
    return block.affinity(x).rows(index)[0, 0].unflatten(0, x.shape[2:])


def hires_cam(network: Backbone, features: Tensor, target: int) -> Tensor:
    """HiResCAM (T', H', W') of class `target` on the last stage's feature map X, of shape
    (1, C, T', H', W'): relu(sum_c g_c X_c), with g the gradient of the logit with respect to X
    (Draelos and Carin 2020).

    Each number is the contribution of its position to the logit, where that is positive. Grad-CAM
    (Selvaraju et al. 2017) averages g over the positions, which is the same where the head begins
    with a mean over them. I3D's head gives the first and last time step half the weight of others.
    """
    # The gradient goes no further than the head: libraries keep the whole network's activations.
    with torch.enable_grad():
        features = features.detach().to(network.head.weight.dtype).requires_grad_()
        logit = network.head(network.pool(features))[0, target]
        [gradient] = torch.autograd.grad(logit, features)
    return (gradient * features.detach()).sum(dim=1)[0].relu()
