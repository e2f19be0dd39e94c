"""Size and dilation of super kernels, which determine how far the association reaches beyond a basic kernel.

Convolution of Convolution (CVPR 2022), section 3.2 "super kernel plus" and Figure 8: a super kernel is larger than the
basic kernel by ``kernel_plus``, and dilated so that it does not correlate every pair of taps.
"""

from itertools import count
from typing import NamedTuple

from mmkerv.errors import ArgumentError, EvenKernelError
from mmkerv.ops.core.arguments import integer, one_of

DILATE_MODES = (True, False, 'paper')


class SuperKernel(NamedTuple):
    """Size and dilation of a super kernel along one axis.

    Example:
        >>> SuperKernel(3, 2).extent
        5
    """

    size: int
    dilation: int

    @property
    def extent(self) -> int:
        """Span of the dilated kernel: dilation * (size - 1) + 1.

        Example:
            >>> SuperKernel(5, 3).extent
            13
        """
        return self.dilation * (self.size - 1) + 1


def super_kernel(kernel_size: int, kernel_plus: int = 2, dilate: bool | str = True) -> SuperKernel:
    """Choose the super kernel along one axis of a basic kernel.

    Dilated super kernels (size, dilation) come from one sequence of growing extent, (2m + 1, d) with d = m, m + 1,
    m + 2 for m = 1, 2, ...: (3,1) (3,2) (3,3) (5,2) (5,3) (5,4) (7,3) (7,4) (7,5) (9,4) ... with the extents 3 5 7 9 13
    17 19 25 31 33 ...

    * ``dilate=True``, the authors' practice: ``kernel_plus / 2`` steps after the first one whose extent exceeds
      ``kernel_size`` (for size 3: the one of extent 3). This reproduces their table for 3, 5 and 7 and extends it.
    * ``dilate='paper'``: the last one whose extent is at most ``kernel_size + kernel_plus``.
    * ``dilate=False``, or an axis of size 1: ``kernel_size + kernel_plus``, undilated.

    Args:
        kernel_size: size of the basic kernel along the axis; odd.
        kernel_plus: how much further the super kernel reaches than the basic one; even, >= 0.
        dilate: ``True``, ``'paper'`` or ``False``.

    Raises:
        ValueError: for an even ``kernel_size``, an odd or negative ``kernel_plus``, an unknown ``dilate``.

    Example:
        >>> [tuple(super_kernel(3, plus)) for plus in (0, 2, 4, 6)]
        [(3, 1), (3, 2), (3, 3), (5, 2)]
        >>> tuple(super_kernel(7, 2)), tuple(super_kernel(7, 2, 'paper')), tuple(super_kernel(7, 2, False))
        ((5, 3), (5, 2), (9, 1))
    """
    kernel_size = integer(kernel_size, 'kernel_size', 1)
    kernel_plus = integer(kernel_plus, 'kernel_plus', 0)
    one_of(dilate, 'dilate', DILATE_MODES)
    if kernel_size % 2 == 0:
        raise EvenKernelError(
            f'kernel_size must be odd for a super kernel to be centred on it, got {kernel_size}; '
            'use an odd size, or keep this layer a plain Conv2d'
        )
    if kernel_plus % 2:
        raise ArgumentError(f'kernel_plus must be even, got {kernel_plus}; use {kernel_plus - 1} or {kernel_plus + 1}')
    if dilate is False or kernel_size == 1:
        return SuperKernel(kernel_size + kernel_plus, 1)
    if dilate == 'paper':
        rung = 0
        while _rung(rung + 1).extent <= kernel_size + kernel_plus:
            rung += 1
        return _rung(rung)
    first = 0 if kernel_size == 3 else next(r for r in count() if _rung(r).extent > kernel_size)
    return _rung(first + kernel_plus // 2)


def _rung(index: int) -> SuperKernel:
    m = index // 3 + 1
    return SuperKernel(2 * m + 1, m + index % 3)
