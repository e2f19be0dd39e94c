"""What an image gets from an operator whose kernel depends on it: its experts or bands, its gates, its own kernel.

CondConv, NeurIPS 2019, section 4; Frequency Dynamic Convolution for Dense Image Prediction, CVPR 2025, section 3.
"""

import math
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.ops.condconv import CondConv2d
from mmkerv.ops.core.dynamic import DynamicKernel
from mmkerv.ops.fdconv.module import FDConv2d
from mmkerv.visualization import tiles

# Titles of the panels, in their order. Bands of the kernel rise in frequency, those of the feature maps fall.
BARS = {
    'routing': 'experts: r',
    'bands': 'frequency bands of the kernel: a',
    'channels': 'input channels: c',
    'filters': 'output channels: f',
}
MAPS = ('above 1/4', '1/8 to 1/4', '1/16 to 1/8')
# A gate is between 0 and 2, and 1 at the start; so is the gain of a band.
GATE = (0.0, 2.0)
# Inches of a panel; columns of panels; opacity of a map over the image.
PANEL, COLUMNS, OPACITY = 2.6, 4, 0.6


@singledispatch
def image_arrays(operator: nn.Module, x: Tensor, *given: Tensor | None) -> dict[str, np.ndarray]:
    """Return what the first image of ``x`` gets from an operator whose kernel depends on the image.

    Args:
        operator: such an operator.
        x: its input, (N, C, H, W).
        given: what its ``forward`` takes beside the input.

    Returns:
        ``kernel`` (O, C/groups, kH, kW); of the gates that the layer has, ``channels`` (C,), ``filters`` (O,) and
        ``taps`` (kH, kW). Of a ``CondConv``, ``routing`` (experts,), the weights r. Of an ``FDConv``, ``bands``
        (bands,), the gains of the kernel's frequency bands from low to high, ``local`` (O, C/groups, kH, kW), and
        ``maps`` (3, H, W), the gains of the feature maps' bands at each pixel, from high to low.

    Raises:
        TypeError: if the kernel of ``operator`` does not depend on the image.

    Example:
        >>> arrays = image_arrays(CondConv2d(4, 8, 3, experts=2), torch.randn(1, 4, 5, 5))
        >>> arrays['routing'].tolist(), arrays['kernel'].shape
        ([0.5, 0.5], (8, 4, 3, 3))
    """
    raise ArgumentTypeError(
        f'{type(operator).__name__} has the same kernel for every image, which kernel_figure draws; image_figure is '
        'for operators such as CondConv and FDConv'
    )


@image_arrays.register
@torch.no_grad()
def _(operator: DynamicKernel, x: Tensor, *given: Tensor | None) -> dict[str, np.ndarray]:
    return {'kernel': _array(operator._kernels((*operator._sources(), *operator.gates(x[:1], *given)))[0])}


@image_arrays.register
@torch.no_grad()
def _(operator: CondConv2d, x: Tensor, *given: Tensor | None) -> dict[str, np.ndarray]:
    gates = operator.gates(x[:1], *(tensor if tensor is None else tensor[:1] for tensor in given))
    arrays = {'kernel': _array(operator._kernels((*operator._sources(), *gates))[0])}
    if gates.routing is not None:
        arrays['routing'] = _array(gates.routing[0] + operator.routing_at_start)
    return arrays | _gates(operator, gates)


@image_arrays.register
@torch.no_grad()
def _(operator: FDConv2d, x: Tensor) -> dict[str, np.ndarray]:
    gates = operator.gates(x[:1])
    arrays = {'kernel': _array(operator._kernels((*operator._sources(), *gates))[0])}
    if gates.bands is not None:
        arrays['bands'] = _array(1 + gates.bands[0])
    arrays |= _gates(operator, gates)
    if gates.means is not None:
        arrays['local'] = _array(operator.local_gates(gates.means)[0])
    maps = operator.band_gains(x[:1])
    return arrays if maps is None else arrays | {'maps': _array(1 + maps[0])}


def _gates(operator: nn.Module, gates: Any) -> dict[str, np.ndarray]:
    found = {name: getattr(gates, name) for name in ('channels', 'filters', 'taps')}
    arrays = {name: _array(gate[0]) for name, gate in found.items() if gate is not None}
    if 'taps' in arrays:
        arrays['taps'] = arrays['taps'].reshape(operator.kernel_size)
    return arrays


