"""Integer powers, y = t^n, that save only one tensor for the gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmkerv.ops.core.tracing import needs_plain_operations


def integer_power(t: Tensor, degree: int) -> Tensor:
    r"""Raise ``t`` to an integer power by repeated multiplication: :math:`y = t^n`.

    The base may be negative. Backward computes :math:`n t^{n-1}` and needs only ``t``.

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
    return _power(t, degree, torch.mul) if needs_plain_operations() else _IntegerPower.apply(t, degree)


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
    """Raise ``t`` to a power of at least 2; ``multiply`` may write into its first argument.

    Allocating a tensor for each product would cost more than the product, because new memory is not in the cache.
    """
    highest = 1
    while degree >> highest > 1:
        highest += 1
    # Binary exponentiation: square for each bit below the highest, and multiply by t if the bit is set.
    result = t * t
    for bit in range(highest - 1, -1, -1):
        if bit < highest - 1:
            result = multiply(result, result)
        if degree >> bit & 1:
            result = multiply(result, t)
    return result
