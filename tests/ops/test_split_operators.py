"""InceptionDWConv2d, MixConv2d and PConv2d: their contract, and timm's layers as oracle."""

import pytest
import torch
from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops import InceptionDWConv2d, MixConv2d, PConv2d, ShiftwiseConv2d
from tests.ops.contract import relative
from tests.ops.family_contracts import SplitContract
from tests.ops.oracle import convolution


class ByKernel(SplitContract):
    def expected(self, op, x):
        return torch.from_numpy(convolution(op, x)[0])


class TestInceptionDW(ByKernel):
    operator = InceptionDWConv2d
    options = {'branch_ratio': 0.25}
    channels = 'depthwise'


class TestMix(ByKernel):
    operator = MixConv2d
    options = {'sizes': (1, 3)}
    channels = 'depthwise'


class TestPartial(ByKernel):
    operator = PConv2d
    options = {'n_div': 2}
    channels = 'same'


def test_parity_with_timm_inception_and_its_weights():
    layers = pytest.importorskip('timm.models.inception_next')
    theirs, op = layers.InceptionDWConv2d(16), InceptionDWConv2d(16, 16, 11, padding=5, groups=16)
    op.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 16, 9, 10)
    assert relative(op(x), theirs(x)) < 1e-6


@pytest.mark.parametrize('stride', [1, 2])
def test_parity_with_timm_mixed_and_its_weights(stride):
    layers = pytest.importorskip('timm.layers')
    theirs = layers.MixedConv2d(10, 10, [3, 5, 7], stride=stride, padding='', depthwise=True)
    op = MixConv2d(10, 10, 7, stride, 3, groups=10, bias=False)
    weights = {key.removesuffix('.weight') + '.weight': value for key, value in theirs.state_dict().items()}
    op.load_state_dict(weights)
    x = torch.randn(2, 10, 9, 10)
    assert relative(op(x), theirs(x)) < 1e-6


def test_parity_with_timm_partial_and_its_weights():
    layers = pytest.importorskip('timm.models.fasternet')
    theirs, op = layers.Partial_conv3(16, 4, 'split_cat'), PConv2d(16, 16, 3, padding=1, bias=False)
    op.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 16, 9, 10)
    assert relative(op(x), theirs(x)) < 1e-6


@pytest.mark.parametrize('mode', ['zeros', 'reflect', 'replicate', 'circular'])
@pytest.mark.parametrize('kind', [InceptionDWConv2d, MixConv2d, PConv2d])
def test_the_fold_is_exact(kind, mode):
    torch.manual_seed(0)
    groups = 1 if kind is PConv2d else 8
    op = kind(8, 8, 5, 2, 4, 2, groups, padding_mode=mode, dtype=torch.float64)
    x = torch.randn(2, 8, 13, 15, dtype=torch.float64)
    assert relative(op.to_conv2d(dense=True)(x), op(x)) < 1e-12


@pytest.mark.parametrize(
    ('kind', 'arguments', 'settings', 'message'),
    [
        (InceptionDWConv2d, (4, 4, 11), {'groups': 4}, 'at least 8 channels'),
        (InceptionDWConv2d, (16, 32, 11), {}, 'depthwise'),
        (InceptionDWConv2d, (16, 16, 1), {'groups': 16}, 'square_size'),
        (MixConv2d, (2, 2, 7), {'groups': 2}, 'a channel for each'),
        (MixConv2d, (8, 8, 5), {'groups': 8, 'sizes': (3, 7)}, 'kernel_extent=7'),
        (PConv2d, (8, 16, 3), {}, 'in_channels == out_channels'),
        (PConv2d, (2, 2, 3), {}, 'n_div must not exceed'),
        (PConv2d, (8, 8, 2), {}, 'odd'),
    ],
)
def test_bad_arguments_are_named(kind, arguments, settings, message):
    with pytest.raises(ArgumentError, match=message):
        kind(*arguments, **settings)


def test_a_depthwise_convolution_of_one_part_is_the_plain_one():
    plain, op = nn.Conv2d(8, 8, 5, padding=2, groups=8), MixConv2d(8, 8, 5, padding=2, groups=8, sizes=(5,))
    op.load_state_dict({'0.weight': plain.weight, 'bias': plain.bias})
    x = torch.randn(1, 8, 9, 9)
    assert torch.allclose(op(x), plain(x), atol=1e-6)


@pytest.mark.parametrize(
    'op',
    [
        PConv2d(8, 8, 3),
        MixConv2d(8, 8, 5, groups=8),
        InceptionDWConv2d(8, 8, 11, groups=8),
        ShiftwiseConv2d(8, 8, 9, groups=8),
    ],
    ids=lambda op: type(op).__name__,
)
def test_another_number_of_channels_is_refused(op):
    for channels in (4, 12):
        with pytest.raises(ArgumentError, match=rf'input must have 8 channels, .* got \(1, {channels}, 16, 16\)'):
            op(torch.randn(1, channels, 16, 16))


def test_mixconv_has_square_kernels():
    with pytest.raises(ArgumentError, match=r'MixConv2d needs a square kernel, got \(1, 21\)'):
        MixConv2d(8, 8, (1, 21), groups=8)
    assert MixConv2d(8, 8, (5, 21), groups=8, sizes=(3, 5)).kernel_size == (5, 21)
