"""Print a config with everything it inherits: ``print_config.py CONFIG [--save-path FILE]``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmkerv.cli import common
from mmkerv.cli.network import network_files
from mmkerv.work_folder import require_not_read

SUFFIXES = ('.py', '.json', '.yml', '.yaml')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Print a config with everything it inherits and with --cfg-options')
    parser.add_argument('config', help='config file, or the work folder of a training')
    common.add_cfg_options(parser)
    parser.add_argument('--save-path', metavar='FILE', help='also write it to this .py, .json or .yml file')
    args = parser.parse_args(argv)
    if args.save_path and Path(args.save_path).suffix not in SUFFIXES:
        parser.error(f'--save-path must end in {", ".join(SUFFIXES)}, got {args.save_path!r}')
    args.config = network_files(args.config, needed=False)[0]
    if args.save_path:
        require_not_read([args.save_path], [args.config], '--save-path')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Read, print, write."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine')
    from mmkerv.engine.checkpoint.atomic_write import atomic_path
    from mmkerv.engine.config.read import load_config

    cfg = load_config(args.config, args.cfg_options)
    print(f'Config:\n{cfg.pretty_text}')
    if args.save_path:
        suffix = Path(args.save_path).suffix
        with atomic_path(args.save_path) as partial:
            # mmengine chooses the format by the suffix, which the temporary name lacks.
            with_suffix = partial.with_name(f'{partial.name}{suffix}')
            cfg.dump(with_suffix)
            with_suffix.replace(partial)
        print(f'wrote {args.save_path}')


if __name__ == '__main__':
    common.run(main)
