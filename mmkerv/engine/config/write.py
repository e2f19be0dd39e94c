"""Make a config writable: classes by name, so that mmengine reads the written file again."""

import functools
from types import BuiltinFunctionType, FunctionType
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject

from mmkerv.errors import ConfigError


def by_name(cfg: Config) -> Config:
    """Replace what mmengine cannot write in a config, in place; what is built from the config stays the same.

    mmengine writes a class as ``type=mmdet.models.RetinaNet``, which is no Python without the import. A class or
    function becomes a deferred import here, as in a pure-Python config: mmengine builds the same object from it and
    writes ``type='mmdet.models.RetinaNet'``. ``functools.partial`` as a type becomes its function and its arguments.
    Deferred imports of anything else, such as ``CocoDataset.METAINFO``, are replaced by their values.

    Args:
        cfg: config, changed in place.

    Returns:
        ``cfg``.

    Raises:
        ConfigError: for a ``functools.partial`` that cannot be written, naming its key.

    Example:
        >>> from torch import nn
        >>> print(by_name(Config(dict(act_cfg=dict(type=nn.ReLU)))).pretty_text.strip())
        act_cfg = dict(type='torch.nn.modules.activation.ReLU')
    """
    imported = getattr(cfg, '_imported_names', set())
    for key, value in list(dict.items(cfg._cfg_dict)):
        if key not in imported:
            dict.__setitem__(cfg._cfg_dict, key, _by_name(value, key))
    return cfg


def _by_name(node: Any, place: str) -> Any:
    # Only a ConfigDict turns a deferred import into its object when it is used: a list or another dict does not.
    if isinstance(node, ConfigDict):
        for key, value in list(dict.items(node)):
            dict.__setitem__(node, key, _by_name(value, f'{place}.{key}'))
        return _without_partial(node, place)
    if isinstance(node, (list, tuple)):
        parts = (dict, list, tuple)
        children = [_by_name(part, f'{place}.{i}') if isinstance(part, parts) else part for i, part in enumerate(node)]
        return type(node)(*children) if hasattr(node, '_fields') else type(node)(children)
    if isinstance(node, (LazyObject, LazyAttr)):
        value = node.build()
        # What has a name is written by it, as it was imported; a module too.
        is_value = value is None or isinstance(value, (dict, list, tuple, str, int, float))
        return _by_name(ConfigDict._hook(value), place) if is_value else node
    return _deferred(node)


def _without_partial(node: dict, place: str) -> dict:
    """Write the arguments of a partial beside its function, which builds the same."""
    kind = dict.get(node, 'type')
    if not isinstance(kind, functools.partial):
        return node
    if kind.args:
        raise ConfigError(
            f'{place}.type is functools.partial({getattr(kind.func, "__name__", kind.func)}, ...) with arguments '
            'without a name, which cannot be written to a file; name them, or write them as keys beside type'
        )
    dict.__setitem__(node, 'type', kind.func)
    for key, value in kind.keywords.items():
        if key not in node:
            dict.__setitem__(node, key, ConfigDict._hook(value))
    return _by_name(node, place)


def _deferred(value: Any) -> Any:
    """Return the import of a class or function, and anything else as it is."""
    if not isinstance(value, (type, FunctionType, BuiltinFunctionType)) or value.__module__ == 'builtins':
        return value
    name, *inner = value.__qualname__.split('.')
    deferred = LazyObject(value.__module__, name)
    for part in inner:
        deferred = LazyAttr(part, deferred)
    try:
        found = deferred.build()
    except (ImportError, AttributeError):
        found = None
    # A class that is defined inside a function cannot be imported by name.
    return deferred if found is value else value
