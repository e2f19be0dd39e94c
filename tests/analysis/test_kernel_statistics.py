"""Statistics of kernels: published numbers, naive forms, and kernels for which a statistic is not defined."""

import math

import pytest
import torch
from torch import nn

from mmkerv.analysis.depthwise_patterns import PATTERNS, mean_kernels, pattern_shares, patterns, templates
from mmkerv.analysis.distribution_shift import distribution_shift, principal_components, scaled, shift_by_chance
from mmkerv.analysis.kernel_statistics import (
    band_shares,
    clean,
    entropy_of_random,
    filter_orthogonality,
    flags,
    is_sparse,
    normalised_entropy,
    slices,
    sparsity,
    spectral_norm,
    stable_rank,
    variance_entropy,
)
from mmkerv.errors import UndefinedStatisticError


def waves():
    return torch.sin(torch.arange(288, dtype=torch.float64)).view(8, 4, 3, 3)


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_published_numbers():
    """Those of torchconvquality for this kernel."""
    rows = slices(waves())
    assert sparsity(rows) == 0
    assert variance_entropy(rows) == pytest.approx(0.300142, abs=1e-6)
    # The constants of T(n) are known to four decimals.
    assert normalised_entropy(rows) == pytest.approx(0.354921, abs=1e-5)
    assert filter_orthogonality(waves()) == pytest.approx(0.427258, abs=1e-6)
    # The fit for random kernels.
    values = {9: 0.5515, 64: 0.9056, 1024: 0.9499}
    assert {n: round(entropy_of_random(n), 4) for n in values} == values


def test_entropy_lies_between_0_and_the_logarithm_of_the_taps():
    assert variance_entropy(torch.cat([torch.eye(9), -torch.eye(9)])) == pytest.approx(math.log10(9))
    assert variance_entropy(torch.outer(torch.arange(7.0), torch.ones(9))) == pytest.approx(0, abs=1e-12)
    # The singular values of which eight are exactly 0.
    assert variance_entropy(torch.eye(9)[:1] * torch.tensor([[1.0], [-1.0]])) == 0
    assert normalised_entropy(random(1024, 9)) == pytest.approx(1, abs=0.01)
    # The smaller Gram matrix is that of the rows.
    rows = random(6, 25)
    share = torch.linalg.svdvals(rows - rows.mean(0)).square()
    share = share[:5] / share.sum()
    assert variance_entropy(rows) == pytest.approx(-float((share * share.log10()).sum()))


def test_entropy_of_half_precision_and_tiny_kernels():
    rows = random(32, 9)
    assert variance_entropy(rows.half()) == pytest.approx(variance_entropy(rows), abs=1e-3)
    assert variance_entropy(1e-30 * rows.float()) == pytest.approx(variance_entropy(rows), abs=1e-6)


def naive_orthogonality(kernel, groups):
    cosines = []
    for part in kernel.flatten(1).chunk(groups):
        for i, one in enumerate(part):
            for j, other in enumerate(part):
                if i != j and one.any() and other.any():
                    cosines.append(abs(float(one @ other) / float(one.norm() * other.norm())))
    return 1 - sum(cosines) / len(cosines)


@pytest.mark.parametrize(('shape', 'groups'), [((5, 3, 3, 3), 1), ((6, 2, 2, 4), 3), ((4, 2, 7), 2)], ids=str)
def test_orthogonality_is_over_pairs_of_a_group(shape, groups):
    kernel = random(*shape)
    assert filter_orthogonality(kernel, groups) == pytest.approx(naive_orthogonality(kernel, groups))
    kernel[1] = 0
    assert filter_orthogonality(kernel, groups) == pytest.approx(naive_orthogonality(kernel, groups))
    assert filter_orthogonality(1e-200 * kernel, groups) == pytest.approx(filter_orthogonality(kernel, groups))


def test_norm_and_rank_are_those_of_the_matrix_with_a_block_for_each_group():
    kernel = random(6, 2, 3, 3)
    matrix = torch.block_diag(*kernel.flatten(1).chunk(3))
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    assert spectral_norm(kernel, 3) == pytest.approx(norm)
    assert stable_rank(kernel, 3) == pytest.approx(float(matrix.square().sum()) / norm**2)
    assert stable_rank(1e-200 * kernel, 3) == pytest.approx(stable_rank(kernel, 3))
    assert spectral_norm(torch.zeros(2, 1, 3, 3)) == 0


