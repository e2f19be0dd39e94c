"""Integer powers that keep one tensor for the gradient: y = t^n."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmkerv.ops.core.precision import is_recording


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
    if degree == 1:
        return t
    return _power(t, degree, torch.mul) if is_recording() else _IntegerPower.apply(t, degree)


class _IntegerPower(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t: Tensor, degree: int) -> Tensor:
        ctx.save_for_backward(t)
        ctx.degree = degree
        return _power(t, degree, Tensor.mul_)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (t,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return grad * (ctx.degree * integer_power(t, ctx.degree - 1)), None
        nothing = t.new_zeros(())
        if ctx.degree == 2:
            return torch.addcmul(nothing, t, grad, value=2), None
        power = _power(t, ctx.degree - 1, Tensor.mul_)
        return torch.addcmul(nothing, power, grad, value=ctx.degree, out=power), None


def _power(t: Tensor, degree: int, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``t`` to a power of at least 2, in a tensor of its own; ``multiply`` may write into its first argument.

    A new tensor for every product would cost more than the product: its memory is new to the cache, and to the process.
    """
    place = 1
    while degree >> place > 1:
        place += 1
    # From the second highest bit of the degree down: square, and multiply where the bit is set.
    result = t * t
    for lower in range(place - 1, -1, -1):
        if lower < place - 1:
            result = multiply(result, result)
        if degree >> lower & 1:
            result = multiply(result, t)
    return result
