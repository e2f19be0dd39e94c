"""Parameters of one super convolution, and how they start."""

import math
from typing import Any

import torch
from torch import nn

from mmkerv.ops.coc.options import CoCOptions


class SuperLayer(nn.Module):
    """Parameters of one super convolution; no forward of its own.

    ``weight`` of the shape :func:`mmkerv.ops.coc.functional.super_weight_shape` gives, ``bias`` one number for each super
    kernel or ``None``, and with ``norm_shape`` the scale ``norm_weight`` and shift ``norm_bias`` of a layer norm.

    It is neither called nor derived from anything a host network's initialisers match by name.

    Example:
        >>> SuperLayer((16, 1, 3, 3), bias=True).bias.shape
        torch.Size([16])
    """

    def __init__(
        self, shape: tuple, bias: bool, norm_shape: tuple | None = None, device: Any = None, dtype: Any = None
    ):
        super().__init__()

        def parameter(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(size, device=device, dtype=dtype))

        self.weight = parameter(*shape)
        self.register_parameter('bias', parameter(shape[0]) if bias else None)
        self.register_parameter('norm_weight', parameter(*norm_shape) if norm_shape else None)
        self.register_parameter('norm_bias', parameter(*norm_shape) if norm_shape else None)

    @torch.no_grad()
    def reset(self, options: CoCOptions) -> None:
        """Start as the identity, or with the uniform Kaiming weights of ``nn.Conv2d`` and no bias.

        Example:
            >>> layer = SuperLayer((4, 1, 3, 3), bias=True)
            >>> layer.reset(CoCOptions()); float(layer.weight.abs().sum())
            0.0
        """
        identity = options.start == 'identity'
        if identity and self.norm_weight is None:
            nn.init.zeros_(self.weight)
            if not options.skip:
                # `dirac_` puts a centred delta on the diagonal; shared super kernels have one input each.
                nn.init.dirac_(self.weight, groups=1 if options.share is None else self.weight.shape[0])
        else:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.norm_weight is not None:
            nn.init.constant_(self.norm_weight, 0.0 if identity else 1.0)
            nn.init.zeros_(self.norm_bias)

    def extra_repr(self) -> str:
        """Return the shape of the super kernels, and whether they have a bias and a norm.

        Example:
            >>> SuperLayer((4, 1, 3, 3), bias=True)
            SuperLayer(4, 1, 3, 3, bias=True)
        """
        norm = '' if self.norm_weight is None else ', norm=True'
        return f'{", ".join(map(str, self.weight.shape))}, bias={self.bias is not None}{norm}'
