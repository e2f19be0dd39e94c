"""Layer report: the structure, cost and receptive field of every layer, and the cost of other forms of it.

:func:`layer_report` measures; :func:`to_markdown`, :func:`to_csv` and :func:`to_json` write the report as text.
"""

import copy
import csv
import io
import json
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple

from mmkerv.analysis.conv_forms import FORMS, Cost, Shape, forms
from mmkerv.analysis.counting import counted
from mmkerv.analysis.receptive_field import CONVOLUTIONS, Field, followed
from mmkerv.deploy.model_outputs import RawOutputs, sample_inputs
from mmkerv.errors import FoldError
from mmkerv.ops import frozen_kernels
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.dynamic import DynamicKernel
from mmkerv.ops.core.generated import GeneratedKernel, relative_change
from mmkerv.utils import layer_input

LAYERS = (*CONVOLUTIONS, nn.Linear)
# Layers in a short report.
DEAREST = 10


class Layer(NamedTuple):
    """Row of a report: one convolution, operator or linear layer.

    Args:
        name: name in the model.
        operator: name of the class.
        kernel: kernel size, empty for a linear layer.
        stride: stride of the kernel.
        channels: input and output channels.
        groups: number of channel groups.
        output: spatial size of the first output.
        calls: number of calls for one image.
        parameters: parameters that no earlier row has counted.
        macs: multiply-adds of one image, without the generation of a kernel that is the same for all.
        field: theoretical receptive field; ``None`` where there is none (after RoIAlign, in linear layers).
        folds_to: plain layers that folding makes of it; empty for a plain layer.
        reason: reason why it does not fold.
        association: |K - W| / |W| of a generated kernel K with a basic kernel W, else ``None``.
        forms: cost of each other form.
        own: those of ``macs`` that compute the image's own kernel and maps, where the kernel depends on the image.

    Example:
        >>> row = Layer('fc', 'Linear', (), (), (8, 2), 1, (), 1, 18, 16, None, '', '', None, {})
        >>> row.macs
        16
    """

    name: str
    operator: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    channels: tuple[int, int]
    groups: int
    output: tuple[int, ...]
    calls: int
    parameters: int
    macs: int
    field: tuple[float, ...] | None
    folds_to: str
    reason: str
    association: float | None
    forms: dict[str, Cost]
    own: int = 0


class Report(NamedTuple):
    """Cost of a network, layer by layer.

    Args:
        shape: height and width of the image.
        layers: rows, in the order of the first calls.
        other: cost of everything else: norms, attention, parameters outside the layers of the rows.
        kernels: multiply-adds of generating the kernels, once per training step.

    Example:
        >>> Report((32, 32), [], Cost(10, 100), 0).total
        Cost(weights=10, macs=100)
    """

    shape: tuple[int, int]
    layers: list[Layer]
    other: Cost
    kernels: int

    @property
    def total(self) -> Cost:
        """Parameters and multiply-adds of the whole network, as :func:`mmkerv.analysis.complexity.complexity`."""
        return sum((Cost(layer.parameters, layer.macs) for layer in self.layers), self.other)

    def total_as(self, form: str) -> Cost:
        """Return the cost of the whole network if every layer that has a form used it, without biases there.

        Example:
            >>> Report((32, 32), [], Cost(10, 100), 0).total_as('stacked 3x3')
            Cost(weights=10, macs=100)
        """
        costs = (layer.forms.get(form, Cost(layer.parameters, layer.macs)) for layer in self.layers)
        return sum(costs, self.other)


