"""Results of a comparison: what the records say, as a dict for JSON and as tables."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from prettytable import PrettyTable

from mmkerv.analysis.comparison.cost import Cost
from mmkerv.analysis.comparison.record import DONE, FAILED, Run, is_complete, main_metric
from mmkerv.analysis.comparison.statistics import METHOD, differences
from mmkerv.analysis.comparison.variant import Variant

HEADINGS = (
    *('operator', '{metric}', 'difference from {reference}', 'verdict', 'parameters', 'MACs', 's / step', 'memory'),
    'ms',
)
UNITS = ((1e9, 'G'), (1e6, 'M'), (1e3, 'k'))


def reference_of(variants: Sequence[Variant]) -> str:
    """Return the spec of the variant that others are compared with: the plain network, or the first.

    The config's own network goes before a plain one with settings of its own.

    Example:
        >>> reference_of([Variant('coc', 'CoCConv'), Variant('plain')])
        'plain'
    """
    plain = sorted((v for v in variants if v.operator is None), key=lambda variant: len(variant.overrides) > 0)
    return (plain or variants)[0].spec


def results(
    variants: Sequence[Variant],
    runs: Sequence[Run],
    costs: dict[str, Cost | str],
    folds: dict[str, dict[str, Any]],
    inference: dict[str, Any],
    metric: str | None = None,
) -> dict[str, Any]:
    """Return the results so far.

    Args:
        variants: the variants.
        runs: their runs.
        costs: cost of each variant, or why it could not be built, by spec.
        folds: what folding gave, by the name of the run.
        inference: times of the inference, see :func:`mmkerv.analysis.comparison.folding.times`.
        metric: metric to compare; ``None`` chooses the usual one.

    Raises:
        ConfigError: if no run has the metric.

    Example:
        >>> results([Variant('plain')], [], {'plain': 'no'}, {}, {})['metric'] is None
        True
    """
    records = [(run, record) for run in runs if (record := run.record())]
    metric = main_metric([record.get('metrics', {}) for _, record in records], metric)
    reference = reference_of(variants)
    values: dict[str, dict[int, float]] = {variant.spec: {} for variant in variants}
    for run, record in records:
        if record['status'] == DONE and metric in record['metrics']:
            values[run.variant.spec][run.seed] = record['metrics'][metric]
    found, seeds = differences(values, reference), len({run.seed for run in runs})
    rows = []
    for variant in variants:
        spec, cost = variant.spec, costs.get(variant.spec)
        own = [(run, record) for run, record in records if run.variant.spec == spec]
        done = [record for _, record in own if record['status'] == DONE]
        numbers = list(values[spec].values())
        difference = found.get(spec)
        rows.append({
            'operator': spec,
            'values': {str(seed): value for seed, value in values[spec].items()},
            'mean': fmean(numbers) if numbers else None,
            'deviation': stdev(numbers) if len(numbers) > 1 else None,
            'difference': difference and {**difference._asdict(), 'verdict': difference.verdict, 'seeds': seeds},
            'cost': cost.as_dict() if isinstance(cost, Cost) else None,
            'seconds_per_step': _mean(record['seconds_per_step'] for record in done),
            'memory_mib': max((record['memory_mib'] for record in done), default=None),
            'memory_of': done[0]['memory_of'] if done else None,
            'jobs': max((record.get('jobs', 1) for record in done), default=1),
            'seconds': sum(record.get('seconds') or 0.0 for record in done if is_complete(record)),
            'incomplete': [record['seed'] for record in done if not is_complete(record)],
            'resumed': [record['seed'] for record in done if record.get('starts', 1) > 1],
            'milliseconds': inference.get('milliseconds', {}).get(spec),
            'missing': sum(run.variant.spec == spec for run in runs) - len(own),
            'failed': {str(run.seed): record['error'] for run, record in own if record['status'] == FAILED},
            'without_metric': [r['seed'] for r in done if metric not in r['metrics']],
            'folds': {str(run.seed): folds[run.name] for run, _ in own if run.name in folds},
            'not_built': cost if isinstance(cost, str) else None,
        })  # fmt: skip
    return {
        'metric': metric,
        'reference': reference,
        'method': METHOD,
        'rows': rows,
        'inference': {k: v for k, v in inference.items() if k in ('device', 'threads', 'shape', 'not_timed')},
    }


def table(found: dict[str, Any], markdown: bool = False) -> str:
    """Return the table of the results, for a terminal or as markdown.

    Example:
        >>> found = results([Variant('plain')], [], {}, {}, {})
        >>> table(found, markdown=True).splitlines()[2].split(' | ')[:2]
        ['| plain', 'not run']
    """
    head, rows = headings(found), [cells(row) for row in found['rows']]
    if markdown:
        lines = [head, ['---'] * len(head), *rows]
        return '\n'.join(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |' for line in lines)
    shown = PrettyTable(head, align='r')
    shown.align['operator'] = 'l'
    for row in rows:
        shown.add_row(row)
    return str(shown)


def headings(found: dict[str, Any]) -> list[str]:
    """Return the headings of the columns.

    Example:
        >>> headings({'metric': 'mIoU', 'reference': 'plain'})[:4]
        ['operator', 'mIoU', 'difference from plain', 'verdict']
    """
    names = {'metric': found['metric'] or 'metric', 'reference': found['reference']}
    return [heading.format(**names) for heading in HEADINGS]


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row of the table.

    Example:
        >>> row = results([Variant('plain')], [], {'plain': 'no'}, {}, {})['rows'][0]
        >>> cells(row)[0:2]
        ['plain', 'not built']
    """
    difference, counts = row['difference'], (row['cost'] or {}).get('complexity')
    return [
        row['operator'],
        _values(row),
        _difference(row),
        _verdict(difference) if difference else '',
        f'{counts["parameters"]:,}' if counts else '-',
        short(counts['image'] + counts['kernels']) if counts else '-',
        '-' if row['seconds_per_step'] is None else f'{row["seconds_per_step"]:.3g}',
        '-' if row['memory_mib'] is None else f'{row["memory_mib"]} MiB',
        _milliseconds(row['milliseconds']),
    ]