def image_figure(
    operator: nn.Module,
    x: Tensor,
    title: str = '',
    picture: np.ndarray | None = None,
    shares: tuple[float, float] = (1.0, 1.0),
    given: tuple[Tensor | None, ...] = (),
) -> Figure:
    """Draw :func:`image_arrays`: which experts or bands fire, the gates, and where the bands of the features gain.

    Gates of 1 change nothing; grey lines mark them. Gains of the feature maps are drawn over the image, from blue (0)
    to red (2).

    Args:
        operator: an operator whose kernel depends on the image.
        x: its input, (N, C, H, W).
        title: title of the picture.
        picture: the image, (H, W, 3), 8 bits.
        shares: shares of the height and width of ``x`` that the image fills; the rest is padding.
        given: what the operator's ``forward`` takes beside the input.

    Raises:
        ValueError: if a share is not in (0, 1].
        TypeError: if the kernel of ``operator`` does not depend on the image.

    Example:
        >>> figure = image_figure(FDConv2d(4, 8, 3, kernel_num=4), torch.randn(1, 4, 9, 9))
        >>> [axes.get_title() for axes in figure.axes][:2]
        ['frequency bands of the kernel: a', 'input channels: c']
    """
    if not all(0 < share <= 1 for share in shares):
        raise ArgumentError(f'shares must be two numbers > 0 and <= 1, got {shares}')
    arrays = image_arrays(operator, x, *given)
    count = sum(name in arrays for name in (*BARS, 'taps', 'local')) + len(arrays.get('maps', ()))
    count += picture is not None
    rows, columns = math.ceil(count / COLUMNS), min(count, COLUMNS)
    figure = tiles.new_figure(PANEL * max(columns, 2), PANEL * max(rows, 1), title)
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat) if count else iter(())
    if picture is not None:
        axes = next(panels)
        _blank(axes, 'image')
        axes.imshow(picture)
    for name, label in BARS.items():
        if name in arrays:
            _draw_bars(next(panels), arrays[name], label, 1 if name != 'routing' else None)
    for name, label in (('taps', 'taps: s'), ('local', 'weights: l, mean of the taps')):
        if name in arrays:
            values = arrays[name] if name == 'taps' else arrays[name].mean((2, 3))
            axes = next(panels)
            _blank(axes, label)
            figure.colorbar(axes.imshow(values, cmap=tiles.SIGNED, vmin=GATE[0], vmax=GATE[1]), ax=axes, shrink=0.7)
    for label, values in zip(MAPS, arrays.get('maps', ())):
        axes = next(panels)
        _blank(axes, f'features {label} cycles per pixel: m')
        height, width = (max(round(n * share), 1) for n, share in zip(values.shape, shares))
        values, extent = values[:height, :width], None
        if picture is not None:
            extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
            axes.imshow(picture)
        shown = axes.imshow(
            values,
            cmap=tiles.SIGNED,
            vmin=GATE[0],
            vmax=GATE[1],
            extent=extent,
            alpha=1 if picture is None else OPACITY,
        )
        figure.colorbar(shown, ax=axes, shrink=0.7)
    for axes in panels:
        axes.set_axis_off()
    return figure


def _draw_bars(axes: Axes, values: np.ndarray, label: str, neutral: float | None) -> None:
    width = 1 if len(values) > 16 else 0.8
    axes.bar(np.arange(len(values)), values - (neutral or 0), bottom=neutral or 0, width=width)
    if neutral is not None:
        axes.axhline(neutral, color=tiles.FRAME, linewidth=0.6)
    # At least half of the range of a gate, so that small deviations look small.
    reach = max(0.5, float(np.abs(values - 1).max())) if neutral is not None else 0
    axes.set_ylim(*((1 - reach, 1 + reach) if neutral is not None else (0, 1)))
    axes.set_title(label, fontsize=8, color=tiles.INK)
    axes.tick_params(labelsize=6)
    axes.spines[['top', 'right']].set_visible(False)


def _blank(axes: Axes, label: str) -> None:
    axes.set_title(label, fontsize=8, color=tiles.INK)
    axes.set_xticks([])
    axes.set_yticks([])


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
