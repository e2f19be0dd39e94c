"""Table of the operators by the name that configs have for them: the package's, and those that users register.

It needs neither torch nor mmengine, so that both the registry of mmengine and programs without it can ask.
"""

import functools
import sys
from importlib import import_module
from typing import Any

# Registered name of each operator, and the module that defines it. The only such list. An operator of a user is added
# to it by `mmkerv.register_operator`.
OPERATORS = {
    'CKConv': 'mmkerv.ops.ckconv',
    'CKConv1d': 'mmkerv.ops.ckconv',
    'CoCConv': 'mmkerv.ops.coc',
    'CondConv': 'mmkerv.ops.condconv',
    'DCLSConv': 'mmkerv.ops.dcls',
    'DepthwiseSeparableConv': 'mmkerv.ops.separable',
    'FDConv': 'mmkerv.ops.fdconv',
    'FlexConv': 'mmkerv.ops.ckconv',
    'InceptionDWConv': 'mmkerv.ops.inception_dw',
    'KANConv': 'mmkerv.ops.kan',
    'KervConv': 'mmkerv.ops.kerv',
    'KervConv1d': 'mmkerv.ops.kerv',
    'KervConv3d': 'mmkerv.ops.kerv',
    'LightweightConv1d': 'mmkerv.ops.lightweight',
    'LowRankConv': 'mmkerv.ops.lowrank',
    'MixConv': 'mmkerv.ops.mixconv',
    'PConv': 'mmkerv.ops.pconv',
    'RecConv': 'mmkerv.ops.recconv',
    'ReparamConv': 'mmkerv.ops.reparam',
    'SMPConv': 'mmkerv.ops.smpconv',
    'ShiftwiseConv': 'mmkerv.ops.shiftwise',
    'SpatiallySeparableConv': 'mmkerv.ops.separable',
    'StackedConv': 'mmkerv.ops.separable',
    'WeightedConv': 'mmkerv.ops.weighted',
}
# The plain form of a folded operator, in deploy configs.
PLAIN = {'FoldedConv': 'mmkerv.ops.folded_conv'}

# Of the operators of users, the class that configs name. The package's are imported when they are asked for.
_classes: dict[str, type] = {}
# Full names of the classes of users' operators, and the registered name.
_names: dict[str, str] = {}


def operator_class(name: str) -> Any:
    """Return the class that configs name for an operator, and import it if need be.

    Args:
        name: registered name.

    Example:
        >>> operator_class('CoCConv').__name__
        'CoCConv'
    """
    return _classes[name] if name in _classes else getattr(import_module({**OPERATORS, **PLAIN}[name]), name)


def dotted_name(kind: Any) -> str:
    """Return the ``type`` of a config as a name: that of the module and of the class, with a dot between them.

    Args:
        kind: a name, a class, or a ``functools.partial`` of one.

    Example:
        >>> dotted_name('CoCConv'), dotted_name(functools.partial(dict, a=1))
        ('CoCConv', 'builtins.dict')
    """
    while isinstance(kind, functools.partial):
        kind = kind.func
    return kind if isinstance(kind, str) else f'{getattr(kind, "__module__", "")}.{getattr(kind, "__name__", "")}'


def operator_name(kind: Any) -> str | None:
    """Return the registered name of the operator that a config's ``type`` refers to, or ``None``.

    Args:
        kind: the ``type`` of a config: a name, a class, or a ``functools.partial`` of one.

    Example:
        >>> operator_name('mmkerv.CoCConv'), operator_name('ConvWS')
        ('CoCConv', None)
    """
    path = dotted_name(kind)
    package, _, name = path.rpartition('.')
    if package.partition('.')[0] in ('', 'mmkerv'):
        for known in (name, name.removesuffix('2d')):
            if known in OPERATORS:
                return known
    return _names.get(path)


def is_own(name: str) -> bool:
    """Return whether an operator was registered by a user.

    Example:
        >>> is_own('CoCConv')
        False
    """
    return name in _classes


def own_operators() -> dict[str, Any]:
    """Return the classes of the operators that users registered, by their registered names.

    Example:
        >>> own_operators()
        {}
    """
    return dict(_classes)


def add(name: str, kind: type, layer: type) -> None:
    """Add an operator, or another version of it, unchecked; and to mmengine's registries, now or once it is imported.

    Args:
        name: registered name.
        kind: the class that configs name.
        layer: the class of the layers, which may be the same.

    Example:
        >>> class Mine: ...
        >>> add('Mine', Mine, Mine); operator_name(Mine)
        'Mine'
        >>> remove('Mine'); operator_name(Mine)
    """
    known = name in _classes
    _classes[name], OPERATORS[name] = kind, kind.__module__
    # Of two names for the same layers, reports use the first.
    for one in (kind, layer):
        _names.setdefault(dotted_name(one), name)
    # It registers what is in the table when it is imported.
    registry = sys.modules.get('mmkerv.registry')
    if registry is not None and not known:
        registry.register(name)


def remove(name: str) -> None:
    """Undo :func:`add`.

    Args:
        name: of an operator that was added.

    Example:
        >>> class Mine: ...
        >>> add('Mine', Mine, Mine); remove('Mine'); 'Mine' in OPERATORS
        False
    """
    del _classes[name], OPERATORS[name]
    for path in [path for path, known in _names.items() if known == name]:
        del _names[path]
    # Another name for the same layers.
    for other, kind in _classes.items():
        for one in (kind, getattr(kind, 'operator', kind)):
            _names.setdefault(dotted_name(one), other)
    registry = sys.modules.get('mmkerv.registry')
    if registry is not None:
        registry.unregister(name)
