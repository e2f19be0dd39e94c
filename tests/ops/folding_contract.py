"""The further contract of 2-D operators that fold into plain convolutions, and of those that have no basic kernel."""

import copy
import math
import pickle
import re

import pytest
import torch
from torch import nn

from tests.ops.contract import GEOMETRIES, TOLERANCE, UPSTREAM_ATTRIBUTES, OperatorContract, relative


class FoldingContract:
    """The further contract of operators that fold; mixed into :class:`OperatorContract`."""

    @pytest.mark.parametrize('geometry', GEOMETRIES)
    def test_fold_is_exact(self, geometry):
        op = self.make(**GEOMETRIES[geometry])
        conv = op.to_conv2d()
        assert type(conv) is nn.Conv2d
        assert torch.equal(conv.weight, op.kernel()) and relative(op.kernel(), op.weight) > 0.01
        assert relative(conv(self.input()), op(self.input())) < 1e-6
        assert conv.extra_repr() == self.plain(**GEOMETRIES[geometry]).extra_repr()

    def test_fold_keeps_type_mode_and_requires_grad(self):
        op = self.make(dtype=torch.float64).eval().requires_grad_(False)
        conv = op.to_conv2d()
        assert conv.weight.dtype == torch.float64 and not conv.training and not conv.weight.requires_grad

    def test_fold_shares_nothing(self):
        op = self.make()
        conv = op.to_conv2d()
        before = op(self.input()).clone()
        with torch.no_grad():
            conv.weight.zero_()
            conv.bias.zero_()
        assert torch.equal(op(self.input()), before)


class WeightlessContract(FoldingContract, OperatorContract):
    """The contract of a folding operator without a basic kernel: its ``weight`` is ``None``."""

    fold_tolerance = 1e-6

    def fold(self, op: nn.Module) -> nn.Module:
        """Return the module that ``switch_to_deploy`` replaces the operator by."""
        return op.to_conv2d()

    def test_has_the_attributes_that_upstream_reads(self):
        op, plain = self.make(padding=1), self.plain(padding=1)
        for name in UPSTREAM_ATTRIBUTES:
            assert getattr(op, name) == getattr(plain, name), name
        assert op.weight is None and 'weight' not in op.state_dict()
        assert op.bias.shape == plain.bias.shape

    @pytest.mark.parametrize('shape', [(0, 4, 8, 8), (1, 4, 3, 3)], ids=str)
    def test_empty_batch_and_smallest_input(self, shape):
        op = self.make()
        y = op(self.input(*shape))
        assert y.shape == (shape[0], self.out_channels, shape[2] - 2, shape[3] - 2)
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
        # What computes the kernel must not do so in the short type: a frequency, for one, multiplies its rounding.
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
        for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
            assert torch.equal(copied(x), op(x))
            assert all(a is not b for a, b in zip(copied.parameters(), op.parameters()))

    def test_strict_load_of_a_plain_state_dict_keeps_the_operator_parameters(self):
        """There is no basic kernel that could take the plain weight, so the load is refused."""
        op = nn.Sequential(self.make())
        own = next(name for name, _ in op.named_parameters() if name != '0.bias')
        with pytest.raises(RuntimeError, match=rf'(?s)Missing.*{re.escape(own)}.*Unexpected.*"0\.weight"'):
            op.load_state_dict(nn.Sequential(self.plain()).state_dict())

    def test_same_random_numbers_as_conv2d(self):
        """Without a weight only the distribution of the bias can be that of a plain convolution."""
        torch.manual_seed(3)
        settings = {**self.options, **self.geometry({})}
        biases = torch.cat([self.operator(4, self.out_channels, 3, **settings).bias for _ in range(100)]).abs()
        fan_in = self.plain().weight[0].numel()
        assert 0.98 < biases.max() * math.sqrt(fan_in) <= 1
        assert abs(biases.mean() * math.sqrt(fan_in) - 0.5) < 0.05

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
        assert conv.extra_repr() == self.plain(**GEOMETRIES[geometry]).extra_repr()
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
