"""Make an operator network's checkpoint from a plain one: ``plain_to_mmkerv.py SRC DST [--config CONFIG]``."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common
from mmkerv.work_folder import require_not_read


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Load a plain checkpoint of torchvision or OpenMMLab into an operator network that computes the '
        'same, write its checkpoint, and list loaded, missing and unexpected parameters'
    )
    parser.add_argument('src', metavar='SRC', help='checkpoint of the plain network')
    parser.add_argument('dst', metavar='DST', help='checkpoint to write')
    parser.add_argument(
        '--config',
        help='config whose model is the operator network, of any of the three libraries; default: an mmpretrain '
        'classifier with mmkerv.ResNet and CoCConv, of the depth that the names in SRC imply',
    )
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if args.cfg_options and not args.config:
        parser.error('--cfg-options changes the config: give --config CONFIG too')
    require_not_read([args.dst], [args.src], 'DST')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Read, convert, write."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv', *([] if args.config else ['mmpretrain']))
    from mmkerv.engine.checkpoint.convert_plain import convert_checkpoint
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.engine.config.read import load_config

    apply_patches(trust=args.trust_checkpoint)
    cfg = load_config(args.config, args.cfg_options) if args.config else None
    print(convert_checkpoint(args.src, args.dst, cfg, trust=args.trust_checkpoint))
    print(f'wrote {args.dst}')


if __name__ == '__main__':
    common.run(main)
