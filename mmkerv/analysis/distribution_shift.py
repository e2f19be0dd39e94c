"""Principal components of kernels, and the shift between the distributions of two sets of kernels along them.

Gavrikov and Keuper, "CNN Filter DB: An Empirical Investigation of Trained Convolutional Filters", CVPR 2022.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmkerv.errors import UndefinedStatisticError

# Components, at most, and bins of a histogram along each.
COMPONENTS, BINS = 9, 70
# Added to each bin: an empty one would make the divergence infinite.
PRIOR = 0.5


class Components(NamedTuple):
    """Principal components of slices.

    Args:
        mean: mean slice (taps,).
        axes: components (c, taps) of norm 1, the one with the largest variance first.
        explained: share (c,) of the variance along each.

    Example:
        >>> principal_components(torch.eye(3)).explained.shape
        torch.Size([3])
    """

    mean: Tensor
    axes: Tensor
    explained: Tensor


def scaled(rows: Tensor) -> Tensor:
    """Return the slices (n, taps) divided by their own largest tap, without those that are zero.

    Example:
        >>> scaled(torch.tensor([[1.0, -2.0], [0.0, 0.0]])).tolist()
        [[0.5, -1.0]]
    """
    largest = rows.abs().amax(1, keepdim=True)
    present = largest[:, 0] > 0
    return rows[present] / largest[present]


def principal_components(rows: Tensor) -> Components:
    """Return the principal components of slices (n, taps), nine at most.

    The sign of a component is that which makes its largest tap positive.

    Raises:
        UndefinedStatisticError: for fewer than two slices, slices of one tap, or equal slices.

    Example:
        >>> found = principal_components(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        >>> [round(share, 3) for share in found.explained.tolist()]
        [1.0, 0.0]
    """
    if len(rows) < 2 or rows.shape[1] == 1:
        raise UndefinedStatisticError('fewer than two slices, or slices of one tap, have no directions')
    rows = rows.to(torch.float64)
    mean = rows.mean(0)
    _, sizes, axes = torch.linalg.svd(_condensed(rows - mean), full_matrices=False)
    power = sizes.square()
    if power.sum() <= rows.numel() * (torch.finfo(rows.dtype).eps * rows.abs().max()) ** 2:
        raise UndefinedStatisticError('equal slices have no variance')
    axes = axes[:COMPONENTS]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return Components(mean, axes * largest.sign(), (power / power.sum())[:COMPONENTS])


def distribution_shift(first: Tensor, second: Tensor) -> float:
    r"""Return how differently two sets of slices are distributed along the principal components of their union.

    :math:`\sum_i e_i \, (KL(p_i | q_i) + KL(q_i | p_i)) / \sum_i e_i`

    with the histograms p and q of 70 bins along component i, over the range of both, and the explained variance e.
    Slices are divided by their own largest tap first. Half a count is added to each bin, so the shift is finite; it is
    above 0 for two samples of one distribution, see :func:`shift_by_chance`.

    Args:
        first: slices (n, taps).
        second: slices (m, taps).

    Raises:
        UndefinedStatisticError: if a set has only zeros, or the union no variance.

    Source: CNN Filter DB, CVPR 2022.

    Example:
        >>> rows = torch.sin(torch.arange(288.0)).view(32, 9)
        >>> distribution_shift(rows, rows), distribution_shift(rows, -rows) > 0
        (0.0, True)
    """
    first, second = (scaled(rows.to(torch.float64)) for rows in (first, second))
    if not len(first) or not len(second):
        raise UndefinedStatisticError('the kernel is zero')
    if first.shape[1] == 1:
        raise UndefinedStatisticError('slices of one tap have no directions')
    return _shift(first, second, principal_components(torch.cat([first, second])))


def shift_by_chance(first: Tensor, second: Tensor, seed: int = 0) -> float:
    """Return the shift between two random parts of the union, of the sizes of the two sets: what a shift of 0 measures.

    Args:
        first: slices (n, taps).
        second: slices (m, taps).
        seed: seed of the parts.

    Raises:
        UndefinedStatisticError: as :func:`distribution_shift`.

    Example:
        >>> rows = torch.sin(torch.arange(288.0)).view(32, 9)
        >>> shift_by_chance(rows, rows) > 0
        True
    """
    union = torch.cat([first, second])
    order = torch.randperm(len(union), generator=torch.Generator().manual_seed(seed)).to(union.device)
    return distribution_shift(union[order[: len(first)]], union[order[len(first) :]])


def _condensed(rows: Tensor) -> Tensor:
    """Return at most as many rows as there are columns, with the same singular values and right singular vectors."""
    return torch.linalg.qr(rows, mode='r').R if len(rows) > rows.shape[1] else rows


def _shift(first: Tensor, second: Tensor, components: Components) -> float:
    along = [((rows - components.mean) @ components.axes.T).T for rows in (first, second)]
    total = 0.0
    for p, q, share in zip(*along, components.explained.tolist()):
        low, high = (float(edge(torch.cat([p, q]))) for edge in (torch.min, torch.max))
        if high == low:
            continue
        p, q = (torch.histc(values, BINS, low, high) + PRIOR for values in (p, q))
        p, q = p / p.sum(), q / q.sum()
        total += share * float(((p - q) * (p.log() - q.log())).sum())
    return max(0.0, total / float(components.explained.sum()))
