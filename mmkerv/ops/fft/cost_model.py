"""Which form of a convolution is cheaper: the sum or Fourier transforms."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mmkerv.ops.fft.convolution import transform_lengths


class Costs(NamedTuple):
    """What the two forms of a convolution do, forward: counts that the cost model weighs.

    Args:
        dense: products of the sum, unless depthwise.
        depthwise: those of a depthwise sum.
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


# Nanoseconds for each count, forward and backward, on one core (Intel Xeon, torch 2.11), by the fit that
# benchmarks/convolution_method.py makes. Of its 60 shapes 57 get a form within 30 % of the quicker one.
DIRECT = {'dense': 0.076, 'depthwise': 0.90, 'call': 6.8e5}
FFT = {'transform': 0.92, 'product': 1.9, 'taps': 7.6, 'call': 1.9e5}


def costs(
    shape: Sequence[int],
    kernel: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Costs:
    """Count what a convolution of stride 1 costs.

    Args:
        shape: of the input, (N, C, *spatial).
        kernel: shape of the kernel, (O, C/groups, *size).
        padding: zeros before and after, for each axis.
        dilation: distance of the kernel's taps, for each axis.
        groups: blocks of channels.

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
    """Whether Fourier transforms are the cheaper form; with a stride the sum always is taken.

    The model was measured on a CPU, see ``benchmarks/convolution_method.py``; elsewhere it is an estimate.

    Args:
        shape: of the input, (N, C, *spatial).
        kernel: shape of the kernel, (O, C/groups, *size).
        stride: step of the window, for each axis.
        padding: zeros before and after, for each axis.
        dilation: distance of the kernel's taps, for each axis.
        groups: blocks of channels.

    Example:
        >>> sequence = fft_is_cheaper((64, 30, 784), (30, 30, 784), (1,), [(783, 0)], (1,), 1)
        >>> image = fft_is_cheaper((2, 64, 56, 56), (64, 64, 3, 3), (1, 1), [(1, 1)] * 2, (1, 1), 1)
        >>> sequence, image
        (True, False)
    """
    if any(s != 1 for s in stride):
        return False
    count = costs(shape, kernel, padding, dilation, groups)
    direct, fft = (sum(price * getattr(count, name) for name, price in prices.items()) for prices in (DIRECT, FFT))
    return fft < direct
