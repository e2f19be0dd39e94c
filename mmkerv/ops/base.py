"""What every 2-D operator shares with ``nn.Conv2d``: arguments, attributes, initialisation, padding, printing."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from . import arguments

CONV2D_KEYWORDS = ('stride', 'padding', 'dilation', 'groups', 'bias', 'padding_mode', 'device', 'dtype')


# mmengine's initialisers match a layer by its class name and the names of its direct bases. The direct base of each
# operator is therefore called `Conv2d`: a host network's `init_cfg=dict(type='Kaiming', layer='Conv2d')` treats the
# operator's `weight` as that of a plain convolution. It is not an `nn.Conv2d`: mmcv's `fuse_conv_bn`,
# `efficient_conv_bn_eval` and FLOP tables take `weight` for the kernel of every `nn.Conv2d`, and would corrupt it.
class Conv2d(nn.Module):
    r"""Base class of the 2-D operators: the arguments and attributes of ``torch.nn.Conv2d``, but no forward.

    :math:`y = \mathrm{op}(x; W, b)` with x of shape (N, C, H, W) and y of shape (N, O, H', W').

    Args:
        in_channels: channels C of the input, >= 1.
        out_channels: channels O of the output, >= 1.
        kernel_size: height and width of the kernel, one integer or two.
        stride: step of the window.
        padding: zeros (or what ``padding_mode`` says) added on each side, or ``'same'`` or ``'valid'``.
        dilation: distance of the kernel's taps.
        groups: number of blocks of channels that do not see each other; divides both channel counts.
        bias: whether a learnable bias is added to the output.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``.
        device: where the parameters are created.
        dtype: their type.

    Raises:
        ValueError: if an argument's value breaks its rule; the message names it.
        TypeError: if an argument has the wrong type.

    Example:
        >>> Conv2d(3, 8, 3, padding=1).weight.shape
        torch.Size([8, 3, 3, 3])
    """

    transposed = False
    output_padding = (0, 0)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        *,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.in_channels = arguments.integer(in_channels, 'in_channels', 1)
        self.out_channels = arguments.integer(out_channels, 'out_channels', 1)
        self.groups = arguments.integer(groups, 'groups', 1)
        for name, channels in (('in_channels', self.in_channels), ('out_channels', self.out_channels)):
            if channels % self.groups:
                raise arguments.ArgumentError(
                    f'{name} must be divisible by groups, got {name}={channels} and groups={self.groups}'
                )
        self.kernel_size = arguments.integers(kernel_size, 2, 'kernel_size', 1)
        self.stride = arguments.integers(stride, 2, 'stride', 1)
        self.padding = arguments.padding_argument(padding, 2, self.stride)
        self.dilation = arguments.integers(dilation, 2, 'dilation', 1)
        self.padding_mode = arguments.one_of(padding_mode, 'padding_mode', arguments.PADDING_MODES)
        factory = {'device': device, 'dtype': dtype}
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        if bias:
            self.bias = nn.Parameter(torch.empty(self.out_channels, **factory))
        else:
            self.register_parameter('bias', None)
        Conv2d.reset_parameters(self)

    def reset_parameters(self) -> None:
        """Draw ``weight`` and ``bias`` exactly as ``nn.Conv2d`` does, with the same random numbers.

        Example:
            >>> _ = torch.manual_seed(0); mine = Conv2d(2, 2, 3)
            >>> _ = torch.manual_seed(0); plain = nn.Conv2d(2, 2, 3)
            >>> bool(torch.equal(mine.weight, plain.weight))
            True
        """
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise RuntimeError(
            f"{type(self).__name__}._conv_forward was called, as mmcv's efficient_conv_bn_eval does: it would use "
            '`weight` '
            'as the kernel, which it is not. Fold the operators first with mmkerv.ops.switch_to_deploy(model), '
            'or leave efficient_conv_bn_eval off.'
        )

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the input, padded unless the convolution can do it itself, and the padding left to it."""
        # Host libraries rewrite stride, padding and dilation of built layers, so all three are read at each call.
        if self.padding == 'valid':
            return x, (0, 0)
        if self.padding == 'same':
            total = [d * (k - 1) for d, k in zip(_pair(self.dilation), self.kernel_size)]
            sides = [(t // 2, t - t // 2) for t in total]
        else:
            sides = [(p, p) for p in _pair(self.padding)]
        (top, bottom), (left, right) = sides
        if self.padding_mode == 'zeros' and top == bottom and left == right:
            return x, (top, left)
        mode = 'constant' if self.padding_mode == 'zeros' else self.padding_mode
        return F.pad(x, (left, right, top, bottom), mode=mode), (0, 0)

    def _convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Plain convolution of ``x`` with ``kernel``, with this layer's geometry and bias."""
        x, padding = self._pad(x)
        return F.conv2d(x, kernel, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Return the arguments as ``nn.Conv2d`` prints them.

        Example:
            >>> Conv2d(3, 8, 3, padding=1, bias=False).extra_repr()
            '3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False'
        """
        return nn.Conv2d.extra_repr(self)
