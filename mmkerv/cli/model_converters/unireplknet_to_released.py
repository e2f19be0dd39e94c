"""Write the released names of UniRepLKNet: ``unireplknet_to_released.py SRC DST``, for the public code."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common
from mmkerv.cli.network import checkpoint_of
from mmkerv.work_folder import require_not_read


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Rename the parameters of a network with mmkerv.UniRepLKNet as the public code names them'
    )
    parser.add_argument('src', metavar='SRC', help='checkpoint of the network, or the work folder of its training')
    parser.add_argument('dst', metavar='DST', help='checkpoint to write')
    common.add_trust(parser)
    args = parser.parse_args(argv)
    args.src = checkpoint_of(args.src)
    require_not_read([args.dst], [args.src], 'DST')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Read, rename, write."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.engine import safe_load
    from mmkerv.engine.checkpoint import atomic_write, layouts
    from mmkerv.engine.checkpoint.convert_released import released_names

    loaded = safe_load(args.src, trust=args.trust_checkpoint)
    renamed = released_names(layouts.weights_of(loaded, args.src), args.src)
    # The public code looks for this entry.
    atomic_write.save_checkpoint({'model': renamed}, args.dst)
    print(f'renamed {len(renamed)} parameters; wrote {args.dst}')


if __name__ == '__main__':
    common.run(main)
