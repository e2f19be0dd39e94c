"""Train, evaluate and fold a small RetinaNet on built-in data, and evaluate and compare the folded network.

``make demo`` runs it and ends with a page, ``report.html``; ``make demo-compare`` also trains the plain network, for
its column of that page.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mmkerv.cli import common

CONFIG, PLAIN_CONFIG = 'demo/retinanet_coc_shapes.py', 'demo/retinanet_shapes.py'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Train, evaluate and fold a small RetinaNet on the built-in shapes data, and report on it'
    )
    parser.add_argument('--config', help=f'config of the network with operators; default configs/{CONFIG}')
    parser.add_argument('--work-dir', default='work_dirs/demo', help='folder for everything the demo writes')
    parser.add_argument('--data', default='data/shapes', help='folder of the data; written if it does not exist')
    parser.add_argument('--seed', type=int, default=0, help='seed of the training')
    parser.add_argument(
        '--compare',
        action='store_true',
        help='train the plain network too; a finished demo with the same settings is reused',
    )
    parser.add_argument('--plain-config', help=f'config of the plain network; default configs/{PLAIN_CONFIG}')
    parser.add_argument('--report-only', action='store_true', help='only rewrite the report of a finished demo')
    common.add_cfg_options(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.seed < 2**32:
        parser.error(f'--seed must be from 0 to {2**32 - 1}, got {args.seed}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the steps, print the table and write the report."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv', 'mmdet')
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.registry import package_config

    apply_patches()
    args.config = args.config or str(package_config(CONFIG).resolve())
    args.plain_config = args.plain_config or str(package_config(PLAIN_CONFIG).resolve())
    work = Path(args.work_dir)
    if not args.report_only:
        if not (args.compare and is_finished(args, work)):
            train_and_fold(args, work)
        if args.compare:
            train_plain(args, work)
        step('report', 'one page with the results')
    from mmkerv.cli.report.demo_report import write_demo_report

    print(f'report    {write_demo_report(work)}')


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that determine a run."""
    config = os.path.relpath(args.config)
    return {'config': config, 'options': args.cfg_options or {}, 'data': args.data, 'seed': args.seed}


def is_finished(args: argparse.Namespace, work: Path) -> bool:
    """Tell whether the folder holds a finished run with these settings."""
    from mmkerv.cli.report.demo_record import RECORD_FILE, read_record

    if not (work / RECORD_FILE).is_file():
        return False
    record = read_record(work)
    wanted = json.loads(json.dumps(settings(args)))
    return all(getattr(record, name) == value for name, value in wanted.items())


def train_and_fold(args: argparse.Namespace, work: Path) -> None:
    """Train, evaluate, fold, evaluate, compare; write weights, logs and the record of the run."""
    from mmkerv.analysis.machine import environment
    from mmkerv.cli.report.demo_record import RECORD_FILE, SHAPE, DemoRecord
    from mmkerv.datasets.shapes import ShapesSettings, write_shapes
    from mmkerv.deploy.comparison import compare, table

    start, date = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec='seconds')
    work.mkdir(parents=True, exist_ok=True)
    # An old record would describe weights that are overwritten now.
    (work / RECORD_FILE).unlink(missing_ok=True)
    options = config_options(args)
    weights, folded = work / 'trained.pth', work / 'deploy.pth'

    step('1/5 data', f'small scenes of shapes in {args.data}')
    data = ShapesSettings(layouts=('coco',))
    written = write_shapes(args.data, data)
    print(f'{data.num_train} train and {data.num_val} val scenes', 'written' if written else 'are there already')
    step('2/5 train', f'{args.config}, about 8 minutes on 2 cores')
    train(args.config, work / 'train', weights, args)
    step('3/5 evaluate', 'the trained network, on scenes it has not seen')
    before = evaluate(args.config, weights, work / 'before', options)
    step('4/5 fold', 'operators into plain convolutions, checked on the same scenes')
    images = Path(args.data) / 'val2017'
    inputs = ('--images', images, '--shape', *SHAPE)
    tool('fold', args.config, weights, folded, *inputs, '--cfg-options', *options)
    step('5/5 evaluate', 'the folded network, a plain one')
    after = evaluate(folded.with_suffix('.py'), folded, work / 'after', [])

    comparison = compare(args.config, weights, folded, images, SHAPE, changes(args))
    print('\n' + table(before, after, comparison, SHAPE))
    print(f'\ntrained   {weights}\nfolded    {folded}\nconfig    {folded.with_suffix(".py")}')
    print(f'logs      {work / "train"}\ndata      {args.data}')
    seconds = time.monotonic() - start
    print(f'wall time {seconds:.0f} s, seed {args.seed}')
    figures = {'before': before, 'after': after, **comparison._asdict()}
    run = {'date': date, 'seconds': seconds, 'environment': environment()}
    DemoRecord(**settings(args), **run, **figures).write(work)


