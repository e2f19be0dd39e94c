r"""Dilated convolution with learnable spacings: the taps of a kernel sit at learned, real positions.

K[a] = sum_j w_j m(a - q_j) with q_j the position of tap j and m an interpolation, y = conv2d(x, K, b).
Khalfaoui-Hassani et al., "Dilated Convolution with Learnable Spacings", ICLR 2023 ('v0'); "Dilated Convolution with
Learnable Spacings: beyond bilinear interpolation", 2023 ('v1', 'max', 'gauss').
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.geometry import holds, odd
from mmkerv.ops.core.limits import within
from mmkerv.ops.core.precision import wide_type

VERSIONS = ('v0', 'v1', 'max', 'gauss')
# Versions whose interpolation has a learned width.
WITH_WIDTH = {'max': 0.0, 'gauss': 0.23}
NARROWEST_GAUSSIAN = 0.27
# Keeps the sum of an interpolation that misses the grid away from 0.
TINY = 1e-7


class DCLSOptions(NamedTuple):
    """Arguments of :class:`DCLSConv2d` beyond those of torch's convolutions.

    Example:
        >>> DCLSOptions(kernel_extent=7).checked().version
        'v0'
    """

    version: str = 'v0'
    kernel_extent: Any = None
    positions_init: str = 'grid'
    points: int | None = None

    def checked(self) -> 'DCLSOptions':
        """Return the options if each value and their combination are valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> DCLSOptions(points=4).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: positions_init='grid' puts the taps of a plain kernel on its grid, got \
