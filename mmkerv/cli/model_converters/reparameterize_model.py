"""Fold a trained network into a plain one: ``reparameterize_model.py CONFIG CHECKPOINT OUT``."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from mmkerv.cli import common
from mmkerv.cli.network import NetworkParser
from mmkerv.image_files import MOST, find_images


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = NetworkParser(
        description='Fold the operators of a trained network into plain convolutions, check the result, '
        'and write OUT and the deploy config beside it (OUT with the suffix .py)'
    )
    parser.add_network('config_path', 'checkpoint_path')
    parser.add_argument('save_path', help='.pth file to write')
    parser.add_argument(
        '--images',
        metavar='DIR',
        help="also compare the two networks on the images of a folder, an image file, or a pattern such as 'DIR/*.jpg'",
    )
    parser.add_argument(
        '--max-images',
        type=int,
        default=MOST,
        metavar='N',
        help='at most so many of them, spread over the list by name (%(default)s)',
    )
    parser.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'), help='size of the inputs for the comparison')
    parser.add_argument('--tolerance', type=float, default=1e-4, help='largest relative difference; default 1e-4')
    parser.add_argument(
        '--upstream-deploy',
        action='store_true',
        help='also merge the branches of a RepVGG, MobileOne, RepMLP, RepLKNet, RIFormer or LeViT backbone',
    )
    parser.add_argument(
        '--split',
        choices=['keep', 'dense'],
        default='keep',
        help='operators that convolve parts of the channels, and cost less as they are: keep (default) leaves them, '
        'dense folds each into one convolution and prints the cost',
    )
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if Path(args.save_path).suffix != '.pth':
        parser.error(f'save_path must end in .pth, got {args.save_path!r}')
    if args.shape and min(args.shape) < 1:
        parser.error(f'--shape must be >= 1, got {" ".join(map(str, args.shape))}')
    if not 0 <= args.tolerance < math.inf:
        parser.error(f'--tolerance must be a number >= 0, got {args.tolerance:g}')
    if args.max_images < 1:
        parser.error(f'--max-images must be >= 1, got {args.max_images}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Fold, check, write."""
    args = parse_args(argv)
    if args.images:
        # Refused before anything large is imported.
        find_images([args.images], '--images')

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.deploy import fold
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.engine.config.read import load_config

    apply_patches(trust=args.trust_checkpoint)
    cfg = load_config(args.config_path, args.cfg_options)
    result = fold.fold_checkpoint(
        cfg,
        args.checkpoint_path,
        args.save_path,
        images=args.images,
        most=args.max_images,
        shape=tuple(args.shape) if args.shape else None,
        tolerance=args.tolerance,
        trust=args.trust_checkpoint,
        upstream_deploy=args.upstream_deploy,
        split=args.split,
    )
    print(result.report)
    for name, (split, dense) in result.dearer.items():
        print(
            f'{name}: costs {dense / split:.3g} times the multiplications folded ({split} -> {dense} for each position)'
        )
    # Empty if all operators are continuous: those have no basic kernel W.
    if result.associations:
        low, high = min(result.associations), max(result.associations)
        print(f'|K - W| / |W| of the folded operators: {low:.3g} to {high:.3g}')
    images = result.inputs - 1
    inputs = 'a random input' + (f' and {images} image{"s" * (images > 1)}' if images else '')
    print(f'largest difference of the {result.compared}, relative: {result.error:.2e} on {inputs}')
    print(f'checkpoint: {args.save_path}')
    print(f'config:     {Path(args.save_path).with_suffix(".py")}')


if __name__ == '__main__':
    common.run(main)