@torch.no_grad()
def layer_report(model: nn.Module, shape: tuple[int, int]) -> Report:
    """Report on every convolution, operator and linear layer that an image passes through.

    Operations are counted as in :func:`mmkerv.analysis.complexity.complexity`, so both give the same totals.

    Args:
        model: model in evaluation mode; it is not changed.
        shape: height and width of the image.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> report = layer_report(nn.Sequential(CoCConv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), (6, 6))
        >>> [(layer.operator, layer.folds_to, layer.macs, layer.field) for layer in report.layers]
        [('CoCConv2d', 'Conv2d 3x3', 3456, (3, 3)), ('Conv2d', '', 512, (3, 3))]
    """
    inputs, samples = next(sample_inputs(model, shape))
    network = RawOutputs(model, samples).eval()
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def record_shapes(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        x = layer_input(args, kwargs)
        if isinstance(x, Tensor) and isinstance(output, Tensor):
            calls.setdefault(module, []).append((x.shape, output.shape))

    names = {module: name for name, module in model.named_modules() if isinstance(module, LAYERS)}
    with frozen_kernels(model):
        # The hooks are removed before operations are counted, which calls every module again.
        handles = [module.register_forward_hook(record_shapes, with_kwargs=True) for module in names]
        try:
            with followed(model, inputs) as fields:
                network(inputs)
        finally:
            for handle in handles:
                handle.remove()
        macs = _macs_by_module(network, inputs)
    # The layers inside an operator belong to its row.
    operators = [module for module in calls if isinstance(module, ConvNd)]
    modules = [m for m in calls if not any(names[m].startswith(f'{names[operator]}.') for operator in operators)]
    layers: list[Layer] = []
    counted: set[int] = set()
    for module in modules:
        new = {id(p): p.numel() for p in module.parameters() if id(p) not in counted}
        counted.update(new)
        own_macs = int(macs[f'model.{names[module]}'.rstrip('.')])
        layers.append(_layer(module, names[module], calls[module], sum(new.values()), own_macs, fields.get(module)))
    rest = sum(p.numel() for p in model.parameters() if id(p) not in counted)
    other = Cost(rest, macs[''] - sum(row.macs for row in layers))
    generated = any(isinstance(m, GeneratedKernel) for m in model.modules())
    kernels = _macs_by_module(network, inputs)[''] - macs[''] if generated else 0
    return Report(shape, layers, other, kernels)


def _macs_by_module(network: nn.Module, inputs: Tensor) -> Any:
    with counted(network, inputs) as counts:
        return counts.by_module()


def _layer(module: nn.Module, name: str, calls: list, parameters: int, macs: int, field: Field | None) -> Layer:
    linear = isinstance(module, nn.Linear)
    folds_to, reason = _folds_to(module) if isinstance(module, ConvNd) else ('', '')
    kernel = () if linear else tuple(module.kernel_size)
    dynamic = isinstance(module, DynamicKernel) and len(kernel) == 2
    return Layer(
        name=name,
        operator=type(module).__name__,
        kernel=kernel,
        stride=() if linear else _ntuple(len(kernel))(module.stride),
        channels=(module.in_features, module.out_features) if linear else (module.in_channels, module.out_channels),
        groups=1 if linear else module.groups,
        output=() if linear else tuple(calls[0][1][2:]),
        calls=len(calls),
        parameters=parameters,
        macs=macs,
        field=None if field is None else field.size,
        folds_to=folds_to,
        reason=reason,
        association=_association(module),
        forms=forms(_shape(module, kernel, calls)) if len(kernel) == 2 and not module.transposed else {},
        own=macs - _shape(module, kernel, calls).cost().macs if dynamic else 0,
    )


def _shape(module: nn.Module, kernel: tuple[int, int], calls: list) -> Shape:
    sizes = [(n * h * w, n * rows * w, n * rows * columns) for (n, _, h, w), (*_, rows, columns) in calls]
    return Shape(module.in_channels, module.out_channels, kernel, module.groups, *map(sum, zip(*sizes)))


def _folds_to(operator: ConvNd) -> tuple[str, str]:
    """The plain layers that folding makes of an operator, and the reason if it makes none."""
    try:
        folded = getattr(copy.deepcopy(operator), f'to_conv{operator.dims}d')()
    except FoldError as error:
        return 'nothing', str(error)
    parts = [part for part in folded.modules() if isinstance(part, nn.modules.conv._ConvNd)]
    return ' + '.join(_described(part) for part in parts), ''


def _described(conv: nn.Module) -> str:
    depthwise = ' depthwise' if conv.groups == conv.in_channels > 1 else ''
    return f'{type(conv).__name__} {"x".join(map(str, conv.kernel_size))}{depthwise}'


def _association(module: nn.Module) -> float | None:
    if not isinstance(module, GeneratedKernel) or module.weight is None:
        return None
    return relative_change(module.kernel(), module.weight)


def short(number: float) -> str:
    """Return a number with three digits and a unit prefix.

    Example:
        >>> short(25600), short(4.1e9), short(7), short(123456)
        ('25.6 k', '4.1 G', '7', '123 k')
    """
    for exponent, unit in ((9, 'G'), (6, 'M'), (3, 'k')):
        if number >= 10**exponent:
            return f'{number / 10**exponent:.3g} {unit}'
    return f'{number:.0f}'


def times(sizes: tuple[float, ...] | None) -> str:
    """Return sizes along the axes, joined by ``x``.

    Example:
        >>> times((3, 3)), times((math.inf, math.inf)), times(None), times((6.5,))
        ('3x3', 'all', '-', '6.5')
    """
    if not sizes:
        return '-'
    return 'all' if all(map(math.isinf, sizes)) else 'x'.join(f'{size:.5g}' for size in sizes)


def rows(report: Report) -> list[dict[str, Any]]:
    """Return one flat record for each layer, for CSV and JSON.

    Example:
        >>> rows(Report((32, 32), [], Cost(10, 100), 0))
        []
    """
    records = []
    for layer in report.layers:
        record = layer._asdict()
        costs = record.pop('forms')
        for key in ('kernel', 'stride', 'output', 'field'):
            record[key] = times(record[key])
        record['in_channels'], record['out_channels'] = record.pop('channels')
        for name in FORMS:
            for part in Cost._fields:
                record[f'{name} {part}'] = getattr(costs.get(name), part, None)
        records.append(record)
    return records


def to_json(report: Report) -> str:
    """Return the report as JSON, with the totals.

    Example:
        >>> json.loads(to_json(Report((32, 32), [], Cost(10, 100), 0)))['total']
        {'parameters': 10, 'macs': 100}
    """
    content = {
        'shape': report.shape,
        'total': _cost(report.total),
        'kernels': report.kernels,
        'other': _cost(report.other),
        'total_as': {name: _cost(report.total_as(name)) for name in FORMS},
        'layers': rows(report),
    }
    return json.dumps(content, indent=2) + '\n'


def to_csv(report: Report) -> str:
    """Return the report as CSV: a line for each layer and a line ``other``; the columns sum to the totals.

    Example:
        >>> to_csv(Report((32, 32), [], Cost(10, 100), 0)).splitlines()[1]
        'other,10,100'
    """
    records = rows(report)
    records.append({'name': 'other', 'parameters': report.other.weights, 'macs': report.other.macs})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for record in records for key in record)))
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def to_markdown(report: Report, title: str, everything: bool = True) -> str:
    """Return the report as Markdown: tables of the layers and of the totals, and the reasons why operators do not fold.

    Args:
        report: the report.
        title: heading.
        everything: ``False`` leaves out the costs of other forms and all but at most ten layers: the operators with the
            most multiply-adds or, without an operator, the layers.

    Example:
        >>> print(to_markdown(Report((32, 32), [], Cost(10, 100), 0), 'net').splitlines()[0])
        # net
    """
    height, width = report.shape
    layers = report.layers if everything else _dearest(report.layers)
    used = [name for name in FORMS if everything and any(name in layer.forms for layer in layers)]
    associated = any(layer.association is not None for layer in layers)
    head = ['layer', 'operator', 'kernel', 'stride', 'channels', 'output', 'parameters', 'MACs', 'field', 'folds to']
    head += ['association'] * associated + used
    table = [_cells(layer, used, associated) for layer in layers]
    parts = [
        f'# {title}',
        f'Image {height} x {width}. MACs are multiply-adds of one image; `field` is the theoretical receptive field in '
        'pixels'
        + ('; `association` is |K - W| / |W| of a generated kernel and its basic one' if associated else '')
        + ('. The last columns are the weights that other forms of the layer would have.' if used else '.'),
        markdown_table(head, table),
    ]
    if len(layers) < len(report.layers):
        operators = sum(bool(layer.folds_to) for layer in report.layers)
        kind = f'of {operators} operators' if operators else 'of the layers'
        parts.append(
            f'These are the {len(layers)} {kind} that cost most; {len(report.layers) - len(layers)} other layers are '
            'left out, and what the network would cost in other forms (`--all`).'
        )
    parts += ['## The whole network', markdown_table(['', 'parameters', 'MACs'], _totals(report, used))]
    if report.kernels:
        parts.append(
            f'Generating the kernels costs {short(report.kernels)} more MACs: once per training step, never after '
            'folding.'
        )
    if own := sum(layer.own for layer in report.layers):
        kinds = ', '.join(dict.fromkeys(layer.operator for layer in report.layers if layer.own))
        parts.append(
            f'Each image has kernels of its own in layers of {kinds}: {short(own)} of its MACs compute these, their '
            'gates and changes of the maps.'
        )
    if report.other.weights or report.other.macs:
        parts.append(
            f'{short(report.other.weights)} parameters and {short(report.other.macs)} MACs of the network as it is are '
            'in no row: norms, for example.'
        )
    reasons = dict.fromkeys(f'{layer.operator}: {layer.reason}' for layer in report.layers if layer.reason)
    if reasons:
        parts += ['## Layers that do not fold', '\n'.join(f'* {reason}' for reason in reasons)]
    return '\n\n'.join(parts) + '\n'


