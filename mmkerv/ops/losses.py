"""Orthogonality losses of a convolution: at every shift of its stride, or of groups of its filters at shift 0."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.arguments import integer, one_of

MODES = ('inter', 'intra')


def orthogonality_loss(kernel: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
    r"""Compute the squared distance of a convolution's rows from orthonormality.

    :math:`L = \sum_{s} |\langle K_o, \mathrm{shift}_s K_{o'} \rangle - [o = o', s = 0]|^2`

    summed over all pairs of filters of a group and all shifts s, multiples of the stride, at which they overlap. For a
    1x1 kernel it is :math:`|W W^T - I|_F^2`. Filters of different groups are always orthogonal.

    Args:
        kernel: kernel of the convolution, (O, C/groups, kH, kW).
        stride: step of the window along each axis.
        dilation: distance between the kernel's taps along each axis.
        groups: number of groups of channels.

    Returns:
        A scalar >= 0. If it is 0, the convolution is an isometry on the orthogonal complement of its null space.

    Raises:
        ValueError: if the number of filters is not divisible by ``groups``.

    Source: Orthogonal Convolutional Neural Networks, CVPR 2020.

    Example:
        >>> delta = torch.zeros(1, 1, 3, 3); delta[..., 1, 1] = 1
        >>> float(orthogonality_loss(delta, (1, 1), (1, 1), 1)), float(orthogonality_loss(2 * delta, (1, 1), (1, 1), 1))
        (0.0, 9.0)
    """
    outputs = len(kernel)
    _check_groups(outputs, groups)
    filters = kernel.unflatten(0, (groups, -1))
    shifts = list(_shifts(kernel.shape[2:], stride, dilation))
    unreachable = 0
    if filters.shape[1] > filters.shape[2] and max(stride) == 1:
        # tr((M M^T)^2) = tr((M^T M)^2), and there are fewer columns than rows. The excess rows cannot be orthogonal.
        unreachable = outputs - groups * filters.shape[2]
        filters = filters.transpose(1, 2)
    loss = filters.new_tensor(float(unreachable))
    for shift in shifts:
        first, second = filters, filters
        for axis, s in enumerate(shift, start=3):
            overlap = kernel.shape[axis - 1] - abs(s)
            first = first.narrow(axis, max(s, 0), overlap)
            second = second.narrow(axis, max(-s, 0), overlap)
        products = first.flatten(2) @ second.flatten(2).mT
        if any(shift):
            # The opposite shift has the same products, transposed.
            loss = loss + 2 * products.square().sum()
        else:
            loss = (
                loss + (products - torch.eye(filters.shape[1], dtype=kernel.dtype, device=kernel.device)).square().sum()
            )
    return loss


def orthogonality_minimum(
    out_channels: int,
    in_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> int:
    r"""Return the least value of :func:`orthogonality_loss` for kernels of a given shape.

    :math:`g \, \max(0, O/g - (C/g) \prod_a \min(k_a, s_a / \gcd(s_a, d_a)))`

    with stride s and dilation d along each axis a: at every output position, that many filters of a group are more than
    the input has dimensions, and each of them is at a squared distance of 1 or more from any orthonormal system.

    Args:
        out_channels: number of filters O.
        in_channels: number of input channels C.
        kernel_size: number of taps along each axis.
        stride: step of the window along each axis.
        dilation: distance between the kernel's taps along each axis.
        groups: number of groups of channels.

    Returns:
        0 where a convolution of this shape can be orthogonal.

    Source: Orthogonal Convolutional Neural Networks, CVPR 2020, section 3.

    Example:
        >>> [orthogonality_minimum(8, 4, size, (2, 2), (1, 1), 1) for size in ((1, 1), (3, 3))]
        [4, 0]
    """
    steps = [min(k, s // math.gcd(s, d)) for k, s, d in zip(kernel_size, stride, dilation)]
    return groups * max(0, out_channels // groups - in_channels // groups * math.prod(steps))


def group_orthogonality_loss(kernel: Tensor, groups: int, number: int = 1, mode: str = 'inter') -> Tensor:
    r"""Compute the squared distance of sets of filters from orthonormality, at shift 0 only.

    :math:`L = \sum_j |W_j W_j^T - I|_F^2`

    The O/g filters of each channel group are divided into N groups of consecutive filters. With ``'inter'`` the rows of
    :math:`W_j` are the filters of one such group, with ``'intra'`` the i-th filters of all of them. Where a set has
    more filters r than a filter has weights c, the loss is computed as :math:`|W_j^T W_j - I|_F^2 + r - c`, its equal.
    ``number=1`` is the part of :func:`orthogonality_loss` at shift 0.

    Args:
        kernel: kernel of the convolution, (O, C/g, *size).
        groups: number g of groups of channels.
        number: N, >= 1; the largest divisor of O/g up to it is used, see :func:`filter_groups`.
        mode: ``'inter'`` or ``'intra'``.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: if the number of filters is not divisible by ``groups``, ``number`` is below 1, or for another mode.

    Source: group orthogonalization (GOR), BMVC 2023.

    Example:
        >>> kernel = torch.arange(16.0).view(4, 4, 1, 1) / 10
        >>> [round(float(group_orthogonality_loss(kernel, 1, 2, mode)), 3) for mode in ('inter', 'intra')]
        [102.032, 67.088]
    """
    one_of(mode, 'mode', MODES)
    _check_groups(len(kernel), groups)
    filters = kernel.flatten(1).unflatten(0, (groups, filter_groups(len(kernel) // groups, number), -1))
    if mode == 'intra':
        filters = filters.transpose(1, 2)
    sets, rows, columns = filters.shape[0] * filters.shape[1], *filters.shape[2:]
    wide = rows <= columns
    products = filters @ filters.mT if wide else filters.mT @ filters
    identity = torch.eye(min(rows, columns), dtype=kernel.dtype, device=kernel.device)
    return (products - identity).square().sum() + (0 if wide else sets * (rows - columns))


def group_orthogonality_minimum(
    out_channels: int, in_channels: int, kernel_size: Sequence[int], groups: int, number: int = 1, mode: str = 'inter'
) -> int:
    """Return the least value of :func:`group_orthogonality_loss`: the filters of each set beyond their dimensions.

    Args:
        out_channels: number of filters O.
        in_channels: number of input channels C.
        kernel_size: number of taps along each axis.
        groups: as in :func:`group_orthogonality_loss`.
        number: as in :func:`group_orthogonality_loss`.
        mode: as in :func:`group_orthogonality_loss`.

    Returns:
        0 where all sets can be orthonormal.

    Raises:
        ValueError: as :func:`group_orthogonality_loss`.

    Example:
        >>> [group_orthogonality_minimum(32, 4, (1, 1), 1, number) for number in (1, 4, 8)]
        [28, 16, 0]
    """
    one_of(mode, 'mode', MODES)
    _check_groups(out_channels, groups)
    sets = filter_groups(out_channels // groups, number)
    rows = out_channels // groups // sets
    if mode == 'intra':
        sets, rows = rows, sets
    return groups * sets * max(0, rows - in_channels // groups * math.prod(kernel_size))


def filter_groups(filters: int, number: int) -> int:
    """Return the largest divisor of ``filters`` that is at most ``number``.

    Raises:
        ValueError: if ``number`` is below 1.

    Example:
        >>> filter_groups(720, 32), filter_groups(3, 32), filter_groups(7, 4)
        (30, 3, 1)
    """
    integer(number, 'number', 1)
    return next(n for n in range(min(filters, number), 0, -1) if filters % n == 0)


def _check_groups(filters: int, groups: int) -> None:
    if filters % groups:
        raise ArgumentError(f'groups must divide the {filters} filters of the kernel, got {groups}')


def _shifts(size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the shifts, in taps, at which two filters overlap: 0 first, then one of each pair s and -s."""
    reach = [[s for s in range(k) if s * d % step == 0] for k, step, d in zip(size, stride, dilation)]
    zero = (0,) * len(reach)
    for shift in product(*([-s for s in reversed(axis) if s] + axis for axis in reach)):
        # Tuples compare lexicographically, so the first axis that is not 0 decides: exactly one of s and -s is above 0.
        if shift >= zero:
            yield shift