@pytest.mark.parametrize('size', [(3, 3), (1, 5), (4, 2), (7, 7), (9,), (2, 3, 4)], ids=str)
def test_bands_are_integrals_of_the_spectrum(size):
    """Against a Riemann sum, in which the edges of the bands lie between the points."""
    kernel, points = random(3, 2, *size), 16 if len(size) == 3 else 64
    frequency = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    power = torch.zeros(points, dtype=torch.float64).expand(*[points] * len(size)).clone()
    for row in kernel.flatten(0, 1):
        spectrum = row.to(torch.complex128)
        for axis, k in enumerate(size):
            waves = torch.exp(-2j * math.pi * frequency[:, None] * torch.arange(k))
            spectrum = torch.movedim(torch.tensordot(waves, spectrum, ([1], [axis])), 0, axis)
        power += spectrum.abs().square()
    folded = torch.minimum(frequency, 1 - frequency)
    height = torch.stack(torch.meshgrid(*[folded] * len(size), indexing='ij')).amax(0)
    found = band_shares(kernel)
    for band, (low, high) in {'low': (0, 0.125), 'middle': (0.125, 0.25), 'high': (0.25, 0.5)}.items():
        expected = float(power[(height >= low) & (height < high)].sum() / power.sum())
        assert found[band] == pytest.approx(expected, abs=2e-2 if len(size) == 3 else 1e-3)
    assert sum(found.values()) == pytest.approx(1)


def test_bands_of_smooth_and_of_rough_kernels():
    assert band_shares(torch.ones(1, 1, 15, 15))['low'] > 0.9
    checkered = (-1.0) ** (torch.arange(7)[:, None] + torch.arange(7))
    assert band_shares(checkered.view(1, 1, 7, 7))['high'] > 0.99


def test_clean_statistics_leave_sparse_slices_out():
    kernel = random(4, 3, 3, 3)
    kernel[0, 0] = 1e-6
    kernel[2, 1] = 0
    assert sparsity(slices(kernel)) == pytest.approx(2 / 12)
    cleaned = clean(kernel)
    assert not cleaned[0, 0].any() and not cleaned[2, 1].any() and torch.equal(cleaned[1], kernel[1])
    rows = slices(kernel)
    assert not sparsity(rows[~is_sparse(rows)])


def test_kernels_that_are_zero_are_sparse():
    assert sparsity(torch.zeros(5, 9)) == 1
    assert flags(1.0, None) == ['sparse'] and flags(0.0, 0.1) == ['redundant'] and flags(0.1, 0.5) == []


UNDEFINED = {
    'entropy of one slice': (lambda: variance_entropy(random(1, 9)), 'fewer than two slices'),
    'entropy of no slice': (lambda: variance_entropy(random(0, 9)), 'fewer than two slices'),
    'entropy of one tap': (lambda: variance_entropy(random(8, 1)), 'one tap'),
    'entropy of equal slices': (lambda: variance_entropy(torch.full((7, 9), 0.1)), 'equal slices'),
    'entropy of zeros': (lambda: variance_entropy(torch.zeros(7, 9)), 'equal slices'),
    'T of other sizes': (lambda: normalised_entropy(random(50, 25)), '9 taps'),
    'T of two slices': (lambda: normalised_entropy(random(2, 9)), 'from three slices on'),
    'orthogonality of one filter': (lambda: filter_orthogonality(random(1, 4, 3, 3)), 'two filters'),
    'orthogonality of a depthwise layer': (lambda: filter_orthogonality(random(4, 1, 3, 3), 4), 'two filters'),
    'orthogonality of zeros': (lambda: filter_orthogonality(torch.zeros(4, 1, 3, 3)), 'two filters'),
    'rank of zeros': (lambda: stable_rank(torch.zeros(4, 1, 3, 3)), 'the kernel is zero'),
    'bands of zeros': (lambda: band_shares(torch.zeros(4, 1, 3, 3)), 'the kernel is zero'),
    'patterns of a dense layer': (lambda: pattern_shares(random(4, 4, 7, 7), 1), 'not depthwise'),
    'patterns of a single channel': (lambda: pattern_shares(random(4, 1, 7, 7), 1), 'not depthwise'),
    'patterns of small kernels': (lambda: pattern_shares(random(4, 1, 3, 3), 4), 'below 5x5'),
    'patterns of sequences': (lambda: pattern_shares(random(4, 1, 9), 4), 'not depthwise'),
    'components of one slice': (lambda: principal_components(random(1, 9)), 'fewer than two slices'),
    'components of equal slices': (lambda: principal_components(torch.ones(4, 9)), 'equal slices'),
    'shift of zeros': (lambda: distribution_shift(torch.zeros(4, 9), random(4, 9)), 'the kernel is zero'),
    'shift of one tap': (lambda: distribution_shift(random(4, 1), random(4, 1)), 'one tap'),
}


