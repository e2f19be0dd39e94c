"""Continuous kernels as curves and surfaces, with the points at which a layer samples them.

CKConv: Continuous Kernel Convolution For Sequential Data, ICLR 2022.
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from mmkerv.errors import ArgumentError
from mmkerv.ops.ckconv import PERIODIC, ContinuousKernel
from mmkerv.ops.core.precision import full_precision
from mmkerv.visualization import tiles

# Default numbers of kernels: curves of 1-D kernels, surfaces of 2-D kernels.
CURVES, SURFACES = 4, 4
# Samples that are still distinguishable on a curve; of a longer kernel, the last ones are enlarged in a second panel.
DOTS = 64
# Points along each axis of a fine grid, by dimension: per sample of the kernel, minimum, maximum.
FINE = {1: (8, 801, 8001), 2: (10, 61, 121)}
# Inches: widths of the figure without and with the enlarged end, height of a curve, width of a surface, their margins.
WIDTH, LONG_WIDTH, CURVE_HEIGHT, CURVES_MARGIN = 7.2, 9.0, 1.15, 0.8
SURFACE_WIDTH, SURFACES_MIN_WIDTH, SURFACES_HEIGHT = 2.1, 4.5, 4.1
CURVE_COLOUR, DOT_COLOUR, ZERO_COLOUR = '#2c5f8a', '#c0392b', '#bbbbbb'
# Positions are in [-1, 1]; axes show a little more, so that the outermost samples are whole.
CURVE_LIMIT, MAP_LIMIT = 1.02, 1.05


def continuous_arrays(operator: ContinuousKernel, topk: int | None = None) -> dict[str, np.ndarray]:
    """Return the arrays that :func:`continuous_figure` draws.

    Args:
        operator: layer.
        topk: number of filters to draw, those of the largest norm; by default the first ones.

    Returns:
        ``kernel`` (O, C/groups, *size), the kernel of the convolution; ``channels`` (n, 2), output and input channel of
        the drawn kernels (twice the channel, for a separable layer); ``sampled`` (n, *size), their samples;
        ``positions`` (*size, dims), the positions of the samples; ``curve`` (n, *fine), the drawn kernels on a fine
        grid; ``curve_positions`` (*fine, dims), the positions of that grid.

    Raises:
        ValueError: if ``topk`` is below 1, or the layer has no kernel before its first sequence.

    Example:
        >>> from mmkerv.ops import CKConv1d
        >>> {k: v.shape for k, v in continuous_arrays(CKConv1d(2, 4, 9), 3).items()}  # doctest: +NORMALIZE_WHITESPACE
        {'kernel': (4, 2, 9), 'channels': (3, 2), 'sampled': (3, 9), 'positions': (9, 1), 'curve': (3, 801),
         'curve_positions': (801, 1)}
    """
    if operator.kernel_size is None:
        raise ArgumentError(
            'a CKConv1d with kernel_size=None has no kernel before its first sequence; run it on one, or load a '
            'checkpoint'
        )
    with torch.no_grad():
        sampled = operator._forward_kernel().float()
        size, width = tuple(sampled.shape[2:]), sampled.shape[1]
        rows = tiles.select_kernels(sampled.cpu().numpy(), topk, CURVES if operator.dims == 1 else SURFACES)
        # The input channel of each filter to draw: with `topk` the one of the largest norm, else the first.
        norms = sampled.flatten(2).norm(dim=2).cpu().numpy()
        inputs = norms[rows].argmax(1) if topk else np.zeros(len(rows), dtype=np.int64)
        flat = torch.as_tensor(rows * width + inputs, device=sampled.device)
        positions = operator._positions(operator.resolution, size).view(*size, -1)
        if operator.is_continuous:
            per_sample, least, most = FINE[operator.dims]
            axes = [torch.linspace(-1, 1, min(max(per_sample * (n - 1) + 1, least), most)) for n in size]
            fine = torch.stack(torch.meshgrid(*axes, indexing='ij'), -1)
            curve = _values(operator, fine.flatten(0, -2).to(flat.device), flat).view(len(rows), *fine.shape[:-1])
        else:
            fine, curve = positions.float().cpu(), sampled.flatten(0, 1)[flat]
        kernel = operator.kernel()
    second = rows if operator.options.separable else inputs
    return {
        'kernel': kernel.float().cpu().numpy(),
        'channels': np.stack([rows, second], 1),
        'sampled': sampled.flatten(0, 1)[flat].cpu().numpy(),
        'positions': positions.float().cpu().numpy(),
        'curve': curve.cpu().numpy(),
        'curve_positions': fine.numpy(),
    }


def continuous_figure(
    operator: ContinuousKernel, title: str = '', topk: int | None = None, colours: str = 'signed'
) -> Figure:
    """Draw continuous kernels: 1-D kernels as curves, 2-D kernels as surfaces above maps, samples as dots.

    Args:
        operator: layer.
        title: title of the picture.
        topk: as in :func:`continuous_arrays`.
        colours: ``'signed'``.

    Raises:
        ValueError: for other colours: a curve or surface has its values on an axis.

    Example:
        >>> from mmkerv.ops import CKConv1d
        >>> len(continuous_figure(CKConv1d(2, 4, 9), topk=3).axes)
        3
    """
    if colours != 'signed':
        raise ArgumentError(
            f'colours={colours!r} is for layers that are drawn as filters; {type(operator).__name__} is drawn as '
            "curves or surfaces: leave it out, or use colours='signed'"
        )
    arrays = continuous_arrays(operator, topk)
    return _curves(operator, arrays, title) if operator.dims == 1 else _surfaces(operator, arrays, title)


def continuous_details(operator: ContinuousKernel) -> str:
    """Describe the kernel net of a layer.

    Example:
        >>> from mmkerv.ops import CKConv1d
        >>> continuous_details(CKConv1d(2, 4, 9))
        'sine, omega_0 10'
    """
    options = operator.options
    if not operator.is_continuous:
        return operator.sequence.kernel
    parts = ['magnet' if options.net == 'magnet' else options.activation]
    if options.activation in PERIODIC:
        parts.append(f'omega_0 {options.omega_0:g}')
    if options.mask is not None:
        widths = ', '.join(f'{width:.2g}' for width in operator.mask_params[:, 1].tolist())
        parts.append(f'{options.mask} mask of width {widths}')
    if options.separable:
        parts.append('separable')
    return ', '.join(parts)


def _values(operator: ContinuousKernel, positions: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Evaluate the kernels of flat channels at any positions, at the scale of the layer's samples."""
    with full_precision(positions.device):
        values = operator._at(positions.to(**operator._computing()), operator.resolution, channels)
    return values.float()


