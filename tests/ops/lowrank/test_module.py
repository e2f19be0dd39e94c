"""Low-rank convolution: the contract of each decomposition, weights of the equations, plain weights, folding."""

import logging
import math

import pytest
import torch
from torch import nn

import mmkerv
from mmkerv.errors import CheckpointMismatchError
from mmkerv.models import placement
from mmkerv.ops import FoldedConv, LowRankConv, LowRankConv2d, switch_to_deploy
from mmkerv.ops.lowrank import module
from tests.ops.contract import relative
from tests.ops.folding_contract import WeightlessContract
from tests.ops.oracle import convolution, dense_kernel

DECOMPOSITIONS = ('tucker2', 'cp3', 'cp4')
ALL = pytest.mark.parametrize('decomposition', DECOMPOSITIONS)


def plain(*arguments, **settings) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*arguments, **settings).double()


class LowRankContract(WeightlessContract):
    operator = LowRankConv2d

    def expected(self, op, x):
        return torch.from_numpy(convolution(op, x)[0])

    @pytest.mark.parametrize('size', [(5, 3), (2, 4), (1, 1), (7, 1)], ids=str)
    @pytest.mark.parametrize('mode', ['zeros', 'reflect', 'replicate', 'circular'])
    def test_the_chain_is_the_one_convolution_in_every_padding_mode(self, size, mode):
        for groups in (1, 2):
            geometry = {'stride': (1, 2), 'padding': tuple(k // 2 for k in size), 'dilation': (2, 1), 'groups': groups}
            op = self.make(4, 6, size, **geometry, padding_mode=mode, dtype=torch.float64)
            assert relative(op.kernel(), torch.from_numpy(dense_kernel(op))) < 1e-13
            x = self.input(2, 4, 17, 9, dtype=torch.float64)
            expected = self.expected(op, x)
            for layer in (op, op.to_conv2d(), op.to_conv2d(dense=True)):
                assert relative(layer(x), expected) < 1e-12

    def test_the_initial_kernel_has_the_variance_of_a_plain_one(self):
        for size in (5, 1):
            torch.manual_seed(0)
            op = LowRankConv2d(64, 96, size, **self.options | {'rank': 0.9})
            assert abs(float(op.kernel().detach().var() * 3 * 64 * size**2) - 1) < 0.15

    def test_strict_load_of_a_plain_state_dict_keeps_the_operator_parameters(self):
        """It decomposes the weight."""
        op, conv = nn.Sequential(self.make()), nn.Sequential(self.plain())
        op.load_state_dict(conv.state_dict())
        expected = self.make()
        error = expected.decompose(conv[0].weight)
        assert torch.equal(op[0].kernel(), expected.kernel()) and torch.equal(op[0].bias, conv[0].bias)
        distance = (op[0].kernel() - conv[0].weight).norm() / conv[0].weight.norm()
        assert abs(float(distance) - error) < 1e-5 and error < 0.9


class TestTucker2(LowRankContract):
    options = {'rank': (3, 4)}


class TestCP3(LowRankContract):
    options = {'decomposition': 'cp3', 'rank': 5}


class TestCP4(LowRankContract):
    options = {'decomposition': 'cp4', 'rank': 5}


def weights(op: nn.Module) -> int:
    return sum(p.numel() for p in op.parameters())


def test_the_number_of_weights_is_that_of_the_equations():
    for i, o, k, g, r in ((256, 256, 3, 1, 64), (24, 48, 5, 2, 7)):
        settings = {'groups': g, 'bias': False}
        width, outputs = i // g, o // g
        op = LowRankConv2d(i, o, k, **settings, rank=(r, r + 1))
        assert weights(op) == g * (width * r + r * (r + 1) * k * k + (r + 1) * outputs)
        op = LowRankConv2d(i, o, k, **settings, decomposition='cp3', rank=r)
        assert weights(op) == g * r * (outputs + width + k * k)
        op = LowRankConv2d(i, o, k, **settings, decomposition='cp4', rank=r)
        assert weights(op) == g * r * (outputs + width + k + k)
    # 256 -> 256, 3x3: 2.8, 4.5 and 8.5 times fewer weights.
    for rank, fewer in ((128, 2.8), (96, 4.5), (64, 8.5)):
        op = LowRankConv2d(256, 256, 3, bias=False, rank=rank)
        assert round(256 * 256 * 9 / weights(op), 1) == pytest.approx(fewer, abs=0.11)
    for rank, fewer in ((256, 4.5), (512, 2.2)):
        op = LowRankConv2d(256, 256, 3, bias=False, decomposition='cp4', rank=rank)
        assert 256 * 256 * 9 / weights(op) == pytest.approx(fewer, abs=0.1)


@ALL
@pytest.mark.parametrize('shape', [(64, 96, 3), (48, 48, 1), (64, 32, (1, 5)), (96, 96, 3, 1, 1, 1, 4)], ids=str)
def test_a_fraction_is_the_share_of_the_plain_weights(decomposition, shape):
    conv = nn.Conv2d(*shape, bias=False)
    for fraction in (0.25, 0.5, 1.0):
        op = LowRankConv2d(*shape, bias=False, decomposition=decomposition, rank=fraction)
        assert fraction - 0.05 <= weights(op) / weights(conv) <= fraction


@ALL
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('size', [3, (2, 5), 1], ids=str)
def test_full_ranks_reproduce_the_convolution(decomposition, groups, size):
    conv = plain(4, 6, size, 2, 2, groups=groups, padding_mode='circular')
    op = LowRankConv2d(4, 6, size, 2, 2, 1, groups, True, 'circular', decomposition=decomposition, rank=1000).double()
    # Far above the full rank: lowered to it.
    assert max(op.ranks) <= 6 * 4 * 10
    assert op.decompose(conv.weight) < 1e-12
    with torch.no_grad():
        op.bias.copy_(conv.bias)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    for layer in (op, op.to_conv2d(), op.to_conv2d(dense=True)):
        assert relative(layer(x), conv(x)) < 1e-12


@ALL
def test_a_kernel_of_low_rank_is_found_again(decomposition):
    torch.manual_seed(0)
    source = LowRankConv2d(16, 12, 3, decomposition=decomposition, rank=3, dtype=torch.float64)
    op = LowRankConv2d(16, 12, 3, decomposition=decomposition, rank=3, dtype=torch.float64)
    # The terms of a CP are shrunk a little.
    assert op.decompose(source.kernel()) < (1e-10 if decomposition == 'tucker2' else 0.05)


@ALL
def test_a_higher_rank_is_no_worse(decomposition):
    conv = plain(16, 12, 3)
    errors = []
    for rank in (2, 4, 8, 12):
        op = LowRankConv2d(16, 12, 3, decomposition=decomposition, rank=rank)
        errors.append(op.decompose(conv.weight))
        with torch.no_grad():
            assert float((op.kernel() - conv.weight).norm() / conv.weight.norm()) == pytest.approx(errors[-1], abs=1e-5)
    assert errors == sorted(errors, reverse=True) and errors[0] < 1


@ALL
def test_folds_into_plain_convolutions_in_a_row(decomposition):
    op = LowRankConv2d(8, 6, (5, 3), (2, 1), (2, 0), (1, 2), 2, True, 'reflect', decomposition=decomposition, rank=2)
    first, *spatial, last = op.to_conv2d()
    assert first.extra_repr() == nn.Conv2d(8, 4, 1, groups=2, bias=False).extra_repr()
    assert last.extra_repr() == nn.Conv2d(4, 6, 1, groups=2).extra_repr()
    common = {'bias': False, 'padding_mode': 'reflect', 'groups': 2 if decomposition == 'tucker2' else 4}
    if decomposition == 'cp4':
        wanted = [
            nn.Conv2d(4, 4, (5, 1), (2, 1), (2, 0), (1, 1), **common),
            nn.Conv2d(4, 4, (1, 3), (1, 1), (0, 0), (1, 2), **common),
        ]
    else:
        wanted = [nn.Conv2d(4, 4, (5, 3), (2, 1), (2, 0), (1, 2), **common)]
    assert [conv.extra_repr() for conv in spatial] == [conv.extra_repr() for conv in wanted]
    cfg = LowRankConv.deploy_cfg(dict(type='LowRankConv', decomposition=decomposition, rank=2))
    assert cfg.pop('type') == 'mmkerv.FoldedConv'
    built = FoldedConv(8, 6, (5, 3), (2, 1), (2, 0), (1, 2), 2, True, 'reflect', **cfg)
    assert [conv.extra_repr() for conv in built] == [conv.extra_repr() for conv in op.to_conv2d()]


@ALL
def test_a_1x1_convolution_becomes_two(decomposition):
    op = LowRankConv2d(16, 8, 1, 2, decomposition=decomposition, rank=3)
    first, last = op.to_conv2d()
    assert first.extra_repr() == nn.Conv2d(16, 3, 1, 2, bias=False).extra_repr()
    assert last.extra_repr() == nn.Conv2d(3, 8, 1).extra_repr()


def test_depthwise_convolutions_stay_plain_in_configs():
    assert type(LowRankConv(8, 8, 3, groups=8)) is nn.Conv2d
    assert type(LowRankConv2d(8, 8, 3, groups=8).to_conv2d()) is nn.Conv2d
    with pytest.raises(ValueError, match='rank must be one number'):
        LowRankConv(8, 8, 3, groups=8, decomposition='cp3', rank=(2, 3))
    with pytest.raises(ValueError, match='lowrank has a form of its own'):
        FoldedConv(8, 8, 3, lowrank={}, separable='spatial')


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 6, 1)
    ).eval()


