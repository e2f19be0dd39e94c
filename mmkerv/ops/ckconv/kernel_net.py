"""Generator of continuous kernels: a small network that maps a position to the values of the kernel there."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.ckconv.options import ACTIVATIONS, OMEGA_0, CKOptions
from mmkerv.ops.core import arguments

# Attempts to draw a kernel net before a constant kernel is accepted, and the relative variance below which a kernel
# counts as constant.
DRAWS, CONSTANT = 100, 1e-11


def continuous_kernel(
    positions: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    activation: str = 'sine',
    omega_0: float = OMEGA_0,
) -> Tensor:
    r"""Evaluate a continuous kernel at the given positions: :math:`\psi(p) = W_L h_{L-1}(p) + b_L`.

    The hidden layers depend on ``activation``:

    - ``'sine'``: :math:`h_l = \sin(\omega_0 (W_l h_{l-1} + b_l))`, with :math:`h_0 = p`;
    - ``'relu'``, ``'swish'``: :math:`h_l = \sigma(W_l h_{l-1} + b_l)`;
    - ``'rff'`` (random Fourier features): :math:`h_1 = (\cos \omega_0 W_1 p, \sin \omega_0 W_1 p)`, then ReLU layers.

    Args:
        positions: (P, d); each axis of a kernel extends from -1 to 1.
        weights: weight of each layer, (out, in); the first has d inputs, and with ``'rff'`` half the number of rows.
        biases: bias of each layer, (out,); with ``'rff'`` the first is not used and may be ``None``.
        activation: see above.
        omega_0: angular frequency, > 0, of ``'sine'`` and ``'rff'``.

    Returns:
        (C, P), for the C outputs of the last layer.

    Raises:
        ValueError: for an unknown activation, or different numbers of biases and weights.

    Source: CKConv: Continuous Kernel Convolution For Sequential Data, ICLR 2022; sine layers
        from SIREN (Sitzmann et al., NeurIPS 2020), random Fourier features from Tancik et al., NeurIPS 2020.

    Example:
        >>> p = torch.linspace(-1, 1, 5)[:, None]
        >>> continuous_kernel(p, [torch.ones(2, 1), torch.ones(3, 2)], [torch.zeros(2), torch.zeros(3)]).shape
        torch.Size([3, 5])
    """
    arguments.one_of(activation, 'activation', ACTIVATIONS)
    if len(weights) != len(biases):
        raise ArgumentError(
            f'biases must be as many as weights, got {len(biases)} for {len(weights)}; give one for each layer'
        )
    # With positions as columns the kernel gets the memory layout of a convolution's weight.
    hidden = positions.t()
    last = len(weights) - 1
    for index, (weight, bias) in enumerate(zip(weights, biases)):
        if activation == 'rff' and index == 0:
            angle = omega_0 * (weight @ hidden)
            hidden = torch.cat([angle.cos(), angle.sin()])
            continue
        hidden = torch.addmm(bias[:, None], weight, hidden)
        if index < last:
            if activation == 'sine':
                hidden = torch.sin(omega_0 * hidden)
            else:
                hidden = F.silu(hidden) if activation == 'swish' else F.relu(hidden)
    return hidden


# Not an nn.Linear, and with a name that no upstream initialiser matches: mmengine's
# `init_cfg=dict(type='Normal', layer='Linear')` must leave kernel nets alone.
class KernelNetLayer(nn.Module):
    """Layer of a kernel net: weight (out, in) and bias (out,); random Fourier features have a fixed weight.

    Example:
        >>> KernelNetLayer(2, 32).weight.shape
        torch.Size([32, 2])
    """

    def __init__(self, inputs: int, outputs: int, fixed: bool = False, **factory: Any):
        super().__init__()
        weight = torch.empty(outputs, inputs, **factory)
        if fixed:
            self.register_buffer('weight', weight)
            self.register_parameter('bias', None)
        else:
            self.weight = nn.Parameter(weight)
            self.bias = nn.Parameter(torch.empty(outputs, **factory))


class KernelNet(nn.Module):
    r"""Network of a continuous kernel, with its initialisation.

    :math:`\psi(p) = W_L h_{L-1}(p) + b_L`, see :func:`continuous_kernel`.

    Args:
        axes: number of coordinates of a position, the inputs, >= 1.
        channels: number of kernel values at a position, the outputs, >= 1.
        options: width, depth, activation and frequency.
        **factory: ``device`` and ``dtype`` of the parameters.

    Example:
        >>> net = KernelNet(1, 6, CKOptions(hidden=8)); net.reset(torch.linspace(-1, 1, 5)[:, None], 0.5)
        >>> net(torch.linspace(-1, 1, 9)[:, None]).shape
        torch.Size([6, 9])
    """

    def __init__(self, axes: int, channels: int, options: CKOptions, **factory: Any):
        super().__init__()
        self.options = options
        width, fourier = options.hidden, options.activation == 'rff'
        sizes = [axes, *[width] * (options.layers - 1), channels]
        self.layers = nn.ModuleList(
            KernelNetLayer(inputs, outputs // 2 if fourier and not index else outputs, fourier and not index, **factory)
            for index, (inputs, outputs) in enumerate(pairwise(sizes))
        )

    @torch.no_grad()
    def reset(self, positions: Tensor, variance: float) -> None:
        """Draw all layers, then :meth:`rescale` the last.

        Sine layers are initialised as in SIREN, with phases uniform over a period; the kinks of ReLU and swish are
        spread over the kernel.

        Args:
            positions: (P, d).
            variance: variance over all values of the kernel together, > 0.
        """
        # If all units of a small ReLU net are dead, its kernel is constant and never learns.
        for _ in range(DRAWS):
            self._draw()
            if self.rescale(positions, variance):
                return

    @torch.no_grad()
    def _draw(self) -> None:
        options, (first, *hidden, last) = self.options, self.layers
        axes, width = first.weight.shape[1], options.hidden
        if options.activation == 'sine':
            nn.init.uniform_(first.weight, -1 / axes, 1 / axes)
            nn.init.uniform_(first.bias, -math.pi / options.omega_0, math.pi / options.omega_0)
        elif options.activation == 'rff':
            nn.init.normal_(first.weight)
        else:
            nn.init.normal_(first.weight)
            first.bias.copy_(-(first.weight * torch.empty_like(first.weight).uniform_(-1, 1)).sum(1))
        for layer in hidden:
            if options.activation == 'sine':
                bound = math.sqrt(6 / width) / options.omega_0
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.uniform_(layer.bias, -math.pi / options.omega_0, math.pi / options.omega_0)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')
                nn.init.zeros_(layer.bias)
        nn.init.normal_(last.weight)
        nn.init.zeros_(last.bias)

    @torch.no_grad()
    def rescale(self, positions: Tensor, variance: float) -> bool:
        """Scale the last layer so that the kernel at ``positions`` (P, d) has the given variance.

        The scaling becomes part of the weights, so loading a checkpoint involves no scaling.

        Args:
            positions: (P, d).
            variance: variance over all values of the kernel together, > 0.

        Returns:
            ``False`` if the kernel is constant and so cannot be scaled, else ``True``.
        """
        last = self.layers[-1]
        if last.weight.is_meta:
            return True
        kernel = self(positions)
        spread = kernel.var(unbiased=False) if kernel.numel() > 1 else kernel.square().mean()
        # Use the kernel's type: in float16 the bound would be 0, and a constant kernel would be scaled to infinity.
        if spread < CONSTANT * last.weight.to(kernel.dtype).square().mean():
            return False
        factor = (variance / spread).sqrt()
        last.weight.mul_(factor)
        last.bias.mul_(factor)
        return True

    def forward(self, positions: Tensor) -> Tensor:
        """Return the kernel (C, P) at ``positions`` (P, d), in their type.

        Example:
            >>> net = KernelNet(2, 6, CKOptions()); net.reset(torch.rand(9, 2), 1.0)
            >>> net(torch.rand(4, 2)).shape
            torch.Size([6, 4])
        """
        dtype = positions.dtype
        return continuous_kernel(
            positions,
            [layer.weight.to(dtype) for layer in self.layers],
            [None if layer.bias is None else layer.bias.to(dtype) for layer in self.layers],
            activation=self.options.activation,
            omega_0=self.options.omega_0,
        )
