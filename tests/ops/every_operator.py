"""One small layer of every operator, with options that make it compute something of its own."""

import torch
from torch import nn

from mmkerv.ops import (
    CKConv1d,
    CKConv2d,
    CoCConv2d,
    DepthwiseSeparableConv2d,
    KervConv1d,
    KervConv2d,
    SpatiallySeparableConv2d,
)

KERV = {
    'linear': {},
    'polynomial': {'learnable': True},
    'sigmoid': {},
    'gaussian': {'learnable': True, 'per_channel': True},
    'l1': {},
    'l2': {},
    'manhattan': {},
    'euclidean': {},
    'laplacian': {},
    'cauchy': {},
    'rational quadratic': {'learnable': True},
    'arc-cosine': {},
}
LAYERS = {
    'CoC': lambda: CoCConv2d(4, 8, 3, padding=1, super_init='kaiming', super_bias=True),
    'CoC official': lambda: CoCConv2d.official('standard', 4, 8, 3, padding=1),
    'CoC recomputed': lambda: CoCConv2d(
        4, 8, 3, padding=1, super_init='kaiming', share='cico', super_bias=True, recompute=True
    ),
    **{
        f'Kerv {name}': lambda name=name, own=own: KervConv2d(4, 8, 3, padding=1, kernel=name, **own)
        for name, own in KERV.items()
    },
    'Kerv 1d': lambda: KervConv1d(4, 8, 3, padding=1, kernel='gaussian'),
    'CK': lambda: CKConv2d(4, 8, 5, padding=2, hidden=4),
    'CK separable': lambda: CKConv2d(4, 8, 5, padding=2, hidden=4, separable=True),
    'CK Fourier': lambda: CKConv2d(4, 8, 5, padding=2, hidden=4, method='fft'),
    'CK 1d causal': lambda: CKConv1d(4, 8, 12, hidden=4),
    'CK 1d centred': lambda: CKConv1d(4, 8, 5, padding=2, hidden=4, causal=False),
    'DepthwiseSeparable': lambda: DepthwiseSeparableConv2d(4, 8, 3, padding=1),
    'SpatiallySeparable': lambda: SpatiallySeparableConv2d(4, 8, 3, padding=1),
}
# Not linear in their input, so there is no plain convolution to fold into.
UNFOLDED = {name for name in LAYERS if name.startswith('Kerv') and name != 'Kerv linear'}


def layer(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name]()


def sample(op: nn.Module, batch: int = 2, side: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, *(side + 7,) * (op.dims == 1), *(side, side + 1) * (op.dims == 2), generator=generator)
