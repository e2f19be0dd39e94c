"""Functional form of kervolution: y_i = kernel(x_i, w) + b for every patch x_i and filter w."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.convolve import CONVOLUTIONS
from mmkerv.ops.core.geometry import memory_format, pad
from mmkerv.ops.core.precision import convolution_type, full_precision, require_type
from mmkerv.ops.kerv.exact_convolution import exact_convolution
from mmkerv.ops.kerv.l1 import l1_distance
from mmkerv.ops.kerv.registry import PatchKernel, checked_hyperparameters, find_kernel
from mmkerv.ops.kerv.squared_distance import box_sum, squared_distance

LINEAR, POLYNOMIAL = 'linear', 'polynomial'
CHUNK_MIB = 64.0


def kerv1d(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    r"""Kervolve a sequence (N, C, L); see :func:`kerv2d`.

    Example:
        >>> kerv1d(torch.randn(1, 3, 9), torch.randn(4, 3, 3)).shape
        torch.Size([1, 4, 7])
    """
    return _kerv(1, input, weight, bias, *args, **kwargs)


def kerv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    r"""Kervolve an image: :math:`y_{n,o,i} = \kappa(x_{n,i}, w_o) + b_o` for every patch :math:`x_{n,i}`.

    It is computed with convolutions, or for ``'l1'`` and ``'manhattan'`` in chunks; the tensor (N, O, K, L) of all
    patches and filters is never formed. Nonlinear kernels are computed in float32 (or float64) even under autocast, and
    the result has the type of ``weight``.

    Args:
        input: (N, C, H, W).
        weight: (O, C/groups, kH, kW).
        bias: (O,) or ``None``, added after the kernel.
        *args: stride, padding, dilation and groups, as in ``torch.nn.functional.conv2d``.
        **kwargs: the same by name; ``padding_mode`` as in ``nn.Conv2d``; ``kernel``, the name of a kernel, see
            :class:`mmkerv.ops.KervConv2d`; the kernel's hyperparameters (real ones may also be tensors, with one value
            in all or one per filter); ``chunk_mib``, the memory limit of a chunk for ``'l1'`` and ``'manhattan'``, in
            MiB.

    Returns:
        (N, O, H', W').

    Raises:
        ValueError: for an unknown kernel or an invalid hyperparameter.
        TypeError: for an argument that the kernel does not have.

    Source: Kervolutional Neural Networks, CVPR 2019, equations 2 and 9 to 11.

    Example:
        >>> x, w = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
        >>> kerv2d(x, w, degree=2, balance=1.0).item()
        100.0
    """
    return _kerv(2, input, weight, bias, *args, **kwargs)


def kerv3d(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    r"""Kervolve a volume (N, C, D, H, W); see :func:`kerv2d`.

    Example:
        >>> kerv3d(torch.randn(1, 2, 4, 4, 4), torch.randn(4, 2, 3, 3, 3), None, 1, 1).shape
        torch.Size([1, 4, 4, 4, 4])
    """
    return _kerv(3, input, weight, bias, *args, **kwargs)


def _kerv(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    *,
    padding_mode: str = 'zeros',
    kernel: str = POLYNOMIAL,
    chunk_mib: float = CHUNK_MIB,
    **hyperparameters: Any,
) -> Tensor:
    if weight.dim() != dims + 2:
        raise ArgumentError(
            f'weight of kerv{dims}d must have {dims + 2} axes, (O, C/groups, *kernel), got shape {tuple(weight.shape)}'
        )
    arguments.one_of(padding_mode, 'padding_mode', arguments.PADDING_MODES)
    stride = arguments.integers(stride, dims, 'stride', 1)
    padding = arguments.padding_argument(padding, dims, stride)
    dilation = arguments.integers(dilation, dims, 'dilation', 1)
    groups = arguments.integer(groups, 'groups', 1)
    chunk_mib = arguments.real(chunk_mib, 'chunk_mib', 0, above=True)
    patch_kernel = find_kernel(kernel)
    values = checked_hyperparameters(patch_kernel, weight[0].numel(), hyperparameters, tensors=True)
    x, padding = pad(input, tuple(weight.shape[2:]), padding, dilation, padding_mode)
    return kervolve(x, weight, bias, (stride, padding, dilation, groups), patch_kernel, values, chunk_mib)


def kervolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: tuple,
    kernel: PatchKernel,
    values: dict[str, Any],
    chunk_mib: float = CHUNK_MIB,
    observe: Callable[[Tensor], None] | None = None,
) -> Tensor:
    r"""Kervolve ``x`` with any number of spatial axes; the arguments are not checked again.

    :math:`y_{n,o,i} = \kappa(x_{n,i}, w_o) + b_o`

    Args:
        x: (N, C, *spatial).
        weight: (O, C/groups, *kernel).
        bias: (O,) or ``None``.
        geometry: stride, zero padding and dilation (each with one integer per axis), and groups.
        kernel: kernel to apply.
        values: hyperparameters of the kernel, by name.
        chunk_mib: see :func:`kerv2d`.
        observe: called with the inner products s, if the kernel is a nonlinear function of them.

    Example:
        >>> x, w, geometry = torch.ones(1, 1, 3), torch.ones(1, 1, 3), ((1,), (0,), (1,), 1)
        >>> kervolve(x, w, None, geometry, find_kernel('sigmoid'), {}).shape
        torch.Size([1, 1, 1])
    """
    dims = weight.dim() - 2
    if x.dim() == dims + 1:
        return kervolve(x.unsqueeze(0), weight, bias, geometry, kernel, values, chunk_mib, observe).squeeze(0)
    if x.dim() != dims + 2:
        raise ArgumentError(
            f'input must have {dims + 2} axes, (N, C, *spatial), or {dims + 1} for a single one, got {tuple(x.shape)}'
        )
    if kernel.name == LINEAR:
        return CONVOLUTIONS[dims](x, weight, bias, *geometry)
    if kernel.name == POLYNOMIAL and values['degree'] == 1:
        shift = _each_filter(values['balance'], weight)
        return CONVOLUTIONS[dims](x, weight, shift if bias is None else bias + shift, *geometry)
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    require_type(x, weight, 'a kervolution')
    operands = x.to(wide), weight.to(wide)
    with_axes = (-1, *(1,) * dims)
    values = {k: v.to(wide).view(with_axes) if isinstance(v, Tensor) else v for k, v in values.items()}
    if kernel.family == 'radial':
        with full_precision(x.device):
            y = kernel.function(squared_distance(*operands, *geometry), **values)
    elif kernel.family == 'manhattan':
        with full_precision(x.device):
            y = kernel.function(_manhattan_distance(*operands, geometry, chunk_mib), **values)
    else:
        y = _dot(x, weight, operands, geometry, kernel, values, observe)
    if bias is not None:
        y = y + bias.to(wide).view(with_axes)
    # Channels last if the input or the weight is, as convolutions do. A 1x1 or depthwise weight is both.
    layout = memory_format(weight) if memory_format(weight) is torch.channels_last else memory_format(x)
    return y.to(weight.dtype).contiguous(memory_format=layout)


def _dot(
    x: Tensor,
    weight: Tensor,
    operands: tuple[Tensor, Tensor],
    geometry: tuple,
    kernel: PatchKernel,
    values: dict[str, Any],
    observe: Callable[[Tensor], None] | None,
) -> Tensor:
    wide = operands[1].dtype
    balance = None
    if kernel.needs_norms:
        s = exact_convolution(*operands, None, *geometry)
        stride, padding, dilation, groups = geometry
        with full_precision(x.device):
            x2 = box_sum(operands[0], tuple(weight.shape[2:]), stride, padding, dilation, groups)
            w2 = operands[1].flatten(1).square().sum(1)
            values = {
                **values,
                'x2': x2.repeat_interleave(len(weight) // groups, 1) if groups > 1 else x2,
                'w2': w2.view(-1, *(1,) * (s.dim() - 2)),
            }
    else:
        # bfloat16 has the range of float32. In float16 the inner products could overflow before their power is taken.
        narrow = convolution_type(weight)
        convolve = CONVOLUTIONS[weight.dim() - 2]
        if narrow == torch.bfloat16:
            s = convolve(x, weight, None, *geometry).to(wide)
        else:
            # The balance becomes the convolution's bias, which saves a pass over the output in forward and backward.
            if kernel.name == POLYNOMIAL:
                balance = values['balance']
                values = {**values, 'balance': 0.0}
            with full_precision(x.device):
                s = convolve(*operands, None if balance is None else _each_filter(balance, operands[1]), *geometry)
    if observe is not None:
        observe(s.detach() if balance is None else s.detach() - balance)
    with full_precision(x.device):
        return kernel.function(s, **values)


def _manhattan_distance(x: Tensor, weight: Tensor, geometry: tuple, chunk_mib: float) -> Tensor:
    stride, padding, dilation, groups = geometry
    if any(padding):
        x = F.pad(x, [side for p in reversed(padding) for side in (p, p)])
    return l1_distance(x, weight, stride, dilation, groups, chunk_mib=chunk_mib)


def _each_filter(value: Any, weight: Tensor) -> Tensor:
    """Expand a number, or a tensor with one value in all or one per filter, to (O,)."""
    if isinstance(value, Tensor):
        return value.flatten().expand(len(weight))
    return weight.new_full((len(weight),), value)
