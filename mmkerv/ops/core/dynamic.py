"""Family "dynamic": every sample is convolved with a kernel computed from that sample."""

import torch
from torch import Tensor, nn

from mmkerv.errors import FoldError
from mmkerv.ops.core.convolve import CONVOLUTIONS
from mmkerv.ops.core.geometry import memory_format
from mmkerv.ops.core.precision import autocast_type, full_precision
from mmkerv.ops.core.tracing import fx_leaf


class DynamicKernel:
    r"""Mixin for a convolution whose kernel depends on the input: :math:`y_n = x_n * K(x_n) + b`.

    x (N, C, H, W), K(x) (N, O, C/groups, kH, kW). No plain convolution is equivalent, so it never folds.

    An operator derives from it and from :class:`mmkerv.ops.core.base.Conv2d`, and implements ``_kernel``. The batch is
    computed as one grouped convolution, so a traced graph works only for the batch size it was traced with.

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
        parameter = self._parameter()
        with full_precision(parameter.device):
            return self._kernel(x.to(parameter.dtype))

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
        if input.dim() == self.dims + 1:
            return self.forward(input[None])[0]
        kernels = self.kernel(input)
        samples = len(input)
        x, padding = self._pad(input)
        convolve, geometry = CONVOLUTIONS[self.dims], (self.stride, padding, self.dilation)
        if not samples:
            # A convolution cannot have 0 groups. The sum over no kernels is 0, and keeps the autograd graph connected.
            return convolve(x, kernels.sum(0), self.bias, *geometry, self.groups)
        y = convolve(x.flatten(0, 1)[None], kernels.flatten(0, 1), None, *geometry, samples * self.groups)
        y = y.view(samples, self.out_channels, *y.shape[2:])
        if self.bias is not None:
            y = y + self.bias.to(autocast_type(x.device) or self.bias.dtype).view(-1, *(1,) * self.dims)
        layout = memory_format(x)
        return y.contiguous(memory_format=layout) if layout is torch.channels_last else y

    def _folded(self, dense: bool) -> nn.Module:
        raise FoldError(
            f'{type(self).__name__} computes its kernel from each input, so no plain convolution equals it; deploy it '
            'as it is'
        )

    def _instead_of_conv_forward(self) -> str:
        return 'Its kernel depends on the input, so it has no plain form. Leave efficient_conv_bn_eval off.'
