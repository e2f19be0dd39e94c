"""Hypothesis strategies: operators with their arguments, inputs, and arguments that no operator may take."""

import math
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.ops.catalogue import CATALOGUE

PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
KERNELS = {
    'linear': {},
    'polynomial': {'degree': st.integers(1, 5), 'balance': st.floats(0, 2)},
    'sigmoid': {},
    'gaussian': {'gamma': st.sampled_from(['auto', 1.0, 0.03])},
    'l1': {'chunk_mib': st.sampled_from([64, 1e-3])},
    'l2': {},
    'manhattan': {'chunk_mib': st.sampled_from([64, 1e-3])},
    'euclidean': {},
    'laplacian': {'gamma': st.floats(0.01, 2)},
    'cauchy': {'gamma': st.floats(0.01, 2)},
    'rational quadratic': {'gamma': st.floats(0.01, 2), 'alpha': st.floats(0.1, 5)},
    'arc-cosine': {'order': st.integers(0, 2)},
}
LEARNABLE = ('polynomial', 'gaussian', 'laplacian', 'cauchy', 'rational quadratic')
# Older torch has no convolution in float16 on CPUs.
TYPES = [torch.float64, torch.float32, torch.bfloat16, *([torch.float16] if torch.__version__ >= '2.3' else [])]


class Case(NamedTuple):
    """An operator, an input and the random numbers in both."""

    name: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    content: str
    seed: int
    dtype: torch.dtype
    resolution: float = 1.0

    def build(self) -> nn.Module:
        """The operator, with every parameter random."""
        torch.manual_seed(self.seed)
        op = CATALOGUE[self.name].layer(**self.arguments, dtype=self.dtype)
        randomise(op, narrow=self.dtype != torch.float64)
        if any(isinstance(m, nn.BatchNorm2d) for m in op.modules()):
            op.eval()
        if self.resolution != 1:
            op.set_resolution(self.resolution)
        return op

    def plain(self) -> nn.Module:
        """Torch's convolution of the same geometry."""
        names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups', 'bias')
        given = {name: self.arguments[name] for name in (*names, 'padding_mode')}
        return PLAIN[CATALOGUE[self.name].layer.dims](**given, dtype=torch.float64)

    def input(self) -> Tensor:
        """Return the input of the operator."""
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        if self.content == 'zeros':
            x = torch.zeros_like(x)
        elif self.content == 'constant':
            x = torch.ones_like(x)
        elif self.content == 'sparse':
            x = x.clamp(min=0.5) - 0.5
        return x.to(self.dtype)


@torch.no_grad()
def randomise(module: nn.Module, narrow: bool = False) -> None:
    """Draw every parameter; those of a kernel net keep their start where rounding would be multiplied by its slope."""
    for name, p in module.named_parameters():
        last = name.rpartition('.')[2]
        if last in ('gamma', 'alpha', 'balance') or 'density' in last:
            p.uniform_(0.1, 1)
        elif last in ('positions', 'radius'):
            # Within their limits, where the derivative is that of what is computed.
            p.uniform_(*((-0.9, 0.9) if last == 'positions' else (1.1, 2)))
        elif last == 'mask_params':
            p[:, 0].uniform_(-0.5, 0.5)
            p[:, 1].uniform_(1, 2)
        elif 'kernel_net' in name:
            if not narrow:
                p.normal_()
        elif 'super_layers' in name:
            p.normal_(std=0.5)
        else:
            p.normal_(std=0.5)


@st.composite
def geometries(draw: st.DrawFn, dims: int, odd: bool) -> dict[str, Any]:
    """Arguments of a convolution over ``dims`` axes."""

    def sides(lowest: int, highest: int, step: int = 1) -> Any:
        one = st.sampled_from(sorted(range(lowest, highest + 1, step), key=lambda n: (n != 3, n)))
        return draw(st.one_of(one, st.tuples(*[one] * dims)))

    groups = draw(st.integers(1, 3))
    padding = draw(st.sampled_from(['same', 'valid', 'integers', 'integers', 'integers']))
    return {
        'in_channels': groups * draw(st.integers(1, 3)),
        'out_channels': groups * draw(st.integers(1, 4)),
        'kernel_size': sides(1, 3 if dims == 3 else 5, 2 if odd else 1),
        'stride': 1 if padding == 'same' else sides(1, 3),
        'padding': sides(0, 3) if padding == 'integers' else padding,
        'dilation': sides(1, 2),
        'groups': groups,
        'bias': draw(st.booleans()),
        'padding_mode': draw(st.sampled_from(['zeros', 'zeros', 'zeros', 'reflect', 'replicate', 'circular'])),
    }


