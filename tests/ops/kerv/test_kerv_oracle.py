"""The kervolution oracle against hand-computed values, convolutions of torch and the arc-cosine integral."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.ops.kerv.kerv_oracle import kerv_loop, response

PATCH, FILTER = [1.0, 2.0, 0.0], [3.0, -1.0, 0.5]  # s = 1, d2 = 4 + 9 + 0.25, d1 = 2 + 3 + 0.5


@pytest.mark.parametrize(
    ('kernel', 'values', 'expected'),
    [
        ('linear', {}, 1.0),
        ('polynomial', {'degree': 3, 'balance': 1.0}, 8.0),
        ('polynomial', {'degree': 2, 'balance': 0.5}, 2.25),
        ('sigmoid', {}, (math.e - 1 / math.e) / (math.e + 1 / math.e)),
        ('gaussian', {'gamma': 0.2}, math.exp(-2.65)),
        ('l1', {}, 5.5),
        ('l2', {}, math.sqrt(13.25)),
        ('manhattan', {}, -5.5),
        ('euclidean', {}, -13.25),
        ('laplacian', {'gamma': 2.0}, math.exp(-2 * math.sqrt(13.25))),
        ('cauchy', {'gamma': 4.0}, 1 / 54),
        ('rational quadratic', {'gamma': 2.0, 'alpha': 0.5}, 54**-0.5),
    ],
    ids=str,
)
def test_oracle_gives_the_values_computed_by_hand(kernel, values, expected):
    assert response(kernel, PATCH, FILTER, **values) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize('order', [0, 1, 2])
@pytest.mark.parametrize('angle', [0.0, 0.3, math.pi / 2, 2.5, math.pi])
def test_arc_cosine_equals_its_defining_integral(order, angle):
    """Cho and Saul, eq. 1: twice the mean of (u.x)^n (u.y)^n over standard normal u with u.x > 0 and u.y > 0."""
    x, y = [2.0, 0.0], [1.5 * math.cos(angle), 1.5 * math.sin(angle)]
    steps = 200_000
    phi = (np.arange(steps) + 0.5) * 2 * math.pi / steps
    a, b = (v[0] * np.cos(phi) + v[1] * np.sin(phi) for v in (x, y))
    over_directions = np.where((a > 1e-12) & (b > 1e-12), (a * b) ** order, 0).sum() * 2 * math.pi / steps
    over_radii = {0: 1, 1: 2, 2: 8}[order]  # integral of r^(2n + 1) exp(-r^2 / 2)
    integral = 2 / (2 * math.pi) * over_directions * over_radii
    assert response('arc-cosine', x, y, order=order) == pytest.approx(integral, abs=2e-4)


def test_each_filter_can_have_its_own_hyperparameter_value():
    x, weight = np.ones((1, 1, 3)), np.ones((2, 1, 1))
    y = kerv_loop(x, weight, [0.0, 10.0], kernel='polynomial', degree=2, balance=[1.0, 2.0])
    assert y.tolist() == [[[4.0] * 3, [19.0] * 3]]


@pytest.mark.parametrize('dims', [1, 2, 3])
@pytest.mark.parametrize(
    'settings',
    [
        {'stride': 2, 'padding': 1},
        {'padding': 'same', 'kernel_size': 2},
        {'padding': 'same', 'kernel_size': 4, 'padding_mode': 'reflect'},
        {'padding': 'valid', 'dilation': 2},
        {'groups': 2, 'padding': 2, 'dilation': 2},
        {'groups': 4, 'bias': False},
        *({'padding': 2, 'padding_mode': mode} for mode in ('reflect', 'replicate', 'circular')),
    ],
    ids=str,
)
def test_linear_kernel_equals_the_convolution_of_torch(dims, settings):
    torch.manual_seed(0)
    settings = {'kernel_size': 3, 'dtype': torch.float64, **settings}
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](4, 8, **settings)
    x = torch.randn(1, 4, *(7, 6, 5)[:dims], dtype=torch.float64)
    geometry = {k: getattr(conv, k) for k in ('stride', 'padding', 'dilation', 'groups', 'padding_mode')}
    y = kerv_loop(x, conv.weight, conv.bias, kernel='linear', **geometry)
    assert np.abs(y - conv(x).detach().numpy()).max() < 1e-13


def test_kernel_size_stride_padding_and_dilation_can_differ_by_axis():
    x = torch.randn(1, 2, 9, 8, dtype=torch.float64)
    conv = nn.Conv2d(2, 3, (3, 2), (2, 1), (0, 2), (1, 3), dtype=torch.float64)
    y = kerv_loop(x, conv.weight, conv.bias, kernel='linear', stride=(2, 1), padding=(0, 2), dilation=(1, 3))
    assert np.abs(y - conv(x).detach().numpy()).max() < 1e-13


def test_distances_include_the_padding():
    """Padding fills border patches with zeros, so a radial kernel counts the filter taps there."""
    y = kerv_loop(np.zeros((1, 1, 1, 1)), np.full((1, 1, 3, 3), 2.0), kernel='l2', padding=1)
    assert y.item() == 6.0


@pytest.mark.parametrize(('order', 'scale'), [(1, 0.5), (1, 3.0), (2, 0.5), (2, 3.0)])
def test_arc_cosine_is_homogeneous(order, scale):
    y = response('arc-cosine', [scale * p for p in PATCH], FILTER, order=order)
    assert y == pytest.approx(scale**order * response('arc-cosine', PATCH, FILTER, order=order), rel=1e-12)
