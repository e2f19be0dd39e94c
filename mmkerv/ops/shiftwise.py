r"""Shift-wise convolution: a large depthwise kernel in the form of a cross, put together from small kernels.

y = n_H(x * H) + n_V(x * V) + n_S(x * S) + x, with the 3 x E stripe H, the E x 3 stripe V and the 3x3 kernel S built of
the same small kernels in different orders. Li et al., "Shift-ConvNets: Small Convolutional Kernel with Large Kernel
Effects", 2024, section 3.
"""

import math
import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.branches import scale_and_shift
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.geometry import embedded, odd, padded
from mmkerv.ops.core.precision import full_precision, wide_type
from mmkerv.ops.core.split import Kernel, SplitKernel
from mmkerv.ops.core.tracing import fx_leaf

# Size of the small kernels.
SMALL = 3
# The authors' names of the parameters, and ours; the seed from which their code draws the orders.
RELEASED = (
    (r'^LoRAs\.(\d+)\.', r'paths.\1.'),
    (r'^bn_lora1\.', 'norm_width.'),
    (r'^bn_lora2\.', 'norm_height.'),
    (r'^bn_small\.', 'norm_centre.'),
)
RELEASED_SEED = 123


class ShiftwiseOptions(NamedTuple):
    """Arguments of :class:`ShiftwiseConv2d` beyond those of torch's convolutions.

    Example:
        >>> ShiftwiseOptions(kernel_extent=51).checked().paths
        2
    """

    kernel_extent: int | None = None
    ghost: float = 0.23
    paths: int = 2
    repeats: int = 4
    seed: int = 123

    def checked(self) -> 'ShiftwiseOptions':
        """Return the options if each value is valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> ShiftwiseOptions(ghost=1.0).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: ghost must be < 1, a share of the channels, got 1.0
        """
        if self.kernel_extent is not None:
            odd((arguments.integer(self.kernel_extent, 'kernel_extent', SMALL),), 'kernel_extent')
        if arguments.real(self.ghost, 'ghost', 0.0) >= 1:
            raise ArgumentError(f'ghost must be < 1, a share of the channels, got {self.ghost}')
        arguments.integer(self.paths, 'paths', 1)
        arguments.integer(self.repeats, 'repeats', 1)
        arguments.integer(self.seed, 'seed', 0)
        return self


def released_orders(channels: int, used: int, count: int, repeats: int) -> dict[str, Tensor]:
    """Return the buffers of :class:`ShiftwiseConv2d` that a layer of the authors' code has.

    The authors' checkpoints do not contain them. Their constructor seeds torch's and numpy's global generators with 123
    and draws them again; this function draws the same numbers and leaves the global generators alone.

    Args:
        channels: C.
        used: number R of channels with kernels.
        count: number m of small kernels of each channel.
        repeats: number r of orders.

    Returns:
        ``channels`` (R,), ``along_width`` and ``along_height`` (r, R, m), ``centre`` (r, R).

    Example:
        >>> {name: tuple(value.shape) for name, value in released_orders(16, 12, 5, 4).items()}
        {'channels': (12,), 'along_width': (4, 12, 5), 'along_height': (4, 12, 5), 'centre': (4, 12)}
    """
    import numpy as np

    generator = torch.Generator().manual_seed(RELEASED_SEED)
    orders = {}
    for name in ('along_width', 'along_height'):
        drawn = [torch.randperm(count, generator=generator) for _ in range(repeats * used)]
        orders[name] = torch.stack(drawn).view(repeats, used, count)
    centre = [torch.randint(0, count, (used,), generator=generator) for _ in range(repeats)]
    left = np.random.RandomState(RELEASED_SEED).choice(channels, channels - used, replace=False)
    kept = sorted(set(range(channels)) - set(left.tolist()))
    return {'channels': torch.tensor(kept), **orders, 'centre': torch.stack(centre)}


