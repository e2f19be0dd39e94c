"""The kernels of all layers of a network on one sheet."""

import math
import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from mmkerv.ops.core.arguments import ceil_div
from mmkerv.visualization import tiles
from mmkerv.visualization.kernel_figures import kernel_arrays

# Layers in a row of the sheet, and kernels in a row and column of a layer.
COLUMNS, SIDE = 6, 4
# Inches: a cell, and the letters of its title that fit in it.
CELL, LETTERS = 1.35, 32
# Heights and widths in a cell of width 1: its picture, and the room for its title.
BOX, TITLE = 0.9, 0.3


def contact_sheet(layers: Mapping[str, nn.Module], title: str = '') -> Figure:
    r"""Draw the first kernels of each layer in a cell: of up to 16 filters the kernel of the first input channel.

    Each layer has a colour scale of its own with zero in the middle.

    Args:
        layers: operators or plain convolutions by name, at least one.
        title: title of the picture.

    Returns:
        A figure that needs no display.

    Example:
        >>> figure = contact_sheet({'conv1': nn.Conv2d(3, 8, 3), 'conv2': nn.Conv1d(8, 4, 5)}, 'net')
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['conv1\nConv2d 3×3', 'conv2\nConv1d 5']
    """
    columns, height = min(COLUMNS, len(layers)), BOX + TITLE
    rows = ceil_div(len(layers), columns)
    figure = tiles.new_figure(max(4.5, CELL * columns + 0.6), max(1.6, CELL * rows * height + tiles.HEADING), title)
    axes = figure.subplots()
    tiles.open_axes(axes, columns, rows * height)
    for index, (name, layer) in enumerate(layers.items()):
        row, column = divmod(index, columns)
        values = mosaic(kernel_arrays(layer)['kernel'])
        place = (column + (1 - BOX) / 2, row * height + TITLE)
        tiles.draw_tile(axes, values, tiles.largest(values), *place, BOX)
        size = '×'.join(map(str, layer.kernel_size)) if layer.kernel_size else ''
        lines = [*textwrap.wrap(name, LETTERS)[-2:], f'{type(layer).__name__} {size}'.strip()]
        axes.text(
            column + 0.5, place[1] - 0.03, '\n'.join(lines), ha='center', va='bottom', fontsize=5, color=tiles.INK
        )
    tiles.colour_scale(axes, 'signed', 'layer')
    return figure


def mosaic(kernel: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Return the kernels of the first input channel of the first filters beside each other, with NaN between them.

    Args:
        kernel: (O, C/groups, *size) with one to three axes of size; of three, the middle slice is taken.
        side: largest number of kernels in a row, and of rows.

    Example:
        >>> mosaic(np.ones((2, 5, 3, 3))).shape, mosaic(np.ones((8, 5, 7))).shape
        ((3, 7), (8, 7))
    """
    first = kernel[: side**2, 0]
    if kernel.ndim == 3:
        # Sequences are long: one below the other.
        return first[: side * 2]
    if kernel.ndim == 5:
        first = first[:, kernel.shape[2] // 2]
    columns = math.ceil(math.sqrt(len(first)))
    rows = ceil_div(len(first), columns)
    height, width = first.shape[1:]
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan, first.dtype)
    for index, values in enumerate(first):
        row, column = divmod(index, columns)
        top, left = row * (height + 1), column * (width + 1)
        sheet[top : top + height, left : left + width] = values
    return sheet
