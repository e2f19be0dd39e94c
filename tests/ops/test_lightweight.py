"""LightweightConv1d: both published layouts of heads, the softmax, and checkpoints of fairseq."""

import numpy as np
import pytest
import torch
from torch import nn

from mmkerv.ops import LightweightConv1d, frozen_kernels
from tests.ops.ckconv.ck_oracle import conv_loop
from tests.ops.contract import relative
from tests.ops.sequence_oracle import lightweight_kernel


def built(*args, **kwargs) -> LightweightConv1d:
    torch.manual_seed(0)
    op = LightweightConv1d(*args, **{'groups': args[0], 'dtype': torch.float64, **kwargs})
    for parameter in op.parameters():
        nn.init.normal_(parameter)
    return op


@pytest.mark.parametrize('layout', ['blocks', 'interleaved'])
@pytest.mark.parametrize(
    'geometry',
    [
        {'padding': 2},
        {'stride': 2, 'padding': 1},
        {'dilation': 2, 'padding': 4, 'padding_mode': 'circular'},
        {'padding': 'same', 'padding_mode': 'reflect'},
        {'padding': 'valid', 'bias': False},
    ],
    ids=str,
)
def test_computes_its_definition_and_folds(layout, geometry):
    op = built(6, 6, 5, heads=3, layout=layout, **geometry)
    x = torch.randn(2, 6, 15, dtype=torch.float64)
    names = ('stride', 'padding', 'dilation', 'groups', 'padding_mode')
    expected = conv_loop(x, lightweight_kernel(op), op.bias, **{name: getattr(op, name) for name in names})
    assert relative(op(x), torch.from_numpy(expected)) < 1e-12
    folded = op.to_conv1d()
    assert type(folded) is nn.Conv1d and relative(folded(x), op(x)) < 1e-12
    assert np.abs(folded.weight.detach().numpy() - lightweight_kernel(op)).max() < 1e-14


def test_the_layouts_tie_channels_to_heads_differently():
    blocks, interleaved = (built(4, 4, 3, heads=2, layout=layout) for layout in ('blocks', 'interleaved'))
    first, second = blocks.head_weight.softmax(-1)[:, 0]
    assert torch.equal(blocks.kernel()[:, 0], torch.stack([first, first, second, second]))
    assert torch.equal(interleaved.kernel()[:, 0], torch.stack([first, second, first, second]))


def test_a_constant_input_stays_as_it_is():
    op = built(4, 4, 5, heads=2, bias=False)
    x = torch.full((1, 4, 20), 3.0, dtype=torch.float64)
    assert torch.allclose(op(x), x[..., :16], rtol=1e-14)


def test_weights_are_dropped_in_training_alone():
    op = built(4, 4, 5, heads=2, weight_dropout=0.5, bias=False)
    x = torch.randn(1, 4, 20, dtype=torch.float64)
    assert not torch.equal(op(x), op(x))
    kernel = op.kernel()
    assert torch.equal(kernel, op.kernel()) and relative(op.to_conv1d()(x), op.eval()(x)) < 1e-12
    torch.manual_seed(0)
    mean = sum(op.train()._forward_kernel().detach() for _ in range(2000)) / 2000
    assert (mean - kernel).abs().max() < 0.05


def test_loads_what_fairseq_saved():
    op, other = built(4, 4, 5, heads=2), LightweightConv1d(4, 4, 5, groups=4, heads=2, dtype=torch.float64)
    other.load_state_dict({'weight': op.head_weight.detach(), 'bias': op.bias.detach()})
    assert torch.equal(other.kernel(), op.kernel())


def test_a_plain_convolution_is_not_taken_for_logarithms():
    op, plain = LightweightConv1d(4, 4, 5, groups=4, heads=4), nn.Conv1d(4, 4, 5, groups=4)
    with pytest.raises(RuntimeError, match=r'(?s)Missing.*head_weight.*Unexpected.*"weight"'):
        op.load_state_dict(plain.state_dict())


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'groups': 2}, r'a depthwise convolution\), got 8, 8 and 2; use groups=in_channels'),
        ({'heads': 3}, 'heads must divide the channels, got heads=3 for 8 channels'),
        ({'weight_dropout': 1.0}, 'weight_dropout must be a probability below 1'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LightweightConv1d(**{'in_channels': 8, 'out_channels': 8, 'kernel_size': 5, 'groups': 8, **settings})


def test_a_frozen_kernel_has_no_dropout():
    op = LightweightConv1d(4, 4, 3, groups=4, weight_dropout=0.5)
    assert not torch.equal(op(torch.ones(1, 4, 9)), op(torch.ones(1, 4, 9)))
    with frozen_kernels(op), torch.no_grad():
        assert torch.equal(op.eval()(torch.ones(1, 4, 9)), torch.ones(1, 4, 7) + op.bias.view(4, 1))
