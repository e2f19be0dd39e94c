"""Base of separable and stacked convolutions: kernels in a row, equivalent to one kernel.

y = Kn * (... (K1 * x)) + b. There is no nonlinearity between them, so y = conv2d(x, K, b). Chazareix, "How to optimize
Convolutional Layer with Convolution Kernel" (2022), describes the kinds and their savings.
"""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.precision import wide_type


class SeparableKernel(GeneratedKernel):
    r"""Mixin for a convolution with kernels in a row: :math:`y = K_n * (\ldots (K_1 * x)) + b`.

    Example:
        >>> from mmkerv.ops import DepthwiseSeparableConv2d
        >>> issubclass(DepthwiseSeparableConv2d, SeparableKernel)
        True
    """

    has_weight = False
    folds = 'into plain convolutions in a row'
    # Forward convolves with each and never uses the composed kernel, so `frozen_kernels` has nothing to keep.
    _has_kernel = False

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the kernels.

        Example:
            >>> from mmkerv.ops import DepthwiseSeparableConv2d
            >>> list(DepthwiseSeparableConv2d(4, 8, 3).own_parameters())
            ['depthwise', 'pointwise']
        """
        for name, shape in self._shapes().items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, **factory)))

    @abstractmethod
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the kernels, in the order in which they are applied."""
        raise NotImplementedError(f'{type(self).__name__} must implement _shapes')

    @abstractmethod
    def _compose(self, *kernels: Tensor) -> Tensor:
        """Return the dense kernel (O, C/groups, kH, kW) equivalent to all of them."""
        raise NotImplementedError(f'{type(self).__name__} must implement _compose')

    @abstractmethod
    def _factors(self) -> nn.Sequential:
        """Return the plain convolutions."""
        raise NotImplementedError(f'{type(self).__name__} must implement _factors')

    @torch.no_grad()
    def reset_operator_parameters(self) -> None:
        """Draw each kernel uniformly with variance 1 / its fan_in, which gives the composed kernel variance 1 / fan_in.

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

    def _folded(self, dense: bool) -> nn.Module:
        if dense or self.leaves_plain(self.in_channels, self.kernel_size, self.groups):
            return super()._folded(dense)
        return self._factors().train(self.training)

    def _by_axis(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return stride, padding and dilation of a k x 1 and a 1 x k convolution that share those of the layer."""
        rows = {name: (_pair(getattr(self, name))[0], 1) for name in ('stride', 'dilation')}
        columns = {name: (1, _pair(getattr(self, name))[1]) for name in ('stride', 'dilation')}
        if isinstance(self.padding, str):
            rows['padding'] = columns['padding'] = self.padding
        else:
            above, left = _pair(self.padding)
            rows['padding'], columns['padding'] = (above, 0), (0, left)
        return rows, columns

    def _kernel(self) -> Tensor:
        kernels = (getattr(self, name) for name in self._shapes())
        return self._compose(*(kernel.to(wide_type(kernel.dtype)) for kernel in kernels))

    def _parameter(self) -> Tensor:
        return getattr(self, next(iter(self._shapes())))
