"""Tables and plots of the study's records."""

import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from mnist.attack import PAPER_CNN, attacked_accuracy, eps_of_the_paper
from mnist.claims import claims
from mnist.data import load
from mnist.plots import plot_convergence, plot_filters
from mnist.study import LITERAL, RUNS, Job, records
from mnist.study import found as found_setting
from mnist.training import Setting, build

ATTACKED = {'lenet5': 71.92, 'lenet5_kerv_l1': 74.08, 'lenet5_kerv_l2': 76.36, 'lenet5_kerv_manhattan': None}
ATTACKED |= {'lenet5_kerv_euclidean': None, 'lenet5_kerv_gaussian': None, 'lenet5_kerv': None}


def write_report(out: Path, data: Path, docs: Path) -> None:
    """Write tables (results.md), plots and the records' summary (results.json) of ``out`` to ``docs``."""
    docs.mkdir(parents=True, exist_ok=True)
    found = by_config(records(out / 'run'), found_setting)
    literal = by_config(records(out / 'run'), lambda config: LITERAL)
    parts = ['# Results\n', _machine(out)]
    for title, name, runs in (('Setting found', 'found', found), ("The paper's words alone", 'literal', literal)):
        if not runs:
            parts.append(f'## {title}\n\nNot run.\n')
            continue
        attacked = attack(runs, out / 'run', data)
        plot_convergence(runs, title, docs / f'convergence_{name}.png')
        parts += [f'## {title}\n', _table(runs), f'![convergence](convergence_{name}.png)\n', attack_table(attacked)]
        parts.append(claims(runs, attacked[1]))
        _draw_filters(runs, out / 'run', docs / f'filters_{name}.png')
        parts.append(f'![filters](filters_{name}.png)\n')
    parts += ['## Search\n', _search_table(records(out / 'search'))]
    (docs / 'results.md').write_text('\n'.join(parts))
    (docs / 'results.json').write_text(json.dumps({'found': _summary(found), 'literal': _summary(literal)}, indent=1))


def by_config(runs: Iterable[dict[str, Any]], setting_of) -> dict[str, list[dict[str, Any]]]:
    """Group the records whose setting is the one wanted for their config, in the order of ``RUNS``."""
    groups = defaultdict(list)
    for record in runs:
        if Setting(**record['setting']) == setting_of(record['config']):
            groups[record['config']].append(record)
    return {config: sorted(groups[config], key=lambda r: r['seed']) for config in RUNS if groups[config]}


def _machine(out: Path) -> str:
    dates = sorted(date.fromtimestamp(p.stat().st_mtime) for p in (out / 'run').glob('*.json'))
    when = f'{dates[0]} to {dates[-1]}' if dates else 'not run'
    cpu = next((line for line in _cpu_lines() if 'model name' in line), 'model name: unknown').split(':')[1].strip()
    return f'{when}; {cpu}, one thread a run; torch {torch.__version__}, Python {platform.python_version()}.\n'


def _cpu_lines() -> list[str]:
    path = Path('/proc/cpuinfo')
    return path.read_text().splitlines() if path.exists() else [f'model name: {platform.processor()}']


def spread(values: Iterable[float | None], digits: int) -> str:
    """Mean and range of the values that are there, and how many are not."""
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


def attack(runs: dict, folder: Path, data: Path) -> tuple[float | None, dict[str, list[float]]]:
    """Attack the networks of Table 1 with the eps that brings the convolutional ones to the paper's accuracy."""
    models, eps = {}, None
    for config in ATTACKED:
        for record in runs.get(config, ()):
            setting = Setting(**record['setting'])
            images, labels = load(data, setting.scale)['test']
            model = build(config, setting._replace(init='torch'), images[:1]).eval()
            path = Job(config, setting, record['seed']).path(folder).with_suffix('.pt')
            model.load_state_dict(torch.load(path, weights_only=True))
            models.setdefault(config, []).append((model, images, labels, setting.scale))
    if 'lenet5' in models:
        plain = models['lenet5']
        eps = eps_of_the_paper([m for m, *_ in plain], *plain[0][1:])
    return eps, {c: [attacked_accuracy(m, x, y, eps, s) for m, x, y, s in group] for c, group in models.items() if eps}


def attack_table(attacked: tuple[float | None, dict[str, list[float]]]) -> str:
    """Table 1 of the paper."""
    eps, values = attacked
    if eps is None:
        return 'FGSM (Table 1): not run.\n'
    head = f'FGSM, eps {eps:.4f} of [0, 1]: with it the plain networks have the {PAPER_CNN} % of Table 1.\n'
    lines = [head, '| config | paper, attacked % | ours, attacked % |', '|---|---|---|']
    lines += [f'| {c} | {ATTACKED[c] or "not given"} | {spread(v, 2)} |' for c, v in values.items()]
    return '\n'.join(lines) + '\n'


def _draw_filters(runs: dict, folder: Path, path: Path) -> None:
    filters = {}
    for config, name in (('lenet5', 'convolution'), ('lenet5_kerv_d2_c05', 'polynomial\n(2, 0.5)')):
        for record in runs.get(config, ())[:1]:
            job = Job(config, Setting(**record['setting']), record['seed'])
            state = torch.load(job.path(folder).with_suffix('.pt'), weights_only=True)
            filters[name] = state['backbone.layer1.0.weight']
    if filters:
        plot_filters(filters, path)


def _search_table(found: list[dict[str, Any]]) -> str:
    lines = ['| config | setting | test accuracy after epochs 1, 2, 3 |', '|---|---|---|']
    for record in sorted(found, key=lambda r: (list(RUNS).index(r['config']), str(r['setting']))):
        ends = ', '.join(f'{value:.2f}' for value in record['ends']) or 'diverges'
        lines.append(f'| {record["config"]} | {Setting(**record["setting"])} | {ends} |')
    return '\n'.join(lines) + '\n'


def _summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    keep = ('setting', 'seed', 'epochs', 'best', 'to_target', 'diverged', 'hopeless', 'seconds', 'iterations', 'ends')
    return {config: [{key: record[key] for key in keep} for record in group] for config, group in runs.items()}
