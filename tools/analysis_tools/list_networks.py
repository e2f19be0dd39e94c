"""Table of the networks and their replaced convolutions: ``list_networks.py [--write docs/networks.md]``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli import common

BEGIN = '<!-- begin: tools/analysis_tools/list_networks.py -->'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Build every network with every operator and print, as markdown, which convolutions were replaced'
    )
    parser.add_argument('--write', metavar='FILE', help=f'put it into FILE behind {BEGIN}')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print or write."""
    args = parse_args(argv)
    output = common.between_markers(args.write, BEGIN) if args.write else print

    from mmkerv import env

    env.require('mmdet', 'mmseg', 'mmpretrain')
    import count_convolutions
    from mmengine.logging import MMLogger

    # Every network would log what was replaced in it.
    MMLogger.get_current_instance().setLevel('ERROR')
    output(count_convolutions.document())


if __name__ == '__main__':
    common.run(main)
