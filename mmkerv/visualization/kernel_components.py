"""Picture of a network's kernels: their principal components, and the patterns of the depthwise ones."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from mmkerv.analysis.depthwise_patterns import mean_kernels, require_patterns
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
    for values, _ in _images(kernels):
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


def pattern_arrays(kernels: Mapping[str, Kernel]) -> dict[tuple[int, int], dict[str, tuple[np.ndarray, float]]]:
    """Return the patterns of the depthwise kernels from 5x5 on, the commonest first, by kernel size.

    Args:
        kernels: as in :func:`component_arrays`.

    Returns:
        Mean kernel (kH, kW) of each pattern and its share, see :func:`mmkerv.analysis.depthwise_patterns.mean_kernels`,
        for the three sizes of the most kernels. Sizes of which no kernel has a pattern are left out.

    Example:
        >>> from mmkerv.analysis.depthwise_patterns import templates
        >>> from mmkerv.analysis.statistics_report import kernels_of
        >>> conv = torch.nn.Conv2d(2, 2, 5, groups=2)
        >>> _ = conv.weight.data.copy_(templates((5, 5))[[0, 6], None])
        >>> {label: share for label, (_, share) in pattern_arrays(kernels_of(conv))[5, 5].items()}
        {'G': 0.5, 'dx': 0.5}
    """
    by_size: dict[tuple[int, int], list[torch.Tensor]] = {}
    for values, groups in _images(kernels):
        try:
            require_patterns(values, groups)
        except UndefinedStatisticError:
            continue
        by_size.setdefault(tuple(values.shape[2:]), []).append(values)
    order = sorted(by_size, key=lambda size: -sum(map(len, by_size[size])))
    found = {size: mean_kernels(torch.cat(by_size[size])) for size in order}
    arrays = {
        size: {label: (mean.cpu().numpy(), share) for label, (mean, share) in means.items()}
        for size, means in found.items()
        if means
    }
    return dict(list(arrays.items())[:SIZES])


def _images(kernels: Mapping[str, Kernel]) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield the kernels of images that convolve and are finite, each with its number of groups."""
    for kernel in kernels.values():
        values = kernel.values
        if values is None or kernel.reason or values.dim() != 4 or not values.isfinite().all():
            continue
        yield values, kernel.layer.groups


def components_figure(networks: Sequence[tuple[str, Mapping[str, Kernel]]], title: str = '') -> Figure:
    """Draw the principal components of each network's kernels, with a row for each kernel size.

    Below, a row for each size of depthwise kernels from 5x5 on: the mean kernel of each pattern, the commonest first,
    with its share; see :func:`pattern_arrays`.

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
    rows = []
    for kind, measure in (('', _component_tiles), ('patterns', _pattern_tiles)):
        found = [(label, measure(kernels)) for label, kernels in networks]
        sizes = list(dict.fromkeys(size for _, by_size in found for size in by_size))
        for size in sizes:
            heading = ' '.join(filter(None, ('×'.join(map(str, size)), kind)))
            rows += [(f'{label}\n{heading}', by_size[size]) for label, by_size in found if size in by_size]
    if not rows:
        raise ConfigError('no two-dimensional kernels above 1x1 whose slices differ: there is nothing to draw')
    figure = tiles.new_figure(CELL * COMPONENTS + MARGIN, ROW * len(rows) + tiles.HEADING, title)
    for axes, (label, drawn) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows):
        tiles.open_axes(axes, COMPONENTS, 1)
        for index, (values, text) in enumerate(drawn):
            tiles.draw_tile(axes, values, tiles.largest(values), index + (1 - BOX) / 2, 0, BOX)
            axes.text(index + 0.5, 1, text, ha='center', va='bottom', fontsize=6, color=tiles.INK)
        axes.set_yticks([BOX / 2], [label])
    return figure


def _component_tiles(kernels: Mapping[str, Kernel]) -> dict[tuple[int, int], list[tuple[np.ndarray, str]]]:
    return {
        size: [(component, f'{share:.1%}') for component, share in zip(components, shares)]
        for size, (components, shares) in component_arrays(kernels).items()
    }


def _pattern_tiles(kernels: Mapping[str, Kernel]) -> dict[tuple[int, int], list[tuple[np.ndarray, str]]]:
    return {
        size: [(mean, f'{label} {share:.1%}') for label, (mean, share) in means.items()]
        for size, means in pattern_arrays(kernels).items()
    }
