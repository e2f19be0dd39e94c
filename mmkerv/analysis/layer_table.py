"""A layer report as text: Markdown to read, CSV and JSON to go on with."""

import csv
import io
import json
import math
from typing import Any

from mmkerv.analysis.conv_forms import FORMS, Cost
from mmkerv.analysis.layer_report import Layer, Report


def short(number: float) -> str:
    """Return a number in three digits and its unit.

    Example:
        >>> short(25600), short(4.1e9), short(7), short(123456)
        ('25.6 k', '4.1 G', '7', '123 k')
    """
    for exponent, unit in ((9, 'G'), (6, 'M'), (3, 'k')):
        if number >= 10**exponent:
            return f'{number / 10**exponent:.3g} {unit}'
    return f'{number:.0f}'


def times(sizes: tuple[float, ...] | None) -> str:
    """Return sizes along the axes.

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
    found = []
    for layer in report.layers:
        record = layer._asdict()
        costs = record.pop('forms')
        for key in ('kernel', 'stride', 'output', 'field'):
            record[key] = times(record[key])
        record['in_channels'], record['out_channels'] = record.pop('channels')
        for name in FORMS:
            for part in Cost._fields:
                record[f'{name} {part}'] = getattr(costs.get(name), part, None)
        found.append(record)
    return found


def to_json(report: Report) -> str:
    """Return the report as JSON, totals included.

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
    """Return one line for each layer, and one for what is not in any of them; the columns add up to the totals.

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


def to_markdown(report: Report, title: str) -> str:
    """Return a page: a table of the layers, one of the totals, and why operators do not fold.

    Example:
        >>> print(to_markdown(Report((32, 32), [], Cost(10, 100), 0), 'net').splitlines()[0])
        # net
    """
    height, width = report.shape
    used = [name for name in FORMS if any(name in layer.forms for layer in report.layers)]
    associated = any(layer.association is not None for layer in report.layers)
    head = ['layer', 'operator', 'kernel', 'stride', 'channels', 'output', 'parameters', 'MACs', 'field', 'folds to']
    head += ['association'] * associated + used
    table = [_cells(layer, used, associated) for layer in report.layers]
    parts = [
        f'# {title}',
        f'Image {height} x {width}. MACs are multiply-adds of one image; `field` is the theoretical receptive field in '
        'pixels'
        + ('; `association` is |K - W| / |W| of a generated kernel and its basic one' if associated else '')
        + '. The last columns are the weights that other forms of the layer would have.',
        markdown_table(head, table),
        '## The whole network',
        markdown_table(['', 'parameters', 'MACs'], _totals(report, used)),
    ]
    if report.kernels:
        generating = short(report.kernels)
        parts.append(f'Generating the kernels costs {generating} MACs more: once a training step, never after folding.')
    if report.other.weights or report.other.macs:
        parts.append(
            f'{short(report.other.weights)} parameters and {short(report.other.macs)} MACs of now lie in no row: norms '
            'and the like.'
        )
    reasons = dict.fromkeys(f'{layer.operator}: {layer.reason}' for layer in report.layers if layer.reason)
    if reasons:
        parts += ['## What does not fold', '\n'.join(f'* {reason}' for reason in reasons)]
    return '\n\n'.join(parts) + '\n'


def markdown_table(head: list[str], table: list[list[str]]) -> str:
    """Return a table whose columns line up in plain text too.

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
    now = report.total
    costs = {'now': now, **{f'every layer as {name}': report.total_as(name) for name in used}}
    found = []
    for name, cost in costs.items():
        parts = [f'{part / max(whole, 1):.0%}' for part, whole in zip(cost, now)]
        found.append([name, *(f'{short(part)} ({share})' for part, share in zip(cost, parts))])
    return found


def _cost(cost: Cost) -> dict[str, int]:
    return {'parameters': cost.weights, 'macs': cost.macs}
