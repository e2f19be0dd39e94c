"""Bases of functions of one number, which a Kolmogorov-Arnold convolution combines linearly.

All are computed elementwise by a fixed number of operations, whatever the values. Drokin, "Kolmogorov-Arnold
Convolutions: Design Principles and Empirical Studies", 2024, compares them.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Basis(NamedTuple):
    """A basis, with all of its settings.

    Args:
        name: ``'spline'``, ``'gram'``, ``'chebyshev'``, ``'legendre'`` or ``'rbf'``.
        degree: of the pieces of splines, of the highest polynomial.
        grid_size: number of intervals of splines, of Gaussians.
        low, high: the range of the grid.

    Example:
        >>> Basis('spline', 3, 5, -1.0, 1.0).high
        1.0
    """

    name: str
    degree: int
    grid_size: int
    low: float
    high: float


def count(basis: Basis) -> int:
    """Return B, the number of functions.

    Example:
        >>> count(Basis('spline', 3, 5, -1.0, 1.0)), count(Basis('gram', 3, 0, 0.0, 0.0))
        (8, 4)
    """
    if basis.name == 'rbf':
        return basis.grid_size
    return basis.degree + (basis.grid_size if basis.name == 'spline' else 1)


def functions(x: Tensor, basis: Basis) -> Iterator[Tensor]:
    """Yield the B functions of ``x``, one after the other, each of its shape.

    Polynomials are those of tanh(x), which is in [-1, 1].

    Example:
        >>> [f.tolist() for f in functions(torch.zeros(1), Basis('chebyshev', 2, 0, 0.0, 0.0))]
        [[1.0], [0.0], [-1.0]]
    """
    if basis.name == 'spline':
        return splines(x, basis.degree, basis.grid_size, basis.low, basis.high)
    if basis.name == 'rbf':
        return gaussians(x, basis.grid_size, basis.low, basis.high)
    return polynomials(torch.tanh(x), basis.name, basis.degree)


def splines(x: Tensor, degree: int, intervals: int, low: float, high: float) -> Iterator[Tensor]:
    r"""Yield the B-splines of ``x`` on a grid of equal intervals of [low, high]: intervals + degree of them.

    On [low, high] they add up to 1; they are 0 further than ``degree`` intervals outside.

    Example:
        >>> values = torch.stack(list(splines(torch.zeros(1), 3, 5, -1.0, 1.0)), 1)
        >>> (48 * values).round(decimals=3)
        tensor([[ 0.,  0.,  1., 23., 23.,  1.,  0.,  0.]])
    """
    step = (high - low) / intervals
    for number in range(intervals + degree):
        middle = low + (number + (1 - degree) / 2) * step
        yield cardinal_spline((x - middle) / step, degree)


def cardinal_spline(u: Tensor, degree: int) -> Tensor:
    r"""Compute the B-spline of degree p whose knots are the integers, moved to be symmetric about 0.

    :math:`M(u) = \frac{1}{p!} \sum_{k \le p/2} (-1)^k \binom{p+1}{k} ((p + 1)/2 - k - |u|)_+^p`, exactly 0 for
    :math:`|u| \ge (p + 1)/2`.

    Args:
        u: any shape.
        degree: p >= 1.

    Example:
        >>> cardinal_spline(torch.tensor([-1.0, 0.0, 2.0]), 3)
        tensor([0.1667, 0.6667, 0.0000])
    """
    # Not abs(), whose second derivative autograd takes for 0 at u = 0.
    distance = torch.where(u < 0, -u, u)
    total = F.relu((degree + 1) / 2 - distance).pow(degree)
    for k in range(1, degree // 2 + 1):
        factor = (-1) ** k * math.comb(degree + 1, k)
        total = total + factor * F.relu((degree + 1) / 2 - k - distance).pow(degree)
    return total / math.factorial(degree)


def gaussians(x: Tensor, number: int, low: float, high: float) -> Iterator[Tensor]:
    r"""Yield :math:`\exp(-((x - c_j)/h)^2)` for centres :math:`c_j` at equal distances h from low to high.

    Example:
        >>> [round(float(f), 3) for f in gaussians(torch.tensor(-2.0), 3, -2.0, 2.0)]
        [1.0, 0.368, 0.018]
    """
    step = (high - low) / (number - 1)
    for index in range(number):
        yield torch.exp(-((x - (low + index * step)) / step).square())


def polynomials(t: Tensor, name: str, degree: int) -> Iterator[Tensor]:
    r"""Yield :math:`p_0 = 1, p_1 = t, p_n = a_n t p_{n-1} - c_n p_{n-2}` up to the degree; ``'gram'``: silu of each.

    Example:
        >>> [round(float(p), 4) for p in polynomials(torch.tensor(0.5), 'legendre', 3)]
        [1.0, 0.5, -0.125, -0.4375]
    """
    before, current = torch.ones_like(t), t
    for n in range(degree + 1):
        if n > 1:
            a, c = recurrence(name, n)
            before, current = current, a * t * current - c * before
        p = before if n == 0 else current
        yield F.silu(p) if name == 'gram' else p


def recurrence(name: str, n: int) -> tuple[float, float]:
    """Return a_n and c_n of :func:`polynomials`.

    Example:
        >>> recurrence('chebyshev', 2), recurrence('legendre', 2), recurrence('gram', 2)
        ((2, 1), (1.5, 0.5), (1, 0.25))
    """
    if name == 'chebyshev':
        return 2, 1
    if name == 'legendre':
        return (2 * n - 1) / n, (n - 1) / n
    return 1, gram_beta(n - 1, n)


def gram_beta(n: int, m: int) -> float:
    r"""Return the factor in the recurrence of Gram's polynomials, :math:`\beta = n^2 (m^2 - n^2) / (m^2 (4n^2 - 1))`.

    The monic polynomials :math:`p_{n+1} = t p_n - \beta p_{n-1}` are orthogonal on the midpoints of m equal parts of
    [-1, 1]. The layers take m = n + 1, another one in each step, as their author does.

    Example:
        >>> gram_beta(1, 2), round(gram_beta(2, 3), 3)
        (0.25, 0.148)
    """
    return n**2 * (m**2 - n**2) / (m**2 * (4 * n**2 - 1))
