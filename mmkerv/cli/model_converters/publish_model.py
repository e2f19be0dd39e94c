"""Strip a checkpoint for release: ``publish_model.py IN_FILE OUT_FILE`` writes OUT_FILE-SHA256[:8].pth."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmkerv.cli import common
from mmkerv.cli.network import checkpoint_of


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Strip a training checkpoint for release and put its hash into the name'
    )
    parser.add_argument('in_file', help='checkpoint of a training run, or its work folder: the best one, else the last')
    parser.add_argument('out_file', help='name to write; -SHA256[:8].pth is appended')
    parser.add_argument(
        '--save-keys', nargs='+', default=['meta', 'state_dict'], help='keys to keep; default %(default)s'
    )
    parser.add_argument('--no-ema', action='store_true', help='publish the raw weights instead of the averaged ones')
    common.add_trust(parser)
    args = parser.parse_args(argv)
    args.in_file = checkpoint_of(args.in_file)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Read, strip, write, rename."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine')
    from mmkerv.engine import safe_load
    from mmkerv.engine.checkpoint import atomic_write, publish

    loaded = safe_load(args.in_file, trust=args.trust_checkpoint)
    checkpoint = publish.strip_checkpoint(loaded, args.save_keys, args.no_ema, args.in_file)
    stem = Path(args.out_file).with_suffix('') if args.out_file.endswith('.pth') else Path(args.out_file)
    staged = stem.with_name(f'{stem.name}-unnamed.pth')
    atomic_write.save_checkpoint(checkpoint, staged)
    final = stem.with_name(f'{stem.name}-{publish.sha256(staged)[:8]}.pth')
    staged.replace(final)
    print(f'kept {", ".join(checkpoint)}; published {final}')


if __name__ == '__main__':
    common.run(main)
