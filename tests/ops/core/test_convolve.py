"""Wide depthwise kernels on CPUs: computed in channels_last, with the result and the layout of torch's convolution."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkerv.ops import (
    CKConv2d,
    DepthwiseSeparableConv2d,
    InceptionDWConv2d,
    LightweightConv1d,
    MixConv2d,
    RecConv2d,
    ReparamConv2d,
    ShiftwiseConv2d,
    SMPConv2d,
    SpatiallySeparableConv2d,
    WeightedConv2d,
    switch_to_deploy,
)
from mmkerv.ops.core import convolve as module
from mmkerv.ops.core import fold
from mmkerv.ops.core.convolve import CONVOLUTIONS, convolve, convolve_directly, is_faster_by_fft, is_slow_contiguous
from tests.ops.contract import TOLERANCE, relative

WIDE = {
    'Reparam': lambda: ReparamConv2d(8, 8, 5, padding=2, groups=8, preset='replk', kernel_extent=17),
    'SMP': lambda: SMPConv2d(8, 8, 5, padding=2, groups=8, kernel_extent=17),
    'Weighted': lambda: WeightedConv2d(8, 8, 17, padding=8, groups=8),
    'Shiftwise': lambda: ShiftwiseConv2d(12, 12, 3, padding=1, groups=12, kernel_extent=17),
    'Mix': lambda: MixConv2d(32, 32, 17, padding=8, groups=32, sizes=(3, 17)),
    'InceptionDW': lambda: InceptionDWConv2d(64, 64, 17, padding=8, groups=64, branch_ratio=0.125),
    'Recursive': lambda: RecConv2d(8, 8, 17, padding=8, groups=8, levels=1),
    'CK': lambda: CKConv2d(8, 8, 17, padding=8, separable=True, method='direct'),
    'DepthwiseSeparable': lambda: DepthwiseSeparableConv2d(8, 8, 17, padding=8),
    'SpatiallySeparable': lambda: SpatiallySeparableConv2d(8, 8, 17, padding=8, groups=8),
    'Lightweight': lambda: LightweightConv1d(8, 8, 17, padding=8, groups=8),
}


@pytest.fixture
def layouts(monkeypatch):
    """Record the memory layout of the input of each convolution with a wide kernel."""
    seen = []

    def recorded(name):
        original = getattr(F, name)

        def convolution(x, kernel, *args, **kwargs):
            if kernel.shape[-1] >= 15:
                last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
                seen.append('channels_last' if last else 'contiguous')
            return original(x, kernel, *args, **kwargs)

        return convolution

    for dims in (1, 2):
        monkeypatch.setitem(CONVOLUTIONS, dims, recorded(f'conv{dims}d'))
    monkeypatch.setattr(F, 'conv2d', CONVOLUTIONS[2])
    return seen


@pytest.mark.parametrize('name', WIDE)
def test_every_operator_takes_the_fast_layout(name, layouts):
    torch.manual_seed(0)
    op = WIDE[name]().eval()
    x = torch.randn(1, op.in_channels, *(20, 21)[2 - op.dims :])
    with torch.no_grad():
        y = op(x)
    assert layouts and set(layouts) == {'channels_last'}
    assert y.is_contiguous()
    with torch.no_grad():
        expected = copy.deepcopy(op).double()(x.double())
    assert relative(y, expected) < TOLERANCE[torch.float32]


GEOMETRIES = {
    'plain': ((2, 8, 20, 21), (17, 17), {}),
    'stride': ((2, 8, 20, 21), (3, 17), {'stride': (2, 1), 'padding': (1, 8)}),
    'dilation': ((1, 8, 9, 40), (1, 15), {'dilation': 2, 'padding': [0, 14]}),
    'unbatched': ((8, 20, 21), (17, 17), {'padding': 8}),
    'empty': ((0, 8, 20, 21), (17, 17), {}),
    'sequence': ((2, 8, 40), (17,), {'stride': 2, 'padding': (3,), 'dilation': 2}),
    'unbatched sequence': ((8, 40), (17,), {'padding': 3}),
}


@pytest.mark.parametrize('case', GEOMETRIES)
@pytest.mark.parametrize('bias', [True, False])
def test_agrees_with_torch_and_has_its_layout(case, bias, layouts):
    shape, size, settings = GEOMETRIES[case]
    torch.manual_seed(0)
    x, kernel = torch.randn(shape), torch.randn(8, 1, *size)
    bias = torch.randn(8) if bias else None
    y = convolve(x, kernel, bias, **settings, groups=8)
    assert layouts[-1] == 'channels_last' or not x.numel()
    expected = (F.conv1d, F.conv2d)[len(size) - 1](x, kernel, bias, **settings, groups=8)
    assert y.shape == expected.shape and y.is_contiguous() and torch.allclose(y, expected, atol=1e-4)


def test_gradients_of_first_and_second_order_are_those_of_torch(monkeypatch):
    monkeypatch.setattr(module, 'FAST_GRADIENTS', True)
    torch.manual_seed(0)
    x, kernel = torch.randn(1, 8, 5, 18, requires_grad=True), torch.randn(8, 1, 3, 15, requires_grad=True)
    results = []
    for function in (convolve_directly, F.conv2d):
        y = function(x, kernel, padding=(1, 7), groups=8)
        first = torch.autograd.grad(y.square().sum(), (x, kernel), create_graph=True)
        results.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), (x, kernel))])
    assert all(relative(a, b) < 1e-4 for a, b in zip(*results))


@pytest.fixture
def fft_is_cheap(monkeypatch):
    """Let the cost model choose Fourier transforms wherever they are possible."""
    monkeypatch.setattr(module, 'fft_is_cheaper', lambda shape, kernel, stride, *rest: set(stride) == {1})


FOURIER = {
    'plain': ((2, 8, 20, 21), (17, 17), {'padding': 8}),
    'dilation': ((1, 8, 9, 40), (1, 15), {'dilation': 2, 'padding': [0, 14]}),
    'unbatched': ((8, 20, 21), (17, 17), {'padding': 8}),
    'sequence': ((2, 8, 40), (17,), {'padding': (3,), 'dilation': 2}),
    'unbatched sequence': ((8, 40), (17,), {'padding': 3}),
}


@pytest.mark.parametrize('case', FOURIER)
def test_training_by_fourier_transforms_agrees_with_torch(case, fft_is_cheap, layouts):
    shape, size, settings = FOURIER[case]
    torch.manual_seed(0)
    x, kernel, bias = (torch.randn(s, requires_grad=True) for s in (shape, (8, 1, *size), (8,)))
    results = []
    for function in (convolve, (F.conv1d, F.conv2d)[len(size) - 1]):
        y = function(x, kernel, bias, **settings, groups=8)
        assert y.is_contiguous() and (layouts == [] or function is not convolve)
        first = torch.autograd.grad(y.square().sum(), (x, kernel, bias), create_graph=True)
        results.append([y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), (x, kernel))])
    assert all(relative(a, b) < 1e-4 for a, b in zip(*results))


def test_what_fourier_transforms_are_not_for(fft_is_cheap):
    x, kernel = torch.randn(1, 8, 20, 21), torch.randn(8, 1, 17, 17, requires_grad=True)

    def by_fft(x, kernel, stride=1, groups=8):
        return is_faster_by_fft(x, kernel, stride, 8, 1, groups)

    assert by_fft(x, kernel) and by_fft(x[0], kernel) and not by_fft(x, kernel, 2) and not by_fft(x[:0], kernel)
    assert not by_fft(x, kernel.detach()) and not by_fft(x.double(), kernel.double())
    assert not by_fft(x, kernel.detach()[..., :13].requires_grad_())
    with torch.no_grad():
        assert not by_fft(x, kernel)
    # torch's own error, not a result in some other type
    with pytest.raises(RuntimeError, match=r'(?i)type'):
        convolve(x.bfloat16(), kernel, groups=8)
    with torch.autocast('cpu', torch.bfloat16):
        assert convolve(x, kernel, groups=8).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match=r'(?i)type'):
            convolve(x, kernel.double(), groups=8)


def test_a_direct_layer_stays_direct(fft_is_cheap, layouts):
    op = WIDE['CK']()
    x = torch.randn(1, 8, 40, 40)
    x[..., 0, 0] = float('nan')
    assert torch.isfinite(op(x)[..., 20:, 20:]).all() and layouts


@pytest.mark.parametrize(
    ('change', 'slow'),
    [
        ({}, True),
        ({'size': (3, 15)}, True),
        ({'size': (15, 13)}, False),
        ({'size': (31,), 'spatial': (50,)}, True),
        ({'size': (3, 3, 15), 'spatial': (5, 5, 20)}, False),
        ({'dtype': torch.bfloat16}, True),
        ({'dtype': torch.float64}, False),
        ({'channels': 3}, False),
        ({'width': 2}, False),
        ({'device': 'meta'}, False),
        ({'layout': torch.channels_last}, False),
    ],
    ids=str,
)
def test_the_shapes_that_are_slow(change, slow):
    given = {'channels': 8, 'width': 1, 'size': (17, 17), 'spatial': (20, 20), 'dtype': torch.float32, 'device': 'cpu'}
    given |= {'layout': torch.contiguous_format, **change}
    factory = {'dtype': given['dtype'], 'device': given['device']}
    x = torch.empty(2, given['channels'], *given['spatial'], **factory).contiguous(memory_format=given['layout'])
    kernel = torch.empty(given['channels'], given['width'], *given['size'], **factory)
    with torch.no_grad():
        assert is_slow_contiguous(x, kernel, given['channels'] // given['width']) == slow


@pytest.mark.parametrize('fast', [True, False])
def test_old_torch_keeps_its_fast_gradients(monkeypatch, fast):
    monkeypatch.setattr(module, 'FAST_GRADIENTS', fast)
    x, kernel = torch.randn(1, 8, 5, 18), torch.randn(8, 1, 3, 15, requires_grad=True)
    assert is_slow_contiguous(x, kernel, 8) == fast
    with torch.no_grad():
        assert is_slow_contiguous(x, kernel, 8)


@pytest.mark.parametrize('fourier', [False, True])
def test_works_under_compile_export_autocast_and_func(fourier, monkeypatch):
    monkeypatch.setattr(module, 'fft_is_cheaper', lambda *rest: fourier)
    op, x = WIDE['Weighted'](), torch.randn(2, 8, 20, 21)
    expected = op(x)
    torch._dynamo.reset()
    assert relative(torch.compile(op, fullgraph=True, backend='aot_eager')(x), expected) < 1e-5
    assert relative(torch.jit.trace(op, x, check_trace=False)(x[..., :20]), op(x[..., :20])) < 1e-5
    assert relative(torch.func.vmap(op)(x[None])[0], expected) < 1e-5
    with torch.autocast('cpu', torch.bfloat16):
        y = op(x)
    assert y.dtype == torch.bfloat16 and relative(y, expected) < TOLERANCE[torch.bfloat16]


def test_a_folded_layer_is_fast_in_channels_last_whatever_its_input():
    """What the documentation advises for folded networks: torch follows the layout of the weight as well."""
    folded = WIDE['Weighted']().to_conv2d().to(memory_format=torch.channels_last)
    x = torch.randn(1, 8, 20, 21)
    assert folded(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ('layers', 'named'),
    [
        (lambda: [WIDE['Weighted'](), WIDE['CK']()], '2 of the folded layers, such as 0,'),
        (lambda: [nn.Conv2d(8, 8, 3), WIDE['Weighted']()], '1 of the folded layers, such as 1,'),
        (lambda: [nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last), WIDE['Weighted']()], None),
        (lambda: [WeightedConv2d(8, 8, 3, groups=8), WeightedConv2d(8, 8, 17)], None),
    ],
)
def test_folding_says_what_is_slow_on_a_cpu(layers, named, monkeypatch):
    lines = []
    monkeypatch.setattr(fold, 'log', lines.append)
    report = switch_to_deploy(nn.Sequential(*layers()))
    assert report.replaced and not report.kept and len(lines) == (named is not None)
    assert named is None or (named in lines[0] and 'model.to(memory_format=torch.channels_last)' in lines[0])


def test_a_network_of_plain_layers_is_left_alone(layouts):
    nn.Conv2d(8, 8, 17, groups=8)(torch.randn(1, 8, 20, 20))
    assert layouts == ['contiguous']
