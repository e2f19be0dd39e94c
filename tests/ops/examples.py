"""One tiny operator of each family of :mod:`mmkerv.ops.core`: the least that a new operator consists of."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.branches import Branch, Branches
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.dynamic import DynamicKernel
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.geometry import padded
from mmkerv.ops.core.precision import wide_type
from mmkerv.ops.core.response import Response
from mmkerv.ops.core.split import SplitKernel


class MaskedOptions(NamedTuple):
    """Options of :class:`MaskedConv2d`."""

    sharpness: float = 1.0

    def checked(self) -> 'MaskedOptions':
        arguments.real(self.sharpness, 'sharpness', 0, above=True)
        return self


class MaskedConv2d(GeneratedKernel, Conv2d):
    """Generated kernel: K = W * 2 sigmoid(sharpness * mask), one number of the mask for each tap; starts plain."""

    Options = MaskedOptions
    short_name = 'masked'
    no_decay = ('mask',)

    def make_parameters(self, factory):
        self.mask = nn.Parameter(torch.empty(self.kernel_size, **factory))

    def reset_operator_parameters(self):
        nn.init.zeros_(self.mask)

    @property
    def starts_as_identity(self):
        return True

    def _kernel(self):
        dtype = wide_type(self.weight.dtype)
        return self.weight.to(dtype) * 2 * torch.sigmoid(self.options.sharpness * self.mask.to(dtype))


class MaskedConv(PlainFor1x1):
    """Config class of :class:`MaskedConv2d`."""

    operator = MaskedConv2d


class TwoBranchConv2d(Branches, Conv2d):
    """Branches: y = norm(x * W) + norm(x * w) with w a 1x1 kernel."""

    short_name = 'twobranch'

    def make_parameters(self, factory):
        self.pointwise = nn.Parameter(torch.empty(*self.weight.shape[:2], 1, 1, **factory))
        self.norms = nn.ModuleList(nn.BatchNorm2d(self.out_channels, **factory) for _ in range(2))

    def reset_operator_parameters(self):
        nn.init.normal_(self.pointwise, std=0.1)
        for norm in self.norms:
            norm.reset_parameters()

    def branches(self):
        return [Branch(self.weight, norm=self.norms[0]), Branch(self.pointwise, norm=self.norms[1])]


class EveryOtherConv2d(SplitKernel, Conv2d):
    """Split: even output channels have kernels of ``kernel_size``, odd ones have 1x1 kernels."""

    short_name = 'everyother'

    def make_parameters(self, factory):
        shape = (self.out_channels // 2, self.in_channels // self.groups)
        self.large = nn.Parameter(torch.empty(*shape, *self.kernel_size, **factory))
        self.small = nn.Parameter(torch.empty(*shape, 1, 1, **factory))

    def reset_operator_parameters(self):
        nn.init.normal_(self.large, std=0.2)
        nn.init.normal_(self.small, std=0.2)

    def forward(self, input):
        x = padded(input, self.kernel_size, self.padding, self.dilation, self.padding_mode)
        parts = [self._convolve_part(x, kernel, None, self.groups) for kernel in (self.large, self.small)]
        y = torch.stack(parts, 2).flatten(1, 2)
        if x.is_contiguous(memory_format=torch.channels_last):
            y = y.contiguous(memory_format=torch.channels_last)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, 1, 1)

    def _kernel(self):
        small = F.pad(self.small, [side for k in reversed(self.kernel_size) for side in (k // 2, k // 2)])
        return torch.stack([self.large, small], 1).flatten(0, 1)

    def _parameter(self):
        return self.large


class GatedConv2d(DynamicKernel, Conv2d):
    """Dynamic: K(x) = W (1 + gate * mean(x)), one gate for each filter; starts plain."""

    short_name = 'gated'

    def make_parameters(self, factory):
        self.gate = nn.Parameter(torch.empty(self.out_channels, **factory))

    def reset_operator_parameters(self):
        nn.init.zeros_(self.gate)

    @property
    def starts_as_identity(self):
        return True

    def _kernel(self, x):
        scale = 1 + self.gate * x.mean((1, 2, 3)).view(-1, 1)
        return scale.view(*scale.shape, 1, 1, 1) * self.weight


class PowerOptions(NamedTuple):
    """Options of :class:`PowerConv2d`."""

    power: int = 3

    def checked(self) -> 'PowerOptions':
        arguments.integer(self.power, 'power', 1)
        return self


class PowerConv2d(Response, Conv2d):
    """Response: y = (w . x)^power + b, a convolution for power 1."""

    Options = PowerOptions
    short_name = 'power'

    def forward(self, input):
        x, padding = self._pad(input)
        s = F.conv2d(x, self.weight, None, self.stride, padding, self.dilation, self.groups)
        y = s if self.options.power == 1 else s.pow(self.options.power)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    def _linear(self):
        return (self.weight, self.bias) if self.options.power == 1 else None

    def _setting(self):
        return f' with power={self.options.power}'
