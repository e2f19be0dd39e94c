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
    CondConv2d,
    DCLSConv2d,
    DepthwiseSeparableConv2d,
    FDConv2d,
    InceptionDWConv2d,
    KANConv2d,
    KervConv1d,
    KervConv2d,
    KervConv3d,
    LightweightConv1d,
    LowRankConv2d,
    MixConv2d,
    PConv2d,
    RecConv2d,
    ReparamConv2d,
    ShiftwiseConv2d,
    SMPConv2d,
    SpatiallySeparableConv2d,
    StackedConv2d,
    WeightedConv2d,
)
from mmkerv.ops.coc.options import OFFICIAL
from mmkerv.ops.core.dynamic import DynamicKernel
from mmkerv.ops.core.response import Response
from tests.ops import static_oracle
from tests.ops.coc.coc_operators import naive_kernel
from tests.ops.sequence_oracle import lightweight_kernel


class Variant(NamedTuple):
    """Settings that make a layer compute something of its own."""

    options: dict[str, Any] = {}
    kernel_size: int = 3
    padding: int = 1
    # Also in the tests over several processes and of leaks.
    distributed: bool = True
    # `switch_to_deploy` replaces it by itself.
    folds: bool = True


class Operator(NamedTuple):
    """An operator: the class of its layers, and what tests need to know."""

    layer: type[nn.Module]
    variants: dict[str, Variant]
    # Whether kernel sizes must be odd.
    odd: bool = False
    # 'depthwise', or 'same' if there must be as many output channels as input channels and no groups.
    channels: str = 'any'
    # Whether random cases compare it with its kernel.
    random: bool = True
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
            'CK flexible': Variant(
                {'hidden': 4, 'net': 'magnet', 'mask': 'gaussian', 'mask_init': 0.6, 'crop': 0.1}, 5, 2
            ),
            'CK Fourier': Variant({'hidden': 4, 'method': 'fft'}, 5, 2, distributed=False),
        },
        odd=True,
    ),
    'CKConv1d': Operator(
        CKConv1d,
        {
            'CK 1d causal': Variant({'hidden': 4}, 12, 0),
            'CK 1d masked': Variant(
                {'hidden': 4, 'mask': 'gaussian', 'mask_init': 0.6, 'crop': 0.1}, 12, 0, distributed=False
            ),
            'CK 1d scales': Variant({'kernel': 'sgconv', 'scale_size': 3}, 12, 0, distributed=False),
            'CK 1d multiresolution': Variant({'kernel': 'multires'}, 12, 0, distributed=False),
            'CK 1d long': Variant({'kernel': 'long'}, 12, 0, distributed=False),
            'CK 1d centred': Variant({'hidden': 4, 'causal': False}, 5, 2, distributed=False),
        },
    ),
    'CondConv': Operator(
        CondConv2d,
        {
            'Conditional': Variant({'experts': 3}, folds=False),
            'Omni-dimensional': Variant(
                {
                    'routing': 'softmax',
                    'channel': True,
                    'filter': True,
                    'spatial': True,
                    'reduction': 0.5,
                    'temperature': 2.0,
                },
                folds=False,
            ),
            'Conditional mixture': Variant(
                {'channel': True, 'spatial': True, 'export_form': 'mixture', 'recompute': True},
                distributed=False,
                folds=False,
            ),
        },
        choices={
            'experts': [1, 2, 4],
            'routing': ['sigmoid', 'softmax'],
            'kernel': [True, True, False],
            'channel': [True],
            'filter': [True, False],
            'spatial': [True, False],
            'reduction': [None, 0.5],
            'recompute': [False, True],
        },
        wrong={
            'experts': [0, -1, 1.5, None, '4', True],
            'routing': ['relu', None, 0, True],
            'kernel': [1, None, 'yes'],
            'channel': [1, None, 'yes'],
            'filter': [1, None, 'yes'],
            'spatial': [1, None, 'yes'],
            'reduction': [0, -1.0, 'x', True],
            'temperature': [0, -1.0, None, 'x', True],
            'gate_norm': ['gn', None, True],
            'export_form': ['fold', None, 0, True],
            'recompute': [1, None, 'no'],
        },
    ),
    'DCLSConv': Operator(
        DCLSConv2d,
        {
            'DCLS': Variant(),
            'DCLS v1 extended': Variant({'version': 'v1', 'kernel_extent': 7}, distributed=False),
            'DCLS max': Variant({'version': 'max', 'kernel_extent': 5}, distributed=False),
            'DCLS gauss of points': Variant(
                {'version': 'gauss', 'points': 4, 'positions_init': 'normal', 'kernel_extent': 5}, distributed=False
            ),
        },
        odd=True,
        choices={'version': ['v0', 'v1', 'max', 'gauss']},
        wrong={
            'version': ['v2', None, 0, True],
            'kernel_extent': [0, 4, 2.5, 'large', (3, 3, 3)],
            'positions_init': ['random', None, 1],
            'points': [0, -1, 2.5, '4', True],
        },
        kernel=static_oracle.dcls_kernel,
    ),
    'DepthwiseSeparableConv': Operator(DepthwiseSeparableConv2d, {'DepthwiseSeparable': Variant()}),
    'SpatiallySeparableConv': Operator(SpatiallySeparableConv2d, {'SpatiallySeparable': Variant()}),
    'StackedConv': Operator(StackedConv2d, {'Stacked': Variant({}, 5, 2)}, odd=True),
    'FDConv': Operator(
        FDConv2d,
        {
            'Frequency dynamic': Variant({'kernel_num': 5}, folds=False),
            'Frequency dynamic local': Variant({'ksm_global': False, 'fbm': False}, distributed=False, folds=False),
            'Frequency dynamic mixture': Variant(
                {'kernel_num': 3, 'ksm_local': False, 'export_form': 'mixture', 'recompute': True},
                distributed=False,
                folds=False,
            ),
        },
        choices={
            'kernel_num': [1, 4, 64],
            'temperature': [0.5, 1.0],
            'ksm_global': [True, True, False],
            'ksm_local': [True, False],
            'fbm': [True],
            'recompute': [False, True],
        },
        wrong={
            'kernel_num': [0, -1, 1.5, None, '4', True],
            'reduction': [0, -1.0, None, 'x', True],
            'temperature': [0, -1.0, None, 'x', True],
            'ksm_global': [1, None, 'yes'],
            'ksm_local': [1, None, 'yes'],
            'fbm': [1, None, 'yes'],
            'gate_norm': ['gn', None, True],
            'band_order': ['float', None, True],
            'export_form': ['fold', None, 0, True],
            'recompute': [1, None, 'no'],
        },
    ),
    'InceptionDWConv': Operator(
        InceptionDWConv2d,
        {'InceptionDW': Variant({'branch_ratio': 0.25}, 5, 2, folds=False)},
        odd=True,
        channels='depthwise',
        choices={'branch_ratio': [1 / 3, 0.34 - 0.01], 'square_size': [1]},
        wrong={
            'branch_ratio': [0, -0.1, 0.5, None, '1', float('nan'), True],
            'square_size': [0, 2, 1.5, None, '3', True],
            'kernel_extent': [0, 4, 2.5, 'large'],
        },
        kernel=static_oracle.depthwise_parts_kernel,
    ),
    'KANConv': Operator(
        KANConv2d,
        {
            'KAN': Variant(folds=False),
            'KAN gram': Variant({'basis': 'gram', 'base_activation': 'silu'}, folds=False),
            'KAN chebyshev': Variant({'basis': 'chebyshev', 'degree': 4}, distributed=False, folds=False),
            'KAN legendre': Variant({'basis': 'legendre', 'degree': 2}, distributed=False, folds=False),
            'KAN rbf': Variant({'basis': 'rbf', 'grid_size': 3}, distributed=False, folds=False),
        },
        choices={
            'basis': ['spline', 'gram', 'chebyshev', 'legendre', 'rbf'],
            'base_activation': [None, 'silu'],
        },
        wrong={
            'basis': ['bspline', None, 0, True, ['gram']],
            'degree': [0, -1, 1.5, '3', True],
            'grid_size': [0, -1, 1.5, '5', True],
            'grid_range': [1, (1,), (1, -1), (0, 0), (0, float('inf')), ('a', 'b'), (True, 2), (0, 1, 2)],
            'base_activation': ['relu', 0, True, 'SiLU'],
        },
    ),
    'LightweightConv1d': Operator(
        LightweightConv1d,
        {'Lightweight': Variant({'heads': 2}, 5, 2, distributed=False)},
        channels='depthwise',
        choices={'layout': ['blocks', 'interleaved']},
        wrong={
            'heads': [0, 1.5, None, '2', True, 5],
            'layout': ['tbc', None, 0, True],
            'weight_dropout': [1, -0.1, None, 'x', True, float('nan')],
        },
        kernel=lightweight_kernel,
    ),
    'LowRankConv': Operator(
        LowRankConv2d,
        {
            'LowRank': Variant({'rank': (3, 4)}),
            'LowRank cp3': Variant({'decomposition': 'cp3', 'rank': 5}, distributed=False),
            'LowRank cp4': Variant({'decomposition': 'cp4', 'rank': 0.9}, distributed=False),
        },
        choices={'decomposition': ['tucker2', 'cp3', 'cp4'], 'rank': [0.5, 1, 1.0, 3]},
        wrong={
            'decomposition': ['tucker', 'cp', None, 2, True],
            'rank': [0, -1, 0.0, 1.5, -0.5, None, '8', True, (1, 2, 3), (0, 2), (0.5, 0.5), float('nan')],
        },
        kernel=static_oracle.low_rank_kernel,
    ),
    'MixConv': Operator(
        MixConv2d,
        {'Mix': Variant({'sizes': (3, 5)}, 5, 2, distributed=False, folds=False)},
        odd=True,
        channels='depthwise',
        choices={'sizes': [(1,), (1, 1)]},
        wrong={'sizes': [(), (2,), (3, 4), 3, '3', (0,), (1.5,), True], 'kernel_extent': [0, 4, 2.5, 'large']},
        kernel=static_oracle.depthwise_parts_kernel,
    ),
    'PConv': Operator(
        PConv2d,
        {'Partial': Variant(distributed=False, folds=False)},
        odd=True,
        channels='same',
        choices={'n_div': [1, 2, 3]},
        wrong={'n_div': [0, -1, 1.5, None, '4', True]},
        kernel=static_oracle.partial_kernel,
    ),
    'RecConv': Operator(
        RecConv2d,
        {'Recursive': Variant({'levels': 2}, distributed=False, folds=False)},
        odd=True,
        channels='depthwise',
        random=False,
        wrong={'levels': [0, -1, 1.5, None, '2', True], 'mode': ['bicubic', None, 0, True]},
    ),
    'ReparamConv': Operator(
        ReparamConv2d,
        {
            'Reparam without norms': Variant({'preset': 'repvgg', 'branch_norm': None}),
            'Reparam': Variant({'preset': 'unirep', 'kernel_extent': 7}, distributed=False),
        },
        odd=True,
        choices={'branches': [[(1, 1)], [(1, 1), ((1, 1), 2)], []], 'branch_norm': [None]},
        wrong={
            'branches': [3, 'all', [3], [(3,)], [(0, 1)], [(3, 0)], [('3', 1)], True],
            'preset': ['vgg', 3, True, ['replk']],
            'kernel_extent': [0, 4, 2.5, 'large'],
            'branch_norm': ['ln', True, 0, False],
        },
        kernel=static_oracle.reparam_kernel,
    ),
    'ShiftwiseConv': Operator(
        ShiftwiseConv2d,
        {'Shiftwise': Variant({'kernel_extent': 5, 'repeats': 2}, distributed=False)},
        odd=True,
        channels='depthwise',
        random=False,
        choices={'kernel_extent': [5], 'ghost': [0.0]},
        wrong={
            'kernel_extent': [0, 1, 4, 2.5, 'large', (3, 3)],
            'ghost': [-0.1, 1, 1.5, None, 'x', True],
            'paths': [0, 1.5, None, True],
            'repeats': [0, 1.5, None, True],
            'seed': [-1, 1.5, None, 'x', True],
        },
        kernel=static_oracle.shiftwise_kernel,
    ),
    'SMPConv': Operator(
        SMPConv2d,
        {
            'SMP without norms': Variant({'branch_norm': None, 'points': 5}),
            'SMP': Variant({'kernel_extent': 7, 'average': True, 'share': False}, distributed=False),
        },
        odd=True,
        choices={'branch_norm': [None], 'points': [1, 4], 'share': [True, False], 'average': [False]},
        wrong={
            'points': [0, -1, 1.5, '4', True],
            'radius': [0, -1.0, 'x', float('nan'), True],
            'share': [1, None, 'yes'],
            'average': [1, None, 'yes'],
            'positions_std': [0, -1, None, 'x', True],
            'kernel_extent': [0, 4, 2.5, 'large'],
            'branch_norm': ['ln', True, 0, False],
        },
        kernel=static_oracle.smp_kernel,
    ),
    'WeightedConv': Operator(
        WeightedConv2d,
        {
            'Weighted': Variant({'density': 0.7}),
            'Weighted rescaled': Variant({'density': 0.5, 'rescale': True}, distributed=False),
        },
        odd=True,
        choices={'density': [1.0, 0.5], 'rescale': [True, False]},
        wrong={
            'density': [0, -1.0, None, 'x', float('inf'), True, ((0.5,), (0.5,), (0.5,))],
            'learnable': [1, None, 'yes'],
            'rescale': [1, None, 'yes'],
        },
        kernel=static_oracle.weighted_kernel,
    ),
}
LAYERS = {name: operator.layer for name, operator in CATALOGUE.items()}
VARIANTS = {
    label: (operator.layer, variant) for operator in CATALOGUE.values() for label, variant in operator.variants.items()
}
DISTRIBUTED = [label for label, (_, variant) in VARIANTS.items() if variant.distributed]
FOLDED = [label for label, (_, variant) in VARIANTS.items() if variant.folds]


