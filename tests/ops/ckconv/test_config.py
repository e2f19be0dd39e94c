"""CKConv2d with frozen kernels, folded, and built from a config; errors for invalid options."""

import math

import pytest
import torch
from torch import nn

from mmkerv.ops import CKConv, CKConv2d, frozen_kernels, set_resolution, switch_to_deploy
from mmkerv.ops.ckconv.kernel_net import KernelNet
from tests.ops.contract import relative


@pytest.fixture
def computed(monkeypatch):
    """Record the kernel nets that are evaluated, in order."""
    calls, original = [], KernelNet.forward

    def counted(self, positions, channels=None):
        return calls.append(self) or original(self, positions, channels)

    monkeypatch.setattr(KernelNet, 'forward', counted)
    return calls


@pytest.mark.parametrize('separable', [True, False])
def test_frozen_kernels_computes_each_kernel_once(separable, computed):
    torch.manual_seed(0)
    model = nn.Sequential(*(CKConv2d(4, 4, 5, padding=2, separable=separable) for _ in range(2))).eval()
    x = torch.randn(1, 4, 9, 9)
    set_resolution(model, 1.5)
    with torch.no_grad():  # with gradients, another form of the convolution may be the cheaper one
        expected, other = model(x), model[0](x, scale_factor=2)
    computed.clear()
    with frozen_kernels(model), torch.no_grad():
        assert all(torch.equal(model(x), expected) for _ in range(3)) and len(computed) == 2
        assert torch.equal(model[0](x, scale_factor=1.5), model[0](x)) and len(computed) == 2
        assert torch.equal(model[0](x, scale_factor=2), other), 'another resolution needs another kernel'
        for layer in model:
            with pytest.raises(RuntimeError, match='set_resolution was called inside frozen_kernels'):
                layer.set_resolution(2)
    with torch.no_grad():
        model[0].kernel_net.layers[0].weight.mul_(0.5)
    assert not torch.equal(model(x), expected)
    with frozen_kernels(model), pytest.raises(RuntimeError, match='Train outside the block'):
        model.train()(x)


def test_operators_in_a_model_are_folded():
    torch.manual_seed(0)
    dense, separable = CKConv2d(3, 8, 5, padding=2), CKConv2d(8, 6, (3, 7), stride=2, separable=True)
    model = nn.Sequential(dense, nn.Sequential(nn.ReLU(), separable), nn.Conv2d(6, 2, 1)).eval()
    set_resolution(model, 2)
    x = torch.randn(2, 3, 24, 24)
    expected = model(x)
    report = switch_to_deploy(model)
    assert report.replaced == ['0', '1.1'] and report.kept == {}
    assert type(model[0]) is nn.Conv2d and [type(m) for m in model[1][1]] == [nn.Conv2d, nn.Conv2d]
    assert not any(isinstance(m, (CKConv2d, KernelNet)) for m in model.modules())
    assert relative(model(x), expected) < 1e-5
    with pytest.raises(ValueError, match='folded'):
        set_resolution(model, 1)


def test_dense_must_be_a_boolean():
    with pytest.raises(TypeError, match='dense must be True or False'):
        CKConv2d(3, 4, 3).to_conv2d(dense='no')


BAD_OPTIONS = [
    ({'kernel_size': 4}, r'kernel_size must be odd.*use \(5, 5\)'),
    ({'kernel_size': (3, 2)}, r'kernel_size must be odd.*use \(3, 3\)'),
    ({'omega_0': 0}, 'omega_0 must be > 0, got 0'),
    ({'omega_0': -30.0}, 'omega_0'),
    ({'omega_0': math.nan}, 'omega_0'),
    ({'omega_0': math.inf}, 'omega_0'),
    ({'omega_0': '30'}, 'omega_0 must be a number'),
    ({'omega_0': 30.0, 'activation': 'relu'}, 'omega_0 is the frequency'),
    ({'omega_0': 30.0, 'activation': 'swish'}, 'leave omega_0 out'),
    ({'hidden': 0}, 'hidden must be >= 1'),
    ({'hidden': 8.5}, 'hidden'),
    ({'hidden': 7, 'activation': 'rff'}, 'hidden must be even'),
    ({'layers': 1}, 'layers must be >= 2, got 1'),
    ({'activation': 'siren'}, "activation.*did you mean 'sine'"),
    ({'activation': None}, 'activation'),
    ({'separable': 1}, 'separable must be True or False'),
    ({'method': 'fftconv'}, "method.*did you mean 'fft'"),
    ({'method': 'fft', 'stride': 2}, "method='fft' needs stride 1, got stride=\\(2, 2\\)"),
    ({'method': 'fft', 'stride': (1, 2)}, 'stride'),
    ({'omega': 30.0}, "no argument 'omega'; did you mean 'omega_0'"),
    ({'causal': True}, "no argument 'causal'"),
]


