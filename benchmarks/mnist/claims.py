"""Claims of the paper about MNIST, compared with our runs."""

import statistics
from typing import Any

Runs = dict[str, list[dict[str, Any]]]


def claims(runs: Runs, attacked: dict[str, list[float]]) -> str:
    """Return a table of claims, verdicts and our results; the verdict is "not run" where runs are missing."""
    best = {config: _mean([r['best'] for r in group]) for config, group in runs.items()}
    steps = {config: _mean([(r['to_target'] or {}).get('iteration') for r in group]) for config, group in runs.items()}
    robust = {config: statistics.fmean(values) for config, values in attacked.items()}
    group = ['lenet5_kerv_d2_c05', 'lenet5_kerv_d2', 'lenet5_kerv_c05', 'lenet5_kerv']
    rows = [
        ('polynomial reaches 98 % in at most half the iterations of the CNN', _half(steps, 'lenet5_kerv', 'lenet5')),
        (
            'gaussian reaches 98 % in at most half the iterations of the CNN',
            _half(steps, 'lenet5_kerv_gaussian', 'lenet5'),
        ),
        ('sigmoid takes at least twice the iterations of the CNN', _half(steps, 'lenet5', 'lenet5_kerv_sigmoid')),
        ('learned balance is the best of its group', _above(best, 'lenet5_kerv_learnable', *group)),
        ('L1 and L2 norm end above 99 %', _floor(best, 99, 'lenet5_kerv_l1', 'lenet5_kerv_l2')),
        ('kerv-conv ends better than conv-kerv', _above(best, 'lenet5_kerv_conv', 'lenet5_conv_kerv')),
        ('conv-kerv is faster to 98 % than kerv-conv', _below(steps, 'lenet5_conv_kerv', 'lenet5_kerv_conv')),
        (
            'kerv-kerv is the fastest to 98 %',
            _below(steps, 'lenet5_kerv', 'lenet5_kerv_conv', 'lenet5_conv_kerv', 'lenet5'),
        ),
        ('without activations the CNN stays near 92 % (below 94)', _ceiling(best, 94, 'lenet5_linear')),
        (
            'without activations the KNN end above 99 %',
            _floor(best, 99, 'lenet5_kerv_linear', 'lenet5_kerv_gaussian_linear'),
        ),
        ('under FGSM: L2 norm above L1 norm', _above(robust, 'lenet5_kerv_l2', 'lenet5_kerv_l1')),
        ('under FGSM: L1 norm above convolution', _above(robust, 'lenet5_kerv_l1', 'lenet5')),
    ]
    lines = ['| claim of the paper | holds here | our figures |', '|---|---|---|']
    lines += [f'| {claim} | {verdict} | {figures} |' for claim, (verdict, figures) in rows]
    return '\n'.join(lines) + '\n'


def _mean(values: list[float | None]) -> float | None:
    """Mean over the seeds; None if a value is missing."""
    return None if any(v is None for v in values) else statistics.fmean(values)


def _say(holds: bool) -> str:
    return 'yes' if holds else 'no'


def _figures(values: dict[str, float | None], configs: tuple[str, ...]) -> str:
    return ', '.join(
        f'{c.removeprefix("lenet5").lstrip("_") or "conv"} {"never" if values[c] is None else f"{values[c]:.6g}"}'
        for c in configs
    )


def _judge(values: dict[str, float | None], configs: tuple[str, ...], holds) -> tuple[str, str]:
    if any(config not in values for config in configs):
        return 'not run', ''
    numbers = [values[config] for config in configs]
    return _say(holds(*numbers)), _figures(values, configs)


def _half(steps: dict, fast: str, slow: str) -> tuple[str, str]:
    return _judge(steps, (fast, slow), lambda f, s: f is not None and (s is None or 2 * f <= s))


def _below(steps: dict, first: str, *others: str) -> tuple[str, str]:
    return _judge(steps, (first, *others), lambda f, *o: f is not None and all(v is None or f < v for v in o))


def _above(values: dict, first: str, *others: str) -> tuple[str, str]:
    return _judge(values, (first, *others), lambda f, *o: f is not None and all(v is None or f > v for v in o))


def _floor(values: dict, floor: float, *configs: str) -> tuple[str, str]:
    return _judge(values, configs, lambda *v: all(x is not None and x > floor for x in v))


def _ceiling(values: dict, ceiling: float, config: str) -> tuple[str, str]:
    return _judge(values, (config,), lambda v: v is None or v < ceiling)
