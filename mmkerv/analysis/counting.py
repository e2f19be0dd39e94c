"""Counting of multiply-adds by mmengine, of what the operators compute when they are not exported."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn

from mmkerv.ops.core.dynamic import exported_as


@contextmanager
def counted(network: nn.Module, inputs: Tensor) -> Iterator[FlopAnalyzer]:
    """Count the multiply-adds of ``network(inputs)``, those of Fourier transforms too: n log2 n for n numbers.

    mmengine counts in a trace, in which operators whose kernel depends on the image have a form of their own; it is
    the one with as many products as they have.

    Example:
        >>> import torch
        >>> with counted(nn.Linear(3, 2), torch.ones(1, 3)) as counts:
        ...     counts.total()
        6
    """
    analyzer = FlopAnalyzer(network, (inputs,))
    for name in ('fft_rfft2', 'fft_irfft2'):
        analyzer.set_op_handle(f'aten::{name}', _transform)
    with exported_as(network, 'unfold'):
        yield analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)


def _transform(inputs: list[Any], outputs: list[Any]) -> int:
    """Return n log2 n for each of the real matrices; the last two axes are transformed."""
    sizes = [value.type().sizes() for value in (inputs[0], outputs[0])]
    *_, rows, columns = real = max(sizes, key=math.prod)
    n = rows * columns
    return math.prod(real) // n * round(n * math.log2(max(n, 2)))
