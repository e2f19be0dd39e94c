"""Convolution in true float32: without autocast and without TensorFloat-32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mmkerv.ops.core.convolve import CONVOLUTIONS
from mmkerv.ops.core.precision import full_precision
from mmkerv.ops.core.tracing import is_transformed


def exact_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    r"""Convolve in float32 (or float64), without autocast and without TensorFloat-32: :math:`y = x * w + b`.

    Squared distances are small differences of large sums computed here, so the rounding must be that of float32.

    Args:
        x: (N, C, *spatial), float32 or float64.
        weight: (O, C/groups, *kernel), of the same type.
        bias: (O,) or ``None``.
        stride: step of the window, one integer per axis.
        padding: zeros on each side, one integer per axis.
        dilation: distance between the kernel's taps, one integer per axis.
        groups: number of groups of channels.

    Example:
        >>> exact_convolution(torch.ones(1, 1, 4), torch.ones(2, 1, 3), None, (1,), (0,), (1,), 1).shape
        torch.Size([1, 2, 2])
    """
    geometry = list(stride), list(padding), list(dilation), groups
    with full_precision(x.device):
        if x.is_cuda and x.dtype == torch.float32:
            # Transforms of torch.func take no custom operator; there the gradients may be in TensorFloat-32.
            return (_convolution if is_transformed() else without_tf32)(x, weight, bias, *geometry)
        return CONVOLUTIONS[weight.dim() - 2](x, weight, bias, *geometry)


def exact_convolution_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of :func:`exact_convolution` for input, weight and bias, in the same precision.

    Args:
        grad: gradient of the output.
        x: (N, C, *spatial).
        weight: (O, C/groups, *kernel).
        stride: step of the window, one integer per axis.
        padding: zeros on each side, one integer per axis.
        dilation: distance between the kernel's taps, one integer per axis.
        groups: number of groups of channels.
        mask: for each of the three, whether it is needed; the others are undefined.

    Example:
        >>> x, w, grad = torch.ones(1, 1, 4), torch.ones(2, 1, 3), torch.ones(1, 2, 2)
        >>> exact_convolution_gradients(grad, x, w, (1,), (0,), (1,), 1, [False, False, True])[2]
        tensor([2., 2.])
    """
    arguments = grad, x, weight, list(stride), list(padding), list(dilation), groups, list(mask)
    with full_precision(x.device):
        if x.is_cuda and x.dtype == torch.float32:
            return _without_tf32_backward(*arguments)
        return _gradients(*arguments)


@contextmanager
def _ieee() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    if hasattr(cudnn, 'conv'):
        # torch 2.9 and later. The older setting reads and sets this one too, and raises if both have been used.
        before = cudnn.conv.fp32_precision
        cudnn.conv.fp32_precision = 'ieee'
        try:
            yield
        finally:
            cudnn.conv.fp32_precision = before
        return
    # An omitted argument would not keep the current setting but take its own default, for example cuDNN off.
    settings = {name: getattr(cudnn, name) for name in ('enabled', 'benchmark', 'benchmark_limit', 'deterministic')}
    with cudnn.flags(**settings, allow_tf32=False):
        yield


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    with _ieee():
        return CONVOLUTIONS[weight.dim() - 2](x, weight, bias, stride, padding, dilation, groups)


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    with _ieee():
        grads = _gradients(grad, x, weight, stride, padding, dilation, groups, mask)
    return tuple(grad.new_empty(0) if g is None else g for g in grads)


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, stride, padding, dilation, groups: int, mask) -> tuple:
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], stride, padding, dilation, False, [0] * (weight.dim() - 2), groups, mask
    )


def _setup(ctx, inputs: tuple, output: Tensor) -> None:
    x, weight, bias, *geometry = inputs
    ctx.save_for_backward(x, weight)
    ctx.geometry, ctx.has_bias = geometry, bias is not None


def _backward_by(function: Callable) -> Callable:
    def backward(ctx, grad: Tensor) -> tuple:
        mask = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]]
        grads = function(grad, *ctx.saved_tensors, *ctx.geometry, mask)
        return (*(g if wanted else None for g, wanted in zip(grads, mask)), None, None, None, None)

    return backward


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry) -> Tensor:
        return _convolution(x, weight, bias, *geometry)

    setup_context = staticmethod(_setup)
    backward = staticmethod(torch.autograd.function.once_differentiable(_backward_by(_convolution_backward)))


if hasattr(torch.library, 'custom_op'):
    # A custom operator is a single node for torch.compile, which otherwise cannot trace a change of cuDNN's flags.
    without_tf32 = torch.library.custom_op('mmkerv::convolution', _convolution, mutates_args=())
    _without_tf32_backward = torch.library.custom_op(
        'mmkerv::convolution_backward', _convolution_backward, mutates_args=()
    )

    @without_tf32.register_fake
    def _(x, weight, bias, stride, padding, dilation, groups):
        return CONVOLUTIONS[weight.dim() - 2](x, weight, bias, stride, padding, dilation, groups)

    @_without_tf32_backward.register_fake
    def _(grad, x, weight, stride, padding, dilation, groups, mask):
        shapes = (x.shape, weight.shape, weight.shape[:1])
        return tuple(grad.new_empty(shape if wanted else 0) for shape, wanted in zip(shapes, mask))

    without_tf32.register_autograd(_backward_by(_without_tf32_backward), setup_context=_setup)
else:
    without_tf32, _without_tf32_backward = _Convolution.apply, _convolution_backward
