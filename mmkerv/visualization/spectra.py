"""Spectra of kernels: the frequencies that a layer passes, before and after association."""

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.visualization import tiles
from mmkerv.visualization.kernel_figures import kernel_arrays, title_of

# Default number of filters.
FILTERS = 5
# Points of a transform along each axis: at least, and for each tap of the kernel. The mean of all filters of a wide
# layer takes many transforms, so these are smaller.
MIN_POINTS, POINTS_PER_TAP = 32, 4
MIN_POINTS_OF_MEAN = 16
# The colour scale ends this many decibels below the largest value.
DEPTH = 40.0
# Inches: width and height of a map, margin and least width of the maps, and the size of a figure of curves.
MAP_WIDTH, MAP_HEIGHT, MARGIN, MIN_WIDTH = 1.35, 1.55, 0.8, 4.5
CURVES_SIZE = (6.4, 3.2)


def log_magnitude(kernel: Tensor, points: int) -> Tensor:
    r"""Return the log magnitude of kernels in decibels, :math:`10 \log_{10} \sum_i |\mathrm{FFT}(K_{oi})|^2`.

    Args:
        kernel: (O, I, *size), with one or two spatial axes.
        points: N, the length of the transform along each axis; kernels are padded with zeros.

    Returns:
        (O, N) or (O, N, N) with frequency 0 in the middle.

    Example:
        >>> spectrum = log_magnitude(torch.ones(1, 1, 3, 3), 16)
        >>> tuple(spectrum.shape), round(float(spectrum[0, 8, 8]), 2)
        ((1, 16, 16), 19.08)
    """
    return _decibels(_power(kernel, points))


def spectrum_arrays(operator: nn.Module, topk: int | None = None) -> dict[str, np.ndarray]:
    """Return the arrays that :func:`spectrum_figure` draws.

    Returns:
        ``filters`` (n,), the drawn filters; ``kernel`` (n, N, N), or (n, N) for sequences, their log magnitude in
        decibels, see :func:`log_magnitude`; ``kernel_mean`` (M, M) or (M,), that of the mean power of all filters,
        M <= N; for a ``CoCConv`` also ``weight`` and ``weight_mean``, the same before association.

    Raises:
        ValueError: if the kernels have three spatial axes.

    Example:
        >>> {k: v.shape for k, v in spectrum_arrays(nn.Conv2d(3, 8, 3), 2).items()}
        {'filters': (2,), 'kernel': (2, 32, 32), 'kernel_mean': (16, 16)}
    """
    kernels = {k: v for k, v in kernel_arrays(operator).items() if k in ('weight', 'kernel')}
    if kernels['kernel'].ndim == 5:
        raise ArgumentError(
            f'spectra are of kernels with one or two axes, got {type(operator).__name__}, whose kernels have three'
        )
    filters = tiles.select_kernels(kernels['kernel'], topk, FILTERS)
    arrays = {'filters': filters}
    taps = max(kernels['kernel'].shape[2:])
    # The kernels of sequences are long enough for a fine spectrum without padding.
    points_per_tap = POINTS_PER_TAP if kernels['kernel'].ndim == 4 else 1
    points = _power_of_two(points_per_tap * taps, MIN_POINTS)
    points_of_mean = _power_of_two(taps, MIN_POINTS_OF_MEAN)
    for name, values in kernels.items():
        kernel = torch.as_tensor(values)
        mean = sum(_power(part, points_of_mean)[0] for part in kernel.split(1)) / len(kernel)
        arrays[name] = log_magnitude(kernel[filters], points).numpy()
        arrays[f'{name}_mean'] = _decibels(mean).numpy()
    return arrays


