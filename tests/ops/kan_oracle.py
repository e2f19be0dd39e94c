"""Kolmogorov-Arnold convolution from its equations in float64: one number, one function at a time.

y = W * b(x) + V * Phi(x) + bias, where Phi lifts every channel to B maps. Nothing here uses the package under test but
the operator's parameters and options.
"""

import functools
import math
from fractions import Fraction

import numpy as np
from torch import nn


def spline(x: float, knots: list[Fraction], first: int, order: int) -> float:
    """The B-spline on the knots from number ``first`` on, by the recursion of Cox and de Boor."""
    if order == 0:
        return float(knots[first] <= x < knots[first + 1])
    left = (x - float(knots[first])) / float(knots[first + order] - knots[first])
    right = (float(knots[first + order + 1]) - x) / float(knots[first + order + 1] - knots[first + 1])
    return left * spline(x, knots, first, order - 1) + right * spline(x, knots, first + 1, order - 1)


def splines(x: float, order: int, intervals: int, low: float, high: float) -> list[float]:
    """The B-splines that are not zero on [low, high], which is cut into equal intervals."""
    step = (Fraction(high) - Fraction(low)) / intervals
    knots = [Fraction(low) + step * index for index in range(-order, intervals + order + 1)]
    return [spline(x, knots, first, order) for first in range(intervals + order)]


def bumps(x: float, count: int, low: float, high: float) -> list[float]:
    """Gaussians whose centres divide [low, high] and whose scale is their distance."""
    step = (high - low) / (count - 1)
    return [math.exp(-(((x - (low + step * index)) / step) ** 2)) for index in range(count)]


def chebyshev(t: float, n: int) -> float:
    return math.cos(n * math.acos(t))


def legendre(t: float, n: int) -> float:
    """The sum that Rodrigues' formula gives."""
    return sum(math.comb(n, k) ** 2 * (t - 1) ** (n - k) * (t + 1) ** k for k in range(n + 1)) / 2**n


def times(p: list[Fraction], q: list[Fraction]) -> list[Fraction]:
    """The product of two polynomials, each given by its coefficients from the constant on."""
    product = [Fraction(0)] * (len(p) + len(q) - 1)
    for i, j in np.ndindex(len(p), len(q)):
        product[i + j] += p[i] * q[j]
    return product


@functools.cache
def gram_beta(n: int, m: int) -> Fraction:
    """|p_n|^2 / |p_(n-1)|^2 of monic polynomials orthogonal on the midpoints of m equal parts of [-1, 1].

    It is the factor of p_(n-1) in the recurrence of these polynomials, here by Gram and Schmidt.
    """
    points = [Fraction(2 * index + 1, m) - 1 for index in range(m)]

    def inner(p: list[Fraction], q: list[Fraction]) -> Fraction:
        values = times(p, q)
        return sum(sum(c * point**power for power, c in enumerate(values)) for point in points)

    basis: list[list[Fraction]] = []
    for degree in range(n + 1):
        p = [Fraction(0)] * degree + [Fraction(1)]
        for q in basis:
            factor = inner(p, q) / inner(q, q)
            p = [a - factor * b for a, b in zip(p, q + [Fraction(0)] * len(p))]
        basis.append(p)
    return inner(basis[n], basis[n]) / inner(basis[n - 1], basis[n - 1])


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def grams(t: float, degree: int) -> list[float]:
    """p_i = t p_(i-1) - beta(i - 1, i) p_(i-2), without the activation."""
    values = [1.0, t]
    for i in range(2, degree + 1):
        values.append(t * values[-1] - float(gram_beta(i - 1, i)) * values[-2])
    return values[: degree + 1]


def functions(
    x: float, basis: str, degree: int | None, grid_size: int | None, grid_range: tuple[float, float] | None
) -> list[float]:
    """Phi of one number, with the defaults of the authors' layers."""
    degree = 3 if degree is None else degree
    if basis == 'spline':
        return splines(x, degree, 5 if grid_size is None else grid_size, *(grid_range or (-1, 1)))
    if basis == 'rbf':
        return bumps(x, 8 if grid_size is None else grid_size, *(grid_range or (-2, 2)))
    t = math.tanh(x)
    if basis == 'gram':
        return [silu(p) for p in grams(t, degree)]
    return [{'chebyshev': chebyshev, 'legendre': legendre}[basis](t, n) for n in range(degree + 1)]


def parts(op: nn.Module, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maps (N, C * (B + 1), H, W), each channel's together, b(x) first; and the kernel on them."""
    options = op.options
    settings = (options.basis, options.degree, options.grid_size, options.grid_range)
    activation = silu if options.base_activation == 'silu' else float
    samples, channels, *sides = x.shape
    count = len(functions(0.0, *settings))
    maps = np.zeros((samples, channels, count + 1, *sides))
    for n, c, *place in np.ndindex(x.shape):
        value = float(x[(n, c, *place)])
        maps[(n, c, slice(None), *place)] = [activation(value), *functions(value, *settings)]
    base, weights = (p.detach().double().cpu().numpy() for p in (op.weight, op.basis.weight))
    kernel = np.zeros((base.shape[0], base.shape[1], count + 1, *base.shape[2:]))
    kernel[:, :, 0] = base
    for channel, number in np.ndindex(base.shape[1], count):
        kernel[:, channel, number + 1] = weights[:, channel * count + number]
    return (
        maps.reshape(samples, channels * (count + 1), *sides),
        kernel.reshape(base.shape[0], base.shape[1] * (count + 1), *base.shape[2:]),
    )
