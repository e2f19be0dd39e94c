"""Report on the kernels of a network: statistics of every layer, and how far two networks are apart.

:func:`kernels_of` finds the kernels, :func:`statistics_report` and :func:`shifts` measure them, :func:`to_markdown`,
:func:`to_csv` and :func:`to_json` write the result as text.
"""

import csv
import io
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple
from torch.nn.utils.parametrize import is_parametrized

from mmkerv.analysis import kernel_statistics as statistics
from mmkerv.analysis.depthwise_patterns import pattern_shares
from mmkerv.analysis.distribution_shift import distribution_shift, shift_by_chance
from mmkerv.analysis.layer_report import markdown_table, times
from mmkerv.errors import UndefinedStatisticError, UserError
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.dynamic import DynamicKernel
from mmkerv.ops.core.generated import relative_change
from mmkerv.ops.losses import orthogonality_loss, orthogonality_minimum

PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Modules of classes that add to a plain convolution, but convolve with its weight.
WRAPPERS = ('mmcv.cnn.bricks.wrappers', 'mmcv.cnn.bricks.conv2d_adaptive_padding')
NOT_FINITE = 'the kernel has taps that are NaN or infinite'
# Columns of the table: heading, and how a value is written.
COLUMNS = {
    'sparsity': ('sparsity', '.1%'),
    'entropy': ('H', '.3f'),
    'normalised_entropy': ('H / T', '.3f'),
    'orthogonality': ('orthogonality', '.3f'),
    'clean_entropy': ('clean H', '.3f'),
    'clean_normalised_entropy': ('clean H / T', '.3f'),
    'clean_orthogonality': ('clean orthogonality', '.3f'),
    'distance': ('distance', '.2g'),
    'gap': ('gap', '.3g'),
    'stable_rank': ('stable rank', '.3g'),
    'spectral_norm': ('norm', '.3g'),
    'low': ('low', '.2f'),
    'middle': ('middle', '.2f'),
    'high': ('high', '.2f'),
}
CLEAN = tuple(key for key in COLUMNS if key.startswith('clean_'))
# Layers that a line names before it counts the rest.
NAMED = 3


class Kernel(NamedTuple):
    """The kernel of a layer.

    Args:
        layer: the layer.
        values: kernel (O, I/g, *size) that convolves, or the basic weight; ``None`` if the layer has neither.
        reason: reason why ``values`` is not the kernel that convolves; empty if it is.

    Example:
        >>> convolving_kernel(nn.Conv2d(3, 8, 3)).reason
        ''
    """

    layer: nn.Module
    values: Tensor | None
    reason: str


class Row(NamedTuple):
    """Statistics of one layer.

    Args:
        name: name in the model.
        operator: name of the class.
        kernel: kernel size.
        channels: output and input channels.
        groups: number of channel groups.
        slices: number of slices.
        basic: reason why these are statistics of the basic weight; empty for those of the kernel that convolves.
        values: statistics by name, see ``COLUMNS``; ``None`` where one is not defined.
        patterns: shares of the patterns of a depthwise layer, else empty.
        flags: what makes the layer look degenerate.
        reasons: reasons why statistics are not defined, by name.

    Example:
        >>> statistics_report(kernels_of(nn.Conv2d(3, 8, 3)))[0].slices
        24
    """

    name: str
    operator: str
    kernel: tuple[int, ...]
    channels: tuple[int, int]
    groups: int
    slices: int
    basic: str
    values: dict[str, float | None]
    patterns: dict[str, float]
    flags: list[str]
    reasons: dict[str, str]


class Shift(NamedTuple):
    """Distance between kernels of two networks.

    Args:
        name: name of the layer, or the kernel size of all layers of that size.
        slices: number of slices in each network.
        shift: shift of the distribution, see :func:`mmkerv.analysis.distribution_shift.distribution_shift`.
        chance: shift of as many slices drawn from one distribution.
        distance: relative distance between two kernels of one shape; ``None`` otherwise.
        reason: reason why there is no shift.

    Example:
        >>> Shift('conv1', (24, 24), 0.0, 0.1, 0.0, '').shift
        0.0
    """

    name: str
    slices: tuple[int, int]
    shift: float | None
    chance: float | None
    distance: float | None
    reason: str


