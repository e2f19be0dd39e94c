"""Family "split": plain convolutions of parts of the channels, cheaper than the single equivalent convolution."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.convolve import convolve
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.geometry import centred, embedded, padded
from mmkerv.ops.core.precision import convolution_type, wide_type
from mmkerv.ops.core.tracing import fx_leaf


class SplitKernel(GeneratedKernel):
    r"""Mixin for an operator that convolves parts of the channels differently.

    :math:`y = \mathrm{concat}_j(x_{P_j} * K_j) + b`, equal to :math:`y = x * K + b` with K (O, C/groups, kH, kW), which
    is zero where a part has no tap.

    An operator derives from it and from :class:`mmkerv.ops.core.base.Conv2d`. It implements ``forward`` (in the
    cheap form), ``_kernel`` (the equivalent dense kernel) and ``_parameter``. ``switch_to_deploy`` keeps it as it is
    unless called with ``split='dense'``, because the folded layer costs more.

    Example:
        >>> SplitKernel.costs_more_folded
        True
    """

    has_weight = False
    folds = "if asked, into one plain convolution that costs more: switch_to_deploy(model, split='dense')"
    costs_more_folded = True
    # Forward never uses the dense kernel, so `frozen_kernels` has nothing to keep.
    _has_kernel = False

    def _convolve_part(self, x: Tensor, kernel: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """Convolve part of the padded input (:func:`mmkerv.ops.core.geometry.padded`) with a kernel of any odd size."""
        x = centred(x, kernel.shape[2:], 1, self.kernel_size, self.dilation)
        return convolve(x, kernel, bias, self.stride, 0, self.dilation, groups)

    def _checked(self, input: Tensor) -> Tensor:
        """Return the input if it has the channels of the layer; parts of them would not notice others."""
        if not torch.jit.is_tracing() and input.shape[-self.dims - 1] != self.in_channels:
            raise ArgumentError(
                f'input must have {self.in_channels} channels, (N, C, *spatial), got {tuple(input.shape)}'
            )
        return input

    def _concatenated(self, input: Tensor, parts: list[tuple[Tensor | None, int, int]]) -> Tensor:
        """Convolve consecutive parts of the channels and concatenate the results.

        Args:
            input: (N, C, *spatial).
            parts: kernel, number of channels and groups of each part; without a kernel the part is left as it is.
        """
        x = padded(self._checked(input), self.kernel_size, self.padding, self.dilation, self.padding_mode)
        axis, first, outputs = x.dim() - self.dims - 1, 0, []
        for kernel, channels, groups in parts:
            part = x.narrow(axis, first, channels)
            bias = None if self.bias is None else self.bias.narrow(0, first, channels)
            if kernel is None:
                outputs.append(self._kept(part, bias))
            else:
                outputs.append(self._convolve_part(part, kernel, bias, groups))
            first += channels
        return torch.cat(outputs, axis)

    def _kept(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the padded input where the centre of the kernel lies, in the type of a convolution's output."""
        y = centred(x, (1,) * self.dims, 1, self.kernel_size, self.dilation)
        for axis, step in zip(range(y.dim() - self.dims, y.dim()), self._per_axis(self.stride)):
            if step > 1:
                y = y[(slice(None),) * axis + (slice(None, None, step),)]
        y = y.to(convolution_type(y))
        return y if bias is None else y + bias.to(y.dtype).view(-1, *(1,) * self.dims)


class DepthwiseParts(SplitKernel):
    r"""Mixin for a depthwise convolution that convolves parts of the channels with kernels of different sizes.

    :math:`y_c = x_c * K_{j, c} + b_c` for the channels c of part j; a part without a kernel returns x itself. x (N, C,
    H, W), K_j (C_j, 1, h_j, w_j).

    An operator derives from it and from :class:`mmkerv.ops.core.base.Conv2d`, and implements ``_parts``.

    Example:
        >>> from mmkerv.ops import MixConv2d
        >>> issubclass(MixConv2d, DepthwiseParts)
        True
    """

    @abstractmethod
    def _parts(self) -> list[tuple[str, int, tuple[int, ...] | None]]:
        """Return name, number of channels and kernel size of each part; no size for one that is left as it is."""
        raise NotImplementedError(f'{type(self).__name__} must implement _parts')

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the kernels of the parts.

        Raises:
            ValueError: if the layer is not depthwise.

        Example:
            >>> from mmkerv.ops import MixConv2d
            >>> list(MixConv2d(8, 8, 5, padding=2, groups=8, sizes=(3, 5)).own_parameters())
            ['0.weight', '1.weight']
        """
        if not self.in_channels == self.out_channels == self.groups:
            raise ArgumentError(
                f'{type(self).__name__} needs in_channels == out_channels == groups (a depthwise convolution), got '
                f'{self.in_channels}, {self.out_channels} and {self.groups}; in a config, select depthwise layers with '
                'where.names, or convert a network that has them'
            )
        self._channels = []
        for name, channels, size in self._parts():
            self._channels.append((name if size else '', channels))
            if size:
                self.add_module(name, Kernel((channels, 1, *size), **factory))

    def reset_operator_parameters(self) -> None:
        """Draw the kernels as ``nn.Conv2d`` does.

        Example:
            >>> from mmkerv.ops import MixConv2d
            >>> MixConv2d(8, 8, 5, groups=8, sizes=(3, 5)).reset_operator_parameters()
        """
        for name, _ in self._channels:
            if name:
                getattr(self, name).reset_parameters()

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve each part of ``input`` (N, C, H, W) with its kernel; returns (N, C, H', W').

        Example:
            >>> from mmkerv.ops import InceptionDWConv2d
            >>> InceptionDWConv2d(8, 8, 11, padding=5, groups=8)(torch.randn(1, 8, 6, 7)).shape
            torch.Size([1, 8, 6, 7])
        """
        parts = []
        for name, channels in self._channels:
            parts.append((getattr(self, name).weight if name else None, channels, channels))
        return self._concatenated(input, parts)

    def _kernel(self) -> Tensor:
        parts = []
        for name, channels in self._channels:
            kernel = getattr(self, name).weight if name else self._parameter().new_ones(channels, 1, *(1,) * self.dims)
            parts.append(embedded(kernel.to(wide_type(kernel.dtype)), 1, self.kernel_size))
        return torch.cat(parts)

    def _parameter(self) -> Tensor:
        return next(getattr(self, name).weight for name, _ in self._channels if name)


class Kernel(nn.Module):
    """A kernel with the key ``weight`` in a module of its own, drawn as ``nn.Conv2d`` draws one.

    Args:
        shape: (O, C/groups, *size).
        device: device of the parameter.
        dtype: type of the parameter.

    Example:
        >>> list(Kernel((8, 1, 3, 3)).state_dict())
        ['weight']
    """

    def __init__(self, shape: tuple[int, ...], device: Any = None, dtype: Any = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Draw the kernel.

        Example:
            >>> Kernel((8, 1, 3, 3)).reset_parameters()
        """
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
