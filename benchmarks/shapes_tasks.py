"""Accuracy of plain and CoC networks on the built-in shapes in four tasks: ``shapes_tasks.py run|report``.

``run`` trains the configs of configs/demo with tools/train.py, one after the other, and skips those with a record;
``report`` writes the table of the records to docs/shapes_tasks.md.
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
RECORDS, TABLE = ROOT / 'docs' / 'shapes_tasks.json', ROOT / 'docs' / 'shapes_tasks.md'
BEGIN = '<!-- begin: benchmarks/shapes_tasks.py -->'
NETWORKS = ('plain', 'coc')


class Task(NamedTuple):
    """Pair of configs, the metric to compare, and the folder of their data below that of the shapes."""

    config: str
    metric: str
    folder: str
    scale: float = 100.0

    def path(self, network: str) -> Path:
        """Return the config of the plain network or of the same network with CoC."""
        stem = self.config if network == 'plain' else self.config.replace('_shapes', '_coc_shapes')
        return ROOT / 'configs' / 'demo' / f'{stem}.py'


TASKS = {
    'classification': Task('resnet18_shapes', 'accuracy/top1', 'pictures', 1.0),
    'detection': Task('retinanet_shapes', 'coco/bbox_mAP_50', 'scenes'),
    'instance segmentation': Task('mask_rcnn_shapes', 'coco/segm_mAP_50', 'scenes'),
    'semantic segmentation': Task('fcn_shapes', 'mIoU', 'scenes/VOCdevkit/VOC2012', 1.0),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run', help='do the runs without a record')
    run.add_argument('--data', required=True, help='folder of the shapes, created if it does not exist')
    run.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
    run.add_argument('--networks', nargs='+', choices=NETWORKS, default=NETWORKS)
    run.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    run.add_argument('--records', type=Path, default=RECORDS, help='file of the records')
    run.add_argument('--threads', type=int, default=1, help='threads of each run (%(default)s)')
    commands.add_parser('report', help=f'write the table to {TABLE.relative_to(ROOT)}')
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


def train(task: str, network: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one network and return its record."""
    settings = TASKS[task]
    options = [f'data_root={Path(args.data, settings.folder)}', f'randomness.seed={seed}']
    machine = Machine(threads=args.threads)
    log = train_config(settings.path(network), options, machine, f'{task}, {network}, seed {seed}')
    value = log.curve(settings.metric).y[-1]
    seconds = statistics.median(line['time'] for line in log.train)
    return {
        'task': task,
        'network': network,
        'seed': seed,
        'metric': settings.metric,
        'value': settings.scale * value,
        'seconds_per_iteration': seconds,
        **machine.facts(),
    }


def run(args: argparse.Namespace) -> None:
    """Do the missing runs, seed by seed, and write each record as soon as its run has finished."""
    from mmkerv.datasets.shapes import ShapesSettings, write_shapes

    write_shapes(Path(args.data, 'scenes'), ShapesSettings(layouts=('coco', 'voc')), progress=False)
    pictures = ShapesSettings(num_train=2000, num_val=300, layouts=('imagenet',))
    write_shapes(Path(args.data, 'pictures'), pictures, progress=False)
    for seed in args.seeds:
        for task in args.tasks:
            for network in args.networks:
                key = {'task': task, 'network': network, 'seed': seed}
                if any(key.items() <= record.items() for record in records(args.records)):
                    continue
                record = train(task, network, seed, args)
                args.records.write_text(json.dumps([*records(args.records), record], indent=1))
                print(f'{task}, {network}, seed {seed}: {record["metric"]} {record["value"]:.1f}', flush=True)


def table(runs: list[dict[str, Any]]) -> str:
    """Return the table of means, sample standard deviations and single values."""
    lines = ['| task | config | metric, % | plain | CoC |', '|---|---|---|---|---|']
    for name, task in TASKS.items():
        cells = []
        for network in NETWORKS:
            found = sorted((r['seed'], r['value']) for r in runs if (r['task'], r['network']) == (name, network))
            cells.append(summary([value for _, value in found]))
        config = f'[{task.config}](../configs/demo/{task.config}.py)'
        lines.append(f'| {name} | {config} | {task.metric.rpartition("/")[2]} | {" | ".join(cells)} |')
    machines = sorted({f'{r["date"]}, {r["hardware"]}, torch {r["versions"]["torch"]}' for r in runs})
    return '\n'.join([*lines, '', *(f'* {m}' for m in machines)])


def summary(values: list[float]) -> str:
    """Format mean, standard deviation and values of the seeds."""
    if not values:
        return 'not run'
    each = ', '.join(f'{value:.1f}' for value in values)
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'**{statistics.mean(values):.1f}**{spread} ({each})'


def main() -> None:
    """Run or report."""
    args = parse_args()
    if args.command == 'run':
        run(args)
        return
    before, _, after = TABLE.read_text().partition(BEGIN)
    end = '<!-- end -->'
    TABLE.write_text(f'{before}{BEGIN}\n\n{table(records())}\n\n{end}{after.partition(end)[2]}')
    print(f'wrote {TABLE.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
