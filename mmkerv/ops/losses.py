"""How far a convolution is from orthogonal rows: the self-convolution of its kernel at every shift of its stride."""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from mmkerv.errors import ArgumentError


def orthogonality_loss(kernel: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
    r"""Squared distance of a convolution's rows from orthonormal ones.

    :math:`L = \sum_{s} |\langle K_o, \mathrm{shift}_s K_{o'} \rangle - [o = o', s = 0]|^2`

    over all pairs of filters of a group and all shifts s that are multiples of the stride and at which the two overlap.
    For a 1x1 kernel that is :math:`|W W^T - I|_F^2`. Filters of different groups are orthogonal as they are.

    Args:
        kernel: (O, C/groups, kH, kW).
        stride: step of the window, for each axis.
        dilation: distance of the kernel's taps, for each axis.
        groups: blocks of channels.

    Returns:
        A scalar, >= 0; 0 says that the convolution keeps the length of what it does not map to 0.

    Raises:
        ValueError: if ``groups`` does not divide the filters.

    Source: Orthogonal Convolutional Neural Networks, CVPR 2020.

    Example:
        >>> delta = torch.zeros(1, 1, 3, 3); delta[..., 1, 1] = 1
        >>> float(orthogonality_loss(delta, (1, 1), (1, 1), 1)), float(orthogonality_loss(2 * delta, (1, 1), (1, 1), 1))
        (0.0, 9.0)
    """
    outputs = len(kernel)
    if outputs % groups:
        raise ArgumentError(f'groups must divide the {outputs} filters of the kernel, got {groups}')
    filters = kernel.unflatten(0, (groups, -1))
    shifts = list(_shifts(kernel.shape[2:], stride, dilation))
    unreachable = 0
    if filters.shape[1] > filters.shape[2] and max(stride) == 1:
        # tr((M M^T)^2) = tr((M^T M)^2), and of columns there are fewer; the rest is rows that cannot be orthogonal.
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


def _shifts(size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the shifts at which taps of two filters meet, in taps, one of each pair of opposite ones; 0 first."""
    reach = [[s for s in range(k) if s * d % step == 0] for k, step, d in zip(size, stride, dilation)]
    for shift in product(*([-s for s in reversed(axis) if s] + axis for axis in reach)):
        if shift >= (0,) * len(shift):
            yield shift
