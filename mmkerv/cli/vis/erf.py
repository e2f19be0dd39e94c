"""Effective receptive field of a trained network: ``vis_erf.py CONFIG CHECKPOINT [--compare CONFIG CHECKPOINT]``."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common
from mmkerv.cli.network import NetworkParser
from mmkerv.config_files import config_name
from mmkerv.image_files import find_images
from mmkerv.work_folder import require_not_read


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = NetworkParser(
        description='Draw the gradient of the central unit of a feature map for each pixel, and print the sides of the '
        'squares that hold 30, 50 and 99 % of it; the arrays are written beside the picture (.npz)'
    )
    parser.add_network()
    parser.add_second_network('--compare', 'a second network, drawn beside the first')
    parser.add_argument('--target-layers', metavar='LAYER', help='default: the last feature map of the backbone')
    parser.add_argument(
        '--images',
        metavar='DIR',
        help='average over the images of a folder, or an image file; default random inputs',
    )
    parser.add_argument('--num', type=int, default=20, help='number of inputs (%(default)s)')
    parser.add_argument(
        '--shape', type=int, nargs=2, metavar=('H', 'W'), help='size of the inputs; default that of the test pipeline'
    )
    parser.add_argument('--preview-model', action='store_true', help='print the layers of the model and exit')
    parser.add_argument('--save-path', help='picture to write, .png or .svg; default work_dirs/erf/CONFIG.png')
    parser.add_argument('--device', default='cpu', help='device, such as cuda:0 (%(default)s)')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if args.num < 1 or (args.shape and min(args.shape) < 1):
        shape = ' '.join(map(str, args.shape or ('none',)))
        parser.error(f'--num and --shape must be >= 1, got {args.num} and {shape}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Load, differentiate, draw, print."""
    args = parse_args(argv)
    files = find_images([args.images], '--images') if args.images else []
    if args.save_path:
        require_not_read([args.save_path], files, '--save-path')

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from prettytable import PrettyTable

    from mmkerv.deploy.image_size import pipeline_shape
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.visualization import feature_maps, pictures, receptive_field

    apply_patches(trust=args.trust_checkpoint)
    out = pictures.picture_path(args.save_path or f'work_dirs/erf/{config_name(args.config)}.png')
    fields, arrays, shape = [], {}, tuple(args.shape or ())
    table = PrettyTable(['network', 'feature map', *(f'{share:.0%}' for share in receptive_field.SHARES)])
    table.align = 'l'
    for config, checkpoint in filter(None, [(args.config, args.checkpoint), args.compare]):
        cfg, model = load_trained(config, checkpoint, args.cfg_options, args.device, args.trust_checkpoint)
        if args.preview_model:
            print(model)
            return
        # Two networks are compared on inputs of one size.
        shape = shape or pipeline_shape(cfg, model)
        images = list(receptive_field.receptive_inputs(model, cfg, args.num, shape, files))
        layer = args.target_layers or feature_maps.last_map(model, images[0][0])
        field = receptive_field.receptive_field(model, images, layer)
        squares = [
            receptive_field.square_of_share(field.field, share, field.centre) for share in receptive_field.SHARES
        ]
        name = config_name(config)
        table.add_row([name, field.layer, *(f'{side} px ({ratio:.1%})' for side, ratio in squares)])
        suffix = '_compare' if fields else ''
        arrays |= {f'field{suffix}': field.field, f'centre{suffix}': field.centre, f'squares{suffix}': squares}
        fields.append((name, field))
    pictures.save_figure(receptive_field.draw_receptive_fields(fields), out)
    pictures.save_arrays(out.with_suffix('.npz'), shares=receptive_field.SHARES, **arrays)
    height, width = field.field.shape
    print(f'sides of the squares that hold a share of the gradients, and their share of the {height} x {width} input:')
    print(table)
    print(f'wrote {out} and {out.with_suffix(".npz")}')


if __name__ == '__main__':
    common.run(main)
