"""The further contract of each family of operators, beside :class:`OperatorContract`."""

import pytest
import torch
from torch import nn

from mmkerv.errors import FoldError
from mmkerv.ops import frozen_kernels, switch_to_deploy
from tests.ops.contract import GEOMETRIES, OperatorContract, relative
from tests.ops.folding_contract import FoldingContract, WeightlessContract


class BranchesContract(FoldingContract, OperatorContract):
    """Operators of several branches. All other checks are made in evaluation, with statistics as after training."""

    def make(self, *args, **kwargs) -> nn.Module:
        op = super().make(*args, **kwargs)
        for norm in (m for m in op.modules() if isinstance(m, nn.BatchNorm2d)):
            with torch.no_grad():
                for value, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2), (norm.weight, 0.5, 2)):
                    value.uniform_(low, high)
                norm.bias.uniform_(-1, 1)
        return op.eval()

    @pytest.mark.parametrize('geometry', GEOMETRIES)
    def test_fold_is_exact(self, geometry):
        op = self.make(**GEOMETRIES[geometry])
        conv = op.to_conv2d()
        assert type(conv) is nn.Conv2d
        assert torch.equal(conv.weight, op.kernel()) and relative(op.kernel(), op.weight) > 0.01
        assert relative(conv(self.input()), op(self.input())) < 1e-6
        # The shifts of the norms become a bias.
        assert conv.extra_repr() == self.plain(**{**GEOMETRIES[geometry], 'bias': True}).extra_repr()

    @pytest.mark.parametrize('geometry', GEOMETRIES)
    def test_the_branches_add_up_to_the_folded_kernel(self, geometry):
        op, x = self.make(**GEOMETRIES[geometry], dtype=torch.float64), self.input(dtype=torch.float64)
        folded = op(x)
        # The norms take their running statistics, but the branches are computed one by one.
        for norm in (m for m in op.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.train()
            norm.forward = lambda z, norm=norm: nn.functional.batch_norm(
                z, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0, norm.eps
            )
        assert relative(op(x), folded) < 1e-12

    def test_training_takes_batch_statistics_and_learns(self):
        op, x = self.make(padding=1).train(), self.input()
        before = {name: value.clone() for name, value in op.named_buffers()}
        op(x).square().mean().backward()
        assert any(not torch.equal(value, before[name]) for name, value in op.named_buffers())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in op.parameters())


class SplitContract(WeightlessContract):
    """Operators that convolve parts of the channels."""

    def test_deploys_as_it_is_unless_asked_to_fold(self):
        op = self.make()
        model, x = nn.Sequential(op), self.input()
        expected = model(x)
        assert 'dense' in switch_to_deploy(model).kept['0'] and model[0] is op
        assert switch_to_deploy(model, split='dense').replaced == ['0'] and type(model[0]) is nn.Conv2d
        assert relative(model(x), expected) < self.fold_tolerance

    def test_frozen_kernels_change_nothing(self):
        op, x = self.make(), self.input()
        expected = op(x)
        with frozen_kernels(nn.Sequential(op)), torch.no_grad():
            assert torch.equal(op(x), expected)


class DynamicContract(OperatorContract):
    """Operators whose kernel depends on the input."""

    def test_kernel_has_one_kernel_for_each_sample(self):
        op, x = self.make(), self.input()
        kernels = op.kernel(x)
        assert kernels.shape == (len(x), 8, 4, 3, 3)
        assert not torch.equal(kernels[0], kernels[1]) and relative(op.kernel(x[:1]), kernels[:1]) < 1e-6

    def test_a_sample_alone_gets_the_answer_it_gets_in_a_batch(self):
        op, x = self.make(padding=1), self.input()
        assert relative(op(x[1]), op(x)[1]) < 1e-6

    def test_never_folds_and_says_so(self):
        op = self.make()
        with pytest.raises(FoldError, match='from each input'):
            op.to_conv2d()
        assert 'from each input' in switch_to_deploy(nn.Sequential(op)).kept['0']

    def test_efficient_conv_bn_eval_is_refused(self):
        op = self.make()
        with pytest.raises(RuntimeError, match='depends on the input') as raised:
            op._conv_forward(self.input(), op.weight, op.bias)
        assert 'fold' not in str(raised.value).lower().replace('folds', '')


class ResponseContract(OperatorContract):
    """Operators that are not linear; ``options`` make them so, ``linear`` those of a convolution, if any."""

    linear: dict | None = None

    def test_folds_only_where_it_is_a_convolution(self):
        op, x = self.make(padding=1), self.input()
        for refused in (op.to_conv2d, op.kernel):
            with pytest.raises(FoldError, match='not linear'):
                refused()
        assert 'not linear' in switch_to_deploy(nn.Sequential(op)).kept['0']
        if self.linear is None:
            return
        op = self.make(padding=1, **self.linear)
        conv = op.to_conv2d()
        assert type(conv) is nn.Conv2d and torch.equal(conv.weight, op.kernel())
        assert relative(conv(x), op(x)) < 1e-6
