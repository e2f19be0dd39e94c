"""Operators that pad as mmcv's ``Conv2dAdaptivePadding`` does: TensorFlow's 'SAME', computed from the input's size.

y = op(pad(x)) with p = max((ceil(n / s) - 1) s + d (k - 1) + 1 - n, 0) zeros along an axis of n, p // 2 of them before.
"""

from functools import cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmkerv.ops.ckconv.base import ContinuousKernel
from mmkerv.ops.ckconv.sampling_grid import taps


def is_adaptive(conv: nn.Module) -> bool:
    """Whether ``conv`` is exactly mmcv's ``Conv2dAdaptivePadding``, found by name: mmcv need not be installed.

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
        zeros = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        # F.pad takes the last axis first.
        sides = [zeros // 2, zeros - zeros // 2, *sides]
    return F.pad(x, sides)


class AdaptivePadding:
    """Mixin of a convolution or operator: pads as ``Conv2dAdaptivePadding``, and folds into one.

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
        x = same_padded(x, self._extent(*args, **kwargs), self.stride, self.dilation)
        # By name: torch.compile of torch 2.1 cannot check the default arguments of what super() finds.
        return self.operator.forward(self, x, *args, **kwargs)

    def _extent(self, scale_factor: Any = None) -> tuple[int, ...]:
        """The kernel's size in this call."""
        if not isinstance(self, ContinuousKernel):
            return self.kernel_size
        return tuple(taps(k, r) for k, r in zip(self.kernel_size, self._ratio(scale_factor)))

    def _plain(self, weight: Tensor, bias: Tensor | None, **geometry: Any) -> nn.Module:
        plain = super()._plain(weight, bias, **geometry)
        # The 1x1 convolution of a separable kernel never pads.
        return pad_adaptively(plain, plain.padding) if max(weight.shape[2:]) > 1 else plain

    def extra_repr(self) -> str:
        """Return the operator's, and that the padding is adaptive.

        Example:
            >>> from mmkerv.ops import CKConv2d
            >>> adaptive(CKConv2d)(3, 8, 3).extra_repr()
            '3, 8, kernel_size=(3, 3), stride=(1, 1), adaptive_padding=True'
        """
        return f'{super().extra_repr()}, adaptive_padding=True'

    def __reduce_ex__(self, protocol: int) -> tuple:
        _, _, *rest = super().__reduce_ex__(protocol)
        return (_new, (self.operator,), *rest)


@cache
def adaptive(operator: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of an operator that pads as ``Conv2dAdaptivePadding``.

    Args:
        operator: class whose instances have the attributes of ``nn.Conv2d``.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> adaptive(KervConv2d).__name__, adaptive(KervConv2d) is adaptive(KervConv2d)
        ('KervConv2d', True)
    """
    # mmengine's initialisers look at the names of a class and of its direct bases alone.
    named = [base for base in operator.__bases__ if base.__name__ == 'Conv2d']
    members = {
        'operator': operator,
        '__doc__': f"{operator.__name__} with the padding of mmcv's ``Conv2dAdaptivePadding``.",
        '__module__': __name__,
    }
    return type(operator.__name__, (AdaptivePadding, operator, *named), members)


def _new(operator: type[nn.Module]) -> nn.Module:
    kind = adaptive(operator)
    return kind.__new__(kind)


def pad_adaptively(conv: nn.Module, padding: Any) -> nn.Module:
    """Let a built layer pad as ``Conv2dAdaptivePadding``, in place: its class becomes that subclass of it.

    Args:
        conv: operator, convolution, or the pair of convolutions that a separable kernel folds into; one of 1x1 has
            nothing to pad.
        padding: what the layer itself pads afterwards, in place of what it was built with.

    Returns:
        ``conv``.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> pad_adaptively(CoCConv2d(3, 8, 3), (0, 0)).extra_repr()
        '3, 8, kernel_size=(3, 3), stride=(1, 1), super_init=identity, adaptive_padding=True'
    """
    if isinstance(conv, nn.Sequential):
        for part in conv:
            if max(part.kernel_size) > 1:
                pad_adaptively(part, padding)
    elif type(conv) is nn.Conv2d:
        from mmcv.cnn.bricks import Conv2dAdaptivePadding

        conv.__class__ = Conv2dAdaptivePadding
    else:
        conv.__class__ = adaptive(type(conv))
    conv.padding = padding
    return conv
