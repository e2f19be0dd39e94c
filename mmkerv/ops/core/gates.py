r"""Gates computed from the channel means of an image, for operators whose kernel depends on the input.

:math:`g = 2\,\sigma(B h / T) = 1 + \tanh(B h / 2T)` with h a vector of features of the means. B starts at 0, so that
every gate starts at exactly 1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.errors import ArgumentError

GATE_NORMS = ('ln', 'bn')
# Least number of features that gates are computed from.
FEWEST_FEATURES = 16


class Gate(nn.Module):
    r"""Compute :math:`2\,\sigma((B h + b) / T)` of features h (N, d): (N, outputs), 1 at the start.

    Args:
        features: d.
        outputs: number of gates.
        **factory: ``device`` and ``dtype`` of the parameters.

    Example:
        >>> gate = Gate(4, 3); gate.reset_parameters()
        >>> gate(torch.randn(1, 4))
        tensor([[1., 1., 1.]], grad_fn=<AddBackward0>)
    """

    def __init__(self, features: int, outputs: int, **factory: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, features, **factory))
        self.bias = nn.Parameter(torch.empty(outputs, **factory))

    def reset_parameters(self) -> None:
        """Set all gates to 1.

        Example:
            >>> Gate(4, 3).reset_parameters()
        """
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def excess(self, h: Tensor, temperature: float = 1.0) -> Tensor:
        """Compute the gates minus 1, which keeps the digits of small values.

        Example:
            >>> gate = Gate(4, 3); gate.reset_parameters()
            >>> float(gate.excess(torch.randn(1, 4)).abs().sum())
            0.0
        """
        return torch.tanh(F.linear(h, self.weight.to(h.dtype), self.bias.to(h.dtype)) / (2 * temperature))

    def forward(self, h: Tensor, temperature: float = 1.0) -> Tensor:
        """Compute the gates (N, outputs).

        Example:
            >>> gate = Gate(4, 3); gate.reset_parameters()
            >>> gate(torch.randn(2, 4)).shape
            torch.Size([2, 3])
        """
        return 1 + self.excess(h, temperature)


class Squeeze(nn.Module):
    r"""Compute features of channel means, :math:`h = \phi(\mathrm{norm}(A z))`: (N, C) to (N, d).

    Args:
        channels: C.
        features: d.
        norm: ``'ln'``, a layer norm over the d features; or ``'bn'``, a batch norm, which needs batches of at least 2
            in training.
        star: whether :math:`\phi` is StarReLU, :math:`s\,\mathrm{relu}(t)^2 + b` with learned numbers s and b, instead
            of relu.
        **factory: ``device`` and ``dtype`` of the parameters.

    Example:
        >>> squeeze = Squeeze(64, 16, 'ln'); squeeze.reset_parameters()
        >>> squeeze(torch.randn(2, 64)).shape
        torch.Size([2, 16])
    """

    def __init__(self, channels: int, features: int, norm: str, star: bool = False, **factory: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, channels, **factory))
        self.norm = (nn.LayerNorm if norm == 'ln' else nn.BatchNorm2d)(features, **factory)
        for name in ('scale', 'shift'):
            self.register_parameter(name, nn.Parameter(torch.empty(1, **factory)) if star else None)

    def reset_parameters(self) -> None:
        """Draw A with variance 2 / d, and start everything else as the identity.

        Example:
            >>> Squeeze(64, 16, 'ln').reset_parameters()
        """
        nn.init.normal_(self.weight, std=(2 / len(self.weight)) ** 0.5)
        self.norm.reset_parameters()
        if self.scale is not None:
            nn.init.ones_(self.scale)
            nn.init.zeros_(self.shift)

    def forward(self, z: Tensor) -> Tensor:
        """Compute the features (N, d) of channel means (N, C), in their type.

        Raises:
            ValueError: if a batch norm in training gets a single sample.

        Example:
            >>> squeeze = Squeeze(64, 16, 'bn').eval(); squeeze.reset_parameters()
            >>> squeeze(torch.randn(1, 64)).shape
            torch.Size([1, 16])
        """
        h = F.linear(z, self.weight.to(z.dtype))
        if isinstance(self.norm, nn.LayerNorm):
            h = layer_norm(h, self.norm)
        else:
            # A synchronised norm takes the samples of all processes.
            if self.norm.training and z.shape[0] == 1 and not isinstance(self.norm, nn.SyncBatchNorm):
                raise ArgumentError(
                    "gate_norm='bn' needs batches of at least 2 samples in training; use gate_norm='ln', or "
                    'put the norm into evaluation mode (norm_eval=True of the backbone)'
                )
            h = self.norm(h.to(self.norm.weight.dtype)[..., None, None])[..., 0, 0].to(z.dtype)
        h = F.relu(h)
        return h if self.scale is None else self.scale.to(z.dtype) * h.square() + self.shift.to(z.dtype)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Apply a layer norm in the type of ``x``, whatever that of its parameters.

    Example:
        >>> layer_norm(torch.ones(1, 4, dtype=torch.float64), nn.LayerNorm(4)).dtype
        torch.float64
    """
    return F.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)
