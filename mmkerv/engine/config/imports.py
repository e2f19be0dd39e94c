"""Check the imports of pure-Python configs, which mmengine defers until a value is used."""

import difflib
import functools
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

from mmkerv.errors import ConfigError


def check_imports(cfg: Config, path: str) -> None:
    """Import everything that the values of a config name.

    Args:
        cfg: config as mmengine reads it; one without imports is left at once.
        path: its file, for the message.

    Raises:
        ConfigError: naming the key, the import and, where mmengine knows it, the line.

    Example:
        >>> check_imports(Config(dict(model=dict(type='ResNet'))), 'a.py')
    """
    imported = getattr(cfg, '_imported_names', set())
    for key, value in dict.items(cfg._cfg_dict):
        if key not in imported:
            for place, lazy in lazy_values(value, key):
                _import(lazy, place, path)


def lazy_values(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the imports in a part of a config that mmengine has deferred, with their dotted keys; imports nothing.

    Example:
        >>> list(lazy_values({'type': LazyObject('torch.nn', 'ReLU')}, 'act_cfg'))
        [('act_cfg.type', ReLU)]
    """
    if isinstance(node, (LazyObject, LazyAttr)):
        yield place, node
    elif isinstance(node, functools.partial):
        yield from lazy_values(node.func, place)
    elif isinstance(node, dict):
        for key, value in dict.items(node):
            yield from lazy_values(value, f'{place}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from lazy_values(value, f'{place}.{i}')


def _import(lazy: Any, place: str, path: str) -> None:
    try:
        lazy.build()
    # The module that is imported may raise anything.
    except Exception as error:
        where = f' ({lazy.location})' if lazy.location else ''
        raise ConfigError(
            f'config {path!r}: {place} is {lazy.module}.{lazy}, which cannot be imported{where}: '
            f'{_reason(lazy, error)}. Correct the import, or install what it needs'
        ) from error


def _reason(lazy: Any, error: Exception) -> str:
    """Return why an import failed: the error of the module, or the nearest name in it."""
    try:
        module = import_module(lazy.module)
    except Exception as cause:
        return f'{type(cause).__name__}: {" ".join(str(cause).split()).rstrip(".")}'
    if hasattr(module, str(lazy)):
        return f'{type(error).__name__}: {" ".join(str(error).split()).rstrip(".")}'
    nearest = difflib.get_close_matches(str(lazy), dir(module), n=1)
    return f'{lazy.module} has no {lazy}{f"; did you mean {nearest[0]}?" if nearest else ""}'.rstrip('.')
