"""The filters of a layer as small tiles: of kervolutions, and of every convolution that has nothing more to show.

Kervolutional Neural Networks, CVPR 2019, Figure 1.
"""

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.kerv import Kervolution
from mmkerv.visualization import tiles

FILTERS, ROWS, COLUMNS = 64, 8, 8


def filter_arrays(operator: nn.Module) -> dict[str, np.ndarray]:
    """Return what :func:`filter_figure` draws: ``kernel`` (O, C/groups, *kernel_size), and learned hyperparameters.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> {k: v.shape for k, v in filter_arrays(KervConv2d(3, 8, 3, learnable=True)).items()}
        {'kernel': (8, 3, 3, 3), 'balance': (1,)}
    """
    with torch.no_grad():
        kernel = operator.kernel() if isinstance(operator, GeneratedKernel) else operator.weight
        arrays = {'kernel': kernel.detach().float().cpu().numpy()}
        if isinstance(operator, Kervolution):
            for name in operator._learned():
                arrays[name] = getattr(operator, name).detach().float().cpu().numpy()
    return arrays


def filter_figure(operator: nn.Module, title: str = '', topk: int | None = None) -> Figure:
    """Draw filters as tiles, each on a colour scale of its own.

    Filters of one input channel, or of three (in colour), fill a sheet; others have a row, and a column for each input.
    Sequences are drawn with an input in each row of a tile, volumes with a column for each slice.

    Args:
        operator: layer.
        title: of the picture.
        topk: so many filters with the largest norm (and as many inputs); by default the first ones.

    Source: Kervolutional Neural Networks, CVPR 2019, Figure 1.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> len(filter_figure(KervConv2d(1, 6, 5)).axes[0].images)
        6
    """
    arrays = filter_arrays(operator)
    kernel = arrays['kernel']
    colour, unit = kernel.ndim == 4 and kernel.shape[1] == 3, 'in'
    if kernel.ndim == 3:
        kernel = kernel[:, None]
    elif kernel.ndim == 5:
        kernel, unit = kernel.reshape(len(kernel), -1, *kernel.shape[3:]), 'slice'
    sheet = colour or kernel.shape[1] == 1
    outputs = tiles.chosen(kernel, topk, FILTERS if sheet else ROWS)
    inputs = np.arange(1) if sheet else tiles.chosen(kernel[outputs].swapaxes(0, 1), topk, COLUMNS)
    columns = min(len(outputs), max(6, math.ceil(math.sqrt(len(outputs))))) if sheet else len(inputs)
    rows = math.ceil(len(outputs) / columns) if sheet else len(outputs)
    height = 0.92 * min(1.0, kernel.shape[2] / kernel.shape[3]) + (0.24 if sheet else 0.08)
    side = max(0.5, min(1.0, 6.0 / columns))
    figure = tiles.new_figure(max(4.5, side * columns + 0.5), max(1.3, side * rows * height + 0.75), title)
    axes = figure.subplots()
    tiles.open_axes(axes, columns, rows * height)
    for index in range(len(outputs) * len(inputs)):
        row, column = divmod(index, columns)
        output = outputs[index if sheet else row]
        pick = slice(None) if colour else (0 if sheet else inputs[column])
        tiles.place(axes, kernel[output, pick], tiles.largest(kernel[output]), column + 0.04, row * height, 0.92)
        if sheet:
            text = _label(arrays, output)
            axes.text(column + 0.5, (row + 1) * height, text, ha='center', va='bottom', fontsize=6, color=tiles.INK)
    if not sheet:
        axes.set_yticks([(row + 0.46) * height for row in range(rows)], [_label(arrays, o) for o in outputs])
        tiles.label_columns(axes, [column + 0.5 for column in range(columns)], [f'{unit} {i}' for i in inputs])
    return figure


def hyperparameters(operator: Kervolution) -> str:
    """Write a kervolution's kernel and its hyperparameters as they are now.

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


def _label(arrays: dict[str, np.ndarray], output: int) -> str:
    own = [f'{name} {values[output]:.2g}' for name, values in arrays.items() if name != 'kernel' and len(values) > 1]
    return ', '.join([str(output), *own])
