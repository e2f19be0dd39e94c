"""Pictures of the kernels of any layer, the arrays they show, the layers of a model, and the files of the pictures.

The class of a layer selects its picture (``functools.singledispatch``). An operator with a picture of its own is
registered below; any other operator, and a plain convolution, is drawn by the filters of its kernel.
"""

from collections.abc import Iterable, Sequence
from functools import singledispatch
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from mmkerv.errors import ArgumentTypeError, ConfigError
from mmkerv.models.layers import find_layers, find_operators
from mmkerv.ops.ckconv import ContinuousKernel
from mmkerv.ops.coc.module import CoCConv2d
from mmkerv.ops.core.arguments import one_of
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.dynamic import DynamicKernel
from mmkerv.ops.kan import KANConv2d
from mmkerv.ops.kerv import Kervolution
from mmkerv.ops.recconv import RecConv2d
from mmkerv.visualization.association_figure import association_arrays, association_details, association_figure
from mmkerv.visualization.continuous_figure import continuous_arrays, continuous_details, continuous_figure
from mmkerv.visualization.filter_figure import filter_arrays, filter_figure, hyperparameters, recursion
from mmkerv.visualization.function_figure import function_arrays, function_details, function_figure
from mmkerv.visualization.pictures import SUFFIXES
from mmkerv.visualization.tiles import COLOURS

PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

# Dispatched on the class of the layer; details(layer) is the end of the picture's title.
picture = singledispatch(filter_figure)
picture.register(CoCConv2d, association_figure)
picture.register(ContinuousKernel, continuous_figure)
picture.register(KANConv2d, function_figure)

arrays = singledispatch(lambda layer, topk: filter_arrays(layer))
arrays.register(CoCConv2d, lambda layer, topk: association_arrays(layer))
arrays.register(ContinuousKernel, continuous_arrays)
arrays.register(KANConv2d, function_arrays)

details = singledispatch(lambda layer: '')
details.register(CoCConv2d, association_details)
details.register(ContinuousKernel, continuous_details)
details.register(KANConv2d, function_details)
details.register(Kervolution, hyperparameters)
details.register(RecConv2d, recursion)
# Without an image, the filters are those of the basic kernel.
details.register(DynamicKernel, lambda layer: 'the basic kernel W, which each image changes')


def kernel_figure(operator: nn.Module, name: str = '', topk: int | None = None, colours: str = 'signed') -> Figure:
    """Draw the kernels of a layer.

    - ``CoCConv``: before and after association, in association groups, with the super kernels in the corner;
    - ``CKConv1d``, ``CKConv2d``: curves or surfaces, with the sampled points;
    - ``KANConv``: the learned functions, a curve for each tap;
    - ``KervConv`` and all other convolutions: the filters; a kervolution's title has its kernel and hyperparameters.

    Args:
        operator: an operator, or a plain convolution of torch.
        name: name of the layer, for the title.
        topk: number of association groups of a ``CoCConv``, of filters of others (and of inputs), to draw: those of the
            largest norm. By default the first ones, as many as are readable.
        colours: ``'signed'``, one scale for an association group or filter with zero in the middle; or ``'range'``,
            each kernel from its own minimum to its own maximum, as Figure 9 of the CoC paper draws them.

    Returns:
        A figure that needs no display; ``figure.savefig('kernels.png')`` writes it.

    Raises:
        ValueError: if ``topk`` is below 1, or for unknown ``colours``, or ``'range'`` for curves and surfaces.
        TypeError: if ``operator`` is not a convolution.

    Example:
        >>> kernel_figure(CoCConv2d(3, 8, 3), 'conv1').get_suptitle()
        'conv1: CoCConv2d 3 → 8, 3×3, super kernel 3×3 dilated by 2'
    """
    return picture(operator, title_of(operator, name), topk, one_of(colours, 'colours', COLOURS))


def kernel_arrays(operator: nn.Module, topk: int | None = None) -> dict[str, np.ndarray]:
    """Return the arrays that :func:`kernel_figure` draws, by name.

    Every operator has ``kernel`` (O, C/groups, *size); for the others see :func:`association_arrays`,
    :func:`continuous_arrays`, :func:`function_arrays` and :func:`filter_arrays`.

    Args:
        operator: an operator, or a plain convolution of torch.
        topk: number of continuous kernels that are sampled finely, as in :func:`kernel_figure`; other arrays contain
            all kernels.

    Raises:
        TypeError: if ``operator`` is not a convolution.

    Example:
        >>> sorted(kernel_arrays(nn.Conv2d(3, 8, 3)))
        ['kernel']
    """
    return arrays(checked(operator), topk)


def checked(operator: nn.Module) -> nn.Module:
    """Return the layer if it is a convolution, whose kernels can be drawn.

    Raises:
        TypeError: if it is not.

    Example:
        >>> checked(nn.ReLU())
        Traceback (most recent call last):
        ...
        mmkerv.errors.ArgumentTypeError: operator must be an operator of mmkerv or a convolution, got ReLU
    """
    if not isinstance(operator, (ConvNd, *PLAIN)):
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
    parts = [f'{type(operator).__name__} {operator.in_channels} → {operator.out_channels}', size]
    if operator.groups > 1:
        parts.append(f'{operator.groups} groups')
    text = ', '.join(filter(None, [*parts, details(operator)]))
    return f'{name}: {text}' if name else text


def kernel_layers(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return the operators of a model by name; with names, also the plain convolutions that they name.

    Args:
        model: any module.
        names: layers, or modules that contain operators; ``None`` selects all operators of the model.

    Raises:
        ConfigError: if there is no operator, or the model does not have a name.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), CoCConv2d(4, 4, 3))
        >>> list(kernel_layers(model)), list(kernel_layers(model, ['0']))
        (['1'], ['0'])
    """
    if not names:
        return find_operators(model, kinds=ConvNd)
    layers: dict[str, nn.Module] = {}
    for name, module in find_layers(model, names).items():
        layers |= {name: module} if isinstance(module, PLAIN) else find_operators(model, [name], kinds=ConvNd)
    return layers


def picture_files(save_path: str | Path, layers: Iterable[str], kind: str, suffix: str = '') -> dict[str, Path]:
    """Return the file of each layer's picture, named after the layer.

    Args:
        save_path: folder; or, for a single layer, the file itself.
        layers: names of the layers.
        kind: format in a folder, such as ``'png'``.
        suffix: added to the layer's name.

    Raises:
        ConfigError: if a file is given for several layers.

    Example:
        >>> picture_files('out', ['backbone.conv1'], 'png')['backbone.conv1'].as_posix()
        'out/backbone.conv1.png'
    """
    path, layers = Path(save_path), list(layers)
    if path.suffix.lower() not in SUFFIXES:
        return {layer: path / f'{layer}{suffix}.{kind}' for layer in layers}
    if len(layers) > 1:
        raise ConfigError(
            f'--save-path {str(path)!r} is one file, and there are {len(layers)} pictures; give a folder, or a single '
            f'layer by --target-layers, such as {layers[0]}'
        )
    return {layers[0]: path}