@ALL
def test_convert_decomposes_the_weights_and_logs_each_error(decomposition, monkeypatch):
    lines = []
    monkeypatch.setattr(placement, 'log', lambda message, *_: lines.append(message))
    original = network()
    conv_cfg = {'type': 'LowRankConv', 'decomposition': decomposition, 'rank': 4}
    model = mmkerv.convert(network(), conv_cfg, {'kernel_sizes': 'all'})
    assert [name for name, m in model.named_modules() if isinstance(m, LowRankConv2d)] == ['0', '3']
    for name, line in zip(('0', '3'), lines):
        kernel, weight = model[int(name)].kernel(), original[int(name)].weight
        error = float(((kernel - weight).norm() / weight.norm()).detach())
        assert line.startswith(f'mmkerv: {name}.weight decomposed to ranks') and line.endswith(f'{error:.3g}'), line
        assert torch.equal(model[int(name)].bias, original[int(name)].bias)
    assert '2 weights were decomposed, with relative errors' in lines[2] and 'dropped' not in lines[2]
    x = torch.randn(2, 3, 16, 16)
    expected = model(x)
    assert switch_to_deploy(model).replaced == ['0', '3']
    assert relative(model(x), expected) < 1e-5
    deploy = {'type': 'FoldedConv', 'lowrank': {'decomposition': decomposition, 'rank': 4}, 'replace_1x1': True}
    deployed = mmkerv.convert(network(), deploy, {'kernel_sizes': 'all'})
    deployed.load_state_dict(model.state_dict())
    assert torch.equal(deployed(x), model(x))


