"""Kernels as long as a sequence that are parameters on the sampling grid, in place of a function of the position.

Each is a causal kernel: values (C, k) by lag, the current sample first.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments

KERNELS = ('mlp', 'sgconv', 'multires', 'long')
# The kernel that each option belongs to.
OWNERS = {'scale_size': 'sgconv', 'decay': 'sgconv', 'filter_size': 'multires', 'squash': 'long'}


class SequenceOptions(NamedTuple):
    """Which kernel :class:`CKConv1d` has, and the arguments of those that are no function of the position.

    Example:
        >>> SequenceOptions('sgconv', scale_size=8).checked().decay
        2.0
    """

    kernel: str = 'mlp'
    scale_size: int = 32
    decay: float | tuple[float, float] = 2.0
    filter_size: int = 2
    squash: float = 0.001

    def checked(self) -> 'SequenceOptions':
        """Return the options if each value is valid and belongs to the kernel.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> SequenceOptions('long', decay=3.0).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: decay is an option of kernel='sgconv', got decay=3.0 with kernel='long'; ...
        """
        arguments.one_of(self.kernel, 'kernel', KERNELS)
        arguments.integer(self.scale_size, 'scale_size', 1)
        for decay in self.decay if isinstance(self.decay, (list, tuple)) and len(self.decay) == 2 else (self.decay,):
            arguments.real(decay, 'decay', 0.0, above=True)
        arguments.integer(self.filter_size, 'filter_size', 2)
        arguments.real(self.squash, 'squash', 0.0)
        for name, owner in OWNERS.items():
            value = getattr(self, name)
            if owner != self.kernel and value != self._field_defaults[name]:
                raise ArgumentError(
                    f'{name} is an option of kernel={owner!r}, got {name}={value!r} with kernel={self.kernel!r}; leave '
                    f'{name} out'
                )
        return self


def scales_kernel(scales: list[Tensor], decay: Tensor) -> Tensor:
    r"""Concatenate scales of doubling length and decaying size: :math:`K = \oplus_i\, m^{n-1-i}\, \mathrm{up}(w_i)`.

    :math:`w_i` is interpolated linearly to :math:`2^{\max(0, i-1)}` times its length; i = 0 to n - 1.

    Args:
        scales: n tensors (C, d).
        decay: m, (C, 1).

    Returns:
        (C, d * 2 ** (n - 1)), the current sample first.

    Source: What Makes Convolutional Models Great on Long Sequence Modeling? (SGConv), ICLR 2023, section 3.

    Example:
        >>> scales_kernel([torch.ones(1, 2)] * 3, torch.tensor([[2.0]]))
        tensor([[4., 4., 2., 2., 1., 1., 1., 1.]])
    """
    parts = []
    for index, values in enumerate(scales):
        if index > 1:
            size = values.shape[-1] * 2 ** (index - 1)
            values = F.interpolate(values[None], size=size, mode='linear', align_corners=False)[0]
        parts.append(values * decay ** (len(scales) - 1 - index))
    return torch.cat(parts, -1)


def multiresolution_kernel(low: Tensor, high: Tensor, weights: Tensor, size: int) -> Tensor:
    r"""Compute the impulse response of a tree of dilated causal filters, in which every level is weighted.

    :math:`a_0 = x`; for l = 1 to m with dilation :math:`2^{l-1}`: :math:`y \mathrel{+}= w_{m+1-l}\, h_1 * a_{l-1}`,
    :math:`a_l = h_0 * a_{l-1}`; finally :math:`y \mathrel{+}= w_0\, a_m + w_{m+1}\, x`.

    Args:
        low: :math:`h_0`, (C, f), whose last value is multiplied by the current sample.
        high: :math:`h_1`, (C, f).
        weights: w, (C, m + 2).
        size: number k of lags to compute, >= 1.

    Returns:
        (C, k), the current sample first.

    Source: Sequence Modeling with Multiresolution Convolutional Memory, ICML 2023, section 3, fading form.

    Example:
        >>> ones = torch.ones(1, 2)
        >>> multiresolution_kernel(ones, 0 * ones, torch.tensor([[1.0, 0, 0, 0]]), 5)
        tensor([[1., 1., 1., 1., 0.]])
    """
    impulse = F.pad(torch.ones_like(low[:, :1]), (0, size - 1))
    signal, response = impulse, weights[:, -1:] * impulse
    taps, depth = low.shape[1], weights.shape[1] - 2
    for level in range(depth):
        shifted = []
        for tap in range(taps):
            lag = 2**level * (taps - 1 - tap)
            shifted.append(F.pad(signal, (min(lag, size), 0))[:, :size])
        past = torch.stack(shifted, 1)
        response = response + weights[:, depth - level, None] * (high[..., None] * past).sum(1)
        signal = (low[..., None] * past).sum(1)
    return response + weights[:, :1] * signal


def at_current_sample(weights: Tensor, kernel: Tensor) -> Tensor:
    """Return ``weights`` (C, 1) among zeros: at lag 0 of the first C kernels of ``kernel``.

    Example:
        >>> at_current_sample(torch.ones(1, 1), torch.zeros(2, 3))
        tensor([[1., 0., 0.],
                [0., 0., 0.]])
    """
    return F.pad(weights, (0, kernel.shape[1] - 1, 0, len(kernel) - len(weights)))


class ScalesKernel(nn.Module):
    r"""SGConv's kernel, see :func:`scales_kernel`: divided by its initial norm, plus a weight of the current sample.

    Args:
        size: length k of the kernel; as many scales are made as that takes.
        channels: number C of kernels.
        sides: 2 for as many kernels of the future, which have no current sample, behind them.
        options: ``scale_size`` d, ``decay`` m, one number or the first and the last of C evenly spaced ones.

    Example:
        >>> kernel = ScalesKernel(50, 6, 1, SequenceOptions('sgconv', 8)); kernel.reset(1)
        >>> len(kernel.scales), kernel(50).shape
        (4, torch.Size([6, 50]))
    """

    def __init__(self, size: int, channels: int, sides: int, options: SequenceOptions, **factory: Any):
        super().__init__()
        d = options.scale_size
        scales = 1 + math.ceil(math.log2(max(size / d, 1)))
        kernels = sides * channels
        self.scales = nn.ParameterList([nn.Parameter(torch.empty(kernels, d, **factory)) for _ in range(scales)])
        self.skip = nn.Parameter(torch.empty(channels, 1, **factory))
        self.register_buffer('kernel_norm', torch.empty(kernels, 1, **factory))
        self.decay = tuple(options.decay) if isinstance(options.decay, (list, tuple)) else (options.decay,) * 2

    @torch.no_grad()
    def reset(self, width: int) -> None:
        """Draw the scales, and keep the norm by which the kernel is divided; ``width`` input channels are summed."""
        for scale in self.scales:
            nn.init.normal_(scale)
        nn.init.normal_(self.skip, std=width**-0.5)
        terms = width * len(self.kernel_norm) // len(self.skip)
        self.kernel_norm.copy_(self._unscaled(torch.float64).norm(dim=1, keepdim=True) * terms**0.5)

    def _unscaled(self, dtype: torch.dtype) -> Tensor:
        decay = torch.linspace(*self.decay, len(self.skip), dtype=dtype, device=self.skip.device)
        decay = decay.repeat(len(self.kernel_norm) // len(self.skip))
        scales = []
        for scale in self.scales:
            scales.append(scale.to(dtype))
        return scales_kernel(scales, decay[:, None])

    def forward(self, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the first ``size`` lags (C, size), computed in ``dtype``."""
        kernel = (self._unscaled(dtype) / self.kernel_norm.to(dtype))[:, :size]
        return kernel + at_current_sample(self.skip.to(dtype), kernel)


