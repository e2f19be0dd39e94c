r"""Kolmogorov-Arnold convolution: each weight of a kernel becomes a learned function of the pixel under it.

Drokin, "Kolmogorov-Arnold Convolutions: Design Principles and Empirical Studies", 2024.
"""

import math
from numbers import Real
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import ConfigClass
from mmkerv.ops.core.convolve import convolve
from mmkerv.ops.core.response import Response
from mmkerv.ops.core.tracing import fx_leaf
from mmkerv.ops.kan.bases import Basis, count
from mmkerv.ops.kan.lift import lift

BASES = ('spline', 'gram', 'chebyshev', 'legendre', 'rbf')
BASE_ACTIVATIONS = (None, 'silu')
DEGREE = 3
# The sum that gives a spline loses digits with the degree: in float32 splines add up to 1 within 5e-6 at 10, and within
# 2e-4 at 20.
LARGEST_SPLINE_DEGREE = 10
# Size and range of the grid: intervals of splines, Gaussians.
GRIDS = {'spline': (5, (-1.0, 1.0)), 'rbf': (8, (-2.0, 2.0))}


class KANOptions(NamedTuple):
    """Arguments of :class:`KANConv2d` beyond those of torch's convolutions.

    Example:
        >>> KANOptions(basis='rbf').checked().functions()
        Basis(name='rbf', degree=0, grid_size=8, low=-2.0, high=2.0)
    """

    basis: str = 'spline'
    degree: int | None = None
    grid_size: int | None = None
    grid_range: tuple[float, float] | None = None
    base_activation: str | None = None

    def checked(self) -> 'KANOptions':
        """Return the options if each value and their combination are valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> KANOptions(basis='gram', grid_size=8).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: basis='gram' has no grid, got grid_size=8; leave grid_size out, or take \
basis='spline' or 'rbf'
        """
        arguments.one_of(self.basis, 'basis', BASES)
        arguments.one_of(self.base_activation, 'base_activation', BASE_ACTIVATIONS)
        if self.degree is not None:
            arguments.integer(self.degree, 'degree', 1)
            if self.basis == 'rbf':
                raise ArgumentError(
                    f"basis='rbf' has no degree, got degree={self.degree}; leave degree out: grid_size is the number "
                    'of Gaussians'
                )
            if self.basis == 'spline' and self.degree > LARGEST_SPLINE_DEGREE:
                raise ArgumentError(
                    f"degree must be <= {LARGEST_SPLINE_DEGREE} with basis='spline', whose sums lose precision with "
                    f"the degree, got {self.degree}; take a lower one with a larger grid_size, or basis='legendre'"
                )
        for name in ('grid_size', 'grid_range'):
            if getattr(self, name) is not None and self.basis not in GRIDS:
                raise ArgumentError(
                    f'basis={self.basis!r} has no grid, got {name}={getattr(self, name)!r}; leave {name} out, or take '
                    "basis='spline' or 'rbf'"
                )
        if self.grid_size is not None:
            arguments.integer(self.grid_size, 'grid_size', 2 if self.basis == 'rbf' else 1)
        return self if self.grid_range is None else self._replace(grid_range=_interval(self.grid_range))

    def functions(self) -> Basis:
        """Return the basis, with the defaults filled in.

        Example:
            >>> KANOptions(degree=2).functions()
            Basis(name='spline', degree=2, grid_size=5, low=-1.0, high=1.0)
        """
        size, interval = GRIDS.get(self.basis, (0, (0.0, 0.0)))
        degree = 0 if self.basis == 'rbf' else DEGREE if self.degree is None else self.degree
        size = size if self.grid_size is None else self.grid_size
        return Basis(self.basis, degree, size, *(self.grid_range or interval))


