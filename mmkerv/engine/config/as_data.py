"""Read a written config as data: nothing in the file is run, and it names nothing but parts of networks.

A Python config is a program, and a config of any format names what is built from it: a type may be any function that
can be imported. Configs that come with published weights are read by this module instead.
"""

import ast
import builtins
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string
from torch import nn

from mmkerv import env
from mmkerv.distributions import LIBRARIES, OPTIONAL_LIBRARIES
from mmkerv.errors import ConfigError, UnsafeCheckpointError
from mmkerv.ops.core.config_class import ConfigClass
from mmkerv.utils import printable

# Packages whose classes a config may name.
PACKAGES = ('mmkerv', *LIBRARIES, *OPTIONAL_LIBRARIES, 'torch', 'torchvision', 'timm')
# A name, a name with its scope, an import path, or the name of a transform of torchvision in mmpretrain.
NAME = re.compile(r'(torchvision/)?[A-Za-z_]\w*(\.[A-Za-z_]\w*)*')
# Larger than any config of the libraries, with all that it inherits.
LARGEST = 2_000_000
# What may hold any text: names of classes.
TEXTS = ('metainfo', 'dataset_meta', 'classes', 'class_names', 'CLASSES')
# Settings whose package mmengine imports.
SCOPES = ('default_scope', '_scope_')
# Settings by which a network would fetch weights while it is built.
FETCHING = ('pretrained',)


