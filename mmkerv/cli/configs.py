"""List the configs that come with mmkerv: ``mmkerv configs [PATTERN]``."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='List the configs that come with mmkerv, and where they are')
    parser.add_argument('pattern', nargs='?', default='*', help="part of a path, or a pattern such as '*_coc*'")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the paths.

    Raises:
        ConfigError: if no path matches.
    """
    args = parse_args(argv)

    from mmkerv.config_files import config_folder, list_configs
    from mmkerv.errors import ConfigError

    found = list_configs(args.pattern)
    if not found:
        raise ConfigError(f'no config matches {args.pattern!r}; mmkerv configs lists all {len(list_configs())}')
    print('\n'.join(found))
    print(f"\n{len(found)} configs in {config_folder()}; inherit from one by _base_ = 'mmkerv::PATH'")


if __name__ == '__main__':
    common.run(main)
