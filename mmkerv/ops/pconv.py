r"""Partial convolution: a dense convolution of the first channels, the others unchanged.

y = concat(x_p * K_p, x_rest) + b. Chen et al., "Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks"
(FasterNet), CVPR 2023, section 3.2.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.geometry import odd
from mmkerv.ops.core.precision import wide_type
from mmkerv.ops.core.split import Kernel, SplitKernel
from mmkerv.ops.core.tracing import fx_leaf


class POptions(NamedTuple):
    """Arguments of :class:`PConv2d` beyond those of torch's convolutions.

    Example:
        >>> POptions(n_div=2).checked().n_div
        2
    """

    n_div: int = 4

    def checked(self) -> 'POptions':
        """Return the options if each value is valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> POptions(n_div=0).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: n_div must be >= 1, got 0
        """
        arguments.integer(self.n_div, 'n_div', 1)
        return self


class PConv2d(SplitKernel, Conv2d):
    r"""Partial convolution: a dense convolution of the first C / n_div channels; the others are left as they are.

    :math:`y = \mathrm{concat}(x_p * K_p, x_{rest}) + b`

    x and y (N, C, H, W), :math:`K_p` (C_p, C_p, kH, kW) with C_p = C // n_div. It costs 1 / n_div^2 of the dense
    convolution that it equals. There is no basic kernel: ``weight`` is ``None``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``; in_channels == out_channels, groups is 1, and the kernel size is odd.
        n_div: share of the channels that are convolved, 1 / n_div.

    Raises:
        ValueError: if a value is invalid.
        TypeError: if an argument is unknown or has the wrong type.

    Source: FasterNet, CVPR 2023, section 3.2. It is followed by a 1x1 convolution there, without an activation between.

    Example:
        >>> conv = PConv2d(16, 16, 3, padding=1, bias=False)
        >>> conv(torch.randn(2, 16, 9, 9)).shape, {name: tuple(p.shape) for name, p in conv.own_parameters().items()}
        (torch.Size([2, 16, 9, 9]), {'partial_conv3.weight': (4, 4, 3, 3)})
    """

    Options = POptions
    short_name = 'p'

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the kernel.

        Raises:
            ValueError: if the layer changes the number of channels, has groups, or fewer channels than ``n_div``.

        Example:
            >>> PConv2d(8, 8, 3, n_div=2).partial_conv3.weight.shape
            torch.Size([4, 4, 3, 3])
        """
        odd(self.kernel_size)
        if self.in_channels != self.out_channels or self.groups != 1:
            raise ArgumentError(
                f'PConv2d needs in_channels == out_channels and groups=1, since most channels are left as they are, '
                f'got {self.in_channels}, {self.out_channels} and groups={self.groups}; where can leave this layer out'
            )
        width = self.in_channels // self.options.n_div
        if not width:
            raise ArgumentError(f'n_div must not exceed in_channels={self.in_channels}, got {self.options.n_div}')
        self.partial_conv3 = Kernel((width, width, *self.kernel_size), **factory)

    def reset_operator_parameters(self) -> None:
        """Draw the kernel as ``nn.Conv2d`` does.

        Example:
            >>> PConv2d(8, 8, 3).reset_operator_parameters()
        """
        self.partial_conv3.reset_parameters()

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve the first channels of ``input`` (N, C, H, W); returns (N, C, H', W').

        Example:
            >>> PConv2d(8, 8, 3, stride=2, padding=1)(torch.randn(1, 8, 9, 9)).shape
            torch.Size([1, 8, 5, 5])
        """
        width = self.partial_conv3.weight.shape[0]
        return self._concatenated(input, [(self.partial_conv3.weight, width, 1), (None, self.in_channels - width, 1)])

    def _kernel(self) -> Tensor:
        weight = self.partial_conv3.weight
        weight = weight.to(wide_type(weight.dtype))
        rest = self.in_channels - weight.shape[0]
        identity = torch.eye(rest, dtype=weight.dtype, device=weight.device)[..., None, None]
        identity = F.pad(identity, [side for k in reversed(self.kernel_size) for side in (k // 2, k // 2)])
        return torch.cat([F.pad(weight, (0, 0, 0, 0, 0, rest)), F.pad(identity, (0, 0, 0, 0, weight.shape[0], 0))])

    def _parameter(self) -> Tensor:
        return self.partial_conv3.weight


class PConv(PlainFor1x1):
    """Class to name in configs: builds :class:`PConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`PConv2d`.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`PConv2d`.
        TypeError: as :class:`PConv2d`.

    Example:
        >>> type(PConv(8, 8, 3)).__name__, type(PConv(8, 8, 1)).__name__
        ('PConv2d', 'Conv2d')
    """

    operator = PConv2d
