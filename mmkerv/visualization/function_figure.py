"""Functions that a Kolmogorov-Arnold convolution has learned in place of weights, as curves over the pixel's value."""

import numpy as np
import torch
from matplotlib.figure import Figure

from mmkerv.errors import ArgumentError
from mmkerv.ops.kan import KANConv2d
from mmkerv.visualization import tiles

# Default numbers of output and input channels.
ROWS, COLUMNS = 4, 4
# Points of a curve, and the pixel values it shows at least.
POINTS, REACH = 121, 3.0
# Inches: width and height of a panel, and their margins.
PANEL_WIDTH, PANEL_HEIGHT, MARGIN, MIN_WIDTH = 1.5, 1.1, 0.9, 4.5
CENTRE, OTHERS, ZERO = '#c0392b', '#2c5f8a', '#bbbbbb'


def function_arrays(operator: KANConv2d, topk: int | None = None) -> dict[str, np.ndarray]:
    """Return the arrays that :func:`function_figure` draws.

    Args:
        operator: layer.
        topk: number of output channels, and of input channels, to draw: those with the largest weights; by default the
            first ones.

    Returns:
        ``kernel`` (O, C/groups, kH, kW), the weights of the base branch; ``outputs`` (F,) and ``inputs`` (G,), the
        drawn channels, inputs counted within their group; ``x`` (P,), pixel values; ``functions`` (F, G, kH, kW, P).

    Raises:
        ValueError: if ``topk`` is below 1.

    Example:
        >>> {k: v.shape for k, v in function_arrays(KANConv2d(3, 8, 3), 2).items()}  # doctest: +NORMALIZE_WHITESPACE
        {'kernel': (8, 3, 3, 3), 'outputs': (2,), 'inputs': (2,), 'x': (121,), 'functions': (2, 2, 3, 3, 121)}
    """
    with torch.no_grad():
        weight, basis = (p.detach().float().cpu() for p in (operator.weight, operator.basis.weight))
        # All weights of an output and an input channel together: (O, C/groups, B + 1, kH, kW).
        weights = torch.cat([weight[:, :, None], basis.view(*weight.shape[:2], -1, *weight.shape[2:])], 2).numpy()
        outputs = tiles.select_kernels(weights, topk, ROWS)
        inputs = tiles.select_kernels(weights[outputs].swapaxes(0, 1), topk, COLUMNS)
        # Of a basis without a grid both ends are 0.
        _, _, _, low, high = operator.functions
        x = torch.linspace(min(low, -REACH), max(high, REACH), POINTS)
        rows, columns = (torch.from_numpy(chosen).to(operator.weight.device) for chosen in (outputs, inputs))
        functions = operator.curves(x, rows, columns).float().cpu()
    return {
        'kernel': weight.numpy(),
        'outputs': outputs,
        'inputs': inputs,
        'x': x.numpy(),
        'functions': functions.numpy(),
    }


def function_figure(operator: KANConv2d, title: str = '', topk: int | None = None, colours: str = 'signed') -> Figure:
    """Draw the function of each weight: a row for an output channel, a column for an input channel, a curve for a tap.

    The curve of the central tap is red. Before training, all of a layer with a plain start are straight lines.

    Args:
        operator: layer.
        title: title of the picture.
        topk: as in :func:`function_arrays`.
        colours: ``'signed'``.

    Raises:
        ValueError: for other colours: a curve has its values on an axis.

    Example:
        >>> axes = function_figure(KANConv2d(1, 2, 3)).axes
        >>> len(axes), len([line for line in axes[0].lines if len(line.get_xdata()) > 2])
        (2, 9)
    """
    if colours != 'signed':
        raise ArgumentError(
            f'colours={colours!r} is for layers that are drawn as filters; {type(operator).__name__} is drawn as '
            "curves: leave it out, or use colours='signed'"
        )
    arrays = function_arrays(operator, topk)
    rows, columns, height, width, _ = arrays['functions'].shape
    figure = tiles.new_figure(max(MIN_WIDTH, PANEL_WIDTH * columns + MARGIN), PANEL_HEIGHT * rows + MARGIN, title)
    panels = figure.subplots(rows, columns, sharex=True, sharey='row', squeeze=False)
    centre = (height // 2, width // 2)
    for (row, column), axes in np.ndenumerate(panels):
        axes.axhline(0, color=ZERO, linewidth=0.6, zorder=0)
        axes.axvline(0, color=ZERO, linewidth=0.6, zorder=0)
        for tap in np.ndindex(height, width):
            style = {'color': CENTRE, 'zorder': 3} if tap == centre else {'color': OTHERS, 'alpha': 0.6}
            axes.plot(arrays['x'], arrays['functions'][(row, column, *tap)], linewidth=0.8, **style)
        axes.tick_params(labelsize=5)
        axes.spines[['top', 'right']].set_visible(False)
    for axes, number in zip(panels[:, 0], arrays['outputs']):
        axes.set_ylabel(f'out {number}', fontsize=7, color=tiles.INK)
    for axes, number in zip(panels[0], arrays['inputs']):
        axes.set_title(f'in {number}', fontsize=7, color=tiles.INK)
    figure.supxlabel('value of the pixel', fontsize=7, color=tiles.INK)
    return figure


def function_details(operator: KANConv2d) -> str:
    """Describe the basis of a layer.

    Example:
        >>> function_details(KANConv2d(1, 2, 3)), function_details(KANConv2d(1, 2, 3, basis='gram'))
        ('spline of degree 3, 5 intervals of [-1, 1]', 'gram of degree 3')
    """
    name, degree, size, low, high = operator.functions
    parts = [name if name == 'rbf' else f'{name} of degree {degree}']
    if size:
        parts.append(f'{size} {"intervals" if name == "spline" else "Gaussians"} of [{low:g}, {high:g}]')
    if operator.options.base_activation is not None:
        parts.append(f'{operator.options.base_activation} base')
    return ', '.join(parts)