@torch.no_grad()
def convolving_kernel(layer: nn.Module) -> Kernel:
    """Return the kernel with which a layer convolves in evaluation, or its basic weight and why that is not it.

    Args:
        layer: operator, or a convolution of torch or derived from one.

    Example:
        >>> from mmkerv.ops import CoCConv2d, KervConv2d
        >>> convolving_kernel(CoCConv2d(3, 8, 3)).reason, convolving_kernel(KervConv2d(3, 8, 3)).reason
        ('', 'it has no kernel')
    """
    if not isinstance(layer, ConvNd):
        kind = type(layer).__bases__[0] if is_parametrized(layer) else type(layer)
        exact = kind in PLAIN or kind.__module__ in WRAPPERS
        changed = '' if exact else f'a {kind.__name__} may convolve with another kernel than its weight'
        return Kernel(layer, layer.weight.detach(), changed)
    if isinstance(layer, DynamicKernel):
        return Kernel(layer, layer.weight, 'its kernel depends on the input')
    if not hasattr(layer, 'kernel'):
        return Kernel(layer, layer.weight, 'it has no kernel')
    if layer.kernel_size is None:
        return Kernel(layer, layer.weight, 'its kernel has no size before it has seen a sequence')
    try:
        return Kernel(layer, layer.kernel().detach(), '')
    except UserError:
        return Kernel(layer, layer.weight, 'it has no kernel')


def kernels_of(model: nn.Module) -> dict[str, Kernel]:
    """Return the kernels of all operators and convolutions by name; what lies inside an operator belongs to it.

    Args:
        model: network, in evaluation mode.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> list(kernels_of(nn.Sequential(CoCConv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))))
        ['0', '2']
    """
    operators = [name for name, module in model.named_modules() if isinstance(module, ConvNd)]
    inside = tuple(f'{name}.' if name else '' for name in operators)
    return {
        name: convolving_kernel(module)
        for name, module in model.named_modules()
        if isinstance(module, ConvNd) or (isinstance(module, PLAIN) and not (inside and name.startswith(inside)))
    }


@torch.no_grad()
def statistics_report(kernels: dict[str, Kernel]) -> list[Row]:
    """Measure the kernels of :func:`kernels_of`; layers without any have no row.

    Example:
        >>> (row,) = statistics_report(kernels_of(nn.Conv2d(4, 4, 1)))
        >>> row.values['sparsity'], row.values['entropy'], row.reasons['entropy']
        (0.0, None, 'slices of one tap have no directions')
    """
    return [_row(name, kernel) for name, kernel in kernels.items() if kernel.values is not None]


def without_kernel(kernels: dict[str, Kernel]) -> dict[str, str]:
    """Return the reason for each layer that has neither kernel nor basic weight.

    Example:
        >>> from mmkerv.ops import RecConv2d
        >>> without_kernel(kernels_of(nn.Sequential(RecConv2d(4, 4, 3, padding=1, groups=4))))
        {'0': 'it has no kernel'}
    """
    return {name: kernel.reason for name, kernel in kernels.items() if kernel.values is None}


def _row(name: str, kernel: Kernel) -> Row:
    layer, values = kernel.layer, kernel.values
    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    reasons: dict[str, str] = {}
    patterns: dict[str, float] | None = None
    if bool(values.isfinite().all()):
        for key, statistic in _statistics(kernel).items():
            found[key], reasons[key] = statistics.value_or_reason(statistic)
        bands, reason = statistics.value_or_reason(statistics.band_shares, values)
        found |= bands or {}
        reasons |= dict.fromkeys(statistics.BANDS, reason)
        patterns, reasons['patterns'] = statistics.value_or_reason(pattern_shares, values, layer.groups)
    else:
        reasons = dict.fromkeys((*COLUMNS, 'patterns'), NOT_FINITE)
    sparse = found['sparsity']
    return Row(
        name=name,
        operator=type(layer).__name__,
        kernel=tuple(values.shape[2:]),
        channels=(len(values), values.shape[1] * layer.groups),
        groups=layer.groups,
        slices=len(values) * values.shape[1],
        basic=kernel.reason,
        values=found,
        patterns=patterns or {},
        flags=[] if sparse is None else statistics.flags(sparse, found['normalised_entropy']),
        reasons={key: reason for key, reason in reasons.items() if reason},
    )


