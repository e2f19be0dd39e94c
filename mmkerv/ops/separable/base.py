"""What separable convolutions share: two kernels in a row, which are one kernel of low rank.

y = K2 * (K1 * x) + b, with nothing non-linear between the two, so y = conv2d(x, K, b). Chazareix, "How to optimize
Convolutional Layer with Convolution Kernel" (2022), describes both kinds, and what they save.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import CONV2D_KEYWORDS
from mmkerv.ops.core.generated import GeneratedKernel


class SeparableKernel(GeneratedKernel):
    r"""Mixin of a convolution by two kernels in a row: :math:`y = K_2 * (K_1 * x) + b`.

    Example:
        >>> from mmkerv.ops import DepthwiseSeparableConv2d
        >>> issubclass(DepthwiseSeparableConv2d, SeparableKernel)
        True
    """

    has_weight = False
    # Forward convolves twice and never by the composed kernel, so `frozen_kernels` has nothing to keep.
    _has_kernel = False

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
        **unknown: Any,
    ):
        arguments.reject_unknown(type(self).__name__, unknown, CONV2D_KEYWORDS)
        factory = {'device': device, 'dtype': dtype}
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, **factory
        )
        for name, shape in self._shapes().items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, **factory)))
        self.reset_operator_parameters()

    @classmethod
    def separates(cls, in_channels: int, kernel_size: tuple[int, int], groups: int) -> bool:
        """Whether a convolution of this shape has something to separate.

        Example:
            >>> from mmkerv.ops import SpatiallySeparableConv2d
            >>> SpatiallySeparableConv2d.separates(8, (1, 7), groups=1)
            False
        """
        raise NotImplementedError(f'{cls.__name__} must implement separates')

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the two kernels, in the order they are applied."""
        raise NotImplementedError(f'{type(self).__name__} must implement _shapes')

    def _compose(self, first: Tensor, second: Tensor) -> Tensor:
        """The dense kernel (O, C/groups, kH, kW) of the two."""
        raise NotImplementedError(f'{type(self).__name__} must implement _compose')

    def _factors(self) -> nn.Sequential:
        """The two plain convolutions."""
        raise NotImplementedError(f'{type(self).__name__} must implement _factors')

    def reset_parameters(self) -> None:
        """Draw the bias as torch's convolutions do, and the two kernels.

        Example:
            >>> from mmkerv.ops import DepthwiseSeparableConv2d
            >>> DepthwiseSeparableConv2d(4, 4, 3).reset_parameters()
        """
        super().reset_parameters()
        self.reset_operator_parameters()

    @torch.no_grad()
    def reset_operator_parameters(self) -> None:
        """Draw both kernels uniformly with variance 1 / fan_in of each, so that the composed kernel's is 1 / fan_in.

        Example:
            >>> from mmkerv.ops import SpatiallySeparableConv2d
            >>> op = SpatiallySeparableConv2d(64, 64, 3); op.reset_operator_parameters()
            >>> 0.9 < float(op.kernel().var() * 64 * 3 * 3) < 1.1
            True
        """
        for name in self._shapes():
            kernel = getattr(self, name)
            bound = math.sqrt(3 / math.prod(kernel.shape[1:]))
            nn.init.uniform_(kernel, -bound, bound)

    def to_conv2d(self, dense: bool = False) -> nn.Conv2d | nn.Sequential:
        """Return the plain module that computes the same, with parameters of its own.

        Args:
            dense: one ``nn.Conv2d``, which costs more; it is returned anyway where nothing is separated.

        Example:
            >>> from mmkerv.ops import DepthwiseSeparableConv2d
            >>> op = DepthwiseSeparableConv2d(4, 8, 3)
            >>> [conv.kernel_size for conv in op.to_conv2d()], op.to_conv2d(dense=True).kernel_size
            ([(3, 3), (1, 1)], (3, 3))
        """
        arguments.boolean(dense, 'dense')
        if dense or not self.separates(self.in_channels, self.kernel_size, self.groups):
            return super().to_conv2d()
        with torch.no_grad():
            return self._factors().train(self.training)

    def _kernel(self) -> Tensor:
        kernels = (getattr(self, name) for name in self._shapes())
        return self._compose(*(kernel.to(torch.promote_types(kernel.dtype, torch.float32)) for kernel in kernels))

    def _parameter(self) -> Tensor:
        return getattr(self, next(iter(self._shapes())))


class SeparableOrPlain:
    """What a config builds: the operator, or a plain ``nn.Conv2d`` where it would have nothing to separate.

    Example:
        >>> from mmkerv.ops import DepthwiseSeparableConv
        >>> issubclass(DepthwiseSeparableConv, SeparableOrPlain)
        True
    """

    operator: type[SeparableKernel]

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
    ):
        """Build the layer."""
        arguments.reject_unknown(cls.__name__, [k for k in kwargs if k not in CONV2D_KEYWORDS], CONV2D_KEYWORDS)
        size = arguments.integers(kernel_size, 2, 'kernel_size', 1)
        kind = cls.operator if cls.operator.separates(in_channels, size, groups) else nn.Conv2d
        return kind(in_channels, out_channels, size, stride, padding, dilation, groups, *args, **kwargs)