class BasisWeights(nn.Module):
    """Weights V (O, B * C/groups, kH, kW) on the functions of a basis, those of one input channel next to each other.

    A module of its own: while a library initialises a network, operators hide their submodules from it, so that V keeps
    its start where the library draws every matrix it finds.

    Example:
        >>> KANConv2d(4, 8, 3).basis.weight.shape
        torch.Size([8, 32, 3, 3])
    """

    def __init__(self, *shape: int, **factory: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, **factory))


class KANConv2d(Response, Conv2d):
    r"""Kolmogorov-Arnold convolution of images: in place of each weight a learned function of the pixel.

    :math:`y = W * b(x) + V * \Phi(x) + \mathrm{bias}`

    x (N, C, H, W), y (N, O, H', W'), W (O, C/groups, kH, kW). :math:`\Phi` lifts each channel to B maps, the functions
    of a basis, so that V is (O, B C/groups, kH, kW): with output o, input c and tap k, the pixel goes through the
    function :math:`\varphi_{ock}(x) = W_{ock} b(x) + \sum_j V_{ockj} \Phi_j(x)`. By default b is the identity and V
    starts at 0: the layer starts as the plain convolution with its ``weight``. Norm and activation, which the author
    has inside the layers, are the network's. It never folds.

    ============= ====================================================== ===================================
    ``basis``     :math:`\Phi`                                           B
    ============= ====================================================== ===================================
    ``spline``    B-splines on a grid of equal intervals                 ``grid_size`` (5) + ``degree`` (3)
    ``gram``      :math:`\mathrm{silu}(p_n(\tanh x))`, Gram polynomials  ``degree`` (3) + 1
    ``chebyshev`` :math:`T_n(\tanh x)`                                   ``degree`` (3) + 1
    ``legendre``  :math:`P_n(\tanh x)`                                   ``degree`` (3) + 1
    ``rbf``       :math:`\exp(-((x - c_j)/h)^2)`                         ``grid_size`` (8)
    ============= ====================================================== ===================================

    Splines add up to 1 on the grid's range, [-1, 1] by default, and are all 0 beyond ``degree`` further intervals, at
    2.2: larger inputs reach W alone. Gaussians have centres from -2 to 2 by default, at the distance h.

    The convolution pads :math:`\Phi(x)` with zeros, not x, and :math:`\Phi(0)` is not 0: a learned layer sees the
    border of the image. The other padding modes repeat pixels and have no such effect. In place of mmcv's
    ``Conv2dAdaptivePadding`` the layer pads x with zeros, as that does, and takes the border for pixels that are 0.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``.
        basis: a name from the table.
        degree: degree of the splines, from 1 to 10, or of the highest polynomial, >= 1; by default 3.
        grid_size: number of intervals of the splines, >= 1, or of Gaussians, >= 2.
        grid_range: lowest and highest point of the grid.
        base_activation: b: ``None``, the identity; or ``'silu'``, as the author has it. V then starts as
            ``nn.Conv2d`` draws a kernel of this shape, and there is no plain start.

    Raises:
        ValueError: if a value is invalid, or the basis does not have the option.
        TypeError: if an argument is unknown or has the wrong type.

    Source: Kolmogorov-Arnold Convolutions, 2024; for splines Kolmogorov-Arnold Networks, ICLR 2025.

    Example:
        >>> conv, x = KANConv2d(16, 32, 3, padding=1), torch.randn(2, 16, 9, 9)
        >>> bool(torch.equal(conv(x), torch.conv2d(x, conv.weight, conv.bias, padding=1)))
        True
        >>> KANConv2d(16, 32, 3, basis='gram').basis.weight.shape
        torch.Size([32, 64, 3, 3])
    """

    Options = KANOptions
    short_name = 'kan'
    takes_1x1 = True

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the weights on the basis.

        Example:
            >>> list(KANConv2d(4, 8, 3).own_parameters())
            ['basis.weight']
        """
        self.functions = self.options.functions()
        outputs, width, *taps = self.weight.shape
        self.basis = BasisWeights(outputs, count(self.functions) * width, *taps, **factory)

    def reset_operator_parameters(self) -> None:
        """Set V to 0; with a base activation draw it as ``nn.Conv2d`` draws a kernel, from its own fan-in.

        Example:
            >>> conv = KANConv2d(4, 8, 3); conv.reset_operator_parameters()
            >>> float(conv.basis.weight.abs().sum())
            0.0
        """
        if self.starts_as_identity:
            nn.init.zeros_(self.basis.weight)
        else:
            nn.init.kaiming_uniform_(self.basis.weight, a=math.sqrt(5))

    @property
    def starts_as_identity(self) -> bool:
        """``True`` unless there is a base activation.

        Example:
            >>> KANConv2d(4, 8, 3).starts_as_identity, KANConv2d(4, 8, 3, base_activation='silu').starts_as_identity
            (True, False)
        """
        return self.options.base_activation is None

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve b(x) and the lifted ``input`` (N, C, H, W), or a single sample (C, H, W), and add both.

        Example:
            >>> KANConv2d(3, 8, 3, padding=1, basis='legendre', degree=4)(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 5, 5])
        """
        # Zeros are for the lifted maps. Other modes repeat pixels, before lifting or after it, and before is cheaper.
        x = input if self.padding_mode == 'zeros' else self._pad(input)[0]
        base = x if self.options.base_activation is None else F.silu(x)
        # First, because torch's convolution refuses what is no image for the layer.
        y = self._respond(base, self.weight, self.bias)
        return y + self._respond(lift(x, self.functions), self.basis.weight, None)

    def _respond(self, maps: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        maps, padding = self._pad(maps) if self.padding_mode == 'zeros' else (maps, (0, 0))
        return convolve(maps, kernel, bias, self.stride, padding, self.dilation, self.groups)

    def curves(self, x: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
        r"""Compute the learned functions :math:`\varphi_{ock}` at the numbers ``x``.

        Args:
            x: (P,).
            outputs: numbers o of output channels, (F,).
            inputs: numbers c of input channels within the group, (G,).

        Returns:
            (F, G, kH, kW, P), in the type of the parameters.

        Example:
            >>> conv = KANConv2d(4, 8, 3)
            >>> conv.curves(torch.linspace(-1, 1, 5), torch.tensor([0, 7]), torch.tensor([1])).shape
            torch.Size([2, 1, 3, 3, 5])
        """
        x = x.to(self.weight)
        base = x if self.options.base_activation is None else F.silu(x)
        phi = lift(x.view(1, 1, 1, -1), self.functions)[0, :, 0]
        basis = self.basis.weight.view(*self.weight.shape[:2], len(phi), *self.kernel_size)
        chosen = basis[outputs][:, inputs].movedim(2, -1)
        return self.weight[outputs][:, inputs][..., None] * base + chosen @ phi

    def _linear(self) -> None:
        return None

    def _setting(self) -> str:
        return f' with basis={self.options.basis!r}'


class KANConv(ConfigClass):
    """Class to name in configs: builds :class:`KANConv2d`, 1x1 included.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`KANConv2d`.

    Raises:
        ValueError: as :class:`KANConv2d`.
        TypeError: as :class:`KANConv2d`.

    Example:
        >>> type(KANConv(8, 8, 1, basis='gram')).__name__
        'KANConv2d'
    """

    operator = KANConv2d


def _interval(value: Any) -> tuple[float, float]:
    """Return ``grid_range`` as two finite numbers, the lower one first."""
    rule = f'grid_range must be the lowest and the highest point of the grid, got {value!r}; use such as (-1, 1)'
    ends = value if isinstance(value, (tuple, list)) else ()
    numbers = [float(end) for end in ends if isinstance(end, Real) and not isinstance(end, bool)]
    # Also refuses what is not a number.
    if len(ends) != 2 or len(numbers) != 2 or not -math.inf < numbers[0] < numbers[1] < math.inf:
        raise ArgumentError(rule)
    return numbers[0], numbers[1]
