"""Paired timing: every repeat runs every form once, and ratios are computed within a repeat.

The speed of a machine drifts by more than the differences to measure, but hardly within a repeat. "A/A" is a second,
identical copy of the reference; its ratio shows the measurement error on this machine.
"""

import math
import statistics
import timeit
from collections.abc import Callable
from typing import NamedTuple

from torch.utils.benchmark import timer

CONTROL = 'A/A'


class Ratio(NamedTuple):
    """Median of the ratios of all repeats, and its 95 % confidence interval."""

    median: float
    low: float
    high: float


def interleaved(
    forms: dict[str, Callable[[], object]], repeats: int, seconds: float = 0.05, warmup: int = 2
) -> dict[str, list[float]]:
    """Time all forms in turn.

    Args:
        forms: functions to time, by name.
        repeats: number of measurements of each form.
        seconds: short forms are called up to ten times per repeat to fill this time.
        warmup: repeats before the measurements.

    Returns:
        Seconds of a call in each repeat, by name.
    """
    times = {name: [] for name in forms}
    for repeat in range(warmup + repeats):
        for name, run in forms.items():
            # torch's clock, which synchronises a GPU. torch's Timer would add two warm-up calls each time.
            watch = timeit.Timer(run, timer=timer)
            # The other forms have evicted the caches, so short forms are called once before they are measured.
            once = watch.timeit(1)
            if once < seconds:
                calls = max(1, min(10, int(seconds / once)))
                once = watch.timeit(calls) / calls
            if repeat >= warmup:
                times[name].append(once)
    return times


def ratio(times: dict[str, list[float]], form: str, reference: str) -> Ratio:
    """Return the ratio of the times of a form and of the reference."""
    ratios = [a / b for a, b in zip(times[form], times[reference], strict=True)]
    return Ratio(statistics.median(ratios), *interval(ratios))


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median, from order statistics and the binomial distribution."""
    ordered, n = sorted(values), len(values)
    below, tail = 0, 0.0
    while (tail := tail + math.comb(n, below) / 2**n) <= 0.025:
        below += 1
    lowest = max(below - 1, 0)
    return ordered[lowest], ordered[n - 1 - lowest]


def exponent(sizes: list[float], values: list[float]) -> float:
    """Fit ``value ~ size**p`` by least squares of the logarithms, and return p."""
    x, y = ([math.log(v) for v in some] for some in (sizes, values))
    return statistics.linear_regression(x, y).slope
