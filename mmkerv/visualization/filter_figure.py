"""Filters of a layer as small tiles: the picture of kervolutions and of every layer without a picture of its own.

Kervolutional Neural Networks, CVPR 2019, Figure 1.
"""

import math
from functools import singledispatch
from itertools import product

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.dcls import DCLSConv2d
from mmkerv.ops.kerv import Kervolution
from mmkerv.ops.recconv import RecConv2d
from mmkerv.ops.smpconv import SMPConv2d
from mmkerv.visualization import tiles

# Default numbers, small enough to read: filters on a sheet; rows of filters and columns of inputs in a table.
FILTERS, ROWS, COLUMNS = 64, 8, 8
# Least number of columns of a sheet, unless it has fewer filters.
SHEET_COLUMNS = 6
# Width of a tile in a cell of width 1, and the free heights below it: with a label, and without.
BOX, LABEL, GAP = 0.92, 0.24, 0.08
# Inches: cells share the width of the sheet, within these bounds; the figure has at least these sizes.
SHEET_WIDTH, CELL_WIDTHS = 6.0, (0.5, 1.0)
MARGIN, MIN_WIDTH, MIN_HEIGHT = 0.5, 4.5, 1.3
# Input channels that are drawn as the colours of one tile.
RGB = 3


@singledispatch
def filter_arrays(operator: nn.Module) -> dict[str, np.ndarray]:
    """Return the arrays that :func:`filter_figure` draws.

    Returns:
        ``kernel`` (O, C/groups, *kernel_size): that of :meth:`kernel` of a generated operator, the weight of others;
        of a kervolution, its learned hyperparameters by name; of a recursive convolution, its kernels side by side,
        (C, levels + 2, *kernel_size). Where taps have learned positions, ``positions`` (2, O, C/groups, n): rows, then
        columns, counted from the middle of the kernel.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> {k: v.shape for k, v in filter_arrays(KervConv2d(3, 8, 3, learnable=True)).items()}
        {'kernel': (8, 3, 3, 3), 'balance': (1,)}
    """
    return {'kernel': _array(operator.weight)}


@filter_arrays.register
def _(operator: GeneratedKernel) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {'kernel': _array(operator.kernel())}


@filter_arrays.register
def _(operator: Kervolution) -> dict[str, np.ndarray]:
    learned = {name: _array(getattr(operator, name)) for name in operator._learned()}
    return {'kernel': _array(operator.weight), **learned}


@filter_arrays.register
def _(operator: DCLSConv2d) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {'kernel': _array(operator.kernel()), 'positions': _array(operator.positions)}


@filter_arrays.register
def _(operator: SMPConv2d) -> dict[str, np.ndarray]:
    with torch.no_grad():
        kernel = operator.kernel()
        # From [-1, 1], the extent of the grid, to taps; one set for all kernels or one for each output channel.
        half = operator.positions.new_tensor([(k - 1) / 2 for k in operator.kernel_size])
        positions = (half.view(2, 1, 1) * operator.positions).unsqueeze(2).expand(-1, *kernel.shape[:2], -1)
        return {'kernel': _array(kernel), 'positions': _array(positions)}


@filter_arrays.register
def _(operator: RecConv2d) -> dict[str, np.ndarray]:
    return {'kernel': _array(torch.cat([operator.down.weight, *(conv.weight for conv in operator.convs)], 1))}