def notes(found: dict[str, Any]) -> list[str]:
    """Return what a reader of the table must know, in sentences.

    Example:
        >>> notes(results([Variant('plain')], [], {}, {}, {}))[0]
        'There are no differences: plain is the only network.'
    """
    lines = [_how_differences_are_found(found)]
    memory = {row['memory_of'] for row in found['rows'] if row['memory_of']}
    which = {'GPU': 'of the GPU', 'process': 'of the process, with libraries and data'}
    where = ' and '.join(which[kind] for kind in sorted(memory))
    lines.append(
        'The value is that of the last evaluation, mean ± sample standard deviation over the seeds, each value in '
        'brackets. MACs: multiply-adds of an image and of generating the kernels, as in a step of training. s / step: '
        f'median of the logged times{f"; memory: the largest, {where}" if where else ""}.'
    )
    inference = found['inference']
    if inference:
        height, width = inference['shape']
        threads = f' (threads: {inference["threads"]})' if inference['device'] == 'cpu' else ''
        lines.append(
            f'ms: inference of one {height} x {width} image, trained -> folded, medians on {inference["device"]}'
            f'{threads}, the networks in turn; the trained network computes its kernels at every call.'
        )
        lines += [f'{line}.' for line in inference.get('not_timed', ())]
    # Text -> operators that it is true of: what is true of many is said once.
    about: dict[str, list[str]] = {}
    for row in found['rows']:
        spec, own = row['operator'], []
        if row['not_built']:
            own.append(f'not built: {row["not_built"]}')
        if row['cost']:
            note = row['cost']['note']
            own.append(f'replaced: {row["cost"]["replaced"]}' + (f'; {note}' if note else ''))
        shared = [f'up to {row["jobs"]} trainings ran at a time'] if row['jobs'] > 1 else []
        if row['resumed']:
            shared.append(f'resumed: seed {", ".join(map(str, row["resumed"]))}')
        if shared:
            own.append(f's / step depends on what else ran ({"; ".join(shared)}); compare it with care.')
        # Results of earlier versions do not tell.
        if seeds := row.get('incomplete'):
            # The memory of a GPU is in the log.
            what = 'time and memory are' if row['memory_of'] == 'process' else 'time is'
            own.append(
                f'{what} incomplete: seed {", ".join(map(str, seeds))}, of which a start left none; its '
                'time is in no sum.'
            )
        if row['missing']:
            own.append(f'not run yet: {row["missing"]} of its runs.')
        lines += [f'{spec}, seed {seed}: failed: {error}' for seed, error in row['failed'].items()]
        name = found['metric'] or 'metric'
        lines += [f'{spec}, seed {seed}: its evaluation gave no {name}.' for seed in row['without_metric']]
        kept = {fold['kept'] for fold in row['folds'].values() if 'kept' in fold}
        own += [f'not folded: {reason}' for reason in sorted(kept) if reason != 'nothing to fold']
        errors = [fold['difference'] for fold in row['folds'].values() if 'difference' in fold]
        if errors:
            own.append(f'folded; the outputs differ by at most {max(errors):.1e} of the largest.')
        for text in own:
            about.setdefault(text, []).append(spec)
    every = len(found['rows'])
    return lines + [
        f'{"all" if len(specs) == every > 1 else "; ".join(specs)}: {text}' for text, specs in about.items()
    ]


