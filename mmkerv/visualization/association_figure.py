"""Kernels of convolution of convolution, drawn in association groups with the super kernels in the corner.

Convolution of Convolution: Let Kernels Spatially Collaborate, CVPR 2022, section 5 and Figure 9.
"""

import math
from itertools import product

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mmkerv.ops.coc.functional import _tile
from mmkerv.ops.coc.module import CoCConv2d, standardized
from mmkerv.visualization import tiles

# Default numbers, small enough to read: association groups on a sheet; rows of groups and columns of inputs in a table.
GROUPS, ROWS, COLUMNS = 36, 6, 6
# Widths within a cell of width 1: a tile, the strip of super kernels left of it, and a super kernel in the strip.
BOX, STRIP, SUPER_BOX = 0.92, 0.3, 0.24
# Free height below the tile of a cell, for its label, and the distance of the label from the next cell.
GAP, LABEL_GAP = 0.14, 0.03
# Inches: cells share the width of a panel, within these bounds; the figure has at least these sizes.
PANEL_WIDTH, CELL_WIDTHS = 4.6, (0.62, 1.1)
MARGIN, MIN_WIDTH, MIN_HEIGHT = 0.8, 5.0, 1.7
# Input channels that are drawn as the colours of one tile.
RGB = 3


def association_arrays(operator: CoCConv2d) -> dict[str, np.ndarray]:
    """Return the arrays that :func:`association_figure` draws.

    Returns:
        ``weight`` and ``kernel`` (O, C/groups, kH, kW), before and after association; ``weight_tiles`` and
        ``kernel_tiles`` (G, C/groups, a kH, a kW), the same in association groups, NaN where a group lacks filters;
        ``filters`` (G, a, a), the number of the filter at each position, or -1; ``super_kernel_0``,
        ``super_kernel_1``, ..., one for each super layer, after standardization.

    Example:
        >>> {k: v.shape for k, v in association_arrays(CoCConv2d(3, 8, 3)).items() if 'tiles' in k or k == 'filters'}
        {'weight_tiles': (2, 3, 6, 6), 'kernel_tiles': (2, 3, 6, 6), 'filters': (2, 2, 2)}
    """
    with torch.no_grad():
        weight, kernel = operator.weight.detach().float().cpu(), operator.kernel().float().cpu()
        supers = [layer.weight.detach().float().cpu() for layer in operator.super_layers]
        if operator.options.super_standardize:
            supers = [standardized(s) for s in supers]
        numbers = torch.arange(len(weight), dtype=weight.dtype).view(-1, 1, 1, 1)
        filters = _in_tiles(numbers, operator)[:, 0]
    return {
        'weight': weight.numpy(),
        'kernel': kernel.numpy(),
        'weight_tiles': _in_tiles(weight, operator),
        'kernel_tiles': _in_tiles(kernel, operator),
        'filters': np.nan_to_num(filters, nan=-1).astype(np.int64),
        **{f'super_kernel_{i}': s.numpy() for i, s in enumerate(supers)},
    }