def test_a_decomposition_always_starts_from_the_same_numbers():
    conv = plain(8, 6, 3)
    first, second = (LowRankConv2d(8, 6, 3, decomposition='cp3', rank=4) for _ in range(2))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first.decompose(conv.weight)
    assert torch.equal(state, torch.get_rng_state())
    second.decompose(conv.weight)
    assert torch.equal(first.kernel(), second.kernel())


def test_loading_logs_the_error_and_refuses_what_is_not_finite(monkeypatch):
    lines = []
    monkeypatch.setattr(module, 'log', lambda message, level=logging.INFO: lines.append(message))
    model = nn.Sequential(nn.ReLU(), LowRankConv2d(8, 6, 3, rank=(8, 6)))
    state = {'1.weight': torch.randn(6, 8, 3, 3), '1.bias': torch.zeros(6)}
    model.load_state_dict(state)
    assert len(lines) == 1 and lines[0].startswith('mmkerv: 1.weight decomposed to ranks (8, 6), relative error')
    assert relative(model[1].kernel(), state['1.weight']) < 1e-5
    assert list(state) == ['1.weight', '1.bias'], 'the caller keeps its weights'
    for shape in ((6, 8, 5, 5), (6, 4, 3, 3)):
        with pytest.raises(RuntimeError, match=r'(?s)Missing.*1\.first.*Unexpected.*1\.weight'):
            model.load_state_dict({**state, '1.weight': torch.randn(shape)})
    state['1.weight'][0, 0, 0, 0] = math.nan
    with pytest.raises(CheckpointMismatchError, match=r'1\.weight of shape \(6, 8, 3, 3\) holds NaN'):
        model.load_state_dict(state)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_weight_is_decomposed_in_the_precision_of_the_layer(dtype):
    torch.manual_seed(0)
    op, weight = LowRankConv2d(8, 6, 3, bias=False, rank=(8, 6)), torch.randn(6, 8, 3, 3).to(dtype)
    op.load_state_dict({'weight': weight})
    assert op.first.dtype == torch.float32 and relative(op.kernel(), weight.float()) < 1e-5
    op.load_state_dict({'weight': weight}, assign=True)
    assert {p.dtype for p in op.parameters()} == {dtype}


def test_a_zero_weight_is_reproduced():
    for decomposition in DECOMPOSITIONS:
        op = LowRankConv2d(4, 6, 3, decomposition=decomposition, rank=2)
        assert op.decompose(torch.zeros(6, 4, 3, 3)) == 0 and not op.kernel().any()
