"""Convert a checkpoint of the DCLS authors: ``dcls_to_mmkerv.py SRC DST`` writes one for ConvNeXt with DCLSConv."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common
from mmkerv.work_folder import require_not_read


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Rename the parameters of the DCLS authors' ConvNeXt-dcls for mmpretrain's ConvNeXt with DCLSConv "
        '(configs/imagenet/convnext_*_dcls.py), or for that of timm'
    )
    parser.add_argument('src', metavar='SRC', help="the authors' checkpoint")
    parser.add_argument('dst', metavar='DST', help='checkpoint to write')
    parser.add_argument(
        '--version',
        choices=['v0', 'v1', 'max', 'gauss'],
        default='v0',
        help='interpolation it was trained with; default v0, that of the published ones',
    )
    parser.add_argument(
        '--layout',
        choices=['mmpretrain', 'timm'],
        default='mmpretrain',
        help="names to write: of mmpretrain's ConvNeXt (default), or of mmkerv.TimmBackbone",
    )
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
    from mmkerv.engine.checkpoint.convert_dcls import convert_dcls

    loaded = safe_load(args.src, trust=args.trust_checkpoint)
    converted, names = convert_dcls(layouts.weights_of(loaded, args.src), args.version, args.src, args.layout)
    points = {value.shape[-1] for name, value in converted.items() if name.endswith('.positions')}
    width = max(map(len, names))
    for theirs, ours in names.items():
        print(f'{theirs:<{width}}  {ours}')
    atomic_write.save_checkpoint({'meta': {}, 'state_dict': converted}, args.dst)
    print(
        f'mapped {len(names)} parameters; conv_cfg needs version={args.version!r}, '
        f'points={"/".join(map(str, sorted(points)))}; wrote {args.dst}'
    )


if __name__ == '__main__':
    common.run(main)