def config_from_text(text: str, source: str) -> Config:
    """Return a config from the text that mmengine wrote of it, without running any of it.

    Args:
        text: assignments of constants, lists, tuples, dicts and ``dict(...)``.
        source: name of the file, for messages.

    Raises:
        UnsafeCheckpointError: if it holds anything else, or names something that is no part of a network.
        InstallationError: if the library of the config cannot be used.

    Example:
        >>> config_from_text("model = dict(type='mmkerv.CKCNN', channels=8)", 'ckcnn.py').model.channels
        8
    """
    if len(text) > LARGEST:
        raise UnsafeCheckpointError(f'config {source!r} has {len(text):,} characters: no config of a network is larger')
    try:
        statements = ast.parse(text).body
        cfg = Config(dict(_assigned(statement) for statement in statements))
    except _NotData as error:
        raise UnsafeCheckpointError(
            f'config {source!r} was not read: {error}. A published config consists of assignments of constants, lists '
            'and dicts. Nothing of it was executed'
        ) from error
    except (SyntaxError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        reason = printable(' '.join(str(error).split()) or type(error).__name__)
        raise UnsafeCheckpointError(
            f'config {source!r} was not read: it is damaged ({reason}). Nothing of it was executed'
        ) from error
    if cfg.get('default_scope') in LIBRARIES:
        # Nothing of a library that is missing can be recognised.
        env.require(cfg.default_scope)
    if faults := foreign_parts(cfg):
        raise UnsafeCheckpointError(f'config {source!r} was not used: {"; ".join(faults[:3])}. Nothing was built')
    return cfg


class _NotData(Exception):
    """A program where data is expected; the message says where."""


def _assigned(statement: ast.stmt) -> tuple[str, Any]:
    """Return the name and the value of an assignment."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        raise _NotData(f'line {statement.lineno} is no assignment')
    (target,) = statement.targets
    if not isinstance(target, ast.Name):
        raise _NotData(f'line {statement.lineno} assigns to more than a name')
    return target.id, _value(statement.value)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, bool, type(None))):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _value(node.operand)
        if isinstance(number, (int, float)):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_value(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict) and all(node.keys):
        return dict(zip(map(_value, node.keys), map(_value, node.values)))
    is_dict = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict'
    if is_dict and not node.args and all(keyword.arg for keyword in node.keywords):
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    raise _NotData(f'line {node.lineno} holds {printable(ast.unparse(node), 80)}')


def foreign_parts(cfg: Config) -> list[str]:
    """Return what a config names that may do more than compute, a sentence each.

    Types are classes of OpenMMLab, torch and timm that are registered or modules of networks. Scopes and imports are
    those packages. Outside names of classes, a string with a parenthesis is refused: libraries evaluate some strings.

    Example:
        >>> foreign_parts(Config(dict(model=dict(type='os.system', command='echo'))))
        ["model.type 'os.system' is no class of OpenMMLab, torch or timm"]
    """
    faults = []
    for place, value in _values(cfg._cfg_dict.to_dict(), ''):
        key = place.rpartition('.')[2]
        if key == 'type' and isinstance(value, str):
            faults += [f'{place} {printable(value)!r} {fault}' for fault in _type_faults(value)]
        elif key in SCOPES and value not in (None, *PACKAGES):
            faults.append(f'{place} is {printable(str(value))!r}, which is no part of OpenMMLab, torch or timm')
        elif place.startswith('custom_imports.imports') and str(value).partition('.')[0] not in PACKAGES:
            faults.append(f'{place} imports {printable(str(value))!r}, which is no part of OpenMMLab, torch or timm')
        elif key in FETCHING and value and place.startswith('model.'):
            faults.append(f'{place} is {printable(str(value))!r}: the network would fetch weights while it is built')
        elif isinstance(value, str) and '(' in value and not set(place.split('.')) & set(TEXTS):
            faults.append(f'{place} {printable(value, 80)!r} has a parenthesis, as calls have')
    return faults


def _values(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield what a part of a config holds, keys too, with dotted keys."""
    if isinstance(node, dict):
        for key, value in node.items():
            inner = f'{place}.{key}' if place else str(key)
            if not isinstance(key, str) or '(' in key:
                yield inner, key
            yield from _values(value, inner)
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _values(value, f'{place}.{number}')
    else:
        yield place, node


def _type_faults(kind: str) -> list[str]:
    """Return why a type may not be built; a name that no library registers is harmless unless Python knows it."""
    foreign = ['is no class of OpenMMLab, torch or timm']
    if not NAME.fullmatch(kind) or '__' in kind:
        return foreign
    head, dot, rest = kind.partition('.')
    if not dot:
        # An unregistered name would be imported as a module.
        known = any(kind in registry.module_dict for registry in _registries())
        return [] if known or '/' in kind or not (hasattr(builtins, kind) or find_spec(kind)) else foreign
    if head not in PACKAGES:
        return foreign
    if '.' not in rest and _is_registered(head, rest):
        return []
    found = get_object_from_string(kind)
    is_part = inspect.isclass(found) and issubclass(found, (nn.Module, ConfigClass))
    is_known = any(found is part for registry in _registries() for part in registry.module_dict.values())
    return [] if is_part or (found is not None and is_known) else foreign


def _is_registered(scope: str, name: str) -> bool:
    """Return whether a library registers a name; its modules are imported one kind after the other until one does."""
    try:
        import_module(f'{scope}.registry')
    except ImportError:
        return False
    own = [registry for registry in _registries() if registry.scope == scope]
    if any(name in registry.module_dict for registry in own):
        return True
    for registry in own:
        registry.import_from_location()
        if name in registry.module_dict:
            return True
    return False


def _registries() -> Iterator[Registry]:
    roots = [value for value in vars(mmengine.registry).values() if isinstance(value, Registry)]
    while roots:
        registry = roots.pop()
        yield registry
        roots += registry.children.values()


def import_customs(cfg: Config, source: str) -> None:
    """Import what a config's ``custom_imports`` names, which :func:`foreign_parts` has passed.

    Raises:
        ConfigError: naming the module that is not installed.

    Example:
        >>> import_customs(Config(dict(custom_imports=dict(imports=['mmkerv']))), 'a.py')
    """
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    for name in [names] if isinstance(names, str) else names:
        try:
            import_module(name)
        except ImportError as error:
            raise ConfigError(
                f'config {source!r} imports {printable(name)!r}, which is not there: {error}. Install its package'
            ) from error
