"""Statistics of convolution kernels: how many are empty, how different, how orthogonal, and what they pass.

A *slice* is the part (k_1, k_2, ...) of a kernel that connects one input channel with one output channel, a *filter*
all slices of one output channel. The functions compute in float64 and raise :class:`UndefinedStatisticError` with the
reason where a statistic has no value; they never return NaN for a finite kernel.

Gavrikov and Keuper, "CNN Filter DB: An Empirical Investigation of Trained Convolutional Filters", CVPR 2022.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmkerv.errors import UndefinedStatisticError

# A slice is sparse if no tap reaches this share of the layer's largest tap.
SPARSE = 0.01
# Rules of thumb: a layer beyond one of them is flagged.
MOST_SPARSE, LEAST_ENTROPY = 0.1, 0.5
# Taps of the kernels to which T(n) was fitted, and the least number of slices for which it is positive.
FITTED_TAPS, FITTED_SLICES = 9, 3
# Upper edges of the frequency bands, in cycles per tap.
EDGES = (0.125, 0.25, 0.5)
BANDS = ('low', 'middle', 'high')
# Slices that are transformed at a time.
CHUNK = 65536


def slices(kernel: Tensor) -> Tensor:
    """Return the slices of a kernel (O, I/g, *size) as rows (O I/g, taps) in float64.

    Example:
        >>> slices(torch.ones(8, 4, 3, 3)).shape
        torch.Size([32, 9])
    """
    return kernel.detach().to(torch.float64).flatten(2).flatten(0, 1)


def is_sparse(rows: Tensor) -> Tensor:
    """Return for each slice (n, taps) whether all taps are below 1 % of the largest; all are if the kernel is zero.

    Example:
        >>> is_sparse(torch.tensor([[1.0, 0.0], [0.0, 0.009]])).tolist()
        [False, True]
    """
    largest = rows.abs().amax(1)
    return (largest < SPARSE * largest.max()) | (largest.max() == 0)


def sparsity(rows: Tensor) -> float:
    """Return the share of sparse slices, see :func:`is_sparse`.

    Example:
        >>> sparsity(torch.tensor([[1.0, 0.0], [0.0, 0.009]]))
        0.5
    """
    return float(is_sparse(rows).double().mean())


def variance_entropy(rows: Tensor) -> float:
    r"""Return the entropy of the variance along the principal axes: :math:`H = -\sum_i p_i \log_{10} p_i`.

    :math:`p_i = s_i^2 / \sum_j s_j^2` with the singular values s of the slices minus their mean.

    Args:
        rows: slices (n, taps).

    Returns:
        Between 0, if all slices differ in one direction, and log10 of the number of taps, if in all to the same extent.

    Raises:
        UndefinedStatisticError: for a single slice, slices of one tap, or equal slices, which have no variance.

    Source: CNN Filter DB, CVPR 2022.

    Example:
        >>> rows = torch.cat([torch.eye(9), -torch.eye(9)]); round(variance_entropy(rows), 4), round(math.log10(9), 4)
        (0.9542, 0.9542)
    """
    if len(rows) < 2:
        raise UndefinedStatisticError('fewer than two slices have no variance')
    if rows.shape[1] == 1:
        raise UndefinedStatisticError('slices of one tap have no directions')
    rows = rows.detach().to(torch.float64)
    power = _squared_singular_values(rows - rows.mean(0))
    total = power.sum()
    # Slices that are equal differ by the rounding of their mean.
    if total <= rows.numel() * (torch.finfo(rows.dtype).eps * rows.abs().max()) ** 2:
        raise UndefinedStatisticError('equal slices have no variance')
    share = power / total
    return max(0.0, -float(torch.xlogy(share, share).sum()) / math.log(10))


def entropy_of_random(number: int) -> float:
    r"""Return T(n), the variance entropy of n random 3x3 slices: a logistic fit.

    :math:`T(n) = 1.2618 / (1 + e^{-0.8877 (\log_2 n - 2.3044)}) - 0.3105`

    Source: CNN Filter DB, CVPR 2022.

    Example:
        >>> [round(entropy_of_random(n), 4) for n in (9, 64, 1024)]
        [0.5515, 0.9056, 0.9499]
    """
    return 1.2618 / (1 + math.exp(-0.8877 * (math.log2(number) - 2.3044))) - 0.3105


def normalised_entropy(rows: Tensor) -> float:
    """Return the variance entropy relative to that of as many random slices, see :func:`entropy_of_random`.

    Args:
        rows: slices (n, taps).

    Returns:
        About 1 for random slices, less for redundant ones.

    Raises:
        UndefinedStatisticError: as :func:`variance_entropy`; and for other than 9 taps or fewer than three slices, to
            which T(n) was not fitted.

    Example:
        >>> round(normalised_entropy(torch.sin(torch.arange(288.0, dtype=torch.float64)).view(32, 9)), 4)
        0.3549
    """
    entropy = variance_entropy(rows)
    if rows.shape[1] != FITTED_TAPS:
        raise UndefinedStatisticError('T(n) was fitted to slices of 9 taps')
    if len(rows) < FITTED_SLICES:
        raise UndefinedStatisticError('T(n) is positive from three slices on')
    return entropy / entropy_of_random(len(rows))


def filter_orthogonality(kernel: Tensor, groups: int = 1) -> float:
    """Return 1 - mean |cos| over all pairs of different filters of a group; filters that are zero are left out.

    Args:
        kernel: (O, I/g, *size).
        groups: number g of channel groups; filters of different groups see different channels.

    Returns:
        1 for orthogonal filters, 0 for parallel ones.

    Raises:
        UndefinedStatisticError: if no group has two filters that are not zero.

    Source: CNN Filter DB, CVPR 2022.

    Example:
        >>> filter_orthogonality(torch.eye(4).view(4, 4, 1, 1)), filter_orthogonality(torch.ones(2, 1, 3, 3))
        (1.0, 0.0)
    """
    filters = _by_group(kernel, groups)
    largest = filters.abs().amax(2, keepdim=True)
    # Divided by the largest tap first, so that the squares of tiny filters do not vanish.
    filters = filters / largest.clamp_min(torch.finfo(filters.dtype).tiny)
    filters = filters / torch.linalg.vector_norm(filters, dim=2, keepdim=True).clamp_min(1.0)
    counts = (largest > 0).sum((1, 2))
    pairs = float((counts * (counts - 1)).sum())
    if not pairs:
        raise UndefinedStatisticError('no group has two filters that are not zero')
    cosines = (filters @ filters.mT).abs()
    off_diagonal = cosines.sum() - cosines.diagonal(dim1=1, dim2=2).sum()
    return min(1.0, max(0.0, 1 - float(off_diagonal) / pairs))


def spectral_norm(kernel: Tensor, groups: int = 1) -> float:
    """Return the largest singular value of the kernel as a matrix (O/g, I/g taps), the largest of all groups.

    Example:
        >>> spectral_norm(2 * torch.eye(4).view(4, 4, 1, 1))
        2.0
    """
    return math.sqrt(float(_squared_singular_values(_by_group(kernel, groups)).max()))


def stable_rank(kernel: Tensor, groups: int = 1) -> float:
    """Return |W|_F^2 / |W|_2^2 of the matrix W of the filters, with a block (O/g, I/g taps) for each group.

    Returns:
        Between 1 and O: the number of directions in which the layer is about as strong as in its strongest.

    Raises:
        UndefinedStatisticError: if the kernel is zero.

    Example:
        >>> stable_rank(torch.eye(4).view(4, 4, 1, 1)), stable_rank(torch.ones(4, 4, 1, 1))
        (4.0, 1.0)
    """
    power = _squared_singular_values(_scaled(_by_group(kernel, groups)))
    return max(1.0, float(power.sum() / power.max()))


def band_shares(kernel: Tensor) -> dict[str, float]:
    r"""Return the share of the kernel's energy in each band of frequencies.

    The frequency of a plane wave is the largest of its frequencies along the axes, in cycles per tap: ``low`` is below
    1/8, ``middle`` from 1/8 to 1/4, ``high`` from 1/4 to 1/2. The share of all frequencies below c is the integral of
    :math:`\sum |\hat K(f)|^2`, which is :math:`\sum_d r(d) \prod_a 2c\,\mathrm{sinc}(2 c d_a)` with the sum r of the
    autocorrelations of all slices, exactly.

    Args:
        kernel: (O, I/g, *size).

    Returns:
        Shares that sum to 1; for white noise in two axes, their areas 1/16, 3/16 and 3/4.

    Raises:
        UndefinedStatisticError: if the kernel is zero.

    Example:
        >>> delta = torch.zeros(1, 1, 3, 3); delta[..., 1, 1] = 1
        >>> {band: round(share, 4) for band, share in band_shares(delta).items()}
        {'low': 0.0625, 'middle': 0.1875, 'high': 0.75}
    """
    size = kernel.shape[2:]
    rows = _scaled(kernel.detach().to(torch.float64).flatten(0, 1))
    axes, padded = tuple(range(1, rows.dim())), [2 * k - 1 for k in size]
    power = sum(torch.fft.fftn(part, padded, axes).abs().square().sum(0) for part in rows.split(CHUNK))
    correlation = torch.fft.ifftn(power).real
    total = float(rows.square().sum())
    below = [0.0]
    for edge in EDGES[:-1]:
        weighted = correlation
        for axis, k in enumerate(size):
            lags = torch.cat([torch.arange(k), torch.arange(1 - k, 0)]).to(correlation)
            shape = [-1 if a == axis else 1 for a in range(len(size))]
            weighted = weighted * (2 * edge * torch.sinc(2 * edge * lags)).view(shape)
        below.append(min(1.0, max(below[-1], float(weighted.sum()) / total)))
    below.append(1.0)
    return {band: upper - lower for band, lower, upper in zip(BANDS, below, below[1:])}


def clean(kernel: Tensor) -> Tensor:
    """Return the kernel (O, I/g, *size) with zeros for its sparse slices.

    Example:
        >>> clean(torch.tensor([1.0, 0.001]).view(2, 1, 1, 1)).flatten().tolist()
        [1.0, 0.0]
    """
    keep = ~is_sparse(slices(kernel)).view(*kernel.shape[:2], *(1,) * (kernel.dim() - 2))
    return kernel * keep


def flags(sparse: float, normalised: float | None) -> list[str]:
    """Return what makes a layer look degenerate, by rules of thumb: many sparse slices, or redundant ones.

    Args:
        sparse: :func:`sparsity`.
        normalised: :func:`normalised_entropy`, or ``None`` where it is not defined.

    Source: thresholds after CNN Filter DB, CVPR 2022.

    Example:
        >>> flags(0.3, None), flags(0.0, 0.9)
        (['sparse'], [])
    """
    redundant = normalised is not None and normalised < LEAST_ENTROPY
    return ['sparse'] * (sparse > MOST_SPARSE) + ['redundant'] * redundant


def value_or_reason(statistic: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    """Return the value of a statistic and '', or ``None`` and the reason why it has none.

    Example:
        >>> value_or_reason(stable_rank, torch.zeros(2, 1, 3, 3))
        (None, 'the kernel is zero')
    """
    try:
        return statistic(*args), ''
    except UndefinedStatisticError as error:
        return None, str(error)


def _by_group(kernel: Tensor, groups: int) -> Tensor:
    """Return the filters (g, O/g, I/g taps) in float64."""
    return kernel.detach().to(torch.float64).flatten(1).unflatten(0, (groups, -1))


def _scaled(values: Tensor) -> Tensor:
    """Return values divided by the largest, so that squares of tiny kernels do not vanish."""
    largest = values.abs().max()
    if largest == 0:
        raise UndefinedStatisticError('the kernel is zero')
    return values / largest


def _squared_singular_values(matrix: Tensor) -> Tensor:
    """Return the squared singular values of matrices (..., r, c), from the smaller of their two Gram matrices."""
    wide = matrix.shape[-2] <= matrix.shape[-1]
    gram = matrix @ matrix.mT if wide else matrix.mT @ matrix
    return torch.linalg.eigvalsh(gram).clamp_min(0)
