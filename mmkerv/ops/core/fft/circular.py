"""Convolution as a product of Fourier transforms, with gradients that are also products of transforms."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkerv.ops.core.tracing import needs_plain_operations


def circular_convolution(
    x: Tensor, kernel: Tensor, before: Sequence[int], sizes: Sequence[int], lengths: Sequence[int], groups: int
) -> Tensor:
    r"""Convolve by a circular convolution long enough to equal a linear one: :math:`y_t = \sum_j x_{t + j - p} k_j`.

    torch computes the gradient of a real transform with a complex transform of full length. Here the gradients use real
    transforms of x, the kernel and the output's gradient, and no spectrum is saved for them.

    Args:
        x: (N, C, *spatial), float32 or float64.
        kernel: (O, C/groups, *size), of the same type.
        before: number p of zeros before x along each axis, less than the size of the kernel.
        sizes: size of the output along each axis.
        lengths: length of the transforms along each axis, see ``transform_lengths``.
        groups: number of groups of channels.

    Returns:
        (N, O, *sizes), a view of a larger tensor.

    Example:
        >>> x, k = torch.ones(1, 1, 4), torch.tensor([[[1.0, 2.0]]])
        >>> circular_convolution(x, k, [1], [4], [6], 1).round().tolist()
        [[[2.0, 3.0, 3.0, 3.0]]]
    """
    arguments = x, kernel, list(before), list(sizes), list(lengths), groups
    return _convolve(*arguments) if needs_plain_operations() else _Convolution.apply(*arguments)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, before: list, sizes: list, lengths: list, groups: int) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.geometry = before, sizes, lengths, groups
        return _convolve(x, kernel, before, sizes, lengths, groups)

    # Uses only differentiable operations, so it can be differentiated again.
    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        x, kernel = ctx.saved_tensors
        before, sizes, lengths, groups = ctx.geometry
        needs, axes = ctx.needs_input_grad, _axes(lengths)
        grad_x = grad_kernel = None
        if needs[0]:
            product = _product('input', _transform(grad, lengths), _transform(kernel, lengths), groups)
            grad_x = _cut(_inverse(product, lengths), before, x.shape[2:], lengths)
        if needs[1]:
            product = _product('kernel', _transform(grad.flip(axes), lengths), _transform(x, lengths), groups)
            first = [n - 1 - p for n, p in zip(sizes, before)]
            grad_kernel = _cut(_inverse(product, lengths), first, kernel.shape[2:], lengths)
        return grad_x, grad_kernel, None, None, None, None


def _convolve(x: Tensor, kernel: Tensor, before: list, sizes: list, lengths: list, groups: int) -> Tensor:
    # With the reversed kernel the product needs no conjugate, which would be a copy.
    reversed_kernel = kernel.flip(_axes(lengths))
    product = _product('output', _transform(x, lengths), _transform(reversed_kernel, lengths), groups)
    first = [k - 1 - p for k, p in zip(kernel.shape[2:], before)]
    return _cut(_inverse(product, lengths), first, sizes, lengths)


def _axes(lengths: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(lengths), 0))


def _transform(x: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.fft.rfftn(x, lengths, _axes(lengths))


def _inverse(spectrum: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.fft.irfftn(spectrum, lengths, _axes(lengths))


def _cut(x: Tensor, first: Sequence[int], sizes: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Return ``sizes`` samples starting at ``first``; a negative ``first`` wraps around to the end."""
    for axis, start, size, length in zip(_axes(lengths), first, sizes, lengths):
        if start < 0:
            x = torch.cat(
                [x.narrow(axis, length + start, min(-start, size)), x.narrow(axis, 0, max(size + start, 0))], axis
            )
        else:
            x = x.narrow(axis, start, size)
    return x


def _product(kind: str, a: Tensor, b: Tensor, groups: int) -> Tensor:
    """Sum the products of two spectra over input channels ('output'), filters ('input') or images ('kernel').

    a and b are (N, C, *F) and (O, C/g, *F) for 'output', (N, O, *F) and (O, C/g, *F) for 'input', (N, O, *F) and
    (N, C, *F) for 'kernel'; the result has the remaining one of these three shapes.
    """
    frequencies = a.shape[2:]
    if kind == 'kernel':
        images, filters, width = len(a), a.shape[1], b.shape[1] // groups
    else:
        images, filters, width = len(a), len(b), b.shape[1]
    shape = {'output': (images, filters), 'input': (images, groups * width), 'kernel': (filters, width)}[kind]
    if width == 1:
        return _depthwise(kind, a, b, groups).reshape(*shape, *frequencies)
    a = _by_frequency(a, (images, groups, -1)).transpose(1, 2)
    b = (
        _by_frequency(b, (images, groups, -1)).transpose(1, 2)
        if kind == 'kernel'
        else _by_frequency(b, (groups, -1, width))
    )
    a, b = a.flatten(0, 1), b.flatten(0, 1)
    if kind == 'kernel':
        product = torch.bmm(a.transpose(1, 2), b).unflatten(0, (-1, groups))
    else:
        product = torch.bmm(a, b.transpose(1, 2) if kind == 'output' else b).unflatten(0, (-1, groups)).transpose(1, 2)
    # A spectrum can be as large as x, so free these as soon as possible.
    del a, b
    return product.flatten(1).t().contiguous().view(*shape, *frequencies)


def _by_frequency(spectrum: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reorder (A, B, *F) to (F, *shape), contiguous, since strided complex matrix products are several times slower."""
    spectrum = spectrum.flatten(2).flatten(0, 1).t().contiguous()
    return spectrum.unflatten(1, shape)


def _depthwise(kind: str, a: Tensor, b: Tensor, groups: int) -> Tensor:
    """Compute :func:`_product` for filters of one channel, as elementwise products."""
    a = a.unflatten(1, (groups, -1))
    if kind == 'kernel':
        return (a * b[:, :, None]).sum(0)
    b = b.squeeze(1).unflatten(0, (groups, -1))
    return a * b if kind == 'output' else (a * b).sum(2)
