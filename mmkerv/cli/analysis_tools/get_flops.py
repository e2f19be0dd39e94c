"""Count multiply-adds and parameters of a config's network: ``get_flops.py CONFIG [--shape H W | --num-images N]``."""

import argparse
from collections.abc import Sequence

from mmkerv.cli import common
from mmkerv.cli.network import network_files


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the flags are upstream's."""
    parser = argparse.ArgumentParser(
        description='Count multiply-adds of an image, of generating the kernels and of the folded network'
    )
    parser.add_argument('config', help='config file, or the work folder of a training')
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        '--shape', type=int, nargs='+', metavar='SIZE', help='height and width; default those of the test pipeline'
    )
    size.add_argument('--num-images', type=int, metavar='N', help='mean over the sizes of the first N test images')
    common.add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.num_images is not None and args.num_images < 1:
        parser.error(f'--num-images must be >= 1, got {args.num_images}')
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape takes H W or one side, each >= 1, got {" ".join(map(str, args.shape))}')
    args.config = network_files(args.config, needed=False)[0]
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Build, count, print."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmengine.analysis.print_helper import _format_size

    from mmkerv.analysis.complexity import Complexity, complexity
    from mmkerv.analysis.speed import image_shapes
    from mmkerv.deploy.image_size import pipeline_shape
    from mmkerv.deploy.model_outputs import image_channels
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.ops.core.dynamic import DynamicKernel

    cfg, model = load_trained(args.config, None, args.cfg_options)
    apply_patches(cfg.get('default_scope'))
    if args.num_images:
        shapes = image_shapes(cfg, model, args.num_images)
    else:
        shapes = [(args.shape[0], args.shape[-1]) if args.shape else pipeline_shape(cfg, model)]
    # Images of a size cost the same, and counting takes a while.
    counts = {shape: complexity(model, shape) for shape in dict.fromkeys(shapes)}
    mean = Complexity(*(sum(part) // len(shapes) for part in zip(*(counts[shape] for shape in shapes))))
    bar = '=' * 30
    sizes = ', '.join(str((image_channels(model, shape), *shape)) for shape in counts)
    print(f'{bar}\nInput shape: {sizes}' + (f', the mean of {len(shapes)} images' if args.num_images else ''))
    folds = (mean.folded, mean.folded_parameters) != (mean.image + mean.kernels, mean.parameters)
    for label, value, shown in (
        ('Flops of an image', mean.image, True),
        ('Flops of generating the kernels, once a step', mean.kernels, True),
        ('Flops of an image after folding', mean.folded, folds),
        ('Params', mean.parameters, True),
        ('Params after folding', mean.folded_parameters, folds),
    ):
        if shown:
            print(f'{label}: {_format_size(value)}')
    print(
        f'{bar}\nFlops are multiply-adds of convolutions, matrix products and Fourier transforms; elementwise '
        'functions are not counted.'
    )
    if any(isinstance(m, DynamicKernel) for m in model.modules()):
        print('Those of an image include its own kernels and gates: some operators compute a kernel for each image.')


if __name__ == '__main__':
    common.run(main)