def spectrum_figure(operator: nn.Module, name: str = '', topk: int | None = None) -> Figure:
    """Draw the log magnitude of a layer's kernels over frequency, for the mean of all filters and for some filters.

    A ``CoCConv`` has one row before and one after association. Frequency 0 is in the middle, the Nyquist frequency 0.5
    at the edges.

    Args:
        operator: an operator, or a plain convolution of torch.
        name: name of the layer, for the title.
        topk: number of filters, those of the largest norm; by default the first ones.

    Raises:
        ValueError: if the kernels have three spatial axes, or ``topk`` is below 1.
        TypeError: if ``operator`` is not a convolution.

    Example:
        >>> len(spectrum_figure(nn.Conv2d(3, 8, 3), topk=2).axes)
        4
    """
    arrays = spectrum_arrays(operator, topk)
    title = f'{title_of(operator, name)}: log magnitude of the spectrum'
    rows = [(text, key) for text, key in (('before: W', 'weight'), ('after: K', 'kernel')) if key in arrays]
    return (_curves if arrays['kernel'].ndim == 2 else _maps)(arrays, rows, title)


def _power_of_two(points: int, least: int) -> int:
    """Return the smallest power of two that is at least ``points`` and ``least``."""
    return max(least, 2 ** math.ceil(math.log2(points)))


def _power(kernel: Tensor, points: int) -> Tensor:
    """Return the power (O, *N) of kernels (O, I, *size), summed over the input channels."""
    axes = tuple(range(2, kernel.dim()))
    power = torch.fft.fftn(kernel.float(), [points] * len(axes), axes).abs().square().sum(1)
    return torch.fft.fftshift(power, tuple(axis - 1 for axis in axes))


def _decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power.clamp_min(torch.finfo(power.dtype).tiny))


def _maps(arrays: dict[str, np.ndarray], rows: list[tuple[str, str]], title: str) -> Figure:
    columns = len(arrays['filters']) + 1
    width = max(MIN_WIDTH, MAP_WIDTH * columns + MARGIN)
    figure = tiles.new_figure(width, MAP_HEIGHT * len(rows) + tiles.HEADING, title)
    panels = figure.subplots(len(rows), columns, squeeze=False)
    top = max(float(arrays[key].max()) for _, key in rows)
    bottom = max(top - DEPTH, min(float(np.percentile(arrays[key], 1)) for _, key in rows))
    titles = ['all filters', *(f'filter {number}' for number in arrays['filters'])]
    for (text, key), line in zip(rows, panels):
        for axes, values, label in zip(line, [arrays[f'{key}_mean'], *arrays[key]], titles):
            image = axes.imshow(
                values, extent=(-0.5, 0.5, 0.5, -0.5), vmin=bottom, vmax=top, cmap='viridis', interpolation='bilinear'
            )
            axes.set(xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5) if axes is line[0] else ())
            axes.tick_params(labelsize=5, length=2)
            axes.set_title(label, fontsize=7, color=tiles.INK)
        line[0].set_ylabel(f'{text}\ncycles / pixel' if len(rows) > 1 else 'cycles / pixel', fontsize=7)
    bar = figure.colorbar(image, ax=panels, shrink=0.8, aspect=25)
    bar.set_label('dB', fontsize=7)
    bar.ax.tick_params(labelsize=6)
    return figure


def _curves(arrays: dict[str, np.ndarray], rows: list[tuple[str, str]], title: str) -> Figure:
    figure = tiles.new_figure(*CURVES_SIZE, title)
    axes = figure.subplots()
    (key,) = (key for _, key in rows)
    lines = [(f'filter {n}', v, {'linewidth': 0.7, 'alpha': 0.7}) for n, v in zip(arrays['filters'], arrays[key])]
    lines.append(('all filters', arrays[f'{key}_mean'], {'linewidth': 1.1, 'color': 'black'}))
    for label, values, style in lines:
        half = len(values) // 2
        axes.plot(np.arange(half) / len(values), values[half:], label=label, **style)
    axes.set_xlabel('cycles / sample', fontsize=7)
    axes.set_ylabel('dB', fontsize=7)
    axes.tick_params(labelsize=6)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(fontsize=6, frameon=False, ncols=2)
    return figure
