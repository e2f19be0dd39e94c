"""A config with everything it inherits: ``print_config.py CONFIG [--save-path FILE]``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import cli

SUFFIXES = ('.py', '.json', '.yml', '.yaml')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Print a config with all that it inherits and with --cfg-options')
    parser.add_argument('config', help='config file')
    cli.add_cfg_options(parser)
    parser.add_argument('--save-path', metavar='FILE', help='.py, .json or .yml to write as well')
    args = parser.parse_args()
    if args.save_path and Path(args.save_path).suffix not in SUFFIXES:
        parser.error(f'--save-path must end in {", ".join(SUFFIXES)}, got {args.save_path!r}')
    return args


def main() -> None:
    """Read, print, write."""
    args = parse_args()

    from mmkerv import env

    env.require('mmengine')
    from mmkerv.engine.checkpoint.atomic_write import atomic_path
    from mmkerv.engine.config.prepare import load_config

    cfg = load_config(args.config, args.cfg_options)
    print(f'Config:\n{cfg.pretty_text}')
    if args.save_path:
        suffix = Path(args.save_path).suffix
        with atomic_path(args.save_path) as partial:
            # mmengine chooses the format by the suffix, which a temporary name does not have.
            named = partial.with_name(f'{partial.name}{suffix}')
            cfg.dump(named)
            named.replace(partial)
        print(f'wrote {args.save_path}')


if __name__ == '__main__':
    cli.run(main)
