r"""The L1 distance in chunks of patches: :math:`y_{nop} = \sum_k |x_{np,k} - w_{ok}|` on every device.

The patches of a chunk are gathered, compared with all filters, and freed; backward gathers them again.
Source: Kervolutional Neural Networks, CVPR 2019, equation 9a.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmkerv.ops.core.geometry import output_shape

# Devices where the backward of cdist forms no (positions, filters, K) tensor. On CUDA it does.
FRUGAL_CDIST = {'cpu'}

# On a CPU larger chunks fall out of the caches: at 64 MiB the first stage of ResNet-50 takes a third longer.
CPU_CHUNK_MIB = 8.0


def chunked_distance(
    x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int, chunk_mib: float
) -> Tensor:
    """Compute :func:`mmkerv.ops.kerv.l1.l1_distance` in chunks, without its gradient.

    Example:
        >>> chunked_distance(torch.ones(1, 2, 3), torch.zeros(1, 2, 2), (1,), (1,), 1, 64.0)
        tensor([[[4., 4.]]])
    """
    y = x.new_empty(output_shape(x, weight, stride, dilation))
    windows, out = _windows(x, weight, stride, dilation, groups), _channels_last(y, groups)
    budget, filters = _elements(chunk_mib, x), _filters(weight, groups)
    for filter_block in _blocks(filters.shape[1:2], budget // 2 // (groups * math.prod(filters.shape[2:]))):
        w = filters[filter_block].flatten(2)
        for block in _blocks(out.shape[1:-1], (budget - w.numel()) // (groups * (w.shape[1] + w.shape[2]))):
            part = out[block][..., filter_block[-1]]
            # The distances get no name, which would keep them alive while the next ones are computed.
            part.copy_(torch.cdist(windows[block].reshape(groups, -1, w.shape[2]), w, p=1.0).view_as(part))
    return y


def chunked_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    chunk_mib: float,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of :func:`chunked_distance`; one that is not needed is an empty tensor.

    Example:
        >>> grad, x, w = torch.ones(1, 1, 2), torch.ones(1, 2, 3), torch.zeros(1, 2, 2)
        >>> chunked_gradients(grad, x, w, (1,), (1,), 1, 64.0, True, True)[0]
        tensor([[[1., 2., 1.],
                 [1., 2., 1.]]])
    """
    grad_x = torch.zeros_like(x) if need_x else x.new_empty(0)
    grad_weight = torch.zeros_like(weight) if need_weight else weight.new_empty(0)
    windows, out = _windows(x, weight, stride, dilation, groups), _channels_last(grad, groups)
    grad_windows = _windows(grad_x, weight, stride, dilation, groups) if need_x else None
    grad_filters = _filters(grad_weight, groups) if need_weight else None
    budget, filters = _elements(chunk_mib, x), _filters(weight, groups)
    frugal = x.device.type in FRUGAL_CDIST
    gradients = _cdist_gradients if frugal else _sign_gradients
    for filter_block in _blocks(filters.shape[1:2], budget // 4 // (groups * math.prod(filters.shape[2:]))):
        w = filters[filter_block].flatten(2)
        position = 2 * groups * (w.shape[1] + w.shape[2]) + (0 if frugal else w.numel())
        for block in _blocks(out.shape[1:-1], (budget - 2 * w.numel()) // position):
            patches = windows[block].reshape(groups, -1, w.shape[2])
            g = out[block][..., filter_block[-1]].reshape(groups, -1, w.shape[1])
            if need_weight:
                grad_filters[filter_block] += gradients(g, patches, w, of_weight=True).view_as(filters[filter_block])
            if need_x:
                _scatter(gradients(g, patches, w, of_weight=False), grad_windows[block], len(stride))
    return grad_x, grad_weight


def _cdist_gradients(g: Tensor, patches: Tensor, w: Tensor, of_weight: bool) -> Tensor:
    if of_weight:
        g, patches, w = g.transpose(1, 2), w, patches
    g = g.contiguous()
    # The last argument is the distances. For p = 1 they are not read, so the gradient is passed instead.
    return torch.ops.aten._cdist_backward(g, patches, w, 1.0, g)


def _sign_gradients(g: Tensor, patches: Tensor, w: Tensor, of_weight: bool) -> Tensor:
    pairs = patches.unsqueeze(2) - w.unsqueeze(1)
    pairs.sign_().mul_(g.unsqueeze(3))
    return pairs.sum(1).neg_() if of_weight else pairs.sum(2)


def _scatter(grad_patches: Tensor, grad_windows: Tensor, dims: int) -> None:
    # Windows overlap, but their elements at one tap do not: adding tap by tap is safe, and in a fixed order.
    grad_patches = grad_patches.view_as(grad_windows)
    for tap in itertools.product(*(range(k) for k in grad_windows.shape[-1 - dims : -1])):
        grad_windows[(..., *tap, slice(None))] += grad_patches[(..., *tap, slice(None))]


def _channels_last(x: Tensor, groups: int) -> Tensor:
    """View (N, C, *spatial) as (groups, N, *spatial, C/groups)."""
    return x.unflatten(1, (groups, x.shape[1] // groups)).movedim((1, 2), (0, -1))


def _filters(weight: Tensor, groups: int) -> Tensor:
    """View (O, C/groups, *kernel) as (groups, O/groups, *kernel, C/groups)."""
    return weight.unflatten(0, (groups, weight.shape[0] // groups)).movedim(2, -1)


def _windows(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
    """View (N, C, *spatial) as (groups, N, *out, *kernel, C/groups); channels come last because that copies fastest."""
    windows = _channels_last(x, groups)
    for axis, (k, s, d) in enumerate(zip(weight.shape[2:], stride, dilation), 2):
        windows = windows.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    return windows.movedim(2 + len(stride), -1)


def _elements(chunk_mib: float, x: Tensor) -> int:
    """Return the number of elements of ``x``'s type that a chunk may hold."""
    largest = min(chunk_mib, CPU_CHUNK_MIB) if x.device.type == 'cpu' else chunk_mib
    return int(largest * 2**20) // x.element_size()


def _blocks(sizes: Sequence[int], limit: int, index: tuple[slice, ...] = (slice(None),)) -> Iterator[tuple[slice, ...]]:
    """Yield indices, from axis 1 on, that divide ``sizes`` into blocks of at most ``limit`` elements, at least one."""
    if not sizes:
        yield index
        return
    step = max(1, limit // max(1, math.prod(sizes[1:])))
    for start in range(0, sizes[0], step):
        yield from _blocks(sizes[1:], limit, (*index, slice(start, start + step)))
