"""Picture of the principal components of a network's kernels, with the variance that each explains."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from mmkerv.analysis.distribution_shift import COMPONENTS, principal_components, scaled
from mmkerv.analysis.kernel_statistics import slices
from mmkerv.analysis.statistics_report import Kernel
from mmkerv.errors import ConfigError, UndefinedStatisticError
from mmkerv.visualization import tiles

# Kernel sizes, those of the most slices.
SIZES = 3
# Inches: width of a tile, height of a row with its labels, and space for the labels of the rows.
CELL, ROW, MARGIN = 0.85, 1.1, 1.3
# Width of a tile in a cell of width 1.
BOX = 0.86


def component_arrays(kernels: Mapping[str, Kernel]) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Return the principal components and the shares of variance they explain, by kernel size.

    Args:
        kernels: kernels of :func:`mmkerv.analysis.statistics_report.kernels_of`. Each slice is divided by its largest
            tap; basic weights, sequences, volumes, and kernels of one tap or with NaN are left out.

    Returns:
        Components (c, kH, kW), c <= 9, and shares (c,) for the three sizes of the most slices.

    Example:
        >>> from mmkerv.analysis.statistics_report import kernels_of
        >>> {size: axes.shape for size, (axes, _) in component_arrays(kernels_of(torch.nn.Conv2d(3, 8, 5))).items()}
        {(5, 5): (9, 5, 5)}
    """
    by_size: dict[tuple[int, int], list[torch.Tensor]] = {}
    for kernel in kernels.values():
        values = kernel.values
        if values is None or kernel.reason or values.dim() != 4 or not values.isfinite().all():
            continue
        by_size.setdefault(tuple(values.shape[2:]), []).append(scaled(slices(values)))
    order = sorted(by_size, key=lambda size: -sum(map(len, by_size[size])))
    arrays = {}
    for size in order:
        try:
            found = principal_components(torch.cat(by_size[size]))
        except UndefinedStatisticError:
            continue
        arrays[size] = (found.axes.view(-1, *size).cpu().numpy(), found.explained.cpu().numpy())
    return dict(list(arrays.items())[:SIZES])


def components_figure(networks: Sequence[tuple[str, Mapping[str, Kernel]]], title: str = '') -> Figure:
    """Draw the principal components of each network's kernels, with a row for each kernel size.

    Args:
        networks: label and kernels of each network.
        title: title of the picture.

    Raises:
        ConfigError: if no network has kernels of two axes whose slices differ.

    Example:
        >>> from mmkerv.analysis.statistics_report import kernels_of
        >>> len(components_figure([('a net', kernels_of(torch.nn.Conv2d(3, 8, 3)))]).axes[0].images)
        9
    """
    found = [(label, component_arrays(kernels)) for label, kernels in networks]
    sizes = list(dict.fromkeys(size for _, arrays in found for size in arrays))
    rows = [(label, size, arrays[size]) for size in sizes for label, arrays in found if size in arrays]
    if not rows:
        raise ConfigError('no two-dimensional kernels above 1x1 whose slices differ: there is nothing to draw')
    figure = tiles.new_figure(CELL * COMPONENTS + MARGIN, ROW * len(rows) + tiles.HEADING, title)
    for axes, (label, size, (components, shares)) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows):
        tiles.open_axes(axes, COMPONENTS, 1)
        for index, (component, share) in enumerate(zip(components, shares)):
            tiles.draw_tile(axes, component, tiles.largest(component), index + (1 - BOX) / 2, 0, BOX)
            axes.text(index + 0.5, 1, f'{share:.1%}', ha='center', va='bottom', fontsize=6, color=tiles.INK)
        axes.set_yticks([BOX / 2], [f'{label}\n{"×".join(map(str, size))}'])
    return figure
