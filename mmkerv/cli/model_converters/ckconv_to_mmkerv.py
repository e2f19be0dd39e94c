"""Convert a checkpoint of the CKConv authors: ``ckconv_to_mmkerv.py SRC DST`` writes one for ``mmkerv.CKCNN``."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common
from mmkerv.work_folder import require_not_read


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Rename the parameters of the CKConv authors' CKCNN for mmpretrain's ImageClassifier with "
        'mmkerv.CKCNN (configs/sequences/ckcnn_*.py)'
    )
    parser.add_argument('src', metavar='SRC', help="the authors' state dict, such as mnist_perm_False_ckcnn_30.pt")
    parser.add_argument('dst', metavar='DST', help='checkpoint to write')
    common.add_trust(parser)
    args = parser.parse_args(argv)
    require_not_read([args.dst], [args.src], 'DST')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Read, rename, write."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine')
    from mmkerv.engine import safe_load
    from mmkerv.engine.checkpoint import atomic_write, layouts
    from mmkerv.engine.checkpoint.convert_ckconv import convert_ckconv

    loaded = safe_load(args.src, trust=args.trust_checkpoint)
    converted, names = convert_ckconv(layouts.weights_of(loaded, args.src), args.src)
    width = max(map(len, names))
    for theirs, ours in names.items():
        print(f'{theirs:<{width}}  {ours}')
    atomic_write.save_checkpoint({'meta': {}, 'state_dict': converted}, args.dst)
    print(f'mapped {len(names)} parameters to {len(converted)}, 0 unmapped; wrote {args.dst}')


if __name__ == '__main__':
    common.run(main)
