"""Family "dynamic": every sample is convolved with a kernel computed from that sample."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.errors import FoldError
from mmkerv.ops.core.convolve import CONVOLUTIONS
from mmkerv.ops.core.geometry import memory_format, padded
from mmkerv.ops.core.precision import autocast_type, full_precision
from mmkerv.ops.core.tracing import fx_leaf, is_traced_for_any_size


class DynamicKernel:
    r"""Mixin for a convolution whose kernel depends on the input: :math:`y_n = x_n * K(x_n) + b`.

    x (N, C, H, W), K(x) (N, O, C/groups, kH, kW). No plain convolution is equivalent, so it never folds.

    An operator derives from it and from :class:`mmkerv.ops.core.base.Conv2d`, and implements ``_kernel``. The batch is
    computed as one grouped convolution. While ``torch.jit.trace``, ``torch.export`` or an ONNX exporter records a graph
    for any batch size, which ONNX does not allow for the number of groups, it is computed as a product with the
    unfolded patches instead, to the same numbers but for rounding.

    Example:
        >>> from mmkerv.ops.core.base import Conv2d
        >>> class Brighter(DynamicKernel, Conv2d):
        ...     def _kernel(self, x):
        ...         return x.mean((1, 2, 3)).view(-1, 1, 1, 1, 1) * self.weight
        >>> Brighter(3, 8, 3).kernel(torch.randn(2, 3, 5, 5)).shape
        torch.Size([2, 8, 3, 3, 3])
    """

    def _kernel(self, x: Tensor) -> Tensor:
        """Compute the kernels (N, O, C/groups, *kernel_size) of ``x`` (N, C, *spatial); called with autocast off."""
        raise NotImplementedError(f'{type(self).__name__} must implement _kernel')

    def _kernels_and_biases(self, x: Tensor, *given: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute the kernels of ``x`` and its biases (N, O), or ``None`` where all samples have ``bias``.

        Args:
            x: (N, C, *spatial), of the type of the parameters; called with autocast off.
            given: what the operator's ``forward`` takes beside the input.
        """
        return self._kernel(x), None

    def _features(self, x: Tensor) -> Tensor:
        """Compute the maps that are convolved, of the shape and type of ``x`` (N, C, *spatial)."""
        return x

    def kernel(self, x: Tensor) -> Tensor:
        """Compute the kernel of each sample of ``x`` (N, C, H, W): (N, O, C/groups, kH, kW).

        It is computed in the type of the parameters, even under autocast.

        Example:
            >>> from mmkerv.ops.core.base import Conv2d
            >>> class Same(DynamicKernel, Conv2d):
            ...     def _kernel(self, x):
            ...         return self.weight.expand(len(x), *self.weight.shape)
            >>> Same(3, 8, 3).kernel(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 3, 3, 3])
        """
        return self._generated(x)[0] if x.shape[0] else self._generated(_with_zeros(x))[0][:0]

    def _generated(self, x: Tensor, *given: Tensor | None) -> tuple[Tensor, Tensor | None]:
        parameter = self._parameter()
        with full_precision(parameter.device):
            return self._kernels_and_biases(x.to(parameter.dtype), *given)

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve each sample of ``input`` (N, C, H, W), or a single sample (C, H, W), with its own kernel.

        Example:
            >>> from mmkerv.ops.core.base import Conv2d
            >>> class Same(DynamicKernel, Conv2d):
            ...     def _kernel(self, x):
            ...         return self.weight.expand(len(x), *self.weight.shape)
            >>> Same(3, 8, 3)(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 3, 3])
        """
        return self._respond(input)

    def _respond(self, input: Tensor, *given: Tensor | None) -> Tensor:
        if input.dim() == self.dims + 1:
            return self._respond(input[None], *given)[0]
        traced = self.dims == 2 and is_traced_for_any_size()
        if not traced and not input.shape[0]:
            # Neither Fourier transforms nor convolutions in groups exist for no samples at all.
            return self._respond(*(tensor if tensor is None else _with_zeros(tensor) for tensor in (input, *given)))[:0]
        (kernels, biases), x = self._generated(input, *given), self._features(input)
        if traced:
            y = self._unfolded(x, kernels)
        else:
            samples = x.shape[0]
            x, padding = self._pad(x)
            convolve, geometry = CONVOLUTIONS[self.dims], (self.stride, padding, self.dilation)
            y = convolve(x.flatten(0, 1)[None], kernels.flatten(0, 1), None, *geometry, samples * self.groups)
            y = y.view(samples, self.out_channels, *y.shape[2:])
        if self.bias is not None:
            bias = self.bias if biases is None else biases
            y = y + bias.to(autocast_type(x.device) or bias.dtype).view(*bias.shape, *(1,) * self.dims)
        layout = memory_format(x)
        return y.contiguous(memory_format=layout) if layout is torch.channels_last else y

    def _unfolded(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Convolve each sample of ``x`` (N, C, H, W) with its kernel by a product of matrices."""
        x = padded(x, self.kernel_size, self.padding, self.dilation, self.padding_mode)
        sizes = zip(x.shape[2:], self.kernel_size, self._per_axis(self.stride), self._per_axis(self.dilation))
        shape = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sizes]
        patches = F.unfold(x, self.kernel_size, self.dilation, 0, self.stride)
        length = math.prod(self.kernel_size) * (self.in_channels // self.groups)
        patches = patches.view(-1, self.groups, length, patches.shape[-1])
        kernels = kernels.reshape(-1, self.groups, self.out_channels // self.groups, length)
        return (kernels @ patches).reshape(-1, self.out_channels, *shape)

    def _folded(self, dense: bool) -> nn.Module:
        raise FoldError(
            f'{type(self).__name__} computes its kernel from each input, so no plain convolution equals it; deploy it '
            'as it is'
        )

    def _instead_of_conv_forward(self) -> str:
        return 'Its kernel depends on the input, so it has no plain form. Leave efficient_conv_bn_eval off.'


def _with_zeros(x: Tensor) -> Tensor:
    """Append a sample of zeros."""
    return torch.cat([x, x.new_zeros(1, *x.shape[1:])])
