r"""The L1 distance by torch's operations alone, and its change: :math:`y_{nop} = \sum_k |x_{np,k} - w_{ok}|`.

The taps of the kernel are added one at a time, each as an (N, O, C/groups, *out) tensor.
Source: Kervolutional Neural Networks, CVPR 2019, equation 9a.
"""

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor

from mmkerv.ops.core.geometry import grouped, output_shape


def distance_by_taps(
    x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int = 1
) -> Tensor:
    r"""Compute :func:`mmkerv.ops.kerv.l1.l1_distance` for graphs that run without mmkerv.

    Example:
        >>> import torch
        >>> distance_by_taps(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.zeros(1, 1, 2), (1,), (1,))
        tensor([[[3., 6.]]])
    """
    total = x.new_zeros(())
    sizes = output_shape(x, weight, stride, dilation)[2:]
    for elements, values in zip(_elements(x, weight, stride, dilation, groups, sizes), _values(weight, groups)):
        total = total + (elements - values).abs().sum(3)
    return total.flatten(1, 2)


def change_by_taps(
    x: Tensor,
    weight: Tensor,
    change_x: Tensor | None,
    change_weight: Tensor | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    r"""Compute the change of the distance with its arguments, its directional derivative.

    :math:`\dot y_{nop} = \sum_k \mathrm{sign}(x_{np,k} - w_{ok}) (\dot x_{np,k} - \dot w_{ok})`

    Args:
        x: (N, C, *spatial).
        weight: (O, C/groups, *kernel).
        change_x: change of x, or ``None`` for 0.
        change_weight: change of the weight, or ``None`` for 0.
        stride: step of the window, along each axis.
        dilation: distance between the kernel's taps, along each axis.
        groups: number of groups of channels.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> change_by_taps(x, torch.zeros(1, 1, 2), x, None, (1,), (1,))
        tensor([[[3., 6.]]])
    """
    shape = output_shape(x, weight, stride, dilation)
    geometry = weight, stride, dilation, groups, shape[2:]
    of_x = itertools.repeat(None) if change_x is None else _elements(change_x, *geometry)
    of_weight = itertools.repeat(None) if change_weight is None else _values(change_weight, groups)
    total = x.new_zeros(())
    for elements, values, dx, dw in zip(_elements(x, *geometry), _values(weight, groups), of_x, of_weight):
        if dx is not None or dw is not None:
            change = dx if dw is None else -dw if dx is None else dx - dw
            total = total + ((elements - values).sign() * change).sum(3)
    return total.flatten(1, 2) if total.dim() else x.new_zeros(shape)


def _elements(
    x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int, sizes: Sequence[int]
) -> Iterator[Tensor]:
    """Yield the elements of all patches at one tap of the kernel after the other, (N, groups, 1, C/groups, *out)."""
    x = grouped(x, 1, groups).unsqueeze(2)
    for tap in _taps(weight):
        # In two steps: torch.export cannot derive the length of a slice with a step and an end.
        strided = x[(..., *(slice(t * d, None, s) for t, d, s in zip(tap, dilation, stride)))]
        yield strided[(..., *(slice(n) for n in sizes))]


def _values(weight: Tensor, groups: int) -> Iterator[Tensor]:
    """Yield the weights of all filters at one tap after the other, (groups, O/groups, C/groups, 1, ...)."""
    filters = grouped(weight, 0, groups)
    for tap in _taps(weight):
        yield filters[(..., *tap)].reshape(*filters.shape[:3], *(1,) * len(tap))


def _taps(weight: Tensor) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, weight.shape[2:]))
