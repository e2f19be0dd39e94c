"""Tables and plots of the study's records."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mnist.attack import PAPER_CNN, eps_of_the_paper, interpolated
from mnist.claims import claims
from mnist.plots import plot_convergence, plot_filters
from mnist.study import ATTACKED, DRAWN, RUNS, records, setting_of
from mnist.training import Setting

PHASES = ('search', 'distances', 'run')


def write_report(out: Path, archive: Path | None, docs: Path) -> None:
    """Write tables (results.md), plots and all records (records.json) of ``out`` and ``archive`` to ``docs``."""
    docs.mkdir(parents=True, exist_ok=True)
    everything = {phase: records(out / phase, archive) for phase in PHASES}
    runs = everything['run'].values()
    parts = ['# Results\n', _machine(runs)]
    for title, name in (
        ("The paper's words alone", 'literal'),
        ('Setting found', 'found'),
        ('Setting found for L1 and L2', 'distances'),
    ):
        group = by_config(runs, name)
        parts.append(f'## {title}\n')
        if not group:
            parts.append('Not run.\n')
            continue
        eps, attacked = attack(group)
        plot_convergence(group, title, docs / f'convergence_{name}.png')
        parts += [_table(group), f'![convergence](convergence_{name}.png)\n', attack_table(eps, attacked)]
        if name == 'distances':
            # Two norms and the plain network: most claims and pictures are of others.
            parts.append('\n'.join(line for line in claims(group, attacked).split('\n') if '| not run |' not in line))
            continue
        parts.append(claims(group, attacked))
        filters = {label: group[c][0].get('filters') for c, label in DRAWN.items() if c in group}
        plot_filters({label: f for label, f in filters.items() if f}, docs / f'filters_{name}.png')
        parts.append(f'![filters](filters_{name}.png)\n')
    parts += ['## Search\n', _search_table(everything['search'].values())]
    parts += ['## Search for a setting in which distances learn\n', _search_table(everything['distances'].values())]
    (docs / 'results.md').write_text('\n'.join(parts))
    (docs / 'records.json').write_text(json.dumps(everything, indent=None).replace('}, "lenet5', '},\n"lenet5'))


def by_config(runs: Iterable[dict[str, Any]], name: str) -> dict[str, list[dict[str, Any]]]:
    """Group the records with the setting of this name by config, in the order of ``RUNS``."""
    groups = defaultdict(list)
    for record in runs:
        if Setting(**record['setting']) == setting_of(name, record['config']):
            groups[record['config']].append(record)
    return {config: sorted(groups[config], key=lambda r: r['seed']) for config in RUNS if groups[config]}


def _machine(runs: Iterable[dict[str, Any]]) -> str:
    lines = sorted({record['machine'] for record in runs if 'machine' in record})
    return ''.join(f'* {line}\n' for line in lines)


def spread(values: Iterable[float | None], digits: int) -> str:
    """Format mean and range of the values, and the number of missing ones."""
    values = list(values)
    numbers = [v for v in values if v is not None]
    if not numbers:
        return 'never'
    text = f'{statistics.fmean(numbers):.{digits}f}'
    if len(numbers) > 1:
        text += f' ({min(numbers):.{digits}f} to {max(numbers):.{digits}f})'
    return text + (f', {len(values) - len(numbers)} of {len(values)} never' if len(numbers) < len(values) else '')


def _table(runs: dict[str, list[dict[str, Any]]]) -> str:
    lines = ['| config | setting | seeds | paper, best % | ours, best % | iterations to 98 % | epochs | seconds |']
    lines.append('|---|---|---|---|---|---|---|---|')
    for config, group in runs.items():
        reached, setting = [r['to_target'] or {} for r in group], Setting(**group[0]['setting'])
        iterations = [r.get('iteration') for r in reached]
        paper = RUNS[config] or 'only plotted'
        best = spread([r['best'] for r in group], 2)
        best += ''.join(f'; seed {r["seed"]} diverged' for r in group if r['diverged'])
        best += ''.join(f'; seed {r["seed"]} learned nothing' for r in group if r['hopeless'])
        lines.append(
            f'| {config} | {setting} | {len(group)} | {paper} | {best} | {spread(iterations, 0)} | '
            f'{spread([i and i / 1200 for i in iterations], 1)} | {spread([r.get("seconds") for r in reached], 0)} |'
        )
    return '\n'.join(lines) + '\n'


def attack(runs: dict[str, list[dict[str, Any]]]) -> tuple[float | None, dict[str, list[float]]]:
    """Return the eps at which the convolutional networks have the paper's accuracy, and the accuracies with it."""
    curves = {config: [r['fgsm'] for r in group if 'fgsm' in r] for config, group in runs.items()}
    if not curves.get('lenet5'):
        return None, {}
    eps = eps_of_the_paper(curves['lenet5'])
    return eps, {config: [interpolated(c, eps) for c in group] for config, group in curves.items() if group}


def attack_table(eps: float | None, attacked: dict[str, list[float]]) -> str:
    """Return Table 1 of the paper with our values."""
    if eps is None:
        return 'FGSM (Table 1): not run.\n'
    head = f'FGSM, eps {eps:.3f} of [0, 1]: with it the plain networks have the {PAPER_CNN} % of Table 1.\n'
    lines = [head, '| config | paper, attacked % | ours, attacked % |', '|---|---|---|']
    lines += [f'| {c} | {ATTACKED[c] or "not given"} | {spread(v, 2)} |' for c, v in attacked.items()]
    return '\n'.join(lines) + '\n'


def _search_table(runs: Iterable[dict[str, Any]]) -> str:
    lines = ['| config | setting | test accuracy after epochs 1, 2, 3 |', '|---|---|---|']
    for record in sorted(runs, key=lambda r: (list(RUNS).index(r['config']), str(r['setting']))):
        ends = ', '.join(f'{value:.2f}' for value in record['ends']) or 'diverges'
        lines.append(f'| {record["config"]} | {Setting(**record["setting"])} | {ends} |')
    return '\n'.join(lines) + '\n'
