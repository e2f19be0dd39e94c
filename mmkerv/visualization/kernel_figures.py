"""Pictures of the kernels of any operator, and the arrays they show: each operator is drawn in its own way."""

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from mmkerv.errors import ArgumentTypeError
from mmkerv.ops.ckconv import PERIODIC, ContinuousKernel
from mmkerv.ops.coc.module import CoCConv2d
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.kerv import Kervolution
from mmkerv.visualization.association_figure import association_arrays, association_figure
from mmkerv.visualization.continuous_figure import continuous_arrays, continuous_figure
from mmkerv.visualization.filter_figure import filter_arrays, filter_figure, hyperparameters


def kernel_figure(operator: nn.Module, name: str = '', topk: int | None = None) -> Figure:
    """Draw the kernels of a layer.

    - ``CoCConv``: before and after association, in association groups, the super kernel at the corner;
    - ``CKConv1d``, ``CKConv2d``: as curves or surfaces, with the sampled points;
    - ``KervConv`` and all other convolutions: the filters, a kervolution's with its kernel and hyperparameters.

    Args:
        operator: an operator, or a plain convolution of torch.
        name: of the layer, for the title.
        topk: how many are drawn, those with the largest norm: association groups of a ``CoCConv``, filters of others
            (and as many inputs); by default the first ones, as many as are readable.

    Returns:
        A figure that needs no display; ``figure.savefig('kernels.png')`` writes it.

    Raises:
        ValueError: if ``topk`` is below 1.
        TypeError: if ``operator`` is no convolution.

    Example:
        >>> kernel_figure(CoCConv2d(3, 8, 3), 'conv1').get_suptitle()
        'conv1: CoCConv2d 3 → 8, 3×3, super kernel 3×3 dilated by 2'
    """
    title = title_of(operator, name)
    if isinstance(operator, CoCConv2d):
        return association_figure(operator, title, topk)
    if isinstance(operator, ContinuousKernel):
        return continuous_figure(operator, title, topk)
    return filter_figure(operator, title, topk)


def kernel_arrays(operator: nn.Module, topk: int | None = None) -> dict[str, np.ndarray]:
    """Return what :func:`kernel_figure` draws of a layer, by name.

    ``kernel`` (O, C/groups, *size) is there for every operator; for the rest see :func:`association_arrays`,
    :func:`continuous_arrays` and :func:`filter_arrays`.

    Raises:
        TypeError: if ``operator`` is no convolution.

    Example:
        >>> sorted(kernel_arrays(nn.Conv2d(3, 8, 3)))
        ['kernel']
    """
    checked(operator)
    if isinstance(operator, CoCConv2d):
        return association_arrays(operator)
    if isinstance(operator, ContinuousKernel):
        return continuous_arrays(operator, topk)
    return filter_arrays(operator)


def checked(operator: nn.Module) -> nn.Module:
    """Return the layer if it is a convolution, whose kernels can be drawn.

    Raises:
        TypeError: otherwise.

    Example:
        >>> checked(nn.ReLU())
        Traceback (most recent call last):
        ...
        mmkerv.errors.ArgumentTypeError: operator must be an operator of mmkerv or a convolution, got ReLU
    """
    if not isinstance(operator, (ConvNd, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise ArgumentTypeError(
            f'operator must be an operator of mmkerv or a convolution, got {type(operator).__name__}'
        )
    return operator


def title_of(operator: nn.Module, name: str = '') -> str:
    """Describe a layer in one line.

    Example:
        >>> title_of(nn.Conv2d(3, 8, (1, 7)), 'stem')
        'stem: Conv2d 3 → 8, 1×7'
    """
    checked(operator)
    size = '×'.join(map(str, operator.kernel_size)) if operator.kernel_size else 'no size yet'
    text = f'{type(operator).__name__} {operator.in_channels} → {operator.out_channels}, {size}'
    if operator.groups > 1:
        text += f', {operator.groups} groups'
    if isinstance(operator, CoCConv2d):
        supers = operator.super_kernel
        text += f', super kernel {"×".join(str(s.size) for s in supers)}'
        dilations = sorted({s.dilation for s in supers})
        text += '' if dilations == [1] else f' dilated by {"×".join(map(str, dilations))}'
    elif isinstance(operator, ContinuousKernel):
        options = operator.options
        text += f', {options.activation}' + (f', omega_0 {options.omega_0:g}' if options.activation in PERIODIC else '')
        text += ', separable' if options.separable else ''
    elif isinstance(operator, Kervolution):
        text += f', {hyperparameters(operator)}'
    return f'{name}: {text}' if name else text
