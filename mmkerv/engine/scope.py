"""The OpenMMLab library that a config belongs to.

Old-style configs name it in ``default_scope``. Pure-Python configs give classes as types and leave ``default_scope`` at
``None``; there the class of the model tells.
"""

import functools
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import init_default_scope
from mmengine.utils import get_object_from_string

from mmkerv.distributions import BUILT_ON
from mmkerv.models.upstream_backbones import LIBRARIES as BACKBONE_LIBRARIES

# Parts of a config that tell its library, the most telling first: a segmentor may have a backbone of mmpretrain.
PARTS = ('model', 'data_preprocessor', 'visualizer', 'test_dataloader', 'val_dataloader', 'train_dataloader')
LIBRARIES = (*BACKBONE_LIBRARIES, *BUILT_ON)


def library_of(cfg: Config) -> str | None:
    """Return the ``default_scope`` of a config, or the library of its parts if it has none.

    Args:
        cfg: config.

    Returns:
        ``default_scope`` whatever it is, else ``'mmdet'``, ``'mmseg'``, ``'mmpretrain'`` or ``'mmrotate'`` (whose
        models and data are largely mmdetection's: it is taken if anything of its own is there), or ``None`` if no part
        of the config belongs to one of these.

    Example:
        >>> library_of(Config(dict(model=dict(type='mmseg.models.EncoderDecoder'))))
        'mmseg'
        >>> library_of(Config(dict(default_scope='mmdet', model=dict(type='RetinaNet'))))
        'mmdet'
    """
    scope = cfg.get('default_scope')
    if scope:
        return scope
    kinds = [kind for part in PARTS for kind in _types(dict.get(cfg._cfg_dict, part))]
    found = next(filter(None, map(_library_of_type, kinds)), None)
    named = {_named_library(kind) for kind in kinds}
    return next((library for library, base in BUILT_ON.items() if base == found and library in named), found)


def enter_scope(cfg: Config) -> None:
    """Make names without a scope mean those of the config's library, as mmengine's runner does.

    Example:
        >>> enter_scope(Config(dict(default_scope='mmengine')))
    """
    init_default_scope(library_of(cfg) or 'mmengine')


def _types(node: Any) -> Iterator[Any]:
    """Yield the types in a part of a config, the outer ones first."""
    if isinstance(node, dict):
        # mmengine's own access would import what a pure-Python config names.
        if 'type' in node:
            yield dict.get(node, 'type')
        node = dict.values(node)
    elif not isinstance(node, (list, tuple)):
        return
    for child in node:
        yield from _types(child)


def _named_library(kind: Any) -> str | None:
    """Return the library that the name of a type begins with; nothing is imported."""
    while isinstance(kind, functools.partial):
        kind = kind.func
    if isinstance(kind, (LazyObject, LazyAttr)):
        kind = kind.module
    elif not isinstance(kind, str):
        kind = getattr(kind, '__module__', None) or ''
    library = kind.partition('.')[0]
    return library if library in LIBRARIES else None


def _library_of_type(kind: Any) -> str | None:
    if library := _named_library(kind):
        return library
    while isinstance(kind, functools.partial):
        kind = kind.func
    if isinstance(kind, str):
        # A user's own class, as mmengine writes it when it dumps a config.
        kind = get_object_from_string(kind) if '.' in kind else None
    if isinstance(kind, (LazyObject, LazyAttr)):
        kind = kind.build()
    # A user's own model derives from one of the library.
    modules = [base.__module__ for base in getattr(kind, '__mro__', ())] or [getattr(kind, '__module__', None) or '']
    return next((lib for module in modules if (lib := module.partition('.')[0]) in LIBRARIES), None)
