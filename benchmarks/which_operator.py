"""Our own answers to "which operator for my task?": tools/compare.py on four small tasks.

python benchmarks/which_operator.py plan     print the runs, and the CPU hours of those that have been done
python benchmarks/which_operator.py run      do the missing runs; continues after an interruption
python benchmarks/which_operator.py report   write the tables of docs/which_operator.md

The data lie in data/shapes (python -m mmkerv.datasets.shapes data/shapes), data/cifar10_small and
data/tiny_imagenet_20, the last two as train/CLASS/* and val/CLASS/*.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOC, RECORDS = Path('docs/which_operator.md'), Path('docs/which_operator')
WORK = Path('work_dirs/which_operator')
BEGIN = '<!-- begin: benchmarks/which_operator.py -->'

COC = ('coc', 'coc:super_init=kaiming')
KERV = ('kerv:where.stages=()', 'kerv')
STATIC = ('ck', 'dcls', 'reparam', 'lowrank')
# A layer of the splines of KANConv is ten times as slow as a plain one, so it is the stem alone.
KAN = ('kan:where.stages=()',)
OPTIMIZER = {'type': 'SGD', 'lr': '0.02', 'momentum': '0.9', 'weight_decay': '1e-4'}
SGD = ','.join(f'cfg.optim_wrapper.optimizer.{key}={value}' for key, value in OPTIMIZER.items())
SUPER = 'cfg.optim_wrapper.paramwise_cfg.custom_keys.super_layers'
PLAIN_SGD = f'plain:{SGD}'
# Why CoC was behind the plain network in short runs of detection: its start, bias, decay, learning rate and placement,
# the authors' settings, and the optimizer.
COC_IN_DETECTION = {
    'coc:super_bias=True': 'bias in the super layers, as in the paper',
    'coc:super_init=kaiming,super_bias=True': 'kaiming start and bias in the super layers',
    'coc:preset=standard': "the authors' settings, `preset='standard'`",
    f'coc:{SUPER}.decay_mult=1.0': 'weight decay of the super kernels as of all',
    f'coc:{SUPER}.lr_mult=0.1': 'a tenth of the learning rate for the super kernels',
    "coc:where.names='^backbone'": 'in the backbone alone',
    PLAIN_SGD: 'plain network, SGD',
    f'coc:{SGD}': 'CoC, SGD',
    f'coc:super_init=kaiming,{SGD}': 'CoC, SGD, kaiming start',
}


class Task(NamedTuple):
    """One comparison.

    Args:
        title: heading in the document.
        config: config of the plain network, from the root of the repository.
        operators: what is compared, as ``--operators`` of tools/compare.py.
        seeds: number of seeds.
        epochs: length of a run; the plain network takes two to three minutes on a core.
        options: settings of all networks, as ``--cfg-options`` of tools/compare.py.
    """

    title: str
    config: str
    operators: tuple[str, ...]
    seeds: int
    epochs: int
    options: tuple[str, ...]

    def command(self, name: str, jobs: int) -> list[str]:
        """Return the command line of the comparison, without the interpreter.

        Example:
            >>> TASKS['detection'].command('detection', 2)[:2]
            ['tools/compare.py', 'configs/demo/retinanet_half_shapes.py']
        """
        length = ['--seeds', str(self.seeds), '--epochs', str(self.epochs)]
        work = ['--work-dir', str(WORK / name), '--jobs', str(jobs)]
        return [
            *('tools/compare.py', self.config, '--operators', *self.operators),
            *(*length, *work, '--cfg-options', *self.options),
        ]


# Dynamic kernels cost most where images are many and channels wide: there the operator is in the first stages alone.
TASKS = {
    'detection': Task(
        'Detection: shapes, RetinaNet-R18 at half the width',
        'configs/demo/retinanet_half_shapes.py',
        ('plain', *COC, *KERV, *STATIC, 'fdconv:where.stages=(1,2)', 'condconv', *KAN, *COC_IN_DETECTION),
        2,
        8,
        ('data_root=data/shapes',),
    ),
    'segmentation': Task(
        'Semantic segmentation: shapes, FCN-R18-d8 at half the width',
        'configs/demo/fcn_shapes.py',
        ('plain', *COC, *KERV, *STATIC, 'fdconv:where.stages=(1,2)', 'condconv', *KAN),
        2,
        8,
        ('data_root=data/shapes/VOCdevkit/VOC2012',),
    ),
    'tiny_imagenet_20': Task(
        'Classification: 20 classes of Tiny ImageNet, ResNet-18 at half the width',
        'configs/tiny_imagenet/resnet18_tiny_imagenet.py',
        (
            *('plain', *COC, *KERV, *STATIC, 'fdconv:where.stages=(1,)'),
            *('condconv:where.stages=(1,2)', *KAN),
        ),
        3,
        8,
        (
            *('data_root=data/tiny_imagenet_20', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0'),
            *('model.head.num_classes=20', 'data_preprocessor.num_classes=20'),
            *('model.backbone.base_channels=32', 'model.backbone.stem_channels=32', 'model.head.in_channels=256'),
        ),
    ),
    'cifar10_small': Task(
        'Classification: 5,000 images of CIFAR-10, ResNet-20',
        'configs/cifar/resnet32_cifar10_folder.py',
        # FDConv leaves the 16 channels of the first stage plain.
        ('plain', *COC, *KERV, *STATIC, 'fdconv:where.stages=(2,)', 'condconv', *KAN),
        3,
        5,
        (
            *('data_root=data/cifar10_small', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0'),
            'model.backbone.depth=20',
        ),
    ),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    phases = parser.add_subparsers(dest='phase', required=True)
    phases.add_parser('plan', help='print the runs, and the CPU hours of those that have been done')
    run = phases.add_parser('run', help='do the missing runs')
    run.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS), help='default: all')
    run.add_argument('--jobs', type=int, default=2, help='trainings at a time, one core each; default 2')
    phases.add_parser('report', help=f'write the tables of {DOC}')
    return parser.parse_args(argv)


def run(names: Sequence[str], jobs: int) -> int:
    """Compare the operators on each task in turn, and copy the results; return the first exit status that is not 0."""
    status = 0
    for name in names:
        command = TASKS[name].command(name, jobs)
        print(shlex.join(['python', *command]), flush=True)
        environment = {**os.environ, 'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', '1')}
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment)
        keep(name)
        if done.returncode < 0 or done.returncode > 128:
            # Stopped by a signal: so is the study.
            return done.returncode
        status = status or done.returncode
    return status


def keep(name: str) -> None:
    """Copy the results of a task, of finished and unfinished comparisons, to the documents."""
    results = ROOT / WORK / name / 'results.json'
    if results.is_file():
        (ROOT / RECORDS).mkdir(exist_ok=True)
        shutil.copy(results, ROOT / RECORDS / f'{name}.json')


def records() -> dict[str, dict[str, Any]]:
    """Return the results of the tasks that have some."""
    files = {name: ROOT / RECORDS / f'{name}.json' for name in TASKS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def hours(found: dict[str, Any]) -> float:
    """Return the core hours of the trainings of a comparison: each ran on one core."""
    return sum(row['seconds'] or 0.0 for row in found['rows']) / 3600


def plan() -> str:
    """Return the runs of each task, and what those that have been done took, as a table."""
    lines = ['| task | operators | seeds | runs | done | core hours so far |', '|---|---|---|---|---|---|']
    found = records()
    for name, task in TASKS.items():
        runs = len(task.operators) * task.seeds
        done = sum(len(row['values']) for row in found[name]['rows']) if name in found else 0
        spent = f'{hours(found[name]):.1f}' if name in found else '0'
        lines.append(f'| {name} | {len(task.operators)} | {task.seeds} | {runs} | {done} | {spent} |')
    return '\n'.join(lines)


def report() -> str:
    """Return the tables of all tasks that were run."""
    from mmkerv.analysis.comparison.results import notes, table

    found = records()
    missing = [task.title for name, task in TASKS.items() if name not in found]
    parts = ['## At a glance', summary(found)]
    parts += [f'Not run: {"; ".join(missing)}.'] if missing else []
    for name, results in found.items():
        task, facts = TASKS[name], results['environment']
        main_rows = {**results, 'rows': [row for row in results['rows'] if row['operator'] not in COC_IN_DETECTION]}
        parts += [
            f'## {task.title}',
            f'`{task.config}`, {results["schedule"]}; {results["seeds"]} seeds; {results["date"][:10]}, '
            f'{facts["processor"]}, PyTorch {facts["PyTorch"]}, mmkerv {facts["mmkerv"]}.',
            f'```bash\npython benchmarks/which_operator.py run --tasks {name}\n```',
            table(main_rows, markdown=True),
            '\n'.join(f'* {note}' for note in notes(main_rows)),
        ]
        if name == 'detection':
            pooled = 'The variance of the intervals above is pooled over these rows too.'
            parts += ['## Settings of CoC in detection', settings_of_coc(results), pooled]
    return '\n\n'.join([*parts, '## Runs', plan()])


def settings_of_coc(results: dict[str, Any]) -> str:
    """Return the table of CoC's settings, each compared with the plain network under its optimizer."""
    from mmkerv.analysis.comparison.results import cells
    from mmkerv.analysis.comparison.statistics import differences

    rows = {row['operator']: row for row in results['rows']}
    values = {spec: row['values'] for spec, row in rows.items() if row['values']}
    by_plain, by_sgd = (differences(values, reference) for reference in ('plain', PLAIN_SGD))
    labels = {'plain': 'plain network', 'coc': 'CoC', 'coc:super_init=kaiming': 'CoC, kaiming start'}
    lines = [['setting', results['metric'], 'difference', 'from', 'verdict'], ['---'] * 5]
    for spec, label in {**labels, **COC_IN_DETECTION}.items():
        is_sgd = SGD in spec
        found = (by_sgd if is_sgd else by_plain).get(spec)
        shown = cells(
            {**rows[spec], 'difference': found and {**found._asdict(), 'seeds': found.pairs, 'verdict': found.verdict}}
        )
        reference = ('plain, SGD' if is_sgd else 'plain, AdamW') if found else ''
        lines.append([label, shown[1], shown[2], reference, shown[3]])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def summary(found: dict[str, dict[str, Any]]) -> str:
    """Return the differences from the plain network, one row an operator and one column a task that was run."""
    from mmkerv.analysis.comparison.results import cells, headings

    operators = dict.fromkeys(spec for name in found for spec in TASKS[name].operators if spec not in COC_IN_DETECTION)
    heads = [f'{name}, {results["metric"]}' for name, results in found.items()]
    lines = [['operator', *heads], ['---'] * (1 + len(heads))]
    for spec in operators:
        line = [f'`{spec}`']
        for name, results in found.items():
            row = next((r for r in results['rows'] if r['operator'] == spec), None)
            if spec not in TASKS[name].operators:
                line.append('')
            elif row is None or row['mean'] is None:
                line.append('not run' if row is None else cells(row)[1])
            else:
                shown = dict(zip(headings(results), cells(row)))
                difference = shown[f'difference from {results["reference"]}']
                line.append(f'{difference} {shown["verdict"]}' if difference else cells(row)[1])
        lines.append(line)
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Do one phase."""
    args = parse_args(argv)
    if args.phase == 'plan':
        print(plan())
        return
    if args.phase == 'run':
        from mmkerv.ops.core.arguments import integer

        sys.exit(run(args.tasks, integer(args.jobs, '--jobs', 1)))
    from mmkerv.cli.common import between_markers

    for name in TASKS:
        keep(name)
    between_markers(str(ROOT / DOC), BEGIN)(report())


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    from mmkerv.cli.common import run as run_command

    run_command(main)
