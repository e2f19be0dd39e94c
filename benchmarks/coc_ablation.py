"""The CoC paper's ablation on Tiny ImageNet (section 4.1, Figure 7), as one study over the operator's options.

python benchmarks/coc_ablation.py run --data DIR   do the runs without a record; continues after an interruption
python benchmarks/coc_ablation.py report           write the tables of the records

DIR holds train/CLASS/*.JPEG and val/CLASS/*.JPEG; docs/coc_ablation/README.md explains the settings.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

OUT, DOCS = Path('work_dirs/coc_ablation/records.json'), Path('docs/coc_ablation')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    phases = parser.add_subparsers(dest='phase', required=True)
    run = phases.add_parser('run', help='do the runs without a record')
    run.add_argument('--data', type=Path, required=True, help='folder with train/CLASS and val/CLASS')
    run.add_argument('--backbone', nargs='+', help='resnet18, shufflenet_v2_1x; default: both')
    run.add_argument('--settings', nargs='+', help='names such as 221 or no_skip; default: all')
    run.add_argument('--seeds', nargs='+', type=int, default=[0], help='the seeds themselves; default: 0')
    run.add_argument('--epochs', type=int, default=20, help='epochs, which scale the milestones; default: 20')
    run.add_argument('--size', type=int, default=128, help="images' side in pixels; default: 128, the paper's")
    run.add_argument('--super-init', default='identity', help="start of super layers: identity, or the paper's kaiming")
    run.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    run.add_argument('--threads', type=int, default=1, help='CPU threads of each run')
    run.add_argument('--loaders', type=int, help="data loader workers of each run; default: the recipe's 2")
    run.add_argument('--workers', type=int, default=1, help='concurrent runs')
    report = phases.add_parser('report', help='write results.md, plots and records.json')
    for phase in (run, report):
        phase.add_argument('--out', type=Path, help=f'file of records; default: {OUT}')
        phase.add_argument(
            '--docs',
            type=Path,
            default=DOCS,
            help='folder of the report and of the records of earlier studies (records.json), whose runs are not '
            'repeated',
        )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Do one phase."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv', 'mmpretrain')
    from functools import partial

    from ablation.report import write_report
    from ablation.settings import BACKBONES, SETTINGS, SUPER_INITS, Job, inspect
    from ablation.training import complete
    from machine import Machine

    from mmkerv.ops.core.arguments import integer, one_of

    out, archive = args.out or OUT, args.docs / 'records.json'
    if args.phase == 'report':
        if args.out and not args.out.is_file():
            raise FileNotFoundError(f'--out {args.out} does not exist; give the file that `run` wrote')
        write_report(out, archive, args.docs)
        return
    backbones = [one_of(name, '--backbone', tuple(BACKBONES)) for name in args.backbone or BACKBONES]
    settings = [one_of(name, '--settings', tuple(SETTINGS)) for name in args.settings or SETTINGS]
    one_of(args.super_init, '--super-init', SUPER_INITS)
    # The last maps of the recipe's networks have 1/32 of the image's side.
    for flag, least in (('epochs', 1), ('size', 32), ('threads', 1), ('workers', 1), ('loaders', 0)):
        if getattr(args, flag) is not None:
            integer(getattr(args, flag), f'--{flag}', least)
    for seed in args.seeds:
        integer(seed, '--seeds', 0)
    machine = Machine(args.device, args.threads, args.loaders).checked()
    jobs = [
        Job(backbone, setting, seed, args.epochs, args.size, args.super_init)
        for seed in args.seeds
        for backbone in backbones
        for setting in settings
    ]
    complete(jobs, inspect(args.data), out, archive, machine, args.workers, partial(print, flush=True))


if __name__ == '__main__':
    from mmkerv.cli.common import run

    run(main)