def _statistics(kernel: Kernel) -> dict[str, Callable[[], float]]:
    """Return the functions that compute the statistics of a finite kernel, but for its bands and patterns."""
    values, groups = kernel.values.detach().to(torch.float64), kernel.layer.groups
    rows = statistics.slices(values)
    kept, cleaned = rows[~statistics.is_sparse(rows)], statistics.clean(values)
    return {
        'sparsity': lambda: statistics.sparsity(rows),
        'entropy': lambda: statistics.variance_entropy(rows),
        'normalised_entropy': lambda: statistics.normalised_entropy(rows),
        'orthogonality': lambda: statistics.filter_orthogonality(values, groups),
        'clean_entropy': lambda: statistics.variance_entropy(kept),
        'clean_normalised_entropy': lambda: statistics.normalised_entropy(kept),
        'clean_orthogonality': lambda: statistics.filter_orthogonality(cleaned, groups),
        'distance': lambda: _distance(kernel),
        'gap': lambda: orthogonality_gap(values, kernel.layer),
        'stable_rank': lambda: statistics.stable_rank(values, groups),
        'spectral_norm': lambda: statistics.spectral_norm(values, groups),
    }


def orthogonality_gap(values: Tensor, layer: nn.Module) -> float:
    """Return how far a layer's orthogonality loss is above the least value that its shape allows.

    Args:
        values: kernel (O, I/g, *size).
        layer: convolution with its stride, dilation and groups.

    Example:
        >>> orthogonality_gap(torch.eye(4).view(4, 4, 1, 1), nn.Conv2d(4, 4, 1))
        0.0
    """
    # Upstream libraries rewrite the geometry of built layers, also as single integers.
    per_axis = _ntuple(values.dim() - 2)
    geometry = per_axis(layer.stride), per_axis(layer.dilation), layer.groups
    least = orthogonality_minimum(len(values), values.shape[1] * layer.groups, values.shape[2:], *geometry)
    return max(0.0, float(orthogonality_loss(values, *geometry)) - least)


def _distance(kernel: Kernel) -> float:
    weight = kernel.layer.weight
    if not isinstance(kernel.layer, ConvNd):
        raise UndefinedStatisticError('a plain convolution has no basic weight beside its kernel')
    if kernel.reason:
        raise UndefinedStatisticError(f'only the basic weight is known: {kernel.reason}')
    if weight is None:
        raise UndefinedStatisticError('the operator has no basic weight')
    if not weight.any():
        raise UndefinedStatisticError('the basic weight is zero')
    return relative_change(kernel.values, weight)


@torch.no_grad()
def shifts(first: dict[str, Kernel], second: dict[str, Kernel]) -> list[Shift]:
    """Compare the kernels of two networks: all of one size together, then the layers that both networks have.

    Args:
        first: kernels of :func:`kernels_of`.
        second: those of the other network.

    Example:
        >>> kernels = kernels_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)))
        >>> [(row.name, row.shift) for row in shifts(kernels, kernels)]
        [('3x3', 0.0), ('1x1', None), ('0', 0.0), ('1', None)]
    """
    sides = [{name: k.values for name, k in side.items() if k.values is not None} for side in (first, second)]
    sizes = [dict.fromkeys(tuple(values.shape[2:]) for values in side.values()) for side in sides]
    found = []
    for size in (size for size in sizes[0] if size in sizes[1]):
        parts = [[values for values in side.values() if tuple(values.shape[2:]) == size] for side in sides]
        found.append(_shift(times(size), *(torch.cat([statistics.slices(v) for v in part]) for part in parts), None))
    for name, values in sides[0].items():
        other = sides[1].get(name)
        if other is not None and other.shape[2:] == values.shape[2:]:
            distance = None
            if other.shape == values.shape and values.any():
                distance = float((other - values).double().norm() / values.double().norm())
            found.append(_shift(name, statistics.slices(values), statistics.slices(other), distance))
    return found


