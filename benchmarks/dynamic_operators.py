"""Measurements of operators whose kernel depends on the image, for ``ops.py --dynamic``."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple


class Case(NamedTuple):
    """An operator in place of a convolution with as many output as input channels, padded to keep the size."""

    operator: str
    options: dict[str, Any] = {}
    kernel: int = 3


ODCONV = {'routing': 'softmax', 'reduction': 1 / 16, 'channel': True, 'filter': True, 'spatial': True}
CASES = {
    'condconv': Case('CondConv2d'),
    'odconv': Case('CondConv2d', ODCONV),
    'fdconv': Case('FDConv2d'),
    'fdconv 4 bands': Case('FDConv2d', {'kernel_num': 4}),
    'fdconv without fbm': Case('FDConv2d', {'fbm': False}),
    'fdconv 1x1': Case('FDConv2d', kernel=1),
}


def measure_dynamic(measure: Callable, record: Any, layers: dict[str, Any]) -> None:
    """Measure each operator on each layer against the convolution it replaces, and against other forms of it.

    ``recompute`` computes the kernels again in backward. The other forms lost: ``keeping everything`` that the kernels
    are made of for backward, a ``loop`` over the samples, and the two forms of an exported graph, of which the
    ``mixture`` exists without local gates. Memory is the peak of forward and backward.
    """
    import torch
    from timing import CONTROL, Ratio
    from torch import nn

    from mmkerv import ops
    from mmkerv.analysis.memory import peak_bytes

    args = record.args
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    for name, case in CASES.items():
        if args.dynamic and name not in args.dynamic:
            continue
        for layer in layers.values():
            shape = (layer.channels, layer.channels, case.kernel)
            geometry = {'padding': case.kernel // 2, 'bias': False}
            plain = nn.Conv2d(*shape, **geometry)
            kind = getattr(ops, case.operator)
            operator = kind(*shape, **geometry, **case.options)
            forms = {
                'conv': plain,
                CONTROL: copy.deepcopy(plain),
                name: operator,
                f'{name} recompute': kind(*shape, **geometry, **case.options, recompute=True),
            }
            forms = {form: module.to(args.device, memory_format=layout) for form, module in forms.items()}
            forms[f'{name} keeping everything'] = partial(_keeping, copy.deepcopy(operator))
            forms[f'{name} as a loop'] = partial(_loop, operator)
            forms[f'{name} as unfold'] = partial(_unfold, operator)
            if not getattr(operator.options, 'ksm_local', False):
                forms[f'{name} as mixture'] = partial(_mixture, operator)
            x = torch.randn(args.batch, layer.channels, layer.side, layer.side, device=args.device)
            x = x.contiguous(memory_format=layout)
            label = f'{case.kernel}x{case.kernel} {layer.channels}x{layer.side} b{args.batch}'
            measure(label, forms, x, record)
            peaks = {form: peak_bytes(partial(_train, module, x), x.device) for form, module in forms.items()}
            for form, peak in peaks.items():
                if form != CONTROL:
                    record.add(f'{label}, memory', form, Ratio(*(peak / peaks['conv'],) * 3), None, bytes=peak)


def _keeping(operator: Any, x: Any) -> Any:
    operator._makes_large_tensors = lambda: False
    return operator(x)


def _loop(operator: Any, x: Any) -> Any:
    import torch

    kernels, x = operator.kernel(x), operator._features(x)
    return torch.cat([operator._convolve(x[i : i + 1], kernel) for i, kernel in enumerate(kernels)])


def _unfold(operator: Any, x: Any) -> Any:
    kernels = operator.kernel(x)
    return operator._unfolded(operator._features(x), kernels)


def _mixture(operator: Any, x: Any) -> Any:
    mixture = operator._mixture(*operator.gates(x))
    return operator._mixed(operator._features(x), mixture)


def _train(module: Callable, x: Any) -> None:
    module(x.detach().requires_grad_()).sum().backward()
