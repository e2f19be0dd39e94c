r"""Sums of outer products (CP decomposition) whose terms stay bounded.

A tensor may have no best approximation by R terms: for a x a x b + a x b x a + b x a x a and R = 2 the error of
alternating least squares tends to 0 while two terms grow without limit and cancel. As the weights of a network such
terms multiply every rounding error and every step of training. The sum of squared norms of the terms is therefore
penalised, as in Phan et al., "Stable Low-rank Tensor Decomposition for Compression of Convolutional Neural Network",
ECCV 2020, who minimise it among all decompositions with a given error.
"""

import math
from functools import reduce

import torch
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.lowrank.ranks import full_rank

# Weight of the terms' squared norms: at convergence each may cost a thousandth of its own square in squared error.
PENALTY = 1e-3
# Halvings of the penalty until an error counts as out of reach, and bisections of the last one.
HALVINGS, BISECTIONS = 24, 10


def cp(
    tensor: Tensor, rank: int, penalty: float = PENALTY, iterations: int = 200, tolerance: float = 1e-6
) -> list[Tensor]:
    r"""Decompose a tensor into R outer products whose sum of squared norms is penalised.

    Minimises :math:`|T - \sum_r a_r \otimes b_r \otimes \ldots|^2 + \lambda \sum_r |a_r|^2 |b_r|^2 \cdots` by
    alternating least squares. With the other factors fixed and their columns of norm 1, each step solves
    :math:`A (G + \lambda I) = T_{(1)} Z` with Z their Khatri-Rao product and :math:`G = Z^T Z`. The sum of squared
    norms is at most :math:`|T|^2 / \lambda`. The start is random, always the same.

    Args:
        tensor: T, of two axes or more; computed in its type, so float64 is advisable.
        rank: number R of terms. With as many as :func:`mmkerv.ops.lowrank.ranks.full_rank` the decomposition is exact,
            and no two terms overlap.
        penalty: lambda, >= 0, whatever the tensor's scale; 0 is plain alternating least squares.
        iterations: largest number of passes over all factors.
        tolerance: stop when a pass lowers the objective by less than this fraction of :math:`|T|^2`.

    Returns:
        A factor (n, R) for each axis; the columns of a term have equal norms.

    Example:
        >>> tensor = torch.einsum('ir,jr,kr->ijk', *(torch.rand(n, 2, dtype=torch.float64) for n in (5, 4, 3)))
        >>> bool((composed(cp(tensor, 2)) - tensor).norm() < 0.1 * tensor.norm())
        True
    """
    sizes, scale = tuple(tensor.shape), float(tensor.norm())
    if rank >= full_rank(sizes):
        return _balanced(_fibres(tensor, rank))
    if scale == 0:
        return [tensor.new_zeros(size, rank) for size in sizes]
    tensor = tensor / scale
    generator = torch.Generator().manual_seed(0)
    start = (torch.randn(size, rank, generator=generator, dtype=torch.float64) for size in sizes)
    factors = [_unit(factor.to(tensor)) for factor in start]
    grams = [factor.T @ factor for factor in factors]
    eye = torch.eye(rank, dtype=tensor.dtype, device=tensor.device)
    last = math.inf
    for _ in range(iterations):
        for axis in range(len(sizes)):
            gram = reduce(torch.mul, (grams[other] for other in range(len(sizes)) if other != axis))
            target = _times_others(tensor, factors, axis)
            solved = _solved(gram + penalty * eye, target)
            factors[axis] = solved
            if axis < len(sizes) - 1:
                # The norm of a term is in the factor that is solved for last.
                factors[axis] = _unit(solved)
            grams[axis] = factors[axis].T @ factors[axis]
        fit = 1 - 2 * (target * solved).sum() + (gram * grams[-1]).sum()
        objective = float(fit + penalty * grams[-1].trace())
        factors[-1] = _unit(solved)
        grams[-1] = factors[-1].T @ factors[-1]
        if last - objective <= tolerance:
            break
        last = objective
    factors[-1] = solved * scale
    return _balanced(factors)


