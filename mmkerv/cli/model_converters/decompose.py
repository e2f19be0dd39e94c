"""Make the convolutions of a trained network low-rank ones: ``decompose.py CONFIG CHECKPOINT OUT --rate R``."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkerv.cli import common
from mmkerv.cli.network import NetworkParser

if TYPE_CHECKING:
    from mmkerv.deploy.decompose import Layer


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = NetworkParser(
        description='Decompose the convolutions of a trained network into low-rank ones (LowRankConv), print the '
        'relative error, weights, multiply-adds and measured time of each layer before and after, leave plain what '
        'would gain nothing, and write OUT and the config that trains on from it (OUT with the suffix .py)'
    )
    parser.add_network('config_path', 'checkpoint_path')
    parser.add_argument('save_path', help='.pth file to write')
    parser.add_argument(
        '--rate', type=float, required=True, help='how many times fewer weights each decomposed layer has, above 1'
    )
    parser.add_argument(
        '--decomposition',
        choices=['tucker2', 'cp3', 'cp4'],
        default='tucker2',
        help='tucker2 (default): 1x1, k x k, 1x1; cp3 and cp4: depthwise in the middle, by one or two convolutions',
    )
    parser.add_argument(
        '--where',
        nargs='+',
        action=common.LazyDictAction,
        metavar='KEY=VALUE',
        help='rule for the layers to try, by default all: stem=False stages="[3,4]" kernel_sizes="[3]" names=REGEX',
    )
    parser.add_argument('--error', type=float, help='leave layers plain whose relative error is above this')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='image for which the layers are timed; default that of the test pipeline',
    )
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if Path(args.save_path).suffix != '.pth':
        parser.error(f'save_path must end in .pth, got {args.save_path!r}')
    if args.shape and min(args.shape) < 1:
        parser.error(f'--shape must be >= 1, got {" ".join(map(str, args.shape))}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Decompose, check, write, and print the table."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.deploy.decompose import decompose_checkpoint
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.engine.config.read import load_config

    apply_patches(trust=args.trust_checkpoint)
    rows = decompose_checkpoint(
        load_config(args.config_path, args.cfg_options),
        args.checkpoint_path,
        args.save_path,
        rate=args.rate,
        decomposition=args.decomposition,
        where=args.where,
        error=args.error,
        shape=tuple(args.shape) if args.shape else None,
        trust=args.trust_checkpoint,
    )
    print(table(rows))
    print(f'checkpoint: {args.save_path}')
    print(f'config:     {Path(args.save_path).with_suffix(".py")}')


def table(rows: Sequence['Layer']) -> str:
    """Return the rows as a Markdown table, with the sums of the decomposed layers below."""
    lines = [
        '| layer | kernel | ranks | error | weights | multiply-adds | ms | |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        error = '-' if math.isnan(row.error) else f'{row.error:.3f}'
        costs = [
            _change(*row.weights) if row.ranks else '-',
            _change(*row.macs) if row.ranks else '-',
            '-' if math.isnan(row.seconds[0]) else _change(*(1e3 * s for s in row.seconds), digits=3),
        ]
        kept = f'stays plain: {row.kept}' if row.kept else ''
        ranks = '-' if row.ranks is None else ', '.join(map(str, row.ranks))
        kernel = 'x'.join(map(str, row.kernel))
        lines.append(f'| {" | ".join([row.name, kernel, ranks, error, *costs, kept])} |')
    done = [row for row in rows if not row.kept]
    sums = [[sum(getattr(row, key)[i] for row in done) for i in (0, 1)] for key in ('weights', 'macs', 'seconds')]
    lines += [
        '',
        f'{len(done)} of {len(rows)} convolutions decomposed: {_change(*sums[0])} weights, {_change(*sums[1])} '
        f'multiply-adds, {_change(*(1e3 * s for s in sums[2]), digits=3)} ms',
    ]
    return '\n'.join(lines)


def _change(before: float, after: float, digits: int = 0) -> str:
    return f'{before:.{digits}f} -> {after:.{digits}f}'


if __name__ == '__main__':
    common.run(main)