def short(number: float) -> str:
    """Return a number in three digits with a unit.

    Example:
        >>> short(1_814_073_344), short(999_600), short(12)
        ('1.81 G', '1 M', '12')
    """
    # Rounded first: 999.6 k is 1 M.
    number = float(f'{number:.3g}') if abs(number) >= UNITS[-1][0] else number
    for size, unit in UNITS:
        if abs(number) >= size:
            return f'{number / size:.10g} {unit}'
    return f'{number:g}'


def _how_differences_are_found(found: dict[str, Any]) -> str:
    """Return the method of the differences and intervals, or why there are none."""
    differences = [row['difference'] for row in found['rows'] if row['difference']]
    if any(difference['low'] is not None for difference in differences):
        return found['method']
    if differences:
        if max(difference['seeds'] for difference in differences) > 1:
            takes = 'two seeds under which both networks have a value'
            return f'Differences have no interval, which takes {takes}: nothing is decided.'
        return 'Differences have no interval, which takes two seeds: nothing is decided.'
    name = found['reference']
    if len(found['rows']) == 1:
        return f'There are no differences: {name} is the only network.'
    reference = next(row for row in found['rows'] if row['operator'] == name)
    if reference['mean'] is None:
        # Not built, failed, not run, or evaluated without the metric.
        return f'There are no differences: {name}, from which they are taken, has no value ({_values(reference)}).'
    if all(row['mean'] is None for row in found['rows'] if row is not reference):
        return f'There are no differences: no network but {name} has a value.'
    return f'There are no differences: no other network has a value under a seed of {name}.'


def _values(row: dict[str, Any]) -> str:
    if row['mean'] is None:
        if row['not_built']:
            return 'not built'
        return 'failed' if row['failed'] else ('none' if row['without_metric'] else 'not run')
    digits = _digits(row['mean'])
    spread = '' if row['deviation'] is None else f' ± {row["deviation"]:.{digits}f}'
    each = ', '.join(f'{value:.{digits}f}' for value in row['values'].values())
    return f'{row["mean"]:.{digits}f}{spread}' + (f' ({each})' if len(row['values']) > 1 else '')


def _difference(row: dict[str, Any]) -> str:
    difference = row['difference']
    if difference is None:
        return ''
    digits = _digits(row['mean'])
    text = f'{difference["mean"]:+.{digits}f}'
    if difference['low'] is None:
        return text
    return f'{text} [{difference["low"]:+.{digits}f}, {difference["high"]:+.{digits}f}]'


def _verdict(difference: dict[str, Any]) -> str:
    pairs, seeds = difference['pairs'], difference['seeds']
    if pairs == seeds:
        return difference['verdict']
    few = f'{pairs} of {seeds} seeds'
    return few if pairs == 1 else f'{difference["verdict"]}, {few}'


def _digits(value: float) -> int:
    """Return the digits behind the point: metrics are parts of 1 or of 100."""
    return 2 if abs(value) > 1.5 else 4


def _milliseconds(pair: Sequence[float | None] | None) -> str:
    if not pair or pair[0] is None:
        return '-'
    return f'{pair[0]:.1f}' + ('' if pair[1] is None else f' -> {pair[1]:.1f}')


def _mean(values: Any) -> float | None:
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(numbers) if numbers else None
