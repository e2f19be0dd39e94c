"""Class activation maps of a trained network: ``vis_cam.py IMG CONFIG CHECKPOINT [--compare CONFIG CHECKPOINT]``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmkerv.cli import common
from mmkerv.cli.network import NetworkParser
from mmkerv.config_files import config_name
from mmkerv.image_files import find_images
from mmkerv.work_folder import require_not_read


def canvas(text: str) -> tuple[int, int]:
    """Read a width and a height.

    Example:
        >>> canvas('1024x768')
        (1024, 768)
    """
    width, _, height = text.partition('x')
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'must be WIDTHxHEIGHT, such as 1024x768, got {text!r}')
    return int(width), int(height)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the flags are mmpretrain's."""
    parser = NetworkParser(
        description='Draw the image regions that a classifier, detector or segmentor uses for a category; '
        'the maps are written beside the picture (.npz)'
    )
    parser.add_argument('img', help='image file')
    parser.add_network()
    parser.add_second_network('--compare', 'a second network, drawn beside the first')
    parser.add_argument(
        '--target-layers',
        nargs='+',
        metavar='LAYER',
        help='layers, or single maps of them such as neck:0, whose maps are averaged; default: the last feature map of '
        'the backbone, for detectors all maps of the neck',
    )
    parser.add_argument('--preview-model', action='store_true', help='print the layers of the model and exit')
    parser.add_argument(
        '--method', help='GradCAM, GradCAM++, LayerCAM, EigenCAM, ...; default GradCAM, for detectors LayerCAM'
    )
    parser.add_argument(
        '--target-category',
        nargs='+',
        metavar='CATEGORY',
        help='numbers or names, one row of the picture each; default: the one with the highest score',
    )
    parser.add_argument(
        '--topk',
        type=int,
        default=10,
        help='with --fuse the number of best categories; else, for detectors, the number of highest scores to explain '
        '(%(default)s)',
    )
    parser.add_argument(
        '--fuse',
        choices=['max'],
        help='draw one map, the maximum over the --topk best categories (or those of --target-category), as Figure 10 '
        'of the CoC paper does',
    )
    parser.add_argument(
        '--pad',
        type=canvas,
        metavar='WxH',
        help='resize the image to fit in this width and height and pad it, instead of what the test pipeline does; '
        'the paper has 1024x768',
    )
    parser.add_argument('--eigen-smooth', action='store_true', help='first principal component of the weighted maps')
    parser.add_argument('--aug-smooth', action='store_true', help='average over mirrored and dimmed images')
    parser.add_argument('--save-path', help='picture to write, .png or .svg; default work_dirs/cam/IMG_CONFIG.png')
    parser.add_argument('--device', default='cpu', help='device, such as cuda:0 (%(default)s)')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if args.topk < 1:
        parser.error(f'--topk must be >= 1, got {args.topk}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Load, explain, draw."""
    args = parse_args(argv)
    find_images([args.img])
    if args.save_path:
        require_not_read([args.save_path], [args.img], '--save-path')

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.visualization import class_activation, class_scores, pictures

    apply_patches(trust=args.trust_checkpoint)
    out = pictures.picture_path(args.save_path or f'work_dirs/cam/{Path(args.img).stem}_{config_name(args.config)}.png')
    class_activation.cam_method(args.method or 'GradCAM')
    networks, categories = [], args.target_category
    for config, checkpoint in filter(None, [(args.config, args.checkpoint), args.compare]):
        cfg, model = load_trained(config, checkpoint, args.cfg_options, args.device, args.trust_checkpoint)
        if args.preview_model:
            print(model)
            return
        names = class_scores.class_names(cfg, checkpoint, args.trust_checkpoint)
        # The second network explains the categories that the first one found, but fuses its own best ones.
        if networks and not (categories or args.fuse):
            found = networks[0][1].activations.items()
            categories = [name if name in (names or ()) else str(a.category) for name, a in found]
        explained = class_activation.explain_image(
            model,
            cfg,
            args.img,
            names=names,
            categories=categories,
            layers=args.target_layers,
            method=args.method,
            fuse=args.fuse is not None,
            canvas=args.pad,
            absent=bool(networks),
            topk=args.topk,
            eigen_smooth=args.eigen_smooth,
            aug_smooth=args.aug_smooth,
        )
        networks.append((config_name(config), explained))
        for name, activation in explained.activations.items():
            probability = '' if activation.probability is None else f', probability {activation.probability:.4g}'
            print(f'{config_name(config)}: {name}{probability}, layers {", ".join(activation.layers)}')
    pictures.save_figure(class_activation.draw_explained(networks), out)
    arrays = {f'{number}_{name}': a.heat for number, (_, e) in enumerate(networks) for name, a in e.activations.items()}
    pictures.save_arrays(out.with_suffix('.npz'), **arrays)
    print(f'wrote {out} and {out.with_suffix(".npz")}')


if __name__ == '__main__':
    common.run(main)