def _shift(name: str, first: Tensor, second: Tensor, distance: float | None) -> Shift:
    number = len(first), len(second)
    if not (first.isfinite().all() and second.isfinite().all()):
        return Shift(name, number, None, None, None, NOT_FINITE)
    shift, reason = statistics.value_or_reason(distribution_shift, first, second)
    chance = None if reason else statistics.value_or_reason(shift_by_chance, first, second)[0]
    return Shift(name, number, shift, chance, distance, reason)


def rows(report: list[Row]) -> list[dict[str, Any]]:
    """Return one flat record for each layer, for CSV and JSON.

    Example:
        >>> rows([])
        []
    """
    return [
        {
            'name': row.name,
            'operator': row.operator,
            'kernel': times(row.kernel),
            'out_channels': row.channels[0],
            'in_channels': row.channels[1],
            'groups': row.groups,
            'slices': row.slices,
            'of': f'basic weight: {row.basic}' if row.basic else 'kernel',
            **row.values,
            'patterns': _patterns(row),
            'flags': ', '.join(row.flags),
            'undefined': '; '.join(f'{key}: {reason}' for key, reason in row.reasons.items()),
        }
        for row in report
    ]


def to_json(report: list[Row], left: dict[str, str], compared: list[Shift]) -> str:
    """Return the report as JSON.

    Args:
        report: rows of :func:`statistics_report`.
        left: layers of :func:`without_kernel`.
        compared: rows of :func:`shifts`, empty without a second network.

    Example:
        >>> json.loads(to_json([], {'conv': 'it has no kernel'}, []))['without_kernel']
        {'conv': 'it has no kernel'}
    """
    layers = [
        {**record, 'patterns': row.patterns, 'undefined': row.reasons} for record, row in zip(rows(report), report)
    ]
    content = {'layers': layers, 'without_kernel': left, 'shifts': [row._asdict() for row in compared]}
    return json.dumps(content, indent=2, allow_nan=False) + '\n'


def to_csv(report: list[Row], left: dict[str, str], compared: list[Shift]) -> str:
    """Return the report as CSV: a line for each layer; with a second network, its shift and distance.

    Args:
        report: as in :func:`to_json`.
        left: as in :func:`to_json`; these lines have only the reason.
        compared: as in :func:`to_json`; the rows of all layers of a size are left out.

    Example:
        >>> to_csv([], {'conv': 'it has no kernel'}, []).splitlines()
        ['name,undefined', 'conv,it has no kernel']
    """
    by_name = {row.name: row for row in compared}
    records = rows(report)
    for record in records if compared else ():
        shift = by_name.get(record['name'])
        record['shift'], record['moved'] = (shift.shift, shift.distance) if shift else (None, None)
    records += [{'name': name, 'undefined': reason} for name, reason in left.items()]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for record in records for key in record)))
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def to_markdown(report: list[Row], left: dict[str, str], compared: list[Shift], title: str, other: str = '') -> str:
    """Return the report as Markdown: the table of the layers, notes on what it lacks, and the shifts.

    Args:
        report: as in :func:`to_json`.
        left: as in :func:`to_json`.
        compared: as in :func:`to_json`.
        title: name of the network.
        other: name of the second network.

    Example:
        >>> print(to_markdown([], {}, [], 'net').splitlines()[0])
        # net
    """
    keys = _shown(report)
    patterned = any(row.patterns for row in report)
    head = ['layer', 'operator', 'kernel', 'slices', *(COLUMNS[key][0] for key in keys)]
    head += ['patterns'] * patterned + ['flags']
    parts = [
        f'# {title}',
        _legend(report, keys),
        markdown_table(head, [_cells(row, keys, patterned) for row in report]),
    ]
    notes = _notes(report, [*keys, *['patterns'] * patterned], left)
    if notes:
        parts.append('\n'.join(f'* {note}' for note in notes))
    if compared:
        parts += [f'## Against {other}', *_compared(compared)]
    return '\n\n'.join(parts) + '\n'


def _shown(report: list[Row]) -> list[str]:
    """Return the columns of the table: no distance without a generated kernel, no clean ones without sparse slices."""
    sparse = any(row.values['sparsity'] and row.values['entropy'] is not None for row in report)
    distance = any(row.values['distance'] is not None for row in report)
    return [key for key in COLUMNS if (key != 'distance' or distance) and (key not in CLEAN or sparse)]


