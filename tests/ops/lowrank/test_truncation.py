"""Truncated ranks: the smallest that keep the kernel, and layers that take the ranks of what they load."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops import FoldedConv, LowRankConv2d, switch_to_deploy
from mmkerv.ops.lowrank.tucker import tucker2
from tests.ops.contract import relative

LAYERS = {
    'tucker2': dict(rank=(6, 8)),
    'tucker2, groups': dict(rank=(4, 5), groups=2),
    'cp3': dict(decomposition='cp3', rank=9),
    'cp3, groups': dict(decomposition='cp3', rank=5, groups=2),
    'cp4': dict(decomposition='cp4', rank=9),
    'matrix': dict(kernel_size=1, rank=6),
    'matrix, groups': dict(kernel_size=1, rank=4, groups=2),
}
LAYER = pytest.mark.parametrize('name', LAYERS)


def layer(name: str, dtype: torch.dtype = torch.float64) -> LowRankConv2d:
    options = dict(kernel_size=3, padding=1) | LAYERS[name]
    return LowRankConv2d(8, 12, options.pop('kernel_size'), **options, dtype=dtype)


@torch.no_grad()
def deficient(op: LowRankConv2d, lost: int) -> LowRankConv2d:
    """Make the last channels of the middle, or terms, combinations of the others, in every group."""
    if op.options.decomposition == 'tucker2' or max(op.kernel_size) == 1:
        first = op.first.view(op.groups, op.ranks[0], -1)
        first[:, -lost:] = torch.randn(op.groups, lost, op.ranks[0] - lost, dtype=first.dtype) @ first[:, :-lost]
        if max(op.kernel_size) > 1:
            op.last[:, -1] = 2 * op.last[:, 0] - op.last[:, 1]
        return op
    # Two terms that differ by a factor are one.
    for name in op.kernel_names()[:-1]:
        kernel = getattr(op, name).view(op.groups, op.ranks[0], -1)
        kernel[:, -lost:] = 1.5 * kernel[:, :lost]
    return op


@LAYER
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('tolerance', [0.0, 1e-4])
def test_redundant_ranks_are_found_and_the_outputs_stay(name, dtype, tolerance):
    op, lost = deficient(layer(name, dtype), 2), 2
    before, ranks, x = op.kernel(), op.ranks, torch.randn(2, 8, 7, 7, dtype=dtype)
    output, parameters = op(x), list(op.parameters())
    error = op.truncate(tolerance)
    outer = ranks[1] - (1 if op.options.decomposition == 'tucker2' and max(op.kernel_size) > 1 else lost)
    assert op.ranks == (ranks[0] - lost, outer)
    assert error <= 1e-6 and relative(op.kernel(), before) <= 1e-6 and relative(op(x), output) <= 2e-6
    assert all(old is new for old, new in zip(parameters, op.parameters(), strict=True))
    assert [tuple(getattr(op, key).shape) for key in op.kernel_names()] == list(op._shapes().values())
    op(x).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in op.parameters())


@LAYER
def test_a_kernel_of_full_rank_stays_as_it_is(name):
    op = layer(name)
    state = copy.deepcopy(op.state_dict())
    assert op.truncate(0.0) == 0
    assert op.ranks == op.built_ranks and all(torch.equal(op.state_dict()[key], value) for key, value in state.items())


@LAYER
@pytest.mark.parametrize('tolerance', [0.05, 0.3, 0.7, 0.99])
def test_the_tolerance_holds(name, tolerance):
    op = layer(name)
    before = op.kernel()
    error = op.truncate(tolerance)
    found = float((op.kernel() - before).norm() / before.norm())
    assert math.isclose(found, error, abs_tol=1e-12) and found <= tolerance
    assert tolerance < 0.7 or error > 0


@pytest.mark.parametrize('tolerance', [0.2, 0.4, 0.6])
def test_no_pair_of_ranks_with_fewer_weights_keeps_the_kernel_by_hosvd(tolerance):
    op = layer('tucker2')
    kernel = op.kernel().detach()
    op.truncate(tolerance)
    costs = {}
    for outer, inner in itertools.product(range(1, 9), range(1, 7)):
        a, core, b = tucker2(kernel, (inner, outer), iterations=0)
        # Without iterations the core is that of both leading bases.
        error = (torch.einsum('op,pqhw,iq->oihw', a, core, b) - kernel).norm() / kernel.norm()
        if error <= 0.999 * tolerance and outer <= 9 * inner and inner <= 9 * outer:
            costs[inner, outer] = inner * 8 + inner * outer * 9 + outer * 12
    assert op.ranks in costs and costs[op.ranks] == min(costs.values())


@pytest.mark.parametrize('groups', [1, 2])
def test_the_rank_of_a_matrix_is_the_smallest(groups):
    op = LowRankConv2d(8, 12, 1, rank=4, groups=groups, dtype=torch.float64)
    values = torch.linalg.svdvals(op.kernel().detach().flatten(1).reshape(groups, 12 // groups, -1)).square().sum(0)
    lost = [float(values[rank:].sum() / values.sum()) ** 0.5 for rank in range(1, 5)]
    for tolerance in (0.1, 0.3, 0.5, 0.8):
        other = copy.deepcopy(op)
        other.truncate(tolerance)
        assert other.ranks[0] == next(i for i, error in enumerate(lost, 1) if error <= 0.999 * tolerance)


def test_the_terms_of_a_cp_that_matter_least_are_dropped():
    op = layer('cp3')
    with torch.no_grad():
        op.last[:, [2, 5]] *= 1e-3
    kept = op.first[[0, 1, 3, 4, 6, 7, 8]].clone()
    assert 0 < op.truncate(0.01) < 0.01
    assert op.ranks == (7, 7) and torch.equal(op.first, kept)


def test_kernels_that_are_zero_or_not_finite_stay():
    for value in (0.0, math.nan):
        op = layer('tucker2')
        with torch.no_grad():
            op.core.fill_(value)
        assert op.truncate(0.5) == 0 and op.ranks == op.built_ranks


def test_a_coarse_type_does_not_break_the_tolerance():
    op = deficient(layer('tucker2'), 2).to(torch.bfloat16)
    assert op.truncate(1e-5) == 0 and op.ranks == op.built_ranks


@LAYER
def test_averages_follow_in_the_same_basis(name):
    op = deficient(layer(name), 2)
    average = copy.deepcopy(op)
    before = average.kernel()
    op.truncate(0.0, average)
    assert average.ranks == op.ranks and relative(average.kernel(), before) <= 1e-6
    for key, value in op.state_dict().items():
        assert relative(average.state_dict()[key], value) <= 1e-6


@LAYER
@pytest.mark.parametrize('assign', [False, True], ids=['copied', 'assigned'])
def test_a_layer_takes_the_ranks_of_its_checkpoint(name, assign):
    trained, built, x = layer(name), layer(name), torch.randn(2, 8, 7, 7, dtype=torch.float64)
    trained.truncate(0.5)
    assert trained.ranks != built.ranks
    built.load_state_dict(trained.state_dict(), assign=assign)
    assert built.ranks == trained.ranks and torch.equal(built(x), trained(x))
    # And back, to those of its arguments, but no higher.
    whole = layer(name)
    built.load_state_dict(whole.state_dict())
    assert built.ranks == whole.ranks and torch.equal(built(x), whole(x))
    low = LowRankConv2d(8, 12, built.kernel_size, groups=built.groups, padding=built.padding, rank=1,
                        decomposition=built.options.decomposition).double()  # fmt: skip
    with pytest.raises(RuntimeError, match='size mismatch'):
        low.load_state_dict(whole.state_dict())


@LAYER
def test_a_plain_weight_is_decomposed_to_the_lower_ranks(name):
    op = layer(name)
    op.truncate(0.5)
    ranks = op.ranks
    op.load_state_dict(nn.Conv2d(8, 12, op.kernel_size, groups=op.groups).double().state_dict())
    assert op.ranks == ranks


@LAYER
def test_a_folded_chain_takes_the_ranks_too(name):
    op, options = layer(name), dict(kernel_size=3, padding=1) | LAYERS[name]
    groups, size, padding = options.pop('groups', 1), options.pop('kernel_size'), options.pop('padding')
    op.truncate(0.5)
    model, x = nn.Sequential(op), torch.randn(2, 8, 7, 7, dtype=torch.float64)
    output = model(x)
    switch_to_deploy(model)
    assert relative(model(x), output) < 1e-12
    built = nn.Sequential(FoldedConv(8, 12, size, padding=padding, groups=groups, lowrank=options)).double()
    built.load_state_dict(model.state_dict())
    assert torch.equal(built(x), model(x)) and copy.deepcopy(built)[0].ranks == op.ranks
    assert len(built[0][:1]) == 1


@pytest.mark.parametrize('tolerance', [-0.1, 1.0, math.nan])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(ArgumentError, match='tolerance'):
        layer('tucker2').truncate(tolerance)


def test_a_term_whose_copy_was_dropped_counts_in_full():
    op = layer('cp3')
    with torch.no_grad():
        op.first[8], op.core[8] = op.first[0], op.core[0]
        op.last[:, 4] *= 0.01
    op.truncate(0.02)
    assert op.ranks == (7, 7)
