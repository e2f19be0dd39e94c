"""Multiply-adds and parameters of a config's network: ``get_flops.py CONFIG [--shape H W]``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import cli


def parse_args() -> argparse.Namespace:
    """Read the command line; the flags are upstream's."""
    parser = argparse.ArgumentParser(
        description='Count what an image costs, what generating the kernels costs, and what is left after folding'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape', type=int, nargs='+', default=[224, 224], metavar='SIZE', help='height and width (%(default)s)'
    )
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if len(args.shape) > 2 or min(args.shape) < 1:
        parser.error(f'--shape takes H W or one side, each >= 1, got {" ".join(map(str, args.shape))}')
    return args


def main() -> None:
    """Build, count, print."""
    args = parse_args()

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmengine.analysis.print_helper import _format_size
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    from mmkerv.engine import configuration
    from mmkerv.engine.complexity import complexity

    cfg = configuration.load_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = cfg.model
    if cfg.get('data_preprocessor'):
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(model_cfg)).eval()
    shape = (args.shape[0], args.shape[-1])
    found = complexity(model, shape)
    bar = '=' * 30
    print(f'{bar}\nInput shape: (3, {shape[0]}, {shape[1]})')
    for label, value in (
        ('Flops of an image', found.image),
        ('Flops of generating the kernels, once a step', found.kernels),
        ('Flops of an image after folding', found.folded),
        ('Params', found.parameters),
        ('Params after folding', found.folded_parameters),
    ):
        print(f'{label}: {_format_size(value)}')
    print(f'{bar}\nFlops are multiply-adds of convolutions and matrix products; elementwise functions are not counted.')


if __name__ == '__main__':
    cli.run(main)
