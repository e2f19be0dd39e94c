"""WeightedConv2d: densities of any form, the plain start, rescaling."""

import pytest
import torch
from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops import WeightedConv2d
from tests.ops.contract import relative


def test_densities_of_rows_and_columns():
    op = WeightedConv2d(1, 1, (5, 3), density=((0.2, 0.8), (0.5,)))
    rows, columns = torch.tensor([0.2, 0.8, 1, 0.8, 0.2]), torch.tensor([0.5, 1, 0.5])
    assert torch.allclose(op.density(), rows[:, None] * columns)
    assert torch.allclose(WeightedConv2d(1, 1, (1, 3), density=0.5).density(), columns[None])


def test_density_one_is_the_plain_convolution():
    plain, op = nn.Conv2d(4, 8, 3, padding=1), WeightedConv2d(4, 8, 3, padding=1, rescale=True)
    op.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 7, 7)
    assert op.starts_as_identity and relative(op(x), plain(x)) < 1e-6


def test_rescaling_keeps_the_variance():
    op = WeightedConv2d(64, 64, 7, density=(0.25, 0.15, 0.55), rescale=True, bias=False)
    x = torch.randn(4, 64, 9, 9)
    assert abs(float(op(x).std() / nn.functional.conv2d(x, op.weight).std()) - 1) < 0.1
    # The published settings shrink the outputs to these shares of the plain convolution's.
    for size, density, mean_square in ((3, 0.7, 0.436), (5, (0.2, 0.8), 0.223), (7, (0.25, 0.15, 0.55), 0.064)):
        phi = WeightedConv2d(1, 1, size, density=density).density()
        assert abs(float(phi.square().mean()) - mean_square) < 1e-3


def test_fixed_densities_are_saved_and_do_not_learn():
    op = WeightedConv2d(4, 8, 3, density=0.5, learnable=False)
    assert set(op.state_dict()) == {'weight', 'bias', 'density_rows', 'density_columns'}
    assert not op.own_parameters()


def test_a_density_below_its_limit_grows_again():
    op = WeightedConv2d(1, 1, 3)
    with torch.no_grad():
        op.density_rows.fill_(-1.0)
        op.weight.fill_(1)
    assert op.kernel()[0, 0, 0, 1].item() == pytest.approx(1e-3)
    (-op.kernel()).sum().backward()
    assert op.density_rows.grad < 0


@pytest.mark.parametrize('density', [(0.5, 0.5), ((0.5,), (0.5,), (0.5,))], ids=str)
def test_densities_that_do_not_fit_are_refused(density):
    with pytest.raises(ArgumentError, match='density'):
        WeightedConv2d(1, 1, 3, density=density)


@pytest.mark.parametrize(
    'density, words',
    [(1e-4, r'density must be >= 0\.001, got 0\.0001'), (((0.3, 0.2), (0.5,)), r'density must have 0 values')],
)
def test_densities_that_would_not_be_used_are_refused(density, words):
    with pytest.raises(ArgumentError, match=words):
        WeightedConv2d(4, 4, (1, 3), density=density, learnable=False)
