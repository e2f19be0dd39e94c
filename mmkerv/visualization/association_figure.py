"""Kernels of convolution of convolution, drawn in their association groups with the super kernel in the corner.

Convolution of Convolution: Let Kernels Spatially Collaborate, CVPR 2022, section 5 and Figure 9.
"""

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mmkerv.ops.coc.functional import _tile
from mmkerv.ops.coc.module import CoCConv2d, standardized
from mmkerv.visualization import tiles

# What is still readable if the caller does not say how many: association groups, and groups and inputs of wide layers.
GROUPS, ROWS, COLUMNS = 36, 6, 6
# Width of the strip that holds a super kernel, and of the tile beside it, in a cell of width 1.
STRIP, BOX = 0.3, 0.92


def association_arrays(operator: CoCConv2d) -> dict[str, np.ndarray]:
    """Return what :func:`association_figure` draws of a layer.

    Returns:
        ``weight`` and ``kernel`` (O, C/groups, kH, kW), before and after association; ``weight_tiles`` and
        ``kernel_tiles`` (G, C/groups, a kH, a kW), the same in association groups, NaN where a group lacks filters;
        ``filters`` (G, a, a), the filter in each place or -1; ``super_kernel_0``, ``super_kernel_1``, ..., one for each
        super layer, as they convolve.

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
        places = _in_tiles(numbers, operator)[:, 0]
    return {
        'weight': weight.numpy(),
        'kernel': kernel.numpy(),
        'weight_tiles': _in_tiles(weight, operator),
        'kernel_tiles': _in_tiles(kernel, operator),
        'filters': np.nan_to_num(places, nan=-1).astype(np.int64),
        **{f'super_kernel_{i}': s.numpy() for i, s in enumerate(supers)},
    }


def association_figure(operator: CoCConv2d, title: str = '', topk: int | None = None) -> Figure:
    """Draw the kernels before and after association, each association group as one tile.

    After association the group's super kernels stand at the left corner of its tile. Three input channels are drawn as
    one coloured tile, as Figure 9 does; of more, each has a column.

    Args:
        operator: layer.
        title: of the picture.
        topk: so many groups with the largest kernels (and as many inputs); by default the first ones.

    Source: Convolution of Convolution, CVPR 2022, Figure 9.

    Example:
        >>> [axes.get_title() for axes in association_figure(CoCConv2d(3, 8, 3)).axes]
        ['before association: W', 'after association: K, its super kernel at the corner']
    """
    arrays = association_arrays(operator)
    before, after = arrays['weight_tiles'], arrays['kernel_tiles']
    colour = before.shape[1] == 3
    sheet = before.shape[1] in (1, 3)
    groups = tiles.chosen(after, topk, GROUPS if sheet else ROWS)
    inputs = np.arange(1) if sheet else tiles.chosen(after[groups].swapaxes(0, 1), topk, COLUMNS)
    columns = math.ceil(math.sqrt(len(groups))) if sheet else len(inputs)
    rows = math.ceil(len(groups) / columns) if sheet else len(groups)
    shared = operator.options.share in ('ci', 'cico') and not sheet
    strips = [STRIP if not (shared and column) else 0.0 for column in range(columns)]
    height = max(BOX * min(1.0, after.shape[2] / after.shape[3]), STRIP * len(operator.super_layers)) + 0.14
    # Widths in proportion, so that a tile has one size in both panels.
    sheets = [np.cumsum([0.0, *(1 + strip * corner for strip in strips)]) for corner in (0, 1)]
    widths = [edges[-1] for edges in sheets]
    side = max(0.62, min(1.1, 4.6 / columns))
    figure = tiles.new_figure(max(5.0, side * sum(widths) + 0.8), max(1.7, side * rows * height + 0.75), title)
    panels = figure.subplots(1, 2, width_ratios=widths)
    texts = ('before association: W', 'after association: K, its super kernel at the corner')
    for corner, (axes, kernels, text, edges) in enumerate(zip(panels, (before, after), texts, sheets)):
        tiles.open_axes(axes, edges[-1], rows * height, text)
        for index in range(len(groups) * len(inputs)):
            row, column = divmod(index, columns)
            group = groups[index if sheet else row]
            pick = slice(None) if colour else (0 if sheet else inputs[column])
            left = edges[column] + strips[column] * corner
            scale = tiles.largest(before[group], after[group])
            cuts = (operator.options.association,) * 2
            tiles.place(axes, kernels[group, pick], scale, left, row * height, BOX, cuts)
            if corner and strips[column]:
                _place_supers(axes, operator, arrays, group, pick, edges[column], row * height)
            if sheet:
                axes.text(left + BOX / 2, row * height + height - 0.03, _filters(arrays, group), **_SMALL)
        if not sheet:
            axes.set_yticks([(row + 0.5) * height for row in range(rows)], [_filters(arrays, g) for g in groups])
            tiles.label_columns(
                axes, edges[:-1] + [s * corner + BOX / 2 for s in strips], [f'in {channel}' for channel in inputs]
            )
    return figure


_SMALL = {'ha': 'center', 'va': 'bottom', 'fontsize': 5, 'color': tiles.INK}


def _in_tiles(kernel: Tensor, operator: CoCConv2d) -> np.ndarray:
    """Lay kernels (O, I, kH, kW) out in their groups: (G, I, a kH, a kW), NaN where a filter is missing."""
    a, (height, width) = operator.options.association, kernel.shape[2:]
    flat, valid = _tile(kernel, operator.groups, a)
    if valid is not None:
        # One mask for each of the blocks of filters that are padded by themselves.
        flat = flat.masked_fill(valid.expand(len(flat), -1, 1) == 0, math.nan)
    grid = flat.view(len(flat), a, a, height, width, kernel.shape[1])
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(flat), kernel.shape[1], a * height, a * width).numpy()


def _place_supers(axes, operator: CoCConv2d, arrays: dict, group: int, pick, left: float, top: float) -> None:
    for layer in range(len(operator.super_layers)):
        values = _super_kernel(arrays[f'super_kernel_{layer}'], operator.options.share, group, pick)
        box = STRIP - 0.06
        tiles.place(axes, values, tiles.largest(values), left, top + layer * STRIP, box)


def _super_kernel(weight: np.ndarray, share: str | None, group: int, pick) -> np.ndarray:
    """The super kernel of a group and an input channel: (H, W), or (3, H, W) where the channels have their own."""
    if share in ('ci', 'cico'):
        return weight[group if share == 'ci' else 0, 0]
    own = weight[:, 0] if share == 'co' else np.stack([weight[i, i] for i in range(len(weight))])
    return own[pick]


def _filters(arrays: dict[str, np.ndarray], group: int) -> str:
    return tiles.ranges([f for f in arrays['filters'][group].flat if f >= 0])
