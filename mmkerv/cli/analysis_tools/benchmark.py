"""Time a network or its data: ``benchmark.py CONFIG [--checkpoint FILE] --task inference``."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmkerv.cli import common
from mmkerv.cli.network import CONFIG_HELP, NetworkParser, network_files

UNITS = {'inference': 'images', 'dataloader': 'batches', 'dataset': 'samples'}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line: mmdetection's flags, or mmsegmentation's ``CONFIG CHECKPOINT``, which means inference."""
    parser = NetworkParser(description='Time inference of single images, a data loader, or a data set')
    parser.add_argument('config', help=CONFIG_HELP)
    parser.add_argument('positional', nargs='?', metavar='checkpoint', help="weights, in mmsegmentation's grammar")
    parser.add_argument('--checkpoint', help='weights; default: the initial ones, of a work folder the best or last')
    parser.add_argument('--task', choices=list(UNITS), help='what to time (inference)')
    # mmsegmentation calls it --repeat-times.
    parser.add_argument('--repeat-num', '--repeat-times', type=int, default=1, metavar='N', help='runs (%(default)s)')
    parser.add_argument('--max-iter', type=int, default=200, metavar='N', help='items of a run (%(default)s)')
    parser.add_argument('--log-interval', type=int, default=50, metavar='N', help='items between lines (%(default)s)')
    parser.add_argument('--num-warmup', type=int, default=5, metavar='N', help='items not timed (%(default)s)')
    parser.add_argument('--fuse-conv-bn', action='store_true', help='fuse batch norms into convolutions first')
    parser.add_argument(
        '--dataset-type', choices=['train', 'val', 'test'], default='test', help='data set (%(default)s)'
    )
    parser.add_argument('--work-dir', help='folder for benchmark_TASK.json')
    parser.add_argument('--device', help='cpu, cuda, cuda:1 ...; by default a GPU if there is one')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if args.positional and args.checkpoint and args.positional != args.checkpoint:
        parser.error(f'two checkpoints: {args.positional!r} and --checkpoint {args.checkpoint!r}; give one')
    args.checkpoint = args.checkpoint or args.positional
    args.task = args.task or 'inference'
    if args.fuse_conv_bn and args.task != 'inference':
        parser.error(f'--fuse-conv-bn is for --task inference, not {args.task}')
    for name in ('repeat_num', 'max_iter', 'log_interval'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be >= 1, got {getattr(args, name)}')
    if not 0 <= args.num_warmup < args.max_iter:
        parser.error(f'--num-warmup must be >= 0 and below --max-iter {args.max_iter}, got {args.num_warmup}')
    args.config, args.checkpoint = network_files(args.config, args.checkpoint, args.task == 'inference')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Build, time, print."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmengine.device import get_device
    from mmengine.utils.dl_utils import collect_env

    from mmkerv.analysis.speed import fused, inference_speed, loading_speed
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.engine.checkpoint.atomic_write import atomic_path
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.engine.config.read import load_config

    unit = UNITS[args.task]

    def report(number: int, rate: float) -> None:
        print(f'{number} of {args.max_iter} {unit}: {rate:.2f} {unit} / s', flush=True)

    settings = dict(
        runs=args.repeat_num, most=args.max_iter, warmup=args.num_warmup, tell=report, interval=args.log_interval
    )
    device = args.device or get_device()
    if args.task == 'inference':
        cfg, model = load_trained(args.config, args.checkpoint, args.cfg_options, device, args.trust_checkpoint)
        apply_patches(cfg.get('default_scope'), args.trust_checkpoint)
        model = fused(model) if args.fuse_conv_bn else model
        speed = inference_speed(cfg, model, args.dataset_type, **settings)
    else:
        cfg = load_config(args.config, args.cfg_options)
        apply_patches(cfg.get('default_scope'))
        speed = loading_speed(cfg, args.task, args.dataset_type, **settings)
    print(f'{args.task}: {unit} {speed}')
    if args.work_dir:
        out = Path(args.work_dir, f'benchmark_{args.task}.json')
        result = dict(task=args.task, config=args.config, checkpoint=args.checkpoint, unit=unit, device=device)
        environment = {key: str(value) for key, value in collect_env().items()}
        result |= dict(seconds=speed.seconds, rates=speed.rates, environment=environment)
        with atomic_path(out) as partial:
            partial.write_text(json.dumps(result, indent=2) + '\n')
        print(f'wrote {out}')


if __name__ == '__main__':
    common.run(main)
