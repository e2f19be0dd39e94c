"""Draw the samples of a data set with their annotations: ``browse_dataset.py CONFIG --output-dir DIR``."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkerv.cli import common
from mmkerv.cli.network import network_files
from mmkerv.config_files import config_name


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the flags are upstream's."""
    parser = argparse.ArgumentParser(description='Show or write the samples of a data set, annotations drawn in')
    parser.add_argument('config', help='config file, or the work folder of a training')
    parser.add_argument('--output-dir', '-o', metavar='DIR', help='folder to write pictures to')
    parser.add_argument('--not-show', action='store_true', help='open no windows')
    parser.add_argument(
        '--show-interval', '-i', type=float, default=2, metavar='S', help='seconds for each window (%(default)s)'
    )
    parser.add_argument('--phase', '-p', choices=['train', 'val', 'test'], default='train', help='data set (train)')
    parser.add_argument(
        '--mode',
        '-m',
        choices=['transformed', 'original', 'concat', 'pipeline'],
        default='transformed',
        help='the input of the model, the image as read, both, or the image after each step (%(default)s)',
    )
    parser.add_argument('--show-number', '-n', type=int, metavar='N', help='number of samples (all)')
    common.add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.show_number is not None and args.show_number < 1:
        parser.error(f'--show-number must be >= 1, got {args.show_number}')
    if not 0 <= args.show_interval < math.inf:
        parser.error(f'--show-interval must be >= 0, got {args.show_interval:g}')
    args.config = network_files(args.config, needed=False)[0]
    return args


def has_display() -> bool:
    """Tell whether a window could be opened."""
    return sys.platform in ('darwin', 'win32') or any(os.environ.get(key) for key in ('DISPLAY', 'WAYLAND_DISPLAY'))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, show, write."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    import mmcv

    from mmkerv.analysis.browse import pictures
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.engine.config.read import load_config

    cfg = load_config(args.config, args.cfg_options)
    apply_patches(cfg.get('default_scope'))
    show = not args.not_show and has_display()
    folder = args.output_dir
    if folder is None and not show and not args.not_show:
        folder = str(Path('work_dirs', config_name(args.config), f'browse_{args.phase}'))
        print(f'no display: pictures go to {folder}')
    written: set[str] = set()
    number = 0
    for number, picture in enumerate(pictures(cfg, args.phase, args.mode, args.show_number, folder), 1):
        if folder is not None:
            # Images of different folders may share a name.
            name = picture.file if picture.file not in written else f'{number}_{picture.file}'
            written.add(name)
            mmcv.imwrite(picture.image[..., ::-1], str(Path(folder, name)))
        if show:
            window(picture, args.show_interval)
    print(f'{number} samples of the {args.phase} data' + (f' written to {folder}' if folder else ''))


def window(picture, seconds: float) -> None:
    """Show a picture for some seconds."""
    from mmengine.visualization import Visualizer

    Visualizer.get_instance('browse').show(picture.image, win_name=picture.file, wait_time=seconds)


if __name__ == '__main__':
    common.run(main)
