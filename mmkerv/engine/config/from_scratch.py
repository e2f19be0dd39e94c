"""Training without pretrained weights: what loads them is removed from a config, and what they make useful."""

import inspect
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from mmkerv.engine.checkpoint.pretrained import PRETRAINED
from mmkerv.engine.scope import enter_scope, library_of
from mmkerv.models import variants
from mmkerv.models.upstream_backbones import find_library, variant
from mmkerv.registry import local_name

# Arguments of backbones that keep layers and statistics as they were loaded, and what turns them off.
FREEZING = {'frozen_stages': -1, 'norm_eval': False}


def remove_pretrained(cfg: Config, unfreeze: bool = True) -> list[str]:
    """Remove from a config what loads trained weights, in place.

    ``init_cfg`` of type ``Pretrained``, ``pretrained=`` and ``load_from`` are removed. Where a backbone started from
    such weights, its layers and the statistics of its norms are no longer frozen: at random values they would stay
    random, and with statistics that were never measured.

    Args:
        cfg: config.
        unfreeze: whether frozen layers and statistics are no longer so; ``False`` for a network that has the cost of
            the pretrained one.

    Returns:
        What was changed, in words; nothing if the config loads no weights.

    Example:
        >>> weights = dict(type='Pretrained', checkpoint='torchvision://resnet50')
        >>> backbone = dict(type='ResNet', init_cfg=weights, frozen_stages=1)
        >>> remove_pretrained(Config(dict(default_scope='mmdet', model=dict(backbone=backbone))))  # doctest: +SKIP
        ['model.backbone.init_cfg torchvision://resnet50 removed', 'model.backbone.frozen_stages 1 -> -1', ...]
    """
    changes: list[str] = []
    if cfg.get('load_from'):
        changes.append(f'load_from {cfg.load_from} removed')
        cfg.load_from = None
    enter_scope(cfg)
    with MODELS.switch_scope_and_registry(library_of(cfg)) as registry:
        _remove(cfg.get('model'), 'model', registry if unfreeze else None, changes)
    return changes


def _remove(node: Any, place: str, registry: Any, changes: list[str]) -> None:
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    loads = False
    kept, removed = _without_pretrained(node.get('init_cfg'))
    if removed:
        node['init_cfg'] = kept
        changes += [f'{place}.init_cfg {source} removed' for source in removed]
        loads = True
    if node.get('pretrained'):
        changes.append(f'{place}.pretrained {node["pretrained"]} removed')
        # timm's is a flag.
        node['pretrained'] = False if node['pretrained'] is True else None
        loads = True
    if loads and registry is not None:
        # A segmentor hands `pretrained` to its backbone.
        inner = node.get('backbone') if isinstance(node.get('backbone'), dict) else None
        _unfreeze(inner or node, f'{place}.backbone' if inner else place, registry, changes)
    for key, value in node.items():
        if isinstance(value, (dict, list, tuple)):
            _remove(value, f'{place}.{key}', registry, changes)


def _without_pretrained(init_cfg: Any) -> tuple[Any, list[str]]:
    """Return the initialisers that load nothing, and the sources of the others."""
    if isinstance(init_cfg, dict):
        loads = local_name(init_cfg.get('type'), ('', 'mmengine')) in PRETRAINED
        return (None, [str(init_cfg.get('checkpoint'))]) if loads else (init_cfg, [])
    if isinstance(init_cfg, (list, tuple)):
        parts = [_without_pretrained(part) for part in init_cfg]
        return [kept for kept, _ in parts if kept is not None] or None, [
            source for _, found in parts for source in found
        ]
    return init_cfg, []


def _unfreeze(node: dict, place: str, registry: Any, changes: list[str]) -> None:
    for key, free in FREEZING.items():
        value = node[key] if key in node else _default(node, key, registry)
        # Stages are numbered from 0 on, the stem included.
        if value is not None and value != free and (key == 'norm_eval' or value >= 0):
            changes.append(f'{place}.{key} {value} -> {free}')
            node[key] = free


def _default(node: dict, key: str, registry: Any) -> Any:
    """Return the default of an argument of a network or of one that it derives from; ``None`` if there is no such."""
    built = registry.get(node['type']) if isinstance(node.get('type'), str) else node.get('type')
    if getattr(built, '__module__', None) == variants.__name__:
        # It builds upstream's.
        built = variant(built.__name__, find_library(built.__name__, node.get('host')))
    for part in getattr(built, '__mro__', ()):
        parameter = inspect.signature(part.__init__).parameters.get(key) if '__init__' in vars(part) else None
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None
