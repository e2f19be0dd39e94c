r"""Recursive convolution: small depthwise kernels on a pyramid of reduced images, which together reach far.

f_0 = x, f_l = down(f_{l-1}); z = 0; z <- up(conv_{L-l}(f_l + z)) for l = L, ..., 1; y = conv_L(x + z) + b. Zhao et al.,
"RecConv: Efficient Recursive Convolutions for Multi-Frequency Representations" (RecNeXt), 2024, section 3.
"""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.errors import ArgumentError, FoldError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.convolve import convolve
from mmkerv.ops.core.geometry import odd
from mmkerv.ops.core.split import Kernel
from mmkerv.ops.core.tracing import fx_leaf


class RecOptions(NamedTuple):
    """Arguments of :class:`RecConv2d` beyond those of torch's convolutions.

    Example:
        >>> RecOptions(levels=3).checked().mode
        'bilinear'
    """

    levels: int = 2
    mode: str = 'bilinear'

    def checked(self) -> 'RecOptions':
        """Return the options if each value is valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> RecOptions(levels=0).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: levels must be >= 1, got 0
        """
        arguments.integer(self.levels, 'levels', 1)
        arguments.one_of(self.mode, 'mode', ('bilinear', 'nearest'))
        return self


class RecConv2d(Conv2d):
    r"""Recursive convolution: depthwise kernels on ``levels`` halvings of the image, added up from the smallest.

    :math:`y = K_L * (x + z_1) + b`, :math:`z_l = \mathrm{up}(K_{L-l} * (f_l + z_{l+1}))`, :math:`z_{L+1} = 0`,
    :math:`f_l` = ``x`` reduced l times by a depthwise convolution of stride 2

    x and y (N, C, H, W); all kernels (C, 1, k, k), (L + 2) k^2 C weights in all. The layer is linear, but equivariant
    only to shifts by 2^L pixels, so it is no convolution: it does not fold, and its exported form resizes. There is no
    basic kernel: ``weight`` is ``None``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``; in_channels == out_channels == groups, stride and dilation are 1, the kernel size is
            odd, the padding is ``kernel_size // 2`` (or ``'same'``) with zeros.
        levels: number L of halvings, >= 1.
        mode: interpolation, ``'bilinear'`` or ``'nearest'``.

    Raises:
        ValueError: if a value is invalid; the message names it.
        TypeError: if an argument is unknown or has the wrong type.

    Source: RecConv, 2024, section 3.

    Example:
        >>> import torch
        >>> conv = RecConv2d(8, 8, 5, padding=2, groups=8)
        >>> conv(torch.randn(2, 8, 13, 14)).shape, list(conv.own_parameters())
        (torch.Size([2, 8, 13, 14]), ['down.weight', 'convs.0.weight', 'convs.1.weight', 'convs.2.weight'])
    """

    Options = RecOptions
    has_weight = False
    short_name = 'rec'

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the kernels.

        Raises:
            ValueError: if the layer is not depthwise, or its geometry is not the one described.

        Example:
            >>> RecConv2d(8, 8, 3, padding=1, groups=8).down.weight.shape
            torch.Size([8, 1, 3, 3])
        """
        odd(self.kernel_size)
        self._check_geometry()
        shape = (self.in_channels, 1, *self.kernel_size)
        self.down = Kernel(shape, **factory)
        self.convs = nn.ModuleList([Kernel(shape, **factory) for _ in range(self.options.levels + 1)])

    def _check_geometry(self) -> None:
        half = tuple(k // 2 for k in self.kernel_size)
        checks = {
            'in_channels == out_channels == groups': self.in_channels == self.out_channels == self.groups,
            'stride 1': self._per_axis(self.stride) == (1, 1),
            'dilation 1': self._per_axis(self.dilation) == (1, 1),
            f"padding {half} or 'same'": self.padding == 'same'
            or (self.padding != 'valid' and self._per_axis(self.padding) == half),
            "padding_mode 'zeros'": self.padding_mode == 'zeros',
        }
        for rule, kept in checks.items():
            if not kept:
                raise ArgumentError(
                    f'RecConv2d needs {rule}, since it resizes the image; got {nn.Conv2d.extra_repr(self)}; where can '
                    'leave this layer out'
                )

    def reset_operator_parameters(self) -> None:
        """Draw the kernels as ``nn.Conv2d`` does.

        Example:
            >>> RecConv2d(8, 8, 3, padding=1, groups=8).reset_operator_parameters()
        """
        for kernel in (self.down, *self.convs):
            kernel.reset_parameters()

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Compute the output for ``input`` (N, C, H, W); returns (N, C, H, W).

        Raises:
            ValueError: if the geometry was changed after construction to one that the layer does not have.

        Example:
            >>> import torch
            >>> RecConv2d(8, 8, 3, padding=1, groups=8)(torch.randn(1, 8, 1, 1)).shape
            torch.Size([1, 8, 1, 1])
        """
        self._check_geometry()
        if input.dim() == 3:
            return self.forward(input[None])[0]
        features = [input]
        for _ in range(self.options.levels):
            features.append(self._depthwise(features[-1], self.down.weight, 2))
        z = 0
        for level in range(self.options.levels, 0, -1):
            y = self._depthwise(features[level] + z, self.convs[self.options.levels - level].weight)
            flags = {'align_corners': False} if self.options.mode == 'bilinear' else {}
            z = F.interpolate(y, size=features[level - 1].shape[2:], mode=self.options.mode, **flags)
        return self._depthwise(input + z, self.convs[-1].weight, bias=self.bias)

    def _depthwise(self, x: Tensor, kernel: Tensor, stride: int = 1, bias: Tensor | None = None) -> Tensor:
        return convolve(x, kernel, bias, stride, [k // 2 for k in self.kernel_size], 1, self.in_channels)

    def _folded(self, dense: bool) -> nn.Module:
        raise FoldError(
            f'RecConv2d is equivariant only to shifts by {2**self.options.levels} pixels, so no convolution equals it; '
            'deploy it as it is'
        )

    def _parameter(self) -> Tensor:
        return self.down.weight


class RecConv(PlainFor1x1):
    """Class to name in configs: builds :class:`RecConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`RecConv2d`.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`RecConv2d`.
        TypeError: as :class:`RecConv2d`.

    Example:
        >>> type(RecConv(8, 8, 7, padding=3, groups=8)).__name__, type(RecConv(8, 8, 1)).__name__
        ('RecConv2d', 'Conv2d')
    """

    operator = RecConv2d
