"""Ranks of a low-rank convolution: as given, or the largest that keep a fraction of the plain kernel's weights."""

import math
from typing import Any

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments

Rank = int | float | tuple[int, int]


def tucker_ranks(rank: Rank, inputs: int, outputs: int, taps: int) -> tuple[int, int]:
    r"""Return the ranks (r_in, r_out) of a Tucker-2 decomposition of one channel group.

    With a fraction f they are those with the largest :math:`r_{in} r_{out}` for which :math:`r_{in} I + r_{in} r_{out}
    k^2 + r_{out} O \le f I O k^2`: of a kernel without structure :math:`r_{in} r_{out} / (I O)` of the energy is kept.
    So few input channels, as those of an image, are all kept.

    Args:
        rank: both ranks; or a fraction of the weights, in (0, 1]; or r_in and r_out.
        inputs: input channels I of the group.
        outputs: output channels O of the group.
        taps: number of taps of the kernel, :math:`k^2`.

    Returns:
        The ranks, each from 1 to the number of channels, and to :math:`k^2` times the other one: with more the kernel
        is the same.

    Example:
        >>> tucker_ranks(0.5, 256, 256, 9), tucker_ranks(96, 64, 256, 9), tucker_ranks(1.0, 256, 256, 9)
        ((146, 164), (64, 96), (215, 244))
    """
    if isinstance(rank, float):
        budget = int(rank * inputs * outputs * taps)
        pairs = (
            (first, min(max((budget - inputs * first) // (first * taps + outputs), 0), outputs))
            for first in range(1, inputs + 1)
        )
        rank = max((_lowered(*pair, taps) for pair in pairs), key=math.prod)
    first, last = rank if isinstance(rank, tuple) else (rank, rank)
    return _lowered(min(max(first, 1), inputs), min(max(last, 1), outputs), taps)


def _lowered(first: int, last: int, taps: int) -> tuple[int, int]:
    """Return the largest ranks that a core of this size can have."""
    return min(first, last * taps), min(last, first * taps)


def cp_rank(rank: int | float, sizes: tuple[int, ...]) -> int:
    r"""Return the number of terms of a sum of outer products.

    With a fraction f it is :math:`\lfloor f \prod_n s_n / \sum_n s_n \rfloor`.

    Args:
        rank: the number; or a fraction of the tensor's elements, in (0, 1].
        sizes: sizes :math:`s_n` of the tensor.

    Returns:
        The number, from 1 to the one with which every tensor of these sizes is such a sum.

    Example:
        >>> cp_rank(0.5, (256, 256, 9)), cp_rank(0.5, (256, 256, 3, 3)), cp_rank(99, (4, 8))
        (566, 569, 4)
    """
    number = int(rank * math.prod(sizes) / sum(sizes)) if isinstance(rank, float) else rank
    return min(max(number, 1), full_rank(sizes))


def full_rank(sizes: tuple[int, ...]) -> int:
    """Return a number of terms with which every tensor of these sizes is a sum of outer products.

    Example:
        >>> full_rank((8, 4, 3, 3))
        36
    """
    return math.prod(sizes) // max(sizes)


def checked_rank(rank: Any, pairs: bool) -> Rank:
    """Return the argument ``rank`` if it is valid: an integer >= 1, a fraction in (0, 1], or a pair of integers.

    Args:
        rank: the argument.
        pairs: whether it may be a pair.

    Raises:
        ValueError: if it is out of range, or a pair where there is one rank.
        TypeError: if it is something else.

    Example:
        >>> checked_rank([8, 16], pairs=True)
        (8, 16)
    """
    if isinstance(rank, (tuple, list)):
        if not pairs:
            raise ArgumentError(
                f"rank must be one number unless decomposition='tucker2', which alone has two, got {rank!r}"
            )
        return arguments.integers(rank, 2, 'rank', 1)
    if isinstance(rank, float):
        if not 0 < rank <= 1:
            raise ArgumentError(
                'rank must be in (0, 1] as a fraction of the weights of the plain kernel, or an integer >= 1, got '
                f'{rank!r}'
            )
        return rank
    return arguments.integer(rank, 'rank', 1)
