"""Paired differences against scipy and against formulas written out."""

import math

import numpy as np
import pytest
from scipy import stats

from mmkerv.analysis.comparison.statistics import Difference, differences


def test_two_variants_are_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(size=5) + 0.3
    found = differences({'plain': dict(enumerate(a)), 'coc': dict(enumerate(b))}, 'plain')['coc']
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(b - a)) and found.freedom == 4 and found.pairs == 5
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_variance_is_pooled_over_the_variants():
    """A table without holes: the two-way analysis of variance, its mean squares written out."""
    values = np.array([[70.0, 72.0, 71.0], [71.5, 72.5, 73.0], [69.0, 72.0, 70.0], [74.0, 73.5, 76.0]])
    names = ['plain', 'coc', 'dcls', 'ck']
    found = differences({name: dict(enumerate(row)) for name, row in zip(names, values)}, 'plain')
    residuals = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    variance = (residuals**2).sum() / 6
    half = stats.t.ppf(0.975, 6) * math.sqrt(2 * variance / 3)
    assert list(found) == names[1:]
    for name, row in zip(names[1:], values[1:]):
        mean = (row - values[0]).mean()
        assert found[name] == pytest.approx(Difference(mean, 3, mean - half, mean + half, 6))


def test_seeds_that_all_share_do_not_widen_the_interval():
    """Pairing: a seed that is 10 points better for everybody changes nothing."""
    plain, coc = {0: 1.0, 1: 2.0, 2: 1.5}, {0: 1.2, 1: 2.3, 2: 1.6}
    shifted = [{seed: value + 10 * seed for seed, value in part.items()} for part in (plain, coc)]
    first = differences({'plain': plain, 'coc': coc}, 'plain')['coc']
    second = differences(dict(zip(('plain', 'coc'), shifted)), 'plain')['coc']
    assert second == pytest.approx(first)


def test_missing_values():
    """Only seeds that both have are paired; every other value still tells about the variance."""
    values = {'plain': {0: 1.0, 1: 2.0, 2: 3.5}, 'coc': {0: 2.0, 1: 2.5}, 'ck': {2: 4.0}, 'kerv': {}}
    found = differences(values, 'plain')
    assert 'kerv' not in found and found['coc'].pairs == 2 and found['coc'].mean == pytest.approx(0.75)
    # Six values, three variants, three seeds: one degree of freedom, the two paired differences.
    assert found['coc'].freedom == 1
    half = stats.t.ppf(0.975, 1) * math.sqrt(2 * 0.0625 / 2)
    assert found['coc'].high - found['coc'].mean == pytest.approx(half)
    assert found['ck'].mean == pytest.approx(0.5) and found['ck'].low is None and found['ck'].verdict == 'one seed'


def test_values_that_are_not_finite_are_left_out():
    values = {'plain': {0: 1.0, 1: 2.0}, 'coc': {0: 2.0, 1: float('nan')}}
    assert differences(values, 'plain')['coc'] == Difference(1.0, 1)


def test_one_seed_has_no_interval():
    found = differences({'plain': {0: 1.0}, 'coc': {0: 2.0}, 'ck': {0: 3.0}}, 'plain')
    assert {difference.verdict for difference in found.values()} == {'one seed'}
    assert all(difference.low is difference.high is None for difference in found.values())


@pytest.mark.parametrize(
    ('low', 'high', 'verdict'),
    [(-0.1, 0.2, 'undecided'), (0.0, 0.2, 'undecided'), (0.1, 0.2, 'higher'), (-0.2, -0.1, 'lower')],
)
def test_verdict(low, high, verdict):
    assert Difference((low + high) / 2, 3, low, high, 2).verdict == verdict


def test_equal_runs_have_no_interval():
    found = differences({'plain': {0: 0.1, 1: 0.7}, 'coc': {0: 0.1, 1: 0.7}}, 'plain')['coc']
    assert found.mean == 0 and found.verdict == 'no interval'


def test_no_reference():
    assert differences({'plain': {}, 'coc': {0: 1.0}}, 'plain') == {}


def test_equal_differences_are_no_certainty():
    found = differences({'plain': {0: 0.5, 1: 0.6}, 'coc': {0: 0.51, 1: 0.61}}, 'plain')['coc']
    assert found.mean == pytest.approx(0.01) and (found.low, found.high, found.verdict) == (None, None, 'no interval')
