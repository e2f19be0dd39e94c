"""Draw the responses of kervolutions to patches: ``vis_response.py CONFIG CHECKPOINT [--target-layers NAME ...]``."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from mmkerv.cli import common
from mmkerv.cli.network import NetworkParser
from mmkerv.config_files import config_name


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = NetworkParser(
        description="Draw the response of a KervConv's trained filters along a line of patches, and beside it that of "
        'every other kernel of the library with its default hyperparameters'
    )
    parser.add_network()
    parser.add_argument(
        '--target-layers', nargs='+', metavar='NAME', help='kervolutions, or modules that contain some; default: all'
    )
    parser.add_argument(
        '--line',
        choices=['filter', 'patches'],
        default='filter',
        help='through each filter w, from -REACH w to REACH w, or from one random patch to another (%(default)s)',
    )
    parser.add_argument(
        '--reach',
        type=float,
        default=2.0,
        help='length of the line in multiples of the filter, see --line (%(default)s)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the random patches (%(default)s)')
    parser.add_argument(
        '--topk', type=int, help='number of filters, those with the largest norm; default: the first ones'
    )
    parser.add_argument(
        '--save-path',
        metavar='DIR_OR_FILE',
        help='folder for a picture of each layer, or the file of a single one; '
        'default work_dirs/NAME_OF_CONFIG/responses',
    )
    parser.add_argument('--format', choices=['png', 'svg'], help='format of pictures in a folder (default png)')
    parser.add_argument('--arrays', metavar='FILE.npz', help='also write the drawn values, as arrays LAYER/ARRAY')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if args.format and args.save_path and Path(args.save_path).suffix:
        parser.error(f'--format is for pictures in a folder, not for the file {args.save_path!r}: leave it out')
    args.format = args.format or 'png'
    if args.topk is not None and args.topk < 1:
        parser.error(f'--topk must be >= 1, got {args.topk}')
    if not 0 < args.reach < math.inf:
        parser.error(f'--reach must be > 0, got {args.reach}')
    if args.arrays and Path(args.arrays).suffix != '.npz':
        parser.error(f'--arrays must end in .npz, got {args.arrays!r}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Load, draw, write."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv import visualization
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.models.layers import find_operators
    from mmkerv.ops.kerv import Kervolution
    from mmkerv.visualization import kernel_figures, pictures

    apply_patches(trust=args.trust_checkpoint)
    _, model = load_trained(args.config, args.checkpoint, args.cfg_options, trust=args.trust_checkpoint)
    layers = find_operators(model, args.target_layers, Kervolution, 'kervolution', 'mmkerv.KervConv')
    out = args.save_path or f'work_dirs/{config_name(args.config)}/responses'
    files = kernel_figures.picture_files(out, layers, args.format, '_response')
    arrays = {}
    for name, layer in layers.items():
        line = {'topk': args.topk, 'line': args.line, 'reach': args.reach, 'seed': args.seed}
        pictures.save_figure(visualization.response_figure(layer, name, **line), files[name])
        print(f'wrote {files[name]}', flush=True)
        if args.arrays:
            values = visualization.response_arrays(layer, **line)
            arrays |= {f'{name}/{key}': array for key, array in values.items()}
    if args.arrays:
        pictures.save_arrays(args.arrays, **arrays)
        print(f'wrote {args.arrays}')


if __name__ == '__main__':
    common.run(main)