def association_figure(
    operator: CoCConv2d, title: str = '', topk: int | None = None, colours: str = 'signed'
) -> Figure:
    """Draw the kernels before and after association, each association group as one tile.

    After association, the super kernels of a group are to the left of its tile. Three input channels are drawn as one
    coloured tile, as in Figure 9; more input channels have a column each.

    Args:
        operator: layer.
        title: title of the picture.
        topk: number of groups (and of inputs) to draw, those of the largest norm; by default the first ones.
        colours: as in :func:`mmkerv.visualization.kernel_figure`.

    Source: Convolution of Convolution, CVPR 2022, Figure 9.

    Example:
        >>> [axes.get_title() for axes in association_figure(CoCConv2d(3, 8, 3)).axes]
        ['before association: W', 'after association: K, its super kernel at the corner']
    """
    arrays = association_arrays(operator)
    before, after = arrays['weight_tiles'], arrays['kernel_tiles']
    colour = before.shape[1] == RGB
    # A sheet has a cell for each group; a table has a row for each group and a column for each input.
    sheet = before.shape[1] in (1, RGB)
    groups = tiles.select_kernels(after, topk, GROUPS if sheet else ROWS)
    inputs = np.arange(1) if sheet else tiles.select_kernels(after[groups].swapaxes(0, 1), topk, COLUMNS)
    columns = math.ceil(math.sqrt(len(groups))) if sheet else len(inputs)
    rows = math.ceil(len(groups) / columns) if sheet else len(groups)
    shared = operator.options.share in ('ci', 'cico') and not sheet
    strips = [STRIP if not (shared and column) else 0.0 for column in range(columns)]
    height = max(BOX * min(1.0, after.shape[2] / after.shape[3]), STRIP * len(operator.super_layers)) + GAP
    # Widths in proportion, so that a tile has one size in both panels; only the second panel has strips.
    column_edges = [np.cumsum([0.0, *(1 + strip * corner for strip in strips)]) for corner in (0, 1)]
    widths = [edges[-1] for edges in column_edges]
    inches = float(np.clip(PANEL_WIDTH / columns, *CELL_WIDTHS))
    figure = tiles.new_figure(
        max(MIN_WIDTH, inches * sum(widths) + MARGIN), max(MIN_HEIGHT, inches * rows * height + tiles.HEADING), title
    )
    panels = figure.subplots(1, 2, width_ratios=widths)
    texts = ('before association: W', 'after association: K, its super kernel at the corner')
    for corner, (axes, kernels, text, edges) in enumerate(zip(panels, (before, after), texts, column_edges)):
        tiles.open_axes(axes, edges[-1], rows * height, text)
        for index, (group, pick) in enumerate(product(groups, [slice(None)] if colour else inputs)):
            row, column = divmod(index, columns)
            left = edges[column] + strips[column] * corner
            scale = None if colours == 'range' else tiles.largest(before[group], after[group])
            cuts = (operator.options.association,) * 2
            tiles.draw_tile(axes, kernels[group, pick], scale, left, row * height, BOX, cuts)
            if corner and strips[column]:
                _place_supers(axes, operator, arrays, group, pick, edges[column], row * height, colours)
            if sheet:
                axes.text(left + BOX / 2, (row + 1) * height - LABEL_GAP, _filters(arrays, group), **_SMALL)
        if not sheet:
            axes.set_yticks([(row + 0.5) * height for row in range(rows)], [_filters(arrays, g) for g in groups])
            tiles.label_columns(
                axes, edges[:-1] + [s * corner + BOX / 2 for s in strips], [f'in {channel}' for channel in inputs]
            )
    tiles.colour_scale(panels[-1], colours, 'kernel' if colours == 'range' else 'group', colour)
    return figure


# Style of the numbers below a tile.
_SMALL = {'ha': 'center', 'va': 'bottom', 'fontsize': 5, 'color': tiles.INK}


def _in_tiles(kernel: Tensor, operator: CoCConv2d) -> np.ndarray:
    """Arrange kernels (O, I, kH, kW) in association groups: (G, I, a kH, a kW), NaN where a group lacks a filter."""
    a, (height, width) = operator.options.association, kernel.shape[2:]
    flat, valid = _tile(kernel, operator.groups, a)
    if valid is not None:
        flat = flat.masked_fill(valid == 0, math.nan)
    grid = flat.view(len(flat), a, a, height, width, kernel.shape[1])
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(flat), kernel.shape[1], a * height, a * width).numpy()


def association_details(operator: CoCConv2d) -> str:
    """Describe the super kernels of a layer.

    Example:
        >>> association_details(CoCConv2d(3, 8, 3))
        'super kernel 3×3 dilated by 2'
    """
    supers = operator.super_kernel
    text = f'super kernel {"×".join(str(s.size) for s in supers)}'
    dilations = sorted({s.dilation for s in supers})
    return text if dilations == [1] else f'{text} dilated by {"×".join(map(str, dilations))}'


def _place_supers(
    axes, operator: CoCConv2d, arrays: dict, group: int, pick, left: float, top: float, colours: str
) -> None:
    for layer in range(len(operator.super_layers)):
        values = _super_kernel(arrays[f'super_kernel_{layer}'], operator.options.share, group, pick)
        scale = None if colours == 'range' else tiles.largest(values)
        tiles.draw_tile(axes, values, scale, left, top + layer * STRIP, SUPER_BOX)


def _super_kernel(weight: np.ndarray, share: str | None, group: int, pick) -> np.ndarray:
    """Return the super kernel of a group and an input channel: (H, W), or (3, H, W) for three channels in colour."""
    if share == 'cico':
        return weight[0, 0]
    if share == 'ci':
        return weight[group, 0]
    if share == 'co':
        return weight[pick, 0]
    return np.stack([weight[i, i] for i in range(len(weight))])[pick]


def _filters(arrays: dict[str, np.ndarray], group: int) -> str:
    """Format the numbers of the filters of a group, such as '0–3'."""
    return tiles.ranges([f for f in arrays['filters'][group].flat if f >= 0])
