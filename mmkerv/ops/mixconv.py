r"""Mixed depthwise convolution: kernels of several sizes in one depthwise layer.

y = concat_j(x_j * K_j) + b. Tan and Le, "MixConv: Mixed Depthwise Convolutional Kernels", BMVC 2019, section 3.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.geometry import odd
from mmkerv.ops.core.split import DepthwiseParts


class MixOptions(NamedTuple):
    """Arguments of :class:`MixConv2d` beyond those of torch's convolutions.

    Example:
        >>> MixOptions(sizes=(3, 5, 7)).checked().sizes
        (3, 5, 7)
    """

    sizes: Any = None
    kernel_extent: Any = None

    def checked(self) -> 'MixOptions':
        """Return the options if each value is valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> MixOptions(sizes=(3, 4)).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: sizes must be odd for a centred kernel, got (3, 4); use (3, 5)
        """
        if self.sizes is not None:
            if isinstance(self.sizes, str) or not isinstance(self.sizes, Sequence) or not self.sizes:
                raise ArgumentError(f'sizes must be a sequence of kernel sizes, such as (3, 5, 7), got {self.sizes!r}')
            odd(tuple(arguments.integer(size, 'sizes', 1) for size in self.sizes), 'sizes')
        if self.kernel_extent is not None:
            odd(arguments.integers(self.kernel_extent, 2, 'kernel_extent', 1), 'kernel_extent')
        return self


class MixConv2d(DepthwiseParts, Conv2d):
    r"""Mixed depthwise convolution: parts of the channels have kernels of different sizes.

    :math:`y = \mathrm{concat}_j(x_j * K_j) + b`

    x and y (N, C, H, W), :math:`K_j` (C_j, 1, k_j, k_j). The channels are divided equally; the first part gets the
    remainder. It equals a depthwise convolution of the largest size and costs less. There is no basic kernel:
    ``weight`` is ``None``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``; in_channels == out_channels == groups, and the kernel size is odd.
        sizes: the kernel sizes k_j, odd, none larger than ``kernel_size``; 3, 5, ..., kernel_size by default.
        kernel_extent: the largest size in place of ``kernel_size``, odd; the padding becomes padding + dilation *
            (kernel_extent - kernel_size) // 2.

    Raises:
        ValueError: if a value is invalid, the layer is not depthwise, or it has fewer channels than sizes.
        TypeError: if an argument is unknown or has the wrong type.

    Source: MixConv, BMVC 2019, section 3.

    Example:
        >>> import torch
        >>> conv = MixConv2d(8, 8, 7, padding=3, groups=8)
        >>> conv(torch.randn(2, 8, 9, 9)).shape, {name: tuple(p.shape) for name, p in conv.own_parameters().items()}
        (torch.Size([2, 8, 9, 9]), {'0.weight': (4, 1, 3, 3), '1.weight': (2, 1, 5, 5), '2.weight': (2, 1, 7, 7)})
    """

    Options = MixOptions
    short_name = 'mix'

    def _parts(self) -> list[tuple[str, int, tuple[int, ...] | None]]:
        smallest = min(odd(self.kernel_size))
        if self.options.sizes is None and smallest != max(self.kernel_size):
            raise ArgumentError(
                f'MixConv2d needs a square kernel, got {self.kernel_size}: its kernels are square; give sizes=(...), '
                f'none larger than {smallest}'
            )
        sizes = self.options.sizes or (tuple(range(3, smallest + 1, 2)) or (1,))
        if max(sizes) > smallest:
            raise ArgumentError(
                f'sizes must not exceed the kernel size {self.kernel_size}, got {sizes}; set kernel_extent={max(sizes)}'
            )
        each, rest = divmod(self.in_channels, len(sizes))
        if not each:
            raise ArgumentError(
                f'MixConv2d needs a channel for each of the sizes {sizes}, got in_channels={self.in_channels}; give '
                'fewer sizes'
            )
        return [(str(i), each + rest * (i == 0), (size, size)) for i, size in enumerate(sizes)]


class MixConv(PlainFor1x1):
    """Class to name in configs: builds :class:`MixConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`MixConv2d`.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`MixConv2d`.
        TypeError: as :class:`MixConv2d`.

    Example:
        >>> conv = MixConv(8, 8, 3, padding=1, groups=8, kernel_extent=7)
        >>> type(conv).__name__, conv.kernel_size, conv.padding
        ('MixConv2d', (7, 7), (3, 3))
    """

    operator = MixConv2d