def stripes(small: Tensor, along_width: Tensor, along_height: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Put small kernels together to a row, a column and a small kernel for each channel.

    :math:`H_j[a, ik + b] = \sum_r w_{j, \pi_r(i)}[a, b]`, :math:`V_j[ik + a, b] = \sum_r w_{j, \sigma_r(i)}[a, b]`,
    :math:`S_j = \sum_r w_{j, c_r}`.

    Args:
        small: w, (R, m, k, k): m small kernels for each of R channels.
        along_width: :math:`\pi`, (r, R, m), a permutation of the m for each repeat and channel.
        along_height: :math:`\sigma`, (r, R, m).
        centre: c, (r, R), one of the m.

    Returns:
        H (R, 1, k, m k), V (R, 1, m k, k) and S (R, 1, k, k).

    Example:
        >>> order = torch.arange(2).view(1, 1, 2)
        >>> [tuple(part.shape) for part in stripes(torch.ones(1, 2, 3, 3), order, order, torch.zeros(1, 1, dtype=int))]
        [(1, 1, 3, 6), (1, 1, 6, 3), (1, 1, 3, 3)]
    """
    channels, count, k, _ = small.shape
    rows = torch.arange(channels, device=small.device)[:, None]
    wide = small[rows, along_width].sum(0).transpose(1, 2).reshape(channels, 1, k, count * k)
    tall = small[rows, along_height].sum(0).reshape(channels, 1, count * k, k)
    return wide, tall, small[rows[:, 0], centre].sum(0)[:, None]


class ShiftwiseConv2d(SplitKernel, Conv2d):
    r"""Shift-wise convolution: a depthwise cross-shaped kernel, put together from 3x3 kernels.

    :math:`y = n_H(x * H) + n_V(x * V) + n_S(x * S) + x + b` for most channels, y = x + b for the others; n batch norms

    x and y (N, C, H, W); H (R, 1, 3, E), V (R, 1, E, 3), S (R, 1, 3, 3) of :func:`stripes` for R of the C channels.
    Each channel has ceil(D / 3) kernels of 3x3, which are the sum of ``paths``; each of H and V holds all of them
    ``repeats`` times in random orders. The orders are buffers, drawn once from ``seed`` without touching torch's global
    generator. In evaluation it computes one depthwise convolution with :meth:`kernel`, which :meth:`to_conv2d` returns;
    forward always convolves with the stripes, which is cheaper. There is no basic kernel: ``weight`` is ``None``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``; in_channels == out_channels == groups.
        kernel_extent: length D of the stripes, odd, >= 3; ``kernel_size``, an odd multiple of 3, by default. The kernel
            that convolves reaches from -(D // 2) to E - 1 - D // 2 with E = 3 ceil(D / 3), so ``kernel_size`` becomes
            2 max(D // 2, E - 1 - D // 2) + 1, and the padding fits it.
        ghost: share of the channels that are left as they are, >= 0, < 1.
        paths: number of kernels that are added up to one small kernel, >= 1; one after training, too.
        repeats: number of orders in which the small kernels are added, >= 1.
        seed: seed of the orders, >= 0.

    Raises:
        ValueError: if a value is invalid, or the layer is not depthwise.
        TypeError: if an argument is unknown or has the wrong type.

    Source: Shift-ConvNets, 2024, section 3. The public code permutes the channels of its output and needs a CUDA
    extension; this layer does neither.

    Example:
        >>> conv = ShiftwiseConv2d(8, 8, 3, padding=1, groups=8, kernel_extent=13)
        >>> conv(torch.randn(2, 8, 9, 9)).shape, conv.kernel_size, conv.eval().kernel().shape
        (torch.Size([2, 8, 9, 9]), (17, 17), torch.Size([8, 1, 17, 17]))
    """

    Options = ShiftwiseOptions
    short_name = 'shiftwise'
    # It belongs to the operators with branches: the folded layer is what they are trained for.
    costs_more_folded = False
    folds = 'into one plain convolution, with the running statistics of its norms'

    def extent(self, kernel_size: tuple[int, ...]) -> int:
        """Return the size of the kernel that convolves.

        Raises:
            ValueError: if ``kernel_extent`` is needed.

        Example:
            >>> ShiftwiseConv2d(8, 8, 51, padding=25, groups=8).extent((51, 51))
            51
        """
        self._length = self.options.kernel_extent or max(kernel_size)
        extent = _symmetric_extent(self._length)
        if self.options.kernel_extent is None and kernel_size != (extent, extent):
            raise ArgumentError(
                f'kernel_size must be an odd multiple of 3, the same in both directions, got {kernel_size}; set '
                f'kernel_extent={self._length + 1 - self._length % 2}, with which the padding fits'
            )
        return extent

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the small kernels, the norms and the buffers of orders.

        Raises:
            ValueError: if the layer is not depthwise or has fewer than two channels with kernels.

        Example:
            >>> [name for name, _ in ShiftwiseConv2d(8, 8, 9, groups=8, paths=1).named_buffers() if 'norm' not in name]
            ['channels', 'along_width', 'along_height', 'centre']
        """
        if not self.in_channels == self.out_channels == self.groups:
            raise ArgumentError(
                'ShiftwiseConv2d needs in_channels == out_channels == groups (a depthwise convolution), got '
                f'{self.in_channels}, {self.out_channels} and {self.groups}; where can leave this layer out'
            )
        options = self.options
        used = 2 * math.floor(self.in_channels * (1 - options.ghost) / 2)
        if not used:
            raise ArgumentError(
                f'ShiftwiseConv2d needs at least two channels with kernels, got {self.in_channels} channels and '
                f'ghost={options.ghost}; use a smaller ghost'
            )
        count = math.ceil(self._length / SMALL)
        kernels = [Kernel((used * count, 1, SMALL, SMALL), **factory) for _ in range(options.paths)]
        self.paths = nn.ModuleList(kernels)
        self.norm_width = nn.BatchNorm2d(used, **factory)
        self.norm_height = nn.BatchNorm2d(used, **factory)
        self.norm_centre = nn.BatchNorm2d(used, **factory)
        device = factory.get('device')
        shapes = {
            'channels': (used,),
            'along_width': (options.repeats, used, count),
            'along_height': (options.repeats, used, count),
            'centre': (options.repeats, used),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.empty(shape, dtype=torch.int64, device=device))

    @torch.no_grad()
    def reset_operator_parameters(self) -> None:
        """Draw the small kernels, start the norms, and draw the orders from ``seed``.

        Example:
            >>> ShiftwiseConv2d(8, 8, 9, groups=8).reset_operator_parameters()
        """
        for kernel in self.paths:
            nn.init.trunc_normal_(kernel.weight, std=0.02)
        for norm in (self.norm_width, self.norm_height, self.norm_centre):
            norm.reset_parameters()
        generator = torch.Generator().manual_seed(self.options.seed)
        repeats, used, count = self.along_width.shape
        for order in (self.along_width, self.along_height):
            drawn = [torch.randperm(count, generator=generator, device='cpu') for _ in range(repeats * used)]
            order.copy_(torch.stack(drawn).view(repeats, used, count))
        self.centre.copy_(torch.randint(0, count, (repeats, used), generator=generator, device='cpu'))
        chosen = torch.randperm(self.in_channels, generator=generator, device='cpu')[:used]
        self.channels.copy_(chosen.sort().values)

    def _stripes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the stripes, (R, 1, 3, D), (R, 1, D, 3) and (R, 1, 3, 3), centred in ``kernel_size``."""
        dtype = wide_type(self._parameter().dtype)
        total = 0
        for kernel in self.paths:
            total = total + kernel.weight.to(dtype)
        used, size = self.norm_width.num_features, self.kernel_size[0]
        small = total.view(used, -1, SMALL, SMALL)
        wide, tall, centre = stripes(small, self.along_width, self.along_height, self.centre)
        # Tap 0 lies at -(D // 2).
        before = size // 2 - self._length // 2
        after = size - before - SMALL * math.ceil(self._length / SMALL)
        # The sizes as numbers: the legacy ONNX exporter must know the shape of a kernel.
        wide = nn.functional.pad(wide, (before, after)).reshape(used, 1, SMALL, size)
        tall = nn.functional.pad(tall, (0, 0, before, after)).reshape(used, 1, size, SMALL)
        return wide, tall, centre.reshape(used, 1, SMALL, SMALL)

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, C, H, W) with the stripes; returns (N, C, H', W').

        Example:
            >>> ShiftwiseConv2d(8, 8, 9, padding=4, groups=8)(torch.randn(1, 8, 6, 7)).shape
            torch.Size([1, 8, 6, 7])
        """
        x = padded(self._checked(input), self.kernel_size, self.padding, self.dilation, self.padding_mode)
        axis = x.dim() - 3
        kept = self._kept(x, self.bias)
        x = x.index_select(axis, self.channels)
        with full_precision(x.device):
            kernels = [kernel.to(self._parameter().dtype) for kernel in self._stripes()]
        y = 0
        for kernel, norm in zip(kernels, (self.norm_width, self.norm_height, self.norm_centre)):
            part = self._convolve_part(x, kernel, None, self.norm_width.num_features)
            y = y + (norm(part) if part.dim() == 4 else norm(part[None])[0])
        return kept.index_add(axis, self.channels, y.to(kept.dtype))

    def _kernel(self) -> Tensor:
        dtype = wide_type(self._parameter().dtype)
        total = 0
        for kernel, norm in zip(self._stripes(), (self.norm_width, self.norm_height, self.norm_centre)):
            part = embedded(kernel, 1, self.kernel_size)
            total = total + scale_and_shift(norm)[0].view(-1, 1, 1, 1) * part
        identity = embedded(total.new_ones(self.in_channels, 1, 1, 1), 1, self.kernel_size)
        return identity.to(dtype).index_add(0, self.channels, total)

    def _folded(self, dense: bool) -> nn.Module:
        shift = 0
        for norm in (self.norm_width, self.norm_height, self.norm_centre):
            shift = shift + scale_and_shift(norm)[1]
        bias = shift.new_zeros(self.out_channels) if self.bias is None else self.bias.to(shift.dtype)
        bias = bias.index_add(0, self.channels, shift)
        return self._plain(self.kernel(), bias.to(self._parameter().dtype))

    def read_published(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Rename the weights of the authors' layer and add its orders, in place.

        Example:
            >>> state = {'LoRAs.0.weight': torch.ones(1)}
            >>> ShiftwiseConv2d(8, 8, 9, groups=8).read_published(state, ''); 'along_width' in state
            True
        """
        # Their layer also puts the channels with kernels first, which the layers after it
        # must undo: mmkerv.engine.checkpoint.convert_shiftwise.
        if f'{prefix}LoRAs.0.weight' in state_dict:
            for key in [key for key in state_dict if key.startswith(prefix)]:
                name = key.removeprefix(prefix)
                for pattern, ours in RELEASED:
                    name = re.sub(pattern, ours, name)
                state_dict[prefix + name] = state_dict.pop(key)
            repeats, used, count = self.along_width.shape
            orders = released_orders(self.in_channels, used, count, repeats)
            state_dict.update({f'{prefix}{name}': order for name, order in orders.items()})

    def _parameter(self) -> Tensor:
        return self.paths[0].weight

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any]:
        """Return the ``conv_cfg`` of the folded layer, which has a bias.

        Example:
            >>> ShiftwiseConv2d.deploy_cfg(dict(type='ShiftwiseConv', kernel_extent=13))
            {'type': 'mmkerv.FoldedConv', 'kernel_extent': 17, 'with_bias': True}
        """
        folded = super().deploy_cfg(conv_cfg) or {'type': 'mmkerv.FoldedConv'}
        if 'kernel_extent' in folded:
            folded['kernel_extent'] = _symmetric_extent(folded['kernel_extent'])
        return {**folded, 'with_bias': True}


class ShiftwiseConv(PlainFor1x1):
    """Class to name in configs: builds :class:`ShiftwiseConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`ShiftwiseConv2d`.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`ShiftwiseConv2d`.
        TypeError: as :class:`ShiftwiseConv2d`.

    Example:
        >>> conv = ShiftwiseConv(8, 8, 3, padding=1, groups=8, kernel_extent=51)
        >>> type(conv).__name__, conv.padding, type(ShiftwiseConv(8, 8, 1)).__name__
        ('ShiftwiseConv2d', (25, 25), 'Conv2d')
    """

    operator = ShiftwiseConv2d


def _symmetric_extent(length: int) -> int:
    """Return the odd size of the kernel around the middle tap that holds stripes of this length."""
    reach = length // 2
    return 2 * max(reach, SMALL * math.ceil(length / SMALL) - 1 - reach) + 1
