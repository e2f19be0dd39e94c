"""Counting of multiply-adds by mmengine, of what the operators compute when they are not exported."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn

from mmkerv.ops.core.dynamic import exported_as

# Autograd functions of mmcv, and which of their tensors the kernel is.
DEFORMABLE = {'DeformConv2dFunction': 2, 'ModulatedDeformConv2dFunction': 3}


@contextmanager
def counted(network: nn.Module, inputs: Tensor) -> Iterator[FlopAnalyzer]:
    """Count the multiply-adds of ``network(inputs)``.

    Beside what mmengine counts: Fourier transforms as n log2 n for n numbers, attention as its two products, and
    deformable convolutions as plain ones, without the interpolation.

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
    analyzer.set_op_handle('aten::scaled_dot_product_attention', _attention)
    for name, weight in DEFORMABLE.items():
        analyzer.set_op_handle(f'prim::PythonOp.{name}', partial(_deformable, weight=weight))
    with exported_as(network, 'unfold'):
        yield analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)


def _transform(inputs: list[Any], outputs: list[Any]) -> int:
    """Return n log2 n for each of the real matrices; the last two axes are transformed."""
    sizes = [value.type().sizes() for value in (inputs[0], outputs[0])]
    *_, rows, columns = real = max(sizes, key=math.prod)
    n = rows * columns
    return math.prod(real) // n * round(n * math.log2(max(n, 2)))


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Return the products of attention: queries by keys, (..., L, E) by (..., S, E), and the weights by the values."""
    queries, keys, values = (value.type().sizes() for value in inputs[:3])
    return math.prod(queries[:-1]) * keys[-2] * (queries[-1] + values[-1])


def _deformable(inputs: list[Any], outputs: list[Any], weight: int) -> int:
    """Return the products of a deformable convolution, each output by the taps of its filter."""
    return math.prod(outputs[0].type().sizes()) * math.prod(inputs[weight].type().sizes()[1:])