def filter_figure(operator: nn.Module, title: str = '', topk: int | None = None, colours: str = 'signed') -> Figure:
    """Draw filters as tiles, each filter on its own colour scale.

    Filters of one input channel, or of three (in colour), fill a sheet; with more channels, each filter has a row with
    a column for each of them. A tile of a 1-D kernel has a row for each input channel; a 3-D kernel has a column for
    each slice. Dots mark the learned positions of taps.

    Args:
        operator: layer.
        title: title of the picture.
        topk: number of filters (and of inputs) to draw, those of the largest norm; by default the first ones.
        colours: as in :func:`mmkerv.visualization.kernel_figure`.

    Source: Kervolutional Neural Networks, CVPR 2019, Figure 1.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> len(filter_figure(KervConv2d(1, 6, 5)).axes[0].images)
        6
    """
    arrays = filter_arrays(operator)
    kernel = arrays['kernel']
    colour, unit = kernel.ndim == 4 and kernel.shape[1] == RGB, 'in'
    if kernel.ndim == 3:
        kernel = kernel[:, None]
    elif kernel.ndim == 5:
        kernel, unit = kernel.reshape(len(kernel), -1, *kernel.shape[3:]), 'slice'
    sheet = colour or kernel.shape[1] == 1
    outputs = tiles.select_kernels(kernel, topk, FILTERS if sheet else ROWS)
    inputs = np.arange(1) if sheet else tiles.select_kernels(kernel[outputs].swapaxes(0, 1), topk, COLUMNS)
    if sheet:
        columns = min(len(outputs), max(SHEET_COLUMNS, math.ceil(math.sqrt(len(outputs)))))
        rows = math.ceil(len(outputs) / columns)
    else:
        columns, rows = len(inputs), len(outputs)
    height = BOX * min(1.0, kernel.shape[2] / kernel.shape[3]) + (LABEL if sheet else GAP)
    inches = float(np.clip(SHEET_WIDTH / columns, *CELL_WIDTHS))
    figure = tiles.new_figure(
        max(MIN_WIDTH, inches * columns + MARGIN), max(MIN_HEIGHT, inches * rows * height + tiles.HEADING), title
    )
    axes = figure.subplots()
    tiles.open_axes(axes, columns, rows * height)
    for index, (output, pick) in enumerate(product(outputs, [slice(None)] if colour else inputs)):
        row, column = divmod(index, columns)
        left = column + (1 - BOX) / 2
        scale = None if colours == 'range' else tiles.largest(kernel[output])
        tiles.draw_tile(axes, kernel[output, pick], scale, left, row * height, BOX)
        if 'positions' in arrays:
            _draw_positions(axes, arrays['positions'][:, output, pick], kernel.shape[2:], left, row * height)
        if sheet:
            text = _label(arrays, output)
            axes.text(column + 0.5, (row + 1) * height, text, ha='center', va='bottom', fontsize=6, color=tiles.INK)
    if not sheet:
        axes.set_yticks([(row + BOX / 2) * height for row in range(rows)], [_label(arrays, o) for o in outputs])
        tiles.label_columns(axes, [column + 0.5 for column in range(columns)], [f'{unit} {i}' for i in inputs])
    tiles.colour_scale(axes, colours, 'tile' if colours == 'range' else 'filter', colour)
    return figure


def _draw_positions(axes: Axes, positions: np.ndarray, size: tuple[int, ...], left: float, top: float) -> None:
    """Mark positions (2, ...), counted in taps from the middle, on the tile of a kernel."""
    unit = BOX / max(size)
    y, x = (
        corner + unit * (taps / 2 + axis.ravel())
        for corner, taps, axis in zip((top, left), size, positions, strict=True)
    )
    axes.plot(x, y, '.', color=tiles.INK, markersize=2.5, markeredgewidth=0, zorder=3)


def hyperparameters(operator: Kervolution) -> str:
    """Describe a kervolution's kernel and the current values of its hyperparameters.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> hyperparameters(KervConv2d(1, 6, 5, kernel='gaussian'))
        'gaussian, gamma=0.04'
    """
    parts = [operator.kernel_name]
    for name, value in operator._values().items():
        if isinstance(value, torch.Tensor):
            low, high = value.detach().min().item(), value.detach().max().item()
            learned = f'{low:.3g}' if low == high else f'{low:.3g} to {high:.3g}'
            parts.append(f'{name}={learned} (learned)')
        else:
            parts.append(f'{name}={value:.3g}')
    return ', '.join(parts)


def recursion(operator: RecConv2d) -> str:
    """Name the columns of a recursive convolution's picture.

    Example:
        >>> recursion(RecConv2d(4, 4, 5, padding=2, groups=4, levels=2))
        'downsampling kernel and those of levels 2 to 0'
    """
    return f'downsampling kernel and those of levels {operator.options.levels} to 0'


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _label(arrays: dict[str, np.ndarray], output: int) -> str:
    """Format the number of a filter, and its hyperparameters where each filter has learned its own."""
    learned = [
        f'{name} {values[output]:.2g}' for name, values in arrays.items() if values.ndim == 1 and len(values) > 1
    ]
    return ', '.join([str(output), *learned])