def train_plain(args: argparse.Namespace, work: Path) -> None:
    """Train and evaluate the plain network, time the three networks together, and add them to the record."""
    from dataclasses import replace

    from mmkerv.cli.report.demo_record import SHAPE, read_record
    from mmkerv.deploy.comparison import count, inference_times
    from mmkerv.deploy.model_outputs import sample_inputs
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.image_files import find_images

    start, record, options = time.monotonic(), read_record(work), config_options(args)
    weights = work / 'plain' / 'trained.pth'
    step('plain 1/2 train', f'{args.plain_config}, about 6 minutes on 2 cores')
    train(args.plain_config, work / 'plain', weights, args)
    step('plain 2/2 evaluate', 'the plain network, on scenes it has not seen')
    metrics = evaluate(args.plain_config, weights, work / 'plain' / 'after', options)
    seconds = time.monotonic() - start

    networks = [
        (args.config, work / 'trained.pth', changes(args)),
        (str(work / 'deploy.py'), work / 'deploy.pth', None),
        (args.plain_config, weights, changes(args)),
    ]
    models = [load_trained(*network)[1] for network in networks]
    *_, (inputs, samples) = sample_inputs(models[0], SHAPE, find_images([Path(args.data, 'val2017')])[-1:])
    *times, plain_time = inference_times(models, inputs, samples)
    plain = {'config': os.path.relpath(args.plain_config), 'metrics': metrics, 'parameters': count(models[-1])}
    plain |= {'milliseconds': plain_time, 'seconds': seconds}
    replace(record, milliseconds=tuple(times), plain=plain).write(work)


def changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that replace those of the configs, by key."""
    return {'data_root': args.data, **(args.cfg_options or {})}


def config_options(args: argparse.Namespace) -> list[str]:
    """Return these settings as ``--cfg-options`` takes them."""
    return [f'{key}={value}' for key, value in changes(args).items()]


def step(title: str, text: str) -> None:
    """Print the heading of a step."""
    print(f'\n== {title}: {text}', flush=True)


def tool(name: str, *arguments: object) -> None:
    """Run a subcommand of mmkerv in a process of its own, as a user would, and stop if it fails."""
    command = [sys.executable, '-m', 'mmkerv', name, *map(str, arguments)]
    if subprocess.run(command).returncode:
        sys.exit(f'error: this step failed, see its message above: {" ".join(command)}')


def train(config: str, work_dir: Path, weights: Path, args: argparse.Namespace) -> None:
    """Train, with an evaluation every two epochs for the curve, and keep the last checkpoint."""
    data_root, *user_options = config_options(args)
    # The last one counts: the user may override all but the data.
    options = [data_root, f'randomness.seed={args.seed}', 'train_cfg.val_interval=2', *user_options]
    tool('train', config, '--work-dir', work_dir, '--cfg-options', *options)
    os.replace(Path((work_dir / 'last_checkpoint').read_text().strip()), weights)


def evaluate(config: Path | str, checkpoint: Path, work_dir: Path, options: list[str]) -> dict[str, float]:
    """Evaluate a network and return its metrics."""
    out = work_dir / 'metrics.json'
    extra = ['--cfg-options', *options] if options else []
    work_dir.mkdir(parents=True, exist_ok=True)
    tool('test', config, checkpoint, '--work-dir', work_dir, '--out', out, '--out-item', 'metrics', *extra)
    return json.loads(out.read_text())


if __name__ == '__main__':
    common.run(main)
