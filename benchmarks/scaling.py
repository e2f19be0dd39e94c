"""Growth of the operators' memory and time with batch, resolution and channels, and memory kept for backward.

One size varies at a time, the others are 64 channels, 56 x 56 pixels and batch 4. The exponent p of a size is that of
``value ~ size**p``, by least squares of the logarithms. Peak memory is that of forward and backward without the
parameters.

    python benchmarks/scaling.py
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

SIZES = {'batch': (1, 2, 4, 8), 'pixels': (14, 28, 56, 112), 'channels': (16, 32, 64, 128)}
# The sizes that do not vary.
AT = {'batch': 4, 'pixels': 56, 'channels': 64}
KERNELS = ('polynomial', 'sigmoid', 'gaussian', 'l2', 'euclidean', 'l1')
# Of the cases of ops.py --static and --dynamic.
OTHERS = (
    'dcls',
    'reparam repvgg',
    'smp',
    'weighted',
    'shiftwise',
    'inception',
    'mix',
    'partial',
    'lowrank',
    'kan',
    'recursive',
    'condconv',
    'fdconv',
)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    from record import add_arguments, add_numeric_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--operators', nargs='+', choices=list(operators()), default=list(operators()))
    add_numeric_arguments(parser)
    add_arguments(parser, repeats=3)
    return parser.parse_args()


def main() -> None:
    """Measure, print a table, write JSON."""
    from record import Record
    from timing import Ratio

    args = parse_args()
    record = Record('scaling', args)
    for name in args.operators:
        make = operators()[name]
        costs = {axis: [cost(make, record, **{**AT, axis: size}) for size in SIZES[axis]] for axis in SIZES}
        report(name, costs, record)
        x, module = input_and_operator(make, record, **AT)
        kept = kept_bytes(module, x) / module(x).nbytes
        record.add('kept for backward, outputs', name, Ratio(kept, kept, kept))
        del x, module
    record.write()


def operators() -> dict[str, Callable]:
    """Return functions by name that build an operator of a number of input and output channels."""
    import dynamic_operators
    import static_operators
    from torch import nn

    from mmkerv import ops

    makers = {'conv': nn.Conv2d, 'CoC': ops.CoCConv2d, 'CoC recompute': partial(ops.CoCConv2d, recompute=True)}
    makers |= {kernel: partial(ops.KervConv2d, kernel=kernel) for kernel in KERNELS}
    makers |= {'CKConv': ops.CKConv2d, 'CKConv separable': partial(ops.CKConv2d, separable=True)}
    found = {name: partial(_square, make) for name, make in makers.items()}
    for name in OTHERS:
        case = {**static_operators.CASES, **dynamic_operators.CASES}[name]
        make = partial(getattr(ops, case.operator), **case.options)
        found[name] = partial(_square, make, kernel=case.kernel, depthwise=getattr(case, 'depthwise', False))
    return found


def _square(make: Callable, channels: int, kernel: int = 3, depthwise: bool = False) -> Any:
    groups = channels if depthwise else 1
    return make(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False)


def input_and_operator(make: Callable, record: Any, batch: int, pixels: int, channels: int) -> tuple[Any, Any]:
    """Return an input that requires a gradient, and the operator."""
    import torch

    layout = torch.channels_last if record.args.channels_last else torch.contiguous_format
    x = torch.randn(batch, channels, pixels, pixels, device=record.args.device).contiguous(memory_format=layout)
    return x.requires_grad_(), make(channels).to(record.args.device, memory_format=layout)


def cost(make: Callable, record: Any, **sizes: int) -> tuple[float, float]:
    """Return the peak bytes and the median seconds of forward and backward."""
    import torch
    from timing import interleaved

    from mmkerv.analysis.memory import peak_bytes

    amp = record.args.amp
    x, module = input_and_operator(make, record, **sizes)

    def step() -> None:
        with torch.autocast(x.device.type, getattr(torch, amp or 'float32'), enabled=amp is not None):
            y = module(x)
        y.sum().backward()

    seconds = interleaved({'step': step}, record.args.repeats, warmup=1)['step']
    x.grad = None
    module.zero_grad()
    return peak_bytes(step, x.device), statistics.median(seconds)


def report(name: str, costs: dict[str, list[tuple[float, float]]], record: Any) -> None:
    """Record the exponents of an operator."""
    from timing import exponent

    exponents = {}
    for axis, values in costs.items():
        # The size of an image is the square of its side.
        sizes = [size**2 for size in SIZES[axis]] if axis == 'pixels' else list(SIZES[axis])
        peaks, seconds = zip(*values)
        exponents[axis] = {'memory': exponent(sizes, peaks), 'time': exponent(sizes, seconds)}
    text = ', '.join(f'{axis}^{p["memory"]:.2f} (time {p["time"]:.2f})' for axis, p in exponents.items())
    record.note(f'{name:18} memory ~ {text}', operator=name, exponents=exponents)


def kept_bytes(module: Any, x: Any) -> int:
    """Return the bytes kept between forward and backward, without the input, the parameters and the buffers."""
    from torch.autograd.graph import saved_tensors_hooks

    storages: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x)
    excluded = {t.untyped_storage().data_ptr() for t in _tensors(module, x)}
    size = sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in excluded)
    y.sum().backward()
    return size


def _tensors(module: Any, x: Any) -> Iterable[Any]:
    return (x, *module.parameters(), *module.buffers())


if __name__ == '__main__':
    main()
