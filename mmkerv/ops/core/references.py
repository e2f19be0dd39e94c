"""Replace modules of a model wherever the model refers to them, not only among its children."""

import functools
import types
from collections import deque
from typing import Any

import torch
from torch import nn


def replace_modules(model: nn.Module, new: dict[nn.Module, nn.Module]) -> dict[nn.Module, str]:
    """Replace modules of ``model`` in place, everywhere the model refers to them.

    Some networks run layers that they keep outside their children as well: HuggingFace's MaskFormer registers the
    layers of its FPN with ``add_module`` and runs a list of them. Children, lists, tuples, dicts and attributes, also
    of objects that are no modules, are changed; a closure, a bound method, a ``functools.partial`` and a set are not.

    Args:
        model: any network.
        new: modules to replace, and what replaces each. A module that replaces itself is only looked up.

    Returns:
        The modules that the model still refers to, each with one place.

    Example:
        >>> model = nn.Sequential(nn.ReLU())
        >>> model.layers = [model[0]]
        >>> replace_modules(model, {model[0]: nn.Identity()}), model, model.layers
        ({}, Sequential(
          (0): Identity()
        ), [Identity()])
    """
    walk = _Walk(new)
    for name, module in model.named_modules():
        walk.todo.append((module, name))
    while walk.todo:
        holder, place = walk.todo.popleft()
        if id(holder) not in walk.seen:
            walk.seen[id(holder)] = holder
            walk.change(holder, place)
    return walk.stuck


# Objects that are not searched. A module of Python would lead to every object of the process, and a graph of torch.fx
# to the model it was traced from, which is another one.
_LEAVES = (str, bytes, int, float, complex, type(None), torch.Tensor, type, types.ModuleType, torch.fx.Graph)


class _Walk:
    """Objects that a model refers to. A queue instead of recursion: linked objects can be thousands of links deep."""

    def __init__(self, new: dict[nn.Module, nn.Module]) -> None:
        self.new = new
        self.stuck: dict[nn.Module, str] = {}
        self.todo: deque[tuple[Any, str]] = deque()
        # The objects themselves, because an id is used again once its object is gone.
        self.seen: dict[int, Any] = {}

    def replaced(self, value: Any, place: str) -> Any:
        """Return what belongs in the place of ``value``, and queue what ``value`` holds."""
        if isinstance(value, nn.Module) and value in self.new:
            return self.new[value]
        if isinstance(value, tuple):
            items = [self.replaced(item, f'{place}[{i}]') for i, item in enumerate(value)]
            if all(item is old for item, old in zip(items, value)):
                return value
            return value._make(items) if hasattr(value, '_make') else type(value)(items)
        if not isinstance(value, _LEAVES):
            self.todo.append((value, place))
        return value

    def fixed(self, value: Any, place: str) -> None:
        """Note the modules in a place that cannot be changed, and queue what ``value`` holds."""
        if isinstance(value, nn.Module) and value in self.new:
            self.stuck.setdefault(value, place)
        elif isinstance(value, (tuple, frozenset)):
            for item in value:
                self.fixed(item, place)
        else:
            self.replaced(value, place)

    def change(self, holder: Any, place: str) -> None:
        """Replace the modules that ``holder`` refers to."""
        if isinstance(holder, (set, frozenset)):
            for item in holder:
                self.fixed(item, f'{place}, a set')
        elif isinstance(holder, types.MethodType):
            self.fixed(holder.__self__, f'{place}, a bound method')
        elif isinstance(holder, types.FunctionType):
            for name, cell in zip(holder.__code__.co_freevars, holder.__closure__ or ()):
                for value in _content(cell):
                    self.fixed(value, f'{place}, a closure over {name}')
            for value in (*(holder.__defaults__ or ()), *(holder.__kwdefaults__ or {}).values()):
                self.fixed(value, f'{place}, a default of {holder.__name__}')
        elif isinstance(holder, functools.partial):
            for value in (holder.func, *holder.args, *holder.keywords.values()):
                self.fixed(value, f'{place}, a functools.partial')
        elif isinstance(holder, (list, deque)):
            for i, value in enumerate(holder):
                self.put(holder, i, value, f'{place}[{i}]')
        elif isinstance(holder, dict):
            for key, value in list(dict.items(holder)):
                self.fixed(key, f'{place}, a key')
                self.put(holder, key, value, f'{place}[{key!r}]' if isinstance(key, (str, int)) else place)
        if isinstance(holder, nn.Module):
            if holder not in self.new:
                for name, child in list(holder._modules.items()):
                    self.put(holder._modules, name, child, f'{place}.{name}'.lstrip('.'))
                for name, value in list(vars(holder).items()):
                    if name not in ('_modules', '_parameters', '_buffers'):
                        self.put(vars(holder), name, value, f'{place}.{name}'.lstrip('.'))
        elif hasattr(holder, '__dict__'):
            for name, value in list(vars(holder).items()):
                self.put(vars(holder), name, value, f'{place}.{name}')

    def put(self, holder: Any, key: Any, value: Any, place: str) -> None:
        """Replace one item of a list or dict."""
        replaced = self.replaced(value, place)
        if replaced is not value:
            holder[key] = replaced


def _content(cell: types.CellType) -> tuple:
    """Return the value of a closure's variable, if it has one already."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()
