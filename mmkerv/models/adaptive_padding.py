"""Operators with the padding of mmcv's ``Conv2dAdaptivePadding``: TensorFlow's 'SAME', computed from the input's size.

y = op(pad(x)) with p = max((ceil(n / s) - 1) s + d (k - 1) + 1 - n, 0) zeros along an axis of length n, p // 2 of them
before the input.
"""

from functools import cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmkerv.ops.core.arguments import ceil_div
from mmkerv.ops.core.norm_fusion import is_fusing_norm


def is_adaptive(conv: nn.Module) -> bool:
    """Return whether the class of ``conv`` is mmcv's ``Conv2dAdaptivePadding``.

    The class is compared by name, so that mmcv need not be installed.

    Example:
        >>> is_adaptive(nn.Conv2d(3, 8, 3))
        False
    """
    kind = type(conv)
    return kind.__name__ == 'Conv2dAdaptivePadding' and kind.__module__.startswith('mmcv.')


def same_padded(x: Tensor, kernel_size: Any, stride: Any, dilation: Any) -> Tensor:
    """Pad ``x`` (N, C, H, W) such that a convolution gives (N, O, ceil(H / stride), ceil(W / stride)).

    Args:
        x: input.
        kernel_size: of the convolution, one integer or two.
        stride: of the convolution.
        dilation: of the convolution.

    Example:
        >>> import torch
        >>> same_padded(torch.ones(1, 1, 4, 5), 3, 2, 1).shape
        torch.Size([1, 1, 5, 7])
    """
    sides: list[int] = []
    for n, k, s, d in zip(x.shape[-2:], _pair(kernel_size), _pair(stride), _pair(dilation)):
        zeros = max((ceil_div(n, s) - 1) * s + d * (k - 1) + 1 - n, 0)
        # F.pad takes the last axis first.
        sides = [zeros // 2, zeros - zeros // 2, *sides]
    return F.pad(x, sides)


class AdaptivePadding:
    """Mixin of a convolution or operator that pads as ``Conv2dAdaptivePadding`` does, and folds into such a layer.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> issubclass(adaptive(CoCConv2d), AdaptivePadding)
        True
    """

    operator: type[nn.Module]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Pad ``x`` (N, C, H, W) and apply the operator; returns (N, O, ceil(H / stride), ceil(W / stride)).

        Example:
            >>> import torch
            >>> from mmkerv.ops import CoCConv2d
            >>> adaptive(CoCConv2d)(3, 8, 3, stride=2)(torch.randn(1, 3, 8, 7)).shape
            torch.Size([1, 8, 4, 4])
        """
        # A continuous kernel is sampled at the size that this call asks for.
        size = self.sampled_size(*args, **kwargs) if hasattr(self, 'sampled_size') else self.kernel_size
        x = same_padded(x, size, self.stride, self.dilation)
        # Not super(): torch.compile of torch 2.1 cannot check the default arguments of a method found that way.
        return self.operator.forward(self, x, *args, **kwargs)

    def _plain(self, weight: Tensor, bias: Tensor | None, **geometry: Any) -> nn.Module:
        plain = super()._plain(weight, bias, **geometry)
        # The 1x1 convolution of a separable kernel needs no padding.
        return pad_adaptively(plain, plain.padding) if max(weight.shape[2:]) > 1 else plain

    def extra_repr(self) -> str:
        """Return the operator's arguments and ``adaptive_padding=True``.

        Example:
            >>> from mmkerv.ops import CKConv2d
            >>> adaptive(CKConv2d)(3, 8, 3).extra_repr()
            '3, 8, kernel_size=(3, 3), stride=(1, 1), adaptive_padding=True'
        """
        return f'{super().extra_repr()}, adaptive_padding=True'

    def __reduce_ex__(self, protocol: int) -> tuple:
        if is_fusing_norm():
            # The operator gives a folded layer, which already pads as this one does.
            return super().__reduce_ex__(protocol)
        _, _, *rest = super().__reduce_ex__(protocol)
        return (_new, (self.operator,), *rest)


@cache
def adaptive(operator: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of an operator that pads as ``Conv2dAdaptivePadding`` does.

    Args:
        operator: class whose instances have the attributes of ``nn.Conv2d``.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> adaptive(KervConv2d).__name__, adaptive(KervConv2d) is adaptive(KervConv2d)
        ('KervConv2d', True)
    """
    # mmengine's initialisers match the names of a class and of its direct bases only.
    matched = [base for base in operator.__bases__ if base.__name__ == 'Conv2d']
    members = {
        'operator': operator,
        '__doc__': f"{operator.__name__} with the padding of mmcv's ``Conv2dAdaptivePadding``.",
        '__module__': __name__,
    }
    return type(operator.__name__, (AdaptivePadding, operator, *matched), members)


def _new(operator: type[nn.Module]) -> nn.Module:
    """Create an instance without state, for pickle: the subclass has no name under which pickle could find it."""
    kind = adaptive(operator)
    return kind.__new__(kind)


def pad_adaptively(conv: nn.Module, padding: Any) -> nn.Module:
    """Return a layer that pads as ``Conv2dAdaptivePadding`` does, with the parameters of ``conv``.

    Args:
        conv: operator, convolution, or the pair of convolutions that a separable kernel folds into. It shares its state
            with the result; do not use it afterwards.
        padding: attribute ``padding`` of the result: the padding that follows the adaptive one.

    Returns:
        A layer of another class; for a pair, the pair itself with its layers replaced, except 1x1 ones, which need no
        padding.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> pad_adaptively(CoCConv2d(3, 8, 3), (0, 0)).extra_repr()
        "3, 8, kernel_size=(3, 3), stride=(1, 1), super_init='identity', adaptive_padding=True"
    """
    if isinstance(conv, nn.Sequential):
        for name, part in conv.named_children():
            if max(part.kernel_size) > 1:
                setattr(conv, name, pad_adaptively(part, padding))
        conv.padding = padding
        return conv
    if type(conv) is nn.Conv2d:
        from mmcv.cnn.bricks import Conv2dAdaptivePadding as kind
    else:
        kind = adaptive(type(conv))
    # The options that `conv` was built with are not known here, so its state is taken over instead.
    layer = kind.__new__(kind)
    layer.__dict__.update(conv.__dict__)
    layer.padding = padding
    return layer
