"""Paired differences between variants over seeds, with intervals."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
# Residuals below this share of the values are rounding errors.
ROUNDING = 1e-9
METHOD = (
    'Difference: mean over the seeds that both have of the values under the same seed. '
    f"Interval: {round(100 * CONFIDENCE)} %, Student's t; the variance is pooled over the table: that of the residuals "
    'of value = variant + seed, by least squares, so it takes all variants to spread alike. No correction for the '
    'number of comparisons. "Undecided": the interval holds 0.'
)


class Difference(NamedTuple):
    """Difference of a variant from the reference.

    Args:
        mean: mean of the paired differences.
        pairs: number of seeds with both values.
        low: lower end of the interval; ``None`` where there is none.
        high: upper end of the interval.
        freedom: degrees of freedom of its variance.

    Example:
        >>> Difference(0.5, 3, 0.1, 0.9, 4).verdict
        'higher'
    """

    mean: float
    pairs: int
    low: float | None = None
    high: float | None = None
    freedom: int = 0

    @property
    def verdict(self) -> str:
        """``'higher'``, ``'lower'``, ``'undecided'``, or why there is no interval."""
        if self.low is None or self.high is None:
            return 'one seed' if self.pairs == 1 else 'no interval'
        if self.low <= 0 <= self.high:
            return 'undecided'
        return 'higher' if self.low > 0 else 'lower'


def differences(values: Mapping[str, Mapping[int, float]], reference: str) -> dict[str, Difference]:
    """Return the paired difference of every variant from a reference, with its interval.

    With values y[v, s], v of V variants and s of S seeds, and the mean d of the n differences y[v, s] - y[r, s], the
    interval is d ± t(f) sqrt(2 r² / n), where r² is the sum of the squared residuals of y[v, s] = a[v] + b[s], by least
    squares, divided by its degrees of freedom f: (V - 1)(S - 1) if no value is missing. For two variants it is that of
    the paired t-test. With one seed there is none, nor where all residuals are 0.

    Args:
        values: values by variant and seed; those that are not finite are left out.
        reference: name of the variant to compare with.

    Example:
        >>> both = {'plain': {0: 1.0, 1: 2.0, 2: 3.0}, 'coc': {0: 1.5, 1: 2.6, 2: 3.4}}
        >>> found = differences(both, 'plain')['coc']
        >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3), found.freedom
        (0.5, 0.252, 0.748, 2)
    """
    finite = {name: {s: v for s, v in seeds.items() if math.isfinite(v)} for name, seeds in values.items()}
    variance, freedom = _residual_variance(finite)
    found = {}
    for name, seeds in finite.items():
        pairs = [seeds[seed] - finite[reference][seed] for seed in seeds if seed in finite.get(reference, {})]
        if name == reference or not pairs:
            continue
        mean = sum(pairs) / len(pairs)
        if freedom and len(pairs) > 1:
            half = _student(freedom) * math.sqrt(2 * variance / len(pairs))
            found[name] = Difference(mean, len(pairs), mean - half, mean + half, freedom)
        else:
            found[name] = Difference(mean, len(pairs))
    return found


def _residual_variance(values: Mapping[str, Mapping[int, float]]) -> tuple[float, int]:
    """Return the variance of the residuals of value = variant + seed, and its degrees of freedom."""
    cells = [(name, seed, value) for name, seeds in values.items() for seed, value in seeds.items()]
    if not cells:
        return 0.0, 0
    variants, seeds = (sorted({cell[i] for cell in cells}) for i in (0, 1))
    design = np.zeros((len(cells), len(variants) + len(seeds)))
    for row, (name, seed, _) in enumerate(cells):
        design[row, variants.index(name)] = design[row, len(variants) + seeds.index(seed)] = 1
    target = np.array([value for *_, value in cells])
    solution, _, rank, _ = np.linalg.lstsq(design, target, rcond=None)
    freedom = len(cells) - int(rank)
    squares = float(((target - design @ solution) ** 2).sum())
    # Metrics are rounded, so differences may be equal by chance; that is no certainty.
    if not freedom or squares <= len(cells) * (ROUNDING * np.abs(target).max()) ** 2:
        return 0.0, 0
    return squares / freedom, freedom


def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))
