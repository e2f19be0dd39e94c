"""ReparamConv2d: branches of batch norms, presets, the plain start, folding in float64."""

import pytest
import torch
from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops import FoldedConv, ReparamConv, ReparamConv2d
from mmkerv.ops.reparam import UNIREP
from tests.ops.contract import relative
from tests.ops.family_contracts import BranchesContract
from tests.ops.oracle import convolution


class TestReparamWithNorms(BranchesContract):
    operator = ReparamConv2d
    options = {'branches': [(1, 1), ((1, 3), 1)]}

    def expected(self, op, x):
        y = torch.from_numpy(convolution(op, x)[0])
        shift = 0
        for branch in (op.basic, *op.parallel.values()):
            norm = branch.norm.double()
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            shift = shift + norm.bias - norm.running_mean * scale
        return y + shift.detach().view(-1, 1, 1)


def perturbed(*args, **kwargs) -> ReparamConv2d:
    torch.manual_seed(0)
    op = ReparamConv2d(*args, dtype=torch.float64, **kwargs)
    with torch.no_grad():
        for name, value in op.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 2) if name.endswith('running_var') else value.add_(torch.randn_like(value))
    return op.eval()


@pytest.mark.parametrize('mode', ['zeros', 'reflect', 'replicate', 'circular'])
@pytest.mark.parametrize('norm', ['bn', None])
@pytest.mark.parametrize('preset', ['replk', 'unirep', 'slak', 'repvgg'])
def test_the_fold_is_exact(preset, norm, mode):
    settings = {} if preset == 'repvgg' else {'kernel_extent': 9}
    op = perturbed(4, 4, 3, 2, 2, 2, 2, preset=preset, branch_norm=norm, padding_mode=mode, **settings)
    x = torch.randn(2, 4, 21, 19, dtype=torch.float64)
    conv = op.to_conv2d()
    assert relative(conv(x), op(x)) < 1e-12
    if norm:
        # The branches one by one, with the statistics of evaluation.
        branches = op.branches()
        padded = nn.functional.pad(
            x, [p for p in op.padding[::-1] for _ in range(2)], mode='constant' if mode == 'zeros' else mode
        )
        total = sum(op._branch_output(padded, branch) for branch in branches)
        assert relative(total + op.bias.view(-1, 1, 1), op(x)) < 1e-12
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] += 1e-6
    assert relative(conv(x), op(x)) > 1e-12


@pytest.mark.parametrize('extent', UNIREP)
def test_the_branches_of_unireplknet_fit(extent):
    op = ReparamConv2d(2, 2, extent, padding=extent // 2, groups=2, preset='unirep')
    assert len(op.parallel) == len(UNIREP[extent]) and op.large is None
    assert all(r * (k - 1) + 1 <= extent for k, r in UNIREP[extent])


def test_starts_as_the_plain_convolution_and_everything_learns():
    plain = nn.Conv2d(4, 4, 3, padding=1)
    op = ReparamConv(4, 4, 3, padding=1, preset='unirep', kernel_extent=7, branch_norm=None)
    op.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 9, 9)
    assert torch.allclose(op(x), plain(x), atol=1e-6)
    before = {name: p.clone() for name, p in op.named_parameters()}
    optimizer = torch.optim.SGD(op.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        op(x).square().sum().backward()
        optimizer.step()
    assert all((p != before[name]).any() for name, p in op.named_parameters())


def test_sync_batch_norm_frozen_statistics_and_the_deploy_config():
    op = ReparamConv2d(4, 4, 3, padding=1, preset='repvgg')
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in nn.SyncBatchNorm.convert_sync_batchnorm(op).modules()) == 3
    op, x = ReparamConv2d(4, 4, 3, padding=1, bias=False, preset='replk', kernel_extent=5), torch.randn(2, 4, 8, 8)
    op(x)
    for norm in (m for m in op.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eval()
    # norm_eval and frozen stages of OpenMMLab leave the module itself in training.
    assert op.training and torch.allclose(op(x), op.to_conv2d()(x), atol=1e-5)
    cfg = ReparamConv.deploy_cfg(dict(type='ReparamConv', preset='replk', kernel_extent=5))
    built = FoldedConv(4, 4, 3, padding=1, bias=False, **{k: v for k, v in cfg.items() if k != 'type'})
    built.load_state_dict(op.to_conv2d().state_dict())
    assert FoldedConv(4, 4, 1, bias=False, with_bias=True).bias is None


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'preset': 'replk', 'branches': [(3, 1)]}, 'give either branches'),
        ({'preset': 'replk'}, 'cannot be centred'),
        ({'preset': 'unirep'}, 'square kernels of extent 5, 7'),
        ({'preset': 'slak'}, 'kernel_extent'),
        ({'branches': ['identity']}, 'as many output as input channels'),
        ({'branches': [(1, 1), (1, 1)]}, 'twice'),
        ({'branches': [(2, 1)]}, 'cannot be centred'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        ReparamConv2d(4, 8, 3, **arguments)
