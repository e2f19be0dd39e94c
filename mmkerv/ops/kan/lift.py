"""Lift each channel of an image to B maps, one for each function of a basis, without keeping what they are made of."""

from typing import Any

import torch
from torch import Tensor

from mmkerv.ops.core.geometry import grouped, memory_format
from mmkerv.ops.core.precision import convolution_type, wide_type
from mmkerv.ops.core.tracing import needs_plain_operations
from mmkerv.ops.kan.bases import Basis, count, functions


def lift(x: Tensor, basis: Basis) -> Tensor:
    r"""Compute :math:`\Phi(x)`: the B functions of every channel, those of one channel next to each other.

    The functions are computed one after the other in float32 (float64 of float64), and stored in the type that
    convolutions compute in. For backward only x is kept.

    Args:
        x: (N, C, H, W), or without N.
        basis: the functions.

    Returns:
        (N, C * B, H, W).

    Example:
        >>> x = torch.randn(2, 3, 5, 5)
        >>> maps = lift(x, Basis('spline', 3, 5, -2.0, 2.0)); maps.shape
        torch.Size([2, 24, 5, 5])
    """
    if not needs_plain_operations():
        return _Lift.apply(x, basis)
    axis, dtype = x.dim() - 2, convolution_type(x)
    maps = [values.to(dtype) for values in functions(x.to(wide_type(x.dtype)), basis)]
    return torch.stack(maps, axis).flatten(axis - 1, axis)


class _Lift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, basis: Basis) -> Tensor:
        ctx.save_for_backward(x)
        ctx.basis = basis
        # The functions have the axis behind that of the channels.
        axis, number, dtype = x.dim() - 2, count(basis), convolution_type(x)
        if memory_format(x) is torch.channels_last:
            samples, channels, *sides = x.shape
            maps = x.new_empty(samples, *sides, channels, number, dtype=dtype).permute(0, 3, 4, 1, 2)
        else:
            maps = x.new_empty(*x.shape[:axis], number, *x.shape[axis:], dtype=dtype)
        for index, values in enumerate(functions(x.to(wide_type(x.dtype)), basis)):
            maps.select(axis, index).copy_(values)
        return maps.flatten(axis - 1, axis)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        axis, twice, total = x.dim() - 2, torch.is_grad_enabled(), None
        grads = grouped(grad, axis - 1, x.shape[axis - 1])
        with torch.enable_grad():
            wide = (x if twice else x.detach()).to(wide_type(x.dtype))
            wide = wide if twice else wide.requires_grad_()
            for index, values in enumerate(functions(wide, ctx.basis)):
                # The constant polynomial has no gradient.
                if values.requires_grad:
                    own = grads.select(axis, index).to(wide.dtype)
                    (part,) = torch.autograd.grad(values, wide, own, retain_graph=True, create_graph=twice)
                    total = part if total is None else total + part
        return total.to(x.dtype), None
