"""Squared distance |x_i - w|^2 of every patch from every filter, by convolutions, without forming patches."""

import torch
from torch import Tensor

from mmkerv.ops.core.geometry import grouped
from mmkerv.ops.core.tracing import needs_plain_operations
from mmkerv.ops.kerv.exact_convolution import exact_convolution, exact_convolution_gradients


def box_sum(
    x: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    r"""Compute the squared norm of every patch, :math:`|x_i|^2`, for each group of channels.

    Args:
        x: (N, C, *spatial).
        kernel_size: extent of a patch, one integer per axis.
        stride: step of the window, along each axis.
        padding: zeros on each side, along each axis.
        dilation: distance between the kernel's taps, along each axis.
        groups: number of groups of channels.

    Returns:
        (N, groups, *spatial').

    Example:
        >>> box_sum(torch.ones(1, 4, 3, 3), (3, 3), (1, 1), (0, 0), (1, 1), 2).flatten()
        tensor([18., 18.])
    """
    squares = grouped(x * x, 1, groups).sum(2)
    return exact_convolution(squares, x.new_ones(groups, 1, *kernel_size), None, stride, padding, dilation, groups)


def squared_distance(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    r"""Compute the squared distance of every patch from every filter.

    :math:`d^2 = |x_i|^2 - 2 \langle x_i, w \rangle + |w|^2`

    A result that rounding makes negative is clamped to 0; the gradient ignores the clamp. Backward needs only ``x`` and
    ``weight``, and allocates no tensor of their size except the gradients.

    Args:
        x: (N, C, *spatial), float32 or float64.
        weight: (O, C/groups, *kernel), of the same type.
        stride: step of the window, one integer per axis.
        padding: zeros on each side, along each axis.
        dilation: distance between the kernel's taps, along each axis.
        groups: number of groups of channels.

    Returns:
        (N, O, *spatial').

    Source: Kervolutional Neural Networks, CVPR 2019, equations 9b and 11.

    Example:
        >>> squared_distance(torch.ones(1, 1, 3), torch.zeros(2, 1, 3), (1,), (0,), (1,), 1).flatten()
        tensor([3., 3.])
    """
    geometry = tuple(stride), tuple(padding), tuple(dilation), groups
    if needs_plain_operations():
        expanded = _expanded(x, weight, *geometry)
        return expanded + (expanded.clamp(min=0) - expanded).detach()
    return _SquaredDistance.apply(x, weight, *geometry)


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, *geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        norms = torch.linalg.vector_norm(weight.flatten(1), dim=1).square()
        box = box_sum(x, tuple(weight.shape[2:]), stride, padding, dilation, groups)
        products = exact_convolution(x, weight, norms / -2, stride, padding, dilation, groups)
        parts = products.unflatten(1, (groups, -1))
        torch.add(box.unsqueeze(2), parts, alpha=-2, out=parts)
        return products.clamp_(min=0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), geometry = ctx.saved_tensors, ctx.geometry
        needs = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            inputs = [t for t, needed in zip((x, weight), needs) if needed]
            gradients = iter(torch.autograd.grad(_expanded(x, weight, *geometry), inputs, grad, create_graph=True))
            return (*(next(gradients) if needed else None for needed in needs), None, None, None, None)
        # d(d^2) = 2 (x - w) dx + 2 (w - x) dw. The factor -2 of the products is applied to the smaller of weight and
        # input, since an extra pass over the larger one takes measurable time.
        small = weight.numel() < x.numel()
        grad_x, grad_weight, sums = exact_convolution_gradients(
            grad, x, -2 * weight if small else weight, *geometry, [*needs, needs[1]]
        )
        if needs[0]:
            groups = geometry[-1]
            box = 2 * grad.unflatten(1, (groups, -1)).sum(2)
            spread = _box_sum_gradient(box if small else box / -2, x, weight, *geometry).unsqueeze(2)
            grad_x.unflatten(1, (groups, -1)).addcmul_(x.unflatten(1, (groups, -1)), spread)
            if not small:
                grad_x.mul_(-2)
        if needs[1]:
            grad_weight.addcmul_(weight, sums.view(-1, *(1,) * (weight.dim() - 1)), value=-1).mul_(-2)
        return grad_x if needs[0] else None, grad_weight if needs[1] else None, None, None, None, None


def _box_sum_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """Compute the gradient of the box sums for the squares, by spreading each value over the positions of its patch."""
    ones = x.new_ones(groups, 1, *weight.shape[2:])
    # This gradient depends only on the shape of the input.
    shape = grad.new_empty(1).expand(len(x), groups, *x.shape[2:])
    return exact_convolution_gradients(grad, shape, ones, stride, padding, dilation, groups, [True, False, False])[0]


def _expanded(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """Compute the squared distance with twice differentiable operations, without the clamp at 0."""
    box = box_sum(x, tuple(weight.shape[2:]), stride, padding, dilation, groups)
    norms = weight.square().flatten(1).sum(1)
    products = exact_convolution(x, -2 * weight, norms, stride, padding, dilation, groups)
    return (grouped(products, 1, groups) + box.unsqueeze(2)).flatten(1, 2)


def distance(d2: Tensor) -> Tensor:
    r"""Compute the root of a squared distance, :math:`\sqrt{d^2}`, with gradient 0 where it is 0.

    Args:
        d2: tensor of any shape, >= 0.

    Source: Kervolutional Neural Networks, CVPR 2019, equation 9b.

    Example:
        >>> d2 = torch.tensor([0.0, 4.0], requires_grad=True)
        >>> distance(d2).sum().backward()
        >>> d2.grad
        tensor([0.0000, 0.2500])
    """
    if needs_plain_operations():
        zero = d2 <= 0
        # Not torch.where: the ONNX exporter of torch 2.1 gets the types of its scalar arguments wrong.
        return d2.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)
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
        if torch.is_grad_enabled():
            return torch.where(root > 0, grad / (2 * root), 0)
        return torch.div(grad, root).mul_(0.5).masked_fill_(root == 0, 0)
