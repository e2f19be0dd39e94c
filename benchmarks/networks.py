"""Time of a training step and of inference of whole networks, plain against operator, in one process.

Each repeat runs one step of every form, and ratios to the plain network are taken within a repeat; "A/A" is a second
plain network: how far a ratio of 1 strays on this machine. Printed are the median and its 95 % interval (by order
statistics). Models are those of configs/ with synthetic input of the given batch and size.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
# The first of each is the plain network.
NETWORKS = {
    'resnet50': {
        'plain': 'resnet50_nesterov_imagenet',
        'coc': 'resnet50_coc_imagenet',
        'coc recompute': 'resnet50_coc_imagenet',
        'orth': 'resnet50_orth_imagenet',
        'stnd': 'resnet50_stnd_imagenet',
        'kerv stem': 'resnet50_kerv_imagenet',
        'ck': 'resnet50_ck_imagenet',
    },
    'hrnet18': {'plain': 'hrnet18_imagenet', 'coc': 'hrnet18_coc_imagenet', 'orth': 'hrnet18_orth_imagenet'},
    'shufflenet_v2': {'plain': 'shufflenet_v2_imagenet', 'coc': 'shufflenet_v2_coc_imagenet'},
    'mobilenet_v3_small': {'plain': 'mobilenet_v3_small_imagenet', 'coc': 'mobilenet_v3_small_coc_imagenet'},
    'retinanet_r50': {'plain': 'retinanet_r50', 'coc': 'retinanet_r50_coc', 'orth': 'retinanet_r50_orth'},
    'fcn_r50d8': {'plain': 'fcn_r50d8_voc', 'coc': 'fcn_r50d8_coc_voc', 'orth': 'fcn_r50d8_orth_voc'},
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('network', choices=NETWORKS)
    parser.add_argument('--forms', nargs='+', help='of the network; default: all it has')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, default=224, help='height and width of the images')
    parser.add_argument('--repeats', type=int, default=11)
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--amp', choices=['bfloat16', 'float16'], help='under autocast')
    parser.add_argument('--inference', action='store_true', help='time inference in eval mode instead of training')
    parser.add_argument('--json', type=Path, help='write the figures there too')
    args = parser.parse_args()
    unknown = [form for form in args.forms or () if form not in NETWORKS[args.network]]
    if unknown:
        parser.error(f'--forms: {args.network} has {", ".join(NETWORKS[args.network])}, got {unknown[0]!r}')
    return args


def main() -> None:
    """Measure, print a table, write JSON."""
    args = parse_args()

    import torch
    from memory import peak_bytes
    from ops import describe
    from torch.utils.benchmark import Timer

    if args.device.startswith('cuda') and not torch.cuda.is_available():
        sys.exit(f'--device {args.device}: torch sees no CUDA device; leave --device out to measure the CPU')
    chosen = NETWORKS[args.network]
    forms = {'plain': chosen['plain'], 'A/A': chosen['plain']}
    forms |= {form: config for form, config in chosen.items() if form in (args.forms or chosen)}
    steps = {form: step(config, args, form.endswith('recompute')) for form, config in forms.items()}
    times = {form: [] for form in forms}
    for repeat in range(args.repeats + 2):
        for form, run in steps.items():
            seconds = Timer('run()', globals={'run': run}, num_threads=torch.get_num_threads()).timeit(1).mean
            # The first two warm up.
            if repeat > 1:
                times[form].append(seconds)
    what = 'inference' if args.inference else 'training step'
    about = f'{describe(args)}; {args.network}, {what}, {args.size} x {args.size}'
    print(f'{about}\n{"form":14} {"seconds":>8} {"ratio":>6} {"95 % interval":>15} {"memory":>7}')
    rows, device = [], torch.device(args.device)
    memory = {form: peak_bytes(run, device) for form, run in steps.items()}
    for form in forms:
        ratios = [a / b for a, b in zip(times[form], times['plain'])]
        low, high = interval(ratios)
        rows.append(
            {'form': form, 'seconds': statistics.median(times[form]), 'ratio': statistics.median(ratios)}
            | {'low': low, 'high': high, 'memory': memory[form] / memory['plain']}
        )
        print(
            f'{form:14} {rows[-1]["seconds"]:8.3f} {rows[-1]["ratio"]:6.3f} {low:7.3f}-{high:<7.3f} '
            f'{rows[-1]["memory"]:7.3f}'
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({'about': about, 'rows': rows}, indent=1))


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median: order statistics by the binomial distribution."""
    ordered, n = sorted(values), len(values)
    below, tail = 0, 0.0
    while (tail := tail + math.comb(n, below) / 2**n) <= 0.025:
        below += 1
    lowest = max(below - 1, 0)
    return ordered[lowest], ordered[n - 1 - lowest]


def step(config: str, args: argparse.Namespace, recompute: bool = False):
    """Return a function that runs one training step, or inference, of a config's network."""
    import torch
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import HOOKS, MODELS, init_default_scope

    from mmkerv.engine.configuration import load_config

    cfg = load_config(str(ROOT / 'configs' / f'{config}.py'))
    init_default_scope(cfg.default_scope)
    model_cfg = cfg.model
    model_cfg.pop('pretrained', None)
    model_cfg.backbone.pop('init_cfg', None)
    if recompute:
        model_cfg.backbone.conv_cfg.recompute = True
    preprocessor = model_cfg.pop('data_preprocessor', None)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(model_cfg)).to(args.device)
    inputs, samples = batch(cfg.default_scope, preprocessor or cfg.data_preprocessor, args)
    kind = torch.device(args.device).type

    def autocast():
        return torch.autocast(kind, getattr(torch, args.amp or 'float32'), enabled=args.amp is not None)

    if args.inference:
        model.eval()

        def infer() -> None:
            with torch.inference_mode(), autocast():
                model(inputs, samples, mode='tensor')

        return infer

    for hook in cfg.get('custom_hooks') or []:
        if hook.type == 'mmkerv.OrthogonalityHook':
            HOOKS.build(hook).before_train(SimpleNamespace(model=model))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    model.train()

    def train() -> None:
        with autocast():
            loss, _ = model.parse_losses(model(inputs, samples, mode='loss'))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def batch(scope: str, preprocessor: dict, args: argparse.Namespace):
    """Return synthetic inputs (N, 3, H, W) and samples of a library."""
    import torch

    size = (args.size, args.size)
    inputs = torch.randn(args.batch, 3, *size, device=args.device)
    if scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        samples = demo_mm_inputs(args.batch, [[3, *size]] * args.batch, num_classes=80)['data_samples']
        for sample in samples:
            sample.set_metainfo({'batch_input_shape': size, 'pad_shape': size})
        return inputs, [sample.to(args.device) for sample in samples]
    if scope == 'mmseg':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        labels = torch.randint(21, (args.batch, 1, *size), device=args.device)
        return inputs, [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    from mmpretrain.structures import DataSample

    labels = torch.randint(preprocessor['num_classes'], (args.batch,)).tolist()
    return inputs, [DataSample().set_gt_label(label).to(args.device) for label in labels]


if __name__ == '__main__':
    main()
