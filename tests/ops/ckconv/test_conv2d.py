"""CKConv2d against the naive oracle in float64, and the shared contract."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmkerv.ops import CKConv2d, continuous_kernel
from tests.ops.ckconv.ck_operators import random_2d, response_2d
from tests.ops.ckconv.ck_oracle import kernel_of, network_at, sampled
from tests.ops.contract import relative
from tests.ops.folding_contract import WeightlessContract

ACTIVATIONS = ['sine', 'relu', 'swish', 'rff']


class ContinuousContract(WeightlessContract):
    operator = CKConv2d

    def expected(self, op, x):
        return response_2d(op, x)

    def test_deepcopy_and_pickle(self):
        op, x = self.make(), self.input()
        op.set_resolution(2)
        expected = op(x)
        for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
            assert torch.equal(copied(x), expected) and copied.resolution == (2.0, 2.0)
            assert all(a is not b for a, b in zip(copied.parameters(), op.parameters()))


class TestDense(ContinuousContract):
    options = {'hidden': 2, 'method': 'direct'}


class TestSeparable(ContinuousContract):
    options = {'hidden': 2, 'method': 'direct', 'separable': True}

    def test_folds_into_a_depthwise_and_a_1x1_convolution(self):
        op = self.make(padding=1, dilation=2, groups=2, padding_mode='circular')
        depthwise, pointwise = op.to_conv2d()
        wanted = nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4, padding_mode='circular', bias=False)
        assert depthwise.extra_repr() == wanted.extra_repr()
        assert pointwise.extra_repr() == nn.Conv2d(4, 8, 1, groups=2).extra_repr()

    def test_the_kernel_of_half_precision_parameters_is_rounded_once(self):
        op = self.make(dtype=torch.bfloat16)
        assert torch.equal(op.kernel(), copy.deepcopy(op).float().kernel().bfloat16())


class TestFourier(ContinuousContract):
    fold_tolerance = 1e-5

    def make(self, *args, **kwargs):
        strided = kwargs.get('stride', 1) != 1
        return super().make(*args, **{'hidden': 2, 'method': 'direct' if strided else 'fft', **kwargs})

    def test_channels_last(self):
        super().test_channels_last()


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize(
    'settings',
    [
        {},
        {'kernel_size': (3, 7)},
        {'kernel_size': (5, 1), 'layers': 2},
        {'kernel_size': 1},
        {'groups': 2, 'layers': 4},
        {'groups': 2, 'separable': True, 'kernel_size': (5, 3)},
        {'separable': True},
    ],
    ids=str,
)
def test_kernel_values_are_the_network_outputs_at_their_positions(activation, settings):
    omega = {'omega_0': 3.5} if activation in ('sine', 'rff') else {}
    settings = {'in_channels': 4, 'out_channels': 6, 'kernel_size': 5, **settings}
    op = random_2d(**settings, activation=activation, **omega)
    assert relative(op.kernel(), torch.from_numpy(sampled(kernel_of(op), op.kernel_size))) < 1e-11


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_continuous_kernel_agrees_with_the_oracle(activation):
    generator = torch.Generator().manual_seed(0)
    sizes = [(4 if activation == 'rff' else 8, 3), (5, 8), (7, 5)]
    weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    biases = [torch.randn(s[0], generator=generator, dtype=torch.float64) for s in sizes]
    positions = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 2 - 1
    values = continuous_kernel(positions, weights, biases, activation=activation, omega_0=7.0)
    expected = torch.tensor([network_at(p, weights, biases, activation, 7.0).tolist() for p in positions.tolist()]).T
    assert values.shape == (7, 4) and relative(values, expected) < 1e-6


def test_continuous_kernel_rejects_inconsistent_arguments():
    weights, biases = [torch.ones(2, 1), torch.ones(3, 2)], [torch.zeros(2), torch.zeros(3)]
    with pytest.raises(ValueError, match=r"activation.*did you mean 'sine'"):
        continuous_kernel(torch.zeros(1, 1), weights, biases, activation='sin')
    with pytest.raises(ValueError, match='biases must be as many as weights, got 1 for 2'):
        continuous_kernel(torch.zeros(1, 1), weights, biases[:1])


def test_parameter_shapes_do_not_depend_on_the_kernel_size():
    small, large = CKConv2d(3, 8, 3), CKConv2d(3, 8, 31)
    assert {k: v.shape for k, v in small.state_dict().items()} == {k: v.shape for k, v in large.state_dict().items()}
