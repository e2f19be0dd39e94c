r"""Inception depthwise convolution: square, row and column kernels for some channels, the others unchanged.

y = concat(x_id, x_hw * K_hw, x_w * K_w, x_h * K_h) + b. Yu et al., "InceptionNeXt: When Inception Meets ConvNeXt", CVPR
2024, equations 4 to 6.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.geometry import odd
from mmkerv.ops.core.split import DepthwiseParts

PARTS = ('dwconv_hw', 'dwconv_w', 'dwconv_h')


class InceptionDWOptions(NamedTuple):
    """Arguments of :class:`InceptionDWConv2d` beyond those of torch's convolutions.

    Example:
        >>> InceptionDWOptions(branch_ratio=0.25).checked().square_size
        3
    """

    branch_ratio: float = 0.125
    square_size: int = 3
    kernel_extent: Any = None

    def checked(self) -> 'InceptionDWOptions':
        """Return the options if each value is valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> InceptionDWOptions(branch_ratio=0.5).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: branch_ratio must be <= 1/3, since three kinds of kernels have it, got 0.5
        """
        if arguments.real(self.branch_ratio, 'branch_ratio', 0.0, above=True) > 1 / 3:
            raise ArgumentError(
                f'branch_ratio must be <= 1/3, since three kinds of kernels have it, got {self.branch_ratio}'
            )
        odd((arguments.integer(self.square_size, 'square_size', 1),), 'square_size')
        if self.kernel_extent is not None:
            odd(arguments.integers(self.kernel_extent, 2, 'kernel_extent', 1), 'kernel_extent')
        return self


class InceptionDWConv2d(DepthwiseParts, Conv2d):
    r"""Inception depthwise convolution: square, row and column kernels for parts of the channels, the rest unchanged.

    :math:`y = \mathrm{concat}(x_{id}, x_{hw} * K_{hw}, x_w * K_w, x_h * K_h) + b`

    x and y (N, C, H, W), with g = int(C * branch_ratio) channels in each of :math:`K_{hw}` (g, 1, s, s), :math:`K_w`
    (g, 1, 1, kW), :math:`K_h` (g, 1, kH, 1), and C - 3g channels left as they are. It equals a depthwise convolution
    of size kH x kW, and costs a fraction of it. There is no basic kernel: ``weight`` is ``None``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``; in_channels == out_channels == groups, and the kernel size is odd. The paper has 11.
        branch_ratio: share of the channels of each of the three kinds of kernels, > 0, <= 1/3.
        square_size: size s of the square kernels, odd, not larger than the kernel size.
        kernel_extent: size of the rows and columns in place of ``kernel_size``, odd, one integer or two; the padding
            becomes padding + dilation * (kernel_extent - kernel_size) // 2.

    Raises:
        ValueError: if a value is invalid, the layer is not depthwise, or it has fewer than 1 / branch_ratio channels.
        TypeError: if an argument is unknown or has the wrong type.

    Source: InceptionNeXt, CVPR 2024, section 3.2.

    Example:
        >>> conv = InceptionDWConv2d(16, 16, 11, padding=5, groups=16)
        >>> conv(torch.randn(2, 16, 14, 14)).shape
        torch.Size([2, 16, 14, 14])
        >>> [f'{name} {tuple(p.shape)}' for name, p in conv.own_parameters().items()]
        ['dwconv_hw.weight (2, 1, 3, 3)', 'dwconv_w.weight (2, 1, 1, 11)', 'dwconv_h.weight (2, 1, 11, 1)']
    """

    Options = InceptionDWOptions
    short_name = 'inceptiondw'

    def _parts(self) -> list[tuple[str, int, tuple[int, ...] | None]]:
        (height, width), square = odd(self.kernel_size), self.options.square_size
        each = int(self.in_channels * self.options.branch_ratio)
        if not each:
            raise ArgumentError(
                f'InceptionDWConv2d needs at least {math.ceil(1 / self.options.branch_ratio)} channels for '
                f'branch_ratio={self.options.branch_ratio}, got {self.in_channels}; use a larger branch_ratio'
            )
        if square > min(height, width):
            raise ArgumentError(
                f'square_size must not exceed the kernel size {self.kernel_size}, got {square}; set square_size=1, or '
                'a larger kernel_extent'
            )
        sizes = ((square, square), (1, width), (height, 1))
        kept = self.in_channels - 3 * each
        return [('identity', kept, None), *((name, each, size) for name, size in zip(PARTS, sizes))]

    def read_published(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Replace the biases of the parts by one, in place.

        Example:
            >>> state = {f'dwconv_{part}.bias': torch.ones(2) for part in ('hw', 'w', 'h')}
            >>> InceptionDWConv2d(16, 16, 11, padding=5, groups=16).read_published(state, ''); list(state)
            ['bias']
        """
        # timm and the authors keep the biases with the kernels; channels without a kernel have none there.
        theirs = [f'{prefix}{name}.bias' for name in PARTS]
        if (
            self.bias is not None
            and f'{prefix}bias' not in state_dict
            and all(isinstance(state_dict.get(key), Tensor) for key in theirs)
        ):
            parts = [state_dict.pop(key) for key in theirs]
            kept = parts[0].new_zeros(self.out_channels - sum(map(len, parts)))
            state_dict[f'{prefix}bias'] = torch.cat([kept, *parts])


class InceptionDWConv(PlainFor1x1):
    """Class to name in configs: builds :class:`InceptionDWConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`InceptionDWConv2d`.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`InceptionDWConv2d`.
        TypeError: as :class:`InceptionDWConv2d`.

    Example:
        >>> conv = InceptionDWConv(8, 8, 7, padding=3, groups=8, kernel_extent=11)
        >>> type(conv).__name__, conv.kernel_size, conv.padding
        ('InceptionDWConv2d', (11, 11), (5, 5))
    """

    operator = InceptionDWConv2d
