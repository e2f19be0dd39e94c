r"""Depthwise-separable convolution: one kernel per channel, then a 1x1 convolution.

y = P (D * x) + b with D (C, 1, kH, kW) and P (O, C/groups, 1, 1). Chazareix, "How to optimize Convolutional Layer with
Convolution Kernel" (2022), "Separable convolution": c k^2 + c^2 weights instead of c^2 k^2.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import ConfigClass
from mmkerv.ops.core.convolve import convolve
from mmkerv.ops.core.tracing import fx_leaf
from mmkerv.ops.separable.base import SeparableKernel


def depthwise_separable_kernel(depthwise: Tensor, pointwise: Tensor, groups: int = 1) -> Tensor:
    r"""Compose the kernels of a depthwise and a following 1x1 convolution: :math:`K_{oc}(p) = P_{oc} D_c(p)`.

    Args:
        depthwise: D, (C, 1, *kernel).
        pointwise: P, (O, C/groups, 1, ...), with a 1 for each axis of the kernel.
        groups: number of channel groups that are convolved independently.

    Returns:
        K, (O, C/groups, *kernel).

    Example:
        >>> import torch
        >>> depthwise_separable_kernel(torch.ones(4, 1, 3, 3), torch.ones(8, 2, 1, 1), groups=2).shape
        torch.Size([8, 2, 3, 3])
    """
    width, size = pointwise.shape[1], depthwise.shape[2:]
    kernel = pointwise.view(groups, -1, width, *(1,) * len(size)) * depthwise.view(groups, 1, width, *size)
    return kernel.flatten(0, 1)


class DepthwiseSeparableConv2d(SeparableKernel, Conv2d):
    r"""Depthwise convolution followed by a 1x1 convolution, as one layer.

    :math:`y = P (D * x) + b`, equal to :math:`y = \mathrm{conv2d}(x, K, b)` with :math:`K_{oc} = P_{oc} D_c`

    x (N, C, H, W), y (N, O, H', W'), D (C, 1, kH, kW), P (O, C/groups, 1, 1). It has C (kH kW + O/groups) weights,
    compared with C kH kW O/groups for a dense convolution. Neither convolution is followed by a norm or an activation,
    so the layer can replace a convolution: it is mmcv's ``DepthwiseSeparableConvModule`` with both switched off,
    without a bias in D, and with groups. There is no basic kernel: ``weight`` is ``None``. See :meth:`to_conv2d` for
    folding.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``.

    Raises:
        ValueError: if a value is invalid.
        TypeError: if an argument is unknown or has the wrong type.

    Example:
        >>> import torch
        >>> conv = DepthwiseSeparableConv2d(16, 32, 5, padding=2, bias=False)
        >>> conv(torch.randn(2, 16, 7, 7)).shape, sum(p.numel() for p in conv.parameters())
        (torch.Size([2, 32, 7, 7]), 912)
    """

    short_name = 'depthwiseseparable'

    @classmethod
    def leaves_plain(cls, in_channels: int, kernel_size: tuple[int, int], groups: int) -> bool:
        """Return ``True`` for 1x1 kernels and depthwise convolutions, which have nothing to separate.

        Example:
            >>> DepthwiseSeparableConv2d.leaves_plain(8, (3, 3), groups=1)
            False
        """
        return max(kernel_size) == 1 or groups == in_channels

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any]:
        """Return the ``conv_cfg`` of the folded layer: two plain convolutions in a row.

        Example:
            >>> DepthwiseSeparableConv2d.deploy_cfg(dict(type='DepthwiseSeparableConv'))
            {'type': 'mmkerv.FoldedConv', 'separable': 'depthwise'}
        """
        return {'type': 'mmkerv.FoldedConv', 'separable': 'depthwise'}

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, C, H, W) twice; returns (N, O, H', W').

        Example:
            >>> import torch
            >>> DepthwiseSeparableConv2d(3, 8, 3, stride=2)(torch.randn(1, 3, 9, 9)).shape
            torch.Size([1, 8, 4, 4])
        """
        x, padding = self._pad(input)
        x = convolve(x, self.depthwise, None, self.stride, padding, self.dilation, self.in_channels)
        return F.conv2d(x, self.pointwise, self.bias, groups=self.groups)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        pointwise = (self.out_channels, self.in_channels // self.groups, 1, 1)
        return {'depthwise': (self.in_channels, 1, *self.kernel_size), 'pointwise': pointwise}

    def _compose(self, first: Tensor, second: Tensor) -> Tensor:
        return depthwise_separable_kernel(first, second, self.groups)

    def _factors(self) -> nn.Sequential:
        plain = {'stride': 1, 'padding': 0, 'dilation': 1, 'padding_mode': 'zeros'}
        return nn.Sequential(
            self._plain(self.depthwise, None, groups=self.in_channels), self._plain(self.pointwise, self.bias, **plain)
        )


class DepthwiseSeparableConv(ConfigClass):
    """Class to name in configs: builds :class:`DepthwiseSeparableConv2d`, or a plain ``nn.Conv2d``.

    1x1 convolutions and depthwise ones (whose filters see one channel each) have nothing to separate and stay plain.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as :class:`DepthwiseSeparableConv2d`.

    Raises:
        ValueError: as :class:`DepthwiseSeparableConv2d`.
        TypeError: as :class:`DepthwiseSeparableConv2d`.

    Example:
        >>> [type(DepthwiseSeparableConv(8, 8, 3, groups=groups)).__name__ for groups in (1, 2, 8)]
        ['DepthwiseSeparableConv2d', 'DepthwiseSeparableConv2d', 'Conv2d']
    """

    operator = DepthwiseSeparableConv2d