class MultiresolutionKernel(nn.Module):
    """The multiresolution memory's kernel, see :func:`multiresolution_kernel`.

    Args:
        size: length k of the kernel; the tree has as many levels as reach it.
        channels: number C of kernels.
        sides: 1, since only causal filters have this tree.
        options: ``filter_size`` f.

    Example:
        >>> kernel = MultiresolutionKernel(40, 2, 1, SequenceOptions('multires')); kernel.reset(1)
        >>> kernel.weights.shape, kernel(40).shape
        (torch.Size([2, 8]), torch.Size([2, 40]))
    """

    def __init__(self, size: int, channels: int, sides: int, options: SequenceOptions, **factory: Any):
        super().__init__()
        taps = options.filter_size
        depth = max(math.ceil(math.log2((size - 1) / (taps - 1) + 1)), 1)
        self.low = nn.Parameter(torch.empty(channels, taps, **factory))
        self.high = nn.Parameter(torch.empty(channels, taps, **factory))
        self.weights = nn.Parameter(torch.empty(channels, depth + 2, **factory))

    @torch.no_grad()
    def reset(self, width: int) -> None:
        """Draw the filters and weights; ``width`` input channels are summed."""
        for filters in (self.low, self.high):
            bound = filters.shape[1] ** -0.5
            nn.init.uniform_(filters, -bound, bound)
        bound = (self.weights.shape[1] * width) ** -0.5
        nn.init.uniform_(self.weights, -bound, bound)

    def forward(self, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the first ``size`` lags (C, size), computed in ``dtype``."""
        return multiresolution_kernel(self.low.to(dtype), self.high.to(dtype), self.weights.to(dtype), size)


class LongKernel(nn.Module):
    r"""Free values, squashed, :math:`\mathrm{sign}(v) \max(0, |v| - \lambda)`, plus a weight of the current sample.

    Args:
        size: length k of the kernel.
        channels: number C of kernels.
        sides: 2 for as many kernels of the future, which have no current sample, behind them.
        options: ``squash`` lambda.

    Source: Simple Hardware-Efficient Long Convolutions for Sequence Modeling, ICML 2023, section 3.

    Example:
        >>> kernel = LongKernel(50, 6, 1, SequenceOptions('long')); kernel.reset(1)
        >>> kernel(50).shape
        torch.Size([6, 50])
    """

    def __init__(self, size: int, channels: int, sides: int, options: SequenceOptions, **factory: Any):
        super().__init__()
        self.values = nn.Parameter(torch.empty(sides * channels, size, **factory))
        self.skip = nn.Parameter(torch.empty(channels, 1, **factory))
        self.squash = options.squash

    @torch.no_grad()
    def reset(self, width: int) -> None:
        """Draw the kernel with standard deviation 0.002, as published; ``width`` input channels are summed."""
        nn.init.normal_(self.values, std=0.002)
        nn.init.normal_(self.skip, std=width**-0.5)

    def forward(self, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the first ``size`` lags (C, size), computed in ``dtype``."""
        kernel = F.softshrink(self.values[:, :size].to(dtype), self.squash)
        return kernel + at_current_sample(self.skip.to(dtype), kernel)


GENERATORS = {'sgconv': ScalesKernel, 'multires': MultiresolutionKernel, 'long': LongKernel}
