"""Statistics of the kernels that convolve: ``kernel_statistics.py CONFIG [CHECKPOINT] [--compare OTHER]``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkerv.cli import common
from mmkerv.cli.network import NetworkParser, network_files
from mmkerv.config_files import config_name
from mmkerv.work_folder import require_not_read

TEXTS = ('.md', '.csv', '.json')
PICTURES = ('.png', '.svg')
CONFIGS = ('.py', '.json', '.yml', '.yaml')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = NetworkParser(
        description='Table of the kernels that convolve, of every operator: sparsity, variance entropy, orthogonality, '
        'distance from the basic weight, stable rank, frequency bands, patterns of depthwise kernels'
    )
    parser.add_network(default='those a training starts from, drawn with --seed')
    parser.add_argument(
        '--compare',
        nargs='+',
        metavar='FILE',
        help='also measure the shift to another checkpoint of the config, to CONFIG [CHECKPOINT] or to a work folder',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of initial weights (%(default)s)')
    parser.add_argument(
        '--out',
        nargs='+',
        metavar='FILE',
        help='files to write: a .md, .csv or .json table, a .png or .svg picture of the principal components '
        'and of the patterns of depthwise kernels; default: print the .md',
    )
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if args.compare and Path(args.compare[0]).is_dir() and len(args.compare) <= 2:
        args.compare = list(network_files(*args.compare))
    for file in args.out or ():
        if Path(file).suffix not in TEXTS + PICTURES:
            parser.error(f'--out must end in {", ".join(TEXTS + PICTURES)}, got {file!r}')
    require_not_read(args.out or (), [args.config], '--out')
    if args.compare and len(args.compare) > 1 + (Path(args.compare[0]).suffix in CONFIGS):
        parser.error(f'--compare takes a checkpoint, or a config and a checkpoint, got {" ".join(args.compare)}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Build, measure, compare, write."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.analysis import statistics_report as report
    from mmkerv.engine.checkpoint.atomic_write import atomic_path
    from mmkerv.engine.config.patches import apply_patches

    apply_patches(trust=args.trust_checkpoint)
    title, first = _network(args.config, args.checkpoint, args)
    networks = [(title, first)]
    if args.compare:
        is_config = Path(args.compare[0]).suffix in CONFIGS
        config, checkpoint = (*args.compare, None)[:2] if is_config else (args.config, args.compare[0])
        networks.append(_network(config, checkpoint, args))
    rows, left = report.statistics_report(first), report.without_kernel(first)
    compared = report.shifts(first, networks[1][1]) if args.compare else []
    texts = {
        '.csv': report.to_csv,
        '.json': report.to_json,
        '.md': lambda *found: report.to_markdown(*found, title, networks[-1][0]),
    }
    if not args.out:
        print(texts['.md'](rows, left, compared))
        return
    for file in args.out:
        suffix = Path(file).suffix
        if suffix in texts:
            with atomic_path(file) as partial:
                partial.write_text(texts[suffix](rows, left, compared), encoding='utf-8')
        else:
            _draw(networks, file)
    flagged = sum(bool(row.flags) for row in rows)
    print(f'{len(rows)} layers, {flagged} flagged, {len(left)} without a kernel; wrote {", ".join(args.out)}')


def _network(config: str, checkpoint: str | None, args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the name and the kernels of a network, that of a checkpoint or that of a training's start."""
    import torch

    from mmkerv.analysis.statistics_report import kernels_of
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.engine.initial_weights import draw_initial_weights

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(args.seed)
        _, model = load_trained(config, checkpoint, args.cfg_options, trust=args.trust_checkpoint)
        if checkpoint is None:
            draw_initial_weights(model)
    state = f'at the start, seed {args.seed}' if checkpoint is None else Path(checkpoint).name
    return f'{config_name(config)}, {state}', kernels_of(model)


def _draw(networks: list[tuple[str, dict[str, Any]]], file: str) -> None:
    from mmkerv.visualization import components_figure, pictures

    pictures.save_figure(components_figure(networks, 'Principal components and patterns of the kernels'), file)


if __name__ == '__main__':
    common.run(main)
