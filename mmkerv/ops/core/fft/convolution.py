"""Convolution by Fourier transforms, for kernels so large that these are cheaper than the direct form."""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.fft.circular import circular_convolution
from mmkerv.ops.core.geometry import memory_format, output_shape
from mmkerv.ops.core.precision import convolution_type, full_precision
from mmkerv.ops.core.tracing import is_compiling


def fft_convolution(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    r"""Convolve with stride 1 in the frequency domain: :math:`y = F^{-1}(F x \cdot F k') + b`.

    k' is the reversed kernel. The result is that of ``F.conv1d`` and ``F.conv2d`` (a cross-correlation), computed in
    float32 at least, at a cost of O(n log n) in the number n of samples. All sizes are padded to lengths that transform
    quickly. The product over channels is one matrix product per frequency.

    Args:
        x: (N, C, *spatial).
        kernel: (O, C/groups, *size).
        bias: (O,) or ``None``.
        padding: zeros before and after, along each axis.
        dilation: distance between the kernel's taps, along each axis.
        groups: number of groups of channels.

    Returns:
        (N, O, *spatial'), in the type that a convolution would return.

    Raises:
        ValueError: if the padded input is smaller than the kernel.

    Example:
        >>> x, k = torch.randn(2, 4, 50), torch.randn(6, 4, 31)
        >>> y = fft_convolution(x, k, None, [(15, 15)], (1,), 1)
        >>> bool(torch.allclose(y, F.conv1d(x, k, padding=15), atol=1e-4))
        True
    """
    dims = len(padding)
    result_type = convolution_type(x)
    # A copy frees the transform's padding, and gives later layers the memory format they expect.
    layout = memory_format(x)
    dtype = torch.float64 if kernel.dtype == torch.float64 else torch.float32
    with full_precision(x.device):
        x, kernel = x.to(dtype), kernel.to(dtype)
        if kernel.shape[1] * groups != x.shape[1] or len(kernel) % groups:
            raise ArgumentError(f'x has {x.shape[1]} channels, the kernel takes {kernel.shape[1] * groups}')
        kernel = _dilated(kernel, dilation)
        # Only zeros beyond the kernel's reach have to be added here; the transform's own padding provides the others.
        excess = [(max(b - k + 1, 0), max(a - k + 1, 0)) for (b, a), k in zip(padding, kernel.shape[2:])]
        if any(map(any, excess)):
            x = F.pad(x, [side for axis in reversed(excess) for side in axis])
            padding = [(b - eb, a - ea) for (b, a), (eb, ea) in zip(padding, excess)]
        shape = output_shape(x, kernel, (1,) * dims, (1,) * dims, padding)
        lengths = transform_lengths(x.shape[2:], kernel.shape[2:], padding)
        y = circular_convolution(x, kernel, [before for before, _ in padding], shape[2:], lengths, groups)
        if bias is not None:
            y = y + bias.to(dtype).view(-1, *(1,) * dims)
        return y.to(result_type).contiguous(memory_format=layout)


def transform_lengths(sizes: Sequence[int], kernel: Sequence[int], padding: Sequence[tuple[int, int]]) -> list[int]:
    """Return transform lengths for which the circular convolution wraps around only outside the output.

    Args:
        sizes: size of the input along each axis.
        kernel: extent of the dilated kernel along each axis.
        padding: zeros before and after, at most ``kernel - 1`` each; both sides share the space of the larger.

    Example:
        >>> transform_lengths((784,), (784,), [(783, 0)])
        [1568]
    """
    return [fast_length(max(n + max(sides), k)) for n, k, sides in zip(sizes, kernel, padding)]


def fast_length(length: int) -> int:
    """Return the smallest even number >= ``length`` without prime factors above 7 (1 for 1).

    Example:
        >>> fast_length(1), fast_length(11), fast_length(1567)
        (1, 12, 1568)
    """
    return _fast_length(length) if is_compiling() else _cached_length(length)


def _fast_length(length: int) -> int:
    if length <= 2:
        return length
    length += length % 2
    while not _smooth(length):
        length += 2
    return length


_cached_length = lru_cache(4096)(_fast_length)


def _smooth(number: int) -> bool:
    for prime in (2, 3, 5, 7):
        while number % prime == 0:
            number //= prime
    return number == 1


def _dilated(kernel: Tensor, dilation: Sequence[int]) -> Tensor:
    if all(d == 1 for d in dilation):
        return kernel
    sizes = [d * (k - 1) + 1 for k, d in zip(kernel.shape[2:], dilation)]
    spread = kernel.new_zeros(*kernel.shape[:2], *sizes)
    spread[(..., *(slice(None, None, d) for d in dilation))] = kernel
    return spread
