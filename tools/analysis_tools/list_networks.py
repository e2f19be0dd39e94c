"""Tables of the networks and their replaced convolutions: ``list_networks.py [--write docs/networks.md]``.

``--census FOLDER`` counts in the models of the three libraries' own configs instead, see ``census.py``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli import common

BEGIN = '<!-- begin: tools/analysis_tools/list_networks.py -->'
CENSUS = '<!-- begin: tools/analysis_tools/list_networks.py --census -->'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Build every network with every operator and print, as markdown, which convolutions were replaced'
    )
    parser.add_argument('--write', metavar='FILE', help=f'put it into FILE behind {BEGIN}')
    parser.add_argument(
        '--census',
        metavar='FOLDER',
        help="count in the models of the libraries' own configs, and keep the counts in FOLDER; the same command goes "
        'on where it was stopped',
    )
    parser.add_argument(
        '--libraries',
        nargs='+',
        choices=['mmdet', 'mmseg', 'mmpretrain'],
        metavar='NAME',
        help='libraries to count in; default all',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print or write."""
    args = parse_args(argv)
    output = common.between_markers(args.write, CENSUS if args.census else BEGIN) if args.write else print

    from mmkerv import env

    env.require('mmdet', 'mmseg', 'mmpretrain')
    import count_convolutions
    from mmengine.logging import MMLogger

    # Every network would log what was replaced in it.
    MMLogger.get_current_instance().setLevel('ERROR')
    if args.census is None:
        output(count_convolutions.document())
        return
    import census
    import census_table

    libraries = args.libraries or census.LIBRARIES
    census.run(Path(args.census), libraries)
    output(census_table.document(census_table.read(Path(args.census), libraries)))


if __name__ == '__main__':
    common.run(main)
