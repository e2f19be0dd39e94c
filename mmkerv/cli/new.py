"""Write a config for data of your own: ``mmkerv new --task det --data DIR --out my_config.py``."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkerv.cli import common

if TYPE_CHECKING:
    from mmkerv.datasets.own.config_text import Request
    from mmkerv.datasets.own.faults import Faults
    from mmkerv.datasets.own.written import Written

# Libraries that train a task.
LIBRARIES = {'det': 'mmdet', 'seg': 'mmseg', 'cls': 'mmpretrain'}
DEPTHS = {'det': 50, 'seg': 50, 'cls': 18}
# Flags that belong to some tasks only.
ONLY_FOR = {'images': ('det', 'seg'), 'masks': ('seg',), 'classes': ('seg',)}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Check data of your own and write a config that trains on it: boxes in a COCO json (det), images '
        'and masks of class numbers (seg), or a folder of images for each class (cls)'
    )
    parser.add_argument('--task', choices=LIBRARIES, required=True, help='detection, segmentation or classification')
    parser.add_argument(
        '--data',
        type=Path,
        required=True,
        metavar='PATH',
        help='folder of the data, or, for det, the json of train. Data without a val is split',
    )
    parser.add_argument(
        '--val', type=Path, metavar='PATH', help='json (det) or folder of val, if it is not below --data'
    )
    parser.add_argument(
        '--images',
        type=Path,
        nargs='+',
        default=[],
        metavar='DIR',
        help='det, seg: folders of the images, train and val',
    )
    parser.add_argument(
        '--masks', type=Path, nargs='+', default=[], metavar='DIR', help='seg: folders of the masks, train and val'
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        default=[],
        metavar='NAME',
        help='seg: class names in the order of the labels, or a file with one in each line; default classes.txt of '
        'the data',
    )
    parser.add_argument('--size', type=int, metavar='N', help='size of the input; default by the median of the images')
    parser.add_argument(
        '--operator',
        metavar='OPERATOR[:KEY=VALUE,...]',
        help='operator for the convolutions of the backbone, such as coc or dcls:kernel_extent=7',
    )
    parser.add_argument('--depth', type=int, choices=(18, 34, 50), help='of the ResNet; default 50, of cls 18')
    parser.add_argument('--no-pretrained', action='store_true', help='start from scratch, not from ImageNet weights')
    parser.add_argument(
        '--val-fraction', type=float, default=0.2, metavar='F', help='share of val where data is split (%(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the split (%(default)s)')
    parser.add_argument('--out', type=Path, metavar='FILE.py', help='config to write; default TASK_NAME_OF_DATA.py')
    parser.add_argument('--force', action='store_true', help='overwrite an existing config')
    parser.add_argument('--write-anyway', action='store_true', help='write the config although the data has faults')
    args = parser.parse_args(argv)
    for flag, tasks in ONLY_FOR.items():
        if getattr(args, flag) and args.task not in tasks:
            parser.error(f'--{flag} is for --task {" or ".join(tasks)}, got --task {args.task}')
    for flag in ('images', 'masks'):
        if len(getattr(args, flag)) > 2:
            parser.error(f'--{flag} takes one folder, or one of train and one of val')
    if args.size is not None and not 32 <= args.size <= 4096:
        parser.error(f'--size must be from 32 to 4096, got {args.size}')
    if not 0 < args.val_fraction < 1:
        parser.error(f'--val-fraction must be between 0 and 1, got {args.val_fraction}')
    if args.out is None:
        words = ''.join(c if c.isalnum() else '_' for c in args.data.absolute().stem.lower())
        args.out = Path(f'{args.task}_{words.strip("_") or "data"}.py')
    if args.out.suffix != '.py':
        parser.error(f'--out must end in .py, got {str(args.out)!r}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check the data, write the config, and say what was chosen and how to go on."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parse_args(arguments)

    from mmkerv import env

    env.require('mmengine', 'mmcv', LIBRARIES[args.task])
    from mmkerv.datasets.own.config_text import Request
    from mmkerv.datasets.own.faults import Faults

    if args.out.exists() and not args.force:
        raise FileExistsError(f'{str(args.out)!r} exists; give another name with --out, or overwrite it with --force')
    if not args.data.exists():
        raise FileNotFoundError(f'--data {str(args.data)!r} does not exist; give the folder of your data')
    request = Request(
        data=str(args.data),
        command=shlex.join(['mmkerv', 'new', *arguments]),
        out=str(args.out),
        depth=args.depth or DEPTHS[args.task],
        pretrained=not args.no_pretrained,
        size=args.size,
        **operator(args.operator),
    )
    faults = Faults()
    written = surveyed(args, request, faults)
    for line in faults.lines():
        print(f'fault: {line}', flush=True)
    for line in [*faults.lines(stops=False), *written.warnings]:
        print(f'warning: {line}', flush=True)
    if not args.write_anyway:
        faults.refuse(str(args.data))
    if args.operator:
        check_model(written.text)
    write(args.out, written)
    for line in written.notes:
        print(line)
    for file in [args.out, *written.files]:
        print(f'wrote {file}')
    out = shlex.quote(str(args.out))
    print(f'next: mmkerv plan {out}   # checks it and times a step\n      mmkerv train {out}', flush=True)


def operator(spec: str | None) -> dict:
    """Return what a request for a config says on an operator.

    Raises:
        ConfigError: if there is no such operator, or it does not take the arguments.
    """
    if spec is None:
        return {}
    from mmkerv.engine.config.operator_spec import parse_operator
    from mmkerv.errors import ArgumentError, ConfigError
    from mmkerv.operator_table import operator_class

    found = parse_operator(spec)
    if found.operator is None or found.overrides:
        raise ConfigError(
            f'--operator {spec!r}: give an operator with its arguments or where; change the config for others'
        )
    try:
        # A layer of a ResNet.
        layer = operator_class(found.operator)(64, 64, 3, padding=1, **found.options)
    except ArgumentError as error:
        raise ConfigError(f'--operator {spec!r} does not fit the layers of a ResNet: {error}') from error
    return {
        'conv_cfg': {'type': f'mmkerv.{found.operator}', **found.options},
        'where': found.where or None,
        'random_start': not getattr(layer, 'starts_as_identity', True),
    }


def surveyed(args: argparse.Namespace, request: 'Request', faults: 'Faults') -> 'Written':
    """Read and check the data of a task, and write the text of its config."""
    from mmkerv.datasets.own import written

    split_to = args.out.absolute().with_suffix('').with_name(f'{args.out.stem}_split')
    split = args.val_fraction, args.seed, split_to, faults
    if args.task == 'det':
        from mmkerv.datasets.own.detection import survey_detection

        return written.detection_config(request, *survey_detection(args.data, args.val, args.images, *split))
    if args.task == 'cls':
        from mmkerv.datasets.own.folders import survey_folders

        return written.folders_config(request, *survey_folders(args.data, args.val, *split))
    from mmkerv.datasets.own.segmentation import class_names, survey_segmentation

    names = class_names(args.classes, args.data)
    return written.segmentation_config(
        request, survey_segmentation(args.data, args.val, args.images, args.masks, names, *split)
    )


def write(out: Path, written: 'Written') -> None:
    """Write a config and its files; each is complete or not there."""
    from mmkerv.engine import atomic_path

    for file, text in {**written.files, out: written.text}.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as partial:
            Path(partial).write_text(text, encoding='utf-8')


def check_model(text: str) -> None:
    """Build the model of a config: an operator may not fit all layers.

    Raises:
        UserError: the operator's, naming the layer.
    """
    import tempfile

    from mmengine.registry import MODELS

    from mmkerv.engine.config.patches import patched
    from mmkerv.engine.config.read import load_config
    from mmkerv.engine.scope import enter_scope

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'config.py')
        file.write_text(text, encoding='utf-8')
        cfg = load_config(str(file))
    enter_scope(cfg)
    with patched():
        MODELS.build(cfg.model)


if __name__ == '__main__':
    common.run(main)
