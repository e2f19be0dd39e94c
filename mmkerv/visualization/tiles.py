"""Arrays as small coloured tiles on an axes: colours, positions, and the selection of kernels to draw."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmkerv.ops.core import arguments

# Positive values are red, negative ones blue, zero is white.
SIGNED = 'RdBu_r'
# Without a zero, from black to white.
UNSIGNED = 'gray'
# Scales of colours: zero in the middle, or each kernel from its own minimum to its own maximum.
COLOURS = ('signed', 'range')
MISSING = (0.88, 0.88, 0.88, 1.0)
INK, FRAME = '#333333', '#999999'
# Inches above a panel for the titles of figure and panel, and letters per inch of a figure's title.
HEADING, LETTERS_PER_INCH = 0.75, 13


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of a given size in inches, which needs no display.

    Example:
        >>> new_figure(2, 1, 'conv1').get_size_inches().tolist()
        [2.0, 1.0]
    """
    figure = Figure(figsize=(width, height), layout='constrained', facecolor='white')
    figure.suptitle(textwrap.fill(title, int(LETTERS_PER_INCH * width)), fontsize=9, color=INK)
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


def select_kernels(kernels: np.ndarray, topk: int | None, most: int) -> np.ndarray:
    """Return the indices of the kernels (first axis) to draw, ascending.

    Args:
        kernels: (O, ...).
        topk: number of kernels, those of the largest norm; ``None`` selects the first ones, so that pictures of two
            states of a layer show the same kernels.
        most: largest number if ``topk`` is ``None``.

    Raises:
        ValueError: if ``topk`` is below 1.

    Example:
        >>> kernels = np.array([[1.0], [3.0], [2.0]])
        >>> select_kernels(kernels, 2, 9).tolist(), select_kernels(kernels, None, 2).tolist()
        ([1, 2], [0, 1])
    """
    if topk is None:
        return np.arange(min(most, len(kernels)))
    arguments.integer(topk, 'topk', 1)
    norms = np.nansum(np.square(kernels.reshape(len(kernels), -1), dtype=np.float64), axis=1)
    return np.sort(np.argsort(-norms, kind='stable')[:topk])


def largest(*values: np.ndarray) -> float:
    """Return the largest magnitude, the end of a colour scale; 1 if all values are zero.

    Example:
        >>> largest(np.array([-2.0, np.nan]), np.array([1.0])), largest(np.zeros(2))
        (2.0, 1.0)
    """
    magnitude = max(float(np.nanmax(np.abs(v), initial=0.0)) for v in values)
    return magnitude if np.isfinite(magnitude) and magnitude > 0 else 1.0


