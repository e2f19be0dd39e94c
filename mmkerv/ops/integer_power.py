"""Integer powers that keep one tensor for the gradient: y = t^n."""

import torch
from torch import Tensor


def integer_power(t: Tensor, degree: int) -> Tensor:
    r"""Raise ``t`` to an integer power by repeated multiplication: :math:`y = t^n`.

    A negative base is as good as any other, and the gradient :math:`n t^{n-1}` keeps ``t`` alone.

    Args:
        t: tensor of any shape.
        degree: n >= 1.

    Source: Kervolutional Neural Networks, CVPR 2019, equation 10, whose degree is a positive integer.

    Example:
        >>> integer_power(torch.tensor([-2.0, 3.0]), 3)
        tensor([-8., 27.])
    """
    return t if degree == 1 else _IntegerPower.apply(t, degree)


class _IntegerPower(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t: Tensor, degree: int) -> Tensor:
        ctx.save_for_backward(t)
        ctx.degree = degree
        return _power(t, degree)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (t,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return grad * (ctx.degree * integer_power(t, ctx.degree - 1)), None
        slope = t * ctx.degree if ctx.degree == 2 else _power(t, ctx.degree - 1).mul_(ctx.degree)
        return slope.mul_(grad), None


def _power(t: Tensor, degree: int) -> Tensor:
    """``t`` to a power of at least 2, in a tensor of its own."""
    result = t * t
    for place, bit in enumerate(bin(degree)[3:]):
        if place:
            result.mul_(result)
        if bit == '1':
            result.mul_(t)
    return result
