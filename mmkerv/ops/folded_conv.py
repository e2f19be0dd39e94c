"""Plain convolutions that replace folded operators in deploy configs: one of another extent, or several in a row."""

from typing import Any

from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import CONV2D_KEYWORDS
from mmkerv.ops.core.geometry import extended_padding, odd
from mmkerv.ops.lowrank.chain import LowRankChain
from mmkerv.ops.lowrank.module import LowRankConv
from mmkerv.ops.separable.depthwise import DepthwiseSeparableConv
from mmkerv.ops.separable.spatial import SpatiallySeparableConv
from mmkerv.ops.separable.stacked import StackedConv

# Attributes that upstream libraries read from a convolution that they have built.
UPSTREAM_ATTRIBUTES = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups')
# Operators whose folded form is convolutions in a row.
SEPARABLE = {'depthwise': DepthwiseSeparableConv, 'spatial': SpatiallySeparableConv, 'stacked': StackedConv}


class FoldedConv:
    """Plain convolutions of the shapes that an operator's ``to_conv2d`` returns, for configs of folded networks.

    :math:`y = w * x + b`, or :math:`y = w_2 * (w_1 * x) + b` if ``separable``.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in ``nn.Conv2d``.
        kernel_extent: kernel size to use instead of ``kernel_size``, with matching padding; see :class:`CKConv`.
        separable: build an ``nn.Sequential`` of convolutions: with ``True`` those of a separable :class:`CKConv`,
            with ``'depthwise'`` those of a :class:`DepthwiseSeparableConv`, with ``'spatial'`` those of a
            :class:`SpatiallySeparableConv`, with ``'stacked'`` those of a :class:`StackedConv`; the last three stay one
            convolution where there is nothing to separate.
        lowrank: build an ``nn.Sequential`` of the convolutions of a :class:`LowRankConv` with these arguments, a dict;
            of weights of lower ranks it takes these ranks.
        replace_1x1: apply the other arguments to 1x1 kernels too, which otherwise stay plain.
        with_bias: give the layer a bias even if its host asks for none, since the norms inside the operator have one.

    Raises:
        ValueError: if a value is invalid, or ``kernel_extent`` has no matching padding.
        TypeError: for an unknown argument.

    Example:
        >>> [conv.kernel_size for conv in FoldedConv(4, 8, 3, padding=1, kernel_extent=7, separable=True)]
        [(7, 7), (1, 1)]
    """

    def __new__(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        device: Any = None,
        dtype: Any = None,
        *,
        kernel_extent: Any = None,
        separable: bool | str = False,
        lowrank: dict[str, Any] | None = None,
        replace_1x1: bool = False,
        with_bias: bool = False,
        **kwargs: Any,
    ) -> nn.Module:
        """Build the module."""
        own = ('kernel_extent', 'separable', 'lowrank', 'replace_1x1', 'with_bias')
        arguments.reject_unknown('FoldedConv', kwargs, (*own, *CONV2D_KEYWORDS))
        arguments.one_of(separable, 'separable', (True, False, *SEPARABLE))
        arguments.boolean(replace_1x1, 'replace_1x1')
        # A 1x1 convolution that the operator leaves plain keeps what its host asks for.
        sizes = arguments.integers(kernel_size, 2, 'kernel_size', 1)
        bias = bias or (arguments.boolean(with_bias, 'with_bias') and (max(sizes) > 1 or replace_1x1))
        factory = {'device': device, 'dtype': dtype}
        geometry = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        if lowrank is not None and (separable or kernel_extent is not None):
            raise ArgumentError(
                f'lowrank has a form of its own, got also separable={separable!r} and kernel_extent={kernel_extent!r}; '
                'leave those out'
            )
        if lowrank is not None or separable in SEPARABLE:
            if lowrank is None:
                operator = SEPARABLE[separable](*geometry, **factory)
            else:
                operator = LowRankConv(*geometry, **factory, **lowrank)
            if isinstance(operator, nn.Conv2d):
                return operator
            return _like(operator, operator.to_conv2d() if lowrank is None else LowRankChain(operator))
        plain = nn.Conv2d(*geometry, **factory)
        if plain.kernel_size == (1, 1) and not replace_1x1:
            return plain
        if kernel_extent is not None:
            odd(arguments.integers(kernel_extent, 2, 'kernel_extent', 1), 'kernel_extent')
            padding = extended_padding(kernel_size, kernel_extent, padding, dilation)
            kernel_size = kernel_extent
        rest = (kernel_size, stride, padding, dilation)
        if not separable:
            return nn.Conv2d(in_channels, out_channels, *rest, groups, bias, padding_mode, **factory)
        depthwise = nn.Conv2d(in_channels, in_channels, *rest, in_channels, False, padding_mode, **factory)
        pair = nn.Sequential(depthwise, nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=bias, **factory))
        pair = _like(depthwise, pair)
        pair.out_channels, pair.groups = out_channels, groups
        return pair


def _like(layer: nn.Module, pair: nn.Sequential) -> nn.Sequential:
    """Give convolutions in a row those attributes of ``layer`` that upstream libraries read."""
    for name in UPSTREAM_ATTRIBUTES:
        setattr(pair, name, getattr(layer, name))
    pair.transposed, pair.output_padding = False, (0, 0)
    return pair
