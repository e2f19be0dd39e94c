"""Names and values that a network's own hooks give a checkpoint, found without loading it."""

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import nn

from mmkerv.ops.ckconv.kernel_net import KernelNetLayer
from mmkerv.ops.core.adapter import given_original
from mmkerv.ops.core.base import ConvNd


def names_after_hooks(model: nn.Module, state_dict: Mapping[str, Any], run_hooks: bool = True) -> dict[str, Any]:
    """Return the weights by the names, and of the shapes, that the layers of a network find when they are loaded.

    Modules may rename, remove or resize what they are given: mmdetection's semi-supervised detectors copy a detector
    into teacher and student, and mmpretrain's Swin reads its former layouts. They do so in pre-hooks of
    ``load_state_dict`` or in a ``_load_from_state_dict`` of their own. Both are run here as torch runs them, from the
    network down, but on stand-ins of the modules, which have copies of the module's parameters and buffers.

    Not run are torch's own, which change no names that a checkpoint of mmengine has; of mmkerv's, only published
    layouts and forms of a layer are read. What raises an error is left as it was given: loading raises it again.

    The network is not changed, except by a hook that reaches a module in another way than as its own method or first
    argument (a closure, an attribute of a submodule) and writes to it there.

    Args:
        model: bare network.
        state_dict: weights by name, with the versions of the modules in ``_metadata`` if it has them; not changed.
        run_hooks: ``False`` for weights that the hooks have renamed already; some would rename them once more.

    Example:
        >>> from torchvision.ops import FrozenBatchNorm2d
        >>> names_after_hooks(nn.Sequential(FrozenBatchNorm2d(2)), {'0.weight': 1, '0.num_batches_tracked': 2})
        {'0.weight': 1}
    """
    metadata = getattr(state_dict, '_metadata', None)
    local = OrderedDict(state_dict)
    if metadata is not None:
        local._metadata = metadata
    with _quiet():
        found = _found(model, local, '', (metadata or {}) if run_hooks else None)
    # In the order of the checkpoint, as far as the names are the same: reports name the first few.
    return {**{key: found[key] for key in state_dict if key in found}, **found}


def _found(module: nn.Module, local: dict[str, Any], prefix: str, metadata: Mapping | None) -> dict[str, Any]:
    """Return what a module and those below it find, of weights that all begin with its prefix.

    As in torch, what a module adds under names outside its prefix is found by nobody. Without metadata, which may be
    empty, no hook is run.
    """
    if metadata is not None:
        local = _after_hooks(module, local, prefix, metadata)
    if isinstance(module, KernelNetLayer):
        module.adapt(local, prefix)
    if hasattr(module, 'read_published'):
        module.read_published(local, prefix)
    given_original(local, prefix, module)
    rest, found = local, {}
    for name, child in module._modules.items():
        if child is None:
            continue
        below = f'{prefix}{name}.'
        given = {key: value for key, value in local.items() if key.startswith(below)}
        rest = {key: value for key, value in rest.items() if key not in given}
        found.update(_found(child, given, below, metadata))
    return {**{key: value for key, value in rest.items() if key.startswith(prefix)}, **found}


def _after_hooks(module: nn.Module, local: dict[str, Any], prefix: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a module's hooks make of weights by name."""
    hooks = [hook for hook in module._load_state_dict_pre_hooks.values() if _is_foreign(hook)]
    # An operator would fill in its own parameters, which a report of what the checkpoint has must not count.
    overrides = not isinstance(module, ConvNd) and any(
        _is_foreign(kind.__dict__.get('_load_from_state_dict')) for kind in type(module).__mro__
    )
    if not hooks and not overrides:
        return local
    changed = local.copy()
    if hasattr(local, '_metadata'):
        changed._metadata = local._metadata
    arguments = (changed, prefix, dict(metadata.get(prefix[:-1], {})), True, [], [], [])
    try:
        stand_in = _stand_in(module)
        hooks = [_on_stand_ins(hook, module, stand_in) for hook in hooks]
        if overrides:
            stand_in.__dict__['_load_state_dict_pre_hooks'] = OrderedDict(enumerate(hooks))
            stand_in._load_from_state_dict(*arguments)
        else:
            for hook in hooks:
                hook(*arguments)
    # A hook is any code, and what it is given may be of any network: the report says more than its error.
    except Exception:
        return local
    return changed


def _is_foreign(function: Any) -> bool:
    """Return whether a hook is neither torch's nor mmkerv's."""
    function = getattr(function, 'hook', function)
    while isinstance(function, functools.partial):
        function = function.func
    home = getattr(function, '__module__', None) or ''
    return function is not None and home.partition('.')[0] not in ('torch', 'mmkerv')


def _on_stand_ins(hook: Any, module: nn.Module, stand_in: nn.Module) -> Callable[..., Any]:
    """Return a hook that gets stand-ins in place of the modules whose method it is or that it is given."""

    def of(other: nn.Module) -> nn.Module:
        return stand_in if other is module else _stand_in(other)

    function = getattr(hook, 'hook', hook)
    owner = getattr(function, '__self__', None)
    if isinstance(owner, nn.Module):
        function = MethodType(function.__func__, of(owner))
    # torch wraps every hook, and this tells those that want the module.
    return functools.partial(function, of(hook.module())) if getattr(hook, 'with_module', False) else function


def _stand_in(module: nn.Module) -> nn.Module:
    """Return a copy of a module that has copies of its own tensors, and the same submodules."""
    # Not copy.copy, which operators and parametrized layers refuse or answer with another layer.
    stand_in = object.__new__(type(module))
    stand_in.__dict__.update(module.__dict__)
    parameters = {
        name: value if value is None else nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
        for name, value in module._parameters.items()
    }
    buffers = {name: value if value is None else value.detach().clone() for name, value in module._buffers.items()}
    stand_in.__dict__.update(
        _parameters=parameters,
        _buffers=buffers,
        _modules=module._modules.copy(),
        _non_persistent_buffers_set=set(module._non_persistent_buffers_set),
        # Extra state may be kept in an object that both have.
        set_extra_state=lambda state: None,
    )
    return stand_in


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep quiet what hooks log: they log it again when the weights are loaded."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
