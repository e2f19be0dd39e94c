"""Effective receptive field: the influence of each pixel of the image on a unit of a feature map."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.config import Config
from torch import Tensor, nn

from mmkerv.deploy.model_outputs import sample_inputs
from mmkerv.deploy.trained_model import load_image
from mmkerv.errors import ConfigError
from mmkerv.visualization.feature_maps import feature_maps

# Shares of the field whose squares are drawn by default.
SHARES = (0.3, 0.5, 0.99)
# Lower end of the logarithmic colour scale, relative to the maximum.
FLOOR = 1e-4


class ReceptiveField(NamedTuple):
    """An effective receptive field.

    Args:
        field: (H, W), mean absolute gradient of each pixel, >= 0.
        centre: row and column of the middle of the field.
        layer: name of the feature map.

    Example:
        >>> ReceptiveField(np.ones((3, 3)), (1, 1), 'backbone').centre
        (1, 1)
    """

    field: np.ndarray
    centre: tuple[int, int]
    layer: str


def receptive_field(model: nn.Module, images: Iterable[tuple[Tensor, Any]], layer: str) -> ReceptiveField:
    r"""Return the effective receptive field of the central unit of a feature map.

    .. math:: E_{ij} = \frac{1}{N} \sum_n \sum_k \Bigl| \frac{\partial}{\partial x_{nkij}}
        \sum_c y_{nc,\lfloor h/2 \rfloor,\lfloor w/2 \rfloor} \Bigr|

    for images :math:`x_n` and their maps :math:`y_n`. Strides and padding determine the position of that unit, up to
    half a stride from the middle of the image. The centre is therefore measured on the field: it is the middle of the
    pixels with a gradient or, if these reach the border, the median of the field.

    Args:
        model: model of any of the three libraries, in evaluation mode.
        images: preprocessed inputs (1, C, H, W) of one size, each with its data samples or ``None``.
        layer: as in :func:`mmkerv.visualization.feature_maps.feature_maps`; the last map, if the layer returns several.

    Raises:
        ConfigError: if there are no images, they differ in size, or the layer does not depend on them.

    Source: Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, NIPS 2016.

    Example:
        >>> net = nn.Module()
        >>> net.backbone = nn.Conv2d(3, 4, 3, padding=1)
        >>> receptive_field(net, [(torch.randn(1, 3, 9, 9), None)], 'backbone').field[3:6, 3:6].min() > 0
        np.True_
    """
    total, count, name = 0.0, 0, layer
    for inputs, samples in images:
        inputs = inputs.detach().clone().requires_grad_()
        with torch.enable_grad():
            name, feature = list(feature_maps(model, inputs, samples, [layer]).items())[-1]
            row, column = (size // 2 for size in feature.shape[2:])
            unit = feature[:, :, row, column].sum()
            (gradient,) = torch.autograd.grad(unit, inputs, allow_unused=True) if unit.requires_grad else (None,)
        if gradient is None:
            raise ConfigError(f'--target-layers: {name!r} does not depend on the image; name another layer')
        part = gradient.abs().sum((0, 1)).double().cpu().numpy()
        if count and total.shape != part.shape:
            raise ConfigError(f'all images must have one size, got {total.shape} and {part.shape}; give --shape H W')
        total = total + part
        count += 1
    if not count:
        raise ConfigError('there is no image to compute the receptive field with; give at least one')
    return ReceptiveField(total / count, (_middle(total.sum(1)), _middle(total.sum(0))), name)


def receptive_inputs(
    model: nn.Module, cfg: Config, num: int, shape: tuple[int, int], files: Sequence[Path] = ()
) -> Iterator[tuple[Tensor, Any]]:
    """Yield up to ``num`` inputs (1, C, H, W) of one size: random ones, or the first of some images.

    Images pass through the test pipeline and the preprocessor, and are then scaled to the size.

    Args:
        model: model to make inputs for.
        cfg: config of the model.
        num: largest number of inputs, >= 1.
        shape: height and width.
        files: image files; none for normally distributed inputs.

    Raises:
        FileNotFoundError, ConfigError: as in :func:`mmkerv.deploy.trained_model.read_image`.

    Example:
        >>> inputs, _ = next(receptive_inputs(nn.Sequential(nn.Conv2d(1, 8, 3)), Config(), 1, (28, 28)))
        >>> inputs.shape
        torch.Size([1, 1, 28, 28])
    """
    first, samples = next(sample_inputs(model, shape))
    device = next((p.device for p in model.parameters()), 'cpu')
    if not files:
        generator = torch.Generator().manual_seed(0)
        for _ in range(num):
            yield torch.randn(first.shape, generator=generator).to(device), samples
        return
    for file in files[:num]:
        inputs = load_image(model, cfg, file)['inputs']
        yield F.interpolate(inputs, shape, mode='bilinear', align_corners=False), samples


def square_of_share(field: np.ndarray, share: float, centre: tuple[int, int] | None = None) -> tuple[int, float]:
    r"""Return the side of the smallest square around a pixel that contains a share of a field, and its relative area.

    The squares have sides 1, 3, 5, ... and are cut at the border of the field; the longer side of the field is the
    largest side.

    Args:
        field: (H, W), >= 0.
        share: share of the sum of the field, in (0, 1].
        centre: row and column of the pixel; by default :math:`(\lfloor H/2 \rfloor, \lfloor W/2 \rfloor)`.

    Raises:
        ConfigError: if the field is zero everywhere or not finite.

    Source: the measure of Ding et al., Scaling Up Your Kernels to 31x31, CVPR 2022, table 9.

    Example:
        >>> square_of_share(np.ones((9, 9)), 0.5)
        (7, 0.6049382716049383)
    """
    height, width = field.shape
    row, column = centre or (height // 2, width // 2)
    total = field.sum()
    if not np.isfinite(total) or total <= 0:
        raise ConfigError(f'the gradients add up to {total}: the unit does not respond to these images')
    rows = np.abs(np.arange(height) - row)[:, None]
    columns = np.abs(np.arange(width) - column)
    distance = np.maximum(rows, columns)
    inside = np.bincount(distance.ravel(), weights=field.ravel()).cumsum()
    # Rounding may leave the last sum slightly below the total.
    radius = int(np.argmax(inside >= share * min(total, inside[-1])))
    area = int((distance <= radius).sum())
    return min(2 * radius + 1, max(height, width)), area / field.size


def draw_receptive_fields(fields: Sequence[tuple[str, ReceptiveField]], shares: Sequence[float] = SHARES) -> Figure:
    """Draw fields side by side, each relative to its maximum, with the squares that contain the shares.

    Example:
        >>> len(draw_receptive_fields([('a 1x1', ReceptiveField(np.ones((3, 3)), (1, 1), 'backbone'))]).axes)
        2
    """
    figure = Figure(figsize=(3.3 * len(fields) + 0.6, 3.5), layout='constrained')
    axes = figure.subplots(1, len(fields), squeeze=False)[0]
    for (title, receptive), ax in zip(fields, axes):
        height, width = receptive.field.shape
        row, column = receptive.centre
        extent = (-column - 0.5, width - column - 0.5, height - row - 0.5, -row - 0.5)
        relative = np.maximum(receptive.field / receptive.field.max(), FLOOR)
        drawn = ax.imshow(relative, cmap='inferno', norm=LogNorm(FLOOR, 1), extent=extent, interpolation='nearest')
        for share, style in zip(shares, ('-', '--', ':', '-.')):
            side, _ = square_of_share(receptive.field, share, receptive.centre)
            edge = dict(fill=False, edgecolor='white', linestyle=style, linewidth=1.2)
            name = f'{share:.0%} in {side} px'
            ax.add_patch(Rectangle((-side / 2, -side / 2), side, side, label=name, **edge))
        ax.set(xlim=extent[:2], ylim=extent[2:])
        ax.set_title(title, fontsize=9)
        ax.set_xlabel('pixels from the middle', fontsize=8)
        ax.tick_params(labelsize=8)
        ax.legend(
            loc='lower right', fontsize=7, facecolor='black', framealpha=0.6, labelcolor='white', edgecolor='none'
        )
    bar = figure.colorbar(drawn, ax=axes.tolist(), shrink=0.85)
    bar.set_label('gradient, relative to the largest', fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def _middle(weights: np.ndarray) -> int:
    """Return the middle of the positive weights or, if they reach an end, the median position."""
    responding = np.flatnonzero(weights)
    if len(responding) and responding[0] > 0 and responding[-1] < len(weights) - 1:
        return int(responding[0] + responding[-1] + 1) // 2
    return int(np.searchsorted(weights.cumsum(), weights.sum() / 2))
