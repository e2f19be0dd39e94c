"""The main job on built-in data: write it, train, evaluate, fold, evaluate again, compare. ``make demo`` runs it."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cli

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Train, evaluate and fold a small RetinaNet on the built-in shapes data'
    )
    parser.add_argument('--config', default=str(TOOLS.parent / 'configs' / 'demo' / 'retinanet_coc_shapes.py'))
    parser.add_argument('--work-dir', default='work_dirs/demo', help='folder for everything the demo writes')
    parser.add_argument('--data', default='data/shapes', help='folder of the data; written if it is not there')
    parser.add_argument('--seed', type=int, default=0, help='seed of the training')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the steps and print the table."""
    args = parse_args()
    start = time.monotonic()

    from mmkerv import env

    env.require('mmengine', 'mmcv', 'mmdet')
    from mmkerv.datasets.shapes import ShapesSettings, write_shapes
    from mmkerv.engine.comparison import compare, table

    work = Path(args.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    options = [f'data_root={args.data}', *(f'{key}={value}' for key, value in (args.cfg_options or {}).items())]
    weights, folded = work / 'trained.pth', work / 'deploy.pth'

    step('1/5 data', f'small scenes of shapes in {args.data}')
    write_shapes(args.data, ShapesSettings(layouts=('coco',)))
    step('2/5 train', f'{args.config}, about 5 minutes on 2 cores')
    seed = [f'randomness.seed={args.seed}']
    tool('train.py', args.config, '--work-dir', work / 'train', '--cfg-options', *options, *seed)
    latest = Path((work / 'train' / 'last_checkpoint').read_text().strip())
    os.replace(latest, weights)
    step('3/5 evaluate', 'the trained network, on scenes it has not seen')
    before = evaluate(args.config, weights, work / 'before', options)
    step('4/5 fold', 'operators into plain convolutions, checked on the same scenes')
    images = Path(args.data) / 'val2017'
    converter = Path('model_converters', 'reparameterize_model.py')
    tool(converter, args.config, weights, folded, '--images', images, '--shape', 160, 160, '--cfg-options', *options)
    step('5/5 evaluate', 'the folded network, a plain one')
    after = evaluate(folded.with_suffix('.py'), folded, work / 'after', [])

    comparison = compare(args.config, weights, folded, images, dict(option.split('=', 1) for option in options))
    print('\n' + table(before, after, comparison))
    print(f'\ntrained   {weights}\nfolded    {folded}\nconfig    {folded.with_suffix(".py")}')
    print(f'logs      {work / "train"}\ndata      {args.data}')
    print(f'wall time {time.monotonic() - start:.0f} s, seed {args.seed}')
    report = {'seed': args.seed, 'before': before, 'after': after, **comparison._asdict()}
    (work / 'demo.json').write_text(json.dumps(report, indent=2))


def step(title: str, text: str) -> None:
    """Say what comes."""
    print(f'\n== {title}: {text}', flush=True)


def tool(script: Path | str, *arguments: object) -> None:
    """Run one of the project's tools as a user would, and stop if it fails."""
    command = [sys.executable, str(TOOLS / script), *map(str, arguments)]
    if subprocess.run(command).returncode:
        sys.exit(f'error: this step failed, its message stands above: {" ".join(command)}')


def evaluate(config: Path | str, checkpoint: Path, work_dir: Path, options: list[str]) -> dict[str, float]:
    """Run test.py and return its metrics."""
    out = work_dir / 'metrics.json'
    extra = ['--cfg-options', *options] if options else []
    work_dir.mkdir(parents=True, exist_ok=True)
    tool('test.py', config, checkpoint, '--work-dir', work_dir, '--out', out, '--out-item', 'metrics', *extra)
    return json.loads(out.read_text())


if __name__ == '__main__':
    cli.run(main)
