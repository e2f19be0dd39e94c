"""Write the page of a run: ``run_report.py WORK_DIR``."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Write WORK_DIR/report.html, one page without network access: curves, results, what was replaced, '
        'cost, kernels before and after, predictions on test images, environment'
    )
    parser.add_argument('work_dir', help='folder of a training, as of tools/train.py, tools/compare.py or the demo')
    parser.add_argument('--images', type=int, default=6, metavar='N', help='test images with predictions; default 6')
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error(f'--images must be >= 1, got {args.images}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page and print its path."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.distributions import importable
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.errors import InstallationError

    if missing := [name for name in ('jinja2', 'matplotlib') if not importable(name)]:
        raise InstallationError(f"the page needs {' and '.join(missing)}: pip install 'mmkerv[pictures]'")
    from mmkerv.cli.report.run_page import write_run_report

    apply_patches()
    print(f'page      {write_run_report(args.work_dir, args.images)}')


if __name__ == '__main__':
    common.run(main)
