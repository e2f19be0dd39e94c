r"""Weighted convolution: each tap of the kernel is multiplied by a density that depends on its position.

K = W * (a_h a_w^T), a = (d_1, ..., d_m, 1, d_m, ..., d_1), y = conv2d(x, K, b). Cammarasana and Patane, "Optimal
Weighted Convolution for Classification and Denoising" (2025), abstract.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.geometry import odd
from mmkerv.ops.core.limits import within
from mmkerv.ops.core.precision import wide_type

LEAST = 1e-3


class WeightedOptions(NamedTuple):
    """Arguments of :class:`WeightedConv2d` beyond those of torch's convolutions.

    Example:
        >>> WeightedOptions(density=(0.2, 0.8)).checked().learnable
        True
    """

    density: Any = 1.0
    learnable: bool = True
    rescale: bool = False

    def checked(self) -> 'WeightedOptions':
        """Return the options if each value is valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> WeightedOptions(density=0.0).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: density must be >= 0.001, got 0.0
        """
        _densities(self.density, (3, 3), check_length=False)
        arguments.boolean(self.learnable, 'learnable')
        arguments.boolean(self.rescale, 'rescale')
        return self


def density_map(rows: Tensor | None, columns: Tensor | None) -> Tensor:
    r"""Compute the density of each tap: :math:`\Phi = a_h a_w^T` with :math:`a = (d_1, ..., d_m, 1, d_m, ..., d_1)`.

    Args:
        rows: d of the vertical axis from the outermost tap inwards, (m_h,), or ``None`` for an extent of 1.
        columns: the same of the horizontal axis, (m_w,).

    Returns:
        The densities, (2 m_h + 1, 2 m_w + 1).

    Example:
        >>> density_map(torch.tensor([0.5]), None)
        tensor([[0.5000],
                [1.0000],
                [0.5000]])
    """
    known = rows if rows is not None else columns
    axes = []
    for half in (rows, columns):
        if half is None:
            axes.append(torch.ones(1) if known is None else known.new_ones(1))
        else:
            axes.append(torch.cat([half, half.new_ones(1), half.flip(0)]))
    return axes[0][:, None] * axes[1]


class WeightedConv2d(GeneratedKernel, Conv2d):
    r"""Weighted convolution: ``conv2d`` with a kernel whose taps are multiplied by a density.

    :math:`y = \mathrm{conv2d}(x, K, b)` with :math:`K = W \odot a_h a_w^T`, a = (d_1, ..., d_m, 1, d_m, ..., d_1)

    x (N, C, H, W), y (N, O, H', W'), W and K (O, C/groups, kH, kW), m = (k - 1)/2, d_1 the outermost tap. The layer
    computes no function that a plain convolution cannot, since W can take up the densities: it changes the learning
    rate and the weight decay of each tap, and the size of the initial outputs. Two numbers m at most are learned for
    each layer and axis.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``; the kernel size is odd.
        density: d, > 0: one number for all taps but the middle one of each axis, a sequence (d_1, ..., d_m) for both
            axes, or a pair of such sequences for rows and columns. With 1 the layer starts as the plain convolution;
            with others it does so in a network that ``mmkerv.convert`` converts, which divides the weights by them.
        learnable: learn the densities; they are kept >= 1e-3.
        rescale: divide the kernel by the root mean square of the densities, so that the variance of the outputs is
            that of a plain convolution; useful where no norm follows.

    Raises:
        ValueError: if a value is invalid, or ``density`` does not fit the kernel size.
        TypeError: if an argument is unknown or has the wrong type.

    Source: Optimal Weighted Convolution for Classification and Denoising, 2025, abstract.

    Example:
        >>> conv = WeightedConv2d(3, 8, 3, padding=1, density=0.5)
        >>> conv(torch.randn(1, 3, 5, 5)).shape, [round(float(v), 2) for v in (conv.kernel() / conv.weight)[0, 0, 0]]
        (torch.Size([1, 8, 5, 5]), [0.25, 0.5, 0.25])
    """

    Options = WeightedOptions
    short_name = 'weighted'
    no_decay = ('density_rows', 'density_columns')

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the densities of both axes: parameters, or buffers unless ``learnable``.

        Raises:
            ValueError: if the kernel size is even or ``density`` does not fit it.

        Example:
            >>> [p.shape for p in WeightedConv2d(4, 8, (1, 7)).own_parameters().values()]
            [torch.Size([3])]
        """
        self._initial = _densities(self.options.density, odd(self.kernel_size))
        for name, values in self._initial.items():
            empty = torch.empty(len(values), **factory) if values else None
            if self.options.learnable:
                self.register_parameter(name, None if empty is None else nn.Parameter(empty))
            else:
                self.register_buffer(name, empty)

    @torch.no_grad()
    def reset_operator_parameters(self) -> None:
        """Set the densities to ``density``.

        Example:
            >>> WeightedConv2d(4, 8, 3).reset_operator_parameters()
        """
        for name, values in self._initial.items():
            if values:
                current = getattr(self, name)
                current.copy_(torch.tensor(values, dtype=current.dtype))

    @property
    def starts_as_identity(self) -> bool:
        """``True`` if all densities start at 1.

        Example:
            >>> WeightedConv2d(4, 8, 3).starts_as_identity, WeightedConv2d(4, 8, 3, density=0.7).starts_as_identity
            (True, False)
        """
        return all(value == 1 for values in self._initial.values() for value in values)

    @torch.no_grad()
    def start_from_plain(self) -> str | None:
        """Divide ``weight`` by the densities, so that the kernel is the weight that it was.

        Example:
            >>> conv = WeightedConv2d(4, 8, 3, density=0.5); weight = conv.weight.detach().clone()
            >>> conv.start_from_plain(), bool(torch.allclose(conv.kernel(), weight))
            ('divided by the densities', True)
        """
        if self.starts_as_identity:
            return None
        self.weight.copy_(self.weight / self.density())
        return 'divided by the densities'

    def density(self) -> Tensor:
        """Return the factor of each tap, (kH, kW), in the type in which kernels are computed.

        Example:
            >>> WeightedConv2d(4, 8, 3, density=0.5, rescale=True).density().square().mean()
            tensor(1., grad_fn=<MeanBackward0>)
        """
        dtype = wide_type(self.weight.dtype)
        rows, columns = self.density_rows, self.density_columns
        rows = None if rows is None else within(rows, LEAST).to(dtype)
        columns = None if columns is None else within(columns, LEAST).to(dtype)
        phi = density_map(rows, columns).to(device=self.weight.device, dtype=dtype)
        return phi / phi.square().mean().sqrt() if self.options.rescale else phi

    def _kernel(self) -> Tensor:
        return self.weight.to(wide_type(self.weight.dtype)) * self.density()