def layer(label: str, in_channels: int = 4, out_channels: int = 8) -> nn.Module:
    """Build the variant, always with the same random numbers; ``out_channels`` unless they must be as many as enter."""
    kind, variant = VARIANTS[label]
    torch.manual_seed(0)
    op = kind(**shape(label, in_channels, out_channels), padding=variant.padding, **variant.options)
    for name, parameter in op.named_parameters():
        if name.endswith('branch_scale'):
            # At the start, where it is 0, the kernel of the branch has no gradient.
            nn.init.uniform_(parameter, 0.5, 1)
        elif isinstance(op, (DynamicKernel, Response)) and not parameter.is_meta and not parameter.any():
            # Nor have the features, while no gate depends on them, nor the input through functions of weight 0.
            nn.init.normal_(parameter, std=0.3)
    return op


def shape(label: str, in_channels: int = 4, out_channels: int = 8) -> dict[str, int]:
    """Return channels, kernel size and groups of the variant."""
    channels = next(operator.channels for operator in CATALOGUE.values() if label in operator.variants)
    return {
        'in_channels': in_channels,
        'out_channels': out_channels if channels == 'any' else in_channels,
        'kernel_size': VARIANTS[label][1].kernel_size,
        'groups': in_channels if channels == 'depthwise' else 1,
    }


def sample(op: nn.Module, batch: int = 2, side: int = 7) -> torch.Tensor:
    """Return an input (N, 4, *spatial) of a layer, always of the same random numbers."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, *(side + 7,) * (op.dims == 1), *(side, side + 1) * (op.dims == 2), generator=generator)
