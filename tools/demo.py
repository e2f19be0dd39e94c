"""The main job on built-in data: write it, train, evaluate, fold, evaluate again, compare. ``make demo`` runs it.

Ends with a page, ``report.html``; ``make demo-compare`` also trains the plain network, for its column of that page.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cli

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / 'configs' / 'demo'
# Height and width of the images.
SHAPE = (160, 160)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Train, evaluate and fold a small RetinaNet on the built-in shapes data, and report on it'
    )
    parser.add_argument('--config', default=str(CONFIGS / 'retinanet_coc_shapes.py'))
    parser.add_argument('--work-dir', default='work_dirs/demo', help='folder for everything the demo writes')
    parser.add_argument('--data', default='data/shapes', help='folder of the data; written if it is not there')
    parser.add_argument('--seed', type=int, default=0, help='seed of the training')
    parser.add_argument(
        '--compare',
        action='store_true',
        help='train the plain network too; a demo finished with the same settings is kept',
    )
    parser.add_argument(
        '--plain-config', default=str(CONFIGS / 'retinanet_shapes.py'), help='config of the plain network'
    )
    parser.add_argument('--report-only', action='store_true', help='only write the report of a finished demo again')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the steps, print the table and write the report."""
    args = parse_args()

    from mmkerv import env

    env.require('mmengine', 'mmcv', 'mmdet')
    work = Path(args.work_dir)
    if not args.report_only:
        if not (args.compare and is_finished(args, work)):
            train_and_fold(args, work)
        if args.compare:
            train_plain(args, work)
        step('report', 'one page about all of it')
    from mmkerv.cli.report.report import write_demo_report

    print(f'report    {write_demo_report(work)}')


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a run depends on."""
    config = os.path.relpath(args.config)
    return {'config': config, 'options': args.cfg_options or {}, 'data': args.data, 'seed': args.seed}


def is_finished(args: argparse.Namespace, work: Path) -> bool:
    """Whether the folder holds a run with these settings."""
    from mmkerv.cli.report.record import FILE, read_record

    if not (work / FILE).is_file():
        return False
    record = read_record(work)
    wanted = json.loads(json.dumps(settings(args)))
    return all(getattr(record, name) == value for name, value in wanted.items())


def train_and_fold(args: argparse.Namespace, work: Path) -> None:
    """Train, evaluate, fold, evaluate, compare; leave weights, logs and the record of the run."""
    from mmkerv.cli.report.record import FILE, DemoRecord, environment
    from mmkerv.datasets.shapes import ShapesSettings, write_shapes
    from mmkerv.deploy.comparison import compare, table

    start, date = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec='seconds')
    work.mkdir(parents=True, exist_ok=True)
    # It would describe weights that are no longer there.
    (work / FILE).unlink(missing_ok=True)
    options = config_options(args)
    weights, folded = work / 'trained.pth', work / 'deploy.pth'

    step('1/5 data', f'small scenes of shapes in {args.data}')
    write_shapes(args.data, ShapesSettings(layouts=('coco',)))
    step('2/5 train', f'{args.config}, about 8 minutes on 2 cores')
    train(args.config, work / 'train', weights, args)
    step('3/5 evaluate', 'the trained network, on scenes it has not seen')
    before = evaluate(args.config, weights, work / 'before', options)
    step('4/5 fold', 'operators into plain convolutions, checked on the same scenes')
    images = Path(args.data) / 'val2017'
    converter = Path('model_converters', 'reparameterize_model.py')
    tool(converter, args.config, weights, folded, '--images', images, '--shape', *SHAPE, '--cfg-options', *options)
    step('5/5 evaluate', 'the folded network, a plain one')
    after = evaluate(folded.with_suffix('.py'), folded, work / 'after', [])

    given = dict(option.split('=', 1) for option in options)
    comparison = compare(args.config, weights, folded, images, SHAPE, given)
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

    from mmkerv.cli.report.record import read_record
    from mmkerv.deploy.comparison import count, inference_times
    from mmkerv.deploy.model_outputs import sample_inputs
    from mmkerv.deploy.trained_model import load_trained

    start, record, options = time.monotonic(), read_record(work), config_options(args)
    weights = work / 'plain' / 'trained.pth'
    step('plain 1/2 train', f'{args.plain_config}, about 6 minutes on 2 cores')
    train(args.plain_config, work / 'plain', weights, args)
    step('plain 2/2 evaluate', 'the plain network, on scenes it has not seen')
    metrics = evaluate(args.plain_config, weights, work / 'plain' / 'after', options)
    seconds = time.monotonic() - start

    given = dict(option.split('=', 1) for option in options)
    networks = [
        (args.config, work / 'trained.pth', given),
        (str(work / 'deploy.py'), work / 'deploy.pth', None),
        (args.plain_config, weights, given),
    ]
    models = [load_trained(*network)[1] for network in networks]
    *_, (inputs, samples) = sample_inputs(models[0], SHAPE, Path(args.data) / 'val2017')
    *times, plain_time = inference_times(models, inputs, samples)
    plain = {'config': os.path.relpath(args.plain_config), 'metrics': metrics, 'parameters': count(models[-1])}
    plain |= {'milliseconds': plain_time, 'seconds': seconds}
    replace(record, milliseconds=tuple(times), plain=plain).write(work)


def config_options(args: argparse.Namespace) -> list[str]:
    """Return the settings that replace those of the configs, as ``--cfg-options`` takes them."""
    return [f'data_root={args.data}', *(f'{key}={value}' for key, value in (args.cfg_options or {}).items())]


def step(title: str, text: str) -> None:
    """Say what comes."""
    print(f'\n== {title}: {text}', flush=True)


def tool(script: Path | str, *arguments: object) -> None:
    """Run one of the project's tools as a user would, and stop if it fails."""
    command = [sys.executable, str(TOOLS / script), *map(str, arguments)]
    if subprocess.run(command).returncode:
        sys.exit(f'error: this step failed, its message stands above: {" ".join(command)}')


def train(config: str, work_dir: Path, weights: Path, args: argparse.Namespace) -> None:
    """Run train.py, with evaluations on the way for the curve, and keep its last checkpoint."""
    first, *own = config_options(args)
    options = [first, f'randomness.seed={args.seed}', 'train_cfg.val_interval=2', *own]
    tool('train.py', config, '--work-dir', work_dir, '--cfg-options', *options)
    os.replace(Path((work_dir / 'last_checkpoint').read_text().strip()), weights)


def evaluate(config: Path | str, checkpoint: Path, work_dir: Path, options: list[str]) -> dict[str, float]:
    """Run test.py and return its metrics."""
    out = work_dir / 'metrics.json'
    extra = ['--cfg-options', *options] if options else []
    work_dir.mkdir(parents=True, exist_ok=True)
    tool('test.py', config, checkpoint, '--work-dir', work_dir, '--out', out, '--out-item', 'metrics', *extra)
    return json.loads(out.read_text())


if __name__ == '__main__':
    cli.run(main)
