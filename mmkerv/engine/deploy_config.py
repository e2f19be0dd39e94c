"""The config of the folded network: the same network without the operators."""

import copy
from typing import Any

from mmengine.config import Config

from mmkerv.models.hosts import find_host
from mmkerv.ops.arguments import ArgumentError

# Backbones of ours that are a host's class plus the placement of operators.
VARIANTS = ('ResNet',)


def deploy_config(cfg: Config, kept: tuple[str, ...] = ()) -> Config:
    """Return the config of the network after folding.

    Every ``conv_cfg`` of an operator of mmkerv disappears, ``mmkerv.ResNet`` becomes the host's ResNet, and what mmkerv
    itself needed (``custom_imports``, hooks) goes when nothing of it is left: any OpenMMLab installation can use it.

    Args:
        cfg: config the network was trained with.
        kept: types of operators that were not folded; their ``conv_cfg`` stays.

    Returns:
        A new config.

    Example:
        >>> cfg = Config(dict(model=dict(backbone=dict(type='ResNet', conv_cfg=dict(type='CoCConv')))))
        >>> deploy_config(cfg).model.backbone
        {'type': 'ResNet', 'conv_cfg': None}
    """
    result = copy.deepcopy(cfg)
    result.model = _plain(result.model, kept, cfg.get('default_scope'))
    if _mentions_mmkerv(result.model):
        return result
    imports = result.get('custom_imports')
    if imports:
        imports.imports = [name for name in _listed(imports.get('imports')) if name.partition('.')[0] != 'mmkerv']
        if not imports.imports:
            result.pop('custom_imports')
    if result.get('custom_hooks'):
        result.custom_hooks = [h for h in result.custom_hooks if not str(h.get('type')).startswith('mmkerv.')]
    return result


def _plain(node: Any, kept: tuple[str, ...], scope: str | None) -> Any:
    if isinstance(node, dict):
        for key, value in node.items():
            folds = (
                key.endswith('conv_cfg')
                and isinstance(value, dict)
                and _operator(value.get('type')) not in (None, *kept)
            )
            node[key] = None if folds else _plain(value, kept, scope)
        family = str(node.get('type')).removeprefix('mmkerv.')
        if str(node.get('type')).startswith('mmkerv.') and family in VARIANTS and node.get('conv_cfg') is None:
            node['type'] = f'{find_host(family, node.pop("host", None) or scope)}.{family}'
            for key in ('conv_cfg', 'where'):
                node.pop(key, None)
    elif isinstance(node, (list, tuple)):
        return type(node)(_plain(item, kept, scope) for item in node)
    return node


def _operator(kind: Any) -> str | None:
    """Name of the operator of mmkerv that a config's type means, or ``None``."""
    from mmkerv.registry import OPERATORS

    name = kind.removeprefix('mmkerv.') if isinstance(kind, str) else getattr(kind, '__name__', None)
    return name if name in OPERATORS else None


def _mentions_mmkerv(node: Any) -> bool:
    if isinstance(node, dict):
        return _operator(node.get('type')) is not None or any(
            str(v).startswith('mmkerv.') if isinstance(v, str) else _mentions_mmkerv(v) for v in node.values()
        )
    return isinstance(node, (list, tuple)) and any(map(_mentions_mmkerv, node))


def _listed(imports: Any) -> list[str]:
    if isinstance(imports, str):
        return [imports]
    if imports is None:
        raise ArgumentError("custom_imports needs a list 'imports'; write custom_imports=dict(imports=['mmkerv'])")
    return list(imports)
