"""Geometry of convolutions: padding, output sizes, and kernels of several sizes with a common centre."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _ntuple

from mmkerv.errors import ArgumentError, EvenKernelError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.tracing import is_compiling, is_transformed


def pad(
    x: Tensor,
    kernel_size: tuple[int, ...],
    padding: str | int | tuple[int, ...],
    dilation: int | tuple[int, ...],
    padding_mode: str = 'zeros',
) -> tuple[Tensor, tuple[int, ...]]:
    """Pad ``x`` (N, C, *spatial), unless the convolution can pad by itself.

    Returns:
        The input, and the padding left to the convolution.

    Example:
        >>> x, left = pad(torch.ones(1, 1, 4), (4,), 'same', 1)
        >>> tuple(x.shape), left
        ((1, 1, 7), (0,))
    """
    dims = len(kernel_size)
    if padding == 'valid':
        return x, (0,) * dims
    if padding == 'same':
        total = [d * (k - 1) for d, k in zip(_ntuple(dims)(dilation), kernel_size)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(p, p) for p in _ntuple(dims)(padding)]
    if padding_mode == 'zeros' and all(before == after for before, after in sides):
        return x, tuple(before for before, _ in sides)
    mode = 'constant' if padding_mode == 'zeros' else padding_mode
    # F.pad expects the last axis first.
    return F.pad(x, [side for axis in reversed(sides) for side in axis], mode=mode), (0,) * dims


def grouped(x: Tensor, axis: int, groups: int) -> Tensor:
    """View axis ``axis`` of ``x``, of size n, as two axes of sizes (groups, n / groups).

    Example:
        >>> grouped(torch.ones(2, 6, 5), 1, 3).shape
        torch.Size([2, 3, 2, 5])
    """
    # Not `unflatten`, which ONNX has from opset 13 on; mmdeploy's default is 11.
    return x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])


def memory_format(x: Tensor) -> torch.memory_format:
    """Return ``torch.channels_last`` for a tensor laid out like that and in no other way, else the contiguous format.

    Example:
        >>> memory_format(torch.ones(1, 2, 3, 3))
        torch.contiguous_format
    """
    # vmap has no answer for channels_last.
    if x.dim() != 4 or is_transformed():
        return torch.contiguous_format
    if is_compiling():
        # torch 2.1 cannot compile `is_contiguous` for sizes that change.
        _, c, h, w = x.shape
        channels_last = _has_strides(x, (h * w * c, 1, w * c, c)) and not _has_strides(x, (c * h * w, h * w, w, 1))
    else:
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _has_strides(x: Tensor, strides: tuple[int, ...]) -> bool:
    # The stride of an axis of one element has no meaning. A loop, since torch 2.1 cannot compile `all`.
    same = True
    for size, stride, expected in zip(x.shape, x.stride(), strides):
        same = same and (size == 1 or stride == expected)
    return same


def output_shape(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]] | None = None,
) -> list[int]:
    """Return the output shape (N, O, *spatial') for ``x`` (N, C, *spatial) with ``padding`` before and after.

    Raises:
        ValueError: if ``x`` is smaller than the kernel.

    Example:
        >>> output_shape(torch.empty(2, 3, 9, 9), torch.empty(8, 3, 3, 3), (2, 2), (1, 2))
        [2, 8, 4, 3]
    """
    extents = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation)]
    sizes = [n + sum(sides) for n, sides in zip(x.shape[2:], padding or [(0, 0)] * len(extents))]
    if any(size < extent for size, extent in zip(sizes, extents)):
        raise ArgumentError(
            f'x must be at least as large as the dilated kernel {tuple(extents)}, got {tuple(sizes)} with its '
            f'padding; pad it, or use a smaller kernel_size or dilation'
        )
    return [x.shape[0], weight.shape[0], *((n - e) // s + 1 for n, e, s in zip(sizes, extents, stride))]


def padded(
    x: Tensor,
    kernel_size: tuple[int, ...],
    padding: str | int | tuple[int, ...],
    dilation: int | tuple[int, ...],
    padding_mode: str = 'zeros',
) -> Tensor:
    """Pad ``x`` (N, C, *spatial) completely, so that the convolution itself needs no padding.

    Example:
        >>> padded(torch.ones(1, 1, 4), (3,), 1, 1).shape
        torch.Size([1, 1, 6])
    """
    x, left = pad(x, kernel_size, padding, dilation, padding_mode)
    return F.pad(x, [side for p in reversed(left) for side in (p, p)]) if any(left) else x


def centred(
    x: Tensor, size: Sequence[int], inner_dilation: int, kernel_size: Sequence[int], dilation: int | tuple[int, ...]
) -> Tensor:
    """Crop ``x``, padded for ``kernel_size``, to the region that a smaller kernel with the same centre reads.

    Args:
        x: input, (N, C, *spatial).
        size: size of the smaller kernel.
        inner_dilation: distance between its taps, in taps of the larger kernel.
        kernel_size: size of the larger kernel.
        dilation: dilation of the layer.

    Example:
        >>> centred(torch.ones(1, 1, 9), (1,), 1, (3,), 2).shape
        torch.Size([1, 1, 5])
    """
    margins = _margins(size, inner_dilation, kernel_size)
    for axis, (margin, d) in enumerate(zip(margins, _ntuple(len(margins))(dilation)), x.dim() - len(margins)):
        x = x.narrow(axis, margin * d, x.shape[axis] - 2 * margin * d)
    return x


def embedded(kernel: Tensor, dilation: int, kernel_size: Sequence[int]) -> Tensor:
    """Return ``kernel`` (O, I, *size), dilated and centred among zeros: (O, I, *kernel_size).

    Example:
        >>> embedded(torch.ones(1, 1, 2), 2, (5,)).flatten().tolist()
        [0.0, 1.0, 0.0, 1.0, 0.0]
    """
    margins = _margins(kernel.shape[2:], dilation, kernel_size)
    if dilation > 1:
        # Insert zeros between the taps without writing into a tensor, which torch.func could not batch.
        for axis in range(2, kernel.dim()):
            zeros = [torch.zeros_like(kernel)] * (dilation - 1)
            spread = torch.stack([kernel, *zeros], axis + 1).flatten(axis, axis + 1)
            kernel = spread.narrow(axis, 0, spread.shape[axis] - dilation + 1)
    return F.pad(kernel, [side for margin in reversed(margins) for side in (margin, margin)])


def _margins(size: Sequence[int], dilation: int, kernel_size: Sequence[int]) -> list[int]:
    extents = [dilation * (s - 1) + 1 for s in size]
    if any(k < e or (k - e) % 2 for k, e in zip(kernel_size, extents)):
        raise ArgumentError(
            f'a kernel of extent {tuple(extents)} cannot be centred in one of {tuple(kernel_size)}; the extents must '
            'differ by an even number'
        )
    return [(k - e) // 2 for k, e in zip(kernel_size, extents)]


def odd(sizes: tuple[int, ...], name: str = 'kernel_size') -> tuple[int, ...]:
    """Return the kernel sizes if all are odd, so that the kernel has a central tap.

    Raises:
        ValueError: otherwise.

    Example:
        >>> odd((7, 1))
        (7, 1)
    """
    if any(k % 2 == 0 for k in sizes):
        nearest = tuple(k + 1 - k % 2 for k in sizes)
        kind = EvenKernelError if name == 'kernel_size' else ArgumentError
        raise kind(f'{name} must be odd for a centred kernel, got {sizes}; use {nearest}')
    return sizes


def holds(extent: tuple[int, ...], size: tuple[int, ...], otherwise: str = '') -> None:
    """Refuse a ``kernel_extent`` that does not hold the basic kernel.

    Args:
        extent: size of the kernel that convolves.
        size: size of the basic kernel.
        otherwise: further advice.

    Raises:
        ValueError: if it is smaller along an axis.

    Example:
        >>> holds((7, 7), (3, 3))
        >>> holds((3, 3), (7, 7))
        Traceback (most recent call last):
        ...
        mmkerv.errors.ArgumentError: kernel_extent must be at least the kernel size (7, 7), got (3, 3); use (7, 7), \
or leave this layer plain with where
    """
    if any(k < s for k, s in zip(extent, size)):
        enough = tuple(map(max, extent, size))
        raise ArgumentError(
            f'kernel_extent must be at least the kernel size {tuple(size)}, got {tuple(extent)}; use '
            f'{enough}, or leave this layer plain with where{otherwise}'
        )


def extended_padding(kernel_size: Any, extent: Any, padding: Any, dilation: Any) -> str | tuple[int, int]:
    """Return the padding for which a kernel of another extent gives an output of the same size.

    Args:
        kernel_size: kernel size of the convolution to replace.
        extent: size of the new kernel, one integer or two.
        padding: padding of the convolution to replace.
        dilation: dilation of both.

    Raises:
        ValueError: if no such padding exists, because the sizes differ by an odd number, or it would be negative.

    Example:
        >>> extended_padding(3, (7, 1), 1, 1)
        (3, 0)
    """
    if padding == 'same':
        return padding
    sizes, extents, dilations = (
        arguments.integers(value, 2, name, 1)
        for value, name in ((kernel_size, 'kernel_size'), (extent, 'kernel_extent'), (dilation, 'dilation'))
    )
    paddings = (0, 0) if padding == 'valid' else arguments.padding_argument(padding, 2, (1, 1))
    result = []
    for size, wanted, before, step in zip(sizes, extents, paddings, dilations):
        grown = before + step * (wanted - size) // 2
        if step * (wanted - size) % 2 or grown < 0:
            raise ArgumentError(
                f'kernel_extent={extent} has no padding that keeps the output of kernel_size={kernel_size}, '
                f'padding={padding}, dilation={dilation} as large as it is; '
                + ('kernels of even size have none' if (wanted - size) % 2 else 'use a larger kernel_extent')
                + ': leave this layer out (where)'
            )
        result.append(grown)
    return tuple(result)
