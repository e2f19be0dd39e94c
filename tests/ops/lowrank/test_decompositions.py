"""Tucker-2, sums of outer products with bounded terms, and the singular value decomposition."""

import math

import numpy as np
import pytest
import torch

from mmkerv.errors import ArgumentError
from mmkerv.ops.lowrank.cp import bounded_cp, composed, cp, squared_norms
from mmkerv.ops.lowrank.ranks import cp_rank, full_rank, tucker_ranks
from mmkerv.ops.lowrank.tucker import truncated_svd, tucker2


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def border_rank_tensor() -> torch.Tensor:
    """a x a x b + a x b x a + b x a x a, the limit of sums of two terms, but no such sum."""
    a, b = torch.eye(2, dtype=torch.float64)
    return sum(torch.einsum('i,j,k->ijk', *vectors) for vectors in ((a, a, b), (a, b, a), (b, a, a)))


def error(factors: list[torch.Tensor], tensor: torch.Tensor) -> float:
    return float((composed(factors) - tensor).norm())


@pytest.mark.parametrize(('distance', 'published'), [(0.5, 2.03), (0.3, 3.04)])
def test_terms_stay_bounded_where_alternating_least_squares_diverges(distance, published):
    tensor = border_rank_tensor()
    factors = bounded_cp(tensor, 2, distance / math.sqrt(3))
    assert distance - 0.01 < error(factors, tensor) <= distance + 1e-9
    # A penalty method found the published sums, which need not be the smallest.
    assert 0.95 * published < float(squared_norms(factors).sum()) < published + 0.01


def test_without_a_penalty_the_terms_grow_without_limit():
    tensor = border_rank_tensor()
    results = [cp(tensor, 2, 0.0, iterations, tolerance=-1.0) for iterations in (50, 500, 2000)]
    errors = [error(factors, tensor) for factors in results]
    norms = [float(squared_norms(factors).sum()) for factors in results]
    assert errors == sorted(errors, reverse=True) and norms == sorted(norms)
    assert norms[-1] > 50 and errors[-1] < 0.02
    bounded = cp(tensor, 2, 0.02, 2000, tolerance=-1.0)
    assert float(squared_norms(bounded).sum()) < min(norms)


@pytest.mark.parametrize('sizes', [(5, 4, 3), (6, 5, 3, 2), (4, 7)], ids=str)
def test_no_smaller_objective_is_nearby(sizes):
    """The gradient of the penalised objective vanishes, checked by autograd."""
    tensor, penalty = random(*sizes), 0.05
    factors = [f.requires_grad_() for f in cp(tensor, 2, penalty, 5000, 1e-15)]
    (composed(factors) - tensor).square().sum().add(penalty * squared_norms(factors).sum()).backward()
    assert max(float(f.grad.abs().max()) for f in factors) < 1e-4 * float(tensor.norm())


def test_the_sum_of_squared_norms_is_below_its_bound():
    tensor = 1000 * random(6, 5, 4)
    for penalty in (0.1, 0.01):
        assert float(squared_norms(cp(tensor, 8, penalty)).sum()) <= float(tensor.square().sum()) / penalty


def test_composed_agrees_with_naive_loops():
    factors = [random(n, 2, seed=n) for n in (3, 2, 4)]
    expected = np.zeros((3, 2, 4))
    for i, j, k, r in np.ndindex(3, 2, 4, 2):
        expected[i, j, k] += factors[0][i, r] * factors[1][j, r] * factors[2][k, r]
    assert np.abs(composed(factors).numpy() - expected).max() < 1e-13


@pytest.mark.parametrize('sizes', [(6, 4, 3), (3, 4, 6), (5, 4, 3, 2), (4, 7)], ids=str)
def test_the_full_rank_is_exact_with_terms_that_do_not_cancel(sizes):
    tensor = random(*sizes)
    factors = cp(tensor, full_rank(sizes))
    assert error(factors, tensor) < 1e-12
    assert float(squared_norms(factors).sum()) == pytest.approx(float(tensor.square().sum()))
    norms = [factor.norm(dim=0) for factor in factors]
    assert all(torch.allclose(norm, norms[0]) for norm in norms), 'the columns of a term have equal norms'


def test_an_error_out_of_reach_is_refused():
    with pytest.raises(ArgumentError, match=r'within reach of 1 terms, got 0\.01: the smallest found'):
        bounded_cp(random(4, 4, 4), 1, 0.01, iterations=50)