@pytest.mark.parametrize('name', UNDEFINED)
def test_what_is_not_defined_has_a_reason(name):
    statistic, words = UNDEFINED[name]
    with pytest.raises(UndefinedStatisticError, match=words):
        statistic()


# Patterns


@pytest.mark.parametrize('size', [(5, 5), (6, 6), (7, 9), (31, 31)], ids=str)
def test_templates_have_their_own_pattern_with_either_sign(size):
    kernels = templates(size)[:, None]
    expected = [pattern for pattern in PATTERNS for _ in range(3)]
    assert patterns(kernels) == patterns(-1e-20 * kernels) == expected
    if size[0] == size[1]:
        assert torch.allclose(kernels[9:12], kernels[6:9].mT)


def test_random_kernels_have_patterns_only_below_5x5():
    shares = {k: 1 - patterns(random(20000, 1, k, k)).count('other') / 20000 for k in (3, 5)}
    assert shares[3] == pytest.approx(0.062, abs=0.006) and shares[5] < 0.001


def test_shares_of_patterns():
    kernel = torch.cat([templates((5, 5))[9:12, None], torch.zeros(1, 1, 5, 5), templates((5, 5))[:1, None]])
    assert pattern_shares(kernel, 5) == {'dy': 0.6, 'G': 0.2, 'other': 0.2}


def test_means_of_patterns():
    both = templates((5, 5))[[6, 7, 0], None]
    kernel = torch.cat([2 * both[:1], -3 * both[1:2], both[2:], torch.zeros(1, 1, 5, 5)])
    means = mean_kernels(kernel)
    assert [(label, share) for label, (_, share) in means.items()] == [('dx', 0.5), ('G', 0.25)]
    assert torch.allclose(means['dx'][0], both[:2, 0].mean(0)) and torch.allclose(means['G'][0], both[2, 0])


# Components and shifts


@pytest.mark.parametrize(('number', 'taps'), [(40, 9), (5, 9), (12, 25)], ids=str)
def test_components_are_the_eigenvectors_of_the_covariance(number, taps):
    rows = random(number, taps)
    found = principal_components(rows)
    assert len(found.axes) == len(found.explained) <= 9
    covariance = torch.cov(rows.T)
    for axis, share in zip(found.axes, found.explained):
        assert torch.allclose(covariance @ axis, share * covariance.trace() * axis, atol=1e-10)
        assert float(axis[axis.abs().argmax()]) > 0
    assert (found.explained.diff() <= 1e-12).all()
    assert taps > 9 or float(found.explained.sum()) == pytest.approx(1)


def naive_shift(first, second):
    first, second = scaled(first), scaled(second)
    found = principal_components(torch.cat([first, second]))
    total = 0.0
    for axis, share in zip(found.axes, found.explained.tolist()):
        p, q = ((rows - found.mean) @ axis for rows in (first, second))
        low, high = min(p.min(), q.min()), max(p.max(), q.max())
        counts = []
        for values in (p, q):
            bins = [0.5] * 70
            for value in values:
                bins[min(69, int(70 * (value - low) / (high - low)))] += 1
            counts.append([count / sum(bins) for count in bins])
        total += share * sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(*counts))
    return total / float(found.explained.sum())


def test_the_shift_is_the_weighted_symmetric_divergence():
    first, second = random(60, 9), random(45, 9, seed=1) + 1
    assert distribution_shift(first, second) == pytest.approx(naive_shift(first, second), rel=1e-6)
    assert distribution_shift(first, second) == pytest.approx(distribution_shift(second, first))
    assert distribution_shift(first, first) == 0
    # Each slice is divided by its own largest tap.
    assert distribution_shift(first * torch.arange(1.0, 61)[:, None], second) == pytest.approx(
        distribution_shift(first, second)
    )


def test_the_shift_of_one_distribution_is_that_by_chance():
    first, second, other = random(2000, 9), random(2000, 9, seed=1), random(2000, 9, seed=2).cumsum(1)
    chance = shift_by_chance(first, second)
    assert distribution_shift(first, second) == pytest.approx(chance, rel=0.5)
    assert distribution_shift(first, other) > 10 * chance
    assert shift_by_chance(first, second) == chance


def test_inputs_stay_as_they_are():
    kernel = nn.Parameter(random(8, 1, 5, 5))
    before = kernel.detach().clone()
    for statistic in (band_shares, spectral_norm, stable_rank, clean, filter_orthogonality):
        statistic(kernel)
    pattern_shares(kernel, 8)
    distribution_shift(slices(kernel), slices(kernel))
    assert torch.equal(kernel, before)
