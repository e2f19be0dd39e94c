"""Convolution in the form that is fastest where the operators run.

On CPUs torch computes a depthwise convolution with a kernel of 15 or more columns by a slow path if the image is
contiguous, but not in the layout ``channels_last``: a forward of 31 x 31 takes 25 times as long. Only the number of
columns counts; 31 x 3 is fast, 3 x 31 is slow. The gradients of large kernels are slow in both layouts, and forward and
backward by Fourier transforms take a tenth of the time (``benchmarks/ops.py --large-kernels``). In float64
``channels_last`` is the slow layout.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _ntuple, _single

from mmkerv.ops.core.fft.convolution import fft_convolution
from mmkerv.ops.core.fft.cost_model import fft_is_cheaper, is_wide
from mmkerv.ops.core.geometry import memory_format
from mmkerv.ops.core.precision import convolution_type
from mmkerv.ops.core.tracing import is_traced_for_any_size, is_transformed

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# In torch 2.1 the gradients in channels_last take 3 times as long as in the contiguous layout, in 2.11 no longer.
FAST_GRADIENTS = tuple(int(number) for number in torch.__version__.split('.')[:2]) >= (2, 11)


def convolve(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Compute ``F.conv1d``, ``F.conv2d`` or ``F.conv3d``, whichever fits the kernel, in the fastest form.

    The output has the layout that torch's function would give it. By Fourier transforms, in training only, each output
    depends on the whole image, so a NaN or an infinite number makes the whole output of its channel NaN.

    Args:
        x: (N, C, *spatial), or without N.
        kernel: (O, C/groups, *size).
        bias: (O,).
        stride: step of the window, an integer or one for each axis.
        padding: zeros on each side, an integer or one for each axis.
        dilation: distance between the kernel's taps, an integer or one for each axis.
        groups: number of groups of channels.

    Returns:
        (N, O, *spatial').

    Example:
        >>> convolve(torch.randn(1, 8, 20, 20), torch.randn(8, 1, 17, 17), padding=8, groups=8).is_contiguous()
        True
    """
    dims = kernel.dim() - 2
    if is_faster_by_fft(x, kernel, stride, padding, dilation, groups):
        sides, steps = [(p, p) for p in _ntuple(dims)(padding)], _ntuple(dims)(dilation)
        if x.dim() == dims + 1:
            return fft_convolution(x[None], kernel, bias, sides, steps, groups)[0]
        return fft_convolution(x, kernel, bias, sides, steps, groups)
    return convolve_directly(x, kernel, bias, stride, padding, dilation, groups)


def convolve_directly(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Compute :func:`convolve` without Fourier transforms, in the fastest memory layout; the arguments are the same.

    Example:
        >>> convolve_directly(torch.ones(1, 8, 20), torch.ones(8, 1, 15), groups=8).shape
        torch.Size([1, 8, 6])
    """
    dims = kernel.dim() - 2
    if not is_slow_contiguous(x, kernel, groups):
        return CONVOLUTIONS[dims](x, kernel, bias, stride, padding, dilation, groups)
    if dims == 1:
        # Only images can be in channels_last.
        geometry = [(1, *_single(stride)), (0, *_single(padding)), (1, *_single(dilation))]
        return convolve_directly(x.unsqueeze(-2), kernel.unsqueeze(-2), bias, *geometry, groups).squeeze(-2)
    if x.dim() == 3:
        return convolve_directly(x[None], kernel, bias, stride, padding, dilation, groups)[0]
    x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, kernel, bias, stride, padding, dilation, groups).contiguous()


def is_faster_by_fft(x: Tensor, kernel: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Return ``True`` if forward and backward of a wide depthwise kernel on a CPU are faster by Fourier transforms.

    Args:
        x: (N, C, *spatial), or without N.
        kernel: (O, C/groups, *size).
        stride: step of the window, an integer or one for each axis.
        padding: zeros on each side, an integer or one for each axis.
        dilation: distance between the kernel's taps, an integer or one for each axis.
        groups: number of groups of channels.

    Example:
        >>> x, kernel = torch.randn(1, 8, 40, 40), torch.randn(8, 1, 31, 31, requires_grad=True)
        >>> is_faster_by_fft(x, kernel, 1, 15, 1, 8), is_faster_by_fft(x, kernel.detach(), 1, 15, 1, 8)
        (True, False)
    """
    if not _is_wide_on_cpu(x, kernel, groups) or not _needs_gradients(x, kernel) or not x.numel():
        return False
    if convolution_type(x) != convolution_type(kernel):
        # Fourier transforms would take them, torch's convolution refuses.
        return False
    dims = kernel.dim() - 2
    per_axis = _ntuple(dims)
    sides = [(p, p) for p in per_axis(padding)]
    shape = x.shape if x.dim() == dims + 2 else (1, *x.shape)
    return fft_is_cheaper(shape, kernel.shape, per_axis(stride), sides, per_axis(dilation), groups)


def is_slow_contiguous(x: Tensor, kernel: Tensor, groups: int) -> bool:
    """Return ``True`` if torch's convolution of ``x`` as it is would take several times as long as in channels_last.

    Args:
        x: (N, C, *spatial), or without N.
        kernel: (O, C/groups, *size).
        groups: number of groups of channels.

    Example:
        >>> x, kernel = torch.randn(1, 8, 20, 20), torch.randn(8, 1, 17, 17)
        >>> with torch.no_grad():
        ...     is_slow_contiguous(x, kernel, 8), is_slow_contiguous(x, kernel[..., :3], 8)
        (True, False)
    """
    if not _is_wide_on_cpu(x, kernel, groups) or memory_format(x) == torch.channels_last:
        return False
    return FAST_GRADIENTS or not _needs_gradients(x, kernel)


def _is_wide_on_cpu(x: Tensor, kernel: Tensor, groups: int) -> bool:
    # A recorded graph may run anywhere, and torch.func's transforms know no layouts.
    if is_traced_for_any_size() or is_transformed():
        return False
    if kernel.shape[0] != groups or not is_wide(kernel):
        return False
    return x.device.type == 'cpu' and x.dtype != torch.float64


def _needs_gradients(x: Tensor, kernel: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or kernel.requires_grad)
