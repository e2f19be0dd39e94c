"""CKConv2d against the naive oracle in float64, and the shared contract."""

import copy
import math
import pickle

import pytest
import torch
from ops.ck_operators import random_2d, response_2d
from ops.ck_oracle import kernel_of, network_at, sampled
from ops.contract import GEOMETRIES, HOST_ATTRIBUTES, TOLERANCE, FoldingContract, OperatorContract, relative
from torch import nn

from mmkerv.ops import CKConv2d, continuous_kernel

ACTIVATIONS = ['sine', 'relu', 'swish', 'rff']


class ContinuousContract(FoldingContract, OperatorContract):
    """The shared contract for an operator whose ``weight`` is ``None``."""

    operator = CKConv2d
    fold_tolerance = 1e-6

    def expected(self, op, x):
        return response_2d(op, x)

    def fold(self, op):
        return op.to_conv2d()

    def test_has_the_attributes_hosts_read(self):
        op, plain = self.make(padding=1), nn.Conv2d(4, 8, 3, padding=1)
        for name in HOST_ATTRIBUTES:
            assert getattr(op, name) == getattr(plain, name), name
        assert op.weight is None and 'weight' not in op.state_dict()
        assert op.bias.shape == plain.bias.shape

    @pytest.mark.parametrize('shape', [(0, 4, 8, 8), (1, 4, 3, 3)], ids=str)
    def test_empty_batch_and_smallest_input(self, shape):
        op = self.make()
        y = op(self.input(*shape))
        assert y.shape == (shape[0], 8, shape[2] - 2, shape[3] - 2)
        y.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in op.parameters())

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        op, x = self.make(padding=1), self.input()
        if dtype == torch.float16 and torch.__version__ < '2.3':
            pytest.skip('torch before 2.3 has no CPU autocast in float16')
        with torch.autocast('cpu', dtype=dtype):
            kernel, y = op.kernel(), op(x)
        assert y.dtype == dtype
        # The kernel net itself must not be computed in the short type: omega_0 multiplies its rounding.
        assert kernel.dtype == torch.float32 and torch.equal(kernel, op.kernel())
        assert relative(y, self.expected(op, x)) < TOLERANCE[dtype]
        y.float().sum().backward()
        for p in op.parameters():
            assert p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all()

    def test_compiles_without_graph_breaks(self):
        op, x = self.make(padding=1), self.input()
        torch._dynamo.reset()
        compiled = torch.compile(op, fullgraph=True, backend='aot_eager')
        y = compiled(x)
        y.square().sum().backward()
        gradients = [p.grad.clone() for p in op.parameters()]
        op.zero_grad()
        expected = op(x)
        expected.square().sum().backward()
        assert relative(y, expected) < TOLERANCE[torch.float32]
        assert all(relative(g, p.grad) < 1e-4 for g, p in zip(gradients, op.parameters()))

    def test_deepcopy_and_pickle(self):
        op, x = self.make(), self.input()
        op.set_resolution(2)
        expected = op(x)
        for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
            assert torch.equal(copied(x), expected) and copied.resolution == (2.0, 2.0)
            assert all(a is not b for a, b in zip(copied.parameters(), op.parameters()))

    def test_strict_load_of_a_plain_state_dict_keeps_the_operator_parameters(self):
        """There is no basic kernel that could take the plain weight, so the load is refused."""
        op = nn.Sequential(self.make())
        with pytest.raises(RuntimeError, match=r'(?s)Missing.*0\.kernel_net.*Unexpected.*"0\.weight"'):
            op.load_state_dict(nn.Sequential(nn.Conv2d(4, 8, 3)).state_dict())

    def test_same_random_numbers_as_conv2d(self):
        """Without a weight only the distribution of the bias can be that of a plain convolution."""
        torch.manual_seed(3)
        biases = torch.cat([self.operator(4, 8, 3, **self.options).bias for _ in range(100)]).abs()
        assert 0.99 < biases.max() * math.sqrt(4 * 9) <= 1
        assert abs(biases.mean() * math.sqrt(4 * 9) - 0.5) < 0.05

    def test_reset_parameters_draws_what_the_constructor_drew(self):
        op, other = self.make(), self.make()
        with torch.no_grad():
            for p in other.parameters():
                p.fill_(7.0)
        torch.manual_seed(0)
        other.reset_parameters()
        assert all(torch.equal(a, b) for a, b in zip(op.parameters(), other.parameters()))

    @pytest.mark.parametrize('geometry', GEOMETRIES)
    def test_fold_is_exact(self, geometry):
        op = self.make(**GEOMETRIES[geometry])
        conv = op.to_conv2d(dense=True)
        assert type(conv) is nn.Conv2d
        assert torch.equal(conv.weight, op.kernel())
        assert conv.extra_repr() == nn.Conv2d(4, 8, 3, **GEOMETRIES[geometry]).extra_repr()
        for folded in (conv, self.fold(op)):
            assert relative(folded(self.input()), op(self.input())) < self.fold_tolerance

    def test_fold_keeps_type_mode_and_requires_grad(self):
        op = self.make(dtype=torch.float64).eval().requires_grad_(False)
        for folded in (self.fold(op), op.to_conv2d(dense=True)):
            assert not any(m.training for m in folded.modules())
            assert all(p.dtype == torch.float64 and not p.requires_grad for p in folded.parameters())
        assert all(p.requires_grad for p in self.fold(op.requires_grad_(True)).parameters())

    def test_fold_shares_nothing(self):
        op = self.make()
        before = op(self.input()).clone()
        with torch.no_grad():
            for p in self.fold(op).parameters():
                p.zero_()
        assert torch.equal(op(self.input()), before)


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

    def test_the_kernel_of_half_parameters_is_rounded_once(self):
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
def test_kernel_is_the_network_of_the_position(activation, settings):
    omega = {'omega_0': 3.5} if activation in ('sine', 'rff') else {}
    settings = {'in_channels': 4, 'out_channels': 6, 'kernel_size': 5, **settings}
    op = random_2d(**settings, activation=activation, **omega)
    assert relative(op.kernel(), torch.from_numpy(sampled(kernel_of(op), op.kernel_size))) < 1e-11


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_functional_core(activation):
    generator = torch.Generator().manual_seed(0)
    sizes = [(4 if activation == 'rff' else 8, 3), (5, 8), (7, 5)]
    weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    biases = [torch.randn(s[0], generator=generator, dtype=torch.float64) for s in sizes]
    positions = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 2 - 1
    values = continuous_kernel(positions, weights, biases, activation=activation, omega_0=7.0)
    expected = torch.tensor([network_at(p, weights, biases, activation, 7.0).tolist() for p in positions.tolist()]).T
    assert values.shape == (7, 4) and relative(values, expected) < 1e-6


def test_functional_core_refuses_what_does_not_fit():
    weights, biases = [torch.ones(2, 1), torch.ones(3, 2)], [torch.zeros(2), torch.zeros(3)]
    with pytest.raises(ValueError, match=r"activation.*did you mean 'sine'"):
        continuous_kernel(torch.zeros(1, 1), weights, biases, activation='sin')
    with pytest.raises(ValueError, match='biases must be as many as weights, got 1 for 2'):
        continuous_kernel(torch.zeros(1, 1), weights, biases[:1])


def test_parameters_do_not_grow_with_the_kernel():
    small, large = CKConv2d(3, 8, 3), CKConv2d(3, 8, 31)
    assert {k: v.shape for k, v in small.state_dict().items()} == {k: v.shape for k, v in large.state_dict().items()}
