"""Draw the kernels of a network: ``vis_kernel.py CONFIG CHECKPOINT [--target-layers NAME ...]``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkerv.cli import common
from mmkerv.cli.network import NetworkParser
from mmkerv.config_files import config_name
from mmkerv.image_files import find_images
from mmkerv.work_folder import require_not_read


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = NetworkParser(
        description='Draw the kernels of each operator: of a CoCConv before and after association with its super '
        'kernels, of a CKConv the continuous kernel with its samples, of a KANConv the learned functions, of a '
        'KervConv the filters, and all layers on one contact sheet; or their spectra; or what an image gets from '
        'operators whose kernel depends on it'
    )
    parser.add_network()
    parser.add_argument(
        '--target-layers',
        nargs='+',
        metavar='NAME',
        help='operators, modules that contain operators, or plain convolutions; default: all operators',
    )
    parser.add_argument(
        '--topk',
        type=int,
        help='number of filters (or association groups), those with the largest norm; default: the first ones',
    )
    parser.add_argument('--what', choices=['kernels', 'spectra'], default='kernels', help='what to draw (%(default)s)')
    parser.add_argument(
        '--image',
        metavar='FILE',
        help='draw what this image gets from each CondConv or FDConv: which experts or frequency bands fire, the '
        'gates, and where the bands of the feature maps gain',
    )
    parser.add_argument(
        '--colours',
        choices=['signed', 'range'],
        default='signed',
        help='one scale for each group or filter with zero in the middle, or each kernel from its own minimum to its '
        'own maximum, as in Figure 9 of the CoC paper (%(default)s)',
    )
    parser.add_argument(
        '--save-path',
        metavar='DIR_OR_FILE',
        help='folder for a picture of each layer, or the file of a single one; '
        'default work_dirs/NAME_OF_CONFIG/kernels',
    )
    parser.add_argument('--format', choices=['png', 'svg'], help='format of pictures in a folder (default png)')
    parser.add_argument('--arrays', metavar='FILE.npz', help='also write the drawn values, as arrays LAYER/ARRAY')
    parser.add_argument('--preview-model', action='store_true', help='print the layers of the model and exit')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if args.format and args.save_path and Path(args.save_path).suffix:
        parser.error(f'--format is for pictures in a folder, not for the file {args.save_path!r}: leave it out')
    args.format = args.format or 'png'
    if args.topk is not None and args.topk < 1:
        parser.error(f'--topk must be >= 1, got {args.topk}')
    if args.arrays and Path(args.arrays).suffix != '.npz':
        parser.error(f'--arrays must end in .npz, got {args.arrays!r}')
    if args.what == 'spectra' and args.colours != 'signed':
        parser.error('--colours is for --what kernels: leave it out')
    if args.image is not None:
        others = {'--topk': args.topk, '--what': args.what != 'kernels', '--colours': args.colours != 'signed'}
        for flag in (flag for flag, given in others.items() if given):
            parser.error(f'{flag} is for pictures without --image: leave it out')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Load, draw, write."""
    args = parse_args(argv)
    if args.image is not None:
        find_images([args.image], '--image')
        if args.save_path:
            require_not_read([args.save_path], [args.image], '--save-path')

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv import visualization
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.visualization import kernel_figures, pictures

    apply_patches(trust=args.trust_checkpoint)
    cfg, model = load_trained(args.config, args.checkpoint, args.cfg_options, trust=args.trust_checkpoint)
    if args.preview_model:
        print(model)
        return
    if args.image is not None:
        draw_image(args, cfg, model)
        return
    layers = kernel_figures.kernel_layers(model, args.target_layers)
    out = args.save_path or f'work_dirs/{config_name(args.config)}/kernels'
    kernels = args.what == 'kernels'
    files = kernel_figures.picture_files(out, layers, args.format, '' if kernels else '_spectra')
    options = {'colours': args.colours} if kernels else {}
    draw = visualization.kernel_figure if kernels else visualization.spectrum_figure
    measure = visualization.kernel_arrays if kernels else visualization.spectrum_arrays
    arrays = {}
    for name, layer in layers.items():
        pictures.save_figure(draw(layer, name, args.topk, **options), files[name])
        print(f'wrote {files[name]}', flush=True)
        if args.arrays:
            arrays |= {f'{name}/{key}': values for key, values in measure(layer, args.topk).items()}
    if kernels and len(layers) > 1:
        sheet = Path(out) / f'contact_sheet.{args.format}'
        pictures.save_figure(
            visualization.contact_sheet(layers, f'{config_name(args.config)}: {len(layers)} layers'), sheet
        )
        print(f'wrote {sheet}')
    if args.arrays:
        pictures.save_arrays(args.arrays, **arrays)
        print(f'wrote {args.arrays}')


def draw_image(args: argparse.Namespace, cfg: Any, model: Any) -> None:
    """Run the network on the image, and draw what the image gets from each operator whose kernel depends on it."""
    import inspect

    import torch

    from mmkerv import visualization
    from mmkerv.deploy.trained_model import load_image
    from mmkerv.models.layers import find_operators
    from mmkerv.ops.core.dynamic import DynamicKernel
    from mmkerv.visualization import feature_maps, kernel_figures, pictures

    kind = 'operator whose kernel depends on the image'
    layers = find_operators(model, args.target_layers, DynamicKernel, kind, 'mmkerv.CondConv')
    out = args.save_path or f'work_dirs/{config_name(args.config)}/kernels'
    files = kernel_figures.picture_files(out, layers, args.format, f'_{Path(args.image).stem}')
    data = load_image(model, cfg, args.image)
    inputs, samples = data['inputs'], data['data_samples']
    given: dict[str, tuple] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, passed: tuple, named: dict[str, Any]) -> None:
            inputs = inspect.signature(module.forward).bind(*passed, **named).args
            # A head calls its layers for no samples too, where nothing is detected.
            if len(inputs[0]):
                given.setdefault(name, inputs)

        return hook

    handles = [layer.register_forward_pre_hook(keep(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            feature_maps.forward(model, inputs, samples)
    finally:
        for handle in handles:
            handle.remove()
    picture = pictures.input_picture(model, inputs, samples[0])
    shares = tuple(part / whole for part, whole in zip(picture.shape, inputs.shape[2:]))
    arrays = {}
    for name, layer in layers.items():
        if name not in given:
            print(f'{name}: the image does not pass through it')
            continue
        x, *others = given[name]
        title = f'{kernel_figures.title_of(layer, name)}: what {Path(args.image).name} gets'
        figure = visualization.image_figure(layer, x, title, picture, shares, tuple(others))
        pictures.save_figure(figure, files[name])
        print(f'wrote {files[name]}', flush=True)
        if args.arrays:
            values = visualization.image_arrays(layer, x, *others)
            arrays |= {f'{name}/{key}': array for key, array in values.items()}
    if args.arrays:
        pictures.save_arrays(args.arrays, **arrays)
        print(f'wrote {args.arrays}')


if __name__ == '__main__':
    common.run(main)
