"""List the operators, describe one, or tell how they train: ``mmkerv ops [NAME | --training]``."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common

BEGIN = '<!-- begin: mmkerv ops --training -->'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='List the operators and kernels, or describe one: equation, arguments, folding, cost, source'
    )
    parser.add_argument('name', nargs='?', help='operator, such as DCLSConv or dcls; default: list all')
    parser.add_argument(
        '--training', action='store_true', help='how each operator starts, and its rules of the optimizer, as a table'
    )
    parser.add_argument('--write', metavar='FILE', help=f'put that table between "{BEGIN}" and "{common.END}"')
    args = parser.parse_args(argv)
    if args.name and args.training:
        parser.error(f'--training is of all operators; leave {args.name!r} out')
    if args.write and not args.training:
        parser.error('--write needs --training')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Print the list or the description."""
    args = parse_args(argv)

    from mmkerv.operator_table import operator_class
    from mmkerv.ops.description import describe, docstring, list_kernels, list_operators, plain, training_table

    if args.name:
        print(describe(args.name))
        return
    if args.training:
        write = common.between_markers(args.write, BEGIN) if args.write else print
        write(training_table())
        return
    names = list_operators()
    for name in names:
        kind = operator_class(name)
        text = plain(docstring(getattr(kind, 'operator', kind)).partition('\n')[0])
        print(f'{name:<{max(map(len, names))}}  {text}')
    print(f'\nkernels of KervConv: {", ".join(list_kernels())}\nmore on one: mmkerv ops NAME')


if __name__ == '__main__':
    common.run(main)
