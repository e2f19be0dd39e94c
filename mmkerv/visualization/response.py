"""Responses of kervolutions along a line in patch space, beside those of other kernels to the same patches."""

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mmkerv.ops.core import arguments
from mmkerv.ops.kerv import KERNELS, Kervolution, checked_hyperparameters, find_kernel, kervolve
from mmkerv.visualization import tiles
from mmkerv.visualization.filter_figure import hyperparameters
from mmkerv.visualization.kernel_figures import title_of

# Default number of filters, points of a curve, and columns of the small panels.
FILTERS, POINTS, COLUMNS = 4, 201, 4
LINES = ('filter', 'patches')
# Key of the layer's own kernel among the kernels of the library.
OWN = 'own'
# Inches: width of the figure, height of a row of small panels, margin, and least height.
WIDTH, ROW_HEIGHT, MARGIN, MIN_HEIGHT = 10.0, 1.25, 0.9, 2.6


def response_arrays(
    operator: Kervolution, topk: int | None = None, line: str = 'filter', reach: float = 2.0, seed: int = 0
) -> dict[str, np.ndarray]:
    r"""Return the response :math:`\kappa(x(t), w)` of filters w to the patches x(t) of a line, without the bias.

    Args:
        operator: a kervolution.
        topk: number of filters, those of the largest norm; by default the first ones.
        line: ``'filter'``: :math:`x(t) = t w` with t from -reach to reach, through the filter itself at t = 1;
            ``'patches'``: :math:`x(t) = (1 - t) a + t b` with t from 0 to 1, between two random patches of the mean
            norm of the filters, which are the same for all filters.
        reach: see ``line``, > 0.
        seed: seed of the random patches.

    Returns:
        ``filters`` (F,); ``t`` (P,); ``own`` (F, P), the layer's kernel with the current hyperparameters; and (F, P)
        for every other kernel of the library by name, with its default hyperparameters.

    Raises:
        ValueError: for an unknown line, or a value out of its range.

    Source: Kervolutional Neural Networks, CVPR 2019, section 3.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> arrays = response_arrays(KervConv2d(1, 6, 5, kernel='gaussian'), topk=2)
        >>> arrays['own'].shape, round(float(arrays['own'][0].max()), 3), arrays['polynomial'].shape
        ((2, 201), 1.0, (2, 201))
    """
    arguments.one_of(line, 'line', LINES)
    reach = arguments.real(reach, 'reach', 0, above=True)
    with torch.no_grad():
        weight = operator.weight.detach().float().cpu()
        filters = tiles.select_kernels(weight.numpy(), topk, FILTERS)
        generator = torch.Generator().manual_seed(seed)
        a, b = torch.randn(2, *weight.shape[1:], generator=generator)
        norm = weight.flatten(1).norm(dim=1).mean()
        a, b = (norm / patch.norm() * patch for patch in (a, b))
        t = torch.linspace(-reach, reach, POINTS) if line == 'filter' else torch.linspace(0, 1, POINTS)
        along = t.view(-1, *(1,) * a.dim())
        arrays = {'filters': filters, 't': t.numpy()}
        names = [OWN, *(name for name in KERNELS if name != operator.kernel_name)]
        arrays |= {name: np.empty((len(filters), POINTS), np.float32) for name in names}
        for row, number in enumerate(filters):
            w = weight[number : number + 1]
            patches = along * w if line == 'filter' else (1 - along) * a + along * b
            for name in names:
                arrays[name][row] = _response(operator, name, patches, w, int(number))
    return arrays


def response_figure(
    operator: Kervolution,
    name: str = '',
    topk: int | None = None,
    line: str = 'filter',
    reach: float = 2.0,
    seed: int = 0,
) -> Figure:
    """Draw :func:`response_arrays`: the layer's own kernel large, every other kernel of the library in a small panel.

    Args:
        operator: a kervolution.
        name: name of the layer, for the title.
        topk: as in :func:`response_arrays`.
        line: as in :func:`response_arrays`.
        reach: as in :func:`response_arrays`.
        seed: as in :func:`response_arrays`.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> response_figure(KervConv2d(1, 6, 5), 'conv1').axes[0].get_title()
        'own: polynomial, degree=3, balance=1'
    """
    arrays = response_arrays(operator, topk, line, reach, seed)
    others = [key for key in arrays if key not in ('filters', 't', OWN)]
    rows = math.ceil(len(others) / COLUMNS)
    height = max(MIN_HEIGHT, ROW_HEIGHT * rows + MARGIN)
    figure = tiles.new_figure(WIDTH, height, f'response of {title_of(operator, name)}')
    grid = figure.add_gridspec(rows, COLUMNS + 2)
    own = figure.add_subplot(grid[:, :2])
    _draw(own, arrays, OWN, f'own: {hyperparameters(operator)}', 8)
    own.set_xlabel('t, patch x = t w' if line == 'filter' else 't, patch x = (1 - t) a + t b', fontsize=7)
    own.set_ylabel('response without bias', fontsize=7)
    own.legend([f'filter {number}' for number in arrays['filters']], fontsize=6, frameon=False)
    for index, key in enumerate(others):
        row, column = divmod(index, COLUMNS)
        axes = figure.add_subplot(grid[row, column + 2])
        _draw(axes, arrays, key, _with_defaults(key, operator), 6)
    return figure


def _response(operator: Kervolution, name: str, patches: Tensor, w: Tensor, number: int) -> np.ndarray:
    if name == OWN:
        rule = find_kernel(operator.kernel_name)
        values = {key: _value_of_filter(value, number) for key, value in operator._values().items()}
    else:
        rule = find_kernel(name)
        values = checked_hyperparameters(rule, w.numel(), {})
    dims = w.dim() - 2
    response = kervolve(patches, w, None, ((1,) * dims, (0,) * dims, (1,) * dims, 1), rule, values)
    return response.flatten().numpy()


def _value_of_filter(value: object, number: int) -> object:
    if not isinstance(value, Tensor):
        return value
    return float(value.detach().flatten()[number if value.numel() > 1 else 0])


def _with_defaults(name: str, operator: Kervolution) -> str:
    """Format a kernel of the library and its default hyperparameters, as the title of a panel."""
    values = checked_hyperparameters(find_kernel(name), operator.weight[0].numel(), {})
    return ', '.join([name, *(f'{key}={value:.3g}' for key, value in values.items())])


def _draw(axes, arrays: dict[str, np.ndarray], key: str, title: str, size: int) -> None:
    for row in arrays[key]:
        axes.plot(arrays['t'], row, linewidth=1.0)
    axes.axvline(0, color='#cccccc', linewidth=0.6, zorder=0)
    axes.set_title(title, fontsize=size, color=tiles.INK)
    axes.tick_params(labelsize=5)
    axes.spines[['top', 'right']].set_visible(False)
