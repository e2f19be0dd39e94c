"""RecConv2d: the notes' numbers, its period, the geometries that it does not have."""

import pytest
import torch
from torch import nn

from mmkerv import convert
from mmkerv.errors import ArgumentError, FoldError
from mmkerv.ops import RecConv2d, switch_to_deploy
from tests.ops.contract import relative
from tests.ops.test_dcls import fill


def test_the_published_numbers():
    op = RecConv2d(3, 3, 5, padding=2, groups=3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        for index, parameter in zip((1, 6, 11, 16), op.parameters()):
            parameter.copy_(fill(tuple(parameter.shape), 0.2, index))
    y = op(fill((1, 3, 16, 16), 1, 1))
    assert abs(float(y.sum()) + 0.278368) < 1e-5
    assert (y[0, 1, 3, 3:6] - torch.tensor([0.457332, 0.012510, -0.445609], dtype=torch.float64)).abs().max() < 1e-5


def test_is_linear_and_moves_with_shifts_by_its_period_alone():
    torch.manual_seed(0)
    op, x = RecConv2d(4, 4, 5, padding=2, groups=4, dtype=torch.float64), torch.zeros(1, 4, 96, 96, dtype=torch.float64)
    x[..., 44:52, 44:52] = torch.randn(8, 8, dtype=torch.float64)
    bias = op(torch.zeros_like(x))
    assert relative(op(2 * x) - bias, 2 * (op(x) - bias)) < 1e-12
    for shift, moves in ((4, True), (1, False)):
        moved, expected = op(torch.roll(x, shift, 3)), torch.roll(op(x), shift, 3)
        assert (relative(moved[..., 30:66, 30:66], expected[..., 30:66, 30:66]) < 1e-12) is moves


@pytest.mark.parametrize('shape', [(1, 4, 1, 1), (2, 4, 7, 9), (4, 8, 8), (0, 4, 8, 8)], ids=str)
def test_maps_of_any_size(shape):
    op = RecConv2d(4, 4, 3, padding='same', groups=4, levels=3)
    assert op(torch.randn(shape)).shape == shape


def test_gradients_and_learning():
    op = RecConv2d(2, 2, 3, padding=1, groups=2, dtype=torch.float64)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, x)
    op(x).square().sum().backward()
    assert all((p.grad != 0).any() for p in op.parameters())


def test_never_folds_and_says_why():
    op = RecConv2d(4, 4, 3, padding=1, groups=4)
    with pytest.raises(FoldError, match='shifts by 4 pixels'):
        op.to_conv2d()
    assert 'shifts by 4 pixels' in switch_to_deploy(nn.Sequential(op)).kept['0']
    with pytest.raises(RuntimeError, match='Leave efficient_conv_bn_eval off'):
        op._conv_forward(torch.randn(1, 4, 5, 5), op.weight, op.bias)


@pytest.mark.parametrize(
    'arguments', [{'stride': 2}, {'dilation': 2}, {'padding': 0}, {'padding_mode': 'reflect'}, {'groups': 1}], ids=str
)
def test_geometries_that_it_does_not_have(arguments):
    with pytest.raises(ArgumentError, match='RecConv2d needs'):
        RecConv2d(**{'in_channels': 4, 'out_channels': 4, 'kernel_size': 3, 'padding': 1, 'groups': 4, **arguments})


def test_an_even_layer_stays_plain():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 4, padding=2, groups=4))
    net = convert(net, dict(type='RecConv'))
    assert type(net[0]) is RecConv2d and type(net[1]) is nn.Conv2d
