"""Predict on images: ``predict.py CONFIG CHECKPOINT IMAGES ...``, or ``predict.py WORK_DIR IMAGES ...``."""

import argparse
import json
from collections.abc import Sequence
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from mmkerv.cli import common
from mmkerv.cli.network import CHECKPOINT_HELP, CHECKPOINTS, CONFIG_HELP, NetworkParser, network_files
from mmkerv.config_files import config_name
from mmkerv.image_files import find_images
from mmkerv.work_folder import require_not_read

SCORE, TOPK = 0.3, 5
# Names of what is written.
RECORDS, PICTURES, MAPS = 'predictions.json', 'pictures', 'maps'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = NetworkParser(
        description='Predict on images with a trained or folded detector, segmentor or classifier: pictures with the '
        'predictions drawn in, maps of classes, and predictions.json with boxes, masks (COCO RLE) or probabilities'
    )
    parser.add_argument('config', help=CONFIG_HELP)
    parser.add_argument('checkpoint', nargs='?', help=CHECKPOINT_HELP)
    parser.add_argument('images', nargs='*', help="image files, folders of images, and patterns such as 'DIR/**/*.jpg'")
    parser.add_argument(
        '--out-dir', metavar='DIR', help='folder to write; default WORK_DIR/predictions or work_dirs/CONFIG/predictions'
    )
    parser.add_argument(
        '--score-thr', type=float, metavar='S', help=f'lowest score of the instances of a detector (default {SCORE})'
    )
    parser.add_argument('--topk', type=int, metavar='K', help=f'number of classes of a classifier (default {TOPK})')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='images at a time (%(default)s)')
    parser.add_argument('--no-pictures', action='store_true', help='write predictions.json and maps alone')
    parser.add_argument('--device', help='cpu, cuda, cuda:1 ...; by default a GPU if there is one')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    args.work_folder = args.config if Path(args.config).is_dir() else None
    if args.work_folder and args.checkpoint and not args.checkpoint.endswith(CHECKPOINTS):
        args.checkpoint, args.images = None, [args.checkpoint, *args.images]
    if not args.work_folder and (not args.checkpoint or (guess_type(args.checkpoint)[0] or '').startswith('image/')):
        parser.error('give CONFIG CHECKPOINT IMAGES ..., or the work folder of a training and IMAGES ...')
    if not args.images:
        parser.error('no image: give files, folders or patterns after the network')
    if args.batch_size < 1 or (args.topk is not None and args.topk < 1):
        parser.error(f'--batch-size and --topk must be >= 1, got {args.batch_size} and {args.topk or TOPK}')
    if args.score_thr is not None and not 0 <= args.score_thr <= 1:
        parser.error(f'--score-thr must be from 0 to 1, got {args.score_thr}')
    args.config, args.checkpoint = network_files(args.config, args.checkpoint)
    default = Path(args.work_folder or Path('work_dirs', config_name(args.config)), 'predictions')
    args.out_dir = Path(args.out_dir or default)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Load, predict, draw, write."""
    args = parse_args(argv)
    files = find_images(args.images)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmengine.device import get_device

    from mmkerv.analysis import predictions as found
    from mmkerv.analysis.drawing import draw, readable, visualizer_of
    from mmkerv.deploy.trained_model import dataset_meta, load_trained
    from mmkerv.engine.checkpoint.atomic_write import atomic_path
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.errors import ConfigError

    out, names = args.out_dir, found.distinct_names(files)
    written = [out / f'{folder}/{name}.png' for name in names for folder in (PICTURES, MAPS)]
    require_not_read(written, files, '--out-dir')
    apply_patches(trust=args.trust_checkpoint)
    device = args.device or get_device()
    cfg, model = load_trained(args.config, args.checkpoint, args.cfg_options, device, args.trust_checkpoint)
    refuse_unused(args, cfg)
    meta = dataset_meta(cfg, args.checkpoint, args.trust_checkpoint)
    visualizer = None if args.no_pictures else visualizer_of(cfg)
    records, unreadable = [], []
    for name, predicted in zip(names, found.predictions(cfg, model, files, args.batch_size)):
        if predicted.problem:
            unreadable.append({'image': str(predicted.file), 'problem': predicted.problem})
            print(f'{predicted.file}: not read: {predicted.problem}', flush=True)
            continue
        least = SCORE if args.score_thr is None else args.score_thr
        sample = found.kept(predicted.sample, least, args.topk or TOPK)
        content, classes = found.record(sample, meta.get('classes'))
        height, width = predicted.image.shape[:2]
        line = {'image': str(predicted.file), 'width': width, 'height': height, **content}
        if classes is not None:
            line['map'] = f'{MAPS}/{name}.png'
            save(classes, out / line['map'])
        if visualizer:
            line['picture'] = f'{PICTURES}/{name}.png'
            labels = [part['label'] for parts in content.values() for part in parts]
            shown = readable(meta, max(labels, default=-1) + 1)
            save(draw(visualizer, predicted.image, sample, shown, predicted=True), out / line['picture'])
        records.append(line)
        if content.get('instances') == [] and 'segments' not in content:
            words = found.none_kept(predicted.sample, f'--score-thr {least:g}')
        else:
            words = found.in_words(content)
        print(f'{predicted.file}: {words}', flush=True)
    network_facts = {'config': args.config, 'checkpoint': args.checkpoint, 'classes': meta.get('classes')}
    with atomic_path(out / RECORDS) as partial:
        partial.write_text(json.dumps({**network_facts, 'images': records, 'unreadable': unreadable}, indent=1) + '\n')
    print(f'{len(records)} of {len(files)} images; wrote {out / RECORDS}')
    if unreadable:
        raise ConfigError(
            f'{len(unreadable)} of {len(files)} images could not be read, such as {unreadable[0]["image"]}: '
            f'{unreadable[0]["problem"]}. The others are in {out}'
        )


def refuse_unused(args: argparse.Namespace, cfg: Any) -> None:
    """Refuse the flags of networks of another kind."""
    from mmkerv.engine.config.evaluation import DETECTION
    from mmkerv.engine.scope import library_of
    from mmkerv.errors import ConfigError

    library = library_of(cfg)
    for flag, value, used in (
        ('--score-thr', args.score_thr, library in DETECTION),
        ('--topk', args.topk, library == 'mmpretrain'),
    ):
        if value is not None and not used:
            kind = 'detectors' if flag == '--score-thr' else 'classifiers'
            raise ConfigError(f'{flag} is for {kind}, and the network is one of {library}: leave it out')


def save(array: Any, path: Path) -> None:
    """Write an array (H, W) or (H, W, 3) as PNG."""
    from PIL import Image

    from mmkerv.engine.checkpoint.atomic_write import atomic_path

    with atomic_path(path) as partial:
        Image.fromarray(array).save(partial, format='PNG')


if __name__ == '__main__':
    common.run(main)
