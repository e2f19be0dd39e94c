"""Evaluate a detector, segmentor or classifier: ``python tools/test.py CONFIG CHECKPOINT [flags]``."""

import argparse
import math
from collections.abc import Sequence

from mmkerv.cli import common


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the flags are those of mmdetection, mmsegmentation and mmpretrain together."""
    parser = common.runner_arguments('Evaluate a detector, segmentor or classifier', trained=True)
    parser.add_argument(
        '--out',
        help='detection, classification: .pkl (or .json for metrics) file; segmentation: folder for the predictions',
    )
    parser.add_argument('--out-item', choices=['metrics', 'pred'], help='contents of --out; default pred')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='folder for images with the predictions drawn in')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds for each window')
    parser.add_argument('--interval', type=int, help='draw every n-th image (classification); default 1')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    args = parser.parse_args(argv)
    if args.out_item and not args.out:
        parser.error('--out-item needs --out: give --out FILE too')
    if args.interval is not None and args.interval < 1:
        parser.error(f'--interval must be >= 1, got {args.interval}')
    if not 0 <= args.wait_time < math.inf:
        parser.error(f'--wait-time must be >= 0, got {args.wait_time:g}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Build the runner and evaluate."""
    args = parse_args(argv)
    common.export_rank(args)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.engine.config import evaluation, launch
    from mmkerv.engine.config.check import loop_faults, refuse
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.engine.config.prepare import prepare, set_loader_defaults, set_test_dir
    from mmkerv.engine.config.read import load_config

    cfg = load_config(args.config, args.cfg_options)
    common.place_operator(cfg, args)
    refuse(loop_faults(cfg, 'test'))
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.show or args.show_dir:
        evaluation.paint_predictions(cfg, args.show, args.show_dir, args.wait_time, args.interval)
    if args.tta:
        evaluation.augment_test(cfg)
    set_loader_defaults(cfg, not args.no_pin_memory)
    set_test_dir(cfg, args)
    prepare(cfg, args, ('test',))
    apply_patches(cfg.get('default_scope'), args.trust_checkpoint)
    with launch.process_group(cfg):
        evaluation.evaluate(cfg, args.out, args.out_item or 'pred', not args.verbose, args.show_dir)


if __name__ == '__main__':
    common.run(main)
