"""Arrays as small coloured tiles on an axes: colours, places, and which of many kernels are drawn."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmkerv.ops.core import arguments

# Positive values are red, negative ones blue, zero is white.
SIGNED = 'RdBu_r'
MISSING = (0.88, 0.88, 0.88, 1.0)
INK = '#333333'


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of this size in inches, which needs no display.

    Example:
        >>> new_figure(2, 1, 'conv1').get_size_inches().tolist()
        [2.0, 1.0]
    """
    figure = Figure(figsize=(width, height), layout='constrained', facecolor='white')
    # At this size an inch holds about 13 letters.
    figure.suptitle(textwrap.fill(title, int(13 * width)), fontsize=9, color=INK)
    return figure


def pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """Return a figure as an image (H, W, 3) in RGB, 8 bits.

    Example:
        >>> pixels(new_figure(2, 1, '')).shape
        (100, 200, 3)
    """
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def chosen(kernels: np.ndarray, topk: int | None, most: int) -> np.ndarray:
    """Return the indices of the kernels (first axis) that are drawn, ascending.

    Args:
        kernels: (O, ...).
        topk: so many with the largest norm; ``None``: the first ones, so that pictures of two states of a layer show
            the same kernels.
        most: how many at most if ``topk`` is ``None``.

    Raises:
        ValueError: if ``topk`` is below 1.

    Example:
        >>> chosen(np.array([[1.0], [3.0], [2.0]]), 2, 9).tolist(), chosen(np.zeros((3, 1)), None, 2).tolist()
        ([1, 2], [0, 1])
    """
    if topk is None:
        return np.arange(min(most, len(kernels)))
    arguments.integer(topk, 'topk', 1)
    norms = np.nansum(np.square(kernels.reshape(len(kernels), -1), dtype=np.float64), axis=1)
    return np.sort(np.argsort(-norms, kind='stable')[:topk])


def largest(*values: np.ndarray) -> float:
    """Return the largest magnitude, 1 if all are zero: what a colour scale ends at.

    Example:
        >>> largest(np.array([-2.0, np.nan]), np.array([1.0])), largest(np.zeros(2))
        (2.0, 1.0)
    """
    magnitude = max(float(np.nanmax(np.abs(v), initial=0.0)) for v in values)
    return magnitude if np.isfinite(magnitude) and magnitude > 0 else 1.0


def coloured(values: np.ndarray, scale: float) -> np.ndarray:
    """Return the colours (H, W, 4) of values from -scale to scale; what is missing (NaN) is grey.

    Args:
        values: (H, W), then blue to red; or (3, H, W), then red, green and blue around mid-grey, which is zero.
        scale: > 0.

    Example:
        >>> coloured(np.zeros((3, 1, 1)), 1.0)[0, 0].tolist()
        [0.5, 0.5, 0.5, 1.0]
    """
    unit = np.clip(0.5 + 0.5 * values / scale, 0, 1)
    if values.ndim == 2:
        colours = colormaps[SIGNED](np.nan_to_num(unit, nan=0.5))
        missing = np.isnan(values)
    else:
        colours = np.concatenate([np.moveaxis(np.nan_to_num(unit), 0, -1), np.ones((*values.shape[1:], 1))], -1)
        missing = np.isnan(values).any(0)
    colours[missing] = MISSING
    return colours


def place(axes: Axes, values: np.ndarray, scale: float, left: float, top: float, box: float, cuts: Any = None) -> None:
    """Draw values as a tile whose longer side is ``box``, its corner at (left, top), y growing downwards.

    Args:
        axes: where.
        values: as :func:`coloured`.
        scale: as :func:`coloured`.
        left: x of the corner.
        top: y of the corner.
        box: extent of the longer side.
        cuts: rows and columns into which lines divide the tile.

    Example:
        >>> axes = new_figure(1, 1, '').add_subplot(); place(axes, np.eye(2), 1.0, 0, 0, 1)
        >>> [float(side) for side in axes.images[0].get_extent()]
        [0.0, 1.0, 1.0, 0.0]
    """
    height, width = values.shape[-2:]
    unit = box / max(height, width)
    right, bottom = left + unit * width, top + unit * height
    axes.imshow(coloured(values, scale), extent=(left, right, bottom, top), interpolation='nearest', zorder=1)
    cut = {'color': 'white' if values.ndim == 3 else INK, 'linewidth': 0.8, 'zorder': 2}
    for count, first, last, draw in (
        ((cuts or (1, 1))[0], top, bottom, lambda y: ([left, right], [y, y])),
        ((cuts or (1, 1))[1], left, right, lambda x: ([x, x], [top, bottom])),
    ):
        for position in np.linspace(first, last, count + 1)[1:-1]:
            axes.plot(*draw(position), **cut)
    frame = ([left, right, right, left, left], [top, top, bottom, bottom, top])
    axes.plot(*frame, color='#999999', linewidth=0.4, zorder=3)


def open_axes(axes: Axes, width: float, height: float, title: str = '') -> None:
    """Make an axes a blank sheet of this size, equal in both directions, y growing downwards.

    Example:
        >>> axes = new_figure(1, 1, '').add_subplot(); open_axes(axes, 4, 2)
        >>> [float(side) for side in axes.get_ylim()]
        [2.0, 0.0]
    """
    axes.set(xlim=(0, width), ylim=(height, 0), aspect='equal', autoscale_on=False)
    axes.set_title(title, fontsize=8, color=INK)
    axes.set_frame_on(False)
    axes.tick_params(length=0, labelsize=6, labelcolor=INK)
    axes.set_xticks([])
    axes.set_yticks([])


def label_columns(axes: Axes, centres: Sequence[float], labels: Sequence[str]) -> None:
    """Write labels above the columns of a sheet.

    Example:
        >>> axes = new_figure(1, 1, '').add_subplot(); label_columns(axes, [0.5], ['input 0'])
    """
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(list(centres), list(labels))


def ranges(numbers: Sequence[int]) -> str:
    """Write numbers shortly, runs as ranges.

    Example:
        >>> ranges([0, 1, 2, 5])
        '0–2, 5'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ', '.join(f'{p[0]}–{p[-1]}' if len(p) > 1 else str(p[0]) for p in parts)