def _legend(report: list[Row], keys: list[str]) -> str:
    text = (
        'Slices are the parts of a kernel between one input and one output channel. `sparsity` is the share of slices '
        "with no tap above 1 % of the layer's largest; `H` the entropy of the variance of the slices along their "
        'principal axes, `H / T` relative to that of random slices; `orthogonality` is 1 - mean |cos| of the filters; '
    )
    if CLEAN[0] in keys:
        text += '`clean` without the sparse slices; '
    if 'distance' in keys:
        text += '`distance` is |K - W| / |W| of a generated kernel and its basic weight; '
    text += (
        '`gap` is the orthogonality loss above the least that the shape allows; `stable rank` and `norm` are those of '
        'the filters as a matrix; `low`, `middle` and `high` the shares of the energy below 1/8, below 1/4 and up to '
        '1/2 cycles per tap.'
    )
    if any(row.flags for row in report):
        text += (
            f' Flags are rules of thumb for a degenerate layer: `sparse` above {statistics.MOST_SPARSE:.0%}, '
            f'`redundant` where H / T is below {statistics.LEAST_ENTROPY}.'
        )
    return text


def _cells(row: Row, keys: list[str], patterned: bool) -> list[str]:
    values = [_written(row.values[key], COLUMNS[key][1]) for key in keys]
    operator = f'{row.operator} (basic weight)' if row.basic else row.operator
    patterns = [_patterns(row) or '-'] * patterned
    return [row.name, operator, times(row.kernel), str(row.slices), *values, *patterns, ', '.join(row.flags) or '-']


def _written(value: float | None, form: str) -> str:
    return '-' if value is None else format(value, form)


def _patterns(row: Row) -> str:
    return ', '.join(f'{label} {share:.0%}' for label, share in row.patterns.items())


def _notes(report: list[Row], keys: list[str], left: dict[str, str]) -> list[str]:
    """Return what the table lacks: reasons of the dashes, rows of basic weights, and layers without a row."""
    by_reason: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for row in report:
        for key in keys:
            if key in row.reasons:
                columns, names = by_reason.setdefault(row.reasons[key], ({}, {}))
                columns[COLUMNS[key][0] if key in COLUMNS else key] = None
                names[row.name] = None
    notes = [f'no {", ".join(columns)}: {reason} ({_some(names)})' for reason, (columns, names) in by_reason.items()]
    basic: dict[str, list[str]] = {}
    for row in report:
        if row.basic:
            basic.setdefault(f'{row.operator}: {row.basic}', []).append(row.name)
    notes += [f'statistics of the basic weight: {reason} ({_some(names)})' for reason, names in basic.items()]
    absent: dict[str, list[str]] = {}
    for name, reason in left.items():
        absent.setdefault(reason, []).append(name)
    return notes + [f'not in the table, without a basic weight: {reason} ({_some(n)})' for reason, n in absent.items()]


def _some(names: Any) -> str:
    names = list(names)
    text = ', '.join(names[:NAMED])
    return text if len(names) <= NAMED else f'{text} and {len(names) - NAMED} more'


def _compared(compared: list[Shift]) -> list[str]:
    table = [
        [
            row.name,
            str(row.slices[0]) if row.slices[0] == row.slices[1] else f'{row.slices[0]} and {row.slices[1]}',
            *(_written(value, '.3g') for value in (row.shift, row.chance, row.distance)),
        ]
        for row in compared
    ]
    text = (
        '`shift` is the symmetric divergence between the distributions of the slices, each divided by its largest tap, '
        'along the principal components of both; `by chance` is that of two random parts of the union, what equal '
        'distributions measure; `moved` is |K_2 - K_1| / |K_1|.'
    )
    reasons: dict[str, list[str]] = {}
    for row in compared:
        if row.reason:
            reasons.setdefault(row.reason, []).append(row.name)
    notes = '\n'.join(f'* no shift: {reason} ({_some(names)})' for reason, names in reasons.items())
    return [
        text,
        markdown_table(['layers', 'slices', 'shift', 'by chance', 'moved'], table),
        *([notes] if notes else []),
    ]