def bounded_cp(tensor: Tensor, rank: int, error: float, iterations: int = 2000) -> list[Tensor]:
    r"""Decompose a tensor up to a given error into outer products with small norms.

    Minimises :math:`\sum_r |a_r|^2 |b_r|^2 \cdots` subject to :math:`|T - \sum_r a_r \otimes b_r \otimes \ldots| \le
    \epsilon |T|`: the result of :func:`cp` with the largest penalty whose error is that small.

    Args:
        tensor: T, of two axes or more.
        rank: number of terms.
        error: epsilon, relative to the tensor's norm, > 0.
        iterations: as in :func:`cp`, for each penalty.

    Raises:
        ValueError: if no decomposition of so few terms was found with that error.

    Source: Phan et al., ECCV 2020, the problem called error-preserving correction there.

    Example:
        >>> tensor = torch.einsum('ir,jr,kr->ijk', *(torch.rand(n, 2, dtype=torch.float64) for n in (5, 4, 3)))
        >>> round(float((composed(bounded_cp(tensor, 2, 0.1)) - tensor).norm() / tensor.norm()), 2)
        0.1
    """
    norm = tensor.norm().clamp_min(torch.finfo(tensor.dtype).tiny)

    def attempt(exponent: float) -> tuple[list[Tensor], float]:
        factors = cp(tensor, rank, 2.0**exponent, iterations, 1e-12)
        return factors, float((composed(factors) - tensor).norm() / norm)

    for exponent in range(0, -HALVINGS, -1):
        best, reached = attempt(exponent)
        if reached <= error:
            break
    else:
        raise ArgumentError(
            f'error must be within reach of {rank} terms, got {error:g}: the smallest found is {reached:.3g}; allow a '
            'larger error, or use a larger rank'
        )
    low, high = float(exponent), exponent + 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        factors, reached = attempt(middle)
        if reached <= error:
            best, low = factors, middle
        else:
            high = middle
    return best


def composed(factors: list[Tensor]) -> Tensor:
    r"""Return :math:`\sum_r a_r \otimes b_r \otimes \ldots` of factors (n, R), one for each axis.

    Example:
        >>> composed([torch.ones(2, 3), torch.ones(4, 3)])
        tensor([[3., 3., 3., 3.],
                [3., 3., 3., 3.]])
    """
    *others, last = factors
    product = reduce(lambda left, right: left[..., None, :] * right, others)
    return product @ last.T


def squared_norms(factors: list[Tensor]) -> Tensor:
    r"""Return the squared norm of each term, :math:`|a_r|^2 |b_r|^2 \cdots`, (R,).

    Example:
        >>> squared_norms([torch.full((2, 1), 2.0), torch.ones(3, 1)])
        tensor([24.])
    """
    return reduce(torch.mul, (factor.square().sum(0) for factor in factors))


def _times_others(tensor: Tensor, factors: list[Tensor], axis: int) -> Tensor:
    """Return the unfolding along ``axis`` times the Khatri-Rao product of the other factors, (n, R)."""
    axes = list(range(tensor.dim()))
    # The longest axis first, by a matrix product: what is left is small.
    first, *rest = sorted((other for other in axes if other != axis), key=lambda other: -tensor.shape[other])
    result = torch.tensordot(tensor, factors[first], dims=([first], [0]))
    axes.remove(first)
    for other in rest:
        place = axes.index(other)
        shape = [1] * result.dim()
        shape[place], shape[-1] = factors[other].shape
        result = (result * factors[other].reshape(shape)).sum(place)
        axes.remove(other)
    return result


def _solved(gram: Tensor, target: Tensor) -> Tensor:
    """Return X with X G = target for a symmetric G, which without a penalty may be singular."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        return torch.linalg.lstsq(gram, target.T, driver='gelsd').solution.T
    return torch.cholesky_solve(target.T, factor).T


def _unit(factor: Tensor) -> Tensor:
    return factor / factor.norm(dim=0).clamp_min(torch.finfo(factor.dtype).tiny)


def _balanced(factors: list[Tensor]) -> list[Tensor]:
    """Give the columns of each term equal norms."""
    norms = [factor.norm(dim=0) for factor in factors]
    common = reduce(torch.mul, norms) ** (1 / len(factors))
    tiny = torch.finfo(common.dtype).tiny
    return [factor * (common / norm.clamp_min(tiny)) for factor, norm in zip(factors, norms)]


def _fibres(tensor: Tensor, rank: int) -> list[Tensor]:
    """Return the exact decomposition whose terms are the tensor's lines along its longest axis."""
    sizes = tensor.shape
    longest = max(range(tensor.dim()), key=lambda axis: sizes[axis])
    others = [axis for axis in range(tensor.dim()) if axis != longest]
    lines = tensor.movedim(longest, 0).flatten(1)
    factors = [tensor.new_zeros(size, rank) for size in sizes]
    factors[longest][:, : lines.shape[1]] = lines
    places = torch.cartesian_prod(*(torch.arange(sizes[axis]) for axis in others)).reshape(-1, len(others))
    for axis, place in zip(others, places.T):
        factors[axis][place, torch.arange(len(place))] = 1
    return factors
