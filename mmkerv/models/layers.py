"""Find layers and operators of a model by the names a user types."""

from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn

from mmkerv.errors import ConfigError
from mmkerv.ops.core.base import Conv2d


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules of these names, in their order; a leading ``'model.'`` is ignored, as in upstream's tools.

    Raises:
        ConfigError: for a name that the model does not have, with the nearest names that it has.

    Example:
        >>> list(find_layers(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), ['1']))
        ['1']
    """
    modules = {name: module for name, module in model.named_modules() if name}
    layers = {}
    for name in names:
        local = name if name in modules else name.removeprefix('model.')
        if local not in modules:
            near = ', '.join(get_close_matches(local, modules, n=3, cutoff=0.3)) or 'none'
            raise ConfigError(
                f'--target-layers: the model has no layer {name!r}; the nearest names are {near}. '
                'print(model) or --preview-model shows all'
            )
        layers[local] = modules[local]
    return layers


def find_operators(
    model: nn.Module,
    names: Sequence[str] | None = None,
    kinds: type | tuple[type, ...] = Conv2d,
    label: str = 'operator of mmkerv',
    example: str = 'mmkerv.CoCConv',
) -> dict[str, nn.Module]:
    """Return the operators of a model by name; with ``names``, those at or inside the modules of these names.

    Args:
        model: any module.
        names: as in :func:`find_layers`.
        kinds: classes of the operators.
        label: name of the operators in the message if there are none.
        example: ``type`` of a ``conv_cfg`` that builds one, for the same message.

    Raises:
        ConfigError: if there is no operator, or the model does not have a name.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> list(find_operators(nn.Sequential(CoCConv2d(4, 4, 3), nn.ReLU())))
        ['0']
    """
    roots = find_layers(model, names) if names else {'': model}
    operators: dict[str, nn.Module] = {}
    for root, module in roots.items():
        prefix = f'{root}.' if root else ''
        inside = {f'{prefix}{name}'.rstrip('.'): m for name, m in module.named_modules() if isinstance(m, kinds)}
        if not inside:
            part = f'layer {root!r}' if root else f'the model ({type(model).__name__})'
            elsewhere = [name for name, m in model.named_modules() if isinstance(m, kinds)]
            if elsewhere:
                advice = f'the model has some in {", ".join(elsewhere[:3])} ...'
            else:
                advice = f'choose a config with conv_cfg=dict(type={example!r})'
            raise ConfigError(f'{part} has no {label}; {advice}')
        operators |= inside
    return operators
