"""Measurements of the operators with fixed kernels, for ``ops.py --static`` and ``ops.py --large-kernels``."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

# RepLKNet-31's depthwise layers at 224 pixels: channels, side, kernel.
LARGE = ((128, 56, 31), (256, 28, 29), (512, 14, 27), (1024, 7, 13))


class Case(NamedTuple):
    """An operator in place of a convolution with as many output as input channels, padded to keep the size."""

    operator: str
    channels: int
    side: int
    kernel: int
    depthwise: bool
    options: dict[str, Any] = {}


CASES = {
    'dcls': Case('DCLSConv2d', 64, 28, 3, False, {'kernel_extent': 7}),
    'dcls depthwise': Case('DCLSConv2d', 96, 28, 7, True, {'kernel_extent': 17}),
    'reparam repvgg': Case('ReparamConv2d', 64, 28, 3, False, {'preset': 'repvgg'}),
    'reparam unirep': Case('ReparamConv2d', 96, 28, 3, True, {'preset': 'unirep', 'kernel_extent': 13}),
    'reparam replk': Case('ReparamConv2d', 96, 28, 5, True, {'preset': 'replk', 'kernel_extent': 31}),
    'smp': Case('SMPConv2d', 96, 28, 5, True, {'kernel_extent': 31}),
    'weighted': Case('WeightedConv2d', 64, 28, 3, False),
    'shiftwise': Case('ShiftwiseConv2d', 96, 28, 3, True, {'kernel_extent': 51}),
    'inception': Case('InceptionDWConv2d', 96, 28, 11, True),
    'mix': Case('MixConv2d', 96, 28, 9, True, {'sizes': (3, 5, 7, 9)}),
    'partial': Case('PConv2d', 64, 28, 3, False),
    'lowrank': Case('LowRankConv2d', 64, 28, 3, False),
    'separable': Case('DepthwiseSeparableConv2d', 64, 28, 3, False),
    'spatially separable': Case('SpatiallySeparableConv2d', 64, 28, 3, False),
    'kan': Case('KANConv2d', 64, 28, 3, False),
    'recursive': Case('RecConv2d', 96, 28, 5, True),
    'flexible': Case(
        'CKConv2d', 96, 28, 15, True, {'net': 'magnet', 'mask': 'gaussian', 'crop': 0.1, 'mask_init': 0.5}
    ),
}


def measure_static(measure: Callable, record: Any) -> None:
    """Measure each operator against the convolution it replaces, and folded against one of the folded shape.

    An operator with norms is measured in training and in evaluation. Memory is the peak of forward and backward.
    """
    import torch
    from timing import CONTROL, Ratio
    from torch import nn

    from mmkerv import ops
    from mmkerv.analysis.memory import peak_bytes

    args = record.args
    layout = torch.channels_last if args.channels_last else torch.contiguous_format

    def placed(module: nn.Module) -> nn.Module:
        return module.to(args.device, memory_format=layout)

    for name, case in CASES.items():
        if args.static and name not in args.static:
            continue
        groups = case.channels if case.depthwise else 1
        geometry = {'padding': case.kernel // 2, 'groups': groups, 'bias': False}
        shape = (case.channels, case.channels, case.kernel)
        plain = placed(nn.Conv2d(*shape, **geometry))
        operator = placed(getattr(ops, case.operator)(*shape, **geometry, **case.options))
        forms = {'conv': plain, CONTROL: copy.deepcopy(plain), name: operator}
        if any(isinstance(m, nn.BatchNorm2d) for m in operator.modules()):
            forms[f'{name} in evaluation'] = copy.deepcopy(operator).eval()
        if case.operator == 'ShiftwiseConv2d':
            forms[f'{name} as one kernel'] = partial(_by_one_kernel, copy.deepcopy(operator).eval())
        x = torch.randn(args.batch, case.channels, case.side, case.side, device=args.device)
        x = x.contiguous(memory_format=layout)
        label = f'{case.kernel}x{case.kernel}{" depthwise" * case.depthwise} {case.channels}x{case.side} b{args.batch}'
        measure(label, forms, x, record)
        peaks = {form: peak_bytes(partial(_train, module, x), x.device) for form, module in forms.items()}
        for form, peak in peaks.items():
            if form != CONTROL:
                record.add(f'{label}, memory', form, Ratio(*(peak / peaks['conv'],) * 3), None, bytes=peak)
        if operator.folds.startswith('never'):
            continue
        # Plain convolutions in a row stay so, against the convolution they replace; all else becomes one kernel.
        row = operator.folds.endswith('in a row')
        folded = operator.eval().to_conv2d(dense=not row)
        like = plain if row else folded
        twin = {key: getattr(like, key) for key in ('padding', 'groups')} | {'bias': like.bias is not None}
        twin = placed(nn.Conv2d(case.channels, case.channels, like.kernel_size, **twin))
        forms = {'conv': twin, CONTROL: copy.deepcopy(twin), f'{name} folded': placed(folded)}
        size = 'x'.join(map(str, like.kernel_size))
        label = f'folded {size}{" depthwise" * case.depthwise} {case.channels}x{case.side} b{args.batch}'
        measure(label, forms, x, record)


def measure_large_kernels(measure: Callable, record: Any) -> None:
    """Measure the depthwise layers of RepLKNet-31 in torch's default layout, as the operators compute them, by FFT."""
    import torch
    from timing import CONTROL
    from torch import nn

    from mmkerv.ops import ReparamConv2d
    from mmkerv.ops.core.convolve import convolve, convolve_directly
    from mmkerv.ops.core.fft.convolution import fft_convolution

    def chosen(layer: nn.Conv2d, x: Any) -> Any:
        return convolve(x, layer.weight, None, 1, layer.padding, 1, layer.groups)

    def inside(layer: nn.Conv2d, x: Any) -> Any:
        return convolve_directly(x, layer.weight, None, 1, layer.padding, 1, layer.groups)

    def fourier(layer: nn.Conv2d, x: Any) -> Any:
        return fft_convolution(x, layer.weight, None, [(p, p) for p in layer.padding], (1, 1), layer.groups)

    args = record.args
    for channels, side, size in LARGE:
        plain = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, bias=False).to(args.device)
        operator = ReparamConv2d(
            channels, channels, 5, padding=2, groups=channels, bias=False, preset='replk', kernel_extent=size
        )
        forms = {
            'conv': plain,
            CONTROL: copy.deepcopy(plain),
            'chosen by cost': partial(chosen, plain),
            'channels_last inside': partial(inside, plain),
            'Fourier': partial(fourier, plain),
            'ReparamConv': operator.to(args.device),
            'ReparamConv in evaluation': copy.deepcopy(operator).to(args.device).eval(),
            'folded, in channels_last': copy.deepcopy(operator)
            .eval()
            .to_conv2d()
            .to(args.device, memory_format=torch.channels_last),
        }
        x = torch.randn(args.batch, channels, side, side, device=args.device)
        measure(f'{size}x{size} depthwise {channels}x{side} b{args.batch}', forms, x, record)


def _by_one_kernel(operator: Any, x: Any) -> Any:
    """Evaluate an operator by its one equivalent kernel, computed at every call."""
    return operator._convolve(x, operator.kernel())


def _train(module: Callable, x: Any) -> None:
    y = module(x.detach().requires_grad_())
    (y.sum() / math.sqrt(y.numel())).backward()
