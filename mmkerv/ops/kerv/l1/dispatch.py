r"""L1 distance of every patch to every filter, :math:`y_{nop} = \sum_k |x_{np,k} - w_{ok}|`, in bounded memory.

Kervolutional Neural Networks, CVPR 2019, equation 9a. The distance has no convolution form, and the broadcast one needs
an (N, O, K, L) tensor, half a gigabyte for one image of ResNet-50's first stage. Four implementations avoid it:

- :mod:`mmkerv.ops.kerv.l1.triton_kernels` on CUDA;
- :mod:`mmkerv.ops.kerv.l1.compiled_cpu` in models that torch.compile compiles for a CPU;
- :mod:`mmkerv.ops.kerv.l1.chunked`, which gathers patches a chunk at a time, everywhere else;
- :mod:`mmkerv.ops.kerv.l1.by_taps` in graphs that must run without mmkerv, and for derivatives of the gradient.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.geometry import output_shape
from mmkerv.ops.core.tracing import is_compiling, is_traced_for_any_size
from mmkerv.ops.kerv.l1.by_taps import change_by_taps, distance_by_taps
from mmkerv.ops.kerv.l1.chunked import chunked_distance, chunked_gradients


def l1_distance(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    *,
    chunk_mib: float = 64.0,
) -> Tensor:
    r"""Compute the L1 distance of every patch of ``x`` to every filter.

    :math:`y_{nop} = \sum_k |x_{np,k} - w_{ok}|`, where k runs over the kernel's taps in the channels of o's group.

    The gradient is 0 where an element equals its weight; it is deterministic, and can be differentiated again. The
    Triton kernels run on CUDA with torch >= 2.6 unless deterministic algorithms are requested. The compiled loops run
    where torch.compile compiles the model for a CPU, with torch >= 2.6; the first call that is large enough compiles
    them, in a few seconds, and warns once if there is no C++ compiler. The chunked form runs everywhere else. All agree
    up to rounding.

    Args:
        x: (N, C, *spatial) with one, two or three spatial axes, already padded; float32 or float64.
        weight: (O, C/groups, *kernel), of the same type.
        stride: step of the window, one integer for each spatial axis.
        dilation: distance of the kernel's taps, one integer for each spatial axis.
        groups: number of groups of channels.
        chunk_mib: bound, in MiB, of the memory used beyond the arguments, the result and the gradients, > 0. One
            filter at one position is the smallest chunk, even if it exceeds the bound. A CPU uses 8 MiB at most,
            because more is slower. The compiled loops need copies of the input, the result and their gradients instead.

    Returns:
        (N, O, *out).

    Raises:
        ValueError: if ``chunk_mib`` is not a positive number, or ``x`` is smaller than the kernel.

    Source: Kervolutional Neural Networks, CVPR 2019, equation 9a.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> l1_distance(x, torch.zeros(1, 1, 2), stride=(1,), dilation=(1,))
        tensor([[[3., 6.]]])
    """
    if not 0 < chunk_mib < math.inf:
        raise ArgumentError(f'chunk_mib must be finite and > 0, got {chunk_mib!r}; leave it out for 64.0')
    if is_traced_for_any_size():
        return distance_by_taps(x, weight, stride, dilation, groups)
    geometry = list(stride), list(dilation), groups, chunk_mib
    # As an operator it is a single node for torch.compile; transforms of torch.func take only the function itself.
    return (
        torch.ops.mmkerv.l1_distance(x, weight, *geometry, True) if is_compiling() else _distances(x, weight, *geometry)
    )


def _distances(x: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    return _L1Distance.apply(x, weight, *geometry, False)


class _L1Distance(torch.autograd.Function):
    """Function that saves only the input and the weight: backward gathers the patches again."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        return torch.ops.mmkerv.l1_forward(x, weight, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, *ctx.geometry = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        compute = _L1Gradients.apply if torch.is_grad_enabled() else torch.ops.mmkerv.l1_backward
        gradients = compute(grad, x, weight, *ctx.geometry, *needs)
        return *(g if needed else None for g, needed in zip(gradients, needs)), *[None] * len(ctx.geometry)

    @staticmethod
    def jvp(ctx: Any, change_x: Tensor | None, change_weight: Tensor | None, *_: Any) -> Tensor:
        stride, dilation, groups = ctx.geometry[:3]
        return change_by_taps(*ctx.saved_tensors, change_x, change_weight, stride, dilation, groups)

    @staticmethod
    def vmap(info: Any, axes: tuple, x: Tensor, weight: Tensor, *geometry: Any) -> tuple[Tensor, int]:
        of_x, of_weight, *_ = axes
        size = info.batch_size
        if of_weight is None:
            y = _L1Distance.apply(x.movedim(of_x, 0).flatten(0, 1), weight, *geometry)
            return y.unflatten(0, (size, y.shape[0] // size)), 0
        stride, dilation, groups, *rest = geometry
        x, weight = _as_groups(x, of_x, size, 1), _as_groups(weight, of_weight, size, 0)
        y = _L1Distance.apply(x, weight, stride, dilation, groups * size, *rest)
        return y.unflatten(1, (size, -1)), 1


class _L1Gradients(torch.autograd.Function):
    """The gradients of :class:`_L1Distance`, linear in ``grad``; a gradient that is not needed is an empty tensor."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
        return torch.ops.mmkerv.l1_backward(grad, x, weight, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, x, weight, *ctx.options = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx: Any, *changes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, dilation, groups, *_ = ctx.options
        of_grad, of_x, of_weight = ctx.needs_input_grad[:3]
        needed = [change if need else None for change, need in zip(changes, ctx.options[-2:])]
        return (
            change_by_taps(x, weight, *needed, stride, dilation, groups) if of_grad else None,
            torch.zeros_like(x) if of_x else None,
            torch.zeros_like(weight) if of_weight else None,
            *[None] * len(ctx.options),
        )

    @staticmethod
    def jvp(ctx: Any, change: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if change is None:
            shapes = zip((x, weight), ctx.options[-2:])
            return tuple(torch.zeros_like(t) if need else t.new_zeros(0) for t, need in shapes)
        return _L1Gradients.apply(change, x, weight, *ctx.options)

    @staticmethod
    def vmap(info: Any, axes: tuple, grad: Tensor, x: Tensor, weight: Tensor, *options: Any) -> tuple[tuple, tuple]:
        stride, dilation, groups, *rest = options
        size = info.batch_size
        merged = (_as_groups(t, axis, size, at) for t, axis, at in zip((grad, x, weight), axes, (1, 1, 0)))
        gradients = _L1Gradients.apply(*merged, stride, dilation, groups * size, *rest)
        results = [
            (g.unflatten(at, (size, -1)), at) if n else (g, None) for g, n, at in zip(gradients, rest[-2:], (1, 0))
        ]
        return tuple(zip(*results))


def _as_groups(t: Tensor, axis: int | None, size: int, at: int) -> Tensor:
    """Merge the vmapped axis of ``t``, or as many copies if it has none, into axis ``at`` as further groups."""
    t = t.unsqueeze(at).expand(*t.shape[:at], size, *t.shape[at:]) if axis is None else t.movedim(axis, at)
    return t.flatten(at, at + 1)


def _implementation(x: Tensor, loop: bool) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]]:
    """Return the functions that compute the distance and its gradients; ``loop``: torch.compile compiles the model."""
    if x.is_cuda and torch.__version__ >= (2, 6) and importlib.util.find_spec('triton') is not None:
        # Triton supports no GPU older than Volta.
        supported = torch.cuda.get_device_capability(x.device) >= (7, 0)
        if supported and not torch.are_deterministic_algorithms_enabled():
            from mmkerv.ops.kerv.l1.triton_kernels import triton_distance, triton_gradients

            return triton_distance, triton_gradients
    if x.device.type == 'cpu' and loop and torch.__version__ >= (2, 6):
        from mmkerv.ops.kerv.l1.compiled_cpu import loop_distance, loop_gradients

        return loop_distance, loop_gradients
    return chunked_distance, chunked_gradients


def _distance(x: Tensor, *arguments: Any) -> Tensor:
    *geometry, loop = arguments
    return _implementation(x, loop)[0](x, *geometry)


def _gradients(grad: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *geometry, loop, need_x, need_weight = arguments
    return _implementation(x, loop)[1](grad, x, *geometry, need_x, need_weight)


def _distance_shape(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], *_: Any) -> Tensor:
    return x.new_empty(output_shape(x, weight, stride, dilation))


def _gradients_shape(grad: Tensor, x: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    grad_x, grad_weight = (
        torch.empty_like(t) if need else t.new_empty(0) for t, need in zip((x, weight), options[-2:])
    )
    return grad_x, grad_weight


# Registered as operators for torch.compile: it must not unroll the loop over chunks, whose length depends on the batch,
# and torch 2.1 cannot compile an autograd function with arguments that are not tensors.
_LIBRARY = torch.library.Library('mmkerv', 'FRAGMENT')
_ARGUMENTS = 'Tensor x, Tensor weight, int[] stride, int[] dilation, int groups, float chunk_mib, bool loop'
_LIBRARY.define(f'l1_distance({_ARGUMENTS}) -> Tensor')
_LIBRARY.define(f'l1_forward({_ARGUMENTS}) -> Tensor')
_LIBRARY.define(f'l1_backward(Tensor grad, {_ARGUMENTS}, bool need_x, bool need_weight) -> (Tensor, Tensor)')
_LIBRARY.impl('l1_distance', _L1Distance.apply, 'CompositeImplicitAutograd')
for _key, _forward, _backward in (
    ('CompositeExplicitAutograd', _distance, _gradients),
    ('Meta', _distance_shape, _gradients_shape),
):
    _LIBRARY.impl('l1_forward', _forward, _key)
    _LIBRARY.impl('l1_backward', _backward, _key)
