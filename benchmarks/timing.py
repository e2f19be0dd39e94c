"""Paired timing: every repeat runs every form once, and ratios are taken within a repeat.

A machine's speed drifts by more than the differences that count here; within a repeat it has no time to. "A/A" is a
second, equal copy of the reference: how far a ratio of 1 strays on this machine.
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
        forms: by name, what is timed.
        repeats: how often each is measured.
        seconds: short forms are called several times, up to ten, until this has passed.
        warmup: repeats before those that count.

    Returns:
        By name, the seconds of a call in each repeat.
    """
    times = {name: [] for name in forms}
    for repeat in range(warmup + repeats):
        for name, run in forms.items():
            # torch's clock, which waits for a GPU; its Timer would warm up by two calls of its own each time.
            watch = timeit.Timer(run, timer=timer)
            # What ran in between has emptied the caches: short forms get a call before those that count.
            once = watch.timeit(1)
            if once < seconds:
                calls = max(1, min(10, int(seconds / once)))
                once = watch.timeit(calls) / calls
            if repeat >= warmup:
                times[name].append(once)
    return times


def ratio(times: dict[str, list[float]], form: str, reference: str) -> Ratio:
    """Hold a form against another, repeat by repeat."""
    ratios = [a / b for a, b in zip(times[form], times[reference], strict=True)]
    return Ratio(statistics.median(ratios), *interval(ratios))


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median: order statistics by the binomial distribution."""
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
