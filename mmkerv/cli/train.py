"""Train a detector, segmentor or classifier: ``python tools/train.py CONFIG [flags]``."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmkerv.cli import common
from mmkerv.config_files import require_config
from mmkerv.work_folder import require_checkpoint

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the flags are those of mmdetection, mmsegmentation and mmpretrain together."""
    parser = common.runner_arguments('Train a detector, segmentor or classifier')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or without a value from the latest one in the work_dir',
    )
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the actual batch size')
    common.add_changes(parser)
    parser.add_argument('--no-persistent-workers', action='store_true', help='restart the data workers in each epoch')
    parser.add_argument(
        '--check',
        action='store_true',
        help='check config, data, weights, classes and one training step, print what is wrong, and stop',
    )
    args = parser.parse_args(argv)
    common.check_changes(parser, args)
    require_config(args.config)
    if args.resume not in (None, 'auto'):
        require_checkpoint(args.resume)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Build the runner and train."""
    args = parse_args(argv)
    common.export_rank(args)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    import os
    from pathlib import Path

    from mmkerv.engine.checkpoint.atomic_write import with_advice
    from mmkerv.engine.checkpoint.safe_load import safe_load
    from mmkerv.engine.checkpoint.same_operators import require_same_operators
    from mmkerv.engine.config import launch
    from mmkerv.engine.config.check import loop_faults, refuse, training_phases
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.engine.config.prepare import build_runner, prepare, set_loader_defaults, set_work_dir, use_amp
    from mmkerv.engine.config.read import load_config
    from mmkerv.engine.resume.latest_checkpoint import latest_checkpoint, output_folders
    from mmkerv.errors import ConfigError

    cfg = load_config(args.config, args.cfg_options, check=False)
    common.change(cfg, args)
    common.place_operator(cfg, args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ConfigError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config: the batch of its lr'
            )
        cfg.auto_scale_lr.enable = True
    if args.check:
        from mmkerv.cli.plan import preflight

        apply_patches(cfg.get('default_scope'), args.trust_checkpoint)
        if faults := preflight(cfg, args).faults:
            sys.exit(f'error: {len(faults)} fault{"s" * (len(faults) > 1)}, see above')
        return
    refuse(loop_faults(cfg, 'train'))
    start = cfg.get('load_from')
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    set_work_dir(cfg, args)
    if cfg.get('resume') and args.work_dir is None and 'work_dir' not in (args.cfg_options or {}):
        go_on_beside_config(cfg, args)
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from = latest_checkpoint(cfg, args.trust_checkpoint)
        if cfg.load_from is None:
            # A run that was interrupted before its first checkpoint starts again from the same weights.
            cfg.resume, cfg.load_from = False, start
    if cfg.get('load_from'):
        require_checkpoint(cfg.load_from)
    if cfg.get('resume') and '://' not in cfg.load_from:
        # The hook that compares them comes after the runner has written its config over that of the run.
        require_same_operators(cfg.get('model'), safe_load(cfg.load_from, trust=args.trust_checkpoint), cfg.load_from)
    set_loader_defaults(cfg, not args.no_pin_memory, not args.no_persistent_workers)
    prepare(cfg, args, training_phases(cfg))
    apply_patches(cfg.get('default_scope'), args.trust_checkpoint)
    try:
        with launch.process_group(cfg):
            if args.max_iters:
                shorten(cfg, args.max_iters)
            build_runner(cfg, short_log=not args.verbose).train()
            tell_what_is_next(cfg.work_dir)
    except OSError as error:
        # An unreadable data file is named in its error. When mmengine's logs fill the disk, the error names no file.
        file = error.filename and Path(os.fsdecode(error.filename)).resolve()
        if file and not output_folders(cfg) & {file, *file.parents}:
            raise
        raise with_advice(error, cfg.work_dir, then=', then go on with --resume') from error


def go_on_beside_config(cfg: 'Config', args: argparse.Namespace) -> None:
    """Resume in the folder of the config if a training has written it there, and its ``work_dir`` names another.

    The folder was moved or copied since, or is seen from another place.
    """
    from pathlib import Path

    from mmkerv.utils import log
    from mmkerv.work_folder import LAST_CHECKPOINT

    folder = Path(args.config).parent
    if (folder / LAST_CHECKPOINT).is_file() and folder.resolve() != Path(cfg.work_dir).resolve():
        log(
            f'mmkerv: resuming in {folder}, where the config and {LAST_CHECKPOINT} are, not in its work_dir '
            f'{cfg.work_dir}; --work-dir takes another'
        )
        args.work_dir = cfg.work_dir = str(folder)


def shorten(cfg: 'Config', iters: int) -> None:
    """Set the number of iterations of a run, whose data is read to count those of an epoch."""
    from mmkerv.engine.config.by_iterations import iterations_of_an_epoch, limit_iterations
    from mmkerv.utils import log

    changes = limit_iterations(cfg, iters, lambda: iterations_of_an_epoch(cfg))
    log(f'mmkerv: --max-iters {iters}: {"; ".join(changes)}')


def tell_what_is_next(work_dir: str) -> None:
    """Say where the checkpoint is, and which command makes a page of the run."""
    import shlex

    from mmengine.dist import is_main_process

    from mmkerv.work_folder import named_checkpoint

    if is_main_process():
        if checkpoint := named_checkpoint(work_dir):
            print(f'checkpoint: {checkpoint}')
        print(f'a page of the run: mmkerv report {shlex.quote(work_dir)}', flush=True)


if __name__ == '__main__':
    common.run(main)
