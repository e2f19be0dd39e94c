"""Feature maps of a trained network on an image: ``vis_featmap.py IMG CONFIG CHECKPOINT --target-layers LAYER ...``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmkerv.cli import common
from mmkerv.cli.network import NetworkParser
from mmkerv.config_files import config_name
from mmkerv.image_files import find_images
from mmkerv.work_folder import require_not_read

TOPK = 4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the flags are mmyolo's."""
    parser = NetworkParser(description='Draw feature maps of layers over the image, side by side')
    parser.add_argument('img', help='image file')
    parser.add_network()
    out = parser.add_mutually_exclusive_group()
    out.add_argument('--out-dir', default='work_dirs/featmap', help='folder for IMG_CONFIG.png (%(default)s)')
    out.add_argument('--out-file', help='picture to write, .png or .svg, instead of one in a folder')
    parser.add_argument('--arrays', action='store_true', help='also write the maps beside the picture, as .npz')
    parser.add_argument(
        '--target-layers',
        nargs='+',
        metavar='LAYER',
        help='layers, or single maps of them such as neck:0; default: one map of each stage of the backbone',
    )
    parser.add_argument('--preview-model', action='store_true', help='print the layers of the model and exit')
    parser.add_argument(
        '--channel-reduction',
        choices=['squeeze_mean', 'select_max', 'none'],
        default='squeeze_mean',
        help='mean of the channels, the channel with the largest sum, or the --topk channels with the largest sums; '
        'default %(default)s',
    )
    parser.add_argument('--topk', type=int, help=f'number of channels that "none" draws (default {TOPK})')
    parser.add_argument(
        '--arrangement',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='rows and columns of these channels; default 1 TOPK',
    )
    parser.add_argument('--device', default='cpu', help='device, such as cuda:0 (%(default)s)')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    for flag in ('topk', 'arrangement'):
        if getattr(args, flag) and args.channel_reduction != 'none':
            parser.error(f'--{flag} is for --channel-reduction none, not {args.channel_reduction}: leave it out')
    args.topk = TOPK if args.topk is None else args.topk
    rows, columns = args.arrangement = args.arrangement or [1, args.topk]
    if args.topk < 1 or min(rows, columns) < 1 or rows * columns < args.topk:
        parser.error(f'--arrangement must have room for --topk {args.topk} (>= 1) channels, got {rows} {columns}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Load, run, draw."""
    args = parse_args(argv)
    find_images([args.img])
    if args.out_file:
        require_not_read([args.out_file], [args.img], '--out-file')

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    import torch

    from mmkerv.deploy.trained_model import load_image, load_trained
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.visualization import feature_maps, pictures

    apply_patches(trust=args.trust_checkpoint)
    file = args.out_file or Path(args.out_dir) / f'{Path(args.img).stem}_{config_name(args.config)}.png'
    out = pictures.picture_path(file, '--out-file')
    cfg, model = load_trained(args.config, args.checkpoint, args.cfg_options, args.device, args.trust_checkpoint)
    if args.preview_model:
        print(model)
        return
    data = load_image(model, cfg, args.img)
    inputs, samples = data['inputs'], data['data_samples']
    names = args.target_layers or feature_maps.stage_maps(model, inputs)
    with torch.no_grad():
        maps = feature_maps.feature_maps(model, inputs, samples, names)
    maps = {name: feature_maps.without_padding(m[0], inputs, samples[0]) for name, m in maps.items()}
    picture = pictures.input_picture(model, inputs, samples[0])
    rows = feature_maps.layout(maps, picture, args.channel_reduction, args.topk, tuple(args.arrangement))
    pictures.save_figure(pictures.panels(rows), out)
    written = [out]
    if args.arrays:
        written.append(out.with_suffix('.npz'))
        pictures.save_arrays(written[1], **{name: m.cpu().numpy() for name, m in maps.items()})
    for name, m in maps.items():
        print(f'{name}: {" x ".join(map(str, m.shape))}')
    print(f'wrote {" and ".join(map(str, written))}')


if __name__ == '__main__':
    common.run(main)
