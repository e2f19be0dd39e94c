"""|x_i - w|^2 of every patch and filter by convolutions, without forming a patch."""

import torch
from torch import Tensor

from .precision import exact_convolution


def box_sum(
    x: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    r"""Squared norm of every patch, :math:`|x_i|^2`, one for each group of channels.

    Args:
        x: (N, C, *spatial).
        kernel_size: extent of a patch, one integer for each axis.
        stride: step of the window, likewise.
        padding: zeros on each side, likewise.
        dilation: distance of the kernel's taps, likewise.
        groups: blocks of channels.

    Returns:
        (N, groups, *spatial').

    Example:
        >>> box_sum(torch.ones(1, 4, 3, 3), (3, 3), (1, 1), (0, 0), (1, 1), 2).flatten()
        tensor([18., 18.])
    """
    squares = _SumOfSquares.apply(_grouped(x, groups), 2)
    ones = x.new_ones(groups, 1, *kernel_size)
    return exact_convolution(squares, ones, None, stride, padding, dilation, groups)


def squared_distance(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    r"""Squared distance of every patch from every filter: :math:`d^2 = |x_i|^2 - 2 \langle x_i, w \rangle + |w|^2`.

    Rounding never makes it negative. Its gradient keeps nothing but ``x`` and ``weight``.

    Args:
        x: (N, C, *spatial), float32 or float64.
        weight: (O, C/groups, *kernel), of the same type.
        stride: step of the window, one integer for each axis.
        padding: zeros on each side, likewise.
        dilation: distance of the kernel's taps, likewise.
        groups: blocks of channels.

    Returns:
        (N, O, *spatial').

    Source: Kervolutional Neural Networks, CVPR 2019, equations 9b and 11.

    Example:
        >>> squared_distance(torch.ones(1, 1, 3), torch.zeros(2, 1, 3), (1,), (0,), (1,), 1).flatten()
        tensor([3., 3.])
    """
    norms = _SumOfSquares.apply(weight.flatten(1), 1)
    box = box_sum(x, weight.shape[2:], stride, padding, dilation, groups)
    # The factor -2 goes to the smaller of weight and product: a pass over the other costs more than it computes.
    factor = 1 if weight.numel() < x.numel() else -2
    products = exact_convolution(
        x, weight if factor == -2 else -2 * weight, norms / factor, stride, padding, dilation, groups
    )
    return _Distance.apply(products, box, factor)


class _SumOfSquares(torch.autograd.Function):
    """Sum of x^2 along an axis; the gradient 2 x g keeps x alone and makes one pass."""

    @staticmethod
    def forward(ctx, x: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.axis = axis
        return (x * x).sum(axis)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return x * (2 * grad).unsqueeze(ctx.axis), None


class _Distance(torch.autograd.Function):
    """max(factor * products + box, 0). What is cut off is rounding, so the gradient passes as if nothing were."""

    @staticmethod
    def forward(ctx, products: Tensor, box: Tensor, factor: int) -> Tensor:
        ctx.groups, ctx.factor = box.shape[1], factor
        ctx.mark_dirty(products)
        parts = _grouped(products, ctx.groups)
        torch.add(box.unsqueeze(2), parts, alpha=factor, out=parts)
        return products.clamp_(min=0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        box = _grouped(grad, ctx.groups).sum(2)
        return grad if ctx.factor == 1 else grad * ctx.factor, box, None


def _grouped(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(1, (groups, -1))


def distance(d2: Tensor) -> Tensor:
    r"""Root of a squared distance, :math:`\sqrt{d^2}`, with the subgradient 0 where it is 0.

    Args:
        d2: tensor of any shape, >= 0.

    Source: Kervolutional Neural Networks, CVPR 2019, equation 9b.

    Example:
        >>> d2 = torch.tensor([0.0, 4.0], requires_grad=True)
        >>> distance(d2).sum().backward()
        >>> d2.grad
        tensor([0.0000, 0.2500])
    """
    return _Root.apply(d2)


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx, d2: Tensor) -> Tensor:
        root = d2.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return torch.where(root > 0, grad / (2 * root), 0)