points=4; use positions_init='normal', or leave points out
        """
        arguments.one_of(self.version, 'version', VERSIONS)
        arguments.one_of(self.positions_init, 'positions_init', ('grid', 'normal'))
        if self.kernel_extent is not None:
            odd(arguments.integers(self.kernel_extent, 2, 'kernel_extent', 1), 'kernel_extent')
        if self.points is not None:
            arguments.integer(self.points, 'points', 1)
            if self.positions_init == 'grid':
                raise ArgumentError(
                    f"positions_init='grid' puts the taps of a plain kernel on its grid, got points={self.points}; use "
                    "positions_init='normal', or leave points out"
                )
        return self


def interpolated_kernel(
    values: Tensor, positions: Tensor, size: tuple[int, int], version: str = 'v0', width: Tensor | None = None
) -> Tensor:
    r"""Place values at real positions of a grid: :math:`K_{ab} = \sum_j w_j m_j(a, b)`.

    With t the distance of grid point a from position :math:`p_j` along one axis, :math:`m_j` is the product over both
    axes of

    * ``'v0'``: :math:`\max(0, 1 - |t|)`, bilinear interpolation;
    * ``'v1'``: the same, divided by its sum over the grid;
    * ``'max'``: :math:`\max(0, 1 + |s_j| - |t|)`, divided by its sum;
    * ``'gauss'``: :math:`\exp(-t^2 / 2 (0.27 + |s_j|)^2)`, divided by its sum.

    Where the interpolation has a kink, which it has at every position on the grid, its derivative is the mean of the
    one-sided ones.

    Args:
        values: w, (O, I, n).
        positions: p, (2, O, I, n): rows, then columns, relative to the middle of the grid.
        size: number of rows and columns of the grid, both odd.
        version: ``'v0'``, ``'v1'``, ``'max'`` or ``'gauss'``.
        width: s, (2, O, I, n), for ``'max'`` and ``'gauss'``.

    Returns:
        K, (O, I, *size).

    Example:
        >>> interpolated_kernel(torch.ones(1, 1, 1), torch.tensor([0.0, 0.25]).view(2, 1, 1, 1), (1, 3)).flatten()
        tensor([0.0000, 0.7500, 0.2500])
    """
    axes = []
    for axis, taps in enumerate(size):
        grid = torch.arange(taps, dtype=values.dtype, device=values.device) - (taps - 1) // 2
        distance = grid - positions[axis].unsqueeze(-1)
        if version == 'gauss':
            axes.append(torch.exp(-0.5 * (distance / (NARROWEST_GAUSSIAN + width[axis].abs().unsqueeze(-1))).square()))
        else:
            # The derivative of |s| at 0 is that of growing wider: with torch's, 0, the width would never leave 0.
            reach = 1 if width is None else 1 + torch.where(width[axis] < 0, -width[axis], width[axis]).unsqueeze(-1)
            axes.append(_ramp(reach - distance.abs()))
    rows, columns = axes
    if version != 'v0':
        values = values / (rows.sum(-1) * columns.sum(-1) + TINY)
    return (values.unsqueeze(-1) * rows).transpose(-1, -2) @ columns


def _ramp(x: Tensor) -> Tensor:
    """Compute max(0, x) with derivative 1/2 at 0."""
    # Not `heaviside`, which ONNX does not have.
    slope = (x > 0).to(x.dtype) + 0.5 * (x == 0).to(x.dtype)
    return x * slope


class DCLSConv2d(GeneratedKernel, Conv2d):
    r"""Dilated convolution with learnable spacings: ``conv2d`` with taps at learned positions.

    :math:`y = \mathrm{conv2d}(x, K, b)` with :math:`K_{oi} = \sum_j W_{oij}\, m(\cdot - p_{oij})`

    x (N, C, H, W), y (N, O, H', W'), W (O, C/groups, kH, kW) with one position for each of its kH kW taps, K (O,
    C/groups, D, D) with D = ``kernel_extent``. With the defaults the positions start on the grid of the plain kernel,
    so that the layer starts as the plain convolution with its ``weight``; its receptive field grows as the positions
    move apart. The layer is equivalent to one plain convolution of size D.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``.
        version: interpolation between grid points, see :func:`interpolated_kernel`. ``'v1'``, ``'max'`` and ``'gauss'``
            are normalised. On the grid, ``'v1'`` and ``'max'`` differ from the plain convolution by 1e-7 of its size;
            ``'gauss'`` spreads every tap over its neighbours, so it does not start as the plain convolution.
        kernel_extent: size D of K, odd, one integer or two; the padding becomes padding + dilation * (D -
            kernel_size) // 2, so that the output keeps its size. ``kernel_size`` by default.
        positions_init: ``'grid'``, or ``'normal'``: normally distributed with standard deviation 0.5, as the paper has.
        points: number of taps for each pair of channels instead of kH * kW; their values are the parameter ``values``
            (O, C/groups, points), and ``weight`` is ``None``. Needs ``positions_init='normal'``.

    Attributes:
        positions: p, (2, O, C/groups, n) for the n = kH * kW taps, row by row, or n = points; vertical positions first,
            relative to the middle of K; kept within [-(D // 2), D // 2]. The papers train them with 5 times the
            learning rate and without weight decay, as our tools do, and share them between the blocks of a stage.
        width: s of ``'max'`` and ``'gauss'``, of the same shape; ``None`` for the others.

    Raises:
        ValueError: if a value is invalid, an extent is even or smaller than the taps' grid, or there is no padding for
            ``kernel_extent``.
        TypeError: if an argument is unknown or has the wrong type.

    Source: Dilated Convolution with Learnable Spacings, ICLR 2023, section 3; beyond bilinear interpolation, 2023.

    Example:
        >>> conv = DCLSConv2d(16, 32, 3, padding=1, kernel_extent=7)
        >>> conv(torch.randn(2, 16, 9, 9)).shape, conv.weight.shape, conv.kernel().shape
        (torch.Size([2, 32, 9, 9]), torch.Size([32, 16, 3, 3]), torch.Size([32, 16, 7, 7]))
    """

    Options = DCLSOptions
    short_name = 'dcls'
    no_decay = ('positions', 'width')
    lr_mult = {'positions': 5.0}

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the positions, the widths of ``version``, and with ``points`` the ``values`` in place of ``weight``.

        Raises:
            ValueError: if the kernel's extent is even, or smaller than the grid of the taps.

        Example:
            >>> {name: tuple(p.shape) for name, p in DCLSConv2d(4, 8, 3, version='gauss').own_parameters().items()}
            {'positions': (2, 8, 4, 9), 'width': (2, 8, 4, 9)}
        """
        odd(self.kernel_size)
        options = self.options
        if options.positions_init == 'grid':
            holds(self.kernel_size, self.weight.shape[2:], ", or set positions_init='normal'")
        # Of four dimensions: `to(memory_format=torch.channels_last)` refuses parameters of five.
        shape = (*self.weight.shape[:2], options.points or math.prod(self.weight.shape[2:]))
        if options.points is not None:
            self.weight = None
            self.values = nn.Parameter(torch.empty(shape, **factory))
        self.positions = nn.Parameter(torch.empty(2, *shape, **factory))
        width = nn.Parameter(torch.empty(2, *shape, **factory)) if options.version in WITH_WIDTH else None
        self.register_parameter('width', width)

    def _reset_weight_and_bias(self) -> None:
        super()._reset_weight_and_bias()
        if self.weight is None and self.bias is not None:
            bound = 1 / math.sqrt(self.values[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    @torch.no_grad()
    def reset_operator_parameters(self) -> None:
        """Put the taps on the grid or at random positions; draw ``values`` if there are any.

        Example:
            >>> DCLSConv2d(1, 1, (1, 3), kernel_extent=(1, 7)).positions[1].flatten()
            tensor([-1.,  0.,  1.], grad_fn=<ViewBackward0>)
        """
        if self.weight is None:
            nn.init.kaiming_uniform_(self.values, a=math.sqrt(5))
        if self.options.positions_init == 'grid':
            for axis, taps in enumerate(self.weight.shape[2:]):
                grid = torch.arange(taps, dtype=self.positions.dtype, device=self.positions.device) - (taps - 1) / 2
                grid = grid[:, None] if axis == 0 else grid
                self.positions[axis].copy_(grid.expand(self.weight.shape[2:]).flatten())
        else:
            nn.init.normal_(self.positions, std=0.5)
            for axis, limit in enumerate(self._limits()):
                self.positions[axis].clamp_(-limit, limit)
        if self.width is not None:
            nn.init.constant_(self.width, WITH_WIDTH[self.options.version])

    @property
    def starts_as_identity(self) -> bool:
        """``True`` for taps on the grid with ``version='v0'``, which alone is exact there.

        Example:
            >>> DCLSConv2d(4, 8, 3).starts_as_identity, DCLSConv2d(4, 8, 3, version='gauss').starts_as_identity
            (True, False)
        """
        return self.options.positions_init == 'grid' and self.options.version == 'v0'

    def option_for(self, parameter: str) -> str | None:
        """Return the option that would give the layer a parameter of this name.

        Example:
            >>> DCLSConv2d(4, 8, 3).option_for('width')
            "version='max' or 'gauss'"
        """
        missing = {'width': "version='max' or 'gauss'", 'values': 'points'}
        return missing.get(parameter) if getattr(self, parameter, None) is None else None

    def _limits(self) -> tuple[int, ...]:
        return tuple(k // 2 for k in self.kernel_size)

    def _kernel(self) -> Tensor:
        values = self.values if self.weight is None else self.weight.flatten(2)
        dtype = wide_type(values.dtype)
        factory = {'dtype': self.positions.dtype, 'device': self.positions.device}
        limits = torch.tensor(self._limits(), **factory).view(2, 1, 1, 1)
        positions = within(self.positions, -limits, limits).to(dtype)
        width = None if self.width is None else self.width.to(dtype)
        return interpolated_kernel(values.to(dtype), positions, self.kernel_size, self.options.version, width)

    def _parameter(self) -> Tensor:
        return self.values if self.weight is None else self.weight


class DCLSConv(PlainFor1x1):
    """Class to name in configs: builds :class:`DCLSConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`DCLSConv2d`.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`DCLSConv2d`.
        TypeError: as :class:`DCLSConv2d`.

    Example:
        >>> conv = DCLSConv(8, 8, 3, stride=2, padding=1, kernel_extent=7)
        >>> type(conv).__name__, conv.kernel_size, conv.padding, type(DCLSConv(8, 8, 1, kernel_extent=7)).__name__
        ('DCLSConv2d', (7, 7), (3, 3), 'Conv2d')
    """

    operator = DCLSConv2d
