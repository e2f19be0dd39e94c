"""ConvMuon, SGD and AdamW on the classifier of the built-in shapes: ``shapes_optimizers.py run|report``.

``run`` trains a small ResNet-18 by tools/train.py, one run after the other, and skips runs with a record: first a
search of one seed over as many learning rates for each optimizer, then several other seeds at the best rate of each.
``report`` writes the tables of the records to docs/optimizers.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from machine import Machine

if TYPE_CHECKING:
    from mmkerv.analysis.logs import Log

ROOT = Path(__file__).resolve().parents[1]
RECORDS, TABLE = ROOT / 'docs' / 'optimizers.json', ROOT / 'docs' / 'optimizers.md'
BEGIN, END = '<!-- begin: benchmarks/shapes_optimizers.py -->', '<!-- end -->'
METRIC = 'accuracy/top1'
# The seed of the search is none of the comparison's.
SEARCH_SEED = 100
EPOCHS, WIDTH = 4, 16
# Half as wide and a quarter as long as the config, so that a run takes less than a minute.
SHORTER = (
    f'train_cfg.max_epochs={EPOCHS}',
    f'train_cfg.val_interval={EPOCHS}',
    f'param_scheduler.1.end={EPOCHS}',
    f'model.backbone.stem_channels={WIDTH}',
    f'model.backbone.base_channels={WIDTH}',
    f'model.head.in_channels={8 * WIDTH}',
)


class Method(NamedTuple):
    """Optimizer: its config, what differs from that, and the learning rates of the search."""

    config: str
    options: tuple[str, ...]
    rates: tuple[float, ...]
    text: str


METHODS = {
    'ConvMuon': Method(
        'resnet18_muon_shapes',
        (),
        (0.01, 0.03, 0.1),
        'momentum 0.95, no weight decay; AdamW for the rest, learning rate 0.001 and weight decay 0.05, not searched',
    ),
    'SGD': Method(
        'resnet18_shapes',
        (
            'optim_wrapper.optimizer.type=SGD',
            'optim_wrapper.optimizer.momentum=0.9',
            'optim_wrapper.optimizer.weight_decay=0.0005',
        ),
        (0.03, 0.1, 0.3),
        'momentum 0.9, weight decay 0.0005',
    ),
    'AdamW': Method('resnet18_shapes', (), (0.001, 0.003, 0.01), 'betas 0.9 and 0.999, weight decay 0.05'),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run', help='do the runs without a record')
    run.add_argument('--data', type=Path, required=True, help='folder of the shapes, created if it does not exist')
    run.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    run.add_argument('--records', type=Path, default=RECORDS, help='file of the records')
    run.add_argument('--threads', type=int, default=1, help='threads of each run (%(default)s)')
    commands.add_parser('report', help=f'write the tables to {TABLE.relative_to(ROOT)}')
    return parser.parse_args()


def records(file: Path = RECORDS) -> list[dict[str, Any]]:
    """Return the finished runs."""
    return json.loads(file.read_text()) if file.is_file() else []


def train_config(config: Path, options: list[str], machine: Machine, label: str) -> 'Log':
    """Train a config by tools/train.py, in a folder that is removed again, and return the log."""
    from mmkerv.analysis.logs import read_log

    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', work]
        done = subprocess.run(
            [*command, '--cfg-options', *options], env=machine.environment(), capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f'error: {label}: {(done.stdout + done.stderr)[-2000:]}')
        return read_log(work)


def run(args: argparse.Namespace) -> None:
    """Do the missing runs, and write each record as soon as its run has finished."""
    from mmkerv.datasets.shapes import ShapesSettings, write_shapes

    pictures = ShapesSettings(num_train=2000, num_val=300, layouts=('imagenet',))
    write_shapes(args.data, pictures, progress=False)
    for name, method in METHODS.items():
        for rate in method.rates:
            complete(name, rate, SEARCH_SEED, args)
    for seed in args.seeds:
        for name in METHODS:
            complete(name, best_rate(name, records(args.records)), seed, args)


def complete(name: str, rate: float, seed: int, args: argparse.Namespace) -> None:
    """Do one run, unless it has a record."""
    key = {'optimizer': name, 'lr': rate, 'seed': seed}
    if any(key.items() <= record.items() for record in records(args.records)):
        return
    method, machine = METHODS[name], Machine(threads=args.threads)
    options = [
        f'data_root={args.data}',
        f'randomness.seed={seed}',
        *SHORTER,
        *method.options,
        f'optim_wrapper.optimizer.lr={rate}',
    ]
    log = train_config(ROOT / 'configs' / 'demo' / f'{method.config}.py', options, machine, f'{name}, seed {seed}')
    record = {
        **key,
        'metric': METRIC,
        'value': log.curve(METRIC).y[-1],
        'loss': log.train[-1]['loss'],
        'epochs': EPOCHS,
        'width': WIDTH,
        **machine.facts(),
    }
    args.records.write_text(json.dumps([*records(args.records), record], indent=1) + '\n')
    print(f'{name}, lr {rate}, seed {seed}: {METRIC} {record["value"]:.1f}', flush=True)


def best_rate(name: str, runs: list[dict[str, Any]]) -> float:
    """Return the learning rate with the best metric of the search, the smallest of equal ones."""
    searched = [r for r in runs if (r['optimizer'], r['seed']) == (name, SEARCH_SEED)]
    return min(searched, key=lambda r: (-r['value'], r['lr']))['lr']


def report(runs: list[dict[str, Any]]) -> str:
    """Return the tables of the search, of the comparison, and of the paired differences."""
    lines = ['| optimizer | settings | learning rates of the search: top-1, % |', '|---|---|---|']
    for name, method in METHODS.items():
        found = {r['lr']: r['value'] for r in runs if (r['optimizer'], r['seed']) == (name, SEARCH_SEED)}
        cells = ', '.join(f'{rate:g}: {f"{found[rate]:.1f}" if rate in found else "not run"}' for rate in method.rates)
        lines.append(f'| {name} | {method.text} | {cells} |')
    lines += ['', '| optimizer | learning rate | top-1, % |', '|---|---|---|']
    values: dict[str, dict[int, float]] = {}
    for name in METHODS:
        if not any((r['optimizer'], r['seed']) == (name, SEARCH_SEED) for r in runs):
            continue
        rate = best_rate(name, runs)
        chosen = [r for r in runs if (r['optimizer'], r['lr']) == (name, rate) and r['seed'] != SEARCH_SEED]
        values[name] = {r['seed']: r['value'] for r in sorted(chosen, key=lambda r: r['seed'])}
        lines.append(f'| {name} | {rate:g} | {summary(list(values[name].values()))} |')
    lines += ['', '| difference | mean and 95 % interval, points | |', '|---|---|---|']
    first, *others = METHODS
    for other in others:
        pairs = sorted(values.get(first, {}).keys() & values.get(other, {}).keys())
        lines.append(difference(f'{first} - {other}', [values[first][seed] - values[other][seed] for seed in pairs]))
    seeds = sorted({seed for found in values.values() for seed in found})
    machines = sorted({f'{r["date"]}, {r["hardware"]}, torch {r["versions"]["torch"]}' for r in runs})
    lines += ['', f'Seeds {", ".join(map(str, seeds))}; the search has seed {SEARCH_SEED}.', '']
    return '\n'.join([*lines, *(f'* {machine}' for machine in machines)])


def summary(values: list[float]) -> str:
    """Format mean, standard deviation and values of the seeds."""
    if not values:
        return 'not run'
    each = ', '.join(f'{value:.1f}' for value in values)
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'**{statistics.mean(values):.1f}**{spread} ({each})'


def difference(label: str, values: list[float]) -> str:
    """Format the mean of paired differences, its interval by Student's t, and what it says."""
    if len(values) < 2:
        return f'| {label} | not run | |'
    from scipy.stats import t

    mean = statistics.fmean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    verdict = 'undecided' if mean - half <= 0 <= mean + half else 'better' if mean > 0 else 'worse'
    return f'| {label} | {mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f}) | {verdict} |'


def main() -> None:
    """Run or report."""
    args = parse_args()
    if args.command == 'run':
        run(args)
        return
    before, _, after = TABLE.read_text().partition(BEGIN)
    TABLE.write_text(f'{before}{BEGIN}\n\n{report(records())}\n\n{END}{after.partition(END)[2]}')
    print(f'wrote {TABLE.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
