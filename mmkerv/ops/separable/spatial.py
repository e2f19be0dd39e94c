r"""Spatially separable convolution: a k x 1 convolution, then a 1 x k one.

y = H * (V * x) + b with V (M, C/groups, kH, 1) and H (O, M/groups, 1, kW). Chazareix, "How to optimize Convolutional
Layer with Convolution Kernel" (2022), "a 3x1 kernel size followed by a 1x3 kernel size": 2 c^2 k weights instead
of c^2 k^2.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import ConfigClass
from mmkerv.ops.core.convolve import convolve
from mmkerv.ops.core.tracing import fx_leaf
from mmkerv.ops.separable.base import SeparableKernel


def spatially_separable_kernel(vertical: Tensor, horizontal: Tensor, groups: int = 1) -> Tensor:
    r"""Compose the kernels of a k x 1 and a 1 x k convolution: :math:`K_{oc}(y, x) = \sum_m H_{om}(x) V_{mc}(y)`.

    Args:
        vertical: V, (M, C/groups, kH, 1).
        horizontal: H, (O, M/groups, 1, kW).
        groups: number of channel groups that are convolved independently.

    Returns:
        K, (O, C/groups, kH, kW).

    Example:
        >>> spatially_separable_kernel(torch.ones(4, 2, 3, 1), torch.ones(8, 2, 1, 5), groups=2).shape
        torch.Size([8, 2, 3, 5])
    """
    v = vertical.squeeze(3).unflatten(0, (groups, -1))
    h = horizontal.squeeze(2).unflatten(0, (groups, -1))
    return torch.einsum('gomx,gmcy->gocyx', h, v).flatten(0, 1)


class SpatiallySeparableConv2d(SeparableKernel, Conv2d):
    r"""A k x 1 convolution followed by a 1 x k convolution, as one layer.

    :math:`y = H * (V * x) + b`, equal to :math:`y = \mathrm{conv2d}(x, K, b)` with
    :math:`K_{oc}(y, x) = \sum_m H_{om}(x) V_{mc}(y)`

    x (N, C, H, W), y (N, O, H', W'), V (M, C/groups, kH, 1), H (O, M/groups, 1, kW) with M = min(C, O), so that the
    layer never costs more than a dense one: it has M (kH C + kW O) / groups weights, compared with C O kH kW / groups.
    V applies the vertical padding, stride and dilation, H the horizontal ones; all padding modes are exact, because V
    has no bias. There is no basic kernel: ``weight`` is ``None``. See :meth:`to_conv2d` for folding.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``.

    Raises:
        ValueError: if a value is invalid.
        TypeError: if an argument is unknown or has the wrong type.

    Example:
        >>> conv = SpatiallySeparableConv2d(16, 32, 5, padding=2, bias=False)
        >>> conv(torch.randn(2, 16, 7, 7)).shape, sum(p.numel() for p in conv.parameters())
        (torch.Size([2, 32, 7, 7]), 3840)
    """

    short_name = 'spatiallyseparable'

    @classmethod
    def leaves_plain(cls, in_channels: int, kernel_size: tuple[int, int], groups: int) -> bool:
        """Return ``True`` for 1 x k and k x 1 kernels, which have nothing to separate.

        Example:
            >>> SpatiallySeparableConv2d.leaves_plain(8, (3, 5), groups=8)
            False
        """
        return min(kernel_size) == 1

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any]:
        """Return the ``conv_cfg`` of the folded layer: two plain convolutions in a row.

        Example:
            >>> SpatiallySeparableConv2d.deploy_cfg(dict(type='SpatiallySeparableConv'))
            {'type': 'mmkerv.FoldedConv', 'separable': 'spatial'}
        """
        return {'type': 'mmkerv.FoldedConv', 'separable': 'spatial'}

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, C, H, W) twice; returns (N, O, H', W').

        Example:
            >>> SpatiallySeparableConv2d(3, 8, 3, stride=2)(torch.randn(1, 3, 9, 9)).shape
            torch.Size([1, 8, 4, 4])
        """
        x, (rows, columns) = self._pad(input)
        stride, dilation = _pair(self.stride), _pair(self.dilation)
        x = convolve(x, self.vertical, None, (stride[0], 1), (rows, 0), (dilation[0], 1), self.groups)
        return convolve(x, self.horizontal, self.bias, (1, stride[1]), (0, columns), (1, dilation[1]), self.groups)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        middle, (rows, columns) = min(self.in_channels, self.out_channels), self.kernel_size
        return {
            'vertical': (middle, self.in_channels // self.groups, rows, 1),
            'horizontal': (self.out_channels, middle // self.groups, 1, columns),
        }

    def _compose(self, first: Tensor, second: Tensor) -> Tensor:
        return spatially_separable_kernel(first, second, self.groups)

    def _factors(self) -> nn.Sequential:
        rows, columns = self._by_axis()
        return nn.Sequential(
            self._plain(self.vertical, None, **rows), self._plain(self.horizontal, self.bias, **columns)
        )


class SpatiallySeparableConv(ConfigClass):
    """Class to name in configs: builds :class:`SpatiallySeparableConv2d`, or a plain ``nn.Conv2d``.

    1x1, 1 x k and k x 1 kernels have nothing to separate and stay plain.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as :class:`SpatiallySeparableConv2d`.

    Raises:
        ValueError: as :class:`SpatiallySeparableConv2d`.
        TypeError: as :class:`SpatiallySeparableConv2d`.

    Example:
        >>> [type(SpatiallySeparableConv(8, 8, size)).__name__ for size in (3, (1, 7))]
        ['SpatiallySeparableConv2d', 'Conv2d']
    """

    operator = SpatiallySeparableConv2d
