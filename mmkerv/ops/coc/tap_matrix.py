"""The matrix of a super convolution over a tile: which tap of the super kernel joins two taps of the tile.

Convolution of Convolution: Let Kernels Spatially Collaborate (CVPR 2022), section 3.1, step (2).
"""

import torch
from torch import Tensor


def tap_selector(
    association: int, kernel_size: tuple[int, int], super_size: tuple[int, int], super_dilation: tuple[int, int]
) -> Tensor:
    """0/1 matrix that spreads a super kernel into the matrix of its convolution over a tile.

    A product instead of an indexed read: the gradient of the latter adds tap by tap, 30 ms for 128 super kernels on a
    CPU, and in no fixed order on a GPU.

    Returns:
        (skH * skW, T * T) with T = association**2 * kH * kW.

    Example:
        >>> matrix = torch.tensor([[1.0, 2.0, 4.0]]) @ tap_selector(1, (1, 3), (1, 3), (1, 1))
        >>> matrix.view(3, 3).tolist()
        [[2.0, 4.0, 0.0], [1.0, 2.0, 4.0], [0.0, 1.0, 2.0]]
    """
    table = tap_table(association, kernel_size, super_size, super_dilation).flatten()
    return torch.stack([table == tap for tap in range(super_size[0] * super_size[1])]).float()


def tap_table(
    association: int, kernel_size: tuple[int, int], super_size: tuple[int, int], super_dilation: tuple[int, int]
) -> Tensor:
    """For every pair of taps of a tile, which tap of the super kernel joins them.

    Taps are numbered filter by filter, (filter, row, column), T = association**2 * kH * kW of them.

    Returns:
        (T, T) integers: index of the super kernel's tap that carries column's tap into row's tap, or skH * skW, one
        past the last, where none does.

    Example:
        >>> tap_table(1, (1, 3), (1, 3), (1, 1)).tolist()
        [[1, 2, 3], [0, 1, 2], [3, 0, 1]]
    """
    axes = []
    for k, s, d in zip(kernel_size, super_size, super_dilation):
        place = torch.arange(association * k)
        offset = place[None, :] - place[:, None]
        tap = torch.div(offset, d, rounding_mode='floor') + s // 2
        axes.append(torch.where((offset % d == 0) & (tap >= 0) & (tap < s), tap, -1))
    rows, columns = axes
    # (row of tile, row of tap) x (column of tile, column of tap) -> (filter row, filter column, tap row, tap column)
    a, (kh, kw) = association, kernel_size
    rows = rows.view(a, 1, kh, 1, a, 1, kh, 1)
    columns = columns.view(1, a, 1, kw, 1, a, 1, kw)
    table = torch.where((rows >= 0) & (columns >= 0), rows * super_size[1] + columns, super_size[0] * super_size[1])
    return table.reshape(a * a * kh * kw, -1)
