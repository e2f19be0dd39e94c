"""Input, result and gradients of a convolution as lines of memory in which every tap of the kernel is one shift.

The first axis leads, then the batch, then the other axes; what is beside an image stands in the gaps between them. So
one loop over positions serves 1-D, 2-D and 3-D, any stride and any batch. Positions that wrap around an axis are
computed too, and left out when the result is read.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from mmkerv.ops.core.base import output_shape

# An offset that is 0 or 1 when first met would become a constant of the compiled code.
LEAD = 2


class Layout(NamedTuple):
    """Where the elements of an input lie, step of the stride by step."""

    stride: Sequence[int]
    # Elements (steps of the stride) that each spatial axis is padded to, and their number times the batch.
    cells: list[int]
    phase: int
    # For each tap, which of the stride's phases it reads, and by how much it is shifted there.
    taps: list[tuple[int, int]]
    # Positions computed, those that wrap around an axis included.
    length: int

    @property
    def reach(self) -> int:
        """How far the last tap is shifted."""
        return max(shift for _, shift in self.taps)

    @property
    def starts(self) -> list[int]:
        """Where each tap begins to read."""
        return [LEAD + phase * self.phase + shift for phase, shift in self.taps]


def layout_of(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Layout:
    """Lay out an input (N, C, *spatial) for a weight (O, C/groups, *kernel).

    Example:
        >>> import torch
        >>> layout_of(torch.ones(2, 1, 3, 4), torch.ones(1, 1, 2, 2), (1, 1), (1, 1)).taps
        [(0, 0), (0, 1), (0, 8), (0, 9)]
    """
    n, cells = x.shape[0], [-(-size // s) for size, s in zip(x.shape[2:], stride)]
    pitches = [math.prod(cells[axis + 1 :]) * (n if axis == 0 else 1) for axis in range(len(cells))]
    taps = []
    for tap in itertools.product(*(range(k) for k in weight.shape[2:])):
        phase = shift = 0
        for t, d, s, pitch in zip(tap, dilation, stride, pitches):
            phase, shift = phase * s + t * d % s, shift + t * d // s * pitch
        taps.append((phase, shift))
    length = output_shape(x, weight, stride, dilation)[2] * pitches[0]
    return Layout(stride, cells, cells[0] * pitches[0], taps, length)


def flat_input(x: Tensor, groups: int, layout: Layout) -> Tensor:
    """Write ``x`` (N, C, *spatial) as lines (groups, C/groups, positions), zeros in the gaps."""
    size = LEAD + math.prod(layout.stride) * layout.phase + layout.reach
    flat = x.new_zeros(groups, x.shape[1] // groups, size)
    for image, part in phases(x, flat, groups, layout):
        image_of(part, image, layout).copy_(image)
    return flat


def phases(x: Tensor, flat: Tensor, groups: int, layout: Layout) -> Iterator[tuple[Tensor, Tensor]]:
    """The elements of ``x`` (N, C, *spatial) that each phase of the stride meets, and their part of ``flat``."""
    image = x.unflatten(1, (groups, -1))
    for phase, first in enumerate(itertools.product(*(range(s) for s in layout.stride))):
        start = LEAD + phase * layout.phase
        every = (slice(i, None, s) for i, s in zip(first, layout.stride))
        yield image[(..., *every)], flat[..., start : start + layout.phase]


def image_of(flat: Tensor, like: Tensor, layout: Layout) -> Tensor:
    """View (G, C, positions) as (N, G, C, *spatial), without the padding that ``like`` has not."""
    image = flat.unflatten(-1, (-1, like.shape[0], *layout.cells[1:])).movedim(3, 0)
    return image[(..., *(slice(size) for size in like.shape[3:]))]
