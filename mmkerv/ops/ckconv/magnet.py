"""MAGNet, a kernel net whose units are oriented waves in Gaussian windows.

FlexConv: Continuous Kernel Convolutions with Differentiable Kernel Sizes, ICLR 2022.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.ops.ckconv.kernel_net import KernelNet, KernelNetLayer
from mmkerv.ops.ckconv.options import CKOptions

# The initial windows: their centres spread over the kernel by this factor, which is the paper's for 2-D images, and the
# shape of the Gamma distribution of their inverse widths in the first layer.
SPREAD, SHAPE = 1.667, 6.0


class GaborWave(NamedTuple):
    r"""Parameters of one filter: :math:`g(p) = e^{-\frac12 \sum_d (\gamma_d (p_d - \mu_d))^2} \sin(V p + c)`.

    Args:
        centre: mu, (h, d).
        sharpness: gamma, (h, d).
        weight: V, (h, d).
        bias: c, (h,).

    Example:
        >>> wave = GaborWave(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1,), math.pi / 2))
        >>> wave.at(torch.zeros(1, 3))
        tensor([[1., 1., 1.]])
    """

    centre: Tensor
    sharpness: Tensor
    weight: Tensor
    bias: Tensor

    def at(self, positions: Tensor) -> Tensor:
        """Return g (h, P) at ``positions`` (d, P)."""
        distance = self.sharpness[..., None] * (positions - self.centre[..., None])
        return torch.exp(-0.5 * distance.square().sum(1)) * torch.sin(
            torch.addmm(self.bias[:, None], self.weight, positions)
        )


def magnet_kernel(
    positions: Tensor, waves: Sequence[GaborWave], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    r"""Evaluate a MAGNet: :math:`h_0 = g_0(p), h_l = g_l(p) \odot (W_l h_{l-1} + b_l), \psi = W h_L + b`.

    Args:
        positions: (P, d).
        waves: :math:`g_0` to :math:`g_L`.
        weights: :math:`W_1` to :math:`W_L`, (h, h), and W, (C, h).
        biases: those of the weights.

    Returns:
        (C, P)

    Source: FlexConv, ICLR 2022, section 3.3; multiplicative filter networks from Fathony et al., ICLR 2021.

    Example:
        >>> wave = GaborWave(torch.zeros(4, 2), torch.ones(4, 2), torch.ones(4, 2), torch.zeros(4))
        >>> layers = [torch.ones(4, 4), torch.ones(3, 4)], [torch.zeros(4), torch.zeros(3)]
        >>> magnet_kernel(torch.rand(5, 2), [wave, wave], *layers).shape
        torch.Size([3, 5])
    """
    columns = positions.t()
    hidden = waves[0].at(columns)
    for wave, weight, bias in zip(waves[1:], weights, biases):
        hidden = wave.at(columns) * torch.addmm(bias[:, None], weight, hidden)
    return torch.addmm(biases[-1][:, None], weights[-1], hidden)


class GaborFilter(nn.Module):
    """The filter of one layer, see :class:`GaborWave`.

    Example:
        >>> [tuple(p.shape) for p in GaborFilter(2, 32).parameters()]
        [(32, 2), (32, 2), (32, 2), (32,)]
    """

    def __init__(self, axes: int, width: int, **factory: Any):
        super().__init__()
        self.mu = nn.Parameter(torch.empty(width, axes, **factory))
        self.gamma = nn.Parameter(torch.empty(width, axes, **factory))
        self.weight = nn.Parameter(torch.empty(width, axes, **factory))
        self.bias = nn.Parameter(torch.empty(width, **factory))

    @torch.no_grad()
    def reset(self, shape: float, frequency: float, spread: float) -> None:
        """Draw centres in +-spread, gamma from Gamma(shape, 1), frequencies in proportion to gamma, and phases."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.mu, -spread, spread)
        # Half precision and the meta device have no Gamma distribution.
        parameters = torch.tensor([shape, 1.0], dtype=torch.float32, device='cpu')
        self.gamma.copy_(torch.distributions.Gamma(*parameters).sample(self.gamma.shape))
        nn.init.uniform_(self.weight, -bound, bound)
        self.weight.mul_(frequency * self.gamma)
        nn.init.uniform_(self.bias, -math.pi, math.pi)

    def wave(self, dtype: torch.dtype) -> GaborWave:
        """Return the parameters in ``dtype``."""
        return GaborWave(self.mu.to(dtype), self.gamma.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class MagnetNet(KernelNet):
    r"""MAGNet as the network of a continuous kernel, with its initialisation; see :func:`magnet_kernel`.

    Args:
        axes: number of coordinates of a position, the inputs, >= 1.
        channels: number of kernel values at a position, the outputs, >= 1.
        options: ``hidden``, ``layers`` (the number L of products) and ``omega_0``.
        **factory: ``device`` and ``dtype`` of the parameters.

    Example:
        >>> net = MagnetNet(2, 6, CKOptions(hidden=8, net='magnet')); net.reset(torch.rand(9, 2), 0.5)
        >>> net(torch.rand(4, 2)).shape, len(net.filters), len(net.layers)
        (torch.Size([6, 4]), 4, 4)
    """

    def __init__(self, axes: int, channels: int, options: CKOptions, **factory: Any):
        nn.Module.__init__(self)
        self.options = options
        width, depth = options.hidden, options.layers
        self.layers = nn.ModuleList()
        for outputs in [width] * depth + [channels]:
            self.layers.append(KernelNetLayer(width, outputs, **factory))
        self.filters = nn.ModuleList()
        for _ in range(depth + 1):
            self.filters.append(GaborFilter(axes, width, **factory))

    @torch.no_grad()
    def _draw(self) -> None:
        depth = self.options.layers
        for index, layer in enumerate(self.filters):
            layer.reset(SHAPE / (index + 1), self.options.omega_0 / math.sqrt(depth + 1), SPREAD * self._spread())
        bound = 1 / math.sqrt(self.options.hidden)
        for layer in self.layers:
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)

    def _spread(self) -> float:
        """Return the initial width of the mask, around which the windows are placed; 1 without a mask."""
        return self.options.mask_init if self.options.mask else 1 / SPREAD

    def forward(self, positions: Tensor, channels: Tensor | None = None) -> Tensor:
        """Return the kernel (C, P) at ``positions`` (P, d), in their type; of some ``channels`` only, if given."""
        waves = []
        for layer in self.filters:
            waves.append(layer.wave(positions.dtype))
        return magnet_kernel(positions, waves, *self._computed(positions.dtype, channels))
