"""Report cost, receptive field and folded form of every layer: ``kernel_report.py CONFIG [--out FILE.md]``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmkerv.cli import common
from mmkerv.cli.network import CONFIG_HELP, network_files
from mmkerv.config_files import config_name
from mmkerv.work_folder import require_not_read

SUFFIXES = ('.md', '.csv', '.json')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Table of every layer: operator, kernel, parameters, multiply-adds, receptive field, folded form, '
        'and the cost of stacked 3x3, grouped, separable and bottleneck forms of it'
    )
    parser.add_argument('config', help=CONFIG_HELP)
    parser.add_argument('--checkpoint', help='weights; default: the initial ones, of a work folder the best or last')
    parser.add_argument(
        '--shape', type=int, nargs='+', metavar='SIZE', help='height and width; default those of the test pipeline'
    )
    parser.add_argument(
        '--all',
        action='store_true',
        help='every layer, and the cost of other forms; default: the ten operators (without any, layers) that cost '
        'most; .csv and .json files always have everything',
    )
    parser.add_argument('--out', metavar='FILE', help='.md, .csv or .json file to write; default: print the .md')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape takes H W or one side, each >= 1, got {" ".join(map(str, args.shape))}')
    if args.out and Path(args.out).suffix not in SUFFIXES:
        parser.error(f'--out must end in {", ".join(SUFFIXES)}, got {args.out!r}')
    args.config, args.checkpoint = network_files(args.config, args.checkpoint)
    if args.out:
        require_not_read([args.out], [args.config], '--out')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Build, report, write."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.analysis.layer_report import layer_report, to_csv, to_json, to_markdown
    from mmkerv.deploy.image_size import pipeline_shape
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.engine.checkpoint.atomic_write import atomic_path
    from mmkerv.engine.config.patches import apply_patches

    apply_patches(trust=args.trust_checkpoint)
    cfg, model = load_trained(args.config, args.checkpoint, args.cfg_options, trust=args.trust_checkpoint)
    shape = (args.shape[0], args.shape[-1]) if args.shape else pipeline_shape(cfg, model)
    report = layer_report(model, shape)
    title = f'{config_name(args.config)}{Path(args.config).suffix}'
    if not args.out:
        print(to_markdown(report, title, args.all))
        return
    texts = {'.csv': to_csv, '.json': to_json, '.md': lambda report: to_markdown(report, title, args.all)}
    with atomic_path(args.out) as partial:
        partial.write_text(texts[Path(args.out).suffix](report), encoding='utf-8')
    print(f'{len(report.layers)} layers, {report.total.weights} parameters, {report.total.macs} MACs; wrote {args.out}')


if __name__ == '__main__':
    common.run(main)