@pytest.mark.parametrize(('options', 'message'), BAD_OPTIONS, ids=str)
@pytest.mark.parametrize('kind', [CKConv, CKConv2d])
def test_invalid_options_raise_an_error(kind, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**{'in_channels': 3, 'out_channels': 8, 'kernel_size': 3, **options})


def test_a_stride_changed_after_construction_is_also_rejected():
    op = CKConv2d(3, 8, 3, method='fft')
    op.stride = (2, 2)
    with pytest.raises(ValueError, match="method='fft' needs stride 1"):
        op(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize('size', [1, (1, 1)])
def test_a_1x1_convolution_stays_plain_but_its_options_are_checked(size):
    torch.manual_seed(0)
    conv = CKConv(4, 8, size, stride=2, bias=False, hidden=8, kernel_extent=7)
    torch.manual_seed(0)
    assert type(conv) is nn.Conv2d and torch.equal(conv.weight, nn.Conv2d(4, 8, 1, bias=False).weight)
    assert conv.stride == (2, 2) and conv.padding == (0, 0)
    assert type(CKConv(4, 8, size, replace_1x1=True)) is CKConv2d
    assert type(CKConv(4, 8, (1, 3))) is CKConv2d
    for bad in ({'omega_0': 0}, {'hidden': 3, 'activation': 'rff'}, {'replace_1x1': 1}):
        with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
            CKConv(4, 8, size, **bad)
    with pytest.raises(TypeError, match="did you mean 'omega_0'"):
        CKConv(4, 8, size, omega=30.0)


def test_the_operator_receives_the_arguments_of_a_convolution():
    op = CKConv(4, 8, (3, 5), (2, 1), (1, 2), 1, 2, False, 'circular', hidden=8, omega_0=20.0, activation='rff')
    plain = nn.Conv2d(4, 8, (3, 5), (2, 1), (1, 2), 1, 2, False, 'circular')
    assert op.extra_repr() == f"{plain.extra_repr()}, hidden=8, omega_0=20.0, activation='rff'"


@pytest.mark.parametrize(
    ('host', 'extent', 'kernel_size', 'padding'),
    [
        ({'kernel_size': 3, 'padding': 1}, 7, (7, 7), (3, 3)),
        ({'kernel_size': 3, 'padding': 1, 'stride': 2}, 7, (7, 7), (3, 3)),
        ({'kernel_size': 3}, 7, (7, 7), (2, 2)),
        ({'kernel_size': 3, 'padding': 'valid'}, 5, (5, 5), (1, 1)),
        ({'kernel_size': 3, 'padding': 'same'}, 5, (5, 5), 'same'),
        ({'kernel_size': 3, 'padding': 2, 'dilation': 2}, 5, (5, 5), (4, 4)),
        ({'kernel_size': 3, 'padding': 1}, (7, 1), (7, 1), (3, 0)),
        ({'kernel_size': 7, 'padding': 3, 'stride': 2}, 3, (3, 3), (1, 1)),
        ({'kernel_size': (1, 3), 'padding': (0, 1)}, 3, (3, 3), (1, 1)),
        ({'kernel_size': 4, 'padding': 2, 'dilation': 2}, 7, (7, 7), (5, 5)),
        ({'kernel_size': 3, 'padding': 1, 'padding_mode': 'reflect', 'stride': 2}, 5, (5, 5), (2, 2)),
    ],
    ids=str,
)
def test_kernel_extent_preserves_the_output_size(host, extent, kernel_size, padding):
    op = CKConv(3, 4, **host, kernel_extent=extent, hidden=4)
    assert (op.kernel_size, op.padding) == (kernel_size, padding)
    for size in ((12, 13), (15, 16)):
        x = torch.randn(1, 3, *size)
        assert op(x).shape == nn.Conv2d(3, 4, **host)(x).shape


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'kernel_size': 4, 'kernel_extent': 7}, 'kernels of even size have none'),
        ({'kernel_size': 7, 'kernel_extent': 3}, 'use a larger kernel_extent'),
        ({'kernel_size': 7, 'padding': (3, 1), 'kernel_extent': 3}, 'use a larger kernel_extent'),
        ({'kernel_size': 3, 'kernel_extent': 0}, 'kernel_extent'),
        ({'kernel_size': 3, 'kernel_extent': 7.0}, 'kernel_extent'),
        ({'kernel_size': 3, 'kernel_extent': (3, 3, 3)}, 'kernel_extent'),
        ({'kernel_size': 3, 'kernel_extent': 5, 'padding': 'full'}, 'padding'),
        ({'kernel_size': 3, 'kernel_extent': 5, 'padding': 'same', 'stride': 2}, 'same'),
    ],
    ids=str,
)
def test_kernel_extents_without_a_matching_padding_are_rejected(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CKConv(3, 4, **settings)


@pytest.mark.parametrize('size', [1, 3])
def test_an_even_extent_raises_an_error_that_names_kernel_extent(size):
    with pytest.raises(ValueError, match='kernel_extent must be odd'):
        CKConv(3, 4, size, kernel_extent=4)
