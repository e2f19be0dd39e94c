"""Time and memory of the operators relative to nn.Conv2d of the same geometry and to their naive definition.

The layers are those of ResNet-50, HRNet-W18 and MobileNetV3-small at 224 pixels. Ratios are computed within a repeat
(see timing.py).

    python benchmarks/ops.py --compile --naive
    python benchmarks/ops.py --network mobilenet_v3_small --kernels gaussian
    python benchmarks/ops.py --kernels --layers --ckconv
    python benchmarks/ops.py --layers --static --repeats 7
    python benchmarks/ops.py --layers --large-kernels --batch 1 --repeats 5
    python benchmarks/ops.py --layers --dynamic --batch 2 --repeats 7
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

CHECKED = ('polynomial', 'gaussian', 'l2', 'l1')
KERNELS = ('linear', 'sigmoid', 'euclidean', 'manhattan', *CHECKED)
# Batch size of the naive form, whose broadcast takes 3.7 GB at batch 8.
NAIVE_BATCH = 1


class Layer(NamedTuple):
    """Convolution with as many output as input channels, padded to keep the size."""

    channels: int
    side: int
    kernel: int = 3
    groups: int = 1


LAYERS = {
    'resnet50': {'64x56': Layer(64, 56), '128x28': Layer(128, 28), '256x14': Layer(256, 14), '512x7': Layer(512, 7)},
    'hrnet18': {'18x56': Layer(18, 56), '36x28': Layer(36, 28), '72x14': Layer(72, 14), '144x7': Layer(144, 7)},
    'mobilenet_v3_small': {
        'dw72x28': Layer(72, 28, 3, 72),
        'dw96x14 5x5': Layer(96, 14, 5, 96),
        'dw240x14 5x5': Layer(240, 14, 5, 240),
        'dw576x7 5x5': Layer(576, 7, 5, 576),
    },
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    from dynamic_operators import CASES as DYNAMIC
    from record import add_arguments, add_numeric_arguments
    from static_operators import CASES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', choices=LAYERS, default='resnet50', help='network of the layers')
    parser.add_argument('--layers', nargs='*', help='layers, for example 64x56; none: only --ckconv')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--kernels', nargs='*', default=KERNELS, help='kernels of kervolution')
    parser.add_argument('--compile', action='store_true', help='measure each operator also compiled')
    parser.add_argument('--naive', action='store_true', help='measure also the naive form, at batch 1')
    parser.add_argument(
        '--ckconv', nargs='*', choices=('sequences', 'frozen'), help='measure also continuous kernels; default: both'
    )
    parser.add_argument(
        '--static', nargs='*', choices=CASES, help='measure also operators with fixed kernels; default: all of them'
    )
    parser.add_argument(
        '--dynamic',
        nargs='*',
        choices=DYNAMIC,
        help='measure also operators with a kernel for each image, on the layers of --network; default: all of them',
    )
    parser.add_argument('--large-kernels', action='store_true', help="measure also RepLKNet-31's depthwise layers")
    add_numeric_arguments(parser)
    add_arguments(parser, repeats=15)
    args = parser.parse_args()
    known = LAYERS[args.network]
    for given, choices, name in ((args.layers or (), known, 'layers'), (args.kernels, KERNELS, 'kernels')):
        if unknown := [value for value in given if value not in choices]:
            parser.error(f'--{name}: {unknown[0]!r} is not one of {", ".join(choices)}')
    return args


def main() -> None:
    """Measure, print a table, write JSON."""
    args = parse_args()

    import torch
    from record import Record
    from timing import CONTROL
    from torch import nn

    from mmkerv.ops import CoCConv2d, KervConv2d

    record = Record('ops', args)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    for name, layer in LAYERS[args.network].items():
        if args.layers is not None and name not in args.layers:
            continue
        channels = layer.channels
        shape = {'padding': layer.kernel // 2, 'groups': layer.groups, 'bias': False}
        makers = {'conv': nn.Conv2d, CONTROL: nn.Conv2d, 'CoC': CoCConv2d}
        makers |= {kernel: partial(KervConv2d, kernel=kernel) for kernel in args.kernels}
        modules = {form: make(channels, channels, layer.kernel, **shape) for form, make in makers.items()}
        modules = {form: module.to(args.device, memory_format=layout) for form, module in modules.items()}
        if args.compile:
            # All layers share their code, and torch.compile stops compiling a code after a few variants.
            torch._dynamo.reset()
            compiled = {f'{form} compiled': torch.compile(m) for form, m in modules.items() if form != CONTROL}
            modules |= compiled
        # The cheapest pass over the output, a lower bound for any pointwise kernel.
        modules['conv, ReLU'] = nn.Sequential(copy.deepcopy(modules['conv']), nn.ReLU())
        x = torch.randn(args.batch, channels, layer.side, layer.side, device=args.device)
        measure(f'{name} b{args.batch}', modules, x.contiguous(memory_format=layout), record)
        if args.naive:
            measure_naive(name, layer, x[:NAIVE_BATCH], record)
    if args.ckconv is not None:
        from ckconv import measure_ckconv

        measure_ckconv(measure, record)
    if args.static is not None or args.large_kernels:
        from static_operators import measure_large_kernels, measure_static

        if args.static is not None:
            measure_static(measure, record)
        if args.large_kernels:
            measure_large_kernels(measure, record)
    if args.dynamic is not None:
        from dynamic_operators import measure_dynamic

        measure_dynamic(measure, record, LAYERS[args.network])
    record.write()


def measure(case: str, modules: dict[str, Callable], x: Any, record: Any, repeats: int | None = None) -> dict:
    """Measure time and peak memory of all modules; the first is the reference. Return the seconds of fwd+bwd."""
    import torch
    from timing import CONTROL, interleaved, ratio

    from mmkerv.analysis.memory import peak_bytes

    args, reference = record.args, next(iter(modules))
    x = x.clone().requires_grad_()

    def forward(module: Callable) -> Any:
        with torch.autocast(x.device.type, getattr(torch, args.amp or 'float32'), enabled=args.amp is not None):
            return module(x)

    def both(module: Callable) -> None:
        forward(module).sum().backward()

    plain = peak_bytes(partial(both, modules[reference]), x.device)
    output = forward(modules[reference]).float().nbytes
    for kind, function in (('forward', forward), ('fwd+bwd', both)):
        times = interleaved({n: partial(function, m) for n, m in modules.items()}, repeats or args.repeats)
        control = ratio(times, CONTROL, reference).median if CONTROL in modules else None
        for name, module in modules.items():
            figures = {'seconds': sorted(times[name])[len(times[name]) // 2]}
            if kind == 'fwd+bwd':
                figures['extra_outputs'] = (peak_bytes(partial(both, module), x.device) - plain) / output
            record.add(f'{case}, {kind}', name, ratio(times, name, reference), control, **figures)
    return times


def measure_naive(name: str, layer: Layer, x: Any, record: Any) -> None:
    """Compare kervolution with the naive form, which broadcasts every patch to every filter."""
    from torch import nn

    from mmkerv.ops import KervConv2d

    class Naive(nn.Module):
        def __init__(self, fast: KervConv2d):
            super().__init__()
            self.fast = fast

        def forward(self, x: Any) -> Any:
            fast, groups = self.fast, layer.groups
            patches = nn.functional.unfold(x, layer.kernel, padding=layer.kernel // 2)
            patches = patches.view(len(x), groups, 1, -1, patches.shape[-1])
            weight = fast.weight.view(1, groups, -1, patches.shape[3], 1)
            if fast.kernel_name == 'polynomial':
                y = ((patches * weight).sum(3) + fast.balance) ** fast.degree
            elif fast.kernel_name == 'l1':
                y = (patches - weight).abs().sum(3)
            else:
                y = (patches - weight).square().sum(3)
                y = (-fast.gamma * y).exp() if fast.kernel_name == 'gaussian' else y
            return y.view(len(x), -1, *x.shape[2:])

    shape = {'padding': layer.kernel // 2, 'groups': layer.groups, 'bias': False}
    for kernel in (kernel for kernel in record.args.kernels if kernel in CHECKED):
        fast = KervConv2d(layer.channels, layer.channels, layer.kernel, kernel=kernel, **shape).to(x.device)
        measure(f'{name} b{len(x)}', {kernel: fast, f'{kernel} naive': Naive(fast)}, x, record, repeats=3)


if __name__ == '__main__':
    main()
