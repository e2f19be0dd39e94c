"""Register an operator of one's own, so that configs, tools and reports know it as they know the package's."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from mmkerv import operator_table, ops
from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.operator_table import OPERATORS, PLAIN, dotted_name, is_own, operator_class
from mmkerv.ops.core.base import Conv1d, Conv2d, Conv3d, ConvNd
from mmkerv.ops.core.branches import Branches
from mmkerv.ops.core.config_class import ConfigClass, PlainFor1x1
from mmkerv.ops.core.dynamic import DynamicKernel
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.response import Response
from mmkerv.ops.core.split import SplitKernel

FAMILIES = (GeneratedKernel, Branches, SplitKernel, DynamicKernel, Response)
BASES = (Conv1d, Conv2d, Conv3d)
# What --operator calls the network without an operator.
RESERVED = ('plain',)
PAGE = 'docs/custom_operator.md has an example'


def register_operator(name: Any = None) -> Callable[[type], type]:
    """Return a decorator that registers a class as an operator, as ``MODELS.register_module`` does for models.

    The class derives from a family of :mod:`mmkerv.ops.core` and from ``Conv2d`` (``Conv1d``, ``Conv3d``) of
    :mod:`mmkerv.ops.core.base`. Afterwards ``conv_cfg=dict(type=NAME)`` builds it in every scope of mmengine, and in
    ``mmkerv.convert`` without mmengine; a 1x1 convolution stays plain unless the class has ``takes_1x1 = True`` or the
    config ``replace_1x1=True``. The tools, reports and hooks treat it as the package's operators. A class derived from
    :class:`mmkerv.ops.core.config_class.ConfigClass`, with the layer as ``operator``, is registered as it is.

    A config finds it with ``custom_imports=dict(imports=[MODULE])``, MODULE being where the class is defined. A class
    that is defined again, as in a notebook, replaces the one before; :func:`unregister_operator` removes it.

    Args:
        name: registered name; by default that of the class without ``2d``.

    Returns:
        The decorator, which returns the class as it is.

    Raises:
        ValueError: if the name or the short name is taken, or a fact about the class is missing or cannot be.
        TypeError: if the class is no operator, or ``name`` is not a text.

    Example:
        >>> import mmkerv
        >>> from mmkerv.ops.core.base import Conv2d
        >>> from mmkerv.ops.core.generated import GeneratedKernel
        >>> @mmkerv.register_operator()
        ... class NegatedConv2d(GeneratedKernel, Conv2d):
        ...     def _kernel(self):
        ...         return -self.weight
        >>> mmkerv.convert(nn.Sequential(nn.Conv2d(3, 8, 3)), dict(type='NegatedConv'))[0]
        NegatedConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        >>> mmkerv.unregister_operator('NegatedConv')
    """
    if isinstance(name, type):
        # Without the brackets, the decorator gets the class.
        return _register(name, None)
    if name is not None and not isinstance(name, str):
        raise ArgumentTypeError(
            f'name of an operator must be a text, got {name!r}; write @mmkerv.register_operator() above the class'
        )
    return lambda kind: _register(kind, name)


def unregister_operator(name: Any) -> None:
    """Undo :func:`register_operator`, for tests and notebooks.

    Args:
        name: registered name, or the class.

    Raises:
        ValueError: if it was not registered by ``register_operator``.

    Example:
        >>> unregister_operator('CoCConv')
        Traceback (most recent call last):
        ...
        mmkerv.errors.ArgumentError: 'CoCConv' was not registered with register_operator; those are: none
    """
    found = operator_table.operator_name(name)
    if found is None or not is_own(found):
        own = ', '.join(operator_table.own_operators()) or 'none'
        raise ArgumentError(f'{name!r} was not registered with register_operator; those are: {own}')
    operator_table.remove(found)


def _register(kind: Any, name: str | None) -> Any:
    layer = _layer(kind)
    if name is None:
        name = kind.__name__.removesuffix('2d')
    about = f'register_operator: {kind.__name__}'
    if taken := _taken(name, kind):
        raise ArgumentError(
            f"{about}: the name {name!r} is taken by {taken}; give another one, as with register_operator('My{name}')"
        )
    # A class derived from an operator, and another name for its layers, must not answer to that one's short name.
    own = vars(layer).get('short_name') if operator_table.operator_name(layer) in (None, name) else None
    short = own or default_short_name(name)
    if faults := [*_faults(layer), *_short_name_faults(name, short)]:
        raise ArgumentError(f'{about}: {"; ".join(faults)}. {PAGE}')
    is_itself = issubclass(kind, ConfigClass) or _has_own_constructor(layer) or layer.dims != 2
    named = kind if is_itself else _config_class(name, layer)
    if issubclass(named, ConfigClass):
        named.short_name = short
    operator_table.add(name, named, layer)
    return kind


def _layer(kind: Any) -> type[ConvNd]:
    """Return the class of the layers, or raise if the decorated object is none of an operator."""
    layer = getattr(kind, 'operator', None) if isinstance(kind, type) and issubclass(kind, ConfigClass) else kind
    bases = ', '.join(family.__name__ for family in FAMILIES)
    derive = (
        f'derive from a family ({bases}, each in the module of mmkerv.ops.core with its name) and from Conv2d of '
        f'mmkerv.ops.core.base. {PAGE}. A layer that need not fold can be registered with mmengine, as nn.Conv2d: '
        'docs/own_kernel.md'
    )
    if not isinstance(layer, type):
        raise ArgumentTypeError(f'register_operator needs a class, got {kind!r}; {derive}')
    if issubclass(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or not issubclass(layer, BASES):
        wrong = next((base for base in layer.__mro__[1:] if base.__module__.startswith('torch.')), layer.__mro__[1])
        raise ArgumentTypeError(
            f'register_operator: {layer.__name__} is no operator, it derives from {dotted_name(wrong)}; {derive}'
        )
    return layer


def _taken(name: str, kind: type) -> str | None:
    """Return what has a name already, if another class."""
    if not name.isidentifier():
        raise ArgumentError(f'name of an operator must be a word of letters, digits and _, got {name!r}')
    if is_own(name):
        known = {dotted_name(one) for one in (operator_class(name), _layer(operator_class(name)))}
        return None if dotted_name(kind) in known else ' and '.join(sorted(known))
    same = next((one for one in (*OPERATORS, *PLAIN, *ops.__all__) if one.lower() == name.lower()), None)
    if same is not None:
        return f'the operator {same}' + (f' of {OPERATORS[same]}' if same in OPERATORS else ' of mmkerv')
    registry = sys.modules.get('mmkerv.registry')
    return registry.taken_by(name) if registry is not None else None


def _faults(layer: type[ConvNd]) -> Iterator[str]:
    """Yield what the class of an operator lacks, or states in a form in which nobody can read it."""
    order = [base for base in layer.__mro__ if base in FAMILIES or base in BASES]
    if issubclass(layer, FAMILIES) and order[0] in BASES:
        family = next(base for base in order if base in FAMILIES)
        yield f'its family comes first: class {layer.__name__}({family.__name__}, {order[0].__name__})'
    missing = [n for n in dir(layer) if getattr(inspect.getattr_static(layer, n, None), '__isabstractmethod__', False)]
    if missing:
        family = next(base for base in layer.__mro__ if missing[0] in vars(base))
        yield f'it must implement {", ".join(missing)}, see {family.__module__}.{family.__name__}'
    elif layer.forward is nn.Module.forward:
        yield 'it must implement forward(input)'
    if not layer.has_weight and not issubclass(layer, FAMILIES):
        yield 'it has neither a weight nor a kernel; derive from the family that it belongs to'
    elif not layer.has_weight and layer._parameter is ConvNd._parameter:
        yield (
            'with has_weight = False it must implement _parameter(), which returns the parameter whose type and device '
            'are those of the layer'
        )
    if _has_own_constructor(layer) and layer.dims == 2 and not layer.takes_1x1:
        yield 'declare its arguments in Options, not in a constructor of its own (or set takes_1x1 = True)'
    for fact, valid, rule in (
        ('no_decay', _are_names, "a tuple of names, such as ('mask',)"),
        ('norm_parameters', _are_names, "a tuple of names, such as ('scale',)"),
        ('lr_mult', _are_factors, "a dict of factors > 0, such as {'positions': 5.0}"),
        *((flag, lambda value: isinstance(value, bool), 'True or False') for flag in ('takes_1x1', 'has_weight')),
        ('folds', lambda value: isinstance(value, str), 'a text, or be left out'),
    ):
        if not valid(value := getattr(layer, fact)):
            yield f'{fact} must be {rule}, got {value!r}'
    if inspect.isfunction(inspect.getattr_static(layer, 'starts_as_identity')):
        yield 'starts_as_identity must be a property: write @property above it'


def _are_names(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(name, str) and name for name in value)


def _are_factors(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(factor, (int, float)) and factor > 0 for name, factor in value.items()
    )


def _short_name_faults(name: str, short: Any) -> Iterator[str]:
    if not isinstance(short, str) or not re.fullmatch(r'[a-z][a-z0-9_]*', short):
        yield f"short_name must be a word of small letters, digits and _, such as 'my', got {short!r}"
        return
    known = {text: one for one in OPERATORS if one != name for text in (one.lower(), operator_class(one).short_name)}
    if short in (*known, *RESERVED):
        owner = known.get(short, 'the network without an operator')
        yield f'the short name {short!r} is that of {owner}; set another one, as in short_name = {f"my{short}"!r}'


def default_short_name(name: str) -> str:
    """Return the name in commands of an operator that states none: its own in lower case, without ``conv``.

    Example:
        >>> default_short_name('WindowConv')
        'window'
    """
    return name.lower().removesuffix('conv') or name.lower()


def _has_own_constructor(layer: type[ConvNd]) -> bool:
    return layer.__init__ is not ConvNd.__init__


def _config_class(name: str, layer: type[ConvNd]) -> type[ConfigClass]:
    """Return the class that configs name, as each of the package's operators for images has one."""
    base = ConfigClass if layer.takes_1x1 else PlainFor1x1
    text = f'Class to name in configs: builds :class:`{layer.__name__}`'
    if base is PlainFor1x1:
        text += ', or a plain ``nn.Conv2d`` for a 1x1 kernel.\n\nArgs:\n    replace_1x1: also replace 1x1 kernels.\n'
    return type(name, (base,), {'operator': layer, '__module__': layer.__module__, '__doc__': text})
