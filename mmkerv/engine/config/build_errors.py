"""Say where in a config the part is that mmengine could not build, from the frames of the error.

mmengine builds every part of a run, from the network to its hooks, by one function, and an error from a constructor
does not name the part. Reading the frames costs nothing until there is an error.
"""

import re
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from mmengine.config import Config

from mmkerv.errors import ArgumentError, ArgumentTypeError, EvenKernelError
from mmkerv.ops.core.arguments import did_you_mean

BUILDER = ('mmengine.registry.build_functions', 'build_from_cfg')
UNEXPECTED = re.compile(r"got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r'missing \d+ required (?:positional|keyword-only) arguments?: (.+)')
DOUBLED = re.compile(r"got multiple values for (?:keyword )?argument '(\w+)'")


def described(error: Exception) -> str | None:
    """Return a message that names the part of the config and what to do, if the error is one of a part's arguments.

    Args:
        error: error that was raised while something was built.

    Returns:
        The message, or ``None`` for an error of any other kind, such as a defect.

    Example:
        >>> print(described(ValueError('no part')))
        None
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builds = [frame.f_locals for frame in frames if _is(frame, BUILDER) and isinstance(frame.f_locals.get('cfg'), dict)]
    if not builds:
        return None
    root = next(filter(None, map(_root, frames)), None)
    place, part = _place(root, builds[-1]['cfg']), builds[-1]['cfg']
    text = ' '.join(str(error).split())
    if isinstance(error, EvenKernelError):
        return (
            f'{place}: {text.partition("; ")[0]}; use an odd size, or leave conv_cfg out of it. {_instead(place, part)}'
        )
    if isinstance(error, (ArgumentError, ArgumentTypeError)):
        return text if text.startswith(place) else f'{place}: {text}'
    if isinstance(error, KeyError) and builds[-1].get('obj_cls', error) is None and 'type' in part:
        registry = builds[-1]['registry']
        kind = builds[-1].get('obj_type', part['type'])
        names = [name for each in _family(registry) for name in each.module_dict]
        return (
            f'{place}.type: {kind!r} is not registered as a {registry.name}{did_you_mean(kind, names)} Change it in '
            f'the config, or by --cfg-options {place}.type=NAME'
        )
    if not isinstance(error, TypeError):
        return None
    kind = builds[-1].get('obj_cls')
    name = getattr(kind, '__name__', kind)
    if (found := UNEXPECTED.search(text)) and found[1] in part:
        # Here, where it has failed, a guess at what was meant may look at all constructors.
        from mmkerv.engine.config.check_model import accepted

        known = accepted(kind, part)[0] - {found[1]}
        return (
            f'{place}.{found[1]}: {name} has no argument {found[1]!r}{did_you_mean(found[1], known)} Change the key in '
            'the config'
        )
    if (found := MISSING.search(text)) and _is(frames[-1], BUILDER):
        return f'{place}: {name} needs {found[1]}, which the config does not have; add it there'
    if found := DOUBLED.search(text):
        for key, value in part.items():
            if str(key).endswith('cfg') and isinstance(value, dict) and found[1] in value:
                return (
                    f'{place}.{key}.{found[1]}: {name} gives {found[1]} by itself, so {key} cannot have '
                    f'{found[1]}={value[found[1]]!r}; leave it out'
                )
    return None


def _is(frame: FrameType, function: tuple[str, str]) -> bool:
    return (frame.f_globals.get('__name__'), frame.f_code.co_name) == function


def _root(frame: FrameType) -> Config | None:
    """Return the whole config, if the function of a frame has it."""
    owner = frame.f_locals.get('self')
    candidates = (frame.f_locals.get('cfg'), getattr(owner, 'cfg', None) if owner is not None else None)
    return next((value for value in candidates if isinstance(value, Config)), None)


def _family(registry: Any) -> Iterator[Any]:
    while registry is not None:
        yield registry
        registry = registry.parent


def _place(root: Config | None, part: dict) -> str:
    """Return the dotted key of a part in the whole config, or the name of its type if it is not found."""
    # What a model adds to the config of a part when it builds it is not in the file.
    fitting = (
        place
        for place, node in _dicts(root._cfg_dict if root is not None else {}, '')
        if node.get('type') == part.get('type') and all(key in part and part[key] == node[key] for key in node)
    )
    kind = part.get('type')
    return next(fitting, kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind)))


def _dicts(node: Any, place: str) -> Iterator[tuple[str, dict]]:
    """Yield every dict with a type in a part of a config, with its dotted key."""
    if isinstance(node, dict):
        if 'type' in node:
            yield place, node
        children = list(node.items())
    elif isinstance(node, (list, tuple)):
        children = list(enumerate(node))
    else:
        return
    for key, value in children:
        yield from _dicts(value, f'{place}.{key}' if place else str(key))


def _instead(place: str, part: dict) -> str:
    """Return how to convert a part of which some kernels have an even size: these stay plain."""
    name = place.rpartition('.')[2]
    kind = part.get('type')
    kind = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    conv_cfg = next((v for k, v in part.items() if str(k).endswith('conv_cfg') and isinstance(v, dict)), None) or {}
    operator = conv_cfg.get('type', 'CoCConv')
    operator = operator if isinstance(operator, str) else getattr(operator, '__name__', str(operator))
    return (
        f'If it has odd kernels too, mmkerv.Converted leaves the even ones plain: {name}=dict('
        f"_delete_=True, type='mmkerv.Converted', model=dict(type={kind!r}, ...), conv_cfg=dict(type={operator!r}), "
        "where=dict(kernel_sizes='>1'))"
    )