def stretched(values: np.ndarray, rows: int = 1, columns: int = 1) -> np.ndarray:
    """Return values on a scale from 0, the minimum, to 1, the maximum; equal values are 0.5, NaN stays.

    Args:
        values: (..., H, W).
        rows: number of blocks of rows; each block has its own minimum and maximum.
        columns: number of blocks of columns.

    Example:
        >>> stretched(np.array([[1.0, 3.0, 7.0, 7.0]]), columns=2).tolist()
        [[0.0, 1.0, 0.5, 0.5]]
    """
    *channels, height, width = values.shape
    blocks = values.reshape(*channels, rows, height // rows, columns, width // columns)
    axes = (*range(len(channels)), -3, -1)
    filled = np.isfinite(blocks)
    low = blocks.min(axes, keepdims=True, initial=np.inf, where=filled)
    spread = blocks.max(axes, keepdims=True, initial=-np.inf, where=filled) - low
    varied = filled & (spread > 0)
    unit = np.divide(blocks - low, spread, out=np.where(filled, 0.5, np.nan), where=varied)
    return unit.reshape(values.shape)


def coloured(values: np.ndarray, scale: float | None, cuts: tuple[int, int] | None = None) -> np.ndarray:
    """Return the colours (H, W, 4) of values from -scale to scale; missing values (NaN) are grey.

    Args:
        values: (H, W), drawn from blue to red; or (3, H, W), drawn as red, green and blue with zero as mid-grey.
        scale: > 0; ``None`` draws each block from its own minimum to its own maximum, values (H, W) from black to
            white.
        cuts: numbers of rows and columns of blocks for ``None``; by default one block.

    Example:
        >>> coloured(np.zeros((3, 1, 1)), 1.0)[0, 0].tolist()
        [0.5, 0.5, 0.5, 1.0]
    """
    if scale is None:
        unit, palette = stretched(values, *(cuts or (1, 1))), UNSIGNED
    else:
        unit, palette = np.clip(0.5 + 0.5 * values / scale, 0, 1), SIGNED
    if values.ndim == 2:
        colours = colormaps[palette](np.nan_to_num(unit, nan=0.5))
        missing = np.isnan(values)
    else:
        colours = np.concatenate([np.moveaxis(np.nan_to_num(unit), 0, -1), np.ones((*values.shape[1:], 1))], -1)
        missing = np.isnan(values).any(0)
    colours[missing] = MISSING
    return colours


def draw_tile(
    axes: Axes,
    values: np.ndarray,
    scale: float | None,
    left: float,
    top: float,
    box: float,
    cuts: tuple[int, int] | None = None,
) -> None:
    """Draw values as a tile with its upper left corner at (left, top) and a longer side of ``box``; y grows downwards.

    Args:
        axes: axes to draw on.
        values: as in :func:`coloured`.
        scale: as in :func:`coloured`.
        left: x of the corner.
        top: y of the corner.
        box: length of the longer side.
        cuts: numbers of rows and columns into which lines divide the tile; by default none.

    Example:
        >>> axes = new_figure(1, 1, '').add_subplot(); draw_tile(axes, np.eye(2), 1.0, 0, 0, 1)
        >>> [float(side) for side in axes.images[0].get_extent()]
        [0.0, 1.0, 1.0, 0.0]
    """
    height, width = values.shape[-2:]
    unit = box / max(height, width)
    right, bottom = left + unit * width, top + unit * height
    axes.imshow(coloured(values, scale, cuts), extent=(left, right, bottom, top), interpolation='nearest', zorder=1)
    cut = {'color': 'white' if values.ndim == 3 else INK, 'linewidth': 0.8, 'zorder': 2}
    rows, columns = cuts or (1, 1)
    for y in np.linspace(top, bottom, rows + 1)[1:-1]:
        axes.plot([left, right], [y, y], **cut)
    for x in np.linspace(left, right, columns + 1)[1:-1]:
        axes.plot([x, x], [top, bottom], **cut)
    frame = ([left, right, right, left, left], [top, top, bottom, bottom, top])
    axes.plot(*frame, color=FRAME, linewidth=0.4, zorder=3)


def colour_scale(axes: Axes, colours: str, of: str, rgb: bool = False) -> None:
    """Draw the scale of a sheet's colours to its right.

    Each tile, or group of tiles, is drawn up to its own largest magnitude, so the scale is relative.

    Args:
        axes: the sheet.
        colours: one of ``COLOURS``.
        of: what has a scale of its own, such as ``'filter'``.
        rgb: whether three input channels are drawn as red, green and blue.

    Example:
        >>> axes = new_figure(1, 1, '').add_subplot(); colour_scale(axes, 'signed', 'filter')
        >>> axes.child_axes[0].get_ylabel()
        'of each filter'
    """
    ends = ('min', '', 'max') if colours == 'range' else ('-max', '0', 'max')
    palette = UNSIGNED if colours == 'range' or rgb else SIGNED
    bar = axes.inset_axes((1.02, 0.0, 0.02, 1.0))
    bar.imshow(np.linspace(1, 0, 256)[:, None], cmap=palette, aspect='auto', extent=(0, 1, 0, 1))
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position('right')
    bar.tick_params(length=0, labelsize=6, labelcolor=INK)
    bar.set_xticks([])
    bar.set_yticks([0, 0.5, 1], ends)
    bar.set_ylabel(f'{"red, green, blue " if rgb else ""}of each {of}', fontsize=6, color=INK)


def open_axes(axes: Axes, width: float, height: float, title: str = '') -> None:
    """Turn an axes into a blank sheet of a given size, with equal scales in both directions; y grows downwards.

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
    """Format ascending integers, with runs as ranges.

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
