"""Time and memory of the operators against nn.Conv2d of the same geometry and against their naive definition.

Ratios are medians over interleaved repeats in one process: each repeat times every form once, and a ratio is taken
within a repeat. "A/A" is a second, equal nn.Conv2d: how far a ratio of 1 strays on this machine.
"""

import argparse
import json
import statistics
import sys
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

# Channels and side of the 3x3 convolutions of ResNet-50 at 224 pixels.
LAYERS = {'64x56': (64, 56), '128x28': (128, 28), '256x14': (256, 14), '512x7': (512, 7)}
KERNELS = ('linear', 'polynomial', 'sigmoid', 'gaussian', 'l2', 'euclidean', 'l1', 'manhattan')
# What the naive form is measured for: one broadcast at batch 8 is 3.7 GB.
NAIVE_BATCH = 1


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--threads', type=int, help="torch's threads; default: its own choice")
    parser.add_argument('--amp', choices=['bfloat16', 'float16'], help='under autocast')
    parser.add_argument('--kernels', nargs='*', default=KERNELS)
    parser.add_argument('--layers', nargs='*', default=tuple(LAYERS), choices=tuple(LAYERS))
    parser.add_argument('--naive', action='store_true', help='also the naive form, at batch 1')
    parser.add_argument('--ckconv', action='store_true', help='also continuous kernels: sequences, and 7x7 frozen')
    parser.add_argument('--json', type=Path, help='write the figures there too')
    return parser.parse_args()


def main() -> None:
    """Measure, print a table, write JSON."""
    args = parse_args()

    import torch
    from torch import nn

    from mmkerv.ops import CoCConv2d, KervConv2d

    if args.device.startswith('cuda') and not torch.cuda.is_available():
        sys.exit(f'--device {args.device}: torch sees no CUDA device; leave --device out to measure the CPU')
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    head = f'{"layer":8} {"form":12} {"forward":>9} {"fwd+bwd":>9} {"range":>15} {"extra memory":>13}'
    print(f'{describe(args)}\n{head}', flush=True)
    for layer in args.layers:
        channels, side = LAYERS[layer]
        x = torch.randn(args.batch, channels, side, side, device=args.device)
        forms = {'conv': nn.Conv2d, 'A/A': nn.Conv2d, 'CoC': CoCConv2d}
        modules = {name: make(channels, channels, 3, padding=1, bias=False) for name, make in forms.items()}
        modules |= {k: KervConv2d(channels, channels, 3, padding=1, bias=False, kernel=k) for k in args.kernels}
        modules = {name: module.to(args.device) for name, module in modules.items()}
        rows += measure(layer, modules, x, args)
        if args.naive:
            rows += measure_naive(layer, channels, x[:NAIVE_BATCH], args)
    if args.ckconv:
        from ckconv import measure_ckconv

        rows += measure_ckconv(measure, args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({'about': describe(args), 'rows': rows}, indent=1))


def describe(args: argparse.Namespace) -> str:
    """Hardware, versions, date and setting in a line."""
    import torch

    from mmkerv.version import __version__

    device = (
        torch.cuda.get_device_name() if args.device.startswith('cuda') else f'{torch.get_num_threads()} CPU threads'
    )
    when = datetime.now(timezone.utc).date()
    kind = f'autocast {args.amp}' if args.amp else 'float32'
    return f'{when}, {device}, torch {torch.__version__}, mmkerv {__version__}, batch {args.batch}, {kind}'


def measure(layer: str, modules: dict, x, args: argparse.Namespace, repeats: int | None = None) -> list[dict]:
    """Time all modules in interleaved repeats; the first is what the others are held against."""
    import torch
    from memory import peak_bytes
    from torch.utils.benchmark import Timer

    reference = next(iter(modules))
    x = x.clone().requires_grad_()

    def forward(module):
        with torch.autocast(x.device.type, getattr(torch, args.amp or 'float32'), enabled=args.amp is not None):
            return module(x)

    def both(module):
        forward(module).sum().backward()

    times = {name: {'forward': [], 'both': []} for name in modules}
    for repeat in range((repeats or args.repeats) + 1):
        for name, module in modules.items():
            for kind, function in (('forward', forward), ('both', both)):
                timer = Timer(
                    'function(module)',
                    globals={'function': function, 'module': module},
                    num_threads=torch.get_num_threads(),
                )
                # What ran in between has emptied the caches: one call before those that count.
                once = timer.timeit(1).mean
                seconds = timer.timeit(max(1, min(10, int(0.05 / once))))
                # The first repeat warms up.
                if repeat:
                    times[name][kind].append(seconds.mean)
    rows = []
    plain = peak_bytes(partial(both, modules[reference]), x.device)
    output = forward(modules[reference]).float().nbytes
    for name, module in modules.items():
        ratio = {
            kind: [a / b for a, b in zip(times[name][kind], times[reference][kind])] for kind in ('forward', 'both')
        }
        extra = (peak_bytes(partial(both, module), x.device) - plain) / output
        row = {'layer': layer, 'form': name, 'seconds': statistics.median(times[name]['both']), 'extra': extra}
        row |= {kind: statistics.median(values) for kind, values in ratio.items()}
        row['range'] = [min(ratio['both']), max(ratio['both'])]
        rows.append(row)
        print(
            f'{layer:8} {name:12} {row["forward"]:9.2f} {row["both"]:9.2f} '
            f'{row["range"][0]:7.2f}-{row["range"][1]:<7.2f} {extra:9.2f} out',
            flush=True,
        )
    return rows


def measure_naive(layer: str, channels: int, x, args: argparse.Namespace) -> list[dict]:
    """Hold polynomial and gaussian against the form that writes out every patch for every filter."""
    from torch import nn

    from mmkerv.ops import KervConv2d

    class Naive(nn.Module):
        def __init__(self, fast: KervConv2d):
            super().__init__()
            self.fast = fast

        def forward(self, x):
            patches = nn.functional.unfold(x, 3, padding=1).unsqueeze(1)
            weight = self.fast.weight.flatten(1).unsqueeze(-1)
            if self.fast.kernel == 'gaussian':
                y = (-self.fast.gamma * (patches - weight).square().sum(2)).exp()
            else:
                y = ((patches * weight).sum(2) + self.fast.balance) ** self.fast.degree
            return y.view(len(x), -1, *x.shape[2:])

    rows = []
    for kernel in ('polynomial', 'gaussian'):
        fast = KervConv2d(channels, channels, 3, padding=1, bias=False, kernel=kernel).to(x.device)
        name = f'{kernel}, batch {len(x)}'
        rows += measure(layer, {name: fast, f'{kernel}, naive': Naive(fast)}, x, args, repeats=3)
    return rows


if __name__ == '__main__':
    main()
