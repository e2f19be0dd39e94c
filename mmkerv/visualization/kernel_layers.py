"""The layers of a model whose kernels are drawn, and the files they are drawn to."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from mmkerv.errors import ConfigError
from mmkerv.models.layers import find_layers, find_operators
from mmkerv.ops.core.base import ConvNd
from mmkerv.visualization.pictures import SUFFIXES


def kernel_layers(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return the operators of a model by name; of the modules of these names, also convolutions that are plain.

    Args:
        model: any module.
        names: layers, or modules that contain operators; ``None`` is the whole model.

    Raises:
        ConfigError: if there is none, or a name is not of the model.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), CoCConv2d(4, 4, 3))
        >>> list(kernel_layers(model)), list(kernel_layers(model, ['0']))
        (['1'], ['0'])
    """
    if not names:
        return find_operators(model, kinds=ConvNd)
    found: dict[str, nn.Module] = {}
    for name, module in find_layers(model, names).items():
        plain = isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        found |= {name: module} if plain else find_operators(model, [name], kinds=ConvNd)
    return found


def picture_files(save_path: str | Path, layers: Iterable[str], kind: str, suffix: str = '') -> dict[str, Path]:
    """Return the file of each layer's picture, called after the layer.

    Args:
        save_path: folder; or, of a single layer, the file itself.
        layers: names.
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
