"""Check the types and the keys of a config's network before anything is built, all of them at once.

mmengine finds a misspelt name only when it builds that part, one at a time, and its error does not say where in the
config the part is. What a class passes on to others cannot be told from its arguments; that is left to
:mod:`mmkerv.engine.config.build_errors`.
"""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import takewhile
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, TASK_UTILS, DefaultScope, Registry

from mmkerv import env
from mmkerv.engine.scope import LIBRARIES, library_of
from mmkerv.errors import ConfigError
from mmkerv.ops.core.arguments import did_you_mean

# Keys of the parts that a network builds from its registry. Others, such as norm_cfg or init_cfg, are built otherwise.
PARTS = re.compile(r'(model|backbone|neck|\w*head|data_preprocessor|detector|module|(image_)?encoder)(\.\d+)?')


def check_model(cfg: Config) -> None:
    """Refuse a network with a type that is not registered or a key that its class does not have.

    Args:
        cfg: config.

    Raises:
        ConfigError: naming each of them with its dotted key, and the name that was probably meant.

    Example:
        >>> check_model(Config(dict(default_scope='mmengine')))
    """
    if faults := model_faults(cfg):
        raise ConfigError('; '.join(faults))


def model_faults(cfg: Config) -> list[str]:
    """Return what is wrong with the types and keys of a config's network, a sentence each.

    Raises:
        InstallationError: if the library of the config cannot be used, with the command that mends it.

    Example:
        >>> model_faults(Config(dict(model=dict(type='mmkerv.CKCN'))))
        ["model.type: 'mmkerv.CKCN' is not registered; did you mean 'mmkerv.CKCNN'? Change it in the config, or by \
--cfg-options model.type=NAME"]
    """
    library = library_of(cfg)
    if library in LIBRARIES and cfg.get('model'):
        env.require(library)
    with DefaultScope.overwrite_default_scope(library):
        return [fault for place, part in parts(cfg.get('model'), 'model') for fault in part_faults(place, part)]


def parts(node: Any, place: str) -> Iterator[tuple[str, dict]]:
    """Yield the parts of a network that have a type, with their dotted keys, the outer ones first.

    Example:
        >>> [key for key, _ in parts(dict(type='A', neck=[dict(type='B')], norm_cfg=dict(type='BN')), 'model')]
        ['model', 'model.neck.0']
    """
    if isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from parts(item, f'{place}.{i}')
    elif isinstance(node, dict):
        if 'type' in node:
            yield place, node
        for key, value in node.items():
            if PARTS.fullmatch(str(key)):
                yield from parts(value, f'{place}.{key}')


def part_faults(place: str, part: dict) -> list[str]:
    """Return what is wrong with the type and keys of one part, in the current default scope.

    Example:
        >>> part_faults('model', dict(type='mmkerv.CKCNN', chanels=8))
        ["model.chanels: CKCNN has no argument 'chanels'; did you mean 'channels'? Change the key in the config"]
    """
    kind = part['type']
    if isinstance(kind, str):
        found = registered(kind)
        if found is None:
            if '.' not in kind and DefaultScope.get_current_instance() is None:
                return [
                    f"{place}.type: {kind!r} is not registered, and the config has no default_scope, such as 'mmdet', "
                    'to look it up in; add that'
                ]
            meant = did_you_mean(kind, names_like(kind))
            return [
                f'{place}.type: {kind!r} is not registered{meant} Change it in the config, or by --cfg-options '
                f'{place}.type=NAME'
            ]
        kind = found
    faults = []
    known, forwards = accepted(kind, part)
    for key in part:
        if key in ('type', '_scope_') or key in known:
            continue
        # A class that passes its other arguments on to a part, or drops them, may well be given this one.
        if not forwards or any(is_slip(key, name) for name in known):
            meant = did_you_mean(key, known)
            faults.append(
                f'{place}.{key}: {getattr(kind, "__name__", kind)} has no argument {key!r}{meant} Change the key in '
                'the config'
            )
    return faults


def is_slip(typed: str, name: str) -> bool:
    """Return whether a word is a name with one letter left out, added or changed, or two neighbours swapped.

    Example:
        >>> is_slip('conv_cgf', 'conv_cfg'), is_slip('in_index', 'ignore_index')
        (True, False)
    """
    # What differs, without the common beginning and the common end.
    for _ in range(2):
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(typed, name)))
        typed, name = typed[common:][::-1], name[common:][::-1]
    return max(len(typed), len(name)) <= 1 or (len(typed) == 2 and typed == name[::-1])


def registered(kind: str) -> Any:
    """Return what the network's registry has under a name, or the one for the parts of heads; ``None`` if it has none.

    Example:
        >>> registered('mmkerv.CKCNN').__name__
        'CKCNN'
    """
    for _ in range(2):
        for registry in (MODELS, TASK_UTILS):
            with registry.switch_scope_and_registry(None) as scoped:
                if (found := scoped.get(kind)) is not None:
                    return found
        # A registry imports the modules of its own kind alone, and a library may register a part in others.
        register_all()
    return None


def register_all() -> None:
    """Import all modules of the library in whose scope this is, as its own tools do.

    Example:
        >>> register_all()
    """
    scope = DefaultScope.get_current_instance()
    if scope is not None and scope.scope_name in LIBRARIES:
        import_module(f'{scope.scope_name}.utils').register_all_modules(init_default_scope=False)


def names_like(kind: str) -> list[str]:
    """Return the registered names that a name could be a misspelling of, with its scope if it has one.

    Example:
        >>> 'mmkerv.CKCNN' in names_like('mmkerv.CKCN')
        True
    """
    scope, _, _ = kind.rpartition('.')
    with MODELS.switch_scope_and_registry(scope or None) as registry:
        registries: list[Registry] = [registry]
        while not scope and registries[-1].parent is not None:
            registries.append(registries[-1].parent)
        names = [name for each in registries for name in each.module_dict]
    return [f'{scope}.{name}' if scope else name for name in names]


def accepted(kind: Any, part: dict) -> tuple[set[str], bool]:
    """Return the arguments of a class, and whether it takes others too, which it may pass on to any other class.

    Arguments that a constructor passes on by ``**kwargs`` are those of the next constructor of its base classes.

    Args:
        kind: class or function.
        part: its config; a class may choose by it what it builds.

    Example:
        >>> from torch import nn
        >>> accepted(nn.ReLU, {})
        ({'inplace'}, False)
    """
    if hasattr(kind, 'built_class'):
        kind, known = kind.built_class(part), {'host'}
    else:
        known = set()
    if not inspect.isclass(kind):
        constructors = [kind]
    elif '__new__' in vars(kind):
        constructors = [kind.__new__]
    else:
        constructors = [vars(base)['__init__'] for base in kind.__mro__ if '__init__' in vars(base)]
    forwards = False
    for i, constructor in enumerate(constructors):
        if constructor is object.__init__:
            break
        parameters = list(inspect.signature(constructor).parameters.values())
        own = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        known |= {p.name for p in (own[1:] if inspect.isclass(kind) else own)}
        passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        forwards = forwards or passes_on
        if not passes_on or i + 1 == len(constructors):
            break
    return known, forwards