class WeightedConv(PlainFor1x1):
    """Class to name in configs: builds :class:`WeightedConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`WeightedConv2d`.
        replace_1x1: also replace 1x1 kernels, whose only tap has density 1.

    Raises:
        ValueError: as :class:`WeightedConv2d`.
        TypeError: as :class:`WeightedConv2d`.

    Example:
        >>> type(WeightedConv(8, 8, 3, density=0.7)).__name__, type(WeightedConv(8, 8, 1)).__name__
        ('WeightedConv2d', 'Conv2d')
    """

    operator = WeightedConv2d


def _densities(density: Any, size: tuple[int, ...], check_length: bool = True) -> dict[str, list[float]]:
    """Return the densities of rows and columns from the outermost tap inwards."""
    pairs = isinstance(density, Sequence) and density and all(isinstance(d, Sequence) for d in density)
    if pairs and len(density) != 2:
        raise ArgumentError(f'density must be one sequence for both axes or two, got {density!r}')
    result = {}
    for name, extent, axis in zip(('density_rows', 'density_columns'), size, density if pairs else (density, density)):
        middle = (extent - 1) // 2
        if isinstance(axis, str) or not isinstance(axis, Sequence):
            result[name] = [arguments.real(axis, 'density', LEAST)] * middle
            continue
        values = [arguments.real(value, 'density', LEAST) for value in axis]
        # One sequence is for both axes, of which one may have a single tap.
        if check_length and (middle or pairs) and len(values) != middle:
            raise ArgumentError(
                f'density must have {middle} values (d_1 outermost) for a kernel of {extent} taps, got {axis!r}; give '
                'one number to use it for every tap'
            )
        result[name] = values if middle else []
    return result
