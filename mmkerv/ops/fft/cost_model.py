"""Cost model that chooses between the direct form of a convolution and Fourier transforms."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mmkerv.ops.fft.convolution import transform_lengths


class Costs(NamedTuple):
    """Counts of operations of the two forms of a convolution in forward, which the cost model weighs.

    Args:
        dense: products of the direct form, unless depthwise.
        depthwise: products of the direct form if depthwise.
        transform: samples to transform, times the logarithm of their number.
        product: products of complex numbers.
        taps: values of the kernel.
        call: 1.

    Example:
        >>> costs((1, 1, 9), (1, 1, 3), [(0, 0)], (1,), 1).dense
        21
    """

    dense: float
    depthwise: float
    transform: float
    product: float
    taps: float
    call: float = 1.0


# Nanoseconds for each count, forward and backward, on one core (Intel Xeon, torch 2.11), as fitted by
# benchmarks/convolution_method.py. For 57 of its 60 shapes the choice is within 30 % of the quicker form.
DIRECT = {'dense': 0.076, 'depthwise': 0.90, 'call': 6.8e5}
FFT = {'transform': 0.92, 'product': 1.9, 'taps': 7.6, 'call': 1.9e5}


def costs(
    shape: Sequence[int],
    kernel: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Costs:
    """Count the operations of a convolution of stride 1.

    Args:
        shape: of the input, (N, C, *spatial).
        kernel: shape of the kernel, (O, C/groups, *size).
        padding: zeros before and after, for each axis.
        dilation: distance of the kernel's taps, for each axis.
        groups: number of groups of channels.

    Example:
        >>> costs((1, 2, 9), (2, 1, 3), [(1, 1)], (1,), 2).depthwise
        54
    """
    (batch, channels, *sizes), (outputs, width, *taps) = shape, kernel
    extents = [d * (k - 1) + 1 for k, d in zip(taps, dilation)]
    out = math.prod(max(n + sum(sides) - k + 1, 0) for n, k, sides in zip(sizes, extents, padding))
    sums = batch * outputs * width * math.prod(taps) * out
    lengths = transform_lengths(sizes, extents, padding)
    samples = math.prod(lengths)
    frequencies = samples // lengths[-1] * (lengths[-1] // 2 + 1)
    transforms = batch * (channels + outputs) + outputs * width
    return Costs(
        dense=0 if width == 1 and groups > 1 else sums,
        depthwise=sums if width == 1 and groups > 1 else 0,
        transform=transforms * samples * math.log2(samples + 1),
        product=batch * outputs * width * frequencies,
        taps=outputs * width * math.prod(taps),
    )


def fft_is_cheaper(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> bool:
    """Tell whether Fourier transforms are the cheaper form; with a stride the direct form is always taken.

    The model was measured on a CPU, see ``benchmarks/convolution_method.py``; on other devices it is an estimate.

    Args:
        shape: of the input, (N, C, *spatial).
        kernel: shape of the kernel, (O, C/groups, *size).
        stride: step of the window, for each axis.
        padding: zeros before and after, for each axis.
        dilation: distance of the kernel's taps, for each axis.
        groups: number of groups of channels.

    Example:
        >>> sequence = fft_is_cheaper((64, 30, 784), (30, 30, 784), (1,), [(783, 0)], (1,), 1)
        >>> image = fft_is_cheaper((2, 64, 56, 56), (64, 64, 3, 3), (1, 1), [(1, 1)] * 2, (1, 1), 1)
        >>> sequence, image
        (True, False)
    """
    if any(s != 1 for s in stride):
        return False
    count = costs(shape, kernel, padding, dilation, groups)
    return _nanoseconds(count, FFT) < _nanoseconds(count, DIRECT)


def _nanoseconds(count: Costs, prices: dict[str, float]) -> float:
    return sum(price * getattr(count, name) for name, price in prices.items())
