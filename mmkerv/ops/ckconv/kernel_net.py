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

    @property
    def stored(self) -> Tensor:
        """The tensor of the weight's shape that the layer stores."""
        return self.weight

    def computed_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (out, in), computed in ``dtype``.

        Example:
            >>> KernelNetLayer(2, 32).computed_weight(torch.float64).dtype
            torch.float64
        """
        return self.weight.to(dtype)

    @torch.no_grad()
    def start(self) -> None:
        """Set what follows from the stored tensor, after that has been drawn."""

    @torch.no_grad()
    def multiply(self, factor: Tensor) -> None:
        """Multiply weight and bias by a number."""
        self.weight.mul_(factor)
        self.bias.mul_(factor)

    def adapt(self, state: dict[str, Any], prefix: str) -> None:
        """Replace weights in ``state`` that a layer of the other form has saved by those of this form.

        Example:
            >>> state = {'weight_v': torch.tensor([[3.0, 4.0]]), 'weight_g': torch.tensor([[10.0]])}
            >>> KernelNetLayer(2, 1).adapt(state, ''); state
            {'weight': tensor([[6., 8.]])}
        """
        if f'{prefix}weight_v' in state and f'{prefix}weight_g' in state:
            direction, length = state.pop(f'{prefix}weight_v'), state.pop(f'{prefix}weight_g')
            state[f'{prefix}weight'] = _normalised(direction, length)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        self.adapt(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class WeightNormLayer(KernelNetLayer):
    r"""Layer of a kernel net with weight normalisation: :math:`w = g\, v / |v|` for each row.

    Its state dict holds ``weight_g`` (out, 1) and ``weight_v`` (out, in). A plain ``weight`` is loaded as v, with g the
    length of its rows.

    Source: Salimans and Kingma, NIPS 2016; the CKConv authors normalise all layers of their kernel nets.

    Example:
        >>> layer = WeightNormLayer(2, 32)
        >>> list(layer.state_dict()), layer.weight.shape
        (['weight_g', 'weight_v', 'bias'], torch.Size([32, 2]))
    """

    def __init__(self, inputs: int, outputs: int, **factory: Any):
        nn.Module.__init__(self)
        self.weight_g = nn.Parameter(torch.empty(outputs, 1, **factory))
        self.weight_v = nn.Parameter(torch.empty(outputs, inputs, **factory))
        self.bias = nn.Parameter(torch.empty(outputs, **factory))

    @property
    def weight(self) -> Tensor:
        """The normalised weight."""
        return _normalised(self.weight_v, self.weight_g)

    @property
    def stored(self) -> Tensor:
        """The tensor of the weight's shape that the layer stores."""
        return self.weight_v

    def computed_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (out, in), computed in ``dtype``."""
        return _normalised(self.weight_v.to(dtype), self.weight_g.to(dtype))

    @torch.no_grad()
    def start(self) -> None:
        """Set g to the length of the rows of v, so that the weight is v."""
        self.weight_g.copy_(torch.linalg.vector_norm(self.weight_v, dim=1, keepdim=True))

    @torch.no_grad()
    def multiply(self, factor: Tensor) -> None:
        """Multiply weight and bias by a number."""
        self.weight_g.mul_(factor)
        self.bias.mul_(factor)

    def adapt(self, state: dict[str, Any], prefix: str) -> None:
        """Replace a plain weight in ``state`` by v and g; see the base class."""
        weight = state.get(f'{prefix}weight')
        if isinstance(weight, Tensor) and weight.dim() == 2 and f'{prefix}weight_v' not in state:
            del state[f'{prefix}weight']
            state[f'{prefix}weight_v'] = weight
            state[f'{prefix}weight_g'] = torch.linalg.vector_norm(weight, dim=1, keepdim=True)


def _normalised(direction: Tensor, length: Tensor) -> Tensor:
    return direction * (length / torch.linalg.vector_norm(direction, dim=1, keepdim=True))


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
        self.layers = nn.ModuleList()
        for inputs, outputs in pairwise(sizes):
            if fourier and not self.layers:
                self.layers.append(KernelNetLayer(inputs, outputs // 2, fixed=True, **factory))
            else:
                kind = WeightNormLayer if options.weight_norm else KernelNetLayer
                self.layers.append(kind(inputs, outputs, **factory))

    @torch.no_grad()
    def reset(self, positions: Tensor, variance: float, window: Tensor | None = None) -> None:
        """Draw all layers, then :meth:`rescale` the last.

        Sine layers are initialised as in SIREN, with phases uniform over a period; the kinks of ReLU and swish are
        spread over the kernel. With ``init='official'`` weights are uniform in +-1 / sqrt(inputs), biases in +-1, and
        nothing is rescaled: that is how the authors' nets start, whose weight normalisation discards the SIREN start.

        Args:
            positions: (P, d).
            variance: variance over all values of the kernel together, > 0.
            window: see :meth:`rescale`.
        """
        # If all units of a small ReLU net are dead, its kernel is constant and never learns.
        for _ in range(DRAWS):
            self._draw()
            for layer in self.layers:
                layer.start()
            if self.rescale(positions, variance, window):
                return

    @torch.no_grad()
    def _draw(self) -> None:
        options, (first, *hidden, last) = self.options, self.layers
        if options.init == 'official':
            for layer in self.layers:
                bound = 1 / math.sqrt(layer.stored.shape[1])
                nn.init.uniform_(layer.stored, -bound, bound)
                nn.init.uniform_(layer.bias, -1, 1)
            return
        axes, width = first.stored.shape[1], options.hidden
        if options.activation == 'sine':
            nn.init.uniform_(first.stored, -1 / axes, 1 / axes)
            nn.init.uniform_(first.bias, -math.pi / options.omega_0, math.pi / options.omega_0)
        elif options.activation == 'rff':
            nn.init.normal_(first.stored)
        else:
            nn.init.normal_(first.stored)
            first.bias.copy_(-(first.stored * torch.empty_like(first.stored).uniform_(-1, 1)).sum(1))
        for layer in hidden:
            if options.activation == 'sine':
                bound = math.sqrt(6 / width) / options.omega_0
                nn.init.uniform_(layer.stored, -bound, bound)
                nn.init.uniform_(layer.bias, -math.pi / options.omega_0, math.pi / options.omega_0)
            else:
                nn.init.kaiming_normal_(layer.stored, nonlinearity='relu')
                nn.init.zeros_(layer.bias)
        nn.init.normal_(last.stored)
        nn.init.zeros_(last.bias)

    @torch.no_grad()
    def rescale(self, positions: Tensor, variance: float, window: Tensor | None = None) -> bool:
        """Scale the last layer so that the kernel at ``positions`` (P, d) has the given variance.

        The scaling becomes part of the weights, so loading a checkpoint involves no scaling.

        Args:
            positions: (P, d).
            variance: variance over all values of the kernel together, > 0.
            window: mask (P,) by which the kernel is multiplied; the mean square of the kernel, weighted by the squares
                of the mask, then gets that value.

        Returns:
            ``False`` if the kernel is constant and so cannot be scaled, else ``True``. With ``init='official'`` nothing
            is scaled.
        """
        last = self.layers[-1]
        if last.stored.is_meta or self.options.init == 'official':
            return True
        kernel = self(positions)
        if window is not None:
            spread = (kernel * window).square().sum() / (len(kernel) * window.square().sum())
        else:
            spread = kernel.var(unbiased=False) if kernel.numel() > 1 else kernel.square().mean()
        # Use the kernel's type: in float16 the bound would be 0, and a constant kernel would be scaled to infinity.
        if spread < CONSTANT * last.weight.to(kernel.dtype).square().mean():
            return False
        last.multiply((variance / spread).sqrt())
        return True

    def forward(self, positions: Tensor, channels: Tensor | None = None) -> Tensor:
        """Return the kernel (C, P) at ``positions`` (P, d), in their type; of some ``channels`` only, if given.

        Example:
            >>> net = KernelNet(2, 6, CKOptions()); net.reset(torch.rand(9, 2), 1.0)
            >>> net(torch.rand(4, 2)).shape
            torch.Size([6, 4])
        """
        weights, biases = self._computed(positions.dtype, channels)
        options = {'activation': self.options.activation, 'omega_0': self.options.omega_0}
        return continuous_kernel(positions, weights, biases, **options)

    def _computed(self, dtype: torch.dtype, channels: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Return weights and biases of the layers, computed in ``dtype``; of the last one the given rows."""
        weights = [layer.computed_weight(dtype) for layer in self.layers]
        biases = [None if layer.bias is None else layer.bias.to(dtype) for layer in self.layers]
        if channels is not None:
            weights[-1], biases[-1] = weights[-1][channels], biases[-1][channels]
        return weights, biases
