"""Cost model that chooses between the direct form of a convolution and Fourier transforms."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mmkerv.ops.core.fft.convolution import transform_lengths

# Columns from which on the contiguous layout is slow.
WIDE = 15
# With fewer channels the gradients are slower in channels_last than what forward gains.
CHANNELS = 8


class Costs(NamedTuple):
    """Numbers of operations in forward of the two forms of a convolution, the inputs of the cost model.

    Args:
        dense: products of the direct form if not depthwise, else 0.
        depthwise: products of the direct form if depthwise, else 0.
        wide: products of the direct form if it is one of the depthwise kernels that a CPU computes in ``channels_last``
            (``is_wide``), else 0.
        transform: samples to transform, times the logarithm of their number.
        product: products of complex numbers.
        taps: values of the kernel.
        call: 1, for the constant cost of a call.

    Example:
        >>> costs((1, 1, 9), (1, 1, 3), [(0, 0)], (1,), 1).dense
        21
    """

    dense: float
    depthwise: float
    wide: float
    transform: float
    product: float
    taps: float
    call: float = 1.0


# Nanoseconds per count, for forward and backward, on one core (Intel Xeon, torch 2.11), as fitted by
# benchmarks/convolution_method.py. For 57 of its 60 shapes the chosen form is within 30 % of the faster one.
DIRECT = {'dense': 0.076, 'depthwise': 0.90, 'wide': 0.90, 'call': 6.8e5}
FFT = {'transform': 0.92, 'product': 1.9, 'taps': 7.6, 'call': 1.9e5}
# The same for forward alone: 63 of 64 shapes (AMD EPYC, torch 2.11). Those of training would choose Fourier transforms
# for depthwise 7x7 kernels, whose forward a CPU computes 8 times faster directly.
DIRECT_FORWARD = {'dense': 0.039, 'depthwise': 0.086, 'wide': 0.083, 'call': 2.3e5}
FFT_FORWARD = {'transform': 0.45, 'product': 1.1, 'taps': 4.1, 'call': 2.5e5}


def costs(
    shape: Sequence[int],
    kernel: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Costs:
    """Count the operations of a convolution of stride 1.

    Args:
        shape: shape of the input, (N, C, *spatial).
        kernel: shape of the kernel, (O, C/groups, *size).
        padding: zeros before and after, along each axis.
        dilation: distance between the kernel's taps, along each axis.
        groups: number of groups of channels.

    Example:
        >>> costs((1, 2, 9), (2, 1, 3), [(1, 1)], (1,), 2).depthwise
        54
    """
    (batch, channels, *sizes), (outputs, width, *taps) = shape, kernel
    extents = [d * (k - 1) + 1 for k, d in zip(taps, dilation)]
    outs = [max(n + before + after - k + 1, 0) for n, k, (before, after) in zip(sizes, extents, padding)]
    sums = batch * outputs * width * _product(taps) * _product(outs)
    lengths = transform_lengths(sizes, extents, padding)
    samples = _product(lengths)
    frequencies = samples // lengths[-1] * (lengths[-1] // 2 + 1)
    transforms = batch * (channels + outputs) + outputs * width
    depthwise = width == 1 and groups > 1
    wide = depthwise and outputs == groups and is_wide_shape(kernel)
    return Costs(
        dense=0 if depthwise else sums,
        depthwise=sums if depthwise and not wide else 0,
        wide=sums if wide else 0,
        transform=transforms * samples * math.log2(samples + 1),
        product=batch * outputs * width * frequencies,
        taps=outputs * width * _product(taps),
    )


def fft_is_cheaper(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
    gradients: bool = True,
) -> bool:
    """Return ``True`` if Fourier transforms are estimated to be cheaper; always ``False`` with a stride.

    The model was fitted on a CPU, see ``benchmarks/convolution_method.py``; on other devices it is less accurate.

    Args:
        shape: shape of the input, (N, C, *spatial).
        kernel: shape of the kernel, (O, C/groups, *size).
        stride: step of the window, along each axis.
        padding: zeros before and after, along each axis.
        dilation: distance between the kernel's taps, along each axis.
        groups: number of groups of channels.
        gradients: whether backward follows. The gradients of depthwise kernels are slow, their forward is fast.

    Example:
        >>> sequence = fft_is_cheaper((64, 30, 784), (30, 30, 784), (1,), [(783, 0)], (1,), 1)
        >>> image = fft_is_cheaper((2, 64, 56, 56), (64, 64, 3, 3), (1, 1), [(1, 1)] * 2, (1, 1), 1)
        >>> sequence, image
        (True, False)
    """
    for s in stride:
        if s != 1:
            return False
    return prefers_fft(costs(shape, kernel, padding, dilation, groups), gradients)


def prefers_fft(count: Costs, gradients: bool = True) -> bool:
    """Return ``True`` if Fourier transforms are estimated to be cheaper for these numbers of operations.

    Args:
        count: numbers of operations.
        gradients: see :func:`fft_is_cheaper`.

    Example:
        >>> count = costs((1, 64, 56, 56), (64, 1, 7, 7), [(3, 3)] * 2, (1, 1), 64)
        >>> prefers_fft(count), prefers_fft(count, gradients=False)
        (True, False)
    """
    fft, direct = (FFT, DIRECT) if gradients else (FFT_FORWARD, DIRECT_FORWARD)
    return nanoseconds(count, fft) < nanoseconds(count, direct)


def nanoseconds(count: Costs, prices: dict[str, float]) -> float:
    """Return the estimated time of these numbers of operations.

    Example:
        >>> nanoseconds(Costs(10, 0, 0, 0, 0, 0), {'dense': 2.0, 'call': 5.0})
        25.0
    """
    total = 0.0
    for name, price in prices.items():
        total += price * getattr(count, name)
    return total


def _product(numbers: Sequence[int]) -> int:
    # torch.compile does not trace math.prod.
    product = 1
    for number in numbers:
        product *= number
    return product


def is_wide(kernel: Tensor) -> bool:
    """Return ``True`` for a depthwise kernel (C, 1, *size) that torch convolves slowly in the contiguous layout.

    Example:
        >>> import torch
        >>> is_wide(torch.ones(8, 1, 3, 31)), is_wide(torch.ones(8, 1, 31, 3))
        (True, False)
    """
    return is_wide_shape(kernel.shape)


def is_wide_shape(shape: Sequence[int]) -> bool:
    """Return :func:`is_wide` of a kernel of this shape.

    Example:
        >>> is_wide_shape((8, 1, 17)), is_wide_shape((8, 2, 17, 17))
        (True, False)
    """
    channels, width, *size = shape
    return width == 1 and channels >= CHANNELS and len(size) <= 2 and size[-1] >= WIDE
