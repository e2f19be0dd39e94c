"""Convolution in the memory layout that is fastest where the operators run.

On CPUs torch computes a depthwise convolution with a kernel of 15 or more columns by a slow path if the image is
contiguous, but not in the layout ``channels_last``: a forward of 31 x 31 takes 30 times as long
(``benchmarks/ops.py --large-kernels``). Only the number of columns counts; 31 x 3 is fast, 3 x 31 is slow. In float64
it is the other way round.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _single

from mmkerv.ops.core.geometry import memory_format
from mmkerv.ops.core.tracing import is_traced_for_any_size, is_transformed

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# Columns from which on the contiguous layout is slow.
WIDE = 15
# With fewer channels the gradients are slower in channels_last than what forward gains.
CHANNELS = 8
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
    """Compute ``F.conv1d``, ``F.conv2d`` or ``F.conv3d``, whichever fits the kernel, in the fastest layout.

    The output has the layout that torch's function would give it.

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
    if not is_slow_contiguous(x, kernel, groups):
        return CONVOLUTIONS[dims](x, kernel, bias, stride, padding, dilation, groups)
    if dims == 1:
        # Only images can be in channels_last.
        geometry = [(1, *_single(stride)), (0, *_single(padding)), (1, *_single(dilation))]
        return convolve(x.unsqueeze(-2), kernel.unsqueeze(-2), bias, *geometry, groups).squeeze(-2)
    if x.dim() == 3:
        return convolve(x[None], kernel, bias, stride, padding, dilation, groups)[0]
    x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, kernel, bias, stride, padding, dilation, groups).contiguous()


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
    # A recorded graph may run anywhere, and torch.func's transforms know no layouts.
    if is_traced_for_any_size() or is_transformed():
        return False
    if kernel.shape[0] != groups or not is_wide(kernel):
        return False
    if x.device.type != 'cpu' or x.dtype == torch.float64 or memory_format(x) == torch.channels_last:
        return False
    return FAST_GRADIENTS or not (torch.is_grad_enabled() and (x.requires_grad or kernel.requires_grad))


def is_wide(kernel: Tensor) -> bool:
    """Return ``True`` for a depthwise kernel (C, 1, *size) that torch convolves slowly in the contiguous layout.

    Example:
        >>> is_wide(torch.ones(8, 1, 3, 31)), is_wide(torch.ones(8, 1, 31, 3))
        (True, False)
    """
    channels, width, *size = kernel.shape
    return width == 1 and channels >= CHANNELS and len(size) <= 2 and size[-1] >= WIDE