def _label(operator: ContinuousKernel, channel: np.ndarray) -> str:
    return f'channel {channel[0]}' if operator.options.separable else f'out {channel[0]}, in {channel[1]}'


def _curves(operator: ContinuousKernel, arrays: dict[str, np.ndarray], title: str) -> Figure:
    number, samples = len(arrays['channels']), arrays['sampled'].shape[1]
    # The dots of a long kernel would hide the curve, so they are drawn on an enlarged end of it.
    long = samples > DOTS
    figure = tiles.new_figure(LONG_WIDTH if long else WIDTH, CURVES_MARGIN + CURVE_HEIGHT * number, title)
    panels = figure.subplots(number, 1 + long, sharex='col', squeeze=False, width_ratios=[2.2, 1][: 1 + long])
    ends = arrays['positions'][-DOTS if long else 0, 0], arrays['positions'][-1, 0]
    for line, channel, curve, sampled in zip(panels, arrays['channels'], arrays['curve'], arrays['sampled']):
        for axes in line:
            axes.axhline(0, color=ZERO_COLOUR, linewidth=0.6)
            style = {'color': CURVE_COLOUR, 'linewidth': 0.8, 'label': 'continuous kernel'}
            axes.plot(arrays['curve_positions'][:, 0], curve, **style)
            axes.tick_params(labelsize=6)
            axes.spines[['top', 'right']].set_visible(False)
        dots = {'linestyle': 'none', 'marker': 'o', 'color': DOT_COLOUR, 'markersize': 2.5}
        line[-1].plot(arrays['positions'][:, 0], sampled, label=f'its {samples} samples', **dots)
        line[0].set_ylabel(_label(operator, channel), fontsize=7, color=tiles.INK)
        line[0].set_xlim(-CURVE_LIMIT, CURVE_LIMIT)
        if long:
            line[-1].set_xlim(ends)
    panels[0, -1].legend(loc='lower right', bbox_to_anchor=(1, 1), ncols=2, fontsize=6, frameon=False)
    current = ' (1: the current sample, -1: the oldest one)' if operator.causal else ''
    panels[-1, 0].set_xlabel(f'position{current}', fontsize=7, color=tiles.INK)
    if long:
        panels[-1, 1].set_xlabel(f'position, the last {DOTS} samples', fontsize=7, color=tiles.INK)
    return figure


def _surfaces(operator: ContinuousKernel, arrays: dict[str, np.ndarray], title: str) -> Figure:
    number = len(arrays['channels'])
    figure = tiles.new_figure(max(SURFACES_MIN_WIDTH, SURFACE_WIDTH * number), SURFACES_HEIGHT, title)
    y, x = np.moveaxis(arrays['curve_positions'], -1, 0)
    sample_y, sample_x = (p.ravel() for p in np.moveaxis(arrays['positions'], -1, 0))
    for column, (channel, values, sampled) in enumerate(zip(arrays['channels'], arrays['curve'], arrays['sampled'])):
        scale = tiles.largest(values)
        colour = {'cmap': tiles.SIGNED, 'vmin': -scale, 'vmax': scale}
        # If matplotlib sorted by depth, the surface would hide the samples behind it.
        surface = figure.add_subplot(2, number, column + 1, projection='3d', computed_zorder=False)
        surface.plot_surface(x, y, values, rcount=60, ccount=60, linewidth=0, alpha=0.85, **colour)
        surface.scatter(sample_x, sample_y, sampled.ravel(), s=2.5, color='black', depthshade=False, zorder=2)
        surface.set_title(_label(operator, channel), fontsize=7, color=tiles.INK)
        surface.set(ylim=(1, -1), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        surface.set_box_aspect((1, 1, 0.75), zoom=1.25)
        surface.tick_params(labelsize=5, pad=-3)
        axes = figure.add_subplot(2, number, number + column + 1)
        image = axes.imshow(values, extent=(-1, 1, 1, -1), interpolation='bilinear', **colour)
        axes.plot(sample_x, sample_y, linestyle='none', marker='.', color='black', markersize=2.5)
        axes.set(xlim=(-MAP_LIMIT, MAP_LIMIT), ylim=(MAP_LIMIT, -MAP_LIMIT), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        axes.tick_params(labelsize=6)
        figure.colorbar(image, ax=axes, shrink=0.8, aspect=15).ax.tick_params(labelsize=5)
    return figure