@st.composite
def options(draw: st.DrawFn, name: str, geometry: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an operator beside those of a convolution."""
    if name.startswith('KervConv'):
        kernel = draw(st.sampled_from(sorted(KERNELS)))
        learnable = kernel in LEARNABLE and draw(st.booleans())
        own = {key: draw(values) for key, values in KERNELS[kernel].items()}
        return {'kernel': kernel, **own, 'learnable': learnable, 'per_channel': learnable and draw(st.booleans())}
    if name == 'CoCConv':
        share = draw(st.sampled_from(['ci', 'co', 'cico', None]))
        size = geometry['kernel_size']
        taps = size**2 if isinstance(size, int) else math.prod(size)
        several = geometry['in_channels'] // geometry['groups'] * taps > 1
        return {
            'association': draw(st.integers(1, 3)),
            'kernel_plus': draw(st.sampled_from([2, 2, 0, 4])),
            'num_layers': draw(st.integers(1, 2)),
            'skip': draw(st.booleans()),
            'dilate': draw(st.sampled_from([True, 'paper', False])),
            'share': share,
            'super_norm': draw(st.sampled_from([None, 'ln'])) if share == 'ci' else None,
            'super_standardize': several and taps > 1 and draw(st.booleans()),
            'standardize': draw(st.sampled_from([False, True, 'ln'] if several else [False, 'ln'])),
            'super_bias': draw(st.booleans()),
            'recompute': draw(st.booleans()),
        }
    if name.startswith('CKConv'):
        activation = draw(st.sampled_from(['sine', 'sine', 'relu', 'swish', 'rff']))
        strided = geometry['stride'] not in (1, (1,), (1, 1))
        own = {
            'hidden': 2 * draw(st.integers(1, 2)),
            'layers': draw(st.integers(2, 3)),
            'activation': activation,
            'separable': draw(st.booleans()),
            'weight_norm': draw(st.booleans()),
            'method': draw(st.sampled_from(['auto', 'direct'] if strided else ['auto', 'direct', 'fft'])),
        }
        if draw(st.integers(0, 2)) == 0:
            own |= {'mask': 'gaussian', 'crop': draw(st.sampled_from([None, 0.1, 0.9]))}
        if activation == 'sine' and not own['weight_norm'] and draw(st.booleans()):
            own['net'] = 'magnet'
        return own | ({'omega_0': draw(st.floats(0.5, 20))} if activation in ('sine', 'rff') else {})
    own = {key: draw(st.sampled_from(values)) for key, values in CATALOGUE[name].choices.items()}
    # Options of a part that is switched off are refused.
    for switch, owned in OWNED.get(name, {}).items():
        own = {key: value for key, value in own.items() if own[switch] or key not in owned}
    return own


OWNED = {'CondConv': {'kernel': ('experts', 'routing')}, 'FDConv': {'ksm_global': ('kernel_num', 'temperature')}}


def fit_channels(name: str, geometry: dict[str, Any]) -> None:
    """Change drawn arguments to those that the operator can have."""
    channels = CATALOGUE[name].channels
    if channels != 'any':
        width = geometry['in_channels'] = geometry['out_channels'] = 4 + geometry['in_channels'] % 3
        geometry['groups'] = width if channels == 'depthwise' else 1
    if name in ('DCLSConv', 'SMPConv'):
        # In one tap there is nothing to move.
        size = geometry['kernel_size']
        geometry['kernel_size'] = max(size, 3) if isinstance(size, int) else tuple(max(k, 3) for k in size)


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    """An operator with legal arguments and an input, which may be too small for them."""
    kind = CATALOGUE[name].layer
    geometry = draw(geometries(kind.dims, odd=CATALOGUE[name].odd))
    fit_channels(name, geometry)
    if name == 'CKConv1d':
        causal = draw(st.booleans())
        if causal:
            geometry |= {'padding': 0, 'padding_mode': 'zeros'}
        else:
            geometry['kernel_size'] = 2 * draw(st.integers(0, 3)) + 1
    own = draw(options(name, geometry))
    if name == 'CKConv1d':
        own['causal'] = causal
    # Most maps hold the kernel, and most batches something: what is compared is worth more than what is refused.
    side = st.sampled_from([5, 4, 6, 3, 2, 1] if kind.dims == 3 else [7, 8, 6, 9, 5, 7, 4, 8, 3, 2, 1])
    batch = draw(st.sampled_from([1, 2, 2, 1, 2, 1, 2, 0]))
    shape = (batch, geometry['in_channels'], *(draw(side) for _ in range(kind.dims)))
    if name != 'CKConv1d' and shape[0] == 1 and draw(st.booleans()):
        shape = shape[1:]
    resolution = 1.0
    if name.startswith('CKConv') and isinstance(geometry['padding'], str):
        size = geometry['kernel_size']
        fits = (min(size) if isinstance(size, tuple) else size) > 4
        resolution = draw(st.sampled_from([1.0, 1.0, 2.0, 0.5, 3.0])) if fits else 1.0
    return Case(
        name,
        geometry | own,
        shape,
        draw(st.sampled_from(['normal', 'normal', 'sparse', 'normal', 'constant', 'normal', 'sparse', 'zeros'])),
        draw(st.integers(0, 2**16)),
        draw(st.sampled_from([torch.float64, *TYPES])),
        resolution,
    )


# No operator may take one of these for the argument.
WRONG = {
    'in_channels': [0, -1, 2.5, '4', None, True, [4], float('nan'), torch.ones(2)],
    'out_channels': [0, -3, 1e3, 'many', None, (8,), False],
    'kernel_size': [0, -1, (3, 3, 3, 3), (), (0, 3), 2.0, 'three', True, {'a': 1}, b'33', float('inf')],
    'stride': [0, (1, 0, 1, 1), -2, 1.5, 'two', None, (), True],
    'padding': [-1, 'full', 0.5, (0, -1), (1, 1, 1, 1), None, (), 'SAME', True],
    'dilation': [0, -1, 2.5, None, 'one', (1, 1, 1, 1), False],
    'groups': [0, -1, 1.5, None, 'two', 7, (1,), True],
    'padding_mode': ['zero', None, 0, 'Reflect', ['zeros'], True, b'zeros'],
    'nonsense': [1, None],
}
WRONG_OPTIONS = {
    'CoCConv': {
        'association': [0, -1, 1.5, '2', None, True],
        'kernel_plus': [1, 3, -2, 2.0, None, 'two', True],
        'num_layers': [0, 1.0, None, 'one', True],
        'skip': [1, 0, None, 'yes'],
        'dilate': ['yes', 1, 0, None, 2.0],
        'share': ['cii', '', True, 0, ['ci']],
        'super_init': ['zero', None, True, 1],
        'super_norm': ['bn', False, True, 0],
        'super_standardize': [1, 'ln', None],
        'standardize': ['bn', None, 1, 0],
        'super_bias': [1, None, 'no'],
        'recompute': [1, None, 'no'],
        'kernel_size': [2, (3, 4)],
    },
    'KervConv': {
        'kernel': ['poly', '', None, 3, ['linear'], True],
        'degree': [0, -1, 2.5, None, '3', True],
        'balance': [-0.1, float('nan'), float('inf'), None, '1', True, 1j],
        'gamma': [0, -1.0, 'none', None, float('nan'), True],
        'alpha': [0.0, -1, None, 'x'],
        'order': [3, -1, 0.5, None],
        'learnable': [1, None, 'yes'],
        'per_channel': [1, None, 'yes', True],
        'chunk_mib': [0, -1, None, 'much', float('nan'), True],
    },
    'CKConv': {
        'hidden': [0, 1.5, None, '8', True],
        'layers': [1, 0, 2.0, None, True],
        'omega_0': [0, -1.0, None, '10', float('inf'), True],
        'activation': ['sin', None, 0, ['sine']],
        'separable': [1, None, 'yes'],
        'weight_norm': [1, None, 'yes'],
        'init': ['kaiming', None, True],
        'method': ['fast', None, True, 0],
        'net': ['cnn', None, True],
        'mask': ['box', 0, True],
        'mask_init': [0, -1.0, None, 'x', True],
        'crop': [0.1, 0, 1, 'x', True],
        'kernel_size': [2, 4],
    },
}
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 6),
    st.floats(-3, 6),
    st.sampled_from(
        [float('nan'), float('inf'), 'same', 'valid', 'auto', 'zeros', 'ln', 'ci', 'linear', 'l1', '', b'x']
    ),
    st.lists(st.integers(-1, 4), max_size=4),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


def wrong_values(name: str) -> dict[str, list]:
    """Return the values that an operator must refuse, by argument."""
    own = WRONG_OPTIONS.get(name.removesuffix('1d').removesuffix('3d'), CATALOGUE[name].wrong)
    wrong = {key: [*WRONG.get(key, []), *own.get(key, [])] for key in {**WRONG, **own}}
    if name == 'CKConv1d':
        # It takes the length of the first sequence, and even lengths if causal.
        wrong['kernel_size'] = [v for v in WRONG['kernel_size'] if v is not None]
    return wrong