def test_tucker2_improves_on_the_higher_order_svd_and_keeps_its_bases_orthonormal():
    kernel = random(12, 8, 3, 3)
    ranks = (3, 5)
    errors = []
    for iterations in (0, 1, 50):
        a, core, b = tucker2(kernel, ranks, iterations, tolerance=0.0)
        assert torch.allclose(a.T @ a, torch.eye(5, dtype=a.dtype)) and torch.allclose(
            b.T @ b, torch.eye(3, dtype=a.dtype)
        )
        assert core.shape == (5, 3, 3, 3)
        errors.append(float((torch.einsum('op,pqyx,iq->oiyx', a, core, b) - kernel).norm()))
    assert errors[0] > errors[1] >= errors[2]
    # What is lost is bounded by the singular values that both unfoldings drop.
    dropped = [torch.linalg.svdvals(kernel.movedim(axis, 0).flatten(1))[r:] for axis, r in ((0, 5), (1, 3))]
    assert errors[0] ** 2 <= sum(float(values.square().sum()) for values in dropped)


def test_truncated_svd_drops_the_smallest_singular_values():
    matrix = random(9, 6)
    left, right = truncated_svd(matrix, 4)
    lost = torch.linalg.svdvals(matrix)[4:].norm()
    assert torch.allclose((left @ right - matrix).norm(), lost)


@pytest.mark.parametrize('fraction', [0.05, 0.3, 1.0])
@pytest.mark.parametrize(('inputs', 'outputs', 'taps'), [(64, 64, 9), (32, 128, 25), (256, 16, 3)])
def test_ranks_of_a_fraction_keep_that_share_of_the_weights(fraction, inputs, outputs, taps):
    wanted = fraction * inputs * outputs * taps
    first, last = tucker_ranks(fraction, inputs, outputs, taps)

    def tucker_weights(r, s):
        return inputs * r + r * s * taps + s * outputs

    assert tucker_weights(first, last) <= wanted < tucker_weights(first + 1, last + 1)
    for sizes in ((outputs, inputs, taps), (outputs, inputs)):
        wanted = fraction * math.prod(sizes)
        rank = cp_rank(fraction, sizes)
        assert rank * sum(sizes) <= wanted or rank == 1
        assert wanted < (rank + 1) * sum(sizes) or rank == full_rank(sizes)


@pytest.mark.parametrize(
    ('inputs', 'outputs', 'taps'), [(3, 32, 49), (8, 8, 9), (12, 5, 9), (5, 12, 1), (1, 32, 3), (64, 2, 3), (2, 64, 9)]
)
def test_a_fraction_keeps_the_most_of_a_kernel_without_structure(inputs, outputs, taps):
    for fraction in (0.3, 0.5, 1.0):
        pairs = [
            (first, last)
            for first in range(1, inputs + 1)
            for last in range(1, outputs + 1)
            if inputs * first + first * last * taps + last * outputs <= fraction * inputs * outputs * taps
            if first <= last * taps and last <= first * taps
        ]
        best = max((first * last for first, last in pairs), default=1)
        assert math.prod(tucker_ranks(fraction, inputs, outputs, taps)) == best
    # The three channels of an image are all kept.
    assert tucker_ranks(0.5, 3, 32, 49) == (3, 13)


@pytest.mark.parametrize(
    ('rank', 'sizes', 'expected'),
    [(1000, (3, 64, 9), (3, 27)), ((1, 50), (8, 64, 9), (1, 9)), ((9, 1), (9, 8, 3), (3, 1)), (4, (8, 8, 9), (4, 4))],
    ids=str,
)
def test_ranks_above_those_of_the_core_are_lowered(rank, sizes, expected):
    inputs, outputs, taps = sizes
    first, last = tucker_ranks(rank, *sizes)
    assert (first, last) == expected
    # They lose nothing against the ranks as given.
    kernel = random(outputs, inputs, 1, taps)
    given = rank if isinstance(rank, tuple) else (min(rank, inputs), min(rank, outputs))
    errors = []
    for ranks in ((first, last), given):
        a, core, b = tucker2(kernel, ranks)
        errors.append(float((torch.einsum('op,pqyx,iq->oiyx', a, core, b) - kernel).norm() / kernel.norm()))
    assert errors[0] < errors[1] + 1e-3
