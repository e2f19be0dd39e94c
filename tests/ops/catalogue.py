"""The operators, once: what every test that goes through all of them builds.

A new operator is one entry here. The tests of registration, reproducibility, mixed precision, ``torch.export``,
several processes, leaks and the random cases then include it; the contract does as well if the entry has a ``kernel``
(``tests/ops/test_catalogue.py``).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mmkerv.ops import (
    CKConv1d,
    CKConv2d,
    CoCConv2d,
    DepthwiseSeparableConv2d,
    KervConv1d,
    KervConv2d,
    KervConv3d,
    SpatiallySeparableConv2d,
    StackedConv2d,
)
from mmkerv.ops.coc.options import OFFICIAL
from tests.ops.coc.coc_operators import naive_kernel


class Variant(NamedTuple):
    """Settings that make a layer compute something of its own."""

    options: dict[str, Any] = {}
    kernel_size: int = 3
    padding: int = 1
    # Also in the tests over several processes and of leaks.
    distributed: bool = True
    # No plain convolution equals it.
    folds: bool = True


class Operator(NamedTuple):
    """An operator: the class of its layers, and what tests need to know."""

    layer: type[nn.Module]
    variants: dict[str, Variant]
    # Whether kernel sizes must be odd.
    odd: bool = False
    # Values of its options for the random cases; tests/ops/cases.py draws those that have rules between them.
    choices: dict[str, list] = {}
    # Values that its options must refuse.
    wrong: dict[str, list] = {}
    # The dense kernel (O, C/groups, kH, kW) of a layer, by loops in float64.
    kernel: Callable[[nn.Module], np.ndarray] | None = None


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
# One of each form of response; the others differ in the function of the distance alone.
KERV_DISTRIBUTED = ('polynomial', 'gaussian', 'sigmoid', 'l1', 'l2')
KAIMING = {'super_init': 'kaiming'}

CATALOGUE = {
    'CoCConv': Operator(
        CoCConv2d,
        {
            'CoC with super biases': Variant({**KAIMING, 'super_bias': True}),
            'CoC': Variant(KAIMING),
            'CoC at its start': Variant(),
            'CoC official': Variant(OFFICIAL['standard'], distributed=False),
            'CoC normalised': Variant({'super_norm': 'ln', 'standardize': True}),
            'CoC recomputed': Variant({**KAIMING, 'share': 'cico', 'recompute': True}),
        },
        odd=True,
        kernel=lambda op: naive_kernel(op).numpy(),
    ),
    'KervConv': Operator(
        KervConv2d,
        {
            f'Kerv {name}': Variant(
                {'kernel': name, **options}, distributed=name in KERV_DISTRIBUTED, folds=name == 'linear'
            )
            for name, options in KERV.items()
        },
    ),
    'KervConv1d': Operator(KervConv1d, {'Kerv 1d': Variant({'kernel': 'gaussian'}, distributed=False, folds=False)}),
    'KervConv3d': Operator(KervConv3d, {}),
    'CKConv': Operator(
        CKConv2d,
        {
            'CK': Variant({'hidden': 4}, 5, 2),
            'CK separable': Variant({'hidden': 4, 'separable': True}, 5, 2),
            'CK official': Variant({'hidden': 4, 'weight_norm': True, 'init': 'official'}, 5, 2, distributed=False),
            'CK Fourier': Variant({'hidden': 4, 'method': 'fft'}, 5, 2, distributed=False),
        },
        odd=True,
    ),
    'CKConv1d': Operator(
        CKConv1d,
        {
            'CK 1d causal': Variant({'hidden': 4}, 12, 0),
            'CK 1d centred': Variant({'hidden': 4, 'causal': False}, 5, 2, distributed=False),
        },
    ),
    'DepthwiseSeparableConv': Operator(DepthwiseSeparableConv2d, {'DepthwiseSeparable': Variant()}),
    'SpatiallySeparableConv': Operator(SpatiallySeparableConv2d, {'SpatiallySeparable': Variant()}),
    'StackedConv': Operator(StackedConv2d, {'Stacked': Variant({}, 5, 2)}, odd=True),
}
LAYERS = {name: operator.layer for name, operator in CATALOGUE.items()}
VARIANTS = {
    label: (operator.layer, variant) for operator in CATALOGUE.values() for label, variant in operator.variants.items()
}
DISTRIBUTED = [label for label, (_, variant) in VARIANTS.items() if variant.distributed]
FOLDED = [label for label, (_, variant) in VARIANTS.items() if variant.folds]


def layer(label: str, in_channels: int = 4, out_channels: int = 8) -> nn.Module:
    """Build the variant, always with the same random numbers."""
    kind, variant = VARIANTS[label]
    torch.manual_seed(0)
    return kind(in_channels, out_channels, variant.kernel_size, padding=variant.padding, **variant.options)


def sample(op: nn.Module, batch: int = 2, side: int = 7) -> torch.Tensor:
    """Return an input (N, 4, *spatial) of a layer, always of the same random numbers."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, *(side + 7,) * (op.dims == 1), *(side, side + 1) * (op.dims == 2), generator=generator)
