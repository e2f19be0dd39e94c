"""Classes named in configs: they build the operator, or a plain convolution where the operator gains nothing."""

from typing import Any

from torch import nn

from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import CONV2D_KEYWORDS, Conv2d


class ConfigClass:
    """Base of the classes named in configs: builds ``operator``, or ``nn.Conv2d`` where ``operator`` leaves it plain.

    The operator's arguments are checked in both cases. It has the name of its operator without ``2d``.

    Example:
        >>> from mmkerv.ops import DepthwiseSeparableConv
        >>> type(DepthwiseSeparableConv(8, 8, 3)).__name__, type(DepthwiseSeparableConv(8, 8, 1)).__name__
        ('DepthwiseSeparableConv2d', 'Conv2d')
    """

    operator: type[Conv2d]
    # Arguments that the operator does not have.
    keywords: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, 'operator'):
            cls.short_name, cls.takes_1x1 = cls.operator.short_name, cls.operator.takes_1x1

    def __new__(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *args: Any,
        **kwargs: Any,
    ) -> nn.Module:
        """Build the layer."""
        plain = {name: value for name, value in kwargs.items() if name in CONV2D_KEYWORDS}
        cls.operator.checked_options({name: value for name, value in kwargs.items() if name not in plain}, cls)
        size = arguments.integers(kernel_size, 2, 'kernel_size', 1)
        geometry = (in_channels, out_channels, size, stride, padding, dilation, groups, *args)
        if cls.leaves_plain(in_channels, out_channels, size, groups):
            return nn.Conv2d(*geometry, **plain)
        return cls.operator(*geometry, **kwargs)

    @classmethod
    def leaves_plain(cls, in_channels: int, out_channels: int, kernel_size: tuple[int, ...], groups: int) -> bool:
        """Return ``True`` if a convolution of this shape stays plain.

        Example:
            >>> from mmkerv.ops import DepthwiseSeparableConv
            >>> DepthwiseSeparableConv.leaves_plain(8, 8, (1, 1), groups=1)
            True
        """
        return cls.operator.leaves_plain(in_channels, kernel_size, groups)

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any] | None:
        """Return the ``conv_cfg`` of the folded layer, or ``None`` for a plain convolution of the same shape.

        Args:
            conv_cfg: the config that the layer was built with.

        Example:
            >>> from mmkerv.ops import DepthwiseSeparableConv
            >>> DepthwiseSeparableConv.deploy_cfg(dict(type='DepthwiseSeparableConv'))
            {'type': 'mmkerv.FoldedConv', 'separable': 'depthwise'}
        """
        return cls.operator.deploy_cfg(conv_cfg)


class PlainFor1x1(ConfigClass):
    """Base of a config class with the argument ``replace_1x1``, which also replaces 1x1 convolutions.

    That 1x1 convolutions otherwise stay plain is the rule of :meth:`mmkerv.ops.core.base.ConvNd.leaves_plain`.

    Example:
        >>> from mmkerv.ops import CoCConv
        >>> [type(CoCConv(8, 8, 1, replace_1x1=replace)).__name__ for replace in (False, True)]
        ['Conv2d', 'CoCConv2d']
    """

    keywords = ('replace_1x1',)

    def __new__(cls, *args: Any, replace_1x1: bool = False, **kwargs: Any) -> nn.Module:
        """Build the layer."""
        arguments.boolean(replace_1x1, 'replace_1x1')
        return cls.operator(*args, **kwargs) if replace_1x1 else super().__new__(cls, *args, **kwargs)
