"""List the operators, or describe one: ``mmkerv ops [NAME]``."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='List the operators and kernels, or describe one: equation, arguments, folding, cost, source'
    )
    parser.add_argument('name', nargs='?', help='operator, such as DCLSConv or dcls; default: list all')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the list or the description."""
    args = parse_args(argv)

    from mmkerv import ops
    from mmkerv.ops.description import describe, list_kernels, list_operators, plain

    if args.name:
        print(describe(args.name))
        return
    names = list_operators()
    for name in names:
        kind = getattr(ops, name)
        text = plain(getattr(kind, 'operator', kind).__doc__.partition('\n')[0])
        print(f'{name:<{max(map(len, names))}}  {text}')
    print(f'\nkernels of KervConv: {", ".join(list_kernels())}\nmore on one: mmkerv ops NAME')


if __name__ == '__main__':
    common.run(main)
