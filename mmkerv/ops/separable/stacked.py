r"""Stacked convolution: 3x3 convolutions in a row in place of one with a larger kernel.

y = L_n * (... (L_1 * x)) + b, with 3x3 kernels L_j. Chazareix, "How to optimize Convolutional Layer with Convolution
Kernel" (2022), "Stacking convolutions vertically": 18 c^2 weights for two of them instead of 25 c^2 for a 5x5 kernel.
"""

import itertools
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import ConfigClass
from mmkerv.ops.core.convolve import convolve
from mmkerv.ops.core.geometry import odd
from mmkerv.ops.core.tracing import fx_leaf
from mmkerv.ops.separable.base import SeparableKernel


def stacked_kernel(first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
    r"""Compose the kernels of two convolutions in a row: :math:`K_{oc}(p) = \sum_m \sum_q S_{om}(q) F_{mc}(p - q)`.

    Args:
        first: F, (M, C/groups, fH, fW).
        second: S, (O, M/groups, sH, sW).
        groups: number of channel groups that are convolved independently.

    Returns:
        K, (O, C/groups, fH + sH - 1, fW + sW - 1).

    Example:
        >>> stacked_kernel(torch.ones(4, 2, 3, 3), torch.ones(8, 2, 3, 3), groups=2).shape
        torch.Size([8, 2, 5, 5])
    """
    f, s = first.unflatten(0, (groups, -1)), second.unflatten(0, (groups, -1))
    rows, columns = second.shape[2:]
    total = 0
    # Not a convolution, which a GPU would compute in TensorFloat-32.
    for y, x in itertools.product(range(rows), range(columns)):
        product = torch.einsum('gom,gmcyx->gocyx', s[..., y, x], f).flatten(0, 1)
        total = total + F.pad(product, (x, columns - 1 - x, y, rows - 1 - y))
    return total


class StackedConv2d(SeparableKernel, Conv2d):
    r"""3x3 convolutions in a row, as one layer with their receptive field.

    :math:`y = L_n * (\ldots (L_1 * x)) + b`, equal to :math:`y = \mathrm{conv2d}(x, K, b)` with K the composed kernel

    x (N, C, H, W), y (N, O, H', W'), K (O, C/groups, kH, kW), odd; (k - 1) / 2 kernels of size 3 along each axis, and
    of size 1 along the shorter one where it needs no more. L_1 is (M, C/groups, 3, 3), L_n (O, M/groups, 3, 3) and
    those between (M, M/groups, 3, 3) with M = min(C, O). Nothing comes between them, so the layer equals one
    convolution; it can learn fewer kernels than that, with 18/25 of the weights for 5x5 and 27/49 for 7x7.

    The input is padded once, as for the large kernel, and L_2, ..., L_n add no padding. So the borders are those of the
    one convolution in all padding modes; convolutions that pad one by one, as in VGG, differ there. The last one
    applies the stride, each the dilation. There is no basic kernel: ``weight`` is ``None``. See :meth:`to_conv2d` for
    folding.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``. The kernel sizes must be odd.

    Raises:
        ValueError: if a value is invalid, for example an even ``kernel_size``.
        TypeError: if an argument is unknown or has the wrong type.

    Example:
        >>> conv = StackedConv2d(16, 16, 5, padding=2, bias=False)
        >>> conv(torch.randn(2, 16, 7, 7)).shape, sum(p.numel() for p in conv.parameters())
        (torch.Size([2, 16, 7, 7]), 4608)
    """

    short_name = 'stacked'

    @classmethod
    def leaves_plain(cls, in_channels: int, kernel_size: tuple[int, int], groups: int) -> bool:
        """Return ``True`` for kernels up to 3x3, which are no stack, and for even sizes, which no stack has.

        Example:
            >>> [StackedConv2d.leaves_plain(8, size, groups=1) for size in ((5, 5), (3, 3), (4, 4))]
            [False, True, True]
        """
        return max(kernel_size) <= 3 or any(k % 2 == 0 for k in kernel_size)

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any]:
        """Return the ``conv_cfg`` of the folded layer: plain convolutions in a row.

        Example:
            >>> StackedConv2d.deploy_cfg(dict(type='StackedConv'))
            {'type': 'mmkerv.FoldedConv', 'separable': 'stacked'}
        """
        return {'type': 'mmkerv.FoldedConv', 'separable': 'stacked'}

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the kernels.

        Raises:
            ValueError: if the kernel size is even.

        Example:
            >>> list(StackedConv2d(4, 8, 7).own_parameters())
            ['kernel1', 'kernel2', 'kernel3']
        """
        odd(self.kernel_size)
        super().make_parameters(factory)

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, C, H, W) with each kernel; returns (N, O, H', W').

        Example:
            >>> StackedConv2d(3, 8, 5, stride=2)(torch.randn(1, 3, 9, 9)).shape
            torch.Size([1, 8, 3, 3])
        """
        x, padding = self._pad(input)
        *names, last = self._shapes()
        for name in names:
            x = convolve(x, getattr(self, name), None, 1, padding, self.dilation, self.groups)
            padding = 0
        return convolve(x, getattr(self, last), self.bias, self.stride, padding, self.dilation, self.groups)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        lengths = [(k - 1) // 2 for k in self.kernel_size]
        number, middle = max(1, *lengths), min(self.in_channels, self.out_channels)
        shapes, width = {}, self.in_channels
        for index in range(number):
            outer = self.out_channels if index == number - 1 else middle
            size = (3 if index < length else 1 for length in lengths)
            shapes[f'kernel{index + 1}'] = (outer, width // self.groups, *size)
            width = outer
        return shapes

    def _compose(self, *kernels: Tensor) -> Tensor:
        return reduce(lambda first, second: stacked_kernel(first, second, self.groups), kernels)

    def _factors(self) -> nn.Sequential:
        padding = self.padding
        if isinstance(padding, str):
            reach = [d * (k - 1) // 2 for d, k in zip(self._per_axis(self.dilation), self.kernel_size)]
            padding = tuple(reach) if padding == 'same' else (0, 0)
        *names, last = self._shapes()
        parts = []
        for name in names:
            parts.append(self._plain(getattr(self, name), None, stride=1, padding=padding))
            padding = 0
        parts.append(self._plain(getattr(self, last), self.bias, padding=padding))
        return nn.Sequential(*parts)


class StackedConv(ConfigClass):
    """Class to name in configs: builds :class:`StackedConv2d`, or a plain ``nn.Conv2d``.

    Kernels up to 3x3 and those of even size stay plain.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as :class:`StackedConv2d`.

    Raises:
        ValueError: as :class:`StackedConv2d`.
        TypeError: as :class:`StackedConv2d`.

    Example:
        >>> [type(StackedConv(8, 8, size)).__name__ for size in (3, 5)]
        ['Conv2d', 'StackedConv2d']
    """

    operator = StackedConv2d