def _dearest(layers: list[Layer]) -> list[Layer]:
    """The operators, or without any the layers, with the most multiply-adds, in the order of the network."""
    candidates = [layer for layer in layers if layer.folds_to] or layers
    chosen = sorted(candidates, key=lambda layer: -layer.macs)[:DEAREST]
    return [layer for layer in layers if layer in chosen]


def markdown_table(head: list[str], table: list[list[str]]) -> str:
    """Return a Markdown table whose columns are also aligned in plain text.

    Example:
        >>> print(markdown_table(['a', 'b'], [['1', 'long']]))
        | a | b    |
        |---|------|
        | 1 | long |
    """
    widths = [max(len(row[i]) for row in [head, *table]) for i in range(len(head))]
    lines = [f'| {" | ".join(cell.ljust(w) for cell, w in zip(row, widths))} |' for row in [head, *table]]
    return '\n'.join([lines[0], f'|{"|".join("-" * (w + 2) for w in widths)}|', *lines[1:]])


def _cells(layer: Layer, used: list[str], associated: bool) -> list[str]:
    groups = f' /{layer.groups}' if layer.groups > 1 else ''
    calls = f' ({layer.calls} calls)' if layer.calls > 1 else ''
    cells = [
        layer.name,
        layer.operator,
        times(layer.kernel),
        times(layer.stride),
        f'{layer.channels[0]} > {layer.channels[1]}{groups}',
        f'{times(layer.output)}{calls}',
        short(layer.parameters),
        short(layer.macs),
        times(layer.field),
        layer.folds_to or '-',
    ]
    if associated:
        cells.append('-' if layer.association is None else f'{layer.association:.2g}')
    return [*cells, *(short(layer.forms[name].weights) if name in layer.forms else '-' for name in used)]


def _totals(report: Report, used: list[str]) -> list[list[str]]:
    total = report.total
    costs = {'now': total, **{f'every layer as {name}': report.total_as(name) for name in used}}
    table = []
    for name, cost in costs.items():
        shares = [f'{part / max(whole, 1):.0%}' for part, whole in zip(cost, total)]
        table.append([name, *(f'{short(part)} ({share})' for part, share in zip(cost, shares))])
    return table


def _cost(cost: Cost) -> dict[str, int]:
    return {'parameters': cost.weights, 'macs': cost.macs}
